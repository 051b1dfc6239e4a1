"""Transformation models: a deterministic map of noise."""

from genjax_models.models.transformation.flows import Flow, chain, density, initialize_from_data
from genjax_models.models.transformation.generator import critic, generator
from genjax_models.models.transformation.multi_scale import multi_scale_flow
from genjax_models.models.transformation.preprocessing import (
    LogitTransform,
    dequantize,
    dequantized,
    logit_transformed,
)
from genjax_models.models.transformation.real_nvp import real_nvp, real_nvp_flow

__all__ = [
    "Flow",
    "LogitTransform",
    "chain",
    "critic",
    "density",
    "dequantize",
    "dequantized",
    "generator",
    "initialize_from_data",
    "logit_transformed",
    "multi_scale_flow",
    "real_nvp",
    "real_nvp_flow",
]
