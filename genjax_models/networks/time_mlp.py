"""A residual perceptron of a vector and a time, and the embedding of a time."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from genjax_models.checks import check_sizes
from genjax_models.distributions.rows import rows_dot_general
from genjax_models.interfaces import Array, ConditionalNetwork, Key
from genjax_models.networks.adapters import conditional_from_flax

# Times in (0, 1] become steps of 1000, for which the wavelengths are made.
_TIME_SCALE = 1000.0
_LONGEST_WAVE = 10_000.0
_LAST_LAYER_SCALE = 1e-2


def sinusoidal_embedding(time: Array, num_features: int) -> Array:
    """Sines and cosines of a time at wavelengths in geometric progression.

        sin(1000 time w_i), cos(1000 time w_i),  w_i = 10000^(-i / (n - 1)),  i = 0..n-1

    Args:
        time: a scalar, usually in [0, 1].
        num_features: 2 n, an even number of at least 4.

    Returns:
        The n sines and the n cosines, [num_features].

    Raises:
        ValueError: an odd number of features, or fewer than 4.

    Source: Vaswani et al. 2017 (Attention is all you need), section 3.5; Ho et al. 2020,
    appendix B.
    """
    if num_features < 4 or num_features % 2:
        raise ValueError(f"num_features must be an even number >= 4, got {num_features}")
    half = num_features // 2
    frequencies = _LONGEST_WAVE ** (-jnp.arange(half) / (half - 1))
    angles = _TIME_SCALE * time * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)])


def fourier_features(inputs: Array, frequencies: Sequence[float]) -> Array:
    """The inputs beside their sines and cosines, along the last axis.

        x, sin(2 pi f x), cos(2 pi f x) for each frequency f

    Grey levels are regularly spaced, and where there is little noise the prediction is a sawtooth
    of the distance to the nearest level: what one sine nearly is, and smooth layers hardly can be.

    Args:
        inputs: any shape [..., n].
        frequencies: f, in cycles per unit; for L levels in [-1, 1], (L - 1) / 2 is one a level.

    Returns:
        [..., (1 + 2 len(frequencies)) n].

    Source: Kingma et al. 2021 (Variational diffusion models), appendix C.
    """
    angles = [2 * math.pi * frequency * inputs for frequency in frequencies]
    waves = [wave(angle) for angle in angles for wave in (jnp.sin, jnp.cos)]
    return jnp.concatenate([inputs, *waves], axis=-1)


class TimeEmbedding(linen.Module):
    """A sinusoidal embedding through two dense layers.

    Attributes:
        num_features: of the sinusoids.
        num_outputs: of each layer.
    """

    num_features: int
    num_outputs: int

    @linen.compact
    def __call__(self, time: Array) -> Array:
        """Features [num_outputs] of a scalar time."""
        features = _dense(self.num_outputs)(sinusoidal_embedding(time, self.num_features))
        return linen.silu(_dense(self.num_outputs)(linen.silu(features)))


class TimeMLP(linen.Module):
    """Residual blocks of two dense layers, each of which the time shifts and scales.

    Attributes:
        num_outputs: size of the output vector.
        num_units: of every layer between.
        num_blocks: number of residual blocks.
        num_time_features: of the sinusoidal embedding.
        frequencies: of the Fourier features of the inputs.
    """

    num_outputs: int
    num_units: int
    num_blocks: int
    num_time_features: int
    frequencies: tuple[float, ...]

    @linen.compact
    def __call__(self, inputs: Array, time: Array) -> Array:
        """Outputs [num_outputs] of inputs [num_inputs] and a scalar time."""
        embedding = TimeEmbedding(self.num_time_features, self.num_units)(time)
        hidden = _dense(self.num_units)(fourier_features(inputs, self.frequencies))
        for _ in range(self.num_blocks):
            shift, scale = jnp.split(_dense(2 * self.num_units)(embedding), 2)
            block = linen.silu(linen.LayerNorm()(hidden) * (1 + scale) + shift)
            block = linen.silu(_dense(self.num_units)(block))
            hidden = hidden + _dense(self.num_units)(block)
        # A small last layer, so that a network which knows nothing yet predicts next to nothing.
        last = _dense(self.num_outputs, _LAST_LAYER_SCALE)
        return last(linen.silu(linen.LayerNorm()(hidden)))


def time_mlp(
    num_dims: int,
    *,
    num_units: int = 256,
    num_blocks: int = 3,
    num_time_features: int = 64,
    frequencies: Sequence[float] = (),
) -> ConditionalNetwork:
    """A residual perceptron from a vector and a time to a vector of the same size.

    Args:
        num_dims: size of the input and of the output vector.
        num_units: of every layer between.
        num_blocks: number of residual blocks of two layers.
        num_time_features: of the sinusoidal embedding of the time, even.
        frequencies: of `fourier_features` of the inputs; none by default.

    Returns:
        `ConditionalNetwork(init, apply)` from [num_dims] and a time [] to [num_dims].

    Raises:
        ValueError: a size below one, or an odd number of time features.
    """
    check_sizes(num_dims=num_dims, num_units=num_units, num_blocks=num_blocks)
    sinusoidal_embedding(jnp.zeros(()), num_time_features)  # Refuses what it cannot do.
    module = TimeMLP(num_dims, num_units, num_blocks, num_time_features, tuple(frequencies))
    return conditional_from_flax(module, (num_dims,), ())


def scaled_uniform(scale: float = 1.0) -> Callable[..., Array]:
    """Uniform weights of variance `scale` over the number of inputs of a unit.

    They are drawn as a vector and then shaped: XLA takes several times longer to compile a draw of
    four dimensions, of which a U-Net has dozens.

    Args:
        scale: variance times the number of inputs.

    Returns:
        An initializer, `init(key, shape, dtype) -> weights`.
    """

    def init(key: Key, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        limit = math.sqrt(3 * scale / math.prod(shape[:-1]))
        weights = jax.random.uniform(key, (math.prod(shape),), dtype, -limit, limit)
        return weights.reshape(shape)

    return init


def _dense(num_units: int, scale: float = 1.0) -> linen.Dense:
    return linen.Dense(num_units, kernel_init=scaled_uniform(scale), dot_general=rows_dot_general)
