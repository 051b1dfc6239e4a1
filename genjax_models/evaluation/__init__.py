"""How good a model is, with error bars."""

from genjax_models.evaluation.certificates import GradientCertificate, certify_gradient
from genjax_models.evaluation.estimates import Estimate, mean_estimate
from genjax_models.evaluation.likelihood import (
    BoundEstimate,
    LogLikelihood,
    bound_estimate,
    log_likelihood,
)
from genjax_models.evaluation.modes import ModeCoverage, mode_coverage
from genjax_models.evaluation.moments import Moments, moments
from genjax_models.evaluation.two_sample import (
    SquaredMMD,
    TwoSampleTest,
    median_distance,
    mmd_test,
    squared_mmd,
)

__all__ = [
    "BoundEstimate",
    "Estimate",
    "GradientCertificate",
    "LogLikelihood",
    "ModeCoverage",
    "Moments",
    "SquaredMMD",
    "TwoSampleTest",
    "bound_estimate",
    "certify_gradient",
    "log_likelihood",
    "mean_estimate",
    "median_distance",
    "mmd_test",
    "mode_coverage",
    "moments",
    "squared_mmd",
]
