"""The bound of a diffusion: exact on Gaussian data, equal to the generic one, unbiased in parts."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from genjax_models.interfaces import ConditionalNetwork
from genjax_models.learning import (
    adaptive_variational_diffusion,
    bounds,
    diffusion_bound,
    diffusion_term,
    importance_samples,
    simple_diffusion,
    term_probabilities,
    variational_diffusion,
)
from genjax_models.learning.diffusion import TermStatistics, prior_kl
from genjax_models.models.markov_chain import (
    Diffusion,
    NoiseSchedule,
    as_latent_variable_model,
    cosine_schedule,
    diffusion,
    from_variances,
    linear_schedule,
)
from genjax_models.training import stateful_gradient_descent
from tests.models.markov_chain import gaussian_data
from tests.statistics import assert_mean, jit_once

SCHEDULE = linear_schedule(30)
PARAMS = gaussian_data.params()
X = jnp.array(gaussian_data.X, jnp.float32)


@functools.cache
def bound_draws(reverse_variance: str, num_draws: int = 10_000):
    """The parts, for one x and many keys."""
    model = gaussian_data.model(SCHEDULE, prediction="v", reverse_variance=reverse_variance)
    keys = jax.random.split(jax.random.key(0), num_draws)
    return jit_once(jax.vmap(lambda key: diffusion_bound(model, PARAMS, key, X)))(keys)


@pytest.mark.parametrize("reverse_variance", ["beta", "posterior"])
def test_every_part_of_the_bound_is_its_closed_form(reverse_variance: str) -> None:
    drawn = bound_draws(reverse_variance)
    exact = gaussian_data.expected_terms(SCHEDULE, gaussian_data.X, reverse_variance)
    terms = np.concatenate([-drawn.log_likelihood[:, None], drawn.step_kls], axis=1)
    assert_mean(terms, exact)
    kl = gaussian_data.expected_prior_kl(SCHEDULE, gaussian_data.X)
    np.testing.assert_allclose(drawn.prior_kl, kl, rtol=1e-4)
    value = gaussian_data.expected_bound(SCHEDULE, gaussian_data.X, reverse_variance)
    assert_mean(drawn.value, value)
    assert drawn.value.shape == (10_000,)
    bits = drawn.bits_per_dim(2)
    np.testing.assert_allclose(bits, -drawn.value / np.log(2) / 2, rtol=1e-6)


@pytest.mark.parametrize("num_terms", [2, 7])
def test_fewer_terms_are_unbiased_for_each_stretch(num_terms: int) -> None:
    model = gaussian_data.model(SCHEDULE, prediction="v")
    keys = jax.random.split(jax.random.key(7), 40_000)
    run = jax.vmap(lambda key: diffusion_bound(model, PARAMS, key, X, num_terms=num_terms))
    drawn = jit_once(run)(keys)
    exact = gaussian_data.expected_terms(SCHEDULE, gaussian_data.X)
    ends = np.rint(np.linspace(2, 31, num_terms)).astype(int) - 1
    stretches = [exact[a:b].sum() for a, b in itertools.pairwise(ends)]
    assert_mean(drawn.step_kls, np.array(stretches), resolution=0.05)
    value = gaussian_data.expected_bound(SCHEDULE, gaussian_data.X)
    assert_mean(drawn.value, value, resolution=0.05)


@pytest.mark.parametrize("num_terms", [0, 1, 31, 2.5])
def test_a_number_of_terms_that_is_none_is_refused(num_terms) -> None:
    with pytest.raises(ValueError, match=r"num_terms must be an integer in 2..30, got"):
        diffusion_bound(
            gaussian_data.model(SCHEDULE), PARAMS, jax.random.key(0), X, num_terms=num_terms
        )


def test_wrong_variances_and_steps_are_told_apart() -> None:
    """Mutants: the other reverse variance; a prediction of the step before or after."""
    exact = gaussian_data.expected_bound(SCHEDULE, gaussian_data.X)
    with pytest.raises(AssertionError, match="biased"):
        assert_mean(bound_draws("posterior").value, exact, resolution=0.1)
    model = gaussian_data.model(SCHEDULE, prediction="v")
    keys = jax.random.split(jax.random.key(1), 10_000)
    for shift in (-1, 1):
        off_by_one = model._replace(
            reverse=lambda params, x_t, t, shift=shift: model.reverse(
                params, x_t, jnp.clip(t + shift, 1, 30)
            )
        )
        drawn = jit_once(
            jax.vmap(lambda key, wrong=off_by_one: diffusion_bound(wrong, PARAMS, key, X).value)
        )(jax.random.clone(keys))
        with pytest.raises(AssertionError, match="biased"):
            assert_mean(drawn, exact, resolution=0.1)


def exact_terms(model: Diffusion, params=PARAMS) -> jax.Array:
    """E[term_t] over data and noise, t = 1..T, by cubature: the terms are quadratic in both."""
    points = jnp.asarray(np.concatenate([2 * np.eye(4), -2 * np.eye(4)]), float)
    tables = (model.schedule.signal[1:], model.schedule.noise_scale[1:])
    mean, factor = (jnp.asarray(part, float) for part in (gaussian_data.MEAN, gaussian_data.FACTOR))

    def at_point(t, signal, scale, point):
        x = mean + factor @ point[:2]
        return diffusion_term(model, params, x, signal * x + scale * point[2:], t)

    def at_step(t, signal, scale):
        over_points = jax.vmap(at_point, in_axes=(None, None, None, 0))
        return jnp.mean(over_points(t, signal, scale, points))

    ts = jnp.arange(1, model.schedule.num_steps + 1)
    return jit_once(jax.vmap(at_step))(ts, *(jnp.asarray(table, float) for table in tables))


def gap(schedule: NoiseSchedule, **options) -> float:
    """E[log p(x)] - E[bound] with the best predictor, through the library's own terms."""
    terms = exact_terms(gaussian_data.model(schedule, prediction="v", **options))
    bound = -float(jnp.sum(terms)) - gaussian_data.expected_prior_kl(schedule)
    return gaussian_data.negative_entropy() - bound


