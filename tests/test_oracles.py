"""The exact answers of the oracles, each held against another way to the same number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from genjax_models.learning import bounds
from tests import oracles


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def log_normal(z, mean, covariance) -> np.ndarray:
    return stats.multivariate_normal.logpdf(z, mean, covariance)


def test_linear_gaussian_marginal_and_posterior_are_those_of_the_joint() -> None:
    """p(x) p(z | x) = p(z) p(x | z) at any z; a wrong marginal or posterior breaks it."""
    params, x = oracles.linear_gaussian_params(), oracles.linear_gaussian_x()
    log_marginal = jax.jit(oracles.linear_gaussian_log_marginal)(params, x)
    mean, covariance = jax.jit(oracles.linear_gaussian_posterior)(params, x)
    numbers = {name: np.asarray(value) for name, value in params.items()}
    for z in np.random.default_rng(0).normal(size=(5, 2)):
        loc = numbers["loading"] @ z + numbers["bias"]
        log_joint = log_normal(
            z, numbers["prior_loc"], np.diag(np.exp(2 * numbers["prior_log_scale"]))
        ) + log_normal(x, loc, np.diag(np.exp(2 * numbers["log_noise"])))
        exact = log_marginal + log_normal(z, mean, covariance)
        np.testing.assert_allclose(log_joint, exact, rtol=1e-12)


def test_linear_gaussian_elbo_is_log_marginal_minus_kl() -> None:
    params, x = oracles.linear_gaussian_params(), oracles.linear_gaussian_x()
    kl = jax.jit(oracles.linear_gaussian_kl)(params, x)
    exact = jax.jit(oracles.linear_gaussian_log_marginal)(params, x) - kl
    elbo = jax.jit(oracles.linear_gaussian_elbo)(params, x)
    np.testing.assert_allclose(elbo, exact, rtol=1e-12)
    assert 0.02 < kl < 0.5  # q is neither exact nor hopeless


def test_chi_square_is_that_of_numerical_integration() -> None:
    params, x = oracles.linear_gaussian_params(), oracles.linear_gaussian_x()
    mean, covariance = jax.jit(oracles.linear_gaussian_posterior)(params, x)
    q_mean, q_covariance = jax.jit(oracles.linear_gaussian_approximate_posterior)(params, x)
    axis = np.linspace(-8, 8, 801)
    z = np.stack(np.meshgrid(axis, axis), axis=-1)
    values = np.exp(2 * log_normal(z, mean, covariance) - log_normal(z, q_mean, q_covariance))
    integral = values.sum() * (axis[1] - axis[0]) ** 2
    chi_square = jax.jit(oracles.linear_gaussian_chi_square)(params, x)
    np.testing.assert_allclose(chi_square, integral - 1, rtol=1e-9)


def test_quadrature_gives_the_elbo_and_has_converged() -> None:
    params, x = oracles.linear_gaussian_params(), oracles.linear_gaussian_x()
    expectation = jax.jit(
        jax.value_and_grad(oracles.linear_gaussian_expectation, 1),
        static_argnums=(0, 3),
        static_argnames="num_nodes",
    )
    for beta in (1.0, 0.3):
        value, gradient = expectation(bounds.elbo, params, x, 2, beta=beta, num_nodes=8)
        exact = jax.jit(jax.value_and_grad(oracles.linear_gaussian_elbo))(params, x, beta)
        jax.tree.map(np.testing.assert_allclose, (value, gradient), exact)
    coarse = expectation(bounds.iwae, params, x, 2, num_nodes=8)
    fine = expectation(bounds.iwae, params, x, 2, num_nodes=12)
    for difference in jax.tree.leaves(jax.tree.map(jnp.subtract, coarse, fine)):
        assert np.abs(difference).max() < 1e-4


def test_discrete_tables_are_those_of_the_model() -> None:
    params, x, model = oracles.discrete_params(), oracles.discrete_x(), oracles.discrete()

    @jax.jit
    def log_probs(z):
        distributions = (
            (model.likelihood(params, z), x),
            (model.prior(params), z),
            (model.posterior(params, x), z),
        )
        return [distribution.log_prob(value) for distribution, value in distributions]

    exact = jax.jit(oracles.discrete_log_probs)(params, x)
    np.testing.assert_allclose(jax.vmap(log_probs)(jnp.arange(3)), exact)


def test_discrete_elbo_is_log_marginal_minus_kl() -> None:
    params, x = oracles.discrete_params(), oracles.discrete_x()
    log_likelihood, log_prior, log_q = map(np.asarray, oracles.discrete_log_probs(params, x))
    log_marginal = jax.jit(oracles.discrete_log_marginal)(params, x)
    kl = np.sum(np.exp(log_q) * (log_q - (log_likelihood + log_prior - log_marginal)))
    for num_samples in (1, 3):
        elbo = oracles.discrete_expectation(bounds.elbo, params, x, num_samples)
        np.testing.assert_allclose(elbo, log_marginal - kl, rtol=1e-12)
    assert 0.02 < kl < 0.5
