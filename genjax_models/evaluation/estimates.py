"""A mean over test examples with its two errors."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.interfaces import Array


class Estimate(NamedTuple):
    """A mean over N test examples.

    Attributes:
        value: the mean.
        standard_error: how far another test set of N examples would move it: the sample standard
            deviation over sqrt(N); NaN for N = 1. It contains the Monte Carlo error.
        monte_carlo_error: how far other draws for the same examples would move it.
    """

    value: Array
    standard_error: Array
    monte_carlo_error: Array


def mean_estimate(values: Array, monte_carlo_errors: Array | None = None) -> Estimate:
    """The mean over examples, with the error over examples and that of the estimator.

    Args:
        values: one number an example, shape [N].
        monte_carlo_errors: the standard error of each, shape [N], from independent draws; None
            where the values are exact.

    Returns:
        The mean, sd / sqrt(N), and sqrt(sum of squared errors) / N.

    Raises:
        ValueError: the shapes differ, are not [N], or N is zero.
    """
    if jnp.ndim(values) != 1 or not jnp.size(values):
        raise ValueError(f"values must have shape [N] with N >= 1, got {jnp.shape(values)}")
    if monte_carlo_errors is None:
        monte_carlo_errors = jnp.zeros_like(values)
    if jnp.shape(monte_carlo_errors) != jnp.shape(values):
        raise ValueError(
            f"monte_carlo_errors must have the shape of values, {jnp.shape(values)},"
            f" got {jnp.shape(monte_carlo_errors)}"
        )
    return _mean_estimate(jnp.asarray(values), jnp.asarray(monte_carlo_errors))


@jax.jit
def _mean_estimate(values: Array, monte_carlo_errors: Array) -> Estimate:
    num_examples = values.shape[0]
    if num_examples > 1:
        standard_error = jnp.std(values, ddof=1) / num_examples**0.5
    else:
        standard_error = jnp.full((), jnp.nan, values.dtype)
    return Estimate(
        jnp.mean(values), standard_error, jnp.linalg.norm(monte_carlo_errors) / num_examples
    )
