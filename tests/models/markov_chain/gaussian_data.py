"""Gaussian data, for which the best predictor and all that a diffusion does are closed forms.

The answers are written down anew in float64, without the library, from the noise variances alone.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.interfaces import ConditionalNetwork
from genjax_models.models.markov_chain import Diffusion, NoiseSchedule, diffusion

MEAN = np.array([0.4, -0.7])
COVARIANCE = np.array([[0.9, 0.3], [0.3, 0.4]])
FACTOR = np.linalg.cholesky(COVARIANCE)
IDENTITY = np.eye(2)
X = np.array([1.1, -0.3])
"""One example."""


def model(schedule: NoiseSchedule, **options) -> Diffusion:
    """The diffusion of these data with the best predictor."""
    prediction = options.setdefault("prediction", "noise")
    return diffusion(best_network(schedule, prediction), schedule, num_dims=2, **options)


def params(offset=(0.0, 0.0)) -> dict[str, jax.Array]:
    """Of `model`: what is added to the best prediction of the network's output."""
    return {"offset": jnp.array(offset)}


def best_network(schedule: NoiseSchedule, prediction: str) -> ConditionalNetwork:
    """E[output | x_t], which is affine in x_t; the time is t / T."""
    num_steps = schedule.num_steps
    gains, locs = (np.zeros((num_steps + 1, *shape)) for shape in ((2, 2), (2,)))
    for t, step in enumerate(steps(schedule), start=1):
        precision = np.linalg.inv(step.covariance)
        gains[t] = {
            "x_0": step.gain,
            "noise": step.scale * precision,
            "v": step.signal * step.scale * (IDENTITY - COVARIANCE) @ precision,
        }[prediction]
        locs[t] = {"x_0": MEAN, "noise": 0 * MEAN, "v": -step.scale * MEAN}[prediction]
    centres = np.concatenate([[1], [step.signal for step in steps(schedule)]])[:, None] * MEAN

    def apply(params, x_t, time):
        t = jnp.round(time * num_steps).astype(int)
        gain, loc, centre = (jnp.asarray(table, float)[t] for table in (gains, locs, centres))
        return loc + gain @ (x_t - centre) + params["offset"]

    return ConditionalNetwork(lambda key: params(), apply)


class Step(NamedTuple):
    """What is known of one step t."""

    beta: float
    signal: float
    scale: float
    covariance: np.ndarray  # of x_t
    gain: np.ndarray  # E[x_0 | x_t] = m + gain (x_t - signal m)
    of_x_0: float  # the coefficients of the mean of q(x_(t-1) | x_t, x_0)
    of_x_t: float
    posterior_variance: float


def steps(schedule: NoiseSchedule) -> Iterator[Step]:
    """t = 1..T, from beta alone."""
    before = 1.0
    for beta in schedule.beta[1:]:
        alpha_bar = before * (1 - beta)
        covariance = alpha_bar * COVARIANCE + (1 - alpha_bar) * IDENTITY
        # q(x_(t-1) | x_t, x_0) by adding precisions: those of x_(t-1) given x_0, and given x_t.
        precisions = np.array([1 / max(1 - before, 1e-300), (1 - beta) / beta])
        variance = 1 / precisions.sum()
        yield Step(
            beta,
            np.sqrt(alpha_bar),
            np.sqrt(1 - alpha_bar),
            covariance,
            np.sqrt(alpha_bar) * COVARIANCE @ np.linalg.inv(covariance),
            variance * precisions[0] * np.sqrt(before),
            variance * precisions[1] / np.sqrt(1 - beta),
            variance if before < 1 else 0.0,
        )
        before = alpha_bar


def reverse_variances(schedule: NoiseSchedule, reverse_variance: str) -> list[float]:
    """sigma_t^2, t = 1..T."""
    if reverse_variance == "beta":
        return list(schedule.beta[1:])
    return [schedule.beta[1], *(step.posterior_variance for step in list(steps(schedule))[1:])]


def reverse_moments(
    schedule: NoiseSchedule, reverse_variance: str = "beta"
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean and covariance of x_t in the reverse chain, t = 0..T."""
    moments = [(np.zeros(2), IDENTITY)]
    variances = reverse_variances(schedule, reverse_variance)
    for step, variance in reversed(list(zip(steps(schedule), variances, strict=True))):
        mean, covariance = moments[-1]
        matrix = step.of_x_0 * step.gain + step.of_x_t * IDENTITY
        shift = step.of_x_0 * (MEAN - step.signal * step.gain @ MEAN)
        moments.append(
            (matrix @ mean + shift, matrix @ covariance @ matrix.T + variance * IDENTITY)
        )
    return moments[::-1]


def noised_moments(schedule: NoiseSchedule) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean and covariance of x_t in the noising chain from the data, t = 0..T."""
    noised = [(step.signal * MEAN, step.covariance) for step in steps(schedule)]
    return [(MEAN, COVARIANCE), *noised]


def expected_terms(
    schedule: NoiseSchedule, x: np.ndarray | None = None, reverse_variance: str = "beta"
) -> np.ndarray:
    """What t = 1..T add to -bound, over the noise; over the data too unless x is given, [T]."""
    terms = []
    variances = reverse_variances(schedule, reverse_variance)
    for t, (step, variance) in enumerate(zip(steps(schedule), variances, strict=True), start=1):
        shrink = IDENTITY - step.signal * step.gain
        spread = COVARIANCE if x is None else np.outer(x - MEAN, x - MEAN)
        # E |x_0 - E[x_0 | x_t]|^2.
        error = np.trace(shrink @ spread @ shrink.T + step.scale**2 * step.gain @ step.gain.T)
        if t == 1:
            terms.append(error / (2 * variance) + np.log(2 * np.pi * variance))
        else:
            ratio = step.posterior_variance / variance
            distance = step.of_x_0**2 * error / (2 * variance)
            terms.append(ratio - 1 - np.log(ratio) + distance)
    return np.array(terms)


def expected_prior_kl(schedule: NoiseSchedule, x: np.ndarray | None = None) -> float:
    """KL(q(x_T | x_0) || N(0, I)), over the data unless x is given."""
    alpha_bar = np.prod(1 - schedule.beta)
    square = np.trace(COVARIANCE) + MEAN @ MEAN if x is None else x @ x
    return float(alpha_bar * square / 2 - alpha_bar - np.log1p(-alpha_bar))


def expected_bound(
    schedule: NoiseSchedule, x: np.ndarray | None = None, reverse_variance: str = "beta"
) -> float:
    """The bound, over the noise; over the data too unless x is given."""
    terms = expected_terms(schedule, x, reverse_variance)
    return -float(terms.sum()) - expected_prior_kl(schedule, x)


def negative_entropy() -> float:
    """E[log p(x)] of the data."""
    return -float(np.log(2 * np.pi) + 1 + 0.5 * np.linalg.slogdet(COVARIANCE)[1])


def last_kl(schedule: NoiseSchedule) -> float:
    """KL(q(x_T) || N(0, I)) of the noised data."""
    mean, covariance = noised_moments(schedule)[-1]
    log_det = np.linalg.slogdet(covariance)[1]
    return 0.5 * float(np.trace(covariance) + mean @ mean - 2 - log_det)


@functools.cache
def draws(num_draws: int = 4000, seed: int = 0) -> np.ndarray:
    """Examples, [num_draws, 2]."""
    noise = np.random.default_rng(seed).normal(size=(num_draws, 2))
    return MEAN + noise @ FACTOR.T
