"""Noisy parameters against closed forms: the divergence, the loss, and where training ends."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize

from genjax_models.interfaces import LatentVariableModel
from genjax_models.learning import (
    adaptive_weight_noise,
    variational,
    weight_divergence,
    with_weight_noise,
)
from genjax_models.models import latent
from genjax_models.training import stateful_gradient_descent
from tests.statistics import assert_mean, jit_once

NUM_EXAMPLES = 50
XS = jnp.asarray(np.random.default_rng(0).normal([-2, 0, 3], size=(8, 3)), jnp.float32)


def squares(params: Any, key: Any, x: Any) -> Any:
    """sum_i c_i (w_i - x_i)^2: the mean over Gaussian weights has a closed form."""
    loss = jnp.sum(jnp.arange(1, 4) * jnp.square(params["w"] - x)) + jnp.square(params["b"][0])
    return loss, {"own": loss}


def params() -> dict[str, Any]:
    means = {"w": jnp.array([0.5, -1.0, 2.0]), "b": jnp.array([0.3])}
    scales = {"w": jnp.log(jnp.array([0.1, 0.5, 1.5])), "b": jnp.log(jnp.array([0.7]))}
    return means | {"weight_noise": scales}


def expected_loss(params: Any) -> Any:
    """E_q[loss] + KL / N, from the definitions."""
    means, scales = params["w"], jnp.exp(params["weight_noise"]["w"])
    curvatures = jnp.arange(1, 4)
    squared = jnp.mean(jnp.square(means[None] - XS), axis=0) + jnp.square(scales)
    value = jnp.sum(curvatures * squared)
    value += jnp.square(params["b"][0]) + jnp.exp(2 * params["weight_noise"]["b"][0])
    center = jnp.mean(means)
    variance = jnp.mean(jnp.square(scales) + jnp.square(means - center))
    return value + jnp.sum(jnp.log(jnp.sqrt(variance) / scales)) / NUM_EXAMPLES


def test_the_divergence_is_from_the_best_prior() -> None:
    """The least KL of Gaussians over means and scales of the prior, by a numerical search."""
    own = params()
    means, scales = np.float64(own["w"]), np.exp(np.float64(own["weight_noise"]["w"]))

    def divergence(prior: np.ndarray) -> float:
        center, scale = prior[0], math.exp(prior[1])
        terms = np.log(scale / scales) + (scales**2 + (means - center) ** 2) / (2 * scale**2) - 0.5
        return float(terms.sum())

    best = optimize.minimize(divergence, np.zeros(2), tol=1e-12).fun
    assert float(weight_divergence(own)) == pytest.approx(best, rel=1e-5)
    alone = {name: value for name, value in own.items() if name == "b"}
    alone["weight_noise"] = {"b": own["weight_noise"]["b"]}
    assert float(weight_divergence(alone)) == pytest.approx(0, abs=1e-6)


def test_half_precision_is_only_that_of_the_parameters() -> None:
    """Sums and draws are made in float32: a thousand terms in bfloat16 are per cents off."""
    noise = np.random.default_rng(0).normal(size=1000)
    own = {"w": jnp.bfloat16(noise), "weight_noise": {"w": jnp.full(1000, -2, jnp.bfloat16)}}
    means, variance = np.float64(own["w"]), np.exp(-4)
    exact = 1000 * (0.5 * np.log(variance + means.var()) + 2)
    assert float(weight_divergence(own)) == pytest.approx(exact, rel=1e-5)
    assert weight_divergence({"w": jnp.zeros(0), "weight_noise": {"w": jnp.zeros(0)}}) == 0

    def seen(params: Any, key: Any, x: Any) -> Any:
        assert params["w"].dtype == jnp.bfloat16
        return jnp.mean(jnp.float32(params["w"]) - jnp.float32(own["w"])), {}

    objective = adaptive_weight_noise(seen, num_examples=10**9)
    keys = jax.random.split(jax.random.key(1), 2000)
    offsets = jit_once(jax.vmap(lambda key: objective(own, (), key, XS)[0]))(keys)
    assert_mean(offsets, 0.0, scale=float(np.exp(-2)), resolution=1e-3)


def test_loss_and_gradient_have_the_exact_means() -> None:
    objective = adaptive_weight_noise(squares, num_examples=NUM_EXAMPLES)
    own = params()

    def value_and_gradient(key: Any) -> Any:
        (loss, _), gradient = jax.value_and_grad(objective, has_aux=True)(own, (), key, XS)
        return loss, gradient

    keys = jax.random.split(jax.random.key(1), 20_000)
    found = jit_once(jax.vmap(value_and_gradient))(keys)
    assert_mean(found, jax.value_and_grad(expected_loss)(own), resolution=0.05)


def test_metrics_and_schedules_pass_through() -> None:
    def objective(params: Any, key: Any, x: Any, *, beta: Any) -> Any:
        return squares(params, key, x)[0] * beta, {"own": beta}

    noisy = adaptive_weight_noise(objective, num_examples=NUM_EXAMPLES)
    own = params()
    loss, (state, metrics) = noisy(own, (), jax.random.key(0), XS, beta=0.0)
    divergence = float(weight_divergence(own)) / NUM_EXAMPLES
    assert state == () and metrics["own"] == 0
    assert float(loss) == float(metrics["weight_divergence"]) == pytest.approx(divergence)


def test_training_ends_at_the_minimum() -> None:
    objective = adaptive_weight_noise(squares, num_examples=NUM_EXAMPLES)
    algorithm = stateful_gradient_descent(
        objective.objective, optax.adam(2e-2), lambda key: params(), objective.init_state
    )

    @jit_once
    def train(keys: Any) -> Any:
        def step(state: Any, key: Any) -> Any:
            state, _ = algorithm.step(state, key, XS)
            return state, state.params

        return jax.lax.scan(step, algorithm.init(jax.random.key(0)), keys)[1]

    path = train(jax.random.split(jax.random.key(1), 6000))
    found = jax.tree.map(lambda leaf: jnp.mean(leaf[3000:], axis=0), path)
    flat, unflatten = jax.flatten_util.ravel_pytree({"w": params()["w"]} | _scales())

    def restored(flat: Any) -> Any:
        # The one bias has no least loss: its noise is free, and goes to zero.
        part = unflatten(flat)
        zero = {"b": jnp.zeros(1)}
        return {"w": part["w"], **zero, "weight_noise": {"w": part["s"], "b": jnp.full(1, -20.0)}}

    best = optimize.minimize(
        jax.jit(jax.value_and_grad(lambda flat: expected_loss(restored(flat)))),
        flat,
        jac=True,
    ).x
    expected = restored(jnp.float32(best))
    np.testing.assert_allclose(found["w"], expected["w"], atol=0.03)
    np.testing.assert_allclose(
        jnp.exp(found["weight_noise"]["w"]), jnp.exp(expected["weight_noise"]["w"]), rtol=0.1
    )


def _scales() -> dict[str, Any]:
    return {"s": params()["weight_noise"]["w"]}


@functools.cache
def belief_net() -> LatentVariableModel:
    return with_weight_noise(latent.darn(num_dims=3, latent_dims=(2,)), initial_scale=0.2)


def test_a_model_computes_with_the_means() -> None:
    plain = latent.darn(num_dims=3, latent_dims=(2,))
    own, means = belief_net().init(jax.random.key(0)), plain.init(jax.random.key(0))
    scales = jax.tree.map(lambda leaf: jnp.full_like(leaf, math.log(0.2)), means)
    jax.tree.map(np.testing.assert_array_equal, own, means | {"weight_noise": scales})
    x = jnp.array([1.0, 0.0, 1.0])
    z = plain.prior(means).sample(seed=jax.random.key(1))
    for of in (
        lambda model, params: model.prior(params).log_prob(z),
        lambda model, params: model.likelihood(params, z).log_prob(x),
        lambda model, params: model.posterior(params, x).log_prob(z),
    ):
        assert of(belief_net(), own) == of(plain, means)


@pytest.mark.parametrize("estimator", ["vimco_arithmetic", "nvil"])
def test_the_loss_is_the_inner_one_at_drawn_weights(estimator: str) -> None:
    """With next to no noise it is that of the means, whichever form the objective has."""
    model = belief_net()
    inner = variational(model, estimator=estimator, num_samples=3)
    noisy = adaptive_weight_noise(inner, num_examples=NUM_EXAMPLES)
    own = model.init(jax.random.key(0))
    own["weight_noise"] = jax.tree.map(lambda leaf: jnp.full_like(leaf, -30.0), own["weight_noise"])
    batch = jnp.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    state = noisy.init_state(own, jax.random.key(1))
    loss, (_, metrics) = jit_once(noisy)(own, state, jax.random.key(2), batch)
    assert float(loss - metrics["weight_divergence"]) == pytest.approx(
        -float(metrics["bound"]), rel=1e-4
    )


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="num_examples must be at least 1, got 0"):
        adaptive_weight_noise(squares, num_examples=0)
    for scale in (0.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"initial_scale must be above zero .* got {scale}"):
            with_weight_noise(belief_net(), initial_scale=scale)
