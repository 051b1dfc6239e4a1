"""A residual convolutional network that keeps the size of the image."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import linen

from genjax_models.checks import check_sizes
from genjax_models.distributions.rows import rows_dot_general
from genjax_models.interfaces import Array, Network
from genjax_models.networks.adapters import from_flax


class Convolution(linen.Module):
    """A 3x3 convolution with zeros around the image, as one matrix product over its patches.

    XLA's CPU compiler has a fast convolution but not a fast gradient of its kernel: with it a
    training step of a multi-scale flow took 48 times as long as its log-density, so 7 times.

    Attributes:
        num_features: channels of the output.
        zero: start with a kernel of zero.
    """

    num_features: int
    zero: bool = False

    @linen.compact
    def __call__(self, image: Array) -> Array:
        """Outputs [height, width, num_features] of an image [height, width, channels]."""
        height, width, channels = image.shape
        initializers = linen.initializers
        kernel_init = initializers.zeros if self.zero else initializers.lecun_uniform()
        kernel = self.param("kernel", kernel_init, (3, 3, channels, self.num_features))
        bias = self.param("bias", initializers.zeros, (self.num_features,))
        padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))
        shifted = [padded[i : i + height, j : j + width] for i, j in np.ndindex(3, 3)]
        patches = jnp.concatenate(shifted, axis=-1)
        return rows_dot_general(patches, kernel.reshape(9 * channels, self.num_features)) + bias


class ResidualNetwork(linen.Module):
    """3x3 convolutions: one in, residual blocks of two after their activations, and one out.

    Attributes:
        image_shape: (height, width, channels).
        num_features: channels of every layer but the last.
        num_blocks: residual blocks.
        num_outputs_per_dim: numbers for each pixel and channel.
        zero_last_layer: start with outputs of zero.
    """

    image_shape: tuple[int, int, int]
    num_features: int
    num_blocks: int
    num_outputs_per_dim: int
    zero_last_layer: bool = False

    @linen.compact
    def __call__(self, inputs: Array) -> Array:
        """Outputs [num_outputs_per_dim * num_dims], one block of num_dims after the other."""
        height, width, channels = self.image_shape
        image = Convolution(self.num_features)(inputs.reshape(height, width, channels))
        for _ in range(self.num_blocks):
            block = Convolution(self.num_features)(linen.relu(image))
            image += Convolution(self.num_features)(linen.relu(block))
        num_outputs = channels * self.num_outputs_per_dim
        image = Convolution(num_outputs, zero=self.zero_last_layer)(linen.relu(image))
        image = image.reshape(height * width, self.num_outputs_per_dim, channels)
        return jnp.moveaxis(image, 1, 0).reshape(-1)


def residual_network(
    image_shape: Sequence[int],
    *,
    num_features: int = 32,
    num_blocks: int = 2,
    num_outputs_per_dim: int = 1,
    zero_last_layer: bool = False,
) -> Network:
    """A residual convolutional network from a flattened image to numbers for each of its pixels.

    Args:
        image_shape: (height, width, channels).
        num_features: channels of every layer but the last.
        num_blocks: residual blocks of two 3x3 convolutions, each after a rectifier.
        num_outputs_per_dim: numbers for each pixel and channel.
        zero_last_layer: start with weights of zero in the last layer: outputs of zero.

    Returns:
        `Network(init, apply)` from [num_dims] to [num_outputs_per_dim * num_dims], one block of
        num_dims after the other, where num_dims = prod(image_shape).

    Raises:
        ValueError: the image shape has not three entries, or a number is too small.

    Source: He et al. 2016 (Identity mappings in deep residual networks).
    """
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"image_shape must be (height, width, channels), got {image_shape}")
    check_sizes(num_features=num_features, num_outputs_per_dim=num_outputs_per_dim)
    if num_blocks < 0:
        raise ValueError(f"num_blocks must not be negative, got {num_blocks}")
    height, width, channels = image_shape
    module = ResidualNetwork(
        (height, width, channels), num_features, num_blocks, num_outputs_per_dim, zero_last_layer
    )
    return from_flax(module, (math.prod(image_shape),))
