"""The Gaussian with a rank-one precision against scipy, and its samples against its density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from genjax_models.distributions import RankOneGaussian
from tests.statistics import assert_mean, jit_once

LOC = np.array([0.5, -1.0, 2.0])
LOG_PRECISION = np.array([0.3, -0.4, 1.0])
DIRECTION = np.array([1.5, -0.7, 0.2])


def distribution(direction: np.ndarray = DIRECTION) -> RankOneGaussian:
    return RankOneGaussian(*(jnp.asarray(a, jnp.float32) for a in (LOC, LOG_PRECISION, direction)))


def covariance(direction: np.ndarray = DIRECTION) -> np.ndarray:
    return np.linalg.inv(np.diag(np.exp(LOG_PRECISION)) + np.outer(direction, direction))


@pytest.mark.parametrize("scale", [0.0, 1.0, 1000.0])
def test_log_prob_is_scipys(scale: float) -> None:
    x = LOC + np.array([0.1, 0.4, -0.6])
    exact = scipy.stats.multivariate_normal(LOC, covariance(scale * DIRECTION)).logpdf(x)
    found = distribution(scale * DIRECTION).log_prob(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, exact, rtol=1e-5)


def test_samples_have_the_covariance_and_come_with_their_log_prob() -> None:
    def draw(key):
        value, log_prob = distribution().sample_and_log_prob(seed=key)
        return value, log_prob, distribution().log_prob(value)

    values, log_probs, again = jit_once(jax.vmap(draw))(
        jax.random.split(jax.random.key(0), 100_000)
    )
    np.testing.assert_allclose(log_probs, again, rtol=1e-3, atol=1e-3)
    assert_mean(values, LOC)
    centred = np.asarray(values, np.float64) - LOC
    assert_mean(centred[:, :, None] * centred[:, None], covariance())
    np.testing.assert_array_equal(distribution().mean(), LOC)


def test_its_entropy_gradient_is_that_of_autodiff() -> None:
    """E[-log q] = log det(2 pi e C) / 2, in every parameter, from the pathwise samples."""

    def entropy(d: RankOneGaussian):
        precision = jnp.diag(jnp.exp(d.log_precision)) + jnp.outer(d.direction, d.direction)
        return -0.5 * jnp.linalg.slogdet(precision)[1]

    def sampled(d: RankOneGaussian, key):
        return -d.sample_and_log_prob(seed=key)[1]

    exact = jax.grad(entropy)(distribution())
    found = jax.grad(sampled)(distribution(), jax.random.key(1))
    # The log-density of a sample depends on its noise and the determinant alone.
    for leaf, other in zip(exact, found, strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-4, atol=1e-6)


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="shape of one event"):
        distribution().log_prob(jnp.zeros(2))
