"""The Gaussian with a full covariance against scipy, the general KL and its own samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from genjax_models.distributions import (
    DiagonalGaussian,
    FullCovarianceGaussian,
    is_reparameterized,
    kl_divergence,
)
from tests import oracles
from tests.statistics import assert_mean

Q = FullCovarianceGaussian(
    jnp.array([0.7, -1.2, 0.1]), jnp.array([0.2, -0.5, 0.4]), jnp.array([0.8, -0.6, 0.3])
)
P = FullCovarianceGaussian(
    jnp.array([0.1, -0.4, 0.9]), jnp.array([0.5, 0.3, -0.2]), jnp.array([-0.7, 0.2, 1.1])
)
DIAGONAL = DiagonalGaussian(jnp.array([0.2, -0.5, 1.0]), jnp.array([0.1, -0.2, 0.5]))
SHARED = DiagonalGaussian(jnp.array([0.2, -0.5, 1.0]), jnp.array(0.3))
FACTOR = np.array([[np.exp(0.2), 0, 0], [0.8, np.exp(-0.5), 0], [-0.6, 0.3, np.exp(0.4)]])


def covariance(gaussian: DiagonalGaussian | FullCovarianceGaussian) -> jax.Array:
    if isinstance(gaussian, DiagonalGaussian):
        return jnp.diag(jnp.exp(2 * jnp.broadcast_to(gaussian.log_scale, 3)))
    return gaussian.scale_tril @ gaussian.scale_tril.T


def test_the_factor_is_filled_row_by_row() -> None:
    np.testing.assert_allclose(Q.scale_tril, FACTOR, rtol=1e-6)
    np.testing.assert_array_equal(Q.mean(), Q.loc)
    assert is_reparameterized(Q)


def test_log_prob_is_scipys() -> None:
    exact = scipy.stats.multivariate_normal([0.7, -1.2, 0.1], FACTOR @ FACTOR.T)
    for value in ([0.3, 1.0, -2.0], [0.7, -1.2, 0.1]):
        ours = jax.jit(FullCovarianceGaussian.log_prob)(Q, jnp.array(value))
        np.testing.assert_allclose(ours, exact.logpdf(value), rtol=1e-5)


def test_samples_have_the_moments() -> None:
    keys = jax.random.split(jax.random.key(0), 40_000)
    draws, log_probs = jax.jit(jax.vmap(lambda key: Q.sample_and_log_prob(seed=key)))(keys)
    noise = draws - Q.loc
    assert_mean(draws, Q.loc)
    assert_mean(noise[:, :, None] * noise[:, None, :], FACTOR @ FACTOR.T)
    np.testing.assert_allclose(log_probs, jax.jit(jax.vmap(Q.log_prob))(draws), atol=1e-4)
    np.testing.assert_array_equal(
        draws[0], Q.sample(seed=jax.random.split(jax.random.key(0), 1)[0])
    )


def test_samples_and_their_log_probs_have_the_same_gradient() -> None:
    """The short cut through the noise against log_prob of the moving sample."""

    def short(gaussian):
        value, log_prob = gaussian.sample_and_log_prob(seed=jax.random.key(1))
        return log_prob + jnp.sum(value**2)

    def long(gaussian):
        value = gaussian.sample(seed=jax.random.key(1))
        return gaussian.log_prob(value) + jnp.sum(value**2)

    jax.tree.map(
        lambda ours, exact: np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=1e-5),
        *(jax.jit(jax.grad(function))(Q) for function in (short, long)),
    )


@pytest.mark.parametrize(
    ("q", "p"),
    [(Q, P), (P, Q), (Q, DIAGONAL), (DIAGONAL, Q), (Q, SHARED), (SHARED, P)],
    ids=["full", "full, reversed", "to diagonal", "from diagonal", "to shared", "from shared"],
)
def test_kl_is_the_general_formula(q, p) -> None:
    def exact(q, p):
        return oracles.gaussian_kl(q.loc, covariance(q), p.loc, covariance(p))

    ours, theirs = (jax.jit(jax.value_and_grad(kl, (0, 1)))(q, p) for kl in (kl_divergence, exact))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)


def test_kl_of_near_and_equal_ones() -> None:
    np.testing.assert_allclose(kl_divergence(Q, Q), 0, atol=1e-6)
    near = Q._replace(log_diagonal=Q.log_diagonal + jnp.array([1e-3, 0, 0]))
    mixed = oracles.gaussian_kl(
        *(np.asarray(part, np.float64) for part in (near.loc, near.scale_tril @ near.scale_tril.T)),
        *(np.asarray(part, np.float64) for part in (Q.loc, Q.scale_tril @ Q.scale_tril.T)),
    )
    assert abs(kl_divergence(near, Q) - mixed) < 1e-6


def test_one_dimension_is_the_diagonal_gaussian() -> None:
    one = FullCovarianceGaussian(jnp.array([0.3]), jnp.array([-0.4]), jnp.zeros(0))
    diagonal = DiagonalGaussian(jnp.array([0.3]), jnp.array([-0.4]))
    np.testing.assert_allclose(one.log_prob(jnp.ones(1)), diagonal.log_prob(jnp.ones(1)), rtol=1e-6)
    np.testing.assert_allclose(kl_divergence(one, diagonal), 0, atol=1e-7)


def test_bfloat16_parameters() -> None:
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), Q)
    value, log_prob = rounded.sample_and_log_prob(seed=jax.random.key(0))
    assert (value.dtype, log_prob.dtype) == (jnp.bfloat16, jnp.float32)
    assert rounded.log_prob(value).dtype == jnp.float32


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="shape of one event"):
        Q.log_prob(jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"off_diagonal \[3\], got \(3,\) and \(6,\)"):
        Q._replace(off_diagonal=jnp.zeros(6)).sample(seed=jax.random.key(0))
    with pytest.raises(ValueError, match="shape"):
        kl_divergence(Q, DiagonalGaussian(jnp.zeros(2), jnp.zeros(2)))
