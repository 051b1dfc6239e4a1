"""Baselines of the score function from the other samples, for any bound.

The gradient of E[bound] in the parameters of q is E[sum_k (bound - b_k) grad log q(z_k | x)] beside
that of the bound itself, for any b_k that does not depend on z_k. All functions here give b_k from
the other K - 1 log weights, shape [K]; no gradient flows through them.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.interfaces import Array
from genjax_models.learning import bounds
from genjax_models.learning.bounds import Bound
from genjax_models.learning.gradients.core import leave_one_out_sums


def leave_one_out_baselines(bound: Bound, log_weights: Array) -> Array:
    """b_k = bound of the other K - 1 samples.

    For the ELBO, bound - b_k = (log w_k - mean of the others) / K: the usual leave-one-out mean.

    Args:
        bound: of any number of samples.
        log_weights: log w, shape [K], K >= 2.

    Returns:
        Baselines, shape [K].

    Source: Kool et al. 2019 (Buy 4 REINFORCE samples, get a baseline for free).
    """
    log_weights = jax.lax.stop_gradient(log_weights)
    if bound is bounds.elbo:
        return mean_of_others(log_weights)
    if bound is bounds.iwae:
        return log_mean_of_others(log_weights)
    num_samples = log_weights.shape[0]
    # Row k lists the other samples.
    others = (np.arange(num_samples)[:, None] + np.arange(1, num_samples)) % num_samples
    return jax.vmap(bound)(log_weights[np.sort(others)])


def vimco_baselines(bound: Bound, log_weights: Array, mean: str) -> Array:
    """b_k = bound with w_k replaced by a mean of the other K - 1 weights.

    Args:
        bound: of K samples.
        log_weights: log w, shape [K], K >= 2.
        mean: "geometric" (the mean of log w_j) or "arithmetic" (the log of the mean of w_j; for
            IWAE this is the bound of the others).

    Returns:
        Baselines, shape [K].

    Source: Mnih & Rezende 2016 (Variational inference for Monte Carlo objectives), equation 9.
    """
    log_weights = jax.lax.stop_gradient(log_weights)
    num_samples = log_weights.shape[0]
    arithmetic = log_mean_of_others(log_weights)
    substitutes = arithmetic if mean == "arithmetic" else mean_of_others(log_weights)
    if bound is bounds.iwae:
        others = arithmetic + math.log(num_samples - 1)
        return jnp.logaddexp(others, substitutes) - math.log(num_samples)
    is_own = np.eye(num_samples, dtype=bool)
    return jax.vmap(bound)(jnp.where(is_own, substitutes, log_weights))


def signals(values: Array, baselines: Array) -> Array:
    """The learning signals values - baselines, finite ones; no gradient flows through them.

    A baseline of minus infinity, where the other samples have no weight, is no baseline: zero
    stands for it, which does not depend on sample k either. A signal that is still infinite comes
    from a log weight of -inf in a bound that averages logarithms, and is left out.
    """
    baselines = jnp.where(jnp.isinf(baselines), 0, baselines)
    difference = jax.lax.stop_gradient(values - baselines)
    return jnp.where(jnp.isinf(difference), 0, difference)


def mean_of_others(values: Array) -> Array:
    """1/(K - 1) sum over j != k of v_j, shape [K]; -inf where one of them is."""
    return leave_one_out_sums(values) / (values.shape[0] - 1)


def log_mean_of_others(values: Array) -> Array:
    """log 1/(K - 1) sum over j != k of e^v_j, shape [K]; nothing cancels."""
    num_samples = values.shape[0]
    is_largest = jnp.arange(num_samples) == jnp.argmax(values)
    largest = jnp.max(values)
    shifted = jnp.exp(values - jnp.where(jnp.isinf(largest), 0, largest))
    # Without a smaller one, the sum still holds the largest: no cancellation.
    rest = jnp.sum(shifted) - shifted
    without_smaller = largest + jnp.log(jnp.where(is_largest, 1, rest))
    without_largest = jax.nn.logsumexp(jnp.where(is_largest, -jnp.inf, values))
    return jnp.where(is_largest, without_largest, without_smaller) - math.log(num_samples - 1)
