"""REBAR and RELAX: the noise given the sample, what they learn, and mutants."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from genjax_models.distributions import Bernoulli
from genjax_models.interfaces import Network
from genjax_models.learning import gradients as library
from genjax_models.learning.gradients.rebar import RelaxedControlVariate
from genjax_models.learning.gradients.relaxations import Relaxation
from tests.learning.gradients.certify import (
    LOGITS,
    assert_biased,
    binary_expectation,
    exact_gradient,
    form,
    initial,
)
from tests.statistics import assert_mean, jit_once


def network() -> Network:
    """r(z) = w . tanh(z)."""
    return Network(
        lambda key: jnp.array([0.3, -0.2, 0.5]), lambda params, z: jnp.dot(params, jnp.tanh(z))
    )


def quadratic_network() -> Network:
    """r(z) = w . s + s' A s, s the logistic function of z."""

    def apply(params, z):
        s = jax.nn.sigmoid(z)
        return params["w"] @ s + s @ params["a"] @ s

    return Network(lambda key: {"w": jnp.zeros(3), "a": jnp.zeros((3, 3))}, apply)


def test_one_draw_is_the_equation() -> None:
    """[f(b) - c(z')] grad log p(b) + grad c(z) - grad c(z'), written out for binary variables."""
    estimator = library.relax(Bernoulli, form, network(), scale=0.7, temperature=0.6)
    state = initial(estimator, LOGITS)
    draws = jit_once(lambda key: estimator.draw(jnp.asarray(LOGITS), state, key, 4))(
        jax.random.key(2)
    )

    def c(z):
        learned = jnp.dot(jnp.array([0.3, -0.2, 0.5]), jnp.tanh(z))
        return 0.7 * form(jax.nn.sigmoid(z / 0.6)) + learned

    def written_out(noise, v, b):
        def conditional(logits):
            """The v-th part of the noise that gives b, by the distribution function of z."""
            zero = jax.nn.sigmoid(-logits)  # P(z < 0)
            u = jnp.where(b > 0, 1 - v * (1 - zero), v * zero)
            return logits + jnp.log(u) - jnp.log1p(-u)

        logits = jnp.asarray(LOGITS)
        score = b - jax.nn.sigmoid(logits)
        free = jax.grad(lambda logits: c(logits + noise))(logits)
        given = jax.grad(lambda logits: c(conditional(logits)))(logits)
        return (form(b) - c(conditional(logits))) * score + free - given

    noise, v, b = draws.noises
    np.testing.assert_array_equal(b, noise + LOGITS > 0)
    expected = jit_once(jax.vmap(written_out))(noise, v, b)
    np.testing.assert_allclose(draws.gradient, expected, rtol=1e-8)


def mean_times_mean(estimator, variate):
    """The mutant: the mean signal of S samples times their mean score."""
    c = variate

    def replicate(key):
        noises = estimator.draw(jnp.asarray(LOGITS), initial(estimator, LOGITS), key, 2).noises

        def conditional(logits, noise):
            return Relaxation(logits, False).conditional(noise.uniform, noise.hard)

        signals = jax.vmap(lambda n: form(n.hard) - c(conditional(jnp.asarray(LOGITS), n)))(noises)

        def terms(logits):
            scores = jax.vmap(Relaxation(logits, False).log_prob)(noises.hard)
            free = jax.vmap(lambda n: c(logits + n.noise))(noises)
            given = jax.vmap(lambda n: c(conditional(logits, n)))(noises)
            return signals.mean() * scores.mean() + (free - given).mean()

        return jax.grad(terms)(jnp.asarray(LOGITS))

    return replicate


def test_the_mean_times_mean_control_variate_is_rejected() -> None:
    """In both; written out for one sample at a time they are right (test_discrete)."""
    relaxed = lambda z: form(jax.nn.sigmoid(z / 0.5))  # noqa: E731
    learned = lambda z: jnp.dot(jnp.array([0.3, -0.2, 0.5]), jnp.tanh(z))  # noqa: E731
    rebar = library.rebar(Bernoulli, form)
    relax = library.relax(Bernoulli, form, network(), relaxed=False)
    exact = exact_gradient(lambda logits: binary_expectation(form, logits), LOGITS)
    mutants = {
        "rebar": mean_times_mean(rebar, relaxed),
        "relax": mean_times_mean(relax, learned),
    }
    assert_biased(mutants, exact, resolution=0.02)


@pytest.mark.parametrize("name", ["rebar", "relax"])
def test_the_control_variate_learns_to_lower_the_variance(name: str) -> None:
    """Measured on samples that it has not seen; and it stays unbiased where it has learned."""
    optimizer = optax.adam(0.05)
    if name == "rebar":
        estimator = library.rebar(Bernoulli, form, scale=-0.5, temperature=2.0, optimizer=optimizer)
    else:
        estimator = library.relax(
            Bernoulli, form, quadratic_network(), relaxed=False, optimizer=optimizer
        )

    @jit_once
    def train(key):
        def step(state, index):
            _, observation = library.surrogate_loss_and_observation(
                estimator, LOGITS, state, jax.random.fold_in(key, index), 50
            )
            return estimator.update(state, observation), None

        start = initial(estimator, LOGITS)
        end, _ = jax.lax.scan(step, start, jnp.arange(150))

        def samples(state):
            test_key = jax.random.fold_in(key, 1000)
            return library.per_sample_gradients(estimator, LOGITS, test_key, 20_000, state=state)

        return samples(start), samples(end)

    before, after = train(jax.random.key(0))
    assert after.var(axis=0).sum() < 0.6 * before.var(axis=0).sum()
    exact = exact_gradient(lambda logits: binary_expectation(form, logits), LOGITS)
    assert_mean(after, exact)


