"""Exact gradients by enumeration, of all discrete coordinates or of chosen ones."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.distributions.numerics import softplus
from genjax_models.interfaces import Array, Key, Params
from genjax_models.learning.first_order import gradient_of
from genjax_models.learning.gradients.core import (
    DistributionOf,
    Function,
    GradientEstimator,
    State,
    check_num_samples,
    check_one_event,
    evaluate,
    leave_one_out_sums,
    sample,
)
from genjax_models.learning.gradients.families import (
    ANYWHERE,
    as_indices,
    binary_logits,
    kind,
    logits_of,
    name_of,
    unwrapped,
)

_LARGEST = 2**20


class PartialDraw(NamedTuple):
    """One draw of the Rao-Blackwellised estimator.

    Attributes:
        x: a sample, indices for one-hot vectors; its chosen coordinates are not looked at.
        signal: the expectation of f over the chosen coordinates, less that of the other samples.
    """

    x: Array
    signal: Array


def enumeration(distribution: DistributionOf, function: Function) -> GradientEstimator:
    """The exact gradient: a sum over all values. Without variance.

        g = grad sum_x p(x) f(x)

    Args:
        distribution: `distribution(params) -> p`: Bernoulli, categorical or one-hot variables, one
            or several independent ones, with at most 2^20 joint values.
        function: f, `function(x) -> []`; evaluated at every value.

    Returns:
        The estimator; all of its samples are the same.

    Raises:
        TypeError: (from the estimator) other variables.
        ValueError: (from the estimator) too many values.

    Source: the definition of an expectation.
    """

    def draw(params: Params, state: State, key: Key, num_samples: int) -> Array:
        return jnp.zeros(num_samples)

    def surrogate(params: Params, state: State, draw: Array) -> Array:
        current = distribution(params)
        log_masses = _log_masses(current, "enumeration")
        cost, template = _of_indices(current, function)
        return _expectation(cost, log_masses, template, np.arange(template.size))

    return GradientEstimator(draw, surrogate)


def rao_blackwell(
    distribution: DistributionOf,
    function: Function,
    coordinates: Sequence[int],
    *,
    baseline: bool = True,
) -> GradientEstimator:
    """Chosen coordinates are summed, the others sampled with the score function. Unbiased.

        F(x_R) = sum_{x_C} p(x_C) f(x_C, x_R),
        g_s = grad_p(x_C) F(x_R) + (F(x_R) - mean F of the other samples) grad log p(x_R)

    Args:
        distribution: `distribution(params) -> p`: independent Bernoulli, categorical or one-hot
            variables.
        function: f, `function(x) -> []`; evaluated at every value of the chosen coordinates.
        coordinates: C, indices into the flattened event; a one-hot vector is one coordinate.
        baseline: whether the other samples make a baseline, which takes two samples or more.

    Returns:
        The estimator.

    Raises:
        ValueError: no coordinate, one twice, or (from the estimator) one that the event does not
            have, too many values, or one sample where there is a baseline.
        TypeError: (from the estimator) other variables.

    Source: Casella & Robert 1996; Liu et al. 2019 (Rao-Blackwellized stochastic gradients for
    discrete distributions), section 3; Titsias & Lazaro-Gredilla 2015 (Local expectation
    gradients).
    """
    chosen = np.asarray(coordinates, int)
    if chosen.size == 0 or len(set(chosen.tolist())) < chosen.size or chosen.min() < 0:
        raise ValueError(
            f"coordinates must be different indices from 0, at least one, got {list(coordinates)}"
        )

    def masses(params: Params) -> Array:
        log_masses = _log_masses(distribution(params), "rao_blackwell")
        size = int(np.prod(log_masses.shape[:-1]))
        if chosen.max() >= size:
            raise ValueError(f"coordinates must be below {size}, got {list(coordinates)}")
        return log_masses

    def draw(params: Params, state: State, key: Key, num_samples: int) -> PartialDraw:
        check = 2 if baseline else 1
        check_num_samples(num_samples, check, " for a leave-one-out baseline")
        log_masses, current = masses(params), distribution(params)
        cost, _ = _of_indices(current, function)
        xs = as_indices(current)[0](sample(current, key, num_samples))
        values = jax.vmap(lambda x: _expectation(cost, log_masses, x, chosen))(xs)
        if baseline:
            values = values - leave_one_out_sums(values) / (num_samples - 1)
        return PartialDraw(xs, values)

    def surrogate(params: Params, state: State, draw: PartialDraw) -> Array:
        log_masses = masses(params)
        flat = jnp.reshape(log_masses, (-1, log_masses.shape[-1]))
        rest = np.setdiff1d(np.arange(flat.shape[0]), chosen)
        index = jnp.ravel(draw.x).astype(int)
        log_prob = jnp.sum(flat[rest, index[rest]])
        cost, _ = _of_indices(distribution(params), function)
        value = _expectation(cost, log_masses, draw.x, chosen)
        return value + gradient_of(draw.signal * log_prob)

    return GradientEstimator(draw, surrogate)


def _log_masses(distribution: Any, estimator: str) -> Array:
    """Log-probabilities [..., num_values] of the coordinates of an event."""
    check_one_event(distribution)
    inner = unwrapped(distribution)
    if kind(inner) in ("Categorical", "OneHotCategorical"):
        return jax.nn.log_softmax(logits_of(inner))
    if kind(inner) != "Bernoulli":
        raise TypeError(
            f"{estimator} is for Bernoulli or categorical variables, got a"
            f" {name_of(distribution)}: {ANYWHERE}"
        )
    logits = binary_logits(inner, estimator)
    return -jnp.stack([softplus(logits), softplus(-logits)], axis=-1)


def _expectation(function: Function, log_masses: Array, x: Array, chosen: np.ndarray) -> Array:
    """sum over the chosen coordinates of p(x_C) f(x_C, x_R)."""
    num_values = log_masses.shape[-1]
    if num_values**chosen.size > _LARGEST:
        raise ValueError(
            f"{num_values}^{chosen.size} values are too many to enumerate: choose coordinates for"
            " rao_blackwell"
        )
    values = np.array(list(itertools.product(range(num_values), repeat=chosen.size)), int)
    flat = jnp.reshape(log_masses, (-1, num_values))
    log_probs = jnp.sum(flat[chosen[None, :], values], axis=1)

    def cost(value: Array) -> Array:
        changed = jnp.ravel(x).at[chosen].set(value.astype(x.dtype))
        return function(jnp.reshape(changed, x.shape))

    return jnp.sum(jnp.exp(log_probs) * jax.vmap(cost)(jnp.asarray(values)))


def _of_indices(distribution: Any, function: Function) -> tuple[Function, Array]:
    """f of indices of values, and a template of these, so that f sees what a sampler gives it."""
    to_indices, to_event = as_indices(distribution)
    template = jax.eval_shape(
        lambda key: to_indices(distribution.sample(seed=key)), jax.random.key(0)
    )
    return lambda x: evaluate(function, to_event(x)), jnp.zeros(template.shape, template.dtype)
