"""How the hidden is found, and normalising constants estimated."""

from genjax_models.inference.annealed_importance import (
    LogPartition,
    annealed_importance_sampling,
    geometric_path,
    reverse_annealed_importance_sampling,
)
from genjax_models.inference.imputation import (
    ImputationChain,
    Resampled,
    importance_resampling,
    metropolis_within_gibbs,
    pseudo_gibbs,
)
from genjax_models.inference.observations import Observation, binary_channel, missing
from genjax_models.inference.tempering import coldest, parallel_tempering

__all__ = [
    "ImputationChain",
    "LogPartition",
    "Observation",
    "Resampled",
    "annealed_importance_sampling",
    "binary_channel",
    "coldest",
    "geometric_path",
    "importance_resampling",
    "metropolis_within_gibbs",
    "missing",
    "parallel_tempering",
    "pseudo_gibbs",
    "reverse_annealed_importance_sampling",
]
