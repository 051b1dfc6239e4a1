"""Ancestral samples and reconstructions against the probabilities of every outcome."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.interfaces import LatentVariableModel
from genjax_models.models.latent import reconstruct, sample
from tests import oracles
from tests.statistics import assert_mean

EVENTS = np.array(list(np.ndindex(2, 2, 2)), np.float32)


def draws(function, num_draws: int = 40_000):
    return jax.jit(jax.vmap(function))(jax.random.split(jax.random.key(0), num_draws))


def probabilities(params) -> jax.Array:
    """p(x | z) of every event in its row and every z in its column."""
    log_likelihoods = [oracles.discrete_log_probs(params, x)[0] for x in EVENTS]
    return jnp.exp(jnp.stack(log_likelihoods))


def frequencies(xs: jax.Array) -> np.ndarray:
    return (np.asarray(xs)[:, None] == EVENTS).all(axis=-1)


def test_samples_have_the_marginal_probabilities() -> None:
    params = oracles.discrete_params()
    prior = jax.nn.softmax(params["prior"])
    xs = draws(lambda key: sample(oracles.discrete(), params, key))
    assert_mean(frequencies(xs), probabilities(params) @ prior)


def test_reconstructions_go_through_the_posterior() -> None:
    params, x = oracles.discrete_params(), oracles.discrete_x()
    *_, log_posterior = oracles.discrete_log_probs(params, x)
    xs = draws(lambda key: reconstruct(oracles.discrete(), params, key, x))
    assert_mean(frequencies(xs), probabilities(params) @ jnp.exp(log_posterior))


def test_means_are_those_of_the_likelihood_at_a_drawn_code() -> None:
    params, x = oracles.discrete_params(), oracles.discrete_x()
    means = jax.nn.sigmoid(params["likelihood"])
    prior = jax.nn.softmax(params["prior"])
    *_, log_posterior = oracles.discrete_log_probs(params, x)
    model = oracles.discrete()
    samples = draws(lambda key: sample(model, params, key, mean=True))
    assert_mean(samples, prior @ means)
    reconstructions = draws(lambda key: reconstruct(model, params, key, x, mean=True))
    assert_mean(reconstructions, jnp.exp(log_posterior) @ means)
    for xs in (samples, reconstructions):
        # A mean, not a draw: one of three vectors.
        assert len(np.unique(np.round(xs, 4), axis=0)) == 3


def test_pytrees() -> None:
    params, x = oracles.linear_gaussian_params(), oracles.structured_x()
    model = oracles.structured_linear_gaussian()
    code, _ = oracles.linear_gaussian_approximate_posterior(params, oracles.linear_gaussian_x())
    exact = [params["loading"] @ z + params["bias"] for z in (params["prior_loc"], code)]

    def both(key):
        keys = jax.random.split(key)
        return sample(model, params, keys[0]), reconstruct(model, params, keys[1], x)

    for xs, loc in zip(draws(both), exact, strict=True):
        assert_mean(xs, {"pair": loc[:2], "last": loc[2]}, scale=1)


def test_code_and_observation_are_drawn_with_different_keys() -> None:
    """x - z is independent of z; one key for both would make them equal."""
    normal = lambda loc: distrax.Normal(loc, 1.0)  # noqa: E731
    model = LatentVariableModel(
        init=lambda key: None,
        prior=lambda params: normal(0.0),
        likelihood=lambda params, z: normal(z),
        posterior=lambda params, x: normal(x),
    )
    assert_mean(draws(lambda key: sample(model, None, key) ** 2), 2.0)
    xs = draws(lambda key: reconstruct(model, None, key, jnp.array(3.0)))
    assert_mean((xs - 3) ** 2, 2.0)
