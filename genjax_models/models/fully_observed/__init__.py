"""Models that are a product of conditionals over the observed dimensions."""

from genjax_models.models.fully_observed.nade import nade

__all__ = ["nade"]
