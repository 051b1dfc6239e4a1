"""The parts of a multi-scale flow on images: squeeze, split, and the flow itself.

Images are vectors throughout, flattened from (height, width, channels).
"""

from collections.abc import Sequence

import distrax
import jax.numpy as jnp

from genjax_models.checks import check_sizes
from genjax_models.interfaces import Array, Key, Params
from genjax_models.models.transformation.couplings import (
    channel_masks,
    checkerboard_masks,
    coupling_stack,
)
from genjax_models.models.transformation.flows import Flow, chain, fixed
from genjax_models.networks import residual_network

ImageShape = tuple[int, int, int]


def multi_scale_flow(
    *,
    image_shape: Sequence[int],
    num_scales: int = 2,
    num_couplings: int = 4,
    num_features: int = 32,
    num_blocks: int = 2,
    max_log_scale: float = 2.0,
) -> Flow:
    """A flow of images that gives half of its dimensions to noise at every scale but the last.

    From data to noise, a scale has couplings with checkerboard masks, a squeeze (height and width
    halved, four times the channels), couplings that keep half of the channels, and a split: one
    half of the channels goes on to the next scale, the other is noise. The last scale has the
    checkerboard couplings alone. The conditioners are residual convolutional networks.

    Args:
        image_shape: (height, width) or (height, width, channels); height and width are multiples
            of 2^(num_scales - 1), and the last scale has more than one pixel.
        num_scales: at least one.
        num_couplings: of each kind at each scale, at least two.
        num_features: channels of the residual networks.
        num_blocks: their residual blocks.
        max_log_scale: the largest |log scale| of a coupling; see `coupling_stack`.

    Returns:
        The flow; x is the flattened image.

    Raises:
        ValueError: a size is too small, or the image cannot be halved so often.

    Source: Dinh et al. 2017 (RealNVP), section 3.6. There the channels of the networks double from
    scale to scale.
    """
    if len(image_shape) not in (2, 3) or min(image_shape) < 1:
        raise ValueError(
            f"image_shape must be (height, width) or (height, width, channels), got {image_shape}"
        )
    check_sizes(num_scales=num_scales)
    height, width, *channels = image_shape
    factor = 2 ** (num_scales - 1)
    if height % factor or width % factor or height * width == factor**2:
        raise ValueError(
            f"image_shape {tuple(image_shape)} cannot be halved {num_scales - 1} times and keep"
            f" more than one pixel: num_scales={num_scales} is too large"
        )

    def couplings(make_masks, shape: ImageShape) -> Flow:  # type: ignore[no-untyped-def]
        network = residual_network(
            shape,
            num_features=num_features,
            num_blocks=num_blocks,
            num_outputs_per_dim=2,
            zero_last_layer=True,
        )
        masks = make_masks(num_couplings, shape)
        return coupling_stack(masks, network, num_channels=shape[2], max_log_scale=max_log_scale)

    def scale(shape: ImageShape, num_scales: int) -> Flow:
        checkerboard = couplings(checkerboard_masks, shape)
        if num_scales == 1:
            return checkerboard
        height, width, channels = shape
        squeezed = (height // 2, width // 2, 4 * channels)
        rest = scale((height // 2, width // 2, 2 * channels), num_scales - 1)
        return chain(
            checkerboard,
            fixed(Squeeze(shape), height * width * channels),
            couplings(channel_masks, squeezed),
            split(squeezed, rest),
        )

    return scale((height, width, channels[0] if channels else 1), num_scales)


class Squeeze(distrax.Bijector):
    """From images of four times the channels to images of twice the height and width.

    `inverse` makes the channels of every 2x2 block of pixels those of one pixel. Both ways are
    permutations: log |det| = 0.

    Source: Dinh et al. 2017, section 3.6.
    """

    def __init__(self, image_shape: ImageShape) -> None:
        """Bind the shape (height, width, channels) on the data's side, both sides even."""
        height, width, channels = image_shape
        if height % 2 or width % 2:
            raise ValueError(f"height and width must be even, got {image_shape}")
        super().__init__(event_ndims_in=1, is_constant_jacobian=True)
        self._blocks = (height // 2, 2, width // 2, 2, channels)

    def forward_and_log_det(self, x: Array) -> tuple[Array, Array]:
        """From [height/2 * width/2 * 4 channels] to [height * width * channels]."""
        self._check_forward_input_shape(x)
        height, _, width, _, channels = self._blocks
        blocks = x.reshape(*x.shape[:-1], height, width, 2, 2, channels)
        return self._exchange(blocks, x)

    def inverse_and_log_det(self, y: Array) -> tuple[Array, Array]:
        """From [height * width * channels] to [height/2 * width/2 * 4 channels]."""
        self._check_inverse_input_shape(y)
        return self._exchange(y.reshape(*y.shape[:-1], *self._blocks), y)

    def _exchange(self, blocks: Array, like: Array) -> tuple[Array, Array]:
        """Rows of a block before columns of blocks, or the other way round."""
        permuted = jnp.swapaxes(blocks, -4, -3).reshape(like.shape)
        return permuted, jnp.zeros(like.shape[:-1], like.dtype)


class SplitChannels(distrax.Bijector):
    """An inner bijector on the first half of an image's channels; the second half is noise as is.

    z = (z of the inner bijector, second half), each flattened.
    """

    def __init__(self, image_shape: ImageShape, inner: distrax.Bijector) -> None:
        """Bind the image's shape, of an even number of channels, and the inner bijector."""
        height, width, channels = image_shape
        if channels % 2:
            raise ValueError(f"the number of channels must be even, got {image_shape}")
        super().__init__(event_ndims_in=1)
        self._half_shape = (height * width, channels // 2)
        self._inner = inner

    def forward_and_log_det(self, x: Array) -> tuple[Array, Array]:
        """From noise [num_dims] to the image [num_dims]."""
        self._check_forward_input_shape(x)
        first, second = jnp.split(x, 2, axis=-1)
        first, log_det = self._inner.forward_and_log_det(first)
        shape = (*x.shape[:-1], *self._half_shape)
        pixels = jnp.concatenate([first.reshape(shape), second.reshape(shape)], axis=-1)
        return pixels.reshape(x.shape), log_det

    def inverse_and_log_det(self, y: Array) -> tuple[Array, Array]:
        """From the image [num_dims] to noise [num_dims]."""
        self._check_inverse_input_shape(y)
        first, second = self.halves(y)
        first, log_det = self._inner.inverse_and_log_det(first)
        return jnp.concatenate([first, second], axis=-1), log_det

    def halves(self, y: Array) -> tuple[Array, Array]:
        """The two halves of the channels, each flattened, [num_dims / 2]."""
        num_pixels, half = self._half_shape
        pixels = y.reshape(*y.shape[:-1], num_pixels, 2 * half)
        shape = (*y.shape[:-1], num_pixels * half)
        return pixels[..., :half].reshape(shape), pixels[..., half:].reshape(shape)


def split(image_shape: ImageShape, rest: Flow) -> Flow:
    """A flow that gives the second half of the channels to noise, the first to another flow.

    Args:
        image_shape: (height, width, channels), of an even number of channels.
        rest: the flow of the first half, flattened.
    """
    height, width, channels = image_shape
    num_dims = height * width * channels

    def bijector(params: Params) -> distrax.Bijector:
        return SplitChannels(image_shape, rest.bijector(params))

    def normalize(params: Params, xs: Array) -> tuple[Params, Array]:
        first, second = bijector(params).halves(xs)
        params, zs = rest.normalize(params, first)
        return params, jnp.concatenate([zs, second], axis=-1)

    def init(key: Key) -> Params:
        return rest.init(key)

    return Flow(num_dims, init, bijector, normalize)
