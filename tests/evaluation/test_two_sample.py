"""The kernel two-sample test against closed forms, enumeration, and its own promise of a level."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from genjax_models.evaluation import median_distance, mmd_test, squared_mmd
from tests.statistics import assert_mean, jit_once

LOC_P, SCALE_P = np.array([0.3, -0.5]), np.array([1.0, 0.7])
LOC_Q, SCALE_Q = np.array([-0.4, 0.2]), np.array([0.8, 1.1])


def mean_kernel(loc_x, scale_x, loc_y, scale_y, bandwidth):
    """E exp(-||x - y||^2 / 2 s^2) of two diagonal Gaussians: x - y is Gaussian."""
    variance = scale_x**2 + scale_y**2 + bandwidth**2
    terms = np.log(bandwidth**2 / variance) - (loc_x - loc_y) ** 2 / variance
    return np.exp(0.5 * terms.sum())


def exact_squared_mmd(bandwidths) -> float:
    p, q = (LOC_P, SCALE_P), (LOC_Q, SCALE_Q)
    return np.mean(
        [
            mean_kernel(*p, *p, s) + mean_kernel(*q, *q, s) - 2 * mean_kernel(*p, *q, s)
            for s in np.atleast_1d(bandwidths)
        ]
    )


def naive_squared_mmd(x, y, bandwidth) -> float:
    """By its definition, pair after pair."""

    def kernel(a, b):
        return math.exp(-float(np.sum((a - b) ** 2)) / (2 * bandwidth**2))

    within = [np.mean([kernel(*pair) for pair in itertools.permutations(z, 2)]) for z in (x, y)]
    return sum(within) - 2 * np.mean([kernel(a, b) for a in x for b in y])


def draw_pair(key, num_x: int, num_y: int, *, same: bool = False):
    x_key, y_key = jax.random.split(key)
    x = LOC_P + SCALE_P * jax.random.normal(x_key, (num_x, 2))
    y = jax.random.normal(y_key, (num_y, 2))
    return x, LOC_P + SCALE_P * y if same else LOC_Q + SCALE_Q * y


@functools.cache
def replicates():
    """Many small pairs of p and q: the estimates with their errors."""

    @jit_once
    @jax.vmap
    def estimate(key):
        return squared_mmd(*draw_pair(key, 40, 25), bandwidth=0.9)

    return jax.tree.map(np.asarray, estimate(jax.random.split(jax.random.key(0), 2000)))


@functools.cache
def null_p_values(num_permutations: int):
    """p-values of many small pairs of one distribution."""

    @jit_once
    @jax.vmap
    def test(key):
        data_key, test_key = jax.random.split(key)
        x, y = draw_pair(data_key, 9, 6, same=True)
        return mmd_test(test_key, x, y, bandwidth=1.0, num_permutations=num_permutations).p_value

    return np.asarray(test(jax.random.split(jax.random.key(1), 4000)), np.float64)


@pytest.mark.parametrize("chunk_size", [1, 7, 500])
def test_the_estimate_is_its_definition(chunk_size: int) -> None:
    """For every size of a chunk, whole or not, with one bandwidth or several."""
    x, y = map(np.asarray, draw_pair(jax.random.key(2), 8, 5))
    for bandwidths in (0.8, [0.3], [0.5, 1.0, 4.0]):
        exact = np.mean([naive_squared_mmd(x, y, s) for s in np.atleast_1d(bandwidths)])
        estimate = squared_mmd(x, y, bandwidth=jnp.array(bandwidths), chunk_size=chunk_size)
        np.testing.assert_allclose(estimate.value, exact, rtol=1e-4, atol=1e-6)


def test_the_estimate_is_unbiased() -> None:
    assert_mean(replicates().value, np.float64(exact_squared_mmd(0.9)))


def test_the_naive_estimate_with_its_diagonal_would_be_rejected() -> None:
    """The mutant: pairs of an example with itself, whose kernel is one."""
    bias = (1 - mean_kernel(LOC_P, SCALE_P, LOC_P, SCALE_P, 0.9)) / 40
    with pytest.raises(AssertionError, match="biased"):
        assert_mean(replicates().value + bias, np.float64(exact_squared_mmd(0.9)))


def test_its_errors_are_those_of_either_set() -> None:
    """Together they are the spread over replicates; each alone that over its own set."""
    estimates = replicates()
    together = np.sqrt(np.mean(estimates.x_error**2 + estimates.y_error**2))
    assert together == pytest.approx(estimates.value.std(), rel=0.1)

    @jit_once
    @jax.vmap
    def with_one_y(key):
        # So many y that they no longer matter, and x anew each time.
        x, _ = draw_pair(key, 40, 2)
        _, y = draw_pair(jax.random.key(3), 2, 400)
        return squared_mmd(x, y, bandwidth=0.9)

    alone = with_one_y(jax.random.split(jax.random.key(4), 200))
    error = float(np.sqrt(np.mean(alone.x_error**2)))
    assert error == pytest.approx(float(np.std(alone.value)), rel=0.2)
    assert (alone.y_error < 0.7 * alone.x_error).all()


def test_the_estimate_has_no_side_and_no_origin() -> None:
    x, y = draw_pair(jax.random.key(5), 30, 20)
    estimate = squared_mmd(x, y, bandwidth=1.0)
    turned = squared_mmd(y, x, bandwidth=1.0)
    np.testing.assert_allclose(turned.value, estimate.value, atol=1e-6)
    np.testing.assert_allclose(turned.x_error, estimate.y_error, rtol=1e-4)
    # Far from the origin squared distances are differences of large numbers.
    moved = squared_mmd(x + 1000, y + 1000, bandwidth=1.0)
    np.testing.assert_allclose(moved.value, estimate.value, atol=1e-4)
    scaled = squared_mmd(100 * x, 100 * y, bandwidth=100.0)
    np.testing.assert_allclose(scaled.value, estimate.value, atol=1e-5)


def test_many_examples_lose_nothing_to_rounding() -> None:
    """In float32 as in float64: what is compared is a difference of sums of millions of terms."""
    x, y = draw_pair(jax.random.key(6), 1500, 1500, same=True)
    single = squared_mmd(x, y, bandwidth=2.0)
    with jax.enable_x64(True):
        double = squared_mmd(
            np.asarray(x, np.float64), np.asarray(y, np.float64), bandwidth=2.0, chunk_size=700
        )
        assert double.value.dtype == jnp.float64
    # A hundredth of the spread that it has by chance.
    np.testing.assert_allclose(single.value, double.value, atol=3e-6)


def test_p_values_are_uniform_where_the_distributions_are_one() -> None:
    """With P permutations the p-value is 1, ..., P + 1 over P + 1, each equally often."""
    p_values = null_p_values(19)
    counts = np.bincount(np.rint(p_values * 20).astype(int), minlength=21)
    assert counts[0] == 0
    # Chi-square with 19 degrees of freedom, five standard deviations.
    statistic = ((counts[1:] - 200) ** 2 / 200).sum()
    assert statistic < 19 + 5 * np.sqrt(2 * 19)
    assert_mean(p_values, np.float64(21 / 40))
    assert_mean((p_values < 0.051).astype(float), np.float64(0.05), resolution=0.1)


def test_p_values_that_forget_the_observed_value_would_be_rejected() -> None:
    """The mutant: count / P, which can be zero."""
    p_values = (null_p_values(19) * 20 - 1) / 19
    with pytest.raises(AssertionError, match="biased"):
        assert_mean(p_values, np.float64(21 / 40))


def test_p_values_are_small_where_the_distributions_differ() -> None:
    @jit_once
    @jax.vmap
    def test(key):
        data_key, test_key = jax.random.split(key)
        x, y = draw_pair(data_key, 60, 50)
        return mmd_test(test_key, x, y, bandwidth=1.0, num_permutations=99)

    found = test(jax.random.split(jax.random.key(7), 40))
    assert (found.p_value <= 0.05).mean() > 0.9
    assert found.p_value.min() == pytest.approx(0.01)
    assert (found.estimate.value > 3 * found.null_standard_deviation).mean() > 0.9


@pytest.mark.parametrize(("num_x", "num_y"), [(4, 4), (5, 3)])
def test_permutations_approach_the_enumeration_of_all_splits(num_x: int, num_y: int) -> None:
    """Of 70 and 56 splits; ties with the observed one count, in whatever order they are summed."""
    x, y = map(np.asarray, draw_pair(jax.random.key(8), num_x, num_y))
    pooled, size = np.concatenate([x, y]), num_x + num_y
    values = []
    for first in itertools.combinations(range(size), num_x):
        rest = [index for index in range(size) if index not in first]
        values.append(naive_squared_mmd(pooled[list(first)], pooled[rest], 1.1))
    exact = np.mean(np.array(values) >= values[0] - 1e-9)
    num_permutations = 5000
    found = mmd_test(jax.random.key(9), x, y, bandwidth=1.1, num_permutations=num_permutations)
    error = np.sqrt(exact * (1 - exact) / num_permutations)
    assert 0.02 < exact < 0.9
    assert abs(found.p_value - exact) < 5 * error + 1 / num_permutations
    deviation = np.std(values)
    assert found.null_standard_deviation == pytest.approx(deviation, rel=0.05)


def test_equal_sets_are_never_told_apart() -> None:
    """Every permutation of equal examples is a tie."""
    ones = jnp.ones((6, 3))
    found = mmd_test(jax.random.key(0), ones, ones, bandwidth=1.0, num_permutations=50)
    assert found.p_value == 1
    np.testing.assert_allclose(found.estimate.value, 0, atol=1e-6)


def test_the_test_agrees_with_its_estimate_and_ignores_the_chunk() -> None:
    x, y = draw_pair(jax.random.key(10), 33, 21)
    estimate = squared_mmd(x, y, bandwidth=1.0)
    found = [
        mmd_test(
            jax.random.key(11), x, y, bandwidth=1.0, num_permutations=60, chunk_size=chunk_size
        )
        for chunk_size in (10, 500)
    ]
    for one in found:
        np.testing.assert_allclose(one.estimate.value, estimate.value, atol=1e-6)
        np.testing.assert_allclose(one.estimate.x_error, estimate.x_error, rtol=1e-4)
        assert one.p_value == found[0].p_value
    np.testing.assert_allclose(
        found[0].null_standard_deviation, found[1].null_standard_deviation, rtol=1e-4
    )


def test_memory_is_that_of_a_chunk() -> None:
    """Of 6,000 examples the kernel matrix alone has 144 MB."""
    x = jax.ShapeDtypeStruct((3000, 2), jnp.float32)

    def estimate(x, y):
        return squared_mmd(x, y, bandwidth=1.0, chunk_size=100)

    memory = jax.jit(estimate).lower(x, x).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 20e6


def test_the_median_distance() -> None:
    x = np.asarray(jax.random.normal(jax.random.key(12), (31, 3)), np.float64)
    distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(x, 2)]
    np.testing.assert_allclose(median_distance(x), np.median(distances), rtol=1e-5)
    first = [np.linalg.norm(a - b) for a, b in itertools.combinations(x[:10], 2)]
    np.testing.assert_allclose(median_distance(x, max_examples=10), np.median(first), rtol=1e-5)


def test_the_median_distance_of_a_gaussian() -> None:
    """||x - y||^2 / 2 is chi-square."""
    x = jax.random.normal(jax.random.key(13), (1000, 4))
    assert median_distance(x) == pytest.approx(np.sqrt(2 * stats.chi2.median(4)), rel=0.02)


X = np.zeros((3, 2))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((X, X[:1]), {}, r"at least 2, got \(3, 2\) and \(1, 2\)"),
        ((X, np.zeros((3, 4))), {}, r"got \(3, 2\) and \(3, 4\)"),
        ((X, np.zeros(3)), {}, r"got \(3, 2\) and \(3,\)"),
        ((X, X), {"bandwidth": np.ones((1, 1))}, r"bandwidth must be a scalar .*\(1, 1\)"),
        ((X, X), {"bandwidth": np.ones(0)}, r"bandwidth must be a scalar .*\(0,\)"),
        ((X, X), {"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
        ((X, X), {"num_permutations": 0}, "num_permutations must be at least 1, got 0"),
    ],
)
def test_what_is_refused(arguments, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mmd_test(jax.random.key(0), *arguments, **{"bandwidth": 1.0} | options)
    if "num_permutations" not in options:
        with pytest.raises(ValueError, match=message):
            squared_mmd(*arguments, **{"bandwidth": 1.0} | options)


def test_too_few_examples_for_a_median_are_refused() -> None:
    for x, options in [(X[:1], {}), (X, {"max_examples": 1}), (np.zeros(3), {})]:
        with pytest.raises(ValueError, match="N >= 2"):
            median_distance(x, **options)
