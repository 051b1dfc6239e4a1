"""Neural networks as (init, apply) pairs; the only package that imports flax."""

from genjax_models.networks.adapters import from_flax
from genjax_models.networks.convolutional import convolutional_decoder, convolutional_encoder
from genjax_models.networks.mlp import mlp

__all__ = ["convolutional_decoder", "convolutional_encoder", "from_flax", "mlp"]
