"""A mean over examples and its two errors."""

import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.evaluation import mean_estimate
from tests.statistics import assert_mean


def test_the_three_numbers() -> None:
    estimate = mean_estimate(jnp.array([1.0, 2.0, 6.0]), jnp.array([0.3, 0.4, 0.0]))
    np.testing.assert_allclose(estimate.value, 3)
    np.testing.assert_allclose(estimate.standard_error, np.sqrt(7 / 3), rtol=1e-6)
    np.testing.assert_allclose(estimate.monte_carlo_error, 0.5 / 3, rtol=1e-6)


def test_the_errors_are_the_spreads_that_they_claim() -> None:
    """Examples that differ (sd 2) by draws that differ (sd 0.5), many data sets over."""
    rng = np.random.default_rng(0)
    exact = 1.5 + 2 * rng.standard_normal((3000, 40))
    draws = exact + 0.5 * rng.standard_normal(exact.shape)
    estimates = [mean_estimate(row, np.full(40, 0.5)) for row in draws]
    value, standard_error, monte_carlo_error = np.array(estimates).T
    assert_mean((value - 1.5) ** 2, (2**2 + 0.5**2) / 40, resolution=0.03)
    assert_mean(standard_error**2, (2**2 + 0.5**2) / 40)
    assert_mean((value - exact.mean(axis=1)) ** 2, 0.5**2 / 40, resolution=0.03)
    np.testing.assert_allclose(monte_carlo_error, 0.5 / np.sqrt(40), rtol=1e-5)


def test_without_draws_there_is_no_monte_carlo_error() -> None:
    assert mean_estimate(jnp.array([1.0, 2.0])).monte_carlo_error == 0


def test_of_one_example_the_standard_error_is_not_known() -> None:
    estimate = mean_estimate(jnp.array([3.0]), jnp.array([0.1]))
    assert estimate.value == 3
    assert np.isnan(estimate.standard_error)
    np.testing.assert_allclose(estimate.monte_carlo_error, 0.1)


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_values_of_other_shapes_are_refused(shape) -> None:
    with pytest.raises(ValueError, match="values must have shape"):
        mean_estimate(jnp.zeros(shape))


def test_errors_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="monte_carlo_errors must have the shape of values"):
        mean_estimate(jnp.zeros(3), jnp.zeros(1))
