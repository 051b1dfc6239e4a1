"""A convolutional encoder and decoder for small images."""

import math
from collections.abc import Sequence

import jax
from flax import linen

from genjax_models.interfaces import Array, Network
from genjax_models.networks.adapters import from_flax


class ConvolutionalEncoder(linen.Module):
    """3x3 convolutions of stride two, then one dense layer.

    Attributes:
        image_shape: (height, width) or (height, width, channels).
        features: channels of each convolution; each halves height and width.
        num_outputs: size of the output vector.
    """

    image_shape: tuple[int, ...]
    features: tuple[int, ...]
    num_outputs: int

    @linen.compact
    def __call__(self, inputs: Array) -> Array:
        """Outputs [num_outputs] of a flattened image."""
        image = inputs.reshape(_with_channels(self.image_shape))
        for num_features in self.features:
            image = linen.relu(linen.Conv(num_features, (3, 3), strides=2)(image))
        return linen.Dense(self.num_outputs)(image.reshape(-1))


class ConvolutionalDecoder(linen.Module):
    """One dense layer, then 3x3 transposed convolutions of stride two.

    Attributes:
        image_shape: (height, width) or (height, width, channels).
        features: channels of each layer before the last; each doubles height and width.
        num_outputs_per_dim: numbers that the likelihood wants for each pixel and channel.
    """

    image_shape: tuple[int, ...]
    features: tuple[int, ...]
    num_outputs_per_dim: int

    @linen.compact
    def __call__(self, inputs: Array) -> Array:
        """Outputs [num_outputs_per_dim * num_dims], one block of num_dims after the other."""
        height, width, channels = _with_channels(self.image_shape)
        num_layers = len(self.features)
        shape = (-(-height // 2**num_layers), -(-width // 2**num_layers), self.features[0])
        image = linen.relu(linen.Dense(math.prod(shape))(inputs)).reshape(shape)
        num_outputs = channels * self.num_outputs_per_dim
        for num_features in self.features[1:]:
            image = linen.relu(linen.ConvTranspose(num_features, (3, 3), strides=(2, 2))(image))
        image = linen.ConvTranspose(num_outputs, (3, 3), strides=(2, 2))(image)
        # The doubled size overshoots where the height or width is no multiple of 2^num_layers.
        image = image[:height, :width].reshape(height * width, self.num_outputs_per_dim, channels)
        return jax.numpy.moveaxis(image, 1, 0).reshape(-1)


def convolutional_encoder(
    image_shape: Sequence[int], num_outputs: int, *, features: Sequence[int] = (32, 64)
) -> Network:
    """A convolutional network from a flattened image to a vector.

    Args:
        image_shape: (height, width) or (height, width, channels).
        num_outputs: size of the output vector; 2 * latent_dim for the encoder of `latent.vae`.
        features: channels of the convolutions, each of stride two.

    Returns:
        `Network(init, apply)` from [height * width * channels] to [num_outputs].

    Raises:
        ValueError: the image shape has not two or three entries.
    """
    module = ConvolutionalEncoder(_image_shape(image_shape), tuple(features), num_outputs)
    return from_flax(module, (math.prod(image_shape),))


def convolutional_decoder(
    num_inputs: int,
    image_shape: Sequence[int],
    *,
    num_outputs_per_dim: int = 1,
    features: Sequence[int] = (64, 32),
) -> Network:
    """A convolutional network from a vector to the parameters of each pixel.

    Args:
        num_inputs: size of the input vector; latent_dim for the decoder of `latent.vae`.
        image_shape: (height, width) or (height, width, channels).
        num_outputs_per_dim: what the likelihood wants for each pixel: 1 for Bernoulli and
            Gaussian, 2 for the discretised logistic.
        features: channels of the layers, each of which doubles height and width.

    Returns:
        `Network(init, apply)` from [num_inputs] to [num_outputs_per_dim * prod(image_shape)].

    Raises:
        ValueError: the image shape has not two or three entries, or `features` is empty.
    """
    if not features:
        raise ValueError("features must name the channels of at least one layer, got none")
    module = ConvolutionalDecoder(_image_shape(image_shape), tuple(features), num_outputs_per_dim)
    return from_flax(module, (num_inputs,))


def _image_shape(image_shape: Sequence[int]) -> tuple[int, ...]:
    if len(image_shape) not in (2, 3):
        raise ValueError(
            f"image_shape must be (height, width) or (height, width, channels), got {image_shape}"
        )
    return tuple(image_shape)


def _with_channels(image_shape: tuple[int, ...]) -> tuple[int, int, int]:
    height, width, *channels = image_shape
    return height, width, channels[0] if channels else 1
