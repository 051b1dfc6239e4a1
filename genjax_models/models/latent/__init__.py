"""Latent-variable models: p(z) p(x | z) with deep networks."""

from genjax_models.models.latent import (
    binary,
    categorical,
    hierarchies,
    parts,
    posteriors,
    priors,
)
from genjax_models.models.latent.ancestral import reconstruct, sample
from genjax_models.models.latent.auto_encoder import auto_encoder, tied_auto_encoder
from genjax_models.models.latent.auxiliary_variational_auto_encoder import auxiliary_vae
from genjax_models.models.latent.categorical_vae import categorical_vae
from genjax_models.models.latent.conditional import ConditionalLatentVariableModel, condition
from genjax_models.models.latent.deep_autoregressive_network import darn
from genjax_models.models.latent.deep_latent_gaussian_model import deep_latent_gaussian_model
from genjax_models.models.latent.gaussian_belief_net import gaussian_belief_net
from genjax_models.models.latent.hamiltonian import hamiltonian_vae
from genjax_models.models.latent.information_bottleneck import information_bottleneck
from genjax_models.models.latent.ladder_variational_autoencoder import ladder_vae
from genjax_models.models.latent.lossy import lossy_vae, windowed_bernoulli
from genjax_models.models.latent.sigmoid_belief_net import sigmoid_belief_net
from genjax_models.models.latent.skip_deep_generative_model import skip_deep_generative_model
from genjax_models.models.latent.vamp_prior import start_at_examples, vamp_prior_vae
from genjax_models.models.latent.variational_autoencoder import vae
from genjax_models.models.latent.variational_mdp import DecisionProcess, soft_plan, variational_mdp
from genjax_models.models.latent.vector_quantized import (
    VectorQuantizedVAE,
    as_latent_variable_model,
    code_perplexity,
    quantize,
    start_at_encodings,
    vq_vae,
)

__all__ = [
    "ConditionalLatentVariableModel",
    "DecisionProcess",
    "VectorQuantizedVAE",
    "as_latent_variable_model",
    "auto_encoder",
    "auxiliary_vae",
    "binary",
    "categorical",
    "categorical_vae",
    "code_perplexity",
    "condition",
    "darn",
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
    "quantize",
    "reconstruct",
    "sample",
    "sigmoid_belief_net",
    "skip_deep_generative_model",
    "soft_plan",
    "start_at_encodings",
    "start_at_examples",
    "tied_auto_encoder",
    "vae",
    "vamp_prior_vae",
    "variational_mdp",
    "vq_vae",
    "windowed_bernoulli",
]
