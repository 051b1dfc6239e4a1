"""What the estimators for particular families must know of a distribution: its parameters.

Ours, distrax's and TFP's are known, as they are or inside `Independent`. A distribution that is
not of the family is a `TypeError` that says what to use instead. Parameters are in float32 at
least: noise that is drawn in bfloat16 is not centred.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from genjax_models.distributions.numerics import at_least_float32
from genjax_models.interfaces import Array

ANYWHERE = "score_function works for any distribution with a log_prob"


def kind(distribution: Any) -> str:
    """The name of the class of a distribution of ours, distrax's or TFP's; "" of any other."""
    module, name = type(distribution).__module__, type(distribution).__name__
    if name == "DistributionFromTFP":
        return str(distribution.name)
    known = ("distrax.", "tensorflow_probability.", "genjax_models.distributions.")
    return name if module.startswith(known) else ""


def unwrapped(distribution: Any) -> Any:
    """What is inside `Independent`."""
    while kind(distribution) == "Independent":
        distribution = distribution.distribution
    return distribution


def name_of(distribution: Any) -> str:
    """The name of what is inside `Independent`, for messages."""
    return type(unwrapped(distribution)).__name__


def logits_of(distribution: Any) -> Array:
    """The logits of Bernoulli or categorical variables, whichever way they were given."""
    if hasattr(distribution, "logits_parameter"):  # TFP, where `logits` may be None
        return at_least_float32(distribution.logits_parameter())
    return at_least_float32(distribution.logits)


def binary_logits(distribution: Any, estimator: str) -> Array:
    """The log-odds of independent binary variables.

    Raises:
        TypeError: they are no such variables.
    """
    inner = unwrapped(distribution)
    if kind(inner) == "Bernoulli":
        return logits_of(inner)
    raise TypeError(
        f"{estimator} is for binary variables (a Bernoulli), got a {name_of(inner)}: {ANYWHERE}"
    )


def is_one_hot(distribution: Any) -> bool:
    """Whether samples are one-hot vectors."""
    return kind(unwrapped(distribution)) == "OneHotCategorical"


def as_indices(
    distribution: Any,
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """From events to indices and back for one-hot vectors; of others the event is kept."""
    if not is_one_hot(distribution):
        return lambda x: x, lambda x: x
    event = jax.eval_shape(lambda key: distribution.sample(seed=key), jax.random.key(0))
    return (
        lambda x: jnp.argmax(x, axis=-1),
        lambda index: jax.nn.one_hot(index, event.shape[-1], dtype=event.dtype),
    )


def relaxable_logits(distribution: Any, estimator: str) -> Array:
    """Log-odds of binary variables, or normalised logits [..., num_categories] of one-hot ones.

    Raises:
        TypeError: the variables are neither; indices of categories cannot be relaxed.
    """
    inner = unwrapped(distribution)
    if kind(inner) == "Categorical":
        raise TypeError(
            f"{estimator} relaxes a vector, and a Categorical is an index: use"
            " distrax.OneHotCategorical"
        )
    if is_one_hot(inner):
        return jax.nn.log_softmax(logits_of(inner))
    return binary_logits(distribution, estimator)


def gaussian_parameters(distribution: Any) -> tuple[Array, Array] | None:
    """Mean and standard deviation of independent Gaussians, or None if they are no such."""
    inner = unwrapped(distribution)
    name = kind(inner)
    if name == "DiagonalGaussian":
        return _broadcast(inner.loc, jnp.exp(inner.log_scale))
    if name in ("Normal", "LogStddevNormal"):
        return _broadcast(inner.loc, inner.scale)
    if name == "MultivariateNormalDiag":
        return _broadcast(inner.mean(), inner.stddev())
    return None


def _broadcast(loc: Any, scale: Any) -> tuple[Array, Array]:
    loc, scale = jnp.broadcast_arrays(at_least_float32(loc), at_least_float32(scale))
    return loc, scale
