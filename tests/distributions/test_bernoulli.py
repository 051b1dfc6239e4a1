"""The Bernoulli likelihood: normalised, right at the extremes, and its samples follow it."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from genjax_models.distributions import Bernoulli
from tests.statistics import assert_mean

EXTREMES = [-1e4, -90.0, -17.0, -1.0, -1e-3, 0.0, 0.5, 3.0, 20.0, 90.0, 1e4]
TINY = float(np.finfo(np.float32).tiny)  # below it, XLA rounds to zero on a CPU


def test_probabilities_of_all_events_sum_to_one() -> None:
    logits = jnp.array([[1.3, -0.7], [0.2, -3.1], [8.0, 0.9]])
    events = np.array(list(itertools.product([0, 1], repeat=6)), np.float32).reshape(-1, 3, 2)
    log_probs = jax.jit(jax.vmap(Bernoulli(logits).log_prob))(events)
    np.testing.assert_allclose(np.sum(np.exp(log_probs, dtype=np.float64)), 1, rtol=1e-6)


@pytest.mark.parametrize("value", [0, 1])
def test_log_prob_and_gradients_at_the_extremes(value: int) -> None:
    """Against float64; a log-probability near zero keeps its relative precision."""
    logits = np.array(EXTREMES, np.float32)
    sign = 2 * value - 1
    log_prob = jax.vmap(lambda logit: Bernoulli(logit).log_prob(jnp.float32(value)))
    exact = scipy.special.log_expit(sign * logits.astype(np.float64))
    np.testing.assert_allclose(jax.jit(log_prob)(logits), exact, rtol=1e-6, atol=TINY)

    gradient = jax.grad(lambda logits: log_prob(logits).sum())
    exact = sign * scipy.special.expit(-sign * logits.astype(np.float64))
    np.testing.assert_allclose(jax.jit(gradient)(logits), exact, rtol=1e-5, atol=1e-7)

    hessian = jax.grad(lambda logits: gradient(logits).sum())
    exact = -scipy.special.expit(logits.astype(np.float64)) * scipy.special.expit(-logits)
    np.testing.assert_allclose(jax.jit(hessian)(logits), exact, rtol=1e-5, atol=TINY)


def test_gradient_of_the_value_is_the_logit() -> None:
    """A relaxed sample is differentiated through the likelihood of the layer below."""
    logits = jnp.array([-2.0, 0.5, 1e4])
    gradient = jax.grad(Bernoulli(logits).log_prob)(jnp.array([0.3, 0.8, 0.5]))
    np.testing.assert_allclose(gradient, logits, rtol=1e-6)


def test_bfloat16_at_the_extremes() -> None:
    logits = jnp.array([-1e3, 1e3, -1e3, 1e3], jnp.bfloat16)
    values = jnp.array([0, 0, 1, 1], jnp.bfloat16)
    log_prob = lambda logits: Bernoulli(logits).log_prob(values)  # noqa: E731
    value, gradient = jax.value_and_grad(log_prob)(logits)
    assert value == -2000
    np.testing.assert_array_equal(gradient.astype(np.float32), [0, -1, 1, 0])


def test_784_terms_in_bfloat16_are_added_in_float32() -> None:
    logits = jax.random.normal(jax.random.key(0), (784,)).astype(jnp.bfloat16) * 3
    values = jax.random.bernoulli(jax.random.key(1), 0.4, (784,)).astype(jnp.bfloat16)
    exact = scipy.special.log_expit(
        (2 * np.asarray(values, np.float64) - 1) * np.asarray(logits, np.float64)
    )
    total = Bernoulli(logits).log_prob(values)
    assert total.dtype == jnp.float32
    np.testing.assert_allclose(total, exact.sum(), rtol=1e-5)
    # What the test is there for: adding in bfloat16 is off by more than could pass.
    in_bfloat16 = functools.reduce(np.add, exact.astype(jnp.bfloat16))
    assert in_bfloat16.dtype == jnp.bfloat16
    assert abs(float(in_bfloat16) - exact.sum()) > 1


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_samples_follow_the_probabilities(dtype) -> None:
    logits = jnp.array([[-1.5, 0.4], [2.0, -4.0]], dtype)
    keys = jax.random.split(jax.random.key(0), 40_000)
    samples = jax.jit(jax.vmap(lambda key: Bernoulli(logits).sample(seed=key)))(keys)
    assert samples.dtype == dtype
    assert set(np.unique(samples.astype(np.float32))) == {0, 1}
    assert_mean(samples, scipy.special.expit(np.asarray(logits, np.float64)))


def test_certain_events_are_always_drawn() -> None:
    logits = jnp.repeat(jnp.array([-1e4, 1e4]), 1000)
    np.testing.assert_array_equal(
        Bernoulli(logits).sample(seed=jax.random.key(0)), np.repeat([0, 1], 1000)
    )


def test_sample_and_log_prob_agree() -> None:
    bernoulli = Bernoulli(jnp.array([0.3, -1.0, 2.0]))
    key = jax.random.key(0)
    value, log_prob = bernoulli.sample_and_log_prob(seed=jax.random.clone(key))
    np.testing.assert_array_equal(value, bernoulli.sample(seed=key))
    np.testing.assert_allclose(log_prob, bernoulli.log_prob(value))


def test_mean_is_the_probability_of_a_one() -> None:
    np.testing.assert_allclose(
        Bernoulli(jnp.array(EXTREMES)).mean(), scipy.special.expit(EXTREMES), rtol=1e-6, atol=TINY
    )


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.float32])
def test_values_of_any_dtype(dtype) -> None:
    value = np.array([1, 0, 1]).astype(dtype)
    logits = jnp.array([0.3, -1.0, 2.0])
    exact = scipy.special.log_expit([0.3, 1.0, 2.0]).sum()
    np.testing.assert_allclose(Bernoulli(logits).log_prob(value), exact, rtol=1e-6)


def test_a_numpy_batch_may_be_mapped_under_jit() -> None:
    xs = np.eye(4, 3, dtype=np.float32)
    found = jax.jit(lambda logits: jax.vmap(lambda x: Bernoulli(logits).log_prob(x))(xs))(
        jnp.zeros(3)
    )
    np.testing.assert_allclose(found, -3 * np.log(2), rtol=1e-6)
