"""The value of an objective is the bound; its gradient is that of the bound's expectation.

Expectations are exact: closed form and quadrature for the linear-Gaussian model, enumeration for
the discrete one. Estimators with a published mistake must fail the very same test.
"""

import functools
from collections.abc import Callable
from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.learning import bounds, importance_samples, log_weights, variational
from genjax_models.learning.importance import importance_sampler
from tests import oracles
from tests.statistics import assert_mean, jit_once

RENYI = functools.partial(bounds.renyi, alpha=0.4)


def between(log_weights: jax.Array) -> jax.Array:
    """A bound of the user's own."""
    return 0.3 * bounds.elbo(log_weights) + 0.7 * bounds.iwae(log_weights)


BOUNDS = {"elbo": bounds.elbo, "iwae": bounds.iwae, "renyi": RENYI, "between": between}


draw_log_weights = jax.jit(log_weights, static_argnums=(0, 4))


def gaussian() -> tuple:
    return (
        oracles.linear_gaussian(),
        oracles.linear_gaussian_params(),
        oracles.linear_gaussian_x(),
    )


def discrete() -> tuple:
    return oracles.discrete(), oracles.discrete_params(), oracles.discrete_x()


Exact = tuple[jax.Array, dict]
"""Value of an expected bound and its gradient."""


def assert_unbiased(
    objectives: dict[str, Callable],
    params: dict,
    x: Any,
    exact: dict[str, Exact],
    **scheduled: float,
) -> None:
    """Value and gradient of each -loss have the expectation `exact`; one compilation for all."""

    def draws(params, key):
        def draw(params, objective):
            loss, metrics = objective(params, jax.random.clone(key), x, **scheduled)
            return -loss, metrics

        estimate = jax.value_and_grad(draw, has_aux=True)
        return {name: estimate(params, objective) for name, objective in objectives.items()}

    keys = jax.random.split(jax.random.key(1), 60_000)
    estimates = jit_once(jax.vmap(draws, (None, 0)))(params, keys)
    for name, ((values, _), gradients) in estimates.items():
        value, gradient = exact[name]
        assert_mean({name: values}, {name: value}, floor=1e-6)
        scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
        assert_mean({name: gradients}, {name: gradient}, scale=scale, floor=2e-5)


@functools.cache
def closed_form_elbo(beta: float = 1.0) -> Exact:
    """For the linear-Gaussian model, as the next one."""
    _, params, x = gaussian()
    return jax.jit(jax.value_and_grad(oracles.linear_gaussian_elbo))(params, x, beta)


@functools.cache
def quadrature(name: str, num_samples: int = 2, beta: float = 1.0) -> Exact:
    _, params, x = gaussian()
    expectation = jax.value_and_grad(oracles.linear_gaussian_expectation, 1)
    return jit_once(expectation, static_argnums=(0, 3))(
        BOUNDS[name], params, x, num_samples, beta=beta
    )


@functools.cache
def enumeration(name: str, num_samples: int, beta: float = 1.0) -> Exact:
    """Over all 3^K tuples of the discrete model's latent variable."""
    _, params, x = discrete()
    expectation = jax.value_and_grad(oracles.discrete_expectation, 1)
    return jit_once(expectation, static_argnums=(0, 3))(
        BOUNDS[name], params, x, num_samples, beta=beta
    )


def test_elbo_against_the_closed_form() -> None:
    model, params, x = gaussian()
    objectives = {
        "pathwise": variational(model),
        "analytic": variational(model, kl="analytic"),
        "rloo": variational(model, estimator="rloo", num_samples=2),
    }
    exact = dict.fromkeys(objectives, closed_form_elbo())
    assert_unbiased(objectives, params, x, exact)


@pytest.mark.parametrize(
    ("estimator", "names"),
    [("pathwise", ("iwae", "between")), ("rloo", ("renyi",))],
)
def test_two_samples_against_quadrature(estimator: str, names: tuple[str, ...]) -> None:
    model, params, x = gaussian()
    objectives = {
        name: variational(model, bound=BOUNDS[name], estimator=estimator, num_samples=2)
        for name in names
    }
    assert_unbiased(objectives, params, x, {name: quadrature(name) for name in names})


