"""Principles of learning: bounds, and objectives whose gradients are estimators."""

from genjax_models.learning import adversarial, bounds, gradients
from genjax_models.learning.adversarial import AdversarialGame, adversarial_game
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

__all__ = [
    "NVIL",
    "AdaptiveDiffusion",
    "AdversarialGame",
    "DiffusionBound",
    "ImportanceSamples",
    "PersistentContrastiveDivergence",
    "adaptive_variational_diffusion",
    "adversarial",
    "adversarial_game",
    "bounds",
    "contrastive_divergence",
    "diffusion_bound",
    "diffusion_term",
    "gradients",
    "importance_samples",
    "log_weights",
    "maximum_likelihood",
    "persistent_contrastive_divergence",
    "simple_diffusion",
    "term_probabilities",
    "variational",
    "variational_diffusion",
]
