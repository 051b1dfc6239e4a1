"""Refined posteriors of linear-Gaussian models, whose optimum in each family is a closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_models.distributions import DiagonalGaussian, FullCovarianceGaussian
from genjax_models.interfaces import LatentVariableModel
from genjax_models.learning import NVIL, log_weights, memoryless, refine, variational
from genjax_models.learning.refine import _SALT
from tests import oracles
from tests.statistics import assert_mean, jit_once

# Columns that correlate more, so that the dimensions of the exact posterior do.
LOADING = np.array([[0.9, 0.8], [0.3, 0.7], [-0.5, 0.2]])
PARAMS = jax.tree.map(np.float64, oracles.linear_gaussian_params()) | {"loading": LOADING}
X = np.array([0.8, -0.5, 1.1])


def amortized(params, x):
    return DiagonalGaussian(params["encoder"] @ x + params["encoder_bias"], params["log_scale"])


MODEL = oracles.linear_gaussian()._replace(posterior=amortized)
NUM_STEPS = 400
OPTIMIZER = optax.adam(optax.cosine_decay_schedule(0.1, NUM_STEPS))


def thorough(model: LatentVariableModel, **options) -> LatentVariableModel:
    settings = {"num_samples": 16, "estimator": "sticking_the_landing"} | options
    return refine(model, num_steps=NUM_STEPS, optimizer=OPTIMIZER, **settings)


def full(model: LatentVariableModel) -> LatentVariableModel:
    start = FullCovarianceGaussian(jnp.zeros(2), jnp.zeros(2), jnp.zeros(1))
    return memoryless(model, lambda params: start)


def mean_field_optimum() -> tuple[np.ndarray, np.ndarray]:
    """The exact means, and the variances of one dimension given the others."""
    mean, covariance = oracles.linear_gaussian_posterior(PARAMS, X)
    return np.asarray(mean), 1 / np.diag(np.linalg.inv(covariance))


@functools.cache
def refined(start: str) -> DiagonalGaussian:
    begin = lambda params: DiagonalGaussian(jnp.array([3.0, -2.0]), jnp.array([1.0, -2.0]))  # noqa: E731
    model = MODEL if start == "amortized" else memoryless(MODEL, begin)
    return jit_once(thorough(model, num_samples=200).posterior)(PARAMS, X)


@pytest.mark.parametrize("start", ["amortized", "from scratch"])
def test_a_diagonal_posterior_becomes_the_mean_field_optimum(start: str) -> None:
    mean, variances = mean_field_optimum()
    found = refined(start)
    np.testing.assert_allclose(found.loc, mean, atol=0.02)
    np.testing.assert_allclose(2 * found.log_scale, np.log(variances), atol=0.03)
    # The amortised one is not there, nor are the exact posterior's own variances.
    before = amortized(PARAMS, X)
    assert np.abs(before.loc - mean).max() > 0.05
    exact = np.diag(oracles.linear_gaussian_posterior(PARAMS, X)[1])
    assert np.abs(np.log(exact) - np.log(variances)).max() > 0.1


def test_a_full_covariance_becomes_exact_and_the_bound_tight() -> None:
    model = thorough(full(MODEL))

    @jit_once
    def run(key):
        posterior = model.posterior(PARAMS, X)
        given = model._replace(posterior=lambda params, x: posterior)
        return posterior, posterior.scale_tril, log_weights(given, PARAMS, key, X, 50)

    posterior, factor, weights = run(jax.random.key(1))
    mean, covariance = oracles.linear_gaussian_posterior(PARAMS, X)
    np.testing.assert_allclose(posterior.loc, mean, atol=1e-4)
    np.testing.assert_allclose(factor @ factor.T, covariance, atol=1e-4)
    exact = oracles.linear_gaussian_log_marginal(PARAMS, X)
    np.testing.assert_allclose(weights, np.full(50, exact), atol=1e-3)


def test_training_on_it_is_variational_expectation_maximisation() -> None:
    """The gradient is that of the closed-form ELBO of the refined posterior, held."""
    posterior = refined("amortized")
    given = MODEL._replace(posterior=lambda params, x: jax.lax.stop_gradient(posterior))

    def elbo(theta):
        held = {"encoder": jnp.zeros((2, 3)), "encoder_bias": posterior.loc}
        held["log_scale"] = posterior.log_scale
        return -oracles.linear_gaussian_elbo(theta | held, X)

    exact = jax.grad(elbo)(PARAMS)
    loss = variational(given, num_samples=4)
    one = lambda key: jax.grad(loss, has_aux=True)(PARAMS, key, X)[0]  # noqa: E731
    found = jit_once(jax.vmap(one))(jax.random.split(jax.random.key(2), 4000))
    assert_mean(found, exact, scale=1.0)
    # And the refined model is this: one draw of each with the same key.
    key = jax.random.key(3)
    of_model = variational(thorough(MODEL, num_samples=200), num_samples=4)
    whole = jit_once(jax.grad(lambda params: of_model(params, jax.random.clone(key), X)[0]))(PARAMS)
    part = jit_once(jax.grad(lambda params: loss(params, jax.random.clone(key), X)[0]))(PARAMS)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-9), whole, part)
    for name in ("encoder", "encoder_bias", "log_scale"):
        assert (whole[name] == 0).all()


def test_with_the_exact_posterior_it_is_expectation_maximisation() -> None:
    """Fisher's identity: the gradient is that of log p(x)."""
    exact = jit_once(jax.grad(lambda p: -oracles.linear_gaussian_log_marginal(p, X)))(PARAMS)
    loss = variational(thorough(full(MODEL)), num_samples=4)
    one = lambda key: jax.grad(loss, has_aux=True)(PARAMS, key, X)[0]  # noqa: E731
    found = jit_once(jax.vmap(one))(jax.random.split(jax.random.key(4), 4000))
    assert_mean(found, exact, scale=1.0)


