"""Annealed importance sampling: the normalising constant of an unnormalised density.

Chains go through the densities f_beta from one whose normaliser is known to one whose normaliser
is not, or back. Forward, from exact samples of the known end, exp(log weight) is an unbiased
estimate of Z, so that log Z is underestimated on average; backward, from exact samples of the other
end, exp(-log weight) is one of 1/Z, so that log Z is overestimated on average. Where chains do not
mix, error bars are small and wrong: it is the gap between the two directions that shows it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import logsumexp

from genjax_models.checks import check_sizes
from genjax_models.interfaces import AnnealingPath, Array, Distribution, Key, PyTree


class LogPartition(NamedTuple):
    """An estimate of log Z, from independent chains.

    Attributes:
        value: in nats. On average a lower bound on log Z from forward chains, and an upper bound
            from reverse chains whose starts were exact samples.
        monte_carlo_error: its standard error over the chains by the delta method,
            sd(w) / (sqrt(num_chains) mean(w)); it does not contain the bias, and is too small
            itself where the effective sample size is. Infinite for one chain.
        effective_sample_size: (sum w)^2 / sum w^2, between 1 and the number of chains.
        log_weights: of every chain, [num_chains], estimates of log Z each.
        states: where the chains ended, with leading axis [num_chains]; those of forward chains are
            samples of f_1 when weighted by exp(log_weights).
    """

    value: Array
    monte_carlo_error: Array
    effective_sample_size: Array
    log_weights: Array
    states: PyTree


def annealed_importance_sampling(
    path: AnnealingPath, key: Key, inverse_temperatures: Any, *, num_chains: int
) -> LogPartition:
    """Estimate log Z of f_1 by chains from exact samples of f_0: a lower bound on average.

        log w = log Z_0 + sum_k log f_{beta_k}(x_{k-1}) - log f_{beta_{k-1}}(x_{k-1}),
        x_0 ~ f_0,  x_k ~ kernel at beta_k from x_{k-1}
        log Z ~ log mean w

    Memory does not depend on the number of temperatures.

    Args:
        path: from the known density to the wanted one.
        key: PRNG key.
        inverse_temperatures: 0 = beta_0 < ... < beta_K = 1, concrete numbers (a ladder).
        num_chains: independent chains, vmapped.

    Returns:
        The estimate, its error and the effective sample size.

    Raises:
        ValueError: a ladder that is not strictly increasing from 0 to 1 in the path's precision,
            or num_chains < 1.

    Source: Neal 2001 (Annealed importance sampling); Salakhutdinov & Murray 2008.
    """
    check_sizes(num_chains=num_chains)
    betas = check_ladder(inverse_temperatures, starts_at=0.0)
    start_key, chain_key = jax.random.split(key)
    starts = jax.vmap(path.sample)(jax.random.split(start_key, num_chains))
    log_weights, states = _anneal(path, chain_key, starts, betas)
    return _estimate(log_weights + path.log_normalizer, states, sign=1)


def reverse_annealed_importance_sampling(
    path: AnnealingPath, key: Key, starts: PyTree, inverse_temperatures: Any
) -> LogPartition:
    """Estimate log Z of f_1 by chains from samples of f_1 to f_0.

        -log w = -log Z_0 + sum over the ladder downwards, as in the forward direction
        log Z ~ -log mean exp(-log w)

    An upper bound on average **if the starts are exact samples** of f_1 (`rbm.exact_sampler`, or
    data simulated from the model). From the end of a long chain it is approximate: a chain that
    misses a mode hides it from both directions.

    Args:
        path: as in the forward direction.
        key: PRNG key.
        starts: samples of f_1, with leading axis [num_chains].
        inverse_temperatures: as in the forward direction.

    Returns:
        The estimate; `log_weights` are log w, so that they compare with the forward ones.

    Raises:
        ValueError: as of the forward direction.

    Source: Grosse et al. 2015 (Sandwiching the marginal likelihood using bidirectional Monte
    Carlo); Burda et al. 2015 (Accurate and conservative estimates of MRF log-likelihood).
    """
    betas = check_ladder(inverse_temperatures, starts_at=0.0)
    log_weights, states = _anneal(path, key, starts, betas[::-1])
    return _estimate(path.log_normalizer - log_weights, states, sign=-1)


def geometric_path(
    initial: Distribution,
    energy: Callable[[PyTree], Array],
    kernel: Callable[[Key, PyTree, Array], PyTree],
) -> AnnealingPath:
    """The path f_beta(x) = p_0(x)^(1 - beta) exp(-beta energy(x)) from a normalised density p_0.

    Args:
        initial: p_0, with `sample` and `log_prob`.
        energy: `energy(x) -> []`, of the density whose normaliser is wanted.
        kernel: `kernel(key, x, beta) -> x`, which leaves f_beta invariant.

    Returns:
        The path.
    """

    def path_energy(x: PyTree, beta: Array) -> Array:
        return beta * energy(x) - (1 - beta) * initial.log_prob(x)

    def sample(key: Key) -> PyTree:
        return initial.sample(seed=key)

    return AnnealingPath(sample, jnp.zeros(()), path_energy, kernel)


def check_ladder(inverse_temperatures: Any, *, starts_at: float | None = None) -> np.ndarray:
    """Inverse temperatures as an array in JAX's precision, once they are known to be a ladder.

    Raises:
        ValueError: they do not increase strictly to 1, from `starts_at` or any number >= 0.
    """
    given = np.asarray(inverse_temperatures)
    betas = given.astype(jnp.zeros(()).dtype)
    rises = betas.ndim == 1 and betas.size >= 2 and bool(np.all(np.diff(betas) > 0))
    lowest = 0.0 if starts_at is None else starts_at
    if not rises or betas[-1] != 1 or betas[0] < 0 or (starts_at is not None and betas[0] > lowest):
        start = "0 or more" if starts_at is None else f"{starts_at:g}"
        raise ValueError(
            f"inverse_temperatures must be two or more numbers that increase strictly from {start}"
            f" to 1 (in {betas.dtype}), got {np.array2string(given, threshold=6)}"
        )
    return betas


def _anneal(
    path: AnnealingPath, key: Key, starts: PyTree, betas: np.ndarray
) -> tuple[Array, PyTree]:
    """Sums of log f_new(x) - log f_old(x) along a ladder, and where the chains end."""
    num_chains = jax.tree.leaves(starts)[0].shape[0]
    keys = jax.random.split(key, num_chains)

    def move(carry: tuple[Array, PyTree], rung: tuple[Array, ...]) -> tuple[Any, None]:
        index, old, new = rung

        def one_chain(chain_key: Key, x: PyTree) -> tuple[Array, PyTree]:
            log_ratio = path.energy(x, old) - path.energy(x, new)
            return log_ratio, path.kernel(jax.random.fold_in(chain_key, index), x, new)

        log_weights, states = carry
        log_ratios, states = jax.vmap(one_chain)(keys, states)
        return (log_weights + log_ratios, states), None

    dtype = jax.eval_shape(lambda x: jax.vmap(path.energy, (0, None))(x, betas[0]), starts).dtype
    carry = (jnp.zeros(num_chains, dtype), starts)
    rungs = (jnp.arange(betas.size - 1), jnp.asarray(betas[:-1]), jnp.asarray(betas[1:]))
    return jax.lax.scan(move, carry, rungs)[0]


def _estimate(log_weights: Array, states: PyTree, *, sign: int) -> LogPartition:
    """sign * log mean w^sign, with its error."""
    signed, num_chains = sign * log_weights, log_weights.size
    effective_sample_size = jnp.exp(2 * logsumexp(signed) - logsumexp(2 * signed))
    # Variance of w over mean^2 is N / ESS - 1, with N / (N - 1) for the sample variance.
    relative_variance = jnp.maximum(num_chains / effective_sample_size - 1, 0)
    error = jnp.sqrt(relative_variance / (num_chains - 1)) if num_chains > 1 else jnp.inf
    return LogPartition(
        value=sign * (logsumexp(signed) - jnp.log(num_chains)),
        monte_carlo_error=jnp.asarray(error, log_weights.dtype),
        effective_sample_size=effective_sample_size,
        log_weights=log_weights,
        states=states,
    )
