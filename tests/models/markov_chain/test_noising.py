"""The noising chain: its marginals and posteriors by conditioning one joint Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.models.markov_chain import (
    Prediction,
    from_noise,
    from_v,
    from_variances,
    from_x_0,
    linear_schedule,
    marginal,
    posterior,
    transition,
)
from genjax_models.models.markov_chain.noising import PREDICTIONS

BETA = [0.1, 0.3, 0.2, 0.6]
SCHEDULE = from_variances(BETA)
X_0 = jnp.array([1.3, -0.4, 0.2])


def joint(x_0: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (x_1, ..., x_T) given x_0, by the rules of an autoregression."""
    matrix, mean, covariance = np.zeros((4, 4)), np.zeros(4), np.zeros((4, 4))
    for t, beta in enumerate(BETA):
        # x_t = decay x_(t-1) + sqrt(beta) noise_t: row t of what multiplies the noises.
        decay = np.sqrt(1 - beta)
        mean[t] = decay * (mean[t - 1] if t else x_0)
        matrix[t] = decay * matrix[t - 1] if t else 0
        matrix[t, t] = np.sqrt(beta)
    covariance = matrix @ matrix.T
    return mean, covariance


@pytest.mark.parametrize("t", [1, 2, 3, 4])
def test_the_marginal_is_that_of_the_chain(t: int) -> None:
    found = marginal(SCHEDULE, X_0, t)
    for loc, x_0 in zip(found.loc, np.asarray(X_0, float), strict=True):
        mean, covariance = joint(x_0)
        np.testing.assert_allclose(loc, mean[t - 1], rtol=1e-6)
        np.testing.assert_allclose(np.exp(2 * found.log_scale), covariance[t - 1, t - 1], rtol=1e-6)


@pytest.mark.parametrize("t", [2, 3, 4])
def test_the_posterior_is_the_joint_conditioned(t: int) -> None:
    """q(x_(t-1) | x_t, x_0) by the formula for a conditional Gaussian."""
    x_t = jnp.array([0.7, 0.1, -1.2])
    found = posterior(SCHEDULE, x_t, X_0, t)
    for loc, x_0, x in zip(found.loc, *np.asarray([X_0, x_t], float), strict=True):
        mean, covariance = joint(x_0)
        gain = covariance[t - 2, t - 1] / covariance[t - 1, t - 1]
        np.testing.assert_allclose(loc, mean[t - 2] + gain * (x - mean[t - 1]), rtol=1e-5)
        variance = covariance[t - 2, t - 2] - gain * covariance[t - 1, t - 2]
        np.testing.assert_allclose(np.exp(2 * found.log_scale), variance, rtol=1e-5)


def test_at_the_first_step_the_posterior_is_the_data() -> None:
    found = posterior(SCHEDULE, jnp.array([5.0, 6.0, 7.0]), X_0, 1)
    np.testing.assert_allclose(found.loc, X_0, rtol=1e-6)
    assert found.log_scale == -np.inf
    np.testing.assert_allclose(found.sample(seed=jax.random.key(0)), X_0, rtol=1e-6)


def test_one_transition_after_the_marginal_is_the_next_marginal() -> None:
    """Of the means and of the variances: decay^2 v + beta."""
    for t in (2, 3, 4):
        before, after = marginal(SCHEDULE, X_0, t - 1), marginal(SCHEDULE, X_0, t)
        step = transition(SCHEDULE, before.loc, t)
        np.testing.assert_allclose(step.loc, after.loc, rtol=1e-6)
        variance = (1 - BETA[t - 1]) * np.exp(2 * before.log_scale) + np.exp(2 * step.log_scale)
        np.testing.assert_allclose(variance, np.exp(2 * after.log_scale), rtol=1e-6)
        np.testing.assert_allclose(np.exp(2 * step.log_scale), BETA[t - 1], rtol=1e-6)


def test_bayes_rule_ties_the_three_together() -> None:
    """q(x_t | x_(t-1)) q(x_(t-1) | x_0) = q(x_(t-1) | x_t, x_0) q(x_t | x_0), at any points."""
    x_before, x_t = jnp.array([0.2, -0.9, 0.4]), jnp.array([-0.3, 0.8, 1.1])
    for t in (2, 3, 4):
        left = transition(SCHEDULE, x_before, t).log_prob(x_t)
        left += marginal(SCHEDULE, X_0, t - 1).log_prob(x_before)
        right = posterior(SCHEDULE, x_t, X_0, t).log_prob(x_before)
        right += marginal(SCHEDULE, X_0, t).log_prob(x_t)
        np.testing.assert_allclose(left, right, rtol=1e-5)


def truth(schedule, t: int) -> tuple[np.ndarray, Prediction]:
    """x_t, and what made it, in float64."""
    x_0, noise = np.random.default_rng(t).normal(size=(2, 5))
    a, s = schedule.signal[t], schedule.noise_scale[t]
    return a * x_0 + s * noise, Prediction(x_0, noise, a * noise - s * x_0)


@pytest.mark.parametrize("field", PREDICTIONS)
@pytest.mark.parametrize("t", [1, 137, 600, 1000])
def test_each_prediction_gives_the_others(field: str, t: int) -> None:
    """Exactly, in float64; the digits that float32 has left are those of its division."""
    schedule = linear_schedule(1000)
    x_t, exact = truth(schedule, t)
    with jax.enable_x64(True):
        found = PREDICTIONS[field](
            schedule, jnp.asarray(x_t), jnp.asarray(getattr(exact, field)), t
        )
        for values in zip(found, exact, strict=True):
            assert values[0].dtype == jnp.float64
            np.testing.assert_allclose(*values, rtol=1e-9, atol=1e-9)
    x_t, given = jnp.asarray(x_t, jnp.float32), jnp.asarray(getattr(exact, field), jnp.float32)
    divisor = {"x_0": schedule.noise_scale[t], "noise": schedule.signal[t], "v": 1.0}[field]
    for values in zip(PREDICTIONS[field](schedule, x_t, given, t), exact, strict=True):
        np.testing.assert_allclose(*values, rtol=1e-5, atol=2e-6 / divisor)


def test_there_and_back_again() -> None:
    x_t = jnp.array([0.3, -1.7])
    for t in (1, 2, 4):
        start = from_v(SCHEDULE, x_t, jnp.array([0.6, -0.2]), t)
        for again in (
            from_noise(SCHEDULE, x_t, start.noise, t),
            from_x_0(SCHEDULE, x_t, start.x_0, t),
        ):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), again, start)


def test_steps_may_be_traced_and_mapped() -> None:
    ts = jnp.arange(1, 5)
    mapped = jax.jit(jax.vmap(lambda t: marginal(SCHEDULE, X_0, t)))(ts)
    for index, t in enumerate(ts):
        alone = marginal(SCHEDULE, X_0, int(t))
        jax.tree.map(
            lambda m, a, i=index: np.testing.assert_allclose(m[i], a, rtol=1e-6), mapped, alone
        )
