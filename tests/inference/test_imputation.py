"""Imputation against the exact conditional of linear-Gaussian and of enumerated models."""

import functools
import itertools
import warnings

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.distributions import Bernoulli, DiagonalGaussian, Pushforward
from genjax_models.inference import (
    binary_channel,
    importance_resampling,
    metropolis_within_gibbs,
    missing,
    pseudo_gibbs,
)
from genjax_models.interfaces import LatentVariableModel
from genjax_models.models import latent
from tests import oracles
from tests.statistics import assert_mean, jit_once

NUM_CHAINS = 40_000
MASK = jnp.array([True, False, False])
X = oracles.linear_gaussian_x()
PARAMS = oracles.linear_gaussian_params()


@functools.cache
def gaussian(*, exact_posterior: bool = False) -> LatentVariableModel:
    """The linear-Gaussian oracle, whose likelihood says that its dimensions are independent."""

    def likelihood(params, z):
        return DiagonalGaussian(params["loading"] @ z + params["bias"], params["log_noise"])

    model = oracles.linear_gaussian(exact_posterior=exact_posterior)
    return model._replace(likelihood=likelihood)


def joint_gaussian() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (x, z)."""
    loading = np.asarray(PARAMS["loading"], np.float64)
    prior = np.diag(np.exp(2 * np.asarray(PARAMS["prior_log_scale"], np.float64)))
    noise = np.diag(np.exp(2 * np.asarray(PARAMS["log_noise"], np.float64)))
    mean = np.concatenate([loading @ PARAMS["prior_loc"] + PARAMS["bias"], PARAMS["prior_loc"]])
    cross = loading @ prior
    return mean, np.block([[cross @ loading.T + noise, cross], [cross.T, prior]])


def conditional(observed: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of what is missing of (x, z), given the observed dimensions of x."""
    mean, covariance = joint_gaussian()
    rest = [d for d in range(5) if d not in observed]
    gain = covariance[np.ix_(rest, observed)] @ np.linalg.inv(
        covariance[np.ix_(observed, observed)]
    )
    moved = mean[rest] + gain @ (np.asarray(X)[observed] - mean[observed])
    return moved, covariance[np.ix_(rest, rest)] - gain @ covariance[np.ix_(observed, rest)]


MEAN, COVARIANCE = conditional([0])


def exact_starts(num_chains: int) -> np.ndarray:
    """x with its missing dimensions from their exact conditional."""
    rng = np.random.default_rng(0)
    draws = rng.multivariate_normal(MEAN[:2], COVARIANCE[:2, :2], num_chains)
    return np.column_stack([np.full(num_chains, X[0]), draws]).astype(np.float32)


def moments(x: np.ndarray) -> dict[str, np.ndarray]:
    """First and second moments of the missing dimensions about the exact mean."""
    centred = np.asarray(x, np.float64)[:, 1:] - MEAN[:2]
    return {"mean": centred, "square": centred[:, :, None] * centred[:, None, :]}


EXACT_MOMENTS = {"mean": np.zeros(2), "square": COVARIANCE[:2, :2]}