@pytest.mark.parametrize(("num_samples", "names"), [(3, ("renyi", "between")), (4, ("iwae",))])
def test_score_function_against_enumeration(num_samples: int, names: tuple[str, ...]) -> None:
    model, params, x = discrete()
    objectives = {
        name: variational(model, bound=BOUNDS[name], estimator="rloo", num_samples=num_samples)
        for name in names
    }
    exact = {name: enumeration(name, num_samples) for name in names}
    assert_unbiased(objectives, params, x, exact)


def test_beta_weighs_the_kl() -> None:
    """Of the ELBO the KL divergence alone; of another bound both of its parts in every weight."""
    model, params, x = gaussian()
    objectives = {
        "monte_carlo": variational(model),
        "analytic": variational(model, kl="analytic"),
        "iwae": variational(model, bound=bounds.iwae, num_samples=2),
    }
    exact = dict.fromkeys(objectives, closed_form_elbo(0.3))
    exact["iwae"] = quadrature("iwae", beta=0.3)
    assert_unbiased(objectives, params, x, exact, beta=0.3)


def test_beta_and_analytic_kl_of_the_score_function() -> None:
    model, params, x = discrete()
    rloo = functools.partial(variational, model, estimator="rloo")
    objectives = {
        "analytic": rloo(kl="analytic", num_samples=2),
        "iwae": rloo(bound=bounds.iwae, num_samples=3),
    }
    exact = {"analytic": enumeration("elbo", 2, 0.3), "iwae": enumeration("iwae", 3, 0.3)}
    assert_unbiased(objectives, params, x, exact, beta=0.3)


def test_analytic_kl_is_the_divergence_of_q_from_the_prior_in_every_draw() -> None:
    model, params, x = gaussian()
    _, metrics = jax.jit(variational(model, kl="analytic"))(params, jax.random.key(0), x)
    exact = closed_form_elbo(0.0)[0] - closed_form_elbo(1.0)[0]
    np.testing.assert_allclose(metrics["kl_divergence"], exact)


def test_the_reported_bound_is_that_of_beta_one() -> None:
    model, params, x = gaussian()
    objective = jax.jit(variational(model, bound=bounds.iwae, num_samples=4))
    key = jax.random.key(0)
    weights = draw_log_weights(model, params, jax.random.clone(key), x, 4)
    for beta in (0.0, 0.3, 1.0):
        _, metrics = objective(params, jax.random.clone(key), x, beta=beta)
        np.testing.assert_allclose(metrics["bound"], bounds.iwae(weights))


@pytest.mark.parametrize("estimator", ["pathwise", "rloo"])
def test_the_value_is_the_bound_of_the_log_weights(estimator: str) -> None:
    """For every draw, and so are the metrics."""
    model, params, x = gaussian()
    objective = variational(model, bound=RENYI, estimator=estimator, num_samples=4)
    key = jax.random.key(0)
    samples = jax.jit(importance_samples, static_argnums=(0, 4))(
        model, params, jax.random.clone(key), x, 4
    )
    loss, metrics = jax.jit(objective)(params, key, x)
    np.testing.assert_allclose(-loss, RENYI(samples.log_weights))
    kl = samples.log_posterior - samples.log_prior
    np.testing.assert_allclose(metrics["bound"], RENYI(samples.log_weights))
    np.testing.assert_allclose(metrics["log_likelihood"], samples.log_likelihood.mean())
    np.testing.assert_allclose(metrics["kl_divergence"], kl.mean())


