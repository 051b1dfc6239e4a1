"""Latent-variable models: p(z) p(x | z) with deep networks."""

from genjax_models.models.latent import hierarchies, parts
from genjax_models.models.latent.ancestral import reconstruct, sample
from genjax_models.models.latent.auto_encoder import auto_encoder
from genjax_models.models.latent.deep_latent_gaussian_model import deep_latent_gaussian_model
from genjax_models.models.latent.gaussian_belief_net import gaussian_belief_net
from genjax_models.models.latent.ladder_variational_autoencoder import ladder_vae
from genjax_models.models.latent.variational_autoencoder import vae

__all__ = [
    "auto_encoder",
    "deep_latent_gaussian_model",
    "gaussian_belief_net",
    "hierarchies",
    "ladder_vae",
    "parts",
    "reconstruct",
    "sample",
    "vae",
]
