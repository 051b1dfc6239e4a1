"""Annealed importance sampling against normalisers that are known exactly."""

import functools

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.inference import (
    annealed_importance_sampling,
    geometric_path,
    reverse_annealed_importance_sampling,
)
from genjax_models.interfaces import AnnealingPath
from genjax_models.models.energy import rbm
from tests.models.energy import machines
from tests.statistics import assert_mean, jit_once

LADDER = np.linspace(0, 1, 21)
NUM_MACHINES = 64
NUM_CHAINS = 100


def forward(params, key, *, ladder=LADDER, num_chains=NUM_CHAINS, reference=None):
    path = rbm.annealing_path(params, reference)
    return annealed_importance_sampling(path, key, ladder, num_chains=num_chains)


def reverse(params, key, *, ladder=LADDER, num_chains=NUM_CHAINS):
    """From exact samples."""
    start_key, key = jax.random.split(key)
    starts = jax.vmap(rbm.exact_sampler(params))(jax.random.split(start_key, num_chains))
    path = rbm.annealing_path(params)
    return reverse_annealed_importance_sampling(path, key, starts, ladder)


@functools.cache
def both_directions():
    """Forward and reverse estimates for many machines, and the exact values."""
    each = [machines.machine(6, 4, seed=seed) for seed in range(NUM_MACHINES)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *each)

    @jit_once
    @jax.vmap
    def estimate(params, key):
        forward_key, reverse_key = jax.random.split(key)
        return forward(params, forward_key), reverse(params, reverse_key)

    keys = jax.random.split(jax.random.key(0), NUM_MACHINES)
    estimates = estimate(stacked, keys)
    return estimates, np.array([machines.log_partition(params) for params in each])


@pytest.mark.parametrize("direction", [0, 1])
def test_the_error_bars_of_random_machines_are_right(direction) -> None:
    """z-scores have mean zero and variance one, within 5 standard errors of either."""
    estimates, exact = both_directions()
    estimate = estimates[direction]
    scores = (estimate.value - exact) / estimate.monte_carlo_error
    assert np.abs(scores).max() < 5
    assert abs(scores.mean()) < 5 / NUM_MACHINES**0.5
    assert abs((scores**2).mean() - 1) < 5 * (2 / NUM_MACHINES) ** 0.5
    assert np.asarray(estimate.monte_carlo_error).max() < 0.2


def test_the_weights_are_unbiased() -> None:
    """E[w] = Z forwards, E[1/w] = 1/Z backwards, chain by chain."""
    estimates, exact = both_directions()
    for estimate, sign in zip(estimates, (1, -1), strict=True):
        ratios = np.exp(sign * (estimate.log_weights - exact[:, None]))
        assert_mean(ratios.ravel(), 1.0)


def test_the_summaries_are_those_of_the_weights() -> None:
    estimates, _ = both_directions()
    for estimate, sign in zip(estimates, (1, -1), strict=True):
        weights = np.exp(sign * np.asarray(estimate.log_weights[0], np.float64))
        value = sign * np.log(weights.mean())
        np.testing.assert_allclose(estimate.value[0], value, rtol=1e-5)
        error = weights.std(ddof=1) / weights.mean() / NUM_CHAINS**0.5
        np.testing.assert_allclose(estimate.monte_carlo_error[0], error, rtol=1e-3)
        size = weights.sum() ** 2 / (weights**2).sum()
        np.testing.assert_allclose(estimate.effective_sample_size[0], size, rtol=1e-3)


def test_weighted_states_are_samples_of_the_target() -> None:
    params = machines.machine(3, 2, scale=1.5, seed=2)
    ladder, num_chains = (0.0, 0.5, 1.0), 40_000
    estimate = jit_once(functools.partial(forward, ladder=ladder, num_chains=num_chains))(
        params, jax.random.key(3)
    )
    weights = np.exp(estimate.log_weights - machines.log_partition(params))
    # Each term of the weighted mean has the mean p(v), for E[w] = Z.
    assert_mean(weights[:, None] * machines.one_hot(estimate.states), machines.marginal(params))
    unweighted = machines.one_hot(estimate.states)
    with pytest.raises(AssertionError, match="biased"):
        assert_mean(unweighted, machines.marginal(machines.tempered(params, 0.5)))


def test_it_starts_at_the_reference() -> None:
    """From the data's means: the start is exact, so is the end, and the value is the same."""
    params = machines.machine(6, 4, seed=1)
    reference = np.float32([1.0, -0.5, 0.3, 2.0, -1.0, 0.0])
    estimate = jit_once(functools.partial(forward, reference=reference, num_chains=2000))(
        params, jax.random.key(5)
    )
    error = estimate.value - machines.log_partition(params)
    assert abs(error) < 5 * estimate.monte_carlo_error < 0.1


@functools.cache
def both_ends(num_dims: int, num_temperatures: int):
    """Forward and reverse estimates for the golf hole, and the exact value."""
    params = machines.golf_hole(num_dims)
    ladder = np.linspace(0, 1, num_temperatures)

    @jit_once
    def estimate(key):
        forward_key, reverse_key = jax.random.split(key)
        options = {"ladder": ladder, "num_chains": 200}
        return forward(params, forward_key, **options), reverse(params, reverse_key, **options)

    return estimate(jax.random.key(7)), machines.log_partition(params)