def test_no_steps_are_the_same_model() -> None:
    model = refine(MODEL, num_steps=0, optimizer=optax.sgd(0.1))
    jax.tree.map(
        np.testing.assert_array_equal, model.posterior(PARAMS, X), MODEL.posterior(PARAMS, X)
    )


def test_memoryless_begins_at_the_prior_and_ignores_x() -> None:
    model = memoryless(MODEL)
    first, second = model.posterior(PARAMS, X), model.posterior(PARAMS, 2 * X)
    np.testing.assert_array_equal(first.mean(), PARAMS["prior_loc"])
    np.testing.assert_array_equal(first.mean(), second.mean())


def test_the_seed_decides_alone() -> None:
    run = {
        seed: jit_once(refine(MODEL, num_steps=3, optimizer=optax.sgd(0.1), seed=seed).posterior)(
            PARAMS, X
        ).loc
        for seed in (0, 0, 1)
    }
    again = jit_once(refine(MODEL, num_steps=3, optimizer=optax.sgd(0.1)).posterior)(PARAMS, X).loc
    np.testing.assert_array_equal(run[0], again)
    assert np.abs(run[0] - run[1]).max() > 1e-3


def test_the_noise_is_not_that_of_an_evaluation_with_the_same_seed() -> None:
    """Example i of one has the key that step i would have without a constant of its own."""
    found = jit_once(refine(MODEL, num_steps=1, optimizer=optax.sgd(0.1)).posterior)(PARAMS, X)
    start = amortized(PARAMS, X)
    given = LatentVariableModel(
        init=lambda key: start,
        prior=lambda q: MODEL.prior(PARAMS),
        likelihood=lambda q, z: MODEL.likelihood(PARAMS, z),
        posterior=lambda q, x: q,
    )
    gradient = jit_once(jax.grad(variational(given), has_aux=True))

    def step(key: jax.Array) -> np.ndarray:
        return np.asarray(start.loc - 0.1 * gradient(start, key, X)[0].loc)

    assert np.abs(step(jax.random.split(jax.random.key(0), 6)[0]) - found.loc).max() > 1e-3
    # It is a step of the same ELBO, with another key.
    own = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), _SALT), 0)
    np.testing.assert_allclose(step(own), found.loc, rtol=1e-9)


def test_the_gradient_goes_through_the_steps() -> None:
    """Against finite differences in the parameters of the encoder and of the model."""
    model = refine(MODEL, num_steps=3, optimizer=optax.sgd(0.05), num_samples=2, differentiate=True)
    loss = jit_once(lambda params: variational(model)(params, jax.random.key(5), X)[0])
    gradient = jit_once(jax.grad(lambda p: variational(model)(p, jax.random.key(5), X)[0]))(PARAMS)
    for name, index in [("encoder", (0, 1)), ("log_scale", (1,)), ("loading", (2, 0))]:
        step = np.zeros_like(PARAMS[name])
        step[index] = 1e-5
        high = loss(PARAMS | {name: PARAMS[name] + step})
        low = loss(PARAMS | {name: PARAMS[name] - step})
        np.testing.assert_allclose(gradient[name][index], (high - low) / 2e-5, rtol=1e-5)
        assert abs(gradient[name][index]) > 1e-4


def test_what_cannot_be_refined_is_refused() -> None:
    sgd = optax.sgd(0.1)
    with pytest.raises(ValueError, match="num_steps must be an integer >= 0, got -1"):
        refine(MODEL, num_steps=-1, optimizer=sgd)
    with pytest.raises(ValueError, match='differentiate=True needs estimator="pathwise"'):
        refine(MODEL, num_steps=1, optimizer=sgd, estimator="dreg", differentiate=True)
    for estimator in ("wake_sleep", "sleep_phi", "wake_phi", "nvil", NVIL()):
        with pytest.raises(ValueError, match=r"estimator must be of the gradient.*got '?\w+"):
            refine(MODEL, num_steps=1, optimizer=sgd, estimator=estimator)
    with pytest.raises(ValueError, match="num_samples must be an integer >= 1, got 0"):
        refine(MODEL, num_steps=1, optimizer=sgd, num_samples=0)
    with pytest.raises(TypeError, match=r"named tuple of floating arrays.*MultivariateNormalDiag"):
        refine(oracles.linear_gaussian(), num_steps=1, optimizer=sgd).posterior(PARAMS, X)
