"""The log-likelihood of a latent-variable model by importance sampling."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import logsumexp

from genjax_models.interfaces import Array, Key, LatentVariableModel, Params, PyTree
from genjax_models.learning.importance import check_num_samples, importance_sampler, log_weights


class LogLikelihood(NamedTuple):
    """An importance-sampling estimate of log p(x).

    Attributes:
        value: log (1/K) sum_k w_k, in nats: a **lower bound on log p(x) in expectation**, which
            tightens as K grows.
        monte_carlo_error: standard error of the value over the draws of z, in nats, by the delta
            method: sd(w) / (sqrt(K) mean(w)). It does not contain the bias, and is too small
            itself where the effective sample size is; infinite for K = 1.
        effective_sample_size: (sum_k w_k)^2 / sum_k w_k^2, between 1 and K.
    """

    value: Array
    monte_carlo_error: Array
    effective_sample_size: Array


def log_likelihood(
    model: LatentVariableModel,
    params: Params,
    key: Key,
    x: PyTree,
    *,
    num_samples: int = 5000,
    chunk_size: int = 100,
) -> LogLikelihood:
    """Estimate log p(x) of one x by K importance samples from the approximate posterior.

        log p(x) ~ log (1/K) sum_k p(x, z_k) / q(z_k | x),  z_k ~ q(z | x)

    The samples are streamed: memory is that of one chunk, whatever K. The draws do not depend on
    the chunk size, and are those of `learning.importance_samples` with the same key. For a data
    set: `jax.vmap(lambda key, x: log_likelihood(model, params, key, x))(keys, xs)`.

    Args:
        model: any latent-variable model.
        params: its parameters.
        key: PRNG key.
        x: one example.
        num_samples: K >= 1.
        chunk_size: samples held at a time.

    Returns:
        The value, its Monte Carlo error and the effective sample size, each of shape [].

    Raises:
        ValueError: K < 1, a chunk size < 1, or a log-probability that is not a scalar.

    Source: Burda et al. 2016, section 5 (K = 5000).
    """
    check_num_samples(num_samples)
    if not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(f"chunk_size must be an integer >= 1, got {chunk_size!r}")
    chunk_size = min(chunk_size, num_samples)
    draw = importance_sampler(model, params, x)

    def log_weight(index: Array) -> Array:
        # fold_in(key, k) is split(key, K)[k], without holding K keys.
        value = draw(jax.random.fold_in(key, index)).log_weights
        # The last chunk may reach beyond K; a weight of zero leaves every sum as it is.
        return jnp.where(index < num_samples, value, -jnp.inf)

    def add_chunk(index: Array, log_sums: Array) -> Array:
        chunk_weights = jax.vmap(log_weight)(index * chunk_size + jnp.arange(chunk_size))
        chunk = jnp.stack([logsumexp(chunk_weights), logsumexp(2 * chunk_weights)])
        return jnp.logaddexp(log_sums, chunk)

    dtype = jax.eval_shape(log_weight, jnp.arange(1)[0]).dtype
    num_chunks = -(-num_samples // chunk_size)
    nothing = jnp.full(2, -jnp.inf, dtype)
    log_sum, log_sum_of_squares = jax.lax.fori_loop(0, num_chunks, add_chunk, nothing)
    effective_sample_size = jnp.exp(2 * log_sum - log_sum_of_squares)
    # Variance of w over mean^2 is K / ESS - 1, with K / (K - 1) for the sample variance.
    relative_variance = jnp.maximum(num_samples / effective_sample_size - 1, 0)
    degrees_of_freedom = num_samples - 1
    error = jnp.sqrt(relative_variance / degrees_of_freedom) if degrees_of_freedom else jnp.inf
    return LogLikelihood(
        value=log_sum - jnp.log(jnp.asarray(num_samples, dtype)),
        monte_carlo_error=jnp.asarray(error, dtype),
        effective_sample_size=effective_sample_size,
    )


class BoundEstimate(NamedTuple):
    """An estimate of a bound, the expectation over K draws of z.

    Attributes:
        value: the mean over replicates, in nats.
        monte_carlo_error: its standard error over the draws.
    """

    value: Array
    monte_carlo_error: Array


def bound_estimate(
    model: LatentVariableModel,
    params: Params,
    key: Key,
    x: PyTree,
    *,
    bound: Callable[[Array], Array],
    num_samples: int = 1,
    num_replicates: int = 10,
) -> BoundEstimate:
    """Estimate a bound for one x by its mean over independent replicates of K samples.

    Args:
        model: any latent-variable model.
        params: its parameters.
        key: PRNG key.
        x: one example.
        bound: from log weights [K] to a scalar, e.g. `learning.bounds.elbo`.
        num_samples: K >= 1.
        num_replicates: R >= 2.

    Returns:
        The mean, and the standard deviation over replicates divided by sqrt(R).

    Raises:
        ValueError: K < 1, R < 2, or a log-probability that is not a scalar.
    """
    if num_replicates < 2:
        raise ValueError(f"num_replicates must be at least 2, got {num_replicates}")
    weights = log_weights(model, params, key, x, num_samples * num_replicates)
    values = jax.vmap(bound)(weights.reshape(num_replicates, num_samples))
    return BoundEstimate(jnp.mean(values), jnp.std(values, ddof=1) / num_replicates**0.5)
