"""The discretised Gaussian: normalised over its levels, precise in both tails, at both ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from genjax_models.distributions import DiscretizedGaussian
from tests.statistics import assert_mean, jit_once

LEVELS = [2, 17, 256]
# Locations inside, on and beyond the grid; scales from a point mass to far wider than the grid.
LOCS = [-1e4, -3.0, 0.0, 0.37, 1.0, 1.2, 1e4]
LOG_SCALES = [-1e4, -30.0, -7.0, -2.0, 1.0, 12.0, 1e4]
EXTREMES = [values.ravel() for values in np.meshgrid(LOCS, LOG_SCALES)]


def grid(num_levels: int) -> np.ndarray:
    return (np.arange(num_levels) / (num_levels - 1)).astype(np.float32)


def log_probs(loc, log_scale, num_levels: int) -> jax.Array:
    """Of every level."""
    log_prob = DiscretizedGaussian(jnp.asarray(loc), jnp.asarray(log_scale), num_levels).log_prob
    return jax.vmap(log_prob)(grid(num_levels))


def exact_log_probs(loc: float, log_scale: float, num_levels: int) -> np.ndarray:
    """In float64, each tail from its own side, where its logarithm is precise."""
    edges = (np.arange(num_levels - 1) + 0.5) / (num_levels - 1)
    edges = (np.concatenate([[-np.inf], edges, [np.inf]]) - loc) / np.exp(log_scale)
    lower, upper = edges[:-1], edges[1:]
    mirrored = lower + upper > 0
    lower, upper = np.where(mirrored, -upper, lower), np.where(mirrored, -lower, upper)
    log_upper, log_lower = stats.norm.logcdf(upper), stats.norm.logcdf(lower)
    return log_upper + np.log(-np.expm1(log_lower - log_upper))


@pytest.mark.parametrize("num_levels", LEVELS)
def test_probabilities_sum_to_one(num_levels: int) -> None:
    values = jit_once(jax.vmap(lambda m, s: log_probs(m, s, num_levels)))(*EXTREMES)
    np.testing.assert_allclose(np.exp(values, dtype=np.float64).sum(axis=1), 1, atol=2e-5)


@pytest.mark.parametrize("num_levels", [17, 256])
def test_log_prob_is_the_difference_of_cumulative_probabilities(num_levels: int) -> None:
    """And keeps its digits where a difference of probabilities would be zero in any precision."""
    edges = (np.arange(num_levels - 1) + 0.5) / (num_levels - 1)
    cdf = stats.norm.cdf(edges, 0.37, np.exp(-2.0))
    plain = np.log(np.diff(cdf, prepend=0, append=1))
    np.testing.assert_allclose(exact_log_probs(0.37, -2.0, num_levels), plain, rtol=1e-6)
    ours = jit_once(lambda m, s: log_probs(m, s, num_levels))
    for loc in (-3.0, 0.0, 0.37, 1.0, 1.2, 40.0):
        for log_scale in (-6.0, -2.0, 0.0, 2.5, 5.0):
            exact = exact_log_probs(loc, log_scale, num_levels)
            np.testing.assert_allclose(ours(loc, log_scale), exact, rtol=5e-5, atol=5e-5)


@pytest.mark.parametrize("num_levels", [17, 256])
def test_gradients_at_both_ends(num_levels: int) -> None:
    """By the location and the scale, against differences of the exact answer."""
    gradient = jit_once(jax.jacobian(lambda m, s: log_probs(m, s, num_levels), (0, 1)))
    step = 1e-5
    for loc in (-3.0, 0.0, 0.37, 1.0, 1.2):
        for log_scale in (-5.0, -2.0, 1.0):
            scale = np.exp(log_scale)
            found = gradient(loc, log_scale)
            for by, (shift_m, shift_s) in zip(found, [(step * scale, 0), (0, step)], strict=True):
                differences = exact_log_probs(loc + shift_m, log_scale + shift_s, num_levels)
                differences -= exact_log_probs(loc - shift_m, log_scale - shift_s, num_levels)
                exact = differences / (2 * (shift_m + shift_s))
                np.testing.assert_allclose(by, exact, rtol=1e-3, atol=1e-3 / min(scale, 1))


def test_the_gradient_far_in_the_tail_is_linear() -> None:
    """d log P / dm = (x - m) / s^2 to first order, where the derivative of jax is far off."""
    for distance in (50.0, 1e3, 1e4, 1e6):
        gradient = jax.grad(lambda m: DiscretizedGaussian(m, 0.0, 2).log_prob(jnp.float32(0)))
        np.testing.assert_allclose(gradient(jnp.float32(distance)), -(distance - 0.5), rtol=1e-3)


@pytest.mark.parametrize("num_levels", LEVELS)
def test_nothing_overflows(num_levels: int) -> None:
    both = jax.value_and_grad(lambda p: log_probs(*p, num_levels).sum())
    for numbers in jax.tree.leaves(jit_once(jax.vmap(both))(tuple(EXTREMES))):
        assert np.isfinite(numbers).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_frequencies_of_samples_are_the_probabilities(dtype) -> None:
    for seed, (loc, log_scale) in enumerate([(0.3, -2.0), (0.9, -1.0), (-0.1, -2.5)]):
        distribution = DiscretizedGaussian(
            jnp.full(40_000, loc, dtype), jnp.asarray(log_scale, dtype), 17
        )
        samples = distribution.sample(seed=jax.random.key(seed))
        assert samples.dtype == dtype
        levels = np.asarray(samples, np.float64) * 16
        np.testing.assert_allclose(levels, np.round(levels), atol=1e-5)
        frequencies = np.round(levels)[:, None] == np.arange(17)
        exact = np.exp(exact_log_probs(float(distribution.loc[0]), log_scale, 17))
        # Of what is hardly ever drawn the standard error is not known: all such levels are one.
        rare = exact < 1e-3
        frequencies = np.column_stack([frequencies[:, ~rare], frequencies[:, rare].sum(axis=1)])
        assert_mean(frequencies, np.append(exact[~rare], exact[rare].sum()))


@pytest.mark.parametrize("num_levels", LEVELS)
def test_mean_is_the_mean_over_all_levels(num_levels: int) -> None:
    means = DiscretizedGaussian(*map(jnp.array, EXTREMES), num_levels).mean()
    values = jit_once(jax.vmap(lambda m, s: log_probs(m, s, num_levels)))(*EXTREMES)
    np.testing.assert_allclose(means, np.exp(values) @ grid(num_levels), atol=2e-5)


def test_one_scale_may_be_shared_and_bfloat16_sums_in_float32() -> None:
    loc = jnp.full(784, 0.3, jnp.bfloat16)
    value = jnp.tile(grid(17)[:16], 49)
    total = DiscretizedGaussian(loc, jnp.bfloat16(-2.0), 17).log_prob(value)
    assert total.dtype == jnp.float32
    exact = 49 * exact_log_probs(float(loc[0]), -2.0, 17)[:16].sum()
    np.testing.assert_allclose(total, exact, rtol=1e-4)


def test_sample_and_log_prob_agree() -> None:
    distribution = DiscretizedGaussian(jnp.array([0.3, 0.8]), jnp.array([-2.0, -1.0]), 17)
    key = jax.random.key(0)
    value, log_prob = distribution.sample_and_log_prob(seed=jax.random.clone(key))
    np.testing.assert_array_equal(value, distribution.sample(seed=key))
    np.testing.assert_allclose(log_prob, distribution.log_prob(value))
