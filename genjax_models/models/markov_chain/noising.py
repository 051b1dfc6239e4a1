"""The noising chain of a diffusion model in closed form, and the three ways to predict its data.

Everything is of one example x_0 [num_dims], at one step t, an integer that may be traced. Steps
run from t = 1 (little noise) to t = T (next to nothing but noise); x_0 is the data.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from genjax_models.distributions import DiagonalGaussian
from genjax_models.distributions.numerics import at_least_float32
from genjax_models.interfaces import Array
from genjax_models.models.markov_chain.schedules import NoiseSchedule


def marginal(schedule: NoiseSchedule, x_0: Array, t: int | Array) -> DiagonalGaussian:
    """q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I).

    Args:
        schedule: of T steps.
        x_0: one example, [num_dims].
        t: 1..T.

    Returns:
        The distribution over x_t.

    Source: Ho et al. 2020, equation 4.
    """
    signal, log_scale = _at(t, schedule.signal, _log_scale(schedule.noise_variance))
    return DiagonalGaussian(signal * x_0, log_scale)


def transition(schedule: NoiseSchedule, x: Array, t: int | Array) -> DiagonalGaussian:
    """q(x_t | x_(t-1)) = N(sqrt(1 - beta_t) x_(t-1), beta_t I).

    Args:
        schedule: of T steps.
        x: x_(t-1), [num_dims].
        t: 1..T.

    Returns:
        The distribution over x_t.

    Source: Ho et al. 2020, equation 2.
    """
    decay, log_scale = _at(t, np.sqrt(1 - schedule.beta), _log_scale(schedule.beta))
    return DiagonalGaussian(decay * x, log_scale)


def posterior_mean(schedule: NoiseSchedule, x_t: Array, x_0: Array, t: int | Array) -> Array:
    """The mean of q(x_(t-1) | x_t, x_0), linear in both.

        sqrt(alpha_bar_(t-1)) beta_t / (1 - alpha_bar_t) x_0
        + sqrt(1 - beta_t) (1 - alpha_bar_(t-1)) / (1 - alpha_bar_t) x_t

    Source: Ho et al. 2020, equation 7.
    """
    noise_variance = schedule.noise_variance[1:]
    of_x_0 = schedule.signal[:-1] * schedule.beta[1:] / noise_variance
    of_x_t = np.sqrt(1 - schedule.beta[1:]) * schedule.noise_variance[:-1] / noise_variance
    weight_0, weight_t = _at(t, _from_step_one(of_x_0), _from_step_one(of_x_t))
    return weight_0 * x_0 + weight_t * x_t


def posterior(schedule: NoiseSchedule, x_t: Array, x_0: Array, t: int | Array) -> DiagonalGaussian:
    """q(x_(t-1) | x_t, x_0), a Gaussian of variance beta~_t I.

    Args:
        schedule: of T steps.
        x_t: the noised example, [num_dims].
        x_0: the example, [num_dims].
        t: 1..T; at t = 1 all mass is on x_0, and log scale is -inf.

    Returns:
        The distribution over x_(t-1).

    Source: Ho et al. 2020, equations 6 and 7.
    """
    (log_scale,) = _at(t, _log_scale(schedule.posterior_variance))
    return DiagonalGaussian(posterior_mean(schedule, x_t, x_0, t), log_scale)


class Prediction(NamedTuple):
    """What is known, or predicted, of the data and the noise in x_t; each field gives the others.

        x_t = a x_0 + s noise,  v = a noise - s x_0,  a = sqrt(alpha_bar_t), s = sqrt(1 - a^2)

    (x_t, v) is (x_0, noise) turned by an angle: x_0 = a x_t - s v, noise = s x_t + a v. A network
    that predicts noise is badly conditioned where there is nothing else (a division by a), one
    that predicts x_0 where there is next to none of it (a division by s); v is neither.

    Attributes:
        x_0: the data, [num_dims].
        noise: standard normal, [num_dims].
        v: the "velocity", [num_dims].

    Source: Ho et al. 2020, section 3.2 (noise); Salimans & Ho 2022 (Progressive distillation),
    section 4 and appendix D (x_0 and v).
    """

    x_0: Array
    noise: Array
    v: Array


def from_x_0(schedule: NoiseSchedule, x_t: Array, x_0: Array, t: int | Array) -> Prediction:
    """The prediction with this x_0; t = 1..T.

    Args:
        schedule: of T steps.
        x_t: the noised example, [num_dims].
        x_0: the data, [num_dims].
        t: 1..T.

    Returns:
        The prediction.
    """
    signal, scale = _at(t, schedule.signal, schedule.noise_scale)
    noise = (x_t - signal * x_0) / scale
    return Prediction(x_0, noise, signal * noise - scale * x_0)


def from_noise(schedule: NoiseSchedule, x_t: Array, noise: Array, t: int | Array) -> Prediction:
    """The prediction with this noise; t = 1..T.

    Args:
        schedule: of T steps.
        x_t: the noised example, [num_dims].
        noise: the noise in x_t, [num_dims].
        t: 1..T.

    Returns:
        The prediction.
    """
    signal, scale = _at(t, schedule.signal, schedule.noise_scale)
    x_0 = (x_t - scale * noise) / signal
    return Prediction(x_0, noise, signal * noise - scale * x_0)


def from_v(schedule: NoiseSchedule, x_t: Array, v: Array, t: int | Array) -> Prediction:
    """The prediction with this v; t = 1..T.

    Args:
        schedule: of T steps.
        x_t: the noised example, [num_dims].
        v: the velocity, [num_dims].
        t: 1..T.

    Returns:
        The prediction.
    """
    signal, scale = _at(t, schedule.signal, schedule.noise_scale)
    return Prediction(signal * x_t - scale * v, scale * x_t + signal * v, v)


PREDICTIONS: dict[str, Callable[[NoiseSchedule, Array, Array, int | Array], Prediction]] = {
    "noise": from_noise,
    "x_0": from_x_0,
    "v": from_v,
}
"""What a network may predict: the field of a `Prediction`, and how it gives the others."""


def _at(t: int | Array, *tables: np.ndarray) -> tuple[Array, ...]:
    """The entries at t, in the default floating-point type."""
    return tuple(at_least_float32(jnp.asarray(table, float))[t] for table in tables)


def _log_scale(variance: np.ndarray) -> np.ndarray:
    """Logarithms of standard deviations; -inf where there is no noise."""
    with np.errstate(divide="ignore"):
        return 0.5 * np.log(variance)


def _from_step_one(values: np.ndarray) -> np.ndarray:
    """A table of t = 1..T as one of t = 0..T; entry 0 is never used."""
    return np.concatenate([[np.nan], values])
