"""The reverse chain on Gaussian data, where every moment of it is known; and what it refuses."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.interfaces import ConditionalNetwork
from genjax_models.models.markov_chain import (
    cosine_schedule,
    diffusion,
    from_variances,
    linear_schedule,
    posterior,
    sample_chain,
)
from tests.models.markov_chain import gaussian_data
from tests.statistics import assert_mean, jit_once

SCHEDULE = linear_schedule(30)
NUM_DRAWS = 20_000


@functools.cache
def chains(reverse_variance: str) -> np.ndarray:
    """Whole reverse chains, [NUM_DRAWS, T + 1, 2]."""
    model = gaussian_data.model(SCHEDULE, reverse_variance=reverse_variance)
    keys = jax.random.split(jax.random.key(1), NUM_DRAWS)
    run = jit_once(jax.vmap(lambda key: sample_chain(model, gaussian_data.params(), key)))
    return np.asarray(run(keys), np.float64)


def moments(draws: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Per draw: the values, and the products of deviations from the exact mean."""
    centred = draws - mean
    squares = (centred[:, :, None] * centred[:, None, :]).reshape(len(draws), -1)
    return np.concatenate([draws, squares], axis=1)


def assert_moments(draws: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> None:
    assert_mean(moments(draws, mean), np.concatenate([mean, covariance.ravel()]))


@pytest.mark.parametrize("reverse_variance", ["beta", "posterior"])
@pytest.mark.parametrize("t", [0, 1, 2, 10, 20, 29, 30])
def test_every_marginal_of_the_sampler_is_that_of_the_recursion(reverse_variance, t) -> None:
    exact = gaussian_data.reverse_moments(SCHEDULE, reverse_variance)[t]
    assert_moments(chains(reverse_variance)[:, t], *exact)


def test_another_reverse_variance_and_another_step_are_told_apart() -> None:
    """Mutants: the moments of the other variance, and those of the step after."""
    drawn = chains("posterior")
    with pytest.raises(AssertionError, match="biased"):
        assert_moments(drawn[:, 0], *gaussian_data.reverse_moments(SCHEDULE, "beta")[0])
    with pytest.raises(AssertionError, match="biased"):
        assert_moments(drawn[:, 10], *gaussian_data.reverse_moments(SCHEDULE, "posterior")[11])


def test_samples_are_the_ends_of_chains() -> None:
    model, params = gaussian_data.model(SCHEDULE), gaussian_data.params()
    keys = jax.random.split(jax.random.key(1), NUM_DRAWS)
    samples = jit_once(jax.vmap(lambda key: model.sample(params, key)))(keys)
    np.testing.assert_allclose(samples, chains("beta")[:, 0], rtol=1e-4, atol=1e-4)


def test_the_marginals_tend_to_those_of_the_data_as_one_over_the_number_of_steps() -> None:
    """The recursion, which the sampler was held against, beside the noised data; every t."""
    errors = []
    for num_steps in (50, 100, 200, 400):
        schedule = linear_schedule(num_steps)
        reverse, noised = (
            [np.stack(part) for part in zip(*moments(schedule), strict=True)]
            for moments in (gaussian_data.reverse_moments, gaussian_data.noised_moments)
        )
        errors.append(np.abs(reverse[1] - noised[1]).max())
        # The mean of x_T is not quite 0, as that of the reverse chain is.
        assert np.abs(reverse[0] - noised[0]).max() < np.exp(-5) * 0.7
    ratios = np.array(errors[:-1]) / errors[1:]
    np.testing.assert_allclose(ratios, 2, rtol=0.05)
    assert errors[-1] < 0.003


@pytest.mark.parametrize("prediction", ["noise", "x_0", "v"])
@pytest.mark.parametrize("reverse_variance", ["beta", "posterior"])
def test_a_reverse_step_has_the_mean_and_the_variance_of_its_formula(
    prediction: str, reverse_variance: str
) -> None:
    """Whatever is predicted, the best prediction gives the same step."""
    model = gaussian_data.model(SCHEDULE, prediction=prediction, reverse_variance=reverse_variance)
    ts = jnp.arange(1, SCHEDULE.num_steps + 1)
    x_t = np.array([0.9, -1.4])
    found = jit_once(
        jax.vmap(lambda t: model.reverse(gaussian_data.params(), jnp.array(x_t, jnp.float32), t))
    )(ts)
    variances = gaussian_data.reverse_variances(SCHEDULE, reverse_variance)
    np.testing.assert_allclose(np.exp(2 * found.log_scale), variances, rtol=1e-5)
    for loc, step in zip(found.loc, gaussian_data.steps(SCHEDULE), strict=True):
        x_0 = gaussian_data.MEAN + step.gain @ (x_t - step.signal * gaussian_data.MEAN)
        exact = step.of_x_0 * x_0 + step.of_x_t * x_t
        # At the last steps the noise is divided by a small signal.
        np.testing.assert_allclose(loc, exact, atol=1e-4 if prediction == "noise" else 1e-5)


def test_one_reverse_step_is_one_draw_of_its_distribution() -> None:
    model, params = gaussian_data.model(SCHEDULE), gaussian_data.params()
    x_t = jnp.array([0.9, -1.4])
    for t in (1, 7):
        keys = jax.random.split(jax.random.key(t), NUM_DRAWS)
        draws = jit_once(
            jax.vmap(lambda key, t: model.reverse_step(params, key, x_t, t), (0, None))
        )(keys, t)
        exact = model.reverse(params, x_t, t)
        variance = np.exp(2 * np.asarray(exact.log_scale, np.float64))
        assert_moments(np.asarray(draws), np.asarray(exact.loc, np.float64), variance * np.eye(2))


def test_with_the_data_known_beta_tilde_is_the_exact_reverse_chain() -> None:
    """Data that are one point: p(x_(t-1) | x_t) = q(x_(t-1) | x_t, x_0), step by step."""
    point = jnp.array([0.3, -0.8])
    network = ConditionalNetwork(lambda key: {}, lambda params, x_t, time: point)
    model = diffusion(network, SCHEDULE, num_dims=2, prediction="x_0", reverse_variance="posterior")
    x_t = jnp.array([1.5, 0.2])
    for t in (2, 17, 30):
        exact = posterior(SCHEDULE, x_t, point, t)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-6),
            model.reverse({}, x_t, t),
            exact,
        )


