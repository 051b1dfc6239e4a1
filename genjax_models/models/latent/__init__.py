"""Latent-variable models: p(z) p(x | z) with deep networks."""

from genjax_models.models.latent import hierarchies, parts, posteriors, priors
from genjax_models.models.latent.ancestral import reconstruct, sample
from genjax_models.models.latent.auto_encoder import auto_encoder, tied_auto_encoder
from genjax_models.models.latent.auxiliary_variational_auto_encoder import auxiliary_vae
from genjax_models.models.latent.conditional import ConditionalLatentVariableModel, condition
from genjax_models.models.latent.deep_latent_gaussian_model import deep_latent_gaussian_model
from genjax_models.models.latent.gaussian_belief_net import gaussian_belief_net
from genjax_models.models.latent.hamiltonian import hamiltonian_vae
from genjax_models.models.latent.information_bottleneck import information_bottleneck
from genjax_models.models.latent.ladder_variational_autoencoder import ladder_vae
from genjax_models.models.latent.lossy import lossy_vae, windowed_bernoulli
from genjax_models.models.latent.skip_deep_generative_model import skip_deep_generative_model
from genjax_models.models.latent.vamp_prior import start_at_examples, vamp_prior_vae
from genjax_models.models.latent.variational_autoencoder import vae

__all__ = [
    "ConditionalLatentVariableModel",
    "auto_encoder",
    "auxiliary_vae",
    "condition",
    "deep_latent_gaussian_model",
    "gaussian_belief_net",
    "hamiltonian_vae",
    "hierarchies",
    "information_bottleneck",
    "ladder_vae",
    "lossy_vae",
    "parts",
    "posteriors",
    "priors",
    "reconstruct",
    "sample",
    "skip_deep_generative_model",
    "start_at_examples",
    "tied_auto_encoder",
    "vae",
    "vamp_prior_vae",
    "windowed_bernoulli",
]
