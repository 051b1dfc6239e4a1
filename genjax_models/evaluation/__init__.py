"""How good a model is, with error bars."""

from genjax_models.evaluation.estimates import Estimate, mean_estimate
from genjax_models.evaluation.likelihood import (
    BoundEstimate,
    LogLikelihood,
    bound_estimate,
    log_likelihood,
)

__all__ = [
    "BoundEstimate",
    "Estimate",
    "LogLikelihood",
    "bound_estimate",
    "log_likelihood",
    "mean_estimate",
]
