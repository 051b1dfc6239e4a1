"""An encoder by self-attention over the patches of an image or the steps of a sequence."""

import math
from collections.abc import Sequence

import jax
from flax import linen

from genjax_models.checks import check_sizes
from genjax_models.distributions.rows import rows_dot_general
from genjax_models.interfaces import Array, Network
from genjax_models.networks.adapters import from_flax


class AttentionBlock(linen.Module):
    """Self-attention, then a layer of hidden units, each after a normalisation, beside a short cut.

    Attributes:
        num_heads: of the attention.
    """

    num_heads: int

    @linen.compact
    def __call__(self, tokens: Array, _: None) -> tuple[Array, None]:
        """Tokens of the same shape, [num_tokens, num_features], as a scan over blocks wants it."""
        num_features = tokens.shape[-1]
        # A bias of the keys moves all scores of a query alike, and has no effect.
        attention = linen.MultiHeadDotProductAttention(self.num_heads, use_bias=False)
        tokens = tokens + attention(linen.LayerNorm()(tokens))
        hidden = jax.nn.gelu(_dense(2 * num_features)(linen.LayerNorm()(tokens)))
        return tokens + _dense(num_features)(hidden), None


class AttentionEncoder(linen.Module):
    """Blocks of self-attention over embedded patches, then one dense layer of their mean.

    Attributes:
        image_shape: (height, width, channels).
        patch_shape: (height, width) of a patch.
        num_features: of a token.
        num_heads: of each block's attention.
        num_blocks: one after the other.
        positions: add a learned vector to each patch that says where it is.
        num_outputs: size of the output vector.
    """

    image_shape: tuple[int, int, int]
    patch_shape: tuple[int, int]
    num_features: int
    num_heads: int
    num_blocks: int
    positions: bool
    num_outputs: int

    @linen.compact
    def __call__(self, inputs: Array) -> Array:
        """Outputs [num_outputs] of a flattened image."""
        patches = to_patches(inputs.reshape(self.image_shape), self.patch_shape)
        tokens = _dense(self.num_features)(patches)
        if self.positions:
            small = linen.initializers.normal(0.02)
            tokens = tokens + self.param("positions", small, tokens.shape)
        blocks = linen.scan(
            AttentionBlock,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.num_blocks,
        )
        tokens, _ = blocks(self.num_heads)(tokens, None)
        return _dense(self.num_outputs)(linen.LayerNorm()(tokens).mean(axis=0))


def attention_encoder(
    example_shape: Sequence[int],
    num_outputs: int,
    *,
    patch_shape: Sequence[int] | None = None,
    num_features: int = 64,
    num_heads: int = 4,
    num_blocks: int = 2,
    positions: bool = True,
) -> Network:
    """Self-attention over the patches of an image, or the steps of a sequence, as a vector.

        attention(T) = softmax(T Q (T K)' / sqrt(d)) T V, for each head, d features a head

    The outputs are an affine map of the tokens' mean: without positions no permutation of the
    patches changes them.

    Args:
        example_shape: (height, width) or (height, width, channels); of a sequence (num_steps, size
            of a step).
        num_outputs: size of the output vector; 2 * latent_dim for the encoder of `latent.vae`.
        patch_shape: (height, width) of a patch; by default one row, or step.
        num_features: of a token.
        num_heads: of each block's attention.
        num_blocks: one after the other.
        positions: add a learned vector to each patch that says where it is.

    Returns:
        `Network(init, apply)` from [prod(example_shape)] to [num_outputs].

    Raises:
        ValueError: a shape that has not two or three entries, patches that do not tile it, a size
            below one, or heads that do not divide the features.

    Source: Vaswani et al. 2017 (Attention is all you need), section 3.2; Dosovitskiy et al. 2021
    (An image is worth 16x16 words), section 3.1, with a mean in place of the class token.
    """
    shape = tuple(example_shape)
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(
            f"example_shape must be (height, width) or (height, width, channels), got {shape}"
        )
    check_sizes(
        num_outputs=num_outputs,
        num_features=num_features,
        num_heads=num_heads,
        num_blocks=num_blocks,
    )
    if num_features % num_heads:
        raise ValueError(f"num_heads must divide num_features, {num_features}, got {num_heads}")
    height, width, channels = shape if len(shape) == 3 else (*shape, 1)
    patch = (1, width) if patch_shape is None else tuple(patch_shape)
    if len(patch) != 2 or min(patch) < 1 or height % patch[0] or width % patch[1]:
        raise ValueError(
            f"patch_shape must be (height, width) that divide {height} x {width}, got {patch}"
        )
    module = AttentionEncoder(
        image_shape=(height, width, channels),
        patch_shape=(patch[0], patch[1]),
        num_features=num_features,
        num_heads=num_heads,
        num_blocks=num_blocks,
        positions=positions,
        num_outputs=num_outputs,
    )
    return from_flax(module, (math.prod(shape),))


def to_patches(image: Array, patch_shape: tuple[int, int]) -> Array:
    """The patches of an image, row by row, each as a vector.

    Args:
        image: [height, width, channels].
        patch_shape: (height, width) of a patch; they divide those of the image.

    Returns:
        [num_patches, patch height * patch width * channels].
    """
    height, width, channels = image.shape
    rows, columns = patch_shape
    tiles = image.reshape(height // rows, rows, width // columns, columns, channels)
    return tiles.swapaxes(1, 2).reshape(-1, rows * columns * channels)


def _dense(num_units: int) -> linen.Dense:
    return linen.Dense(num_units, dot_general=rows_dot_general)
