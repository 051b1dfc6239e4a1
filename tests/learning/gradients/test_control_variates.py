"""Control variates by themselves: their states over many steps, their values, their errors."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.distributions import DiagonalGaussian
from genjax_models.learning.gradients import control_variates, core


def run_average(decay: float, costs: np.ndarray, update=None) -> np.ndarray:
    """What a moving average says before each cost, and after the last."""
    variate = control_variates.moving_average(decay)
    state, values = variate.init((), jax.random.key(0)), []
    for cost in costs:
        values.append(variate.value(state, None))
        seen = variate.observe(state, None, jnp.array([cost - 1, cost + 1]))
        state = (update or variate.update)(state, seen)
    return np.array([*values, variate.value(state, None)])


def test_the_moving_average_is_a_weighted_mean_at_every_step() -> None:
    decay, costs = 0.9, np.random.default_rng(0).normal(size=60) + 3
    values = run_average(decay, costs)
    assert values[0] == 0
    for n in range(1, 61):
        weights = decay ** np.arange(n)[::-1]
        np.testing.assert_allclose(values[n], weights @ costs[:n] / weights.sum(), rtol=1e-12)


def test_a_moving_average_of_equal_costs_is_that_cost() -> None:
    np.testing.assert_allclose(run_average(0.99, np.full(300, 7.0))[1:], 7.0, rtol=1e-12)


def test_debiasing_that_feeds_back_into_the_state_is_rejected() -> None:
    """The mutant keeps the corrected average and corrects it again: it grows without end."""

    def feedback(state, cost):
        weight = 0.9 * state.weight + 0.1
        return control_variates.AverageState((0.9 * state.average + 0.1 * cost) / weight, weight)

    values = run_average(0.9, np.full(60, 7.0), feedback)
    assert abs(values[1] - 7) > 0.5 or abs(values[5] - 7) > 0.5
    assert (np.abs(values[2:] - 7) > 0.5).any()


def test_leave_one_out_sums_neither_subtract_nor_see_themselves() -> None:
    values = jnp.array([1.0, 1e20, 3.0, 5.0])
    expected = [sum(values[r] for r in range(4) if r != s) for s in range(4)]
    found = core.leave_one_out_sums(values)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    jacobian = jax.jacobian(core.leave_one_out_sums)(values)
    np.testing.assert_array_equal(jacobian, 1 - np.eye(4))


def test_the_taylor_series_and_its_expectation() -> None:
    """Of a cubic: value by hand, expectation by its definition."""

    def cubic(x):
        return jnp.sum(x**3) + x[0] * x[1]

    at, scale = jnp.array([0.5, -1.0]), jnp.array([0.3, 0.8])
    variate = control_variates.delta_method(cubic)
    state = variate.prepare((), DiagonalGaussian(at, jnp.log(scale)))
    x = jnp.array([1.0, 0.2])
    away = x - at
    # The diagonal of the second derivatives serves independent variables.
    slope = 3 * at**2 + at[::-1]
    series = cubic(at) + slope @ away + 0.5 * (6 * at) @ away**2
    np.testing.assert_allclose(variate.value(state, x), series, rtol=1e-12)
    moved = DiagonalGaussian(x, jnp.log(scale))
    expected = series + 0.5 * (6 * at) @ scale**2
    np.testing.assert_allclose(variate.expectation(state, moved), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: control_variates.moving_average(1.0), "decay"),
        (lambda: control_variates.moving_average(-0.1), "decay"),
        (lambda: control_variates.delta_method(jnp.sum, order=3), "order"),
    ],
)
def test_settings_out_of_range_are_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_second_order_series_needs_a_gaussian() -> None:
    variate = control_variates.delta_method(lambda x: x**2)
    with pytest.raises(TypeError, match="order=1"):
        variate.prepare((), distrax.Gamma(2.0, 1.0))
