"""The relaxed ELBO: its value is that of the discrete model, its gradient nearly so when cold."""

import functools
import itertools
from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_models.distributions import Bernoulli, DiagonalGaussian, OneHotCategorical
from genjax_models.interfaces import LatentVariableModel
from genjax_models.learning import bounds, relaxed
from genjax_models.models.latent import categorical
from genjax_models.training import gradient_descent
from tests.learning import exact
from tests.learning.exact import Case, Table
from tests.statistics import assert_mean, jit_once

NUM_DRAWS = 200_000


@functools.cache
def one_hot() -> Case:
    """Two rows of three categories, x in {0, 1}^2, and a decoder with steep logits."""
    noise = np.random.default_rng(1)
    params = {
        "theta": {
            "prior": jnp.array([[0.4, -0.7, 0.2], [0.1, 0.6, -0.9]]),
            "weight": jnp.array(noise.normal(0, 2.5, (2, 6))),
            "bias": jnp.array([-0.2, 0.3]),
        },
        "phi": {
            "weight": jnp.array(noise.normal(0, 0.7, (2, 3, 2))),
            "bias": jnp.array(noise.normal(0, 0.5, (2, 3))),
        },
    }

    def prior(params: Any) -> OneHotCategorical:
        return OneHotCategorical(params["theta"]["prior"])

    def likelihood(params: Any, z: jax.Array) -> Bernoulli:
        return Bernoulli(params["theta"]["weight"] @ z.reshape(-1) + params["theta"]["bias"])

    def posterior(params: Any, x: jax.Array) -> OneHotCategorical:
        return OneHotCategorical(params["phi"]["weight"] @ x + params["phi"]["bias"])

    def table(params: Any, x: jax.Array, num_nodes: int) -> Table:
        theta, phi = params["theta"], params["phi"]
        pairs = np.array(list(itertools.product(range(3), repeat=2)))
        rows = np.arange(2)
        z = np.eye(3)[pairs].reshape(9, 6)
        log_q = jax.nn.log_softmax(phi["weight"] @ x + phi["bias"])[rows, pairs].sum(axis=1)
        log_p = jax.nn.log_softmax(theta["prior"])[rows, pairs].sum(axis=1)
        logits = z @ theta["weight"].T + theta["bias"]
        log_likelihood = jnp.sum(x * logits - jnp.log1p(jnp.exp(logits)), axis=1)
        return Table(log_likelihood, log_p, log_q, jnp.exp(log_q))

    model = LatentVariableModel(lambda key: params, prior, likelihood, posterior)
    return Case(model, params, jnp.array([1.0, 0.0]), table, lambda *_: jnp.zeros(()))


@functools.cache
def belief_net() -> Case:
    """The net of the other estimators, with weights that make log p(x | z) curved."""
    case = exact.belief_net()
    theta = case.params["theta"]
    steep = {**theta, "weight": 3 * theta["weight"]}
    return case._replace(params={**case.params, "theta": steep})


CASES = {"binary": belief_net, "one_hot": one_hot}


@functools.cache
def draws(name: str, straight_through: bool, kl: str, num_samples: int = 1) -> Any:
    """`(temperature, beta) -> (losses, metrics, gradients)` of many keys."""
    case = CASES[name]()
    objective = relaxed(
        case.model, straight_through=straight_through, kl=kl, num_samples=num_samples
    )

    @jit_once
    def run(temperature: float, beta: float) -> Any:
        def one(key: jax.Array) -> Any:
            function = functools.partial(objective, temperature=temperature, beta=beta)
            (loss, metrics), gradient = jax.value_and_grad(function, has_aux=True)(
                case.params, key, case.x
            )
            return loss, metrics, gradient

        return jax.vmap(one)(jax.random.split(jax.random.key(3), NUM_DRAWS))

    return run


def table_of(name: str) -> Table:
    case = CASES[name]()
    return case.table(case.params, case.x, 0)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("straight_through", [False, True])
def test_loss_and_bound_are_of_the_discrete_model_at_any_temperature(
    name: str, straight_through: bool
) -> None:
    table = table_of(name)
    mass = np.asarray(table.probability)
    log_likelihood = mass @ table.log_likelihood
    divergence = mass @ (table.log_posterior - table.log_prior)
    loss, metrics, _ = draws(name, straight_through, "analytic")(2.0, 0.3)
    assert_mean(loss, 0.3 * divergence - log_likelihood)
    assert_mean(metrics["bound"], log_likelihood - divergence)
    assert_mean(metrics["log_likelihood"], log_likelihood)
    np.testing.assert_allclose(metrics["kl_divergence"], divergence, rtol=1e-12)
    np.testing.assert_array_equal(metrics["temperature"], 2.0)
    if straight_through:
        np.testing.assert_array_equal(metrics["relaxed_bound"], metrics["bound"])
    else:
        with pytest.raises(AssertionError, match="biased"):
            assert_mean(metrics["relaxed_bound"], log_likelihood - divergence)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kl", ["analytic", "monte_carlo"])
