"""Principles of learning: bounds, and objectives whose gradients are estimators."""

from genjax_models.learning import adversarial, bounds, gradients, reconstruction
from genjax_models.learning.adversarial import AdversarialGame, adversarial_game
from genjax_models.learning.aggregate import (
    beta_tcvae,
    gaussian_kernel,
    info_vae,
    inverse_multiquadratic_kernel,
)
from genjax_models.learning.conditional import information_bottleneck
from genjax_models.learning.contrastive import (
    PersistentContrastiveDivergence,
    contrastive_divergence,
    persistent_contrastive_divergence,
)
from genjax_models.learning.diffusion import (
    AdaptiveDiffusion,
    DiffusionBound,
    adaptive_variational_diffusion,
    diffusion_bound,
    diffusion_term,
    simple_diffusion,
    term_probabilities,
    variational_diffusion,
)
from genjax_models.learning.importance import ImportanceSamples, importance_samples, log_weights
from genjax_models.learning.likelihood import maximum_likelihood
from genjax_models.learning.nvil import NVIL
from genjax_models.learning.objectives import variational
from genjax_models.learning.refine import memoryless, refine
from genjax_models.learning.regularized import controlled_capacity, free_bits
from genjax_models.learning.relaxed import relaxed
from genjax_models.learning.stateful import StatefulVariational
from genjax_models.learning.target_propagation import (
    LayeredNetwork,
    difference_target_propagation,
    layered_network,
)
from genjax_models.learning.vector_quantization import VectorQuantization, vector_quantization
from genjax_models.learning.weight_noise import (
    adaptive_weight_noise,
    weight_divergence,
    with_weight_noise,
)

__all__ = [
    "NVIL",
    "AdaptiveDiffusion",
    "AdversarialGame",
    "DiffusionBound",
    "ImportanceSamples",
    "LayeredNetwork",
    "PersistentContrastiveDivergence",
    "StatefulVariational",
    "VectorQuantization",
    "adaptive_variational_diffusion",
    "adaptive_weight_noise",
    "adversarial",
    "adversarial_game",
    "beta_tcvae",
    "bounds",
    "contrastive_divergence",
    "controlled_capacity",
    "difference_target_propagation",
    "diffusion_bound",
    "diffusion_term",
    "free_bits",
    "gaussian_kernel",
    "gradients",
    "importance_samples",
    "info_vae",
    "information_bottleneck",
    "inverse_multiquadratic_kernel",
    "layered_network",
    "log_weights",
    "maximum_likelihood",
    "memoryless",
    "persistent_contrastive_divergence",
    "reconstruction",
    "refine",
    "relaxed",
    "simple_diffusion",
    "term_probabilities",
    "variational",
    "variational_diffusion",
    "vector_quantization",
    "weight_divergence",
    "with_weight_noise",
]
