"""Control variates by themselves: their states over many steps, their values, their errors."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.distributions import DiagonalGaussian
from genjax_models.learning.gradients import control_variates


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


def test_baselines_are_their_own_expectation() -> None:
    """So that f - h + E[h] has the mean of f."""
    average = control_variates.moving_average()
    state = control_variates.AverageState(jnp.array(0.4), jnp.array(0.5))
    assert average.expectation(state, None) == average.value(state, None) == 0.8
    assert control_variates.constant(0.7).expectation((), None) == 0.7
    assert control_variates.leave_one_out().expectation(jnp.array(2.0), None) == 2.0


def test_leave_one_out_is_the_mean_cost_of_the_others() -> None:
    costs = jnp.array([1.0, 4.0, -2.0])
    found = control_variates.leave_one_out().leave_one_out((), None, costs)
    np.testing.assert_allclose(found, [1.0, -0.5, 2.5], rtol=1e-12)


def test_the_coefficient_of_a_sample_is_that_of_the_others() -> None:
    """Written out for each sample and component."""
    rng = np.random.default_rng(0)
    g, c = rng.normal(size=(2, 5, 3))
    found = control_variates.regressed({"a": jnp.asarray(g)}, {"a": jnp.asarray(c)})["a"]
    for s in range(5):
        r = np.arange(5) != s
        expected = g[s] - c[s] * (g[r] * c[r]).sum(axis=0) / (c[r] ** 2).sum(axis=0)
        np.testing.assert_allclose(found[s], expected, rtol=1e-12)
    # The others' variates are all zero: no coefficient, and no NaN.
    lone = control_variates.regressed(jnp.asarray(g), jnp.zeros((5, 3)).at[0].set(1.0))
    np.testing.assert_array_equal(lone[0], g[0])


def test_the_optimal_coefficient_of_a_leave_one_out_baseline_is_refused() -> None:
    with pytest.raises(TypeError, match=r"use optimal\(\) or rloo"):
        control_variates.optimal(control_variates.leave_one_out())


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


@pytest.mark.parametrize(
    ("distribution", "order", "message"),
    [
        (lambda: distrax.Gamma(2.0, 1.0), 2, "got a Gamma: use order=1"),
        (lambda: distrax.Categorical(logits=jnp.zeros(3)), 1, "OneHotCategorical has a mean"),
        (lambda: distrax.Joint({"a": distrax.Normal(0.0, 1.0)}), 1, "over one array"),
    ],
)
def test_a_series_where_there_is_none_is_refused(distribution, order: int, message: str) -> None:
    variate = control_variates.delta_method(lambda x: x**2, order=order)
    with pytest.raises(TypeError, match=message):
        variate.prepare((), distribution())
