"""The neural autoregressive distribution estimator (Larochelle & Murray 2011)."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.distributions import Bernoulli
from genjax_models.distributions.numerics import at_least_float32, check_event
from genjax_models.interfaces import Array, DensityModel, Key, Params
from genjax_models.networks.masked_mlp import check_ordering
from genjax_models.networks.rows import rows_dot_general

# Dimensions whose hidden units are computed together. The product within a block costs twice this
# a hidden unit; a shorter block has products too thin to be fast, a longer one leaves the cache.
_BLOCK_SIZE = 8


def nade(
    *, num_dims: int = 784, hidden_dim: int = 500, ordering: Sequence[int] | None = None
) -> DensityModel:
    """A product of conditionals of binary dimensions, whose hidden units share their weights.

        p(x) = prod_i p(x_{o_i} | x_{o_1}, ..., x_{o_{i-1}})
        p(x_d = 1 | ...) = sigmoid(b_d + V_d . h_i),  d = o_i
        h_i = sigmoid(a_i),  a_1 = c,  a_{i+1} = a_i + W_d x_d

    The running pre-activation a_i makes one pass over the dimensions cost O(num_dims *
    hidden_dim), for `log_prob` as for `sample`. Its gradient recomputes the hidden units, so that
    memory for one example is O(num_dims * hidden_dim / 8).

    Its parameters are a dict: "input_weights" W and "output_weights" V, [num_dims, hidden_dim],
    "hidden_bias" c, [hidden_dim], and "output_bias" b, [num_dims]. Row d belongs to dimension d
    in any ordering. Weights start Glorot-uniform, biases at zero.

    Args:
        num_dims: size of the vector x, of zeros and ones.
        hidden_dim: number of hidden units of each conditional.
        ordering: o, each dimension 0..num_dims - 1 once; default: 0, 1, 2, ...

    Returns:
        The model.

    Raises:
        ValueError: a size below one, an ordering that leaves a dimension out or has one twice, or
            (from `log_prob`) an x of another shape.
        TypeError: an ordering that is not of integers.

    Source: Larochelle & Murray 2011 (The neural autoregressive distribution estimator), section 3,
    with weights of their own for input and output.
    """
    for name, size in (("num_dims", num_dims), ("hidden_dim", hidden_dim)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    order = None if ordering is None else check_ordering(ordering, num_dims)

    def init(key: Key) -> Params:
        input_key, output_key = jax.random.split(key)
        glorot_uniform = jax.nn.initializers.glorot_uniform()
        return {
            "input_weights": glorot_uniform(input_key, (num_dims, hidden_dim)),
            "output_weights": glorot_uniform(output_key, (num_dims, hidden_dim)),
            "hidden_bias": jnp.zeros(hidden_dim),
            "output_bias": jnp.zeros(num_dims),
        }

    def log_prob(params: Params, x: Array) -> Array:
        x = check_event(x, params["output_bias"])
        dimensions, hidden_bias = _in_order(params, order)
        x = at_least_float32(x if order is None else x[order])
        return Bernoulli(_logits(dimensions, hidden_bias, x)).log_prob(x)

    def sample(params: Params, key: Key) -> Array:
        dimensions, hidden_bias = _in_order(params, order)
        uniforms = jax.random.uniform(key, (num_dims,), hidden_bias.dtype)
        x = _draws(dimensions, hidden_bias, uniforms)
        return x if order is None else x[np.argsort(order)]

    return DensityModel(init, log_prob, sample)


class _Dimensions(NamedTuple):
    """What belongs to one dimension, for all of them or for a block, in the model's order."""

    input_weights: Array
    output_weights: Array
    output_bias: Array


def _in_order(params: Params, order: np.ndarray | None) -> tuple[_Dimensions, Array]:
    """The dimensions in the model's order, and the hidden bias, in float32 at least."""
    dimensions = _Dimensions(*(params[name] for name in _Dimensions._fields))
    if order is not None:
        dimensions = jax.tree.map(lambda rows: rows[order], dimensions)
    return jax.tree.map(at_least_float32, (dimensions, params["hidden_bias"]))


def _logits(dimensions: _Dimensions, hidden_bias: Array, x: Array) -> Array:
    """The logits of all conditionals, [num_dims], block after block of dimensions."""
    earlier = np.tri(_BLOCK_SIZE, k=-1, dtype=bool)

    # Recomputed by the gradient, which would else store 160 MB of hidden units for a batch of 100.
    @jax.checkpoint
    def block_logits(
        pre_activation: Array, block: tuple[_Dimensions, Array]
    ) -> tuple[Array, Array]:
        own, x = block
        # Row k adds what dimensions 0..k-1 of the block contribute.
        within = rows_dot_general(jnp.where(earlier, x[None], 0), own.input_weights)
        hidden = jax.nn.sigmoid(pre_activation[None] + within)
        logits = own.output_bias + jnp.einsum("kh,kh->k", hidden, own.output_weights)
        return pre_activation + rows_dot_general(x, own.input_weights), logits

    blocks = jax.tree.map(_blocks, (dimensions, x))
    _, logits = jax.lax.scan(block_logits, hidden_bias, blocks)
    return logits.reshape(-1)[: x.shape[0]]


def _blocks(rows: Array) -> Array:
    """[num_dims, ...] as [num_blocks, block_size, ...], zeros added after the last dimension."""
    padding = [(0, -rows.shape[0] % _BLOCK_SIZE)] + [(0, 0)] * (rows.ndim - 1)
    return jnp.pad(rows, padding).reshape(-1, _BLOCK_SIZE, *rows.shape[1:])


def _draws(dimensions: _Dimensions, hidden_bias: Array, uniforms: Array) -> Array:
    """Zeros and ones in the model's order, [num_dims]: one where the uniform is below p."""

    def draw(pre_activation: Array, dimension: tuple[_Dimensions, Array]) -> tuple[Array, Array]:
        own, uniform = dimension
        hidden = jax.nn.sigmoid(pre_activation)
        logit = own.output_bias + jnp.dot(hidden, own.output_weights)
        x = (uniform < jax.nn.sigmoid(logit)).astype(uniform.dtype)
        return pre_activation + x * own.input_weights, x

    return jax.lax.scan(draw, hidden_bias, (dimensions, uniforms))[1]