@pytest.mark.parametrize("reverse_variance", ["beta", "posterior"])
def test_the_terms_are_exact_in_float32(reverse_variance: str) -> None:
    model = gaussian_data.model(SCHEDULE, prediction="v", reverse_variance=reverse_variance)
    exact = gaussian_data.expected_terms(SCHEDULE, None, reverse_variance)
    with jax.enable_x64(False):
        terms = exact_terms(model)
    assert terms.dtype == jnp.float32
    np.testing.assert_allclose(terms, exact, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("make", [linear_schedule, cosine_schedule])
def test_with_beta_the_gap_falls_as_one_over_the_number_of_steps(make) -> None:
    """Down to KL(q(x_T) || N(0, I)), which it must not fall below."""
    schedules = [make(num_steps) for num_steps in (100, 200, 400)]
    gaps = np.array([gap(schedule) - gaussian_data.last_kl(schedule) for schedule in schedules])
    assert (gaps > 0).all() and gaps[-1] < 0.003
    np.testing.assert_allclose(gaps[:-1] / gaps[1:], 2, rtol=0.01)


def test_at_many_steps_beta_is_right_and_beta_tilde_is_not() -> None:
    schedule = linear_schedule(12_800)
    assert 0 < gap(schedule) < 1e-4
    # Euler's constant for each pair of dimensions, and what the variances' slope adds.
    assert gap(schedule, reverse_variance="posterior") == pytest.approx(0.6221, abs=1e-4)


def perceptron(key: jax.Array) -> dict[str, jax.Array]:
    keys = jax.random.split(key, 3)
    shapes = {"in": (8, 2), "time": (8,), "out": (2, 8)}
    pairs = zip(shapes.items(), keys, strict=True)
    return {name: 0.7 * jax.random.normal(k, shape) for (name, shape), k in pairs}


def apply_perceptron(params, x_t, time):
    return params["out"] @ jnp.tanh(params["in"] @ x_t + params["time"] * time)


NETWORK = ConditionalNetwork(perceptron, apply_perceptron)
SHORT = from_variances([0.1, 0.2, 0.4, 0.6])


@pytest.mark.parametrize("likelihood", ["gaussian", "discretized_gaussian"])
def test_it_is_the_generic_bound_of_the_same_model(likelihood: str) -> None:
    """In expectation; the two share nothing but the model: differences of independent draws."""
    levels = {"num_levels": 9} if likelihood == "discretized_gaussian" else {}
    model = diffusion(NETWORK, SHORT, num_dims=2, likelihood=likelihood, **levels)
    generic = as_latent_variable_model(model)
    params = model.init(jax.random.key(5))
    x = jnp.array([0.75, 0.125])

    def both(key):
        dedicated_key, generic_key = jax.random.split(key)
        weights = importance_samples(generic, params, generic_key, x, 1).log_weights
        return diffusion_bound(model, params, dedicated_key, x).value, bounds.elbo(weights)

    dedicated, other = jit_once(jax.vmap(both))(jax.random.split(jax.random.key(0), 40_000))
    size = float(np.abs(np.mean(other)))
    assert_mean(np.asarray(dedicated, float) - np.asarray(other, float), 0.0, scale=size)


def test_on_gaussian_data_the_generic_bound_has_the_closed_form() -> None:
    generic = as_latent_variable_model(gaussian_data.model(SCHEDULE, prediction="v"))
    draw = jit_once(lambda key: importance_samples(generic, PARAMS, key, X, 20_000).log_weights)
    exact = gaussian_data.expected_bound(SCHEDULE, gaussian_data.X)
    assert_mean(draw(jax.random.key(0)), exact)


def skewed() -> np.ndarray:
    weights = 1 / np.arange(1, SCHEDULE.num_steps + 1)
    return weights / weights.sum()


PROBABILITIES = {"uniform": None, "skewed": skewed()}


@functools.cache
def one_term(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Losses, and gradients in the network's offset, of many keys."""
    model = gaussian_data.model(SCHEDULE, prediction="v")
    objective = variational_diffusion(model, probabilities=PROBABILITIES[name])
    run = jax.vmap(jax.grad(objective, has_aux=True), in_axes=(None, 0, None))
    keys = jax.random.split(jax.random.key(0), 60_000)
    gradients, metrics = jit_once(run)(gaussian_data.params((0.3, -0.1)), keys, X)
    assert set(metrics) == {"bound", "prior_kl"}
    return -np.asarray(metrics["bound"], float), np.asarray(gradients["offset"], float)


@functools.cache
def full_bound() -> tuple[float, np.ndarray]:
    """-bound with the offset and its gradient, over the noise, by cubature for this x."""
    model = gaussian_data.model(SCHEDULE, prediction="v")
    points = jnp.sqrt(2) * jnp.concatenate([jnp.eye(2), -jnp.eye(2)])
    signal, scale = SCHEDULE.signal, SCHEDULE.noise_scale

    def total(offset):
        def at_step(t, a, s):
            terms = jax.vmap(
                lambda point: diffusion_term(model, {"offset": offset}, X, a * X + s * point, t)
            )(points)
            return jnp.mean(terms)

        ts = jnp.arange(1, SCHEDULE.num_steps + 1)
        return jnp.sum(jax.vmap(at_step)(ts, signal[1:], scale[1:])) + prior_kl(model, X)

    value, gradient = jit_once(jax.value_and_grad(total))(jnp.array([0.3, -0.1]))
    return float(value), np.asarray(gradient)


@pytest.mark.parametrize("name", PROBABILITIES)
def test_one_term_is_unbiased_for_all_of_them(name: str) -> None:
    losses, gradients = one_term(name)
    value, gradient = full_bound()
    assert_mean(losses, value, resolution=0.05)
    assert_mean(gradients, gradient, resolution=0.05)


def test_a_missing_weight_and_a_step_too_many_are_told_apart() -> None:
    """Mutants: T instead of 1 / q(t); q(t + 1) instead of q(t)."""
    model = gaussian_data.model(SCHEDULE, prediction="v")
    q = jnp.asarray(skewed())
    value = full_bound()[0]
    params = gaussian_data.params((0.3, -0.1))

    def loss(weight, key):
        t_key, noise_key = jax.random.split(key)
        t = 1 + jax.random.categorical(t_key, jnp.log(q))
        noise = jax.random.normal(noise_key, (2,))
        signal, scale = (jnp.asarray(table)[t] for table in (SCHEDULE.signal, SCHEDULE.noise_scale))
        term = diffusion_term(model, params, X, signal * X + scale * noise, t)
        return prior_kl(model, X) + term * weight(t)

    def draws(weight):
        keys = jax.random.split(jax.random.key(1), 60_000)
        return jit_once(jax.vmap(functools.partial(loss, weight)))(keys)

    assert_mean(draws(lambda t: 1 / q[t - 1]), value, resolution=0.05)
    for mutant in (lambda t: 30.0, lambda t: 1 / q[jnp.minimum(t, 29)]):
        with pytest.raises(AssertionError, match="biased"):
            assert_mean(draws(mutant), value, resolution=0.2)


def test_probabilities_in_proportion_to_the_sizes_have_the_least_variance() -> None:
    model = gaussian_data.model(SCHEDULE, prediction="v")
    params = gaussian_data.params((0.3, -0.1))

    @functools.partial(jit_once, static_argnums=0)
    def terms(num_draws, key):
        keys = jax.random.split(key, num_draws)
        drawn = jax.vmap(lambda key: diffusion_bound(model, params, key, X))(keys)
        return jnp.concatenate([-drawn.log_likelihood[:, None], drawn.step_kls], axis=1)

    squares = np.square(terms(4000, jax.random.key(3))).mean(axis=0)

    def second_moment(q):
        return float(np.sum(squares / np.asarray(q, float)))

    best = term_probabilities(squares, uniform_share=0.0)
    np.testing.assert_allclose(best, np.sqrt(squares) / np.sqrt(squares).sum(), rtol=1e-5)
    mixed = term_probabilities(squares)
    np.testing.assert_allclose(np.sum(mixed), 1, rtol=1e-5)
    assert np.min(mixed) >= 0.05 / 30
    uniform = np.full(30, 1 / 30)
    assert second_moment(best) < second_moment(mixed) < second_moment(uniform) / 2
    # The least there is, by the inequality of Cauchy and Schwarz.
    assert second_moment(best) == pytest.approx(np.sqrt(squares).sum() ** 2, rel=1e-5)


def test_adaptive_estimates_are_unbiased_and_its_statistics_find_the_sizes() -> None:
    model = gaussian_data.model(SCHEDULE, prediction="v")
    adaptive = adaptive_variational_diffusion(model)
    params = gaussian_data.params((0.3, -0.1))
    state = adaptive.init_state(params, jax.random.key(0))
    batch = jnp.tile(X, (200, 1))

    def step(state, key):
        loss, (state, metrics) = adaptive.objective(params, state, key, batch)
        return state, (loss, metrics["bound"])

    keys = jax.random.split(jax.random.key(1), 1000)
    state, (losses, values) = jit_once(lambda s, k: jax.lax.scan(step, s, k))(state, keys)
    np.testing.assert_allclose(losses, -values, rtol=1e-5)
    assert_mean(losses, full_bound()[0])
    np.testing.assert_array_equal(state.is_seen, 1)
    # Later losses, whose probabilities are good, vary less than the first, which are uniform.
    assert (
        losses[500:].std() < losses[:3].std()
        or losses[500:].std() < one_term("uniform")[0].std() / np.sqrt(200) / 1.3
    )


def test_a_step_that_was_not_drawn_is_as_likely_as_the_largest() -> None:
    from genjax_models.learning import diffusion as module

    state = TermStatistics(jnp.array([4.0, 1.0, 9.0]), jnp.array([1.0, 0.0, 1.0]))
    np.testing.assert_array_equal(module._optimistic(state), [4.0, 9.0, 9.0])
    nothing = TermStatistics(jnp.ones(3), jnp.zeros(3))
    np.testing.assert_array_equal(module._optimistic(nothing), 1)
    moved = module._update(state, jnp.array([2, 2, 3]), jnp.array([1.0, 3.0, 13.0]))
    np.testing.assert_allclose(moved.mean_squares, [4, 5, 0.99 * 9 + 0.01 * 169], rtol=1e-6)
    np.testing.assert_array_equal(moved.is_seen, 1)


@pytest.mark.parametrize("prediction", ["noise", "x_0", "v"])
def test_the_simple_loss_is_the_squared_error_of_what_is_predicted(prediction: str) -> None:
    """Of the best predictor: the posterior variance of the target, by the law of total variance."""
    model = gaussian_data.model(SCHEDULE, prediction=prediction)
    objective = simple_diffusion(model)
    examples = jnp.asarray(gaussian_data.draws(20_000), jnp.float32)
    keys = jax.random.split(jax.random.key(0), len(examples))
    losses, _ = jit_once(jax.vmap(objective, (None, 0, 0)))(PARAMS, keys, examples)
    errors = []
    for step in gaussian_data.steps(SCHEDULE):
        covariance = gaussian_data.COVARIANCE - step.signal * step.gain @ gaussian_data.COVARIANCE
        # x_0 - E[x_0 | x_t] = -(s / a) (noise - E[noise | x_t]) = -s (v - E[v | x_t]).
        factor = {"x_0": 1, "noise": step.signal / step.scale, "v": 1 / step.scale}[prediction]
        errors.append(factor**2 * np.trace(covariance) / 2)
    assert_mean(losses, np.mean(errors))


def test_training_on_each_loss_finds_the_best_predictor() -> None:
    """A learned offset of the best predictor goes to zero; the bound rises to its closed form."""
    model = gaussian_data.model(SCHEDULE, prediction="v")
    adaptive = adaptive_variational_diffusion(model)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 300))
    init = lambda key: gaussian_data.params((0.8, -0.6))  # noqa: E731
    algorithm = stateful_gradient_descent(adaptive.objective, optimizer, init, adaptive.init_state)
    examples = jnp.asarray(gaussian_data.draws(), jnp.float32)

    @jit_once
    def train(key):
        init_key, key = jax.random.split(key)

        def step(state, index):
            batch_key, step_key = jax.random.split(jax.random.fold_in(key, index))
            batch = examples[jax.random.randint(batch_key, (100,), 0, len(examples))]
            return algorithm.step(state, step_key, batch)

        return jax.lax.scan(step, algorithm.init(init_key), jnp.arange(300))

    state, metrics = train(jax.random.key(0))
    assert np.abs(state.params["offset"]).max() < 0.05
    assert set(metrics) == {"loss", "bound", "prior_kl"}