@pytest.mark.parametrize("one_hot", [False, True])
def test_what_it_learns_from_is_the_gradient_of_the_second_moment(one_hot: bool) -> None:
    """By finite differences of the squared estimates, in every component of the variate."""
    family = (lambda p: distrax.OneHotCategorical(logits=p)) if one_hot else Bernoulli
    # In the normalised logits, which are what the estimate of a one-hot variable is in.
    params = jnp.asarray(jax.nn.log_softmax(LOGITS) if one_hot else LOGITS)
    optimizer = optax.sgd(0.1)
    estimator = library.relax(
        family, form, network(), scale=0.7, temperature=0.6, optimizer=optimizer
    )
    variate, rest = initial(estimator, params)

    @jit_once
    def observed(key):
        draws = estimator.draw(params, (variate, rest), key, 5)
        return estimator.observe(params, (variate, rest), draws)

    @jit_once
    def second_moment(variate, key):
        draws = estimator.draw(params, (variate, rest), key, 5)
        return jnp.sum(jnp.mean(jnp.square(draws.gradient), axis=0))

    key, step = jax.random.key(4), 1e-6
    found = observed(key)
    assert isinstance(found, RelaxedControlVariate)
    flat, restore = ravel_pytree(variate)
    for index, slope in enumerate(ravel_pytree(found)[0]):
        sides = [
            second_moment(restore(flat.at[index].add(sign * step)), jax.random.clone(key))
            for sign in (1, -1)
        ]
        np.testing.assert_allclose((sides[0] - sides[1]) / (2 * step), slope, rtol=1e-5)


@pytest.mark.parametrize("one_hot", [False, True])
def test_the_conditional_noise_has_the_distribution_of_the_free_one(one_hot: bool) -> None:
    """z drawn freely, and b then z given b: the same moments, and the sample is kept."""
    logits = jnp.asarray(jax.nn.log_softmax(LOGITS) if one_hot else LOGITS)
    variables = Relaxation(logits, one_hot)

    def both(key):
        noise_key, uniform_key = jax.random.split(key)
        z = variables.logits + variables.noise(noise_key)
        hard = variables.hard(z)
        conditional = variables.conditional(variables.uniform(uniform_key), hard)
        moments = lambda z: jnp.concatenate([z, z**2, hard * z, jnp.outer(z, z)[0]])  # noqa: E731
        kept = jnp.all(variables.hard(conditional) == hard)
        return moments(conditional) - moments(z), kept

    differences, kept = jit_once(jax.vmap(both))(jax.random.split(jax.random.key(1), 50_000))
    assert kept.all()
    assert_mean(differences, np.zeros(12), scale=4.0)


@pytest.mark.parametrize("one_hot", [False, True])
def test_the_conditional_noise_moves_with_the_logits(one_hot: bool) -> None:
    """At fixed uniform noise it keeps its conditional distribution function, for every logit.

    P(z' <= t | b) is computed from the logistic (Gumbel) law of z; its total derivative along
    z'(logits) is zero where the distribution function is one of the transforms of the noise.
    """
    logits = jnp.asarray(jax.nn.log_softmax(LOGITS) if one_hot else LOGITS)
    hard, v = jnp.array([0.0, 0.0, 1.0]), jnp.array([0.3, 0.8, 0.45])

    def transform(logits):
        z = Relaxation(logits, one_hot).conditional(v, hard)
        if one_hot:
            # The largest is Gumbel at log sum exp = 0; the others are Gumbels cut at it.
            others = jnp.exp(-jnp.exp(logits - z) + jnp.exp(logits - z[2]))
            return jnp.where(hard > 0, jnp.exp(-jnp.exp(-z)), others)
        cdf, zero = jax.nn.sigmoid(z - logits), jax.nn.sigmoid(-logits)
        return jnp.where(hard > 0, (cdf - zero) / (1 - zero), cdf / zero)

    uniform = transform(logits)
    # Which end of (0, 1) is which does not matter.
    side = (hard > 0) & (not one_hot)
    np.testing.assert_allclose(uniform, jnp.where(side, 1 - v, v), rtol=1e-9)
    np.testing.assert_allclose(jax.jacobian(transform)(logits), np.zeros((3, 3)), atol=1e-9)


@pytest.mark.parametrize("make", [library.biased_straight_through, library.rebar])
def test_an_index_cannot_be_relaxed(make) -> None:
    estimator = make(lambda p: distrax.Categorical(logits=p), jnp.sum)
    with pytest.raises(TypeError, match="OneHotCategorical"):
        library.surrogate_loss(
            estimator, jnp.zeros(3), jax.random.key(0), state=initial(estimator, jnp.zeros(3))
        )


def test_a_temperature_of_zero_is_refused() -> None:
    for make in (library.rebar, lambda *a, **k: library.relax(*a, network(), **k)):
        with pytest.raises(ValueError, match="temperature"):
            make(Bernoulli, form, temperature=0.0)
