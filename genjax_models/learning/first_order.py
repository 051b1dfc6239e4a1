"""What surrogate losses are made of: terms of gradient alone, and a guard against a second one."""

import jax
import jax.numpy as jnp

from genjax_models.interfaces import Array


@jax.custom_jvp
def gradient_of(value: Array) -> Array:
    """Zero, with the gradient of `value`, also where that is infinite and cannot be subtracted.

    Args:
        value: an array.

    Returns:
        Zeros of its shape.
    """
    return jnp.zeros_like(value)


@gradient_of.defjvp
def _gradient_of_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # Not just zero: a second derivative has to see what the first one depends on.
    return gradient_of(primals[0]), tangents[0]


@jax.custom_jvp
def first_order(loss: Array) -> Array:
    """The identity, with a first derivative and no second one.

    A surrogate loss holds samples, weights or baselines constant to make its gradient the estimator
    that is wanted. Differentiated once more those constants are missing, and the result would be
    the Hessian of nothing, silently.

    Args:
        loss: a scalar.

    Returns:
        The loss as it is. Differentiating its gradient in what it depends on raises a `TypeError`.
    """
    return loss


@first_order.defjvp
def _first_order_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (loss,), (tangent,) = primals, tangents
    # The factor is one; it is there to be asked for its derivative.
    return first_order(loss), _one(loss) * tangent


@jax.custom_jvp
def _one(loss: Array) -> Array:
    return jnp.ones_like(loss)


@_one.defjvp
def _one_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    raise TypeError(
        "the gradient of this loss is an estimator that holds samples or weights constant, and has"
        ' no derivative of its own: for second derivatives use estimator="pathwise"'
    )
