"""How the hidden is found, and normalising constants estimated."""

from genjax_models.inference.annealed_importance import (
    LogPartition,
    annealed_importance_sampling,
    geometric_path,
    reverse_annealed_importance_sampling,
)
from genjax_models.inference.tempering import coldest, parallel_tempering

__all__ = [
    "LogPartition",
    "annealed_importance_sampling",
    "coldest",
    "geometric_path",
    "parallel_tempering",
    "reverse_annealed_importance_sampling",
]
