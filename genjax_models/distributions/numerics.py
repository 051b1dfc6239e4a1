"""The arithmetic that the distributions share."""

import jax
import jax.numpy as jnp

from genjax_models.interfaces import Array


def sum_event(values: Array) -> Array:
    """Sum over every dimension, in float32 at least: 784 terms added in bfloat16 are nats off."""
    return jnp.sum(values, dtype=jnp.promote_types(values.dtype, jnp.float32))


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
    return softplus(x), jax.nn.sigmoid(x) * tangent
