"""How good a model is, with error bars."""

from genjax_models.evaluation.certificates import GradientCertificate, certify_gradient
from genjax_models.evaluation.disentanglement import (
    DCI,
    bin_codes,
    dci,
    discrete_mutual_information,
    informativeness,
    mutual_information_gap,
)
from genjax_models.evaluation.enumeration import (
    binary_states,
    enumerated_log_likelihood,
    joint_log_probs,
)
from genjax_models.evaluation.estimates import Estimate, mean_estimate
from genjax_models.evaluation.fixed_factor import beta_vae_score, factor_vae_score
from genjax_models.evaluation.inference_gap import InferenceGap, inference_gap
from genjax_models.evaluation.latents import (
    ActiveUnits,
    PosteriorMean,
    RateEstimate,
    RateParts,
    active_units,
    layer_rates,
    posterior_mean,
    rate_parts,
)
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
    "DCI",
    "ActiveUnits",
    "BoundEstimate",
    "Estimate",
    "GradientCertificate",
    "InferenceGap",
    "LogLikelihood",
    "ModeCoverage",
    "Moments",
    "PosteriorMean",
    "RateEstimate",
    "RateParts",
    "SquaredMMD",
    "TwoSampleTest",
    "active_units",
    "beta_vae_score",
    "bin_codes",
    "binary_states",
    "bound_estimate",
    "certify_gradient",
    "dci",
    "discrete_mutual_information",
    "enumerated_log_likelihood",
    "factor_vae_score",
    "inference_gap",
    "informativeness",
    "joint_log_probs",
    "layer_rates",
    "log_likelihood",
    "mean_estimate",
    "median_distance",
    "mmd_test",
    "mode_coverage",
    "moments",
    "mutual_information_gap",
    "posterior_mean",
    "rate_parts",
    "squared_mmd",
]