def constant(value: float, num_dims: int = 4) -> ConditionalNetwork:
    """Predicts the same for every x_t, time and dimension."""
    return ConditionalNetwork(
        lambda key: {"value": jnp.float32(value)},
        lambda params, x_t, time: jnp.full(num_dims, params["value"]),
    )


GREY = {"likelihood": "discretized_gaussian", "num_levels": 5, "num_dims": 4}


def test_grey_levels_are_scaled_to_the_line_and_back() -> None:
    """Where x_0 is known to be the level 1/4, so is every sample; p(x | x_1) is nearly one."""
    model = diffusion(constant(-0.5), linear_schedule(100), prediction="x_0", **GREY)
    params = model.init(jax.random.key(0))
    x = jnp.full(4, 0.25)
    np.testing.assert_allclose(model.observation.scale(x), -0.5)
    np.testing.assert_allclose(model.observation.unscale(jnp.full(4, -0.5)), x)
    np.testing.assert_allclose(model.sample(params, jax.random.key(1)), x)
    likelihood = model.likelihood(params, jnp.zeros(4))
    # The noise of the last step, 0.03, is an eighth of half a level.
    np.testing.assert_allclose(likelihood.log_prob(x), 0, atol=1e-6)
    np.testing.assert_allclose(likelihood.mean(), x, atol=1e-6)
    assert likelihood.log_prob(x + 0.25) < -4 * 20


def test_the_likelihood_of_a_level_is_the_mass_of_the_last_step_around_it() -> None:
    """Against frequencies of the last reverse step, which rounds to the nearest level."""
    model = diffusion(constant(0.2), from_variances([0.3, 0.5]), prediction="x_0", **GREY)
    params = model.init(jax.random.key(0))
    x_1 = jnp.zeros(4)
    keys = jax.random.split(jax.random.key(3), 10_000)
    draws = jit_once(jax.vmap(lambda key: model.reverse_step(params, key, x_1, 1)))(keys)
    levels = np.linspace(-1, 1, 5)
    nearest = np.abs(np.asarray(draws)[:, :, None] - levels) < 1e-5
    assert nearest.any(axis=-1).all()
    likelihood = model.likelihood(params, x_1)
    mass = [np.exp(likelihood.log_prob(jnp.full(4, level)) / 4) for level in (levels + 1) / 2]
    assert_mean(nearest.reshape(-1, 5), np.array(mass))
    np.testing.assert_allclose(sum(mass), 1, rtol=1e-5)