def test_the_gradients_bias_vanishes_with_the_temperature(name: str, kl: str) -> None:
    """Against enumeration, in every parameter; at temperature 1 the same test finds the bias.

    It is of the order of the temperature: from two of them with the same noise, the extrapolation
    to zero is free of it.
    """
    case = CASES[name]()
    expected = exact.exact(case, bounds.elbo, 1)
    run = draws(name, False, kl)
    cold, colder = run(0.06, 1.0)[2], run(0.03, 1.0)[2]
    assert_mean(jax.tree.map(lambda first, second: 2 * second - first, cold, colder), expected)
    with pytest.raises(AssertionError, match="biased"):
        assert_mean(run(1.0, 1.0)[2]["phi"], expected["phi"])


def by_hand(
    name: str, params: Any, key: jax.Array, temperature: float, straight_through: bool
) -> jax.Array:
    """-log p(x | z) + 0.7 KL with the decoder's input written down anew, for `jax.grad`."""
    case = CASES[name]()
    phi, noise_key = params["phi"], jax.random.split(key, 1)[0]
    logits = phi["weight"] @ case.x + phi["bias"]
    if name == "binary":
        noisy = logits + jax.random.logistic(noise_key, logits.shape)
        soft, hard = 1 / (1 + jnp.exp(-noisy / temperature)), 1.0 * (noisy > 0)
    else:
        noisy = jax.nn.log_softmax(logits) + jax.random.gumbel(noise_key, logits.shape)
        powers = jnp.exp(noisy / temperature)
        soft = powers / jnp.sum(powers, axis=1, keepdims=True)
        hard = 1.0 * (noisy == jnp.max(noisy, axis=1, keepdims=True))
    z = soft + jax.lax.stop_gradient(hard - soft) if straight_through else soft
    decoded = params["theta"]["weight"] @ z.reshape(-1) + params["theta"]["bias"]
    log_likelihood = jnp.sum(case.x * decoded - jnp.log1p(jnp.exp(decoded)))
    table = case.table(params, case.x, 0)
    divergence = jnp.exp(table.log_posterior) @ (table.log_posterior - table.log_prior)
    return 0.7 * divergence - log_likelihood


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("straight_through", [False, True])
def test_the_gradient_is_the_chain_rule_through_the_relaxed_sample(
    name: str, straight_through: bool
) -> None:
    case = CASES[name]()
    objective = relaxed(case.model, straight_through=straight_through)

    @jit_once
    def both(key: jax.Array) -> Any:
        function = functools.partial(objective, temperature=0.6, beta=0.7)
        ours = jax.grad(lambda params: function(params, key, case.x)[0])(case.params)
        again = jax.random.clone(key)
        return ours, jax.grad(lambda p: by_hand(name, p, again, 0.6, straight_through))(case.params)

    for seed in range(5):
        ours, expected = both(jax.random.key(seed))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9), ours, expected)


def test_several_samples_are_averaged() -> None:
    loss, metrics, gradient = draws("binary", False, "monte_carlo", 3)(0.5, 1.0)
    _, _, single = draws("binary", False, "monte_carlo")(0.5, 1.0)
    table = table_of("binary")
    elbo = table.probability @ (table.log_likelihood + table.log_prior - table.log_posterior)
    assert_mean(-loss, elbo)
    np.testing.assert_allclose(metrics["bound"], -loss, rtol=1e-9)
    for three, one in zip(jax.tree.leaves(gradient), jax.tree.leaves(single), strict=True):
        np.testing.assert_allclose(three.var(axis=0), one.var(axis=0) / 3, rtol=0.1)


def one_bit(slope: float) -> LatentVariableModel:
    """z one bit, log p(x | z) = -exp(-slope z)^2 / 2 + constant: neither linear nor quadratic."""
    params = {"logit": jnp.array([0.3])}
    return LatentVariableModel(
        lambda key: params,
        lambda params: Bernoulli(jnp.zeros(1)),
        lambda params, z: DiagonalGaussian(jnp.exp(-slope * z), jnp.zeros(1)),
        lambda params, x: Bernoulli(params["logit"]),
    )


