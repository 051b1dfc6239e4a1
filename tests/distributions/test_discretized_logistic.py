"""The discretised logistic: normalised over its levels, precise in both tails, at both ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from genjax_models.distributions import DiscretizedLogistic
from tests.statistics import assert_mean

LEVELS = [2, 17, 256]
# Locations inside, on and beyond the grid; scales from a point mass to far wider than the grid.
LOCS = [-1e4, -3.0, 0.0, 0.37, 1.0, 1.2, 1e4]
LOG_SCALES = [-1e4, -30.0, -7.0, -2.0, 1.0, 12.0, 1e4]


def grid(num_levels: int) -> np.ndarray:
    return (np.arange(num_levels) / (num_levels - 1)).astype(np.float32)


def log_probs(loc, log_scale, num_levels: int) -> jax.Array:
    """Of every level."""
    log_prob = DiscretizedLogistic(jnp.asarray(loc), jnp.asarray(log_scale), num_levels).log_prob
    return jax.vmap(log_prob)(grid(num_levels))


def exact_log_probs(loc: float, log_scale: float, num_levels: int) -> np.ndarray:
    """In float64, from the logarithms of the cumulative distribution or survival function."""
    scale = np.exp(log_scale)
    edges = (np.arange(num_levels - 1) + 0.5) / (num_levels - 1)
    edges = np.concatenate([[-np.inf], edges, [np.inf]])
    lower, upper = (edges[:-1] - loc) / scale, (edges[1:] - loc) / scale
    # Each tail is computed from its own side, where its logarithm is precise.
    mirrored = lower + upper > 0
    lower, upper = np.where(mirrored, -upper, lower), np.where(mirrored, -lower, upper)
    log_upper, log_lower = stats.logistic.logcdf(upper), stats.logistic.logcdf(lower)
    return log_upper + np.log(-np.expm1(log_lower - log_upper))


@pytest.mark.parametrize("num_levels", LEVELS)
def test_probabilities_sum_to_one(num_levels: int) -> None:
    locs, log_scales = map(np.ravel, np.meshgrid(LOCS, LOG_SCALES))
    sums = np.exp(
        jax.jit(jax.vmap(lambda m, s: log_probs(m, s, num_levels)))(locs, log_scales),
        dtype=np.float64,
    ).sum(axis=1)
    np.testing.assert_allclose(sums, 1, atol=2e-5)


@pytest.mark.parametrize("num_levels", [17, 256])
def test_log_prob_is_the_difference_of_cumulative_probabilities(num_levels: int) -> None:
    ours = jax.jit(lambda m, s: log_probs(m, s, num_levels))
    edges = (np.arange(num_levels - 1) + 0.5) / (num_levels - 1)
    for loc, log_scale in [(0.37, -2.0), (0.9, -1.0), (-0.2, -1.5), (0.5, 2.0)]:
        cdf = stats.logistic.cdf(edges, loc, np.exp(log_scale))
        exact = np.log(np.diff(cdf, prepend=0, append=1))
        np.testing.assert_allclose(ours(loc, log_scale), exact, rtol=1e-4)
        np.testing.assert_allclose(exact_log_probs(loc, log_scale, num_levels), exact, rtol=1e-6)


@pytest.mark.parametrize("num_levels", [17, 256])
def test_log_prob_in_the_tails(num_levels: int) -> None:
    """Relative precision where a difference of probabilities would be zero in any precision."""
    ours = jax.jit(lambda m, s: log_probs(m, s, num_levels))
    for loc in (-3.0, 0.0, 0.37, 1.0, 1.2, 40.0):
        for log_scale in (-6.0, -3.0, 0.0, 5.0):
            exact = exact_log_probs(loc, log_scale, num_levels)
            np.testing.assert_allclose(ours(loc, log_scale), exact, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("num_levels", [17, 256])
def test_gradients_at_both_ends(num_levels: int) -> None:
    """d log P / dm = (F(a) + F(b) - 1) / s; d / dlog s by differences of the exact answer."""
    gradient = jax.jit(jax.jacobian(lambda m, s: log_probs(m, s, num_levels), (0, 1)))
    edges = (np.arange(num_levels - 1) + 0.5) / (num_levels - 1)
    for loc in (-3.0, 0.0, 0.37, 1.0, 1.2):
        for log_scale in (-5.0, -2.0, 1.0):
            scale = np.exp(log_scale)
            cdf = np.concatenate([[0], stats.logistic.cdf(edges, loc, scale), [1]])
            step = 1e-5
            differences = exact_log_probs(loc, log_scale + step, num_levels)
            differences -= exact_log_probs(loc, log_scale - step, num_levels)
            by_loc, by_log_scale = gradient(loc, log_scale)
            exact = (cdf[1:] + cdf[:-1] - 1) / scale
            np.testing.assert_allclose(by_loc, exact, rtol=1e-3, atol=1e-3 / scale)
            np.testing.assert_allclose(by_log_scale, differences / (2 * step), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("num_levels", LEVELS)
def test_nothing_overflows(num_levels: int) -> None:
    locs, log_scales = map(np.ravel, np.meshgrid(LOCS, LOG_SCALES))
    value = jax.vmap(lambda m, s: log_probs(m, s, num_levels))
    gradient = jax.vmap(jax.jacobian(lambda m, s: log_probs(m, s, num_levels), (0, 1)))
    for numbers in jax.tree.leaves(jax.jit(lambda *a: (value(*a), gradient(*a)))(locs, log_scales)):
        assert np.isfinite(numbers).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("num_levels", "loc", "log_scale"), [(17, 0.3, -2.0), (256, 0.9, -4.0)])
def test_bfloat16_parameters_keep_the_probabilities(num_levels, loc, log_scale, dtype) -> None:
    loc, log_scale = jnp.asarray(loc, dtype), jnp.asarray(log_scale, dtype)
    ours = log_probs(loc, log_scale, num_levels)
    assert ours.dtype == jnp.float32
    exact = exact_log_probs(float(loc), float(log_scale), num_levels)
    np.testing.assert_allclose(ours, exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("loc", "log_scale"), [(0.3, -2.0), (0.9, -1.0), (-0.1, -2.5)])
def test_frequencies_of_samples_are_the_probabilities(loc, log_scale, dtype) -> None:
    distribution = DiscretizedLogistic(jnp.asarray(loc, dtype), jnp.asarray(log_scale, dtype), 17)
    keys = jax.random.split(jax.random.key(0), 40_000)
    samples = jax.jit(jax.vmap(lambda key: distribution.sample(seed=key)))(keys)
    assert samples.dtype == dtype
    levels = np.asarray(samples, np.float64) * 16
    np.testing.assert_allclose(levels, np.round(levels), atol=0 if dtype == jnp.bfloat16 else 1e-5)
    frequencies = np.round(levels)[:, None] == np.arange(17)
    exact = np.exp(exact_log_probs(float(distribution.loc), float(distribution.log_scale), 17))
    # Of what is hardly ever drawn the standard error is not known: all such levels count as one.
    rare = exact < 1e-3
    frequencies = np.column_stack([frequencies[:, ~rare], frequencies[:, rare].sum(axis=1)])
    assert_mean(frequencies, np.append(exact[~rare], exact[rare].sum()))


@pytest.mark.parametrize("num_levels", [2, 17, 50, 256])
def test_samples_are_levels(num_levels: int) -> None:
    """All of them, and the ends exactly: 1 / (1 / 49) is not 49."""
    draws = jnp.zeros(20_000)
    samples = DiscretizedLogistic(draws + 0.5, draws + 1, num_levels).sample(seed=jax.random.key(0))
    np.testing.assert_allclose(np.unique(np.round(samples, 5)), grid(num_levels), atol=1e-5)
    assert samples.min() == 0 and samples.max() == 1


@pytest.mark.parametrize("num_levels", LEVELS)
def test_mean_is_the_mean_over_all_levels(num_levels: int) -> None:
    locs, log_scales = map(np.ravel, np.meshgrid(LOCS, LOG_SCALES))
    means = DiscretizedLogistic(jnp.array(locs), jnp.array(log_scales), num_levels).mean()
    probabilities = np.exp(
        jax.jit(jax.vmap(lambda m, s: log_probs(m, s, num_levels)))(locs, log_scales)
    )
    np.testing.assert_allclose(means, probabilities @ grid(num_levels), atol=2e-5)


def test_log_prob_sums_over_the_event_in_float32() -> None:
    loc, log_scale = jnp.full(784, 0.3, jnp.bfloat16), jnp.full(784, -2.0, jnp.bfloat16)
    value = jnp.tile(grid(17)[:16], 49)
    total = DiscretizedLogistic(loc, log_scale, 17).log_prob(value)
    assert total.dtype == jnp.float32
    exact = 49 * exact_log_probs(float(loc[0]), -2.0, 17)[:16].sum()
    np.testing.assert_allclose(total, exact, rtol=1e-4)


def test_sample_and_log_prob_agree() -> None:
    distribution = DiscretizedLogistic(jnp.array([0.3, 0.8]), jnp.array([-2.0, -1.0]), 17)
    key = jax.random.key(0)
    value, log_prob = distribution.sample_and_log_prob(seed=jax.random.clone(key))
    np.testing.assert_array_equal(value, distribution.sample(seed=key))
    np.testing.assert_allclose(log_prob, distribution.log_prob(value))