@pytest.mark.parametrize("estimator", ["pathwise", "rloo"])
def test_with_the_exact_posterior_value_and_gradient_have_no_variance(estimator: str) -> None:
    """log w = log p(x) at every z and every parameter, and so are their derivatives."""
    model = oracles.linear_gaussian(exact_posterior=True)
    _, params, x = gaussian()
    value, gradient = jax.jit(jax.value_and_grad(oracles.linear_gaussian_log_marginal))(params, x)
    objectives = [
        variational(model, bound=bound, estimator=estimator, num_samples=3)
        for bound in (bounds.elbo, bounds.iwae)
    ]

    @jit_once
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def draws(params, key):
        def values(params):
            losses = [loss(params, jax.random.clone(key), x)[0] for loss in objectives]
            return -jnp.stack(losses)

        return values(params), jax.jacrev(values)(params)

    values, gradients = draws(params, jax.random.split(jax.random.key(0), 20))
    np.testing.assert_allclose(values, np.full_like(values, value), rtol=1e-10)
    for name, ours in gradients.items():
        exact = np.broadcast_to(gradient[name], ours.shape)
        np.testing.assert_allclose(ours, exact, atol=1e-8, err_msg=name)


def test_a_pytree_of_latent_and_observed_variables() -> None:
    _, params, _ = gaussian()
    model, x = oracles.structured_linear_gaussian(), oracles.structured_x()
    objectives = {
        "pathwise": variational(model),
        "rloo": variational(model, estimator="rloo", num_samples=2),
    }
    assert_unbiased(objectives, params, x, dict.fromkeys(objectives, closed_form_elbo()))


# Mistakes that others have published. Each test below passes for the estimator without it.


def softmax_iwae(*, sign: int, num_samples: int = 2) -> Callable:
    """The gradient of IWAE written out, sum_k softmax(sign log w)_k grad log w_k.

    With sign = -1 the positive error -log w went into the softmax, and the worst samples win.
    """
    model, _, _ = gaussian()

    def objective(params, key, x):
        weights = log_weights(model, params, key, x, num_samples)
        value = jax.lax.stop_gradient(bounds.iwae(weights))
        surrogate = jnp.sum(jax.lax.stop_gradient(jax.nn.softmax(sign * weights)) * weights)
        return -(value + surrogate - jax.lax.stop_gradient(surrogate)), {}

    return objective


def test_iwae_with_the_error_in_the_softmax_is_rejected() -> None:
    _, params, x = gaussian()
    exact = {"iwae": quadrature("iwae")}
    assert_unbiased({"iwae": softmax_iwae(sign=1)}, params, x, exact)
    with pytest.raises(AssertionError, match="biased"):
        assert_unbiased({"iwae": softmax_iwae(sign=-1)}, params, x, exact)


def test_iwae_of_the_positive_error_is_rejected() -> None:
    """The value -log mean exp(-log w): the worst samples make it."""
    model, params, x = gaussian()
    wrong = variational(model, bound=lambda weights: -bounds.iwae(-weights), num_samples=2)
    with pytest.raises(AssertionError, match="biased"):
        assert_unbiased({"iwae": wrong}, params, x, {"iwae": quadrature("iwae")})


def score_function(
    bound: Callable, *, num_samples: int = 3, stop_signal: bool = True, own_sample: bool = False
) -> Callable:
    """The estimator "rloo" written out, with the two mistakes that it invites."""
    model, _, _ = discrete()

    def objective(params, key, x):
        draw = importance_sampler(model, params, x, pathwise=False)
        samples = jax.vmap(draw)(jax.random.split(key, num_samples))
        weights = samples.log_weights
        surrogate = 0.0
        for k in range(num_samples):
            left_out = (k + 1) % num_samples if own_sample else k
            signal = bound(weights) - bound(jnp.delete(weights, left_out))
            signal = jax.lax.stop_gradient(signal) if stop_signal else signal
            surrogate += signal * samples.log_posterior[k]
        return -(bound(weights) + surrogate - jax.lax.stop_gradient(surrogate)), {}

    return objective