GREY = {"num_dims": 2, "likelihood": "discretized_gaussian", "num_levels": 9}


def test_the_bound_of_grey_levels_is_one_on_their_probabilities() -> None:
    """A model that knows the level: all parts vanish but the KL of the last state; one that does
    not: the bound stays below the logarithm of one over the number of pairs of levels."""
    levels = np.linspace(0, 1, 9)
    known = ConditionalNetwork(
        lambda key: {}, lambda params, x_t, time: jnp.array([2 * 0.375 - 1, 1.0])
    )
    model = diffusion(
        known, cosine_schedule(50), prediction="x_0", reverse_variance="posterior", **GREY
    )
    drawn = diffusion_bound(model, {}, jax.random.key(0), jnp.array([0.375, 1.0]))
    np.testing.assert_allclose(drawn.step_kls, 0, atol=1e-5)
    # Half a level is 0.125 on the line; the highest level has the whole upper tail.
    half = 0.125 / np.sqrt(model.schedule.beta[1])
    inside, below = stats.norm.cdf(half) - stats.norm.cdf(-half), stats.norm.cdf(half)
    exact = np.log(inside) + np.log(below) - drawn.prior_kl
    np.testing.assert_allclose(drawn.value, exact, atol=2e-5)
    guess = diffusion(NETWORK, SHORT, **GREY)
    params = guess.init(jax.random.key(1))
    pairs = jnp.asarray(np.stack(np.meshgrid(levels, levels), -1).reshape(-1, 2), jnp.float32)

    def mean_bound(x):
        keys = jax.random.split(jax.random.key(2), 200)
        return jnp.mean(jax.vmap(lambda key: diffusion_bound(guess, params, key, x).value)(keys))

    values = np.asarray(jit_once(jax.vmap(mean_bound))(pairs), float)
    # sum exp(bound) <= sum p(x) = 1.
    assert 0.01 < np.exp(values).sum() < 1