def test_the_gap_shows_where_annealing_fails() -> None:
    """Nine tenths of the mass in one state out of 2^14, which no chain finds in 20 temperatures.

    The forward error bar is small and wrong; the gap to the reverse estimate tells.
    """
    (below, above), exact = both_ends(14, 20)
    assert exact - below.value > 2 > 100 * below.monte_carlo_error
    assert below.effective_sample_size > 100
    assert abs(above.value - exact) < 5 * above.monte_carlo_error
    errors = np.hypot(below.monte_carlo_error, above.monte_carlo_error)
    assert above.value - below.value > 5 * errors


def test_the_gap_closes_where_annealing_has_time() -> None:
    """The hole is one of 2^8 states, and there are 10,000 temperatures."""
    (below, above), exact = both_ends(8, 10_000)
    for estimate in (below, above):
        assert abs(estimate.value - exact) < 5 * estimate.monte_carlo_error < 0.5
    errors = np.hypot(below.monte_carlo_error, above.monte_carlo_error)
    assert abs(above.value - below.value) < 5 * errors


def gaussian_path() -> AnnealingPath:
    """From N(1, 2^2) to exp(-(x + 1)^2 / (2 s^2)) / C, with exact draws at every temperature."""
    scale, offset = 0.5, 3.0

    def energy(x):
        return 0.5 * ((x["value"] + 1) / scale) ** 2 + offset

    class Initial:
        reparameterized = False

        def sample(self, *, seed):
            return {"value": 1 + 2 * jax.random.normal(seed)}

        def log_prob(self, x):
            return distrax.Normal(1.0, 2.0).log_prob(x["value"])

    def kernel(key, x, beta):
        precision = (1 - beta) / 4 + beta / scale**2
        mean = ((1 - beta) / 4 - beta / scale**2) / precision
        return {"value": mean + jax.random.normal(key) / jnp.sqrt(precision)}

    return geometric_path(Initial(), energy, kernel)


GAUSSIAN_LOG_PARTITION = 0.5 * np.log(2 * np.pi) + np.log(0.5) - 3.0


def test_a_geometric_path_between_gaussians() -> None:
    path, ladder, num_chains = gaussian_path(), np.linspace(0, 1, 101), 2000
    starts = {"value": -1 + 0.5 * jax.random.normal(jax.random.key(2), (num_chains,))}

    @jit_once
    def estimate(key):
        forward_key, reverse_key = jax.random.split(key)
        return (
            annealed_importance_sampling(path, forward_key, ladder, num_chains=num_chains),
            reverse_annealed_importance_sampling(path, reverse_key, starts, ladder),
        )

    for direction in estimate(jax.random.key(1)):
        error = direction.value - GAUSSIAN_LOG_PARTITION
        assert abs(error) < 5 * direction.monte_carlo_error < 0.2


def test_memory_does_not_grow_with_the_number_of_temperatures() -> None:
    params, key = machines.machine(6, 4), jax.random.key(0)

    def temporary_bytes(num_temperatures: int) -> int:
        ladder = np.linspace(0, 1, num_temperatures)
        estimate = jit_once(functools.partial(forward, ladder=ladder, num_chains=10))
        return estimate.lower(params, key).compile().memory_analysis().temp_size_in_bytes

    # The ladder itself is a few numbers a temperature.
    assert temporary_bytes(10_000) - temporary_bytes(100) < 16 * 10_000


def test_one_chain_has_no_error_bar() -> None:
    estimate = jit_once(functools.partial(forward, num_chains=1))(
        machines.machine(3, 2), jax.random.key(0)
    )
    assert np.isinf(estimate.monte_carlo_error) and np.isfinite(estimate.value)


@pytest.mark.parametrize(
    "ladder",
    [
        [0.0, 0.7, 0.5, 1.0],
        [1.0, 0.5, 0.0],
        [0.0, 0.5, 0.5, 1.0],
        [0.0, 0.5],
        [0.1, 1.0],
        [-0.1, 0.0, 1.0],
        [0.0, np.nan, 1.0],
        [0.0, 1.0 - 1e-12, 1.0],
        [0.0],
        [],
        [[0.0, 1.0]],
    ],
)
def test_ladders_that_are_refused(ladder) -> None:
    path = rbm.annealing_path(machines.machine(3, 2))
    with pytest.raises(
        ValueError, match=r"inverse_temperatures must .*increase strictly from 0 to"
    ):
        annealed_importance_sampling(path, jax.random.key(0), ladder, num_chains=2)
    with pytest.raises(ValueError, match="inverse_temperatures"):
        reverse_annealed_importance_sampling(path, jax.random.key(0), jnp.zeros((2, 3)), ladder)


def test_no_chains_are_refused() -> None:
    with pytest.raises(ValueError, match=r"num_chains.*0"):
        forward(machines.machine(3, 2), jax.random.key(0), num_chains=0)