@functools.cache
def chains(method, exact_posterior: bool, num_steps: int, starts: str):
    observation = missing(X, MASK)
    model = gaussian(exact_posterior=exact_posterior)
    begin = exact_starts(NUM_CHAINS) if starts == "exact" else np.tile(X, (NUM_CHAINS, 1))

    @jit_once
    @jax.vmap
    def run(key, x):
        return method(model, PARAMS, key, observation, x, num_steps, num_burn_in=num_steps // 2)

    return run(jax.random.split(jax.random.key(0), NUM_CHAINS), begin.astype(np.float32))


def assert_exact(x) -> None:
    assert_mean(moments(x), EXACT_MOMENTS, scale=1.0)


def test_pseudo_gibbs_with_the_exact_posterior_reaches_the_conditional():
    found = chains(pseudo_gibbs, True, 20, "mean")
    assert_exact(found.x)
    assert_mean(found.mean[:, 1:], MEAN[:2])
    assert (found.x[:, 0] == X[0]).all() and np.allclose(found.mean[:, 0], X[0], rtol=1e-6)


def test_pseudo_gibbs_with_another_posterior_is_off():
    """So that the tests above and below have the power to say so."""
    with pytest.raises(AssertionError, match="biased"):
        assert_exact(chains(pseudo_gibbs, False, 20, "mean").x)


def test_metropolis_within_gibbs_reaches_the_conditional_with_any_posterior():
    found = chains(metropolis_within_gibbs, False, 20, "mean")
    assert_exact(found.x)
    assert_mean(found.mean[:, 1:], MEAN[:2])
    assert (found.x[:, 0] == X[0]).all()
    assert 0.3 < found.acceptance.mean() < 0.97


def test_metropolis_within_gibbs_accepts_every_draw_of_the_exact_posterior():
    found = chains(metropolis_within_gibbs, True, 2, "exact")
    # A ratio of one is a little below it by rounding.
    assert found.acceptance.mean() > 0.999
    assert_exact(found.x)


def test_importance_resampling_is_exact_in_the_limit():
    observation, model = missing(X, MASK), gaussian()

    @jit_once
    @jax.vmap
    def run(key):
        return importance_resampling(model, PARAMS, key, observation, X, 300)

    found = run(jax.random.split(jax.random.key(1), 10_000))
    # The weights' mean is unbiased, and so is the mean before it is divided by it.
    mean, covariance = joint_gaussian()
    density = np.exp(-0.5 * (X[0] - mean[0]) ** 2 / covariance[0, 0])
    density /= np.sqrt(2 * np.pi * covariance[0, 0])
    weight = jnp.exp(found.log_prob)
    assert_mean(weight, density)
    assert_mean(weight[:, None] * found.mean[:, 1:], density * MEAN[:2])
    assert (found.effective_sample_size >= 1).all()
    assert (found.effective_sample_size <= 300.01).all()
    # Resampling from 300 is biased by less than the error of 10,000.
    assert_mean(moments(found.x), EXACT_MOMENTS, scale=2.0)


def test_importance_weights_of_the_exact_posterior_of_a_whole_example():
    """With everything observed the weights are those of log p(x), all equal."""
    observation = missing(X, jnp.ones(3, bool))
    found = importance_resampling(
        gaussian(exact_posterior=True), PARAMS, jax.random.key(0), observation, X, 5
    )
    exact = oracles.linear_gaussian_log_marginal(PARAMS, X)
    np.testing.assert_allclose(found.log_prob, exact, rtol=1e-5)
    np.testing.assert_allclose(found.effective_sample_size, 5, rtol=1e-4)


# ---- a discrete model, enumerated


def discrete_model() -> LatentVariableModel:
    model = oracles.discrete()
    return model._replace(likelihood=lambda params, z: Bernoulli(params["likelihood"][z]))


DISCRETE = oracles.discrete_params()
STATES = np.array(list(itertools.product((0.0, 1.0), repeat=3)), np.float32)


def enumerate_x(log_evidence: np.ndarray) -> tuple[np.ndarray, float]:
    """p(x | y) of the eight x and log p(y), given log p(y | x) of each."""
    log_marginal = np.array([oracles.discrete_log_marginal(DISCRETE, x) for x in STATES])
    joint = np.exp(log_marginal + log_evidence)
    return joint / joint.sum(), np.log(joint.sum())


def channel_of(flip: float) -> tuple[jnp.ndarray, np.ndarray]:
    """Of the observation 1, 0, 1 through flips, and log p(y | x) of every x."""
    y = np.array([1.0, 0.0, 1.0])
    log_channel = np.where(y == np.array([[0.0], [1.0]]), np.log(1 - flip), np.log(flip))
    evidence = sum(np.where(STATES[:, d], log_channel[1, d], log_channel[0, d]) for d in range(3))
    return jnp.float32(log_channel), evidence


def frequencies(x) -> np.ndarray:
    """One where a row is the state, [N, 8]."""
    return np.all(np.asarray(x)[:, None, :] == STATES[None], axis=-1)


OBSERVATIONS = {
    "missing": (
        lambda: missing(oracles.discrete_x(), jnp.array([True, False, False])),
        np.where(STATES[:, 0] == 1, 0.0, -np.inf),
    ),
    "flipped": (lambda: binary_channel(channel_of(0.2)[0]), channel_of(0.2)[1]),
}


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_the_discrete_model_by_enumeration(name):
    make, evidence = OBSERVATIONS[name]
    model, start = discrete_model(), oracles.discrete_x()
    exact, log_prob = enumerate_x(evidence)

    @jit_once
    @jax.vmap
    def run(key):
        chain_key, weigh_key = jax.random.split(key)
        chain = metropolis_within_gibbs(
            model, DISCRETE, chain_key, make(), start, 20, num_burn_in=10
        )
        return chain, importance_resampling(model, DISCRETE, weigh_key, make(), start, 200)

    chain, weighed = run(jax.random.split(jax.random.key(2), 10_000))
    assert_mean(frequencies(chain.x), exact, scale=1.0)
    assert_mean(chain.mean, exact @ STATES, floor=1e-6)
    assert_mean(jnp.exp(weighed.log_prob), np.exp(log_prob))
    weights = jnp.exp(weighed.log_prob)[:, None]
    assert_mean(weights * weighed.mean, np.exp(log_prob) * (exact @ STATES), floor=1e-6)
    assert_mean(frequencies(weighed.x), exact, scale=1.0)


def test_a_channel_that_says_nothing_is_missing_everything():
    likelihood = Bernoulli(jnp.float32([0.3, -2.0, 1e4]))
    nothing = binary_channel(jnp.zeros((2, 3)))
    np.testing.assert_allclose(nothing.log_prob(likelihood), 0, atol=1e-6)
    np.testing.assert_allclose(nothing.mean(likelihood), likelihood.mean(), rtol=1e-6)


def test_a_missing_value_may_be_impossible():
    """What stands where nothing was observed is not looked at."""
    observation = missing(jnp.float32([1.0, jnp.inf]), jnp.array([True, False]))
    likelihood = DiagonalGaussian(jnp.zeros(2), jnp.zeros(2))
    np.testing.assert_allclose(observation.log_prob(likelihood), -0.5 - 0.5 * np.log(2 * np.pi))
    np.testing.assert_allclose(observation.mean(likelihood), [1, 0])


@pytest.mark.parametrize(
    "make",
    [lambda loc: DiagonalGaussian(loc, jnp.zeros(3)), Bernoulli],
    ids=["gaussian", "bernoulli"],
)
def test_gradients_do_not_see_what_is_missing(make):
    x, mask = jnp.array([1.0, jnp.nan, 0.0]), jnp.array([True, False, True])
    loc = jnp.array([0.3, -0.2, 0.5])

    def log_prob(loc, x):
        return missing(x, mask).log_prob(make(loc))

    found = jax.value_and_grad(log_prob)(loc, x)
    expected = jax.value_and_grad(log_prob)(loc, jnp.nan_to_num(x))
    np.testing.assert_allclose(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1])
    assert found[1][1] == 0 != found[1][0]


