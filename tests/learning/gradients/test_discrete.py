"""Estimators for discrete variables against enumeration; the biased ones' bias measured."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_models.distributions import Bernoulli, DiagonalGaussian
from genjax_models.interfaces import Network
from genjax_models.learning import bounds
from genjax_models.learning import gradients as library
from genjax_models.learning.gradients.arm import pair_weight
from genjax_models.learning.gradients.relaxations import Relaxation
from tests.learning.gradients.certify import (
    assert_biased,
    assert_unbiased,
    binary_expectation,
    certify,
    estimate,
)
from tests.statistics import assert_mean, jit_once

LOGITS = np.array([0.4, -0.9, 1.3])
WEIGHTS = np.array([1.0, -0.6, 0.8])


def form(b):
    """Of binary variables, with interactions: not symmetric in its arguments."""
    return jnp.square(jnp.dot(WEIGHTS, b) - 0.3) + b[0] * b[2] + jnp.sin(b[1])


def network() -> Network:
    """r(z) = w . tanh(z)."""
    return Network(
        lambda key: jnp.array([0.3, -0.2, 0.5]), lambda params, z: jnp.dot(params, jnp.tanh(z))
    )


def exact(function=form, logits=LOGITS):
    return jax.grad(lambda logits: binary_expectation(function, logits))(logits)


def initial(estimator, params=LOGITS):
    return estimator.init(params, jax.random.key(7))


def test_unbiased_estimators_of_binary_variables() -> None:
    rebar = library.rebar(Bernoulli, form, scale=0.7, temperature=0.6)
    relax = library.relax(Bernoulli, form, network(), scale=0.4)
    black_box = library.relax(Bernoulli, form, network(), relaxed=False)
    estimators = {
        "rloo": library.rloo(Bernoulli, form),
        "arm": library.arm(Bernoulli, form),
        "disarm": library.disarm(Bernoulli, form),
        "muprop": library.muprop(Bernoulli, form),
        "rebar": rebar,
        "relax": relax,
        "relax, black box": black_box,
        "rao-blackwell": library.rao_blackwell(Bernoulli, form, [2, 0]),
        "enumeration": library.enumeration(Bernoulli, form),
    }
    replicates = {name: estimate(one, LOGITS, 2, initial(one)) for name, one in estimators.items()}
    found = assert_unbiased(replicates, exact())
    variance = {name: float(found.variance[name].sum()) for name in estimators}
    assert variance["disarm"] < variance["arm"]
    assert variance["rao-blackwell"] < variance["rloo"]
    assert variance["enumeration"] < 1e-12


def test_unbiased_estimators_of_one_hot_variables() -> None:
    logits, table = jnp.array([0.4, -0.9, 1.3]), jnp.array([1.0, -0.6, 0.8])

    def function(x):
        return jnp.sin(2 * table @ x) + jnp.sum(jnp.square(x - table))

    def expectation(logits):
        return jax.nn.softmax(logits) @ jax.vmap(function)(jnp.eye(3))

    def one_hot(logits):
        return distrax.OneHotCategorical(logits=logits)

    rebar = library.rebar(one_hot, function, scale=0.7, temperature=0.6)
    relax = library.relax(one_hot, function, network())
    replicates = {
        "rebar": estimate(rebar, logits, 2, initial(rebar)),
        "relax": estimate(relax, logits, 2, initial(relax)),
        "muprop": estimate(library.muprop(one_hot, function), logits, 2),
    }
    assert_unbiased(replicates, jax.grad(expectation)(logits))


BIASED = {
    "straight-through": lambda f: library.biased_straight_through(Bernoulli, f),
    "gumbel-softmax": lambda f: library.biased_gumbel_softmax(Bernoulli, f),
    "both": lambda f: library.biased_straight_through_gumbel_softmax(Bernoulli, f),
}


def test_the_bias_of_the_biased_ones_is_measured() -> None:
    """All are rejected; straight-through has the bias that enumeration gives it."""
    replicates = {name: estimate(make(form), LOGITS) for name, make in BIASED.items()}
    found = assert_biased(replicates, exact())

    def straight_through(logits):
        slopes = lambda b: jax.grad(form)(b) * jax.nn.sigmoid(LOGITS) * jax.nn.sigmoid(-LOGITS)  # noqa: E731
        return jax.vmap(lambda d: binary_expectation(lambda b: slopes(b)[d], jnp.asarray(logits)))(
            jnp.arange(3)
        )

    bias = found.bias["straight-through"]
    error = found.standard_error["straight-through"]
    expected = straight_through(LOGITS) - exact()
    assert (np.abs(bias - expected) < 5 * error + 1e-9).all()
    assert np.abs(expected).max() > 0.1 * np.abs(exact()).max()


def test_a_colder_relaxation_is_less_biased() -> None:
    replicates = {
        str(t): estimate(library.biased_gumbel_softmax(Bernoulli, form, temperature=t), LOGITS)
        for t in (0.1, 1.0)
    }
    found = certify(replicates, exact(), resolution=0.05)
    bias = {name: np.linalg.norm(found.bias[name]) for name in replicates}
    assert bias["0.1"] < 0.3 * bias["1.0"]


def test_straight_through_is_exact_for_a_linear_function() -> None:
    linear = lambda b: jnp.dot(WEIGHTS, b)  # noqa: E731
    estimator = library.biased_straight_through(Bernoulli, linear)
    gradients = library.per_sample_gradients(estimator, LOGITS, jax.random.key(0), 4)
    np.testing.assert_allclose(gradients, jnp.broadcast_to(exact(linear), (4, 3)), rtol=1e-9)


def test_multi_pair_disarm_of_a_two_sample_bound() -> None:
    """grad E[log mean exp(f(b_1), f(b_2))], over all 64 pairs of samples."""

    def expectation(logits):
        def outer(b):
            return binary_expectation(lambda c: bounds.iwae(jnp.stack([form(b), form(c)])), logits)

        return binary_expectation(outer, logits)

    estimator = library.multi_pair_disarm(Bernoulli, form, combine=bounds.iwae, num_pairs=2)
    want = jax.grad(expectation)(jnp.asarray(LOGITS))
    assert_unbiased({"multi-pair": estimate(estimator, LOGITS, 1)}, want)

    def value(key):
        return library.surrogate_loss(estimator, LOGITS, key)

    values = jit_once(jax.vmap(value))(jax.random.split(jax.random.key(5), 20_000))
    assert_mean(values, expectation(jnp.asarray(LOGITS)))


def test_the_mean_times_mean_control_variate_is_rejected() -> None:
    """The mutant multiplies the mean signal of S samples with their mean score."""

    def one_by_one(key):
        estimator = library.rebar(Bernoulli, form)
        return estimate(estimator, LOGITS, 2, initial(estimator))(key)

    def mutant(key):
        estimator = library.rebar(Bernoulli, form)
        variables = Relaxation(jnp.asarray(LOGITS), False)
        noises = estimator.draw(jnp.asarray(LOGITS), initial(estimator), key, 2).noises

        def control(logits, z):
            return form(variables.soft(z, 0.5))

        def conditional(logits, noises):
            moved = Relaxation(logits, False)
            return moved.conditional(noises.uniform, noises.hard)

        signals = jax.vmap(
            lambda n: form(n.hard) - control(LOGITS, conditional(jnp.asarray(LOGITS), n))
        )(noises)

        def terms(logits):
            moved = Relaxation(logits, False)
            scores = jax.vmap(moved.log_prob)(noises.hard)
            free = jax.vmap(lambda n: control(logits, logits + n.noise))(noises)
            given = jax.vmap(lambda n: control(logits, conditional(logits, n)))(noises)
            return signals.mean() * scores.mean() + (free - given).mean()

        return jax.grad(terms)(jnp.asarray(LOGITS))

    assert_unbiased({"one by one": one_by_one}, exact())
    assert_biased({"mean times mean": mutant}, exact())


@pytest.mark.parametrize("name", ["rebar", "relax"])
def test_the_control_variate_learns_to_lower_the_variance(name: str) -> None:
    optimizer = optax.adam(0.05)
    if name == "rebar":
        estimator = library.rebar(Bernoulli, form, scale=-0.5, temperature=2.0, optimizer=optimizer)
    else:
        estimator = library.relax(Bernoulli, form, network(), relaxed=False, optimizer=optimizer)

    @jit_once
    def train(key):
        def step(state, index):
            _, observation = library.surrogate_loss_and_observation(
                estimator, LOGITS, state, jax.random.fold_in(key, index), 50
            )
            return estimator.update(state, observation), None

        start = initial(estimator)
        end, _ = jax.lax.scan(step, start, jnp.arange(150))

        def variance(state):
            test_key = jax.random.fold_in(key, 1000)
            found = library.per_sample_gradients(estimator, LOGITS, test_key, 4000, state=state)
            return found.var(axis=0).sum()

        return variance(start), variance(end)

    before, after = train(jax.random.key(0))
    assert after < 0.6 * before


def test_the_conditional_noise_has_the_distribution_of_the_free_one() -> None:
    """z drawn freely, and b then z given b: the same moments, and the sample is kept."""
    for one_hot in (False, True):
        logits = jnp.asarray(jax.nn.log_softmax(LOGITS) if one_hot else LOGITS)
        variables = Relaxation(logits, one_hot)

        def both(key, variables=variables):
            noise_key, uniform_key = jax.random.split(key)
            z = variables.logits + variables.noise(noise_key)
            hard = variables.hard(z)
            conditional = variables.conditional(variables.uniform(uniform_key), hard)
            return z, conditional, jnp.all(variables.hard(conditional) == hard)

        keys = jax.random.split(jax.random.key(1), 50_000)
        free, given, kept = jit_once(jax.vmap(both))(keys)
        assert kept.all()
        assert_mean(given, free.mean(axis=0), scale=1.0)
        assert_mean(given**2, (free**2).mean(axis=0), scale=4.0)


def test_the_weight_of_a_pair_is_the_mean_of_arms_noise() -> None:
    """E[u - 1/2 given b and c], by quadrature over the part of (0, 1) where the pair is that."""
    u = (np.arange(200_000) + 0.5) / 200_000
    for logit in (1.3, -0.9):
        b, c = u > jax.nn.sigmoid(-logit), u < jax.nn.sigmoid(logit)
        for pair in {(bool(x), bool(y)) for x, y in zip(b, c, strict=True)}:
            where = (b == pair[0]) & (c == pair[1])
            weight = pair_weight(jnp.array(logit), jnp.array(pair[0] * 1.0), pair[1] * 1.0)
            np.testing.assert_allclose(weight, (u[where] - 0.5).mean(), atol=1e-4)


BINARY = ["arm", "disarm"]


@pytest.mark.parametrize("name", BINARY)
def test_latents_that_are_not_binary_are_refused(name: str) -> None:
    estimator = getattr(library, name)(lambda p: DiagonalGaussian(p, jnp.zeros(3)), jnp.sum)
    with pytest.raises(TypeError, match=f"{name} is for binary variables.*DiagonalGaussian"):
        library.per_sample_gradients(estimator, jnp.zeros(3), jax.random.key(0))


@pytest.mark.parametrize("make", [library.biased_straight_through, library.rebar])
def test_an_index_cannot_be_relaxed(make) -> None:
    estimator = make(lambda p: distrax.Categorical(logits=p), jnp.sum)
    with pytest.raises(TypeError, match="OneHotCategorical"):
        state = estimator.init(jnp.zeros(3), jax.random.key(0))
        library.per_sample_gradients(estimator, jnp.zeros(3), jax.random.key(0), state=state)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: library.rebar(Bernoulli, form, temperature=0.0), "temperature"),
        (lambda: library.biased_gumbel_softmax(Bernoulli, form, temperature=-1.0), "temperature"),
        (lambda: library.rao_blackwell(Bernoulli, form, []), "coordinates"),
        (lambda: library.rao_blackwell(Bernoulli, form, [1, 1]), "coordinates"),
        (
            lambda: library.multi_pair_disarm(Bernoulli, form, combine=bounds.iwae, num_pairs=0),
            "num_pairs",
        ),
    ],
)
def test_settings_out_of_range_are_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("estimator", "num_samples", "message"),
    [
        (library.rao_blackwell(Bernoulli, form, [0]), 1, "num_samples must be at least 2"),
        (library.rao_blackwell(Bernoulli, form, [3]), 2, "coordinates must be below 3"),
        (library.rloo(Bernoulli, form), 0, "num_samples must be at least 1"),
    ],
)
def test_calls_that_are_refused(estimator, num_samples: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        library.per_sample_gradients(estimator, LOGITS, jax.random.key(0), num_samples)


def test_too_many_values_are_refused() -> None:
    estimator = library.enumeration(Bernoulli, jnp.sum)
    with pytest.raises(ValueError, match="too many to enumerate"):
        library.per_sample_gradients(estimator, jnp.zeros(40), jax.random.key(0))


@pytest.mark.parametrize("name", ["arm", "disarm", "rloo", "rebar", "muprop"])
def test_extreme_logits_give_finite_gradients_in_float32(name: str) -> None:
    estimator = getattr(library, name)(Bernoulli, form)
    logits = jnp.array([1e4, -1e4, 0.3], jnp.float32)
    state = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), initial(estimator, logits))
    gradients = library.per_sample_gradients(estimator, logits, jax.random.key(0), 4, state=state)
    assert np.isfinite(gradients).all()
