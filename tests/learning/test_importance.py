"""Importance samples: their parts, their expectation, any model's shapes, and what is refused."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorflow_probability.substrates import jax as tfp

from genjax_models.learning import ImportanceSamples, importance_samples, log_weights
from tests import oracles
from tests.statistics import assert_mean

MODELS = {
    "linear_gaussian": (
        oracles.linear_gaussian,
        oracles.linear_gaussian_params,
        oracles.linear_gaussian_x,
    ),
    "structured": (
        oracles.structured_linear_gaussian,
        oracles.linear_gaussian_params,
        oracles.structured_x,
    ),
    "discrete": (oracles.discrete, oracles.discrete_params, oracles.discrete_x),
}


draw = jax.jit(importance_samples, static_argnums=(0, 4))
draw_log_weights = jax.jit(log_weights, static_argnums=(0, 4))


@pytest.mark.parametrize("name", MODELS)
def test_every_part_is_the_log_probability_of_its_sample(name: str) -> None:
    model, params, x = (make() for make in MODELS[name])
    samples = draw(model, params, jax.random.key(0), x, 5)

    @jax.vmap
    def parts(z):
        return ImportanceSamples(
            z,
            model.likelihood(params, z).log_prob(x),
            model.prior(params).log_prob(z),
            model.posterior(params, x).log_prob(z),
        )

    jax.tree.map(np.testing.assert_allclose, samples, jax.jit(parts)(samples.z))
    assert samples.log_weights.shape == (5,)
    np.testing.assert_allclose(
        samples.log_weights, samples.log_likelihood + samples.log_prior - samples.log_posterior
    )
    assert len(np.unique(samples.log_weights)) > 1


@pytest.mark.parametrize("name", MODELS)
def test_mean_weight_is_the_marginal_likelihood(name: str) -> None:
    model, params, x = (make() for make in MODELS[name])
    weights = np.exp(draw_log_weights(model, params, jax.random.key(0), x, 40_000))
    if name == "discrete":
        exact = oracles.discrete_log_marginal(params, x)
    else:
        exact = oracles.linear_gaussian_log_marginal(params, oracles.linear_gaussian_x())
    assert_mean(weights, np.exp(exact))


def test_samples_are_those_of_the_posterior() -> None:
    model, params, x = (make() for make in MODELS["linear_gaussian"])
    z = draw(model, params, jax.random.key(0), x, 40_000).z
    mean, covariance = oracles.linear_gaussian_approximate_posterior(params, x)
    assert_mean(z, mean)
    assert_mean((z - mean) ** 2, np.diag(covariance))

    model, params, x = (make() for make in MODELS["discrete"])
    z = draw(model, params, jax.random.key(0), x, 40_000).z
    *_, log_posterior = oracles.discrete_log_probs(params, x)
    assert_mean(z[:, None] == np.arange(3), np.exp(log_posterior))


def test_sample_k_is_that_of_split_key_k() -> None:
    model, params, x = (make() for make in MODELS["linear_gaussian"])
    key = jax.random.key(0)
    samples = draw(model, params, jax.random.clone(key), x, 3)
    sample = jax.jit(lambda key: model.posterior(params, x).sample(seed=key))
    for k, subkey in enumerate(jax.random.split(key, 3)):
        np.testing.assert_allclose(samples.z[k], sample(subkey))


def test_log_weights_are_those_of_the_samples() -> None:
    model, params, x = (make() for make in MODELS["discrete"])
    key = jax.random.key(0)
    samples = draw(model, params, jax.random.clone(key), x, 5)
    np.testing.assert_allclose(
        draw_log_weights(model, params, key, x, 5), samples.log_weights, rtol=1e-12
    )


def test_a_posterior_of_tfp_works() -> None:
    """TFP's distributions draw a sample and give its log-probability in two calls."""
    plain, params, x = (make() for make in MODELS["linear_gaussian"])
    tfd = tfp.distributions
    model = plain._replace(
        prior=lambda params: tfd.MultivariateNormalDiag(
            params["prior_loc"], jnp.exp(params["prior_log_scale"])
        ),
        posterior=lambda params, x: tfd.MultivariateNormalDiag(
            params["encoder"] @ x + params["encoder_bias"], jnp.exp(params["log_scale"])
        ),
    )
    samples = draw(model, params, jax.random.key(0), x, 3)
    exact = jax.jit(jax.vmap(lambda z: plain.posterior(params, x).log_prob(z)))(samples.z)
    np.testing.assert_allclose(samples.log_posterior, exact)


def test_a_posterior_needs_no_log_prob_of_a_given_value() -> None:
    class SampleOnly:
        def __init__(self, distribution) -> None:
            self.sample_and_log_prob = distribution.sample_and_log_prob

    plain, params, x = (make() for make in MODELS["linear_gaussian"])
    model = plain._replace(posterior=lambda params, x: SampleOnly(plain.posterior(params, x)))
    np.testing.assert_allclose(
        draw_log_weights(model, params, jax.random.key(0), x, 5),
        draw_log_weights(plain, params, jax.random.key(0), x, 5),
    )


def test_half_precision_log_probabilities_are_added_in_float32() -> None:
    model, params, x = (make() for make in MODELS["linear_gaussian"])
    params, x = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, x))
    samples = jax.eval_shape(
        lambda key: importance_samples(model, params, key, x, 3), jax.random.key(0)
    )
    assert samples.z.dtype == jnp.bfloat16
    assert {part.dtype for part in samples[1:]} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("part", ["prior", "likelihood", "posterior"])
def test_a_batch_of_distributions_is_refused(part: str) -> None:
    """The message names the part and a remedy; the remedy works."""
    plain, params, x = (make() for make in MODELS["linear_gaussian"])

    def batch(*arguments):
        event = getattr(plain, part)(*arguments)
        return distrax.Normal(event.loc, event.scale_diag)

    model = plain._replace(**{part: batch})
    with pytest.raises(ValueError, match=f"{part}.*reinterpreted_batch_ndims"):
        log_weights(model, params, jax.random.key(0), x, 2)
    model = plain._replace(
        **{part: lambda *a: distrax.Independent(batch(*a), reinterpreted_batch_ndims=1)}
    )
    np.testing.assert_allclose(
        draw_log_weights(model, params, jax.random.key(0), x, 5),
        draw_log_weights(plain, params, jax.random.key(0), x, 5),
    )


@pytest.mark.parametrize("num_samples", [0, -1, 2.5, "3", None])
def test_numbers_of_samples_that_are_refused(num_samples) -> None:
    model, params, x = (make() for make in MODELS["discrete"])
    for function in (importance_samples, log_weights):
        with pytest.raises(ValueError, match="num_samples must be an integer >= 1"):
            function(model, params, jax.random.key(0), x, num_samples)


def test_integers_of_numpy_are_integers() -> None:
    model, params, x = (make() for make in MODELS["discrete"])
    weights = jax.eval_shape(
        lambda key: log_weights(model, params, key, x, np.int64(2)), jax.random.key(0)
    )
    assert weights.shape == (2,)
