"""What the estimators for particular families must know of a distribution: its parameters.

Ours and distrax's are known, as they are or inside `distrax.Independent`. A distribution that is
not of the family is a `TypeError` that says what to use instead.
"""

from typing import Any

import jax
import jax.numpy as jnp

from genjax_models import distributions
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
    """What is inside `distrax.Independent`."""
    while kind(distribution) == "Independent":
        distribution = distribution.distribution
    return distribution


def binary_logits(distribution: Any, estimator: str) -> Array:
    """The log-odds of independent binary variables.

    Raises:
        TypeError: they are no such variables.
    """
    inner = unwrapped(distribution)
    if isinstance(inner, distributions.Bernoulli) or kind(inner) == "Bernoulli":
        return jnp.asarray(inner.logits)
    raise TypeError(
        f"{estimator} is for binary variables (a Bernoulli), got a {type(inner).__name__}:"
        f" {ANYWHERE}"
    )


def is_one_hot(distribution: Any) -> bool:
    """Whether samples are one-hot vectors."""
    return kind(unwrapped(distribution)) == "OneHotCategorical"


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
        logits = jnp.asarray(inner.logits)
        return jax.nn.log_softmax(logits)
    return binary_logits(distribution, estimator)


def gaussian_parameters(distribution: Any) -> tuple[Array, Array] | None:
    """Mean and standard deviation of independent Gaussians, or None if they are no such."""
    inner = unwrapped(distribution)
    if isinstance(inner, distributions.DiagonalGaussian):
        loc = jnp.asarray(inner.loc)
        return loc, jnp.broadcast_to(jnp.exp(inner.log_scale), loc.shape)
    if kind(inner) == "Normal":
        return _broadcast(inner.loc, inner.scale)
    if kind(inner) == "MultivariateNormalDiag":
        return _broadcast(inner.loc, inner.scale_diag)
    return None


def _broadcast(loc: Array, scale: Array) -> tuple[Array, Array]:
    loc, scale = jnp.broadcast_arrays(jnp.asarray(loc), jnp.asarray(scale))
    return loc, scale
