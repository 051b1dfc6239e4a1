"""Neural networks as (init, apply) pairs; the only package that imports flax."""

from genjax_models.networks.adapters import from_flax
from genjax_models.networks.attention import attention_encoder
from genjax_models.networks.convolutional import convolutional_decoder, convolutional_encoder
from genjax_models.networks.masked_mlp import conditional_masked_mlp, masked_mlp
from genjax_models.networks.mlp import mlp, with_output_bias
from genjax_models.networks.recurrent import recurrent_encoder
from genjax_models.networks.residual import residual_network
from genjax_models.networks.time_mlp import time_mlp
from genjax_models.networks.unet import unet

__all__ = [
    "attention_encoder",
    "conditional_masked_mlp",
    "convolutional_decoder",
    "convolutional_encoder",
    "from_flax",
    "masked_mlp",
    "mlp",
    "recurrent_encoder",
    "residual_network",
    "time_mlp",
    "unet",
    "with_output_bias",
]
