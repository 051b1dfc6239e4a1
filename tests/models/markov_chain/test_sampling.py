"""DDIM on Gaussian data, where every step is an affine map that is written down anew."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.interfaces import ConditionalNetwork
from genjax_models.models.markov_chain import (
    Diffusion,
    diffusion,
    linear_schedule,
    sample_chain,
    sample_ddim,
)
from genjax_models.models.markov_chain.sampling import ddim_steps
from tests.models.markov_chain import gaussian_data
from tests.models.markov_chain.test_diffusion import assert_moments
from tests.statistics import jit_once

SCHEDULE = linear_schedule(30)
IDENTITY = np.eye(2)


def affine_steps(visited: list[int], eta: float) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Matrix, shift and variance of each DDIM step, from the last to the first."""
    known = [None, *gaussian_data.steps(SCHEDULE)]
    found = []
    for s, t in zip(visited[-2::-1], visited[:0:-1], strict=True):
        step, share_t = known[t], known[t].signal ** 2
        share_s = known[s].signal ** 2 if s else 1.0
        variance = eta**2 * (1 - share_s) / (1 - share_t) * (1 - share_t / share_s)
        # x_0 = m + gain (x - a m), noise = (x - a x_0) / s: both affine in x.
        of_noise = (IDENTITY - step.signal * step.gain) / step.scale
        direction = np.sqrt(1 - share_s - variance)
        matrix = np.sqrt(share_s) * step.gain + direction * of_noise
        centred = np.sqrt(share_s) * gaussian_data.MEAN - matrix @ (
            step.signal * gaussian_data.MEAN
        )
        found.append((matrix, centred, variance))
    return found


def ddim(model: Diffusion, key: jax.Array, **options) -> jax.Array:
    return sample_ddim(model, gaussian_data.params(), key, **options)


@functools.cache
def draws(num_steps: int | None, eta: float) -> np.ndarray:
    """Many samples, [N, 2]."""
    model = gaussian_data.model(SCHEDULE, prediction="v")
    run = functools.partial(ddim, model, num_steps=num_steps, eta=eta)
    keys = jax.random.split(jax.random.key(4), 20_000)
    return np.asarray(jit_once(jax.vmap(run))(keys), np.float64)


@pytest.mark.parametrize("num_steps", [1, 4, 7, 30])
def test_without_noise_it_is_the_map_of_its_formula(num_steps: int) -> None:
    model = gaussian_data.model(SCHEDULE)
    start = np.array([0.8, -1.7])
    exact = start
    for matrix, shift, _ in affine_steps(list(ddim_steps(SCHEDULE, num_steps)), 0.0):
        exact = matrix @ exact + shift
    run = jit_once(functools.partial(ddim, model, num_steps=num_steps))
    found = [run(jax.random.key(seed), x_T=jnp.array(start, jnp.float32)) for seed in (0, 1)]
    np.testing.assert_array_equal(*found)
    np.testing.assert_allclose(found[0], exact, atol=2e-4)


def test_without_a_start_one_is_drawn() -> None:
    model = gaussian_data.model(SCHEDULE)
    first, second = (ddim(model, jax.random.key(seed), num_steps=3) for seed in (0, 1))
    assert (first != second).all()


@pytest.mark.parametrize(("num_steps", "eta"), [(5, 0.0), (7, 0.5), (None, 1.0)])
def test_the_moments_of_its_samples(num_steps: int | None, eta: float) -> None:
    visited = list(ddim_steps(SCHEDULE, num_steps or 30))
    mean, covariance = np.zeros(2), IDENTITY
    for matrix, shift, variance in affine_steps(visited, eta):
        mean = matrix @ mean + shift
        covariance = matrix @ covariance @ matrix.T + variance * IDENTITY
    assert_moments(draws(num_steps, eta), mean, covariance)


