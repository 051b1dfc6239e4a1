"""The diagonal Gaussian: normalised, right at the extremes, and its samples follow it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from genjax_models.distributions import DiagonalGaussian
from tests.statistics import assert_mean

LOC = [0.7, -1.2, 3.0]
LOG_SCALE = [0.4, -2.0, 1.1]


def test_density_integrates_to_one() -> None:
    for loc, log_scale in zip(LOC, LOG_SCALE, strict=True):
        scale = np.exp(log_scale)
        x = np.linspace(loc - 9 * scale, loc + 9 * scale, 2001, dtype=np.float32)
        log_density = jax.vmap(DiagonalGaussian(loc, log_scale).log_prob)(x)
        integral = np.exp(log_density, dtype=np.float64).sum() * 18 * scale / 2000
        np.testing.assert_allclose(integral, 1, rtol=1e-5)


@pytest.mark.parametrize("log_scale", [LOG_SCALE, 0.3], ids=["each", "shared"])
def test_log_prob_is_the_sum_of_scipys(log_scale) -> None:
    """A scale that all dimensions share counts once for each dimension."""
    value = np.array([1.0, -1.5, -4.0])
    exact = scipy.stats.norm.logpdf(value, LOC, np.exp(log_scale)).sum()
    gaussian = DiagonalGaussian(jnp.array(LOC), jnp.array(log_scale))
    np.testing.assert_allclose(gaussian.log_prob(jnp.array(value)), exact, rtol=1e-5)


@pytest.mark.parametrize("log_scale", [-20.0, -5.0, 0.0, 20.0])
@pytest.mark.parametrize("value", [-1e4, 1e4])
def test_gradients_at_the_extremes(value: float, log_scale: float) -> None:
    """d/dm = e / s and d/dlog s = e^2 - 1 with e = (x - m) / s."""
    log_prob = lambda loc, log_scale: DiagonalGaussian(loc, log_scale).log_prob(value)  # noqa: E731
    gradient = jax.grad(log_prob, (0, 1))(0.5, log_scale)
    noise = (value - 0.5) / np.exp(log_scale)
    np.testing.assert_allclose(gradient, (noise / np.exp(log_scale), noise**2 - 1), rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_samples_follow_the_density(dtype) -> None:
    loc, log_scale = jnp.array(LOC, dtype), jnp.array(LOG_SCALE, dtype)
    keys = jax.random.split(jax.random.key(0), 40_000)
    samples = jax.jit(jax.vmap(lambda key: DiagonalGaussian(loc, log_scale).sample(seed=key)))(keys)
    assert samples.dtype == dtype
    exact_loc, exact_scale = np.asarray(loc, np.float64), np.exp(np.asarray(log_scale, np.float64))
    noise = (np.asarray(samples, np.float64) - exact_loc) / exact_scale
    # Whatever the dtype, down to a tail that one draw in a thousand reaches.
    tail = scipy.stats.norm.isf(1e-3)
    powers = np.stack([noise, noise**2, noise**4, 1e3 * (noise > tail)])
    exact = np.array([[0.0], [1.0], [3.0], [1.0]]) * np.ones(3)
    assert_mean(np.moveaxis(powers, 1, 0), exact, resolution=0.1)


def test_samples_are_differentiable() -> None:
    key = jax.random.key(0)

    def sample(loc, log_scale):
        return DiagonalGaussian(loc, log_scale).sample(seed=jax.random.clone(key))

    value = sample(0.7, -0.4)
    gradient = jax.grad(sample, (0, 1))(0.7, -0.4)
    np.testing.assert_allclose(gradient, (1, value - 0.7), rtol=1e-5)


@pytest.mark.parametrize("log_scale", [LOG_SCALE, 0.3], ids=["each", "shared"])
def test_sample_and_log_prob_agree(log_scale) -> None:
    gaussian = DiagonalGaussian(jnp.array(LOC), jnp.array(log_scale))
    key = jax.random.key(0)
    value, log_prob = gaussian.sample_and_log_prob(seed=jax.random.clone(key))
    np.testing.assert_array_equal(value, gaussian.sample(seed=key))
    np.testing.assert_allclose(log_prob, gaussian.log_prob(value), rtol=1e-5)


def test_sample_and_log_prob_have_the_same_gradient() -> None:
    """The short cut through the noise must differentiate like log_prob of the moving sample."""
    key = jax.random.key(0)

    def short(loc, log_scale):
        gaussian = DiagonalGaussian(loc, log_scale)
        value, log_prob = gaussian.sample_and_log_prob(seed=jax.random.clone(key))
        return log_prob + jnp.sum(value**2)

    def long(loc, log_scale):
        gaussian = DiagonalGaussian(loc, log_scale)
        value = gaussian.sample(seed=jax.random.clone(key))
        return gaussian.log_prob(value) + jnp.sum(value**2)

    arguments = jnp.array(LOC), jnp.array(LOG_SCALE)
    for ours, exact in zip(
        jax.jit(jax.grad(short, (0, 1)))(*arguments),
        jax.jit(jax.grad(long, (0, 1)))(*arguments),
        strict=True,
    ):
        np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=1e-5)


def test_784_terms_in_bfloat16_are_added_in_float32() -> None:
    loc = jax.random.normal(jax.random.key(0), (784,)).astype(jnp.bfloat16)
    total = DiagonalGaussian(loc, jnp.bfloat16(0)).log_prob(jnp.ones(784, jnp.bfloat16))
    assert total.dtype == jnp.float32
    exact = scipy.stats.norm.logpdf(1, np.asarray(loc, np.float64)).sum()
    np.testing.assert_allclose(total, exact, rtol=1e-5)


def test_mean() -> None:
    np.testing.assert_array_equal(DiagonalGaussian(jnp.array(LOC), 0.3).mean(), jnp.array(LOC))
