"""Classical models: no deep network. The steps of EM are functions beside each model's factory."""

from genjax_models.models.classical import (
    binary_factor_analysis,
    factor_analysis,
    mixture_of_bernoullis,
)

__all__ = ["binary_factor_analysis", "factor_analysis", "mixture_of_bernoullis"]