# ---- z that is a tuple, and what is refused


DEPENDENT = distrax.MultivariateNormalFullCovariance(jnp.zeros(3), jnp.eye(3))


def test_latents_may_be_a_pytree():
    model = oracles.structured_linear_gaussian()

    def likelihood(params, z):
        loc = params["loading"] @ jnp.stack([z[0], z[1]["second"]]) + params["bias"]
        return DiagonalGaussian(loc, params["log_noise"])

    def posterior(params, x):
        return model.posterior(params, {"pair": x[:2], "last": x[2]})

    structured = model._replace(likelihood=likelihood, posterior=posterior)
    observation, key = missing(X, MASK), jax.random.key(0)
    same = [
        method(m, PARAMS, jax.random.clone(key), observation, X, 5)
        for method in (metropolis_within_gibbs, importance_resampling)
        for m in (structured, structured)
    ]
    assert all(np.isfinite(found.mean).all() for found in same)
    assert same[0].mean.shape == (3,)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: missing(X, jnp.ones(2, bool)),
            ValueError,
            r"mask must be boolean .* got bool \(2,\)",
        ),
        (lambda: missing(X, jnp.ones(3)), ValueError, "mask must be boolean"),
        (lambda: binary_channel(jnp.ones(3)), ValueError, "log_channel must have shape"),
        (
            lambda: pseudo_gibbs(*arguments(), 0),
            ValueError,
            "num_steps must be an integer of at least 1, got 0",
        ),
        # Three steps would be averaged as two and a half.
        (
            lambda: pseudo_gibbs(*arguments(), 2.5),
            ValueError,
            "num_steps must be an integer of at least 1, got 2.5",
        ),
        (
            lambda: metropolis_within_gibbs(*arguments(), 3, num_burn_in=0.5),
            ValueError,
            "num_burn_in must be an integer in 0..num_steps - 1, 2, got 0.5",
        ),
        (
            lambda: metropolis_within_gibbs(*arguments(), 2, num_burn_in=2),
            ValueError,
            "num_burn_in must be an integer in 0..num_steps - 1, 1, got 2",
        ),
        (
            lambda: importance_resampling(*arguments(), 0),
            ValueError,
            "num_samples must be an integer of at least 1, got 0",
        ),
        (
            lambda: importance_resampling(*arguments(), 2.5),
            ValueError,
            "num_samples must be an integer of at least 1, got 2.5",
        ),
        (
            lambda: metropolis_within_gibbs(*arguments(without_density()), 2),
            TypeError,
            "needs log_prob of the posterior, which a Pushforward does not have",
        ),
        (
            lambda: binary_channel(jnp.zeros((2, 3))).log_prob(DiagonalGaussian(X, X)),
            TypeError,
            "a binary channel is for a Bernoulli",
        ),
        (
            lambda: binary_channel(jnp.zeros((2, 1))).log_prob(Bernoulli(jnp.zeros(4))),
            ValueError,
            r"one logit for each column of log_channel, of shape \(1,\), got \(4,\)",
        ),
        (
            lambda: missing(X, MASK).mean(Bernoulli(jnp.zeros((2, 3)))),
            ValueError,
            "value must have the shape of one event",
        ),
        (lambda: missing(X, MASK).log_prob(DEPENDENT), TypeError, "not known to be independent"),
        (lambda: missing(X, MASK).mean(DEPENDENT), TypeError, "not known to be independent"),
        (
            lambda: missing(X, MASK).sample(DEPENDENT, jax.random.key(0)),
            TypeError,
            "not known to be independent",
        ),
        (
            lambda: pseudo_gibbs(*arguments(windowed()), 2),
            TypeError,
            "dimensions of a AutoregressiveBernoulli are not known to be independent",
        ),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def arguments(model=None):
    return model or gaussian(), PARAMS, jax.random.key(0), missing(X, MASK), X


def windowed() -> LatentVariableModel:
    """Pixels that see their neighbours, so that the missing ones depend on the observed ones."""
    with warnings.catch_warnings(action="ignore"):
        model = latent.lossy_vae(image_shape=(1, 3), radius=1, latent_dim=1, hidden=(2,))
    params = model.init(jax.random.key(0))
    return LatentVariableModel(
        model.init,
        lambda _: model.prior(params),
        lambda _, z: model.likelihood(params, z),
        lambda _, x: model.posterior(params, x),
    )


def without_density() -> LatentVariableModel:
    def posterior(params, x):
        return Pushforward(DiagonalGaussian(jnp.zeros(2), jnp.zeros(2)), lambda z: (z, 0.0))

    return gaussian()._replace(posterior=posterior)