def test_only_the_last_step_rounds() -> None:
    model = diffusion(constant(0.2), from_variances([0.3, 0.5]), prediction="x_0", **GREY)
    x = model.reverse_step(model.init(jax.random.key(0)), jax.random.key(1), jnp.zeros(4), 2)
    assert (np.abs(np.asarray(x)[:, None] - np.linspace(-1, 1, 5)) > 1e-4).all()


def test_clipping_is_of_what_the_chain_uses() -> None:
    make = functools.partial(diffusion, constant(3.0), SCHEDULE, prediction="x_0", **GREY)
    x_t = jnp.array([0.5, 0.0, -0.5, 2.0])
    for model, expected in ((make(), 1.0), (make(clip=False), 3.0)):
        params = model.init(jax.random.key(0))
        np.testing.assert_array_equal(model.predict(params, x_t, 4).x_0, 3.0)
        denoised = model.denoise(params, x_t, 4)
        np.testing.assert_array_equal(denoised.x_0, expected)
        # The noise goes with the clipped x_0: together they still make x_t.
        made = SCHEDULE.signal[4] * denoised.x_0 + SCHEDULE.noise_scale[4] * denoised.noise
        np.testing.assert_allclose(made, x_t, rtol=1e-5, atol=1e-6)
        exact = posterior(SCHEDULE, x_t, jnp.full(4, expected), 4).loc
        np.testing.assert_allclose(model.reverse(params, x_t, 4).loc, exact, rtol=1e-6)


def test_the_network_sees_the_time_as_a_fraction() -> None:
    seen = []
    network = ConditionalNetwork(lambda key: {}, lambda params, x_t, time: seen.append(time) or x_t)
    model = diffusion(network, SCHEDULE, num_dims=2)
    for t in (1, 15, 30):
        model.predict({}, jnp.zeros(2), t)
    np.testing.assert_allclose(seen, [1 / 30, 0.5, 1.0], rtol=1e-6)


def test_one_step_is_enough_for_a_chain() -> None:
    schedule = cosine_schedule(1)
    model = diffusion(constant(0.4, 2), schedule, num_dims=2, prediction="x_0")
    params = model.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(0), NUM_DRAWS)
    draws = jit_once(jax.vmap(lambda key: model.sample(params, key)))(keys)
    assert_moments(np.asarray(draws), np.full(2, 0.4), schedule.beta[1] * np.eye(2))


def refused(**options) -> Callable:
    return lambda: diffusion(constant(0.0), SCHEDULE, **{"num_dims": 4} | options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (refused(num_dims=0), "num_dims must be at least 1, got 0"),
        (refused(prediction="score"), r"prediction must be one of \['noise', 'x_0', 'v'\]"),
        (refused(reverse_variance="learned"), r"reverse_variance must be one of \['beta', 'post"),
        (refused(likelihood="bernoulli"), r"likelihood must be one of .* got 'bernoulli'"),
        (refused(likelihood="discretized_gaussian"), "needs num_levels, the number of grey levels"),
        (refused(num_levels=17), 'num_levels is for likelihood "discretized_gaussian", not'),
        (refused(**GREY | {"num_levels": 1}), "num_levels must be at least 2, got 1"),
        (refused(clip=True), "clip=True is for data in a known range, not for likelihood 'gauss"),
        (
            lambda: refused(num_dims=3)().init(jax.random.key(0)),
            r"network must map \[3\] and a time \[\] to \[3\], but its outputs have shape \(4,\)",
        ),
        (lambda: refused()().reverse({}, jnp.zeros(4), 0), r"t must be in 1..30, got 0"),
        (lambda: refused()().reverse({}, jnp.zeros(4), 31), r"t must be in 1..30, got 31"),
    ],
)
def test_bad_input_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
