"""Neural networks as (init, apply) pairs; the only package that imports flax."""

from genjax_models.networks.adapters import from_flax
from genjax_models.networks.convolutional import convolutional_decoder, convolutional_encoder
from genjax_models.networks.mlp import mlp
from genjax_models.networks.residual import residual_network
from genjax_models.networks.time_mlp import time_mlp
from genjax_models.networks.unet import unet

__all__ = [
    "convolutional_decoder",
    "convolutional_encoder",
    "from_flax",
    "mlp",
    "residual_network",
    "time_mlp",
    "unet",
]
