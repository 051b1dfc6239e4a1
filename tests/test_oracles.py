"""The exact answers of the oracles, each held against another way to the same number."""

import jax
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from genjax_models.learning import bounds
from tests import oracles


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def log_joint(z):
    params, x = oracles.linear_gaussian_params(), oracles.linear_gaussian_x()
    model = oracles.linear_gaussian()
    return model.prior(params).log_prob(z) + model.likelihood(params, z).log_prob(x)


def test_linear_gaussian_marginal_and_posterior_are_those_of_the_joint() -> None:
    """p(x) p(z | x) = p(z) p(x | z) at any z; a wrong marginal or posterior breaks it."""
    params, x = oracles.linear_gaussian_params(), oracles.linear_gaussian_x()
    mean, covariance = oracles.linear_gaussian_posterior(params, x)
    for z in np.random.default_rng(0).normal(size=(5, 2)):
        log_posterior = scipy.stats.multivariate_normal.logpdf(z, mean, covariance)
        exact = oracles.linear_gaussian_log_marginal(params, x) + log_posterior
        np.testing.assert_allclose(log_joint(z), exact, rtol=1e-12)


def test_linear_gaussian_elbo_is_log_marginal_minus_kl() -> None:
    params, x = oracles.linear_gaussian_params(), oracles.linear_gaussian_x()
    kl = oracles.linear_gaussian_kl(params, x)
    exact = oracles.linear_gaussian_log_marginal(params, x) - kl
    np.testing.assert_allclose(oracles.linear_gaussian_elbo(params, x), exact, rtol=1e-12)
    assert 0.02 < kl < 0.5  # q is neither exact nor hopeless


def test_chi_square_is_that_of_numerical_integration() -> None:
    params, x = oracles.linear_gaussian_params(), oracles.linear_gaussian_x()
    mean, covariance = oracles.linear_gaussian_posterior(params, x)
    q = oracles.linear_gaussian().posterior(params, x)

    def integrand(second: float, first: float) -> float:
        z = np.array([first, second])
        log_p = scipy.stats.multivariate_normal.logpdf(z, mean, covariance)
        log_q = scipy.stats.multivariate_normal.logpdf(z, q.loc, np.diag(q.scale_diag**2))
        return np.exp(2 * log_p - log_q)

    integral, _ = scipy.integrate.dblquad(integrand, -6, 6, -6, 6, epsabs=1e-6)
    np.testing.assert_allclose(
        oracles.linear_gaussian_chi_square(params, x), integral - 1, rtol=1e-4
    )


def test_quadrature_gives_the_elbo_and_has_converged() -> None:
    params, x = oracles.linear_gaussian_params(), oracles.linear_gaussian_x()
    for beta in (1.0, 0.3):
        elbo = oracles.linear_gaussian_expectation(bounds.elbo, params, x, 2, beta=beta)
        exact = oracles.linear_gaussian_elbo(params, x, beta)
        np.testing.assert_allclose(elbo, exact, rtol=1e-10)
    coarse, fine = (
        jax.grad(oracles.linear_gaussian_expectation, 1)(bounds.iwae, params, x, 2, num_nodes=n)
        for n in (16, 20)
    )
    for name in fine:
        np.testing.assert_allclose(coarse[name], fine[name], atol=1e-4)


def test_discrete_tables_are_those_of_the_model() -> None:
    params, x, model = oracles.discrete_params(), oracles.discrete_x(), oracles.discrete()
    log_likelihood, log_prior, log_posterior = oracles.discrete_log_probs(params, x)
    for z in range(3):
        np.testing.assert_allclose(model.likelihood(params, z).log_prob(x), log_likelihood[z])
        np.testing.assert_allclose(model.prior(params).log_prob(z), log_prior[z])
        np.testing.assert_allclose(model.posterior(params, x).log_prob(z), log_posterior[z])


def test_discrete_elbo_is_log_marginal_minus_kl() -> None:
    params, x = oracles.discrete_params(), oracles.discrete_x()
    log_likelihood, log_prior, log_q = oracles.discrete_log_probs(params, x)
    log_marginal = oracles.discrete_log_marginal(params, x)
    kl = np.sum(np.exp(log_q) * (log_q - (log_likelihood + log_prior - log_marginal)))
    for num_samples in (1, 3):
        elbo = oracles.discrete_expectation(bounds.elbo, params, x, num_samples)
        np.testing.assert_allclose(elbo, log_marginal - kl, rtol=1e-12)
    assert 0.02 < kl < 0.5
