"""A diffusion as a latent-variable model: its densities are those of one large Gaussian."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.distributions import is_reparameterized
from genjax_models.learning import importance_samples
from genjax_models.models import latent
from genjax_models.models.markov_chain import as_latent_variable_model, from_variances, marginal
from tests.models.markov_chain import gaussian_data
from tests.models.markov_chain.test_diffusion import assert_moments
from tests.statistics import jit_once

SCHEDULE = from_variances([0.1, 0.3, 0.2, 0.6])
MODEL = gaussian_data.model(SCHEDULE, prediction="x_0")
LATENT = as_latent_variable_model(MODEL)
PARAMS = gaussian_data.params()
X = jnp.array(gaussian_data.X, jnp.float32)
Z = jnp.array([[0.9, -0.2], [0.4, 0.5], [-1.2, 0.3], [0.7, -0.6]])


def noising_joint() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (x_1, ..., x_4) given x_0, flattened [8]."""
    shares = np.cumprod(1 - SCHEDULE.beta[1:])
    mean = np.sqrt(shares)[:, None] * gaussian_data.X
    # cov(x_s, x_t) = sqrt(share_t / share_s) (1 - share_s) for s <= t.
    earlier, later = np.maximum.outer(shares, shares), np.minimum.outer(shares, shares)
    covariance = np.sqrt(later / earlier) * (1 - earlier)
    return mean.ravel(), np.kron(covariance, np.eye(2))


def reverse_joint() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (x_1, ..., x_4) in the reverse chain, flattened [8]."""
    means, blocks = [np.zeros(2)], [np.eye(2, 8)]
    for index, step in enumerate(list(gaussian_data.steps(SCHEDULE))[:0:-1]):
        matrix = step.of_x_0 * step.gain + step.of_x_t * np.eye(2)
        shift = step.of_x_0 * (gaussian_data.MEAN - step.signal * step.gain @ gaussian_data.MEAN)
        means.append(matrix @ means[-1] + shift)
        noise = np.eye(8)[2 * index + 2 : 2 * index + 4]
        blocks.append(matrix @ blocks[-1] + np.sqrt(step.beta) * noise)
    loading = np.concatenate(blocks[::-1])
    return np.concatenate(means[::-1]), loading @ loading.T


CHAINS = {
    "posterior": (lambda: LATENT.posterior(PARAMS, X), noising_joint),
    "prior": (lambda: LATENT.prior(PARAMS), reverse_joint),
}


@pytest.mark.parametrize("name", CHAINS)
def test_log_prob_is_that_of_the_joint_gaussian(name: str) -> None:
    make, joint = CHAINS[name]
    mean, covariance = joint()
    deviation = np.asarray(Z, float).ravel() - mean
    exact = -0.5 * deviation @ np.linalg.solve(covariance, deviation)
    exact -= 0.5 * (np.linalg.slogdet(covariance)[1] + 8 * np.log(2 * np.pi))
    np.testing.assert_allclose(jit_once(make().log_prob)(Z), exact, rtol=1e-5)


@pytest.mark.parametrize("name", CHAINS)
def test_samples_have_the_moments_of_the_joint_gaussian(name: str) -> None:
    make, joint = CHAINS[name]
    keys = jax.random.split(jax.random.key(0), 20_000)
    draws, log_probs = jit_once(jax.vmap(lambda key: make().sample_and_log_prob(seed=key)))(keys)
    assert draws.shape == (20_000, 4, 2)
    assert_moments(np.asarray(draws, float).reshape(-1, 8), *joint())
    again = jit_once(jax.vmap(make().log_prob))(draws[:50])
    np.testing.assert_allclose(log_probs[:50], again, rtol=1e-4, atol=1e-4)


def test_every_noised_state_has_its_marginal() -> None:
    mean, covariance = noising_joint()
    for t in range(1, 5):
        exact = marginal(SCHEDULE, X, t)
        np.testing.assert_allclose(mean.reshape(4, 2)[t - 1], exact.loc, rtol=1e-5)
        variance = np.diag(covariance)[2 * t - 2]
        np.testing.assert_allclose(variance, np.exp(2 * exact.log_scale), rtol=1e-5)


def test_importance_samples_average_to_the_density_of_the_model() -> None:
    """E[w] = p(x), the density of the last state of the reverse chain."""
    draw = jit_once(lambda key: importance_samples(LATENT, PARAMS, key, X, 20_000).log_weights)
    mean, covariance = gaussian_data.reverse_moments(SCHEDULE)[0]
    exact = jax.scipy.stats.multivariate_normal.pdf(X, jnp.array(mean), jnp.array(covariance))
    weights = np.exp(np.asarray(draw(jax.random.key(1)), float))
    error = weights.std() / np.sqrt(len(weights))
    assert abs(weights.mean() - exact) < 5 * error < 0.1 * exact


def test_it_draws_what_the_diffusion_draws() -> None:
    keys = jax.random.split(jax.random.key(2), 20_000)
    draws = jit_once(jax.vmap(lambda key: latent.sample(LATENT, PARAMS, key)))(keys)
    assert_moments(np.asarray(draws, float), *gaussian_data.reverse_moments(SCHEDULE)[0])


def test_they_are_reparameterised_and_cross_jit() -> None:
    def make(x):
        return LATENT.prior(PARAMS), LATENT.posterior(PARAMS, x)

    prior, posterior = jax.jit(make)(X)
    assert is_reparameterized(prior) and is_reparameterized(posterior)
    for distribution, (_, joint) in zip((posterior, prior), CHAINS.values(), strict=True):
        assert np.isfinite(joint()[0]).all()
        apart, within = distribution.log_prob(Z), jax.jit(distribution.log_prob)(Z)
        np.testing.assert_allclose(apart, within, rtol=1e-5)


def test_a_sample_moves_with_what_it_depends_on() -> None:
    """By x_0 the last state moves by sqrt(alpha_bar_T); by the network's offset all of them do."""
    key = jax.random.key(3)
    moved = jax.jacobian(lambda x: LATENT.posterior(PARAMS, x).sample(seed=key))(X)
    expected = SCHEDULE.signal[1:, None, None] * np.eye(2)
    np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-7)
    draw = functools.partial(lambda key, params: LATENT.prior(params).sample(seed=key), key)
    gradient = jax.jacobian(lambda offset: draw({"offset": offset}))(jnp.zeros(2))
    assert (np.diagonal(gradient, axis1=1, axis2=2)[:-1] > 0).all()
    np.testing.assert_array_equal(gradient[-1], 0)


def test_a_chain_of_another_length_is_refused() -> None:
    for make, _ in CHAINS.values():
        with pytest.raises(ValueError, match=r"shape of one event, \(4, 2\), got \(3, 2\)"):
            make().log_prob(Z[:3])
