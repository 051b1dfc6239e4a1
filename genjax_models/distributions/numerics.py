"""The arithmetic that the distributions share."""

import math

import jax
import jax.numpy as jnp

from genjax_models.interfaces import Array, PyTree

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
"""Minus the log-density of a standard normal at zero."""


def at_least_float32(array: Array) -> Array:
    """The array in float32, or float64 where it is: what sums and random draws need.

    784 terms added in bfloat16 are nats off, and noise drawn in bfloat16 is not centred.
    """
    array = jnp.asarray(array)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def promoted(array: Array, *params: PyTree) -> Array:
    """The array in float32 at least, and in no less than the parameters are in.

    What a scan over layers begins with: its state would otherwise change its dtype.
    """
    array = at_least_float32(array)
    return array.astype(jnp.result_type(array, *jax.tree.leaves(params)))


def sum_event(values: Array) -> Array:
    """Sum over every dimension, in float32 at least."""
    return jnp.sum(at_least_float32(values))


def check_event(value: Array, parameter: Array) -> Array:
    """`value` as an array, once its shape is known to be that of the parameter.

    Raises:
        ValueError: the shapes differ. Broadcasting would sum a batch as if it were one example.
    """
    # A copy (XLA removes it): vmap under jit would hand a numpy batch to a custom rule as it is.
    value = jnp.array(value)
    if value.shape != jnp.shape(parameter):
        raise ValueError(
            f"value must have the shape of one event, {jnp.shape(parameter)}, got {value.shape}:"
            " vmap over a batch"
        )
    return value


@jax.custom_jvp
def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), elementwise.

    The derivative s(x) s(-x) keeps its relative precision; that of `jax.nn.sigmoid`, s (1 - s), is
    zero where s rounds to one.
    """
    return jax.nn.sigmoid(x)


@sigmoid.defjvp
def _sigmoid_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    return sigmoid(x), sigmoid(x) * sigmoid(-x) * tangent


@jax.custom_jvp
def softplus(x: Array) -> Array:
    """log(1 + e^x) = max(x, 0) + log1p(e^-|x|), elementwise; nothing overflows.

    The derivative is one sigmoid; `jax.nn.softplus` goes through `logaddexp`, which is several
    times slower forward and backward.
    """
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _softplus_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    return softplus(x), sigmoid(x) * tangent
