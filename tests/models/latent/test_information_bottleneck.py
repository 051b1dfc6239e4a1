"""The information bottleneck: the plain VAE in the limit, and quadrature over a code."""

import functools

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.distributions import OneHotCategorical
from genjax_models.learning import information_bottleneck as bottleneck_objective
from genjax_models.learning import variational
from genjax_models.models.latent import (
    ConditionalLatentVariableModel,
    condition,
    information_bottleneck,
)
from tests import oracles
from tests.statistics import assert_mean, jit_once

X = jnp.array([0.4, -1.1, 0.8])


def value_and_grad(objective, params, example, **scheduled):
    loss = lambda p: objective(p, jax.random.key(0), example, **scheduled)[0]  # noqa: E731
    return jit_once(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_where_the_label_is_x_it_is_the_vae(beta: float) -> None:
    plain = oracles.linear_gaussian()
    model = ConditionalLatentVariableModel(
        plain.init,
        lambda params, context: plain.prior(params),
        lambda params, z, context: plain.likelihood(params, z),
        lambda params, y, context: plain.posterior(params, context),
    )
    params, x = oracles.linear_gaussian_params(), oracles.linear_gaussian_x()
    ours = value_and_grad(bottleneck_objective(model), params, (x, x), beta=beta)
    elbo = value_and_grad(variational(plain, kl="analytic"), params, x, beta=beta)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), ours, elbo)


def test_the_loss_against_quadrature() -> None:
    """One dimension of code, three classes: every term written down anew."""
    model = information_bottleneck(num_dims=3, num_classes=3, latent_dim=1, hidden=())
    params = jax.tree.map(lambda leaf: leaf + 0.3, jax.jit(model.init)(jax.random.key(1)))
    y, beta = jnp.array([0.0, 1.0, 0.0]), 0.3
    encoder, classifier = (params[n]["params"]["Dense_0"] for n in ("posterior", "likelihood"))
    loc, log_scale = np.asarray(X @ encoder["kernel"] + encoder["bias"], np.float64)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    z = loc + np.exp(log_scale) * nodes
    logits = z[:, None] * np.asarray(classifier["kernel"])[0] + np.asarray(classifier["bias"])
    log_label = logits[:, 1] - np.log(np.exp(logits).sum(axis=1))
    kl = 0.5 * (np.exp(2 * log_scale) + loc**2 - 1) - log_scale
    exact = beta * kl - np.sum(weights * log_label) / np.sqrt(2 * np.pi)
    objective = bottleneck_objective(model)
    run = jit_once(jax.vmap(lambda key: objective(params, key, (X, y), beta=beta)[0]))
    assert_mean(run(jax.random.split(jax.random.key(2), 2000)), exact)


def test_the_code_sees_x_alone() -> None:
    model = information_bottleneck(num_dims=3, num_classes=2, latent_dim=2, hidden=(4,))
    params = jax.jit(model.init)(jax.random.key(0))
    of_label = condition(model, X)
    first, second = (of_label.posterior(params, y) for y in jnp.eye(2))
    np.testing.assert_array_equal(first.mean(), second.mean())
    other = condition(model, 2 * X).posterior(params, jnp.eye(2)[0])
    assert np.abs(other.mean() - first.mean()).max() > 1e-3
    np.testing.assert_array_equal(of_label.prior(params).mean(), np.zeros(2))


def test_one_hot_vectors_are_categories() -> None:
    logits = jnp.array([0.3, -1.2, 2.0])
    ours, reference = OneHotCategorical(logits), distrax.Categorical(logits)
    found = jax.vmap(ours.log_prob)(jnp.eye(3))
    np.testing.assert_allclose(found, reference.log_prob(jnp.arange(3)), rtol=1e-6)
    np.testing.assert_allclose(ours.mean(), jax.nn.softmax(logits), rtol=1e-6)
    draws = jit_once(jax.vmap(lambda key: ours.sample(seed=key)))(
        jax.random.split(jax.random.key(0), 4000)
    )
    assert_mean(draws, ours.mean())
    value, log_prob = ours.sample_and_log_prob(seed=jax.random.key(1))
    np.testing.assert_allclose(log_prob, ours.log_prob(value), rtol=1e-6)
    # An impossible category is no NaN for the others.
    extreme = OneHotCategorical(jnp.array([1e4, -jnp.inf, 0.0]))
    found = jax.vmap(extreme.log_prob)(jnp.eye(3))
    np.testing.assert_array_equal(found, [0.0, -np.inf, -1e4])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 1}, "num_classes must be an integer >= 2, got 1"),
        ({"latent_dim": 0}, "latent_dim must be at least 1"),
        ({"hidden": (4, 0)}, "hidden must be at least 1"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        information_bottleneck(**{"num_dims": 3, "latent_dim": 2, "hidden": (4,)} | settings)


def test_what_the_objective_makes_no_sense_of_is_refused() -> None:
    model = information_bottleneck(num_dims=3, num_classes=2, latent_dim=2, hidden=(4,))
    with pytest.raises(ValueError, match="num_samples must be an integer >= 1"):
        bottleneck_objective(model, num_samples=0)
    params = jax.eval_shape(model.init, jax.random.key(0))
    with pytest.raises(ValueError, match="beta must be finite and not negative, got -1"):
        bottleneck_objective(model)(params, jax.random.key(0), (X, jnp.eye(2)[0]), beta=-1.0)
