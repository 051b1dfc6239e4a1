"""Principles of learning: bounds, and objectives whose gradients are estimators."""

from genjax_models.learning import bounds, gradients
from genjax_models.learning.importance import ImportanceSamples, importance_samples, log_weights
from genjax_models.learning.likelihood import maximum_likelihood
from genjax_models.learning.nvil import NVIL
from genjax_models.learning.objectives import variational

__all__ = [
    "NVIL",
    "ImportanceSamples",
    "bounds",
    "gradients",
    "importance_samples",
    "log_weights",
    "maximum_likelihood",
    "variational",
]