def test_the_score_function_written_out_is_ours() -> None:
    model, params, x = discrete()
    ours = variational(model, bound=bounds.iwae, estimator="rloo", num_samples=3)
    first, second = (
        jax.jit(jax.vmap(jax.value_and_grad(objective, has_aux=True), (None, 0, None)))(
            params, jax.random.split(jax.random.key(0), 100), x
        )
        for objective in (ours, score_function(bounds.iwae))
    )
    np.testing.assert_allclose(first[0][0], second[0][0])
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-12), first[1], second[1])


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("elbo", {"own_sample": True}),
        ("iwae", {"own_sample": True}),
        ("iwae", {"stop_signal": False}),
    ],
)
def test_a_mistaken_score_function_is_rejected(name: str, mistake: dict) -> None:
    """A signal that is differentiated; a baseline that depends on the sample it is there for."""
    _, params, x = discrete()
    wrong = score_function(BOUNDS[name], **mistake)
    with pytest.raises(AssertionError, match="biased"):
        assert_unbiased({name: wrong}, params, x, {name: enumeration(name, 3)})


def test_pathwise_through_discrete_samples_is_refused_and_the_remedy_named() -> None:
    model, params, x = discrete()
    with pytest.raises(TypeError, match='estimator="rloo"'):
        variational(model)(params, jax.random.key(0), x)


def test_rloo_needs_the_log_prob_of_the_posterior() -> None:
    class SampleOnly:
        reparameterized = True

        def __init__(self, distribution) -> None:
            self.sample_and_log_prob = distribution.sample_and_log_prob

    plain, params, x = gaussian()
    model = plain._replace(posterior=lambda params, x: SampleOnly(plain.posterior(params, x)))
    first, second = (
        jax.jit(variational(of))(params, jax.random.key(0), x)[0] for of in (model, plain)
    )
    np.testing.assert_allclose(first, second)
    with pytest.raises(TypeError, match='estimator="pathwise"'):
        variational(model, estimator="rloo", num_samples=2)(params, jax.random.key(0), x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "reinforce"}, "estimator must be one of .*'reinforce'"),
        ({"kl": "exact"}, "kl must be one of .*'exact'"),
        ({"num_samples": 0}, "num_samples must be an integer >= 1, got 0"),
        ({"num_samples": 1.5}, "num_samples must be an integer >= 1, got 1.5"),
        ({"estimator": "rloo"}, "num_samples must be an integer >= 2, got 1"),
        ({"kl": "analytic", "bound": bounds.iwae}, "analytic"),
    ],
)
def test_settings_that_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        variational(oracles.linear_gaussian(), **options)


@pytest.mark.parametrize("estimator", ["pathwise", "dreg", "rloo", "nvil", "wake_sleep"])
def test_a_beta_below_zero_is_refused_where_it_is_known(estimator: str) -> None:
    model, params, x = gaussian()
    objective = variational(model, bound=bounds.elbo, estimator=estimator, num_samples=2)
    key = jax.random.key(0)
    inputs = (params, key, x)
    if estimator == "nvil":
        inputs = (params, objective.init_state(params, jax.random.key(1)), key, x[None])
    for beta in (-1.0, jnp.float32(-1.0), float("nan")):
        with pytest.raises(ValueError, match="beta must be finite and not negative, got"):
            jax.eval_shape(functools.partial(objective, beta=beta), *inputs)
    jax.eval_shape(lambda beta: objective(*inputs, beta=beta), jnp.float32(-1.0))


def test_an_analytic_kl_that_is_not_known_is_refused() -> None:
    plain, params, x = gaussian()
    model = plain._replace(
        prior=lambda params: distrax.Independent(
            distrax.Laplace(params["prior_loc"], jnp.exp(params["prior_log_scale"])), 1
        )
    )
    jax.eval_shape(variational(model), params, jax.random.key(0), x)
    with pytest.raises(TypeError, match="Monte Carlo"):
        variational(model, kl="analytic")(params, jax.random.key(0), x)


def test_a_batch_of_distributions_is_refused() -> None:
    plain, params, x = gaussian()
    model = plain._replace(
        prior=lambda params: distrax.Normal(params["prior_loc"], jnp.exp(params["prior_log_scale"]))
    )
    for options in ({}, {"kl": "analytic"}):
        with pytest.raises(ValueError, match="Independent"):
            variational(model, **options)(params, jax.random.key(0), x)