def posterior_chain_moments(reverse_variance: str) -> tuple[np.ndarray, np.ndarray]:
    """Of the mean of the last step of the reverse chain."""
    mean, covariance = gaussian_data.reverse_moments(SCHEDULE, reverse_variance)[1]
    first = next(gaussian_data.steps(SCHEDULE))
    return (
        gaussian_data.MEAN + first.gain @ (mean - first.signal * gaussian_data.MEAN),
        first.gain @ covariance @ first.gain.T,
    )


def test_with_all_noise_and_every_step_it_is_the_ancestral_chain_with_beta_tilde() -> None:
    assert_moments(draws(None, 1.0), *posterior_chain_moments("posterior"))
    with pytest.raises(AssertionError, match="biased"):
        assert_moments(draws(None, 1.0), *posterior_chain_moments("beta"))
    with pytest.raises(AssertionError, match="biased"):
        assert_moments(draws(7, 0.5), *posterior_chain_moments("posterior"))


def test_the_deterministic_map_carries_noise_to_the_data_as_the_steps_grow() -> None:
    """Its covariance tends to that of the data as 1 / S: the flow that has the same marginals."""
    errors = []
    for num_steps in (100, 200, 400, 800):
        schedule = linear_schedule(num_steps)
        matrix, before = IDENTITY, None
        for step in reversed(list(gaussian_data.steps(schedule))):
            if before is not None:
                of_noise = (IDENTITY - before.signal * before.gain) / before.scale
                matrix = (step.signal * before.gain + step.scale * of_noise) @ matrix
            before = step
        errors.append(np.abs(matrix @ matrix.T - gaussian_data.COVARIANCE).max())
    np.testing.assert_allclose(np.array(errors[:-1]) / errors[1:], 2, rtol=0.1)
    assert errors[-1] < 0.01


def test_steps_are_spread_evenly_and_end_where_the_chain_does() -> None:
    assert list(ddim_steps(SCHEDULE, 30)) == list(range(31))
    assert list(ddim_steps(SCHEDULE, 5)) == [0, 6, 12, 18, 24, 30]
    assert list(ddim_steps(SCHEDULE, 1)) == [0, 30]
    for num_steps in range(1, 31):
        gaps = np.diff(ddim_steps(SCHEDULE, num_steps))
        assert gaps.sum() == 30 and gaps.max() - gaps.min() <= 1 and gaps.min() >= 1


def test_the_chain_begins_in_noise_and_ends_in_data() -> None:
    model = gaussian_data.model(SCHEDULE)
    params, key = gaussian_data.params(), jax.random.key(6)
    chain = sample_chain(model, params, key)
    assert chain.shape == (31, 2)
    sample = model.sample(params, jax.random.clone(key))
    np.testing.assert_allclose(chain[0], sample, rtol=1e-5, atol=1e-6)


def test_grey_levels_come_out_rounded() -> None:
    network = ConditionalNetwork(lambda key: {}, lambda params, x_t, time: jnp.array([0.4, -3.0]))
    model = diffusion(
        network,
        SCHEDULE,
        num_dims=2,
        prediction="x_0",
        likelihood="discretized_gaussian",
        num_levels=5,
    )
    x = sample_ddim(model, {}, jax.random.key(0), num_steps=3)
    np.testing.assert_allclose(x, [0.75, 0.0])


def refused(**options) -> Callable:
    return lambda: ddim(gaussian_data.model(SCHEDULE), jax.random.key(0), **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (refused(num_steps=0), r"num_steps must be an integer in 1..30, got 0"),
        (refused(num_steps=31), r"num_steps must be an integer in 1..30, got 31"),
        (refused(num_steps=1.5), r"num_steps must be an integer in 1..30, got 1.5"),
        (refused(eta=-0.1), r"eta must be in \[0, 1\], got -0.1"),
        (refused(eta=1.1), r"eta must be in \[0, 1\], got 1.1"),
        (refused(x_T=jnp.zeros(3)), r"x_T must have shape \(2,\), got \(3,\)"),
    ],
)
def test_bad_input_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
