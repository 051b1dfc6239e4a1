"""A U-Net of an image and a time, for diffusion models."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen

from genjax_models.checks import check_sizes
from genjax_models.interfaces import Array, ConditionalNetwork
from genjax_models.networks.adapters import conditional_from_flax
from genjax_models.networks.time_mlp import TimeEmbedding, fourier_features, scaled_uniform

_MAX_GROUPS, _MIN_GROUP_SIZE = 8, 4
# So that at first a block is next to its short cut, and the outputs are next to zero.
_SMALL = 1e-2


class ResidualBlock(linen.Module):
    """Two 3x3 convolutions beside a short cut; the time shifts what lies between them.

    Attributes:
        num_features: channels of the output.
    """

    num_features: int

    @linen.compact
    def __call__(self, image: Array, embedding: Array) -> Array:
        """An image [height, width, num_features] of one [height, width, any]."""
        block = _conv(self.num_features)(linen.silu(_group_norm(image)))
        block = block + _dense(self.num_features)(embedding)
        block = _conv(self.num_features, scale=_SMALL)(linen.silu(_group_norm(block)))
        if image.shape[-1] != self.num_features:
            image = _conv(self.num_features, 1)(image)
        return image + block


class Attention(linen.Module):
    """Self-attention of one head over the pixels, beside a short cut."""

    @linen.compact
    def __call__(self, image: Array) -> Array:
        """An image of the same shape."""
        height, width, num_features = image.shape
        pixels = _group_norm(image).reshape(height * width, num_features)
        query, key, value = jnp.split(_dense(3 * num_features)(pixels), 3, axis=-1)
        weights = jax.nn.softmax(query @ key.T / math.sqrt(num_features), axis=-1)
        mixed = _dense(num_features, scale=_SMALL)(weights @ value)
        return image + mixed.reshape(image.shape)


class UNet(linen.Module):
    """Residual blocks at falling, then at rising resolution, with short cuts across.

    Attributes:
        image_shape: (height, width, channels).
        features: channels at each resolution; from one to the next, height and width halve.
        num_blocks: residual blocks at each resolution on the way down, one more on the way up.
        attention: self-attention at the lowest resolution.
        patch_size: pixels along each side that become the channels of one.
        frequencies: of the Fourier features of the inputs.
    """

    image_shape: tuple[int, int, int]
    features: tuple[int, ...]
    num_blocks: int
    attention: bool
    patch_size: int
    frequencies: tuple[float, ...]

    @linen.compact
    def __call__(self, inputs: Array, time: Array) -> Array:
        """Outputs [num_dims] of a flattened image [num_dims] and a scalar time."""
        embedding = TimeEmbedding(2 * self.features[0], 4 * self.features[0])(time)
        image = fourier_features(inputs.reshape(self.image_shape), self.frequencies)
        image = _conv(self.features[0])(_to_patches(image, self.patch_size))
        skips = [image]
        for level, num_features in enumerate(self.features):
            if level:
                image = _conv(num_features, stride=2)(image)
                skips.append(image)
            for _ in range(self.num_blocks):
                image = ResidualBlock(num_features)(image, embedding)
                skips.append(image)
        image = ResidualBlock(self.features[-1])(image, embedding)
        if self.attention:
            image = ResidualBlock(self.features[-1])(Attention()(image), embedding)
        for level in reversed(range(len(self.features))):
            for _ in range(self.num_blocks + 1):
                joined = jnp.concatenate([image, skips.pop()], axis=-1)
                image = ResidualBlock(self.features[level])(joined, embedding)
            if level:
                image = _upsample(image, skips[-1].shape)
                image = _conv(self.features[level])(image)
        num_outputs = self.image_shape[-1] * self.patch_size**2
        image = _conv(num_outputs, scale=_SMALL)(linen.silu(_group_norm(image)))
        return _from_patches(image, self.patch_size).ravel()


def unet(
    image_shape: Sequence[int],
    *,
    features: Sequence[int] = (32, 64, 64),
    num_blocks: int = 1,
    attention: bool = True,
    patch_size: int = 1,
    frequencies: Sequence[float] = (),
) -> ConditionalNetwork:
    """A U-Net from a flattened image and a time to a flattened image of the same shape.

    That of Ho et al. at a smaller size: group normalisation, the time added between the two
    convolutions of every residual block, self-attention at the lowest resolution.

    Args:
        image_shape: (height, width) or (height, width, channels).
        features: channels at each resolution; from one to the next, height and width halve.
        num_blocks: residual blocks at each resolution on the way down, one more on the way up.
        attention: self-attention at the lowest resolution.
        patch_size: fold squares of so many pixels a side into channels first, and unfold them last:
            2 makes everything between 4 times cheaper.
        frequencies: of `time_mlp.fourier_features` of the inputs; none by default.

    Returns:
        `ConditionalNetwork(init, apply)` from [height * width * channels] and a time [] to the
        same size.

    Raises:
        ValueError: an image shape that has not two or three entries, a size below one, fewer than
            two channels at the first resolution, a patch size that does not divide height and
            width, or more resolutions than the image has.

    Source: Ronneberger et al. 2015 (U-Net); Ho et al. 2020, appendix B.
    """
    shape, features = tuple(image_shape), tuple(features)
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(
            f"image_shape must be (height, width) or (height, width, channels), got {shape}"
        )
    if not features or min(features) < 1 or features[0] < 2:
        raise ValueError(f"features must be channels >= 1, the first >= 2, got {features}")
    check_sizes(num_blocks=num_blocks)
    height, width, channels = shape if len(shape) == 3 else (*shape, 1)
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise ValueError(
            f"patch_size must divide height and width, {height} x {width}, got {patch_size}"
        )
    if patch_size * 2 ** (len(features) - 1) > max(height, width):
        raise ValueError(
            f"features has {len(features)} resolutions, more than an image of {height} x {width}"
            f" in patches of {patch_size} x {patch_size}"
        )
    module = UNet(
        (height, width, channels), features, num_blocks, attention, patch_size, tuple(frequencies)
    )
    return conditional_from_flax(module, (height * width * channels,), ())


def _to_patches(image: Array, size: int) -> Array:
    """[height, width, channels] as [height / size, width / size, size^2 channels]."""
    height, width, channels = image.shape
    tiles = image.reshape(height // size, size, width // size, size, channels).swapaxes(1, 2)
    return tiles.reshape(height // size, width // size, size * size * channels)


def _from_patches(image: Array, size: int) -> Array:
    """The inverse of `_to_patches`."""
    height, width, num_features = image.shape
    tiles = image.reshape(height, width, size, size, num_features // size**2).swapaxes(1, 2)
    return tiles.reshape(height * size, width * size, -1)


def _group_norm(image: Array) -> Array:
    num_features = image.shape[-1]
    most = max(1, min(_MAX_GROUPS, num_features // _MIN_GROUP_SIZE))
    num_groups = max(n for n in range(1, most + 1) if num_features % n == 0)
    return linen.GroupNorm(num_groups, reduction_axes=(-3, -2, -1))(image)


def _upsample(image: Array, shape: tuple[int, ...]) -> Array:
    """Each pixel four times, cut to the height and width of `shape`, which may be odd."""
    return image.repeat(2, axis=0).repeat(2, axis=1)[: shape[0], : shape[1]]


def _conv(num_features: int, width: int = 3, *, stride: int = 1, scale: float = 1.0) -> linen.Conv:
    return linen.Conv(
        num_features, (width, width), strides=stride, kernel_init=scaled_uniform(scale)
    )


def _dense(num_features: int, *, scale: float = 1.0) -> linen.Dense:
    return linen.Dense(num_features, kernel_init=scaled_uniform(scale))
