"""The mixture of Gaussians against scipy, quadrature and its own moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from genjax_models.distributions import DiagonalGaussian, GaussianMixture, is_reparameterized
from tests.statistics import assert_mean, jit_once

MIXTURE = GaussianMixture(
    jnp.array([0.3, -1.0, 0.9]),
    jnp.array([[0.5, -2.0], [1.5, 0.3], [-0.7, 1.0]]),
    jnp.array([[-0.5, 0.2], [0.4, -1.0], [-1.2, -0.3]]),
)


def exact_log_prob(mixture: GaussianMixture, value: np.ndarray) -> np.ndarray:
    """In float64, with the squares as they stand."""
    logits, loc, log_scale = (np.asarray(part, np.float64) for part in mixture)
    components = stats.norm.logpdf(value, loc, np.exp(log_scale)).sum(axis=1)
    return logsumexp(logits - logsumexp(logits) + components)


def test_log_prob_against_scipy() -> None:
    values = np.random.default_rng(0).normal(scale=2.0, size=(20, 2)).astype(np.float32)
    found = jit_once(jax.vmap(MIXTURE.log_prob))(values)
    exact = [exact_log_prob(MIXTURE, value) for value in values]
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)


def test_the_density_integrates_to_one() -> None:
    side = np.linspace(-8, 8, 321, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    density = np.exp(jit_once(jax.vmap(MIXTURE.log_prob))(grid), dtype=np.float64)
    assert density.sum() * (side[1] - side[0]) ** 2 == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_the_expanded_square_keeps_its_precision(offset: float) -> None:
    """Close to narrow components far apart; and far from the origin, all of them together."""
    rng = np.random.default_rng(1)
    loc = rng.normal(size=(50, 40)).astype(np.float32) + np.float32(offset)
    mixture = GaussianMixture(jnp.zeros(50), jnp.asarray(loc), jnp.full((50, 40), -4.6))
    value = loc[7] + 0.01 * rng.normal(size=40).astype(np.float32)
    found = float(jit_once(mixture.log_prob)(value))
    assert found == pytest.approx(exact_log_prob(mixture, value.astype(np.float64)), abs=0.05)


def test_gradients_are_those_of_the_plain_formula() -> None:
    def plain(mixture: GaussianMixture, value: jax.Array) -> jax.Array:
        gaussians = [
            DiagonalGaussian(loc, log_scale).log_prob(value)
            for loc, log_scale in zip(mixture.loc, mixture.log_scale, strict=True)
        ]
        return jax.nn.logsumexp(jax.nn.log_softmax(mixture.logits) + jnp.stack(gaussians))

    value = jnp.array([0.3, -0.4])
    ours, theirs = (
        jit_once(jax.grad(function, argnums=(0, 1)))(MIXTURE, value)
        for function in (GaussianMixture.log_prob, plain)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)


def test_samples_have_the_moments_of_the_mixture() -> None:
    keys = jax.random.split(jax.random.key(0), 40_000)
    samples = np.asarray(jax.jit(jax.vmap(lambda key: MIXTURE.sample(seed=key)))(keys))
    weights = np.asarray(jax.nn.softmax(MIXTURE.logits))
    loc, variance = np.asarray(MIXTURE.loc), np.exp(2 * np.asarray(MIXTURE.log_scale))
    assert_mean(samples, weights @ loc, scale=1)
    np.testing.assert_allclose(MIXTURE.mean(), weights @ loc, rtol=1e-5)
    assert_mean(samples**2, weights @ (loc**2 + variance))
    # Both dimensions are of the same component.
    assert_mean(samples.prod(axis=1), weights @ loc.prod(axis=1), scale=1)


def test_parameters_may_be_of_numpy() -> None:
    """As those of a run that was restored are, closed over by a compiled function."""
    key = jax.random.key(0)
    with jax.debug_key_reuse(False):
        ours, theirs = (
            jit_once(lambda key, m=m: m.sample_and_log_prob(seed=key))(key)
            for m in (MIXTURE, GaussianMixture(*map(np.asarray, MIXTURE)))
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)


def test_nothing_overflows() -> None:
    mixture = GaussianMixture(
        jnp.array([-1e4, 0.0, 1e4]), jnp.array([[-1e4], [0.0], [1e4]]), jnp.zeros((3, 1))
    )
    value_and_gradient = jit_once(jax.value_and_grad(GaussianMixture.log_prob))
    for value in (-1e4, 0.0, 3.0, 1e4):
        for number in jax.tree.leaves(value_and_gradient(mixture, jnp.array([value]))):
            assert np.isfinite(number).all()


@pytest.mark.parametrize("log_scale", [-8.0, -20.0, -44.0, -45.0, -1e4])
def test_small_scales_neither_overflow_nor_exceed_the_peak(log_scale: float) -> None:
    """The terms of the expanded square cancel, and a precision would overflow below e^-44."""
    mixture = GaussianMixture(
        jnp.zeros(2), jnp.array([[0.0, 1.0], [2.0, 3.0]]), jnp.full((2, 2), log_scale)
    )
    peak = -np.log(2) - 2 * max(log_scale, -20) - np.log(2 * np.pi)
    value_and_gradient = jit_once(jax.value_and_grad(GaussianMixture.log_prob, argnums=(0, 1)))
    for value in ([0.0, 1.001], [0.0, 1.0], [2.0, 3.0 + 1e-4], [1e4, -1e4], [0.003, 0.9999]):
        found, gradients = value_and_gradient(mixture, jnp.array(value))
        for number in jax.tree.leaves((found, gradients)):
            assert np.isfinite(number).all()
        assert found <= peak + 1e-4
        distances = (np.float64(value) - np.asarray(mixture.loc)) ** 2
        if log_scale >= -20:
            squares = np.abs(np.float64(value) - 1.0).max() ** 2 + 2
            error = 1e-6 * squares * np.exp(-2 * log_scale)
            exact = logsumexp(-distances.sum(axis=1) / (2 * np.exp(2 * log_scale))) + peak
            np.testing.assert_allclose(found, exact, atol=error)
    sample = mixture.sample(seed=jax.random.key(0))
    assert np.isfinite(mixture.log_prob(sample))


def test_its_draws_have_no_gradient_and_it_says_so() -> None:
    assert not is_reparameterized(MIXTURE)


def test_a_value_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="vmap over a batch"):
        MIXTURE.log_prob(jnp.zeros((3, 2)))
