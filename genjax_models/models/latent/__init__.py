"""Latent-variable models: p(z) p(x | z) with deep networks."""

from genjax_models.models.latent import parts
from genjax_models.models.latent.ancestral import reconstruct, sample
from genjax_models.models.latent.variational_autoencoder import vae

__all__ = ["parts", "reconstruct", "sample", "vae"]