def test_one_step_has_no_divergence_but_that_of_its_end() -> None:
    schedule = from_variances([0.7])
    model = gaussian_data.model(schedule)
    drawn = diffusion_bound(model, PARAMS, jax.random.key(0), X)
    assert drawn.step_kls.shape == (0,)
    objective = variational_diffusion(model)
    gradient, _ = jax.grad(objective, has_aux=True)(PARAMS, jax.random.key(1), X)
    assert np.isfinite(gradient["offset"]).all()
    keys = jax.random.split(jax.random.key(2), 20_000)
    values = jit_once(jax.vmap(lambda key: objective(PARAMS, key, X)[0]))(keys)
    assert_mean(-values, gaussian_data.expected_bound(schedule, gaussian_data.X))


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ([0.5, 0.5], r"probabilities must have shape \[T\] = \(4,\), got \(2,\)"),
        ([0.5, 0.5, 0.0, 0.0], "positive with sum one, got a least one of 0 and the sum 1"),
        ([0.5, 0.5, 0.5, 0.5], "positive with sum one, got a least one of 0.5 and the sum 2"),
        ([0.5, float("nan"), 0.2, 0.3], "positive with sum one"),
    ],
)
def test_bad_probabilities_are_refused(probabilities, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        variational_diffusion(gaussian_data.model(SHORT), probabilities=probabilities)