def test_straight_through_keeps_its_bias_when_cold() -> None:
    """Of one bit: the mean of the slopes at its ends, instead of the slope between them."""
    slope, model = 1.5, one_bit(1.5)
    objective = relaxed(model, straight_through=True)

    @jit_once
    @jax.vmap
    def gradients(key: jax.Array) -> Any:
        loss = lambda params: objective(params, key, jnp.zeros(1), temperature=0.02, beta=0.0)[0]  # noqa: E731
        return jax.grad(loss)(model.init(key))["logit"][0]

    found = gradients(jax.random.split(jax.random.key(0), NUM_DRAWS))
    chance = 1 / (1 + np.exp(-0.3))
    height = chance * (1 - chance)
    # The loss is exp(-2 slope z) / 2 + constant.
    slopes = -slope * np.exp(-2 * slope * np.array([0.0, 1.0]))
    assert_mean(found, height * slopes.mean(), resolution=0.03)
    with pytest.raises(AssertionError, match="biased"):
        assert_mean(found, height * (np.exp(-2 * slope) - 1) / 2, resolution=0.1)


def test_the_schedule_fills_in_the_temperature() -> None:
    case = one_hot()
    init, step = gradient_descent(
        relaxed(case.model),
        optax.sgd(0.0),
        case.model.init,
        schedules={"temperature": optax.exponential_decay(1.0, 2, 0.25)},
    )
    state, seen = init(jax.random.key(0)), []
    for seed in range(3):
        state, metrics = jax.jit(step)(state, jax.random.key(seed), jnp.tile(case.x, (4, 1)))
        seen.append(float(metrics["temperature"]))
    np.testing.assert_allclose(seen, [1.0, 0.5, 0.25], rtol=1e-6)


def test_a_temperature_that_is_none_is_an_error_or_nan() -> None:
    case = one_hot()
    objective = relaxed(case.model)
    for temperature in (0, -0.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="temperature must be finite and above zero"):
            objective(case.params, jax.random.key(0), case.x, temperature=temperature)

    @jit_once
    def scheduled(temperature: jax.Array) -> Any:
        function = functools.partial(objective, temperature=temperature)
        return jax.value_and_grad(function, has_aux=True)(case.params, jax.random.key(0), case.x)

    for temperature in (0.0, -0.5):
        (loss, _), gradient = scheduled(temperature)
        assert np.isnan(loss) and np.isnan(gradient["phi"]["weight"]).any()


def test_what_cannot_be_relaxed_is_refused() -> None:
    case, key = one_hot(), jax.random.key(0)
    with pytest.raises(ValueError, match="kl must be one of"):
        relaxed(case.model, kl="exact")
    with pytest.raises(ValueError, match="num_samples must be an integer >= 1"):
        relaxed(case.model, num_samples=0)
    with pytest.raises(ValueError, match="beta must be finite and not negative"):
        relaxed(case.model)(case.params, key, case.x, beta=-1.0)
    gaussian = exact.gaussian()
    with pytest.raises(TypeError, match="relaxed is for binary variables"):
        relaxed(gaussian.model)(gaussian.params, key, gaussian.x)
    indices = case.model._replace(posterior=lambda params, x: distrax.Categorical(jnp.zeros(3)))
    with pytest.raises(TypeError, match="a Categorical is an index"):
        relaxed(indices)(case.params, key, case.x)
    prior = categorical.autoregressive(2, 3)
    chained = case.model._replace(prior=lambda params: prior.distribution(prior.init(key)))
    with pytest.raises(TypeError, match="no closed form is known"):
        relaxed(chained)(case.params, key, case.x)


def test_there_is_no_second_derivative() -> None:
    case = belief_net()
    with pytest.raises(TypeError, match="has no derivative of its own"):
        jax.hessian(lambda p: relaxed(case.model)(p, jax.random.key(0), case.x)[0])(case.params)


def test_distributions_of_distrax_are_relaxed_alike() -> None:
    case, key = belief_net(), jax.random.key(0)

    def of(logits: jax.Array) -> distrax.Distribution:
        return distrax.Independent(distrax.Bernoulli(logits), 1)

    model = case.model._replace(
        prior=lambda params: of(case.model.prior(params).logits),
        posterior=lambda params, x: of(case.model.posterior(params, x).logits),
    )

    @functools.partial(jit_once, static_argnums=1)
    def gradient(key: jax.Array, is_distrax: bool) -> Any:
        objective = relaxed(model if is_distrax else case.model)
        return jax.value_and_grad(lambda params: objective(params, key, case.x)[0])(case.params)

    found, expected = gradient(key, True), gradient(jax.random.clone(key), False)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), found, expected)
