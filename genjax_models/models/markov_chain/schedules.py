"""Noise schedules: the variances of the noising chain, and all that follows from them."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

_SCALE_OF_STEPS = 1000  # Ho et al. name their variances for this many steps.


class NoiseSchedule(NamedTuple):
    """The noising chain q(x_t | x_(t-1)) = N(sqrt(1 - beta_t) x_(t-1), beta_t I), t = 1..T.

    Every table is of float64, has T + 1 entries, and is indexed by t itself: entry 0 is that of the
    data, without noise. 1 - alpha_bar_t is kept beside alpha_bar_t, since in float32 the difference
    has no digits where there is little noise.

    Attributes:
        beta: variance of the noise that step t adds; beta_0 = 0.
        alpha_bar: prod_(s <= t) (1 - beta_s), the share of the data in the variance of x_t.
        noise_variance: 1 - alpha_bar_t, that of the noise.
    """

    beta: np.ndarray
    alpha_bar: np.ndarray
    noise_variance: np.ndarray

    @property
    def num_steps(self) -> int:
        """T, the number of noising steps."""
        return len(self.beta) - 1

    @property
    def signal(self) -> np.ndarray:
        """sqrt(alpha_bar_t): x_t = signal_t x_0 + noise_scale_t noise."""
        return np.sqrt(self.alpha_bar)

    @property
    def noise_scale(self) -> np.ndarray:
        """sqrt(1 - alpha_bar_t)."""
        return np.sqrt(self.noise_variance)

    @property
    def posterior_variance(self) -> np.ndarray:
        """beta~_t = beta_t (1 - alpha_bar_(t-1)) / (1 - alpha_bar_t), of q(x_(t-1) | x_t, x_0).

        beta~_1 = 0, since x_0 is given; entry 0 is 0 too.
        """
        return _with_zero(self.beta[1:] * self.noise_variance[:-1] / self.noise_variance[1:])


def from_variances(beta: Sequence[float] | np.ndarray) -> NoiseSchedule:
    """The schedule with any variances.

    Args:
        beta: beta_1, ..., beta_T, each in (0, 1).

    Returns:
        The schedule of T steps.

    Raises:
        ValueError: not one sequence of T >= 1 numbers, or one that is not in (0, 1).
    """
    variances = np.asarray(beta, np.float64)
    if variances.ndim != 1 or not variances.size:
        raise ValueError(f"beta must have shape [T] with T >= 1, got {variances.shape}")
    outside = ~((variances > 0) & (variances < 1))
    if outside.any():
        t = int(np.argmax(outside)) + 1
        raise ValueError(f"beta must be in (0, 1) at every step, got {variances[t - 1]} at t = {t}")
    log_alpha_bar = np.cumsum(np.log1p(-variances))
    return NoiseSchedule(
        _with_zero(variances),
        np.concatenate([[1.0], np.exp(log_alpha_bar)]),
        _with_zero(-np.expm1(log_alpha_bar)),
    )


def linear_schedule(
    num_steps: int, *, first: float = 1e-4, last: float = 0.02, rescale: bool = True
) -> NoiseSchedule:
    """Variances in equal steps from `first` to `last`.

        beta_t = c (first + (last - first) (t - 1) / (T - 1)),  c = 1000 / T if rescaled, else 1

    Rescaled, the noise at the end of the chain is the same whatever T: its default reaches
    alpha_bar_T = 4e-5. The last variance is 20 / T, so that it takes T >= 21.

    Args:
        num_steps: T.
        first: variance of the first step of 1000.
        last: variance of the last step of 1000.
        rescale: keep the total noise of 1000 steps; otherwise the variances are taken as they are.

    Returns:
        The schedule.

    Raises:
        ValueError: T < 1, or a variance that is not in (0, 1), before or after rescaling.

    Source: Ho et al. 2020 (Denoising diffusion probabilistic models), section 4, for T = 1000.
    """
    _check_num_steps(num_steps)
    factor = _SCALE_OF_STEPS / num_steps if rescale else 1.0
    for name, value in {"first": first, "last": last}.items():
        if not 0 < factor * value < 1:
            hint = ""
            if rescale and 0 < value < math.inf:
                hint = f": take num_steps >= {math.floor(_SCALE_OF_STEPS * value) + 1}"
            raise ValueError(
                f"{name} gives a variance of {factor * value:g} with num_steps = {num_steps},"
                f" where it must be in (0, 1){hint}"
            )
    return from_variances(factor * np.linspace(first, last, num_steps))


def cosine_schedule(
    num_steps: int, *, offset: float = 0.008, max_variance: float = 0.999
) -> NoiseSchedule:
    """Variances that make alpha_bar_t a squared cosine: noise comes late and evenly.

        f(t) = cos^2(pi/2 (t/T + offset) / (1 + offset)),
        beta_t = min(1 - f(t) / f(t - 1), max_variance)

    Args:
        num_steps: T.
        offset: keeps the first variances from vanishing.
        max_variance: limit of the last variances; without it beta_T would be 1.

    Returns:
        The schedule.

    Raises:
        ValueError: T < 1, a negative offset, or a limit that is not in (0, 1).

    Source: Nichol & Dhariwal 2021 (Improved denoising diffusion probabilistic models), section 3.2.
    """
    _check_num_steps(num_steps)
    if not 0 <= offset < math.inf:
        raise ValueError(f"offset must be a number >= 0, got {offset}")
    if not 0 < max_variance < 1:
        raise ValueError(f"max_variance must be in (0, 1), got {max_variance}")
    fractions = (np.arange(num_steps + 1) / num_steps + offset) / (1 + offset)
    share = np.square(np.cos(np.pi / 2 * fractions))
    return from_variances(np.minimum(1 - share[1:] / share[:-1], max_variance))


def log_snr_schedule(
    num_steps: int, *, first_noise: float = 0.01, last_signal: float = 0.0067
) -> NoiseSchedule:
    """Variances that make the log signal-to-noise ratio fall in equal steps.

        log(alpha_bar_t / (1 - alpha_bar_t)) is linear in t = 1..T,
        1 - alpha_bar_1 = first_noise^2,  alpha_bar_T = last_signal^2

    The noise of the first step does not depend on T. For grey levels it is best at about 0.4 of the
    distance of two levels, 2 / (L - 1): less of it hides nothing that the likelihood does not know.
    Every further step adds the same share of noise, which keeps the error of Gaussian steps small
    where x_0 is known well.

    Args:
        num_steps: T; with T = 1 there is the last ratio only.
        first_noise: standard deviation of the noise after the first step.
        last_signal: factor of the data after the last step.

    Returns:
        The schedule.

    Raises:
        ValueError: T < 1, numbers that are not in (0, 1), or a ratio that does not fall.

    Source: Kingma et al. 2021 (Variational diffusion models), section 4.1: their linear schedule,
    with fixed ends.
    """
    _check_num_steps(num_steps)
    for name, value in {"first_noise": first_noise, "last_signal": last_signal}.items():
        if not 0 < value < 1:
            raise ValueError(f"{name} must be in (0, 1), got {value}")
    # The ratio falls from (1 - n^2) / n^2 to s^2 / (1 - s^2).
    if first_noise**2 + last_signal**2 >= 1:
        raise ValueError(
            "first_noise^2 + last_signal^2 must be below 1, so that there is more noise in the last"
            f" step than in the first, got {first_noise} and {last_signal}"
        )
    first = math.log1p(-(first_noise**2)) - 2 * math.log(first_noise)
    last = 2 * math.log(last_signal) - math.log1p(-(last_signal**2))
    log_ratios = np.linspace(first, last, num_steps) if num_steps > 1 else np.array([last])
    log_shares = -np.logaddexp(0, -log_ratios)
    return from_variances(-np.expm1(np.diff(log_shares, prepend=0.0)))


def schedule_by_name(name: str, num_steps: int) -> NoiseSchedule:
    """The schedule "linear", "cosine" or "log_snr" with its defaults.

    Args:
        name: of the schedule.
        num_steps: T.

    Returns:
        The schedule.

    Raises:
        ValueError: an unknown name, or what the schedule itself refuses.
    """
    factories: dict[str, Callable[[int], NoiseSchedule]] = {
        "linear": linear_schedule,
        "cosine": cosine_schedule,
        "log_snr": log_snr_schedule,
    }
    if name not in factories:
        raise ValueError(f"schedule must be one of {list(factories)}, got {name!r}")
    return factories[name](num_steps)


def _check_num_steps(num_steps: int) -> None:
    if not hasattr(num_steps, "__index__") or num_steps < 1:
        raise ValueError(f"num_steps must be an integer >= 1, got {num_steps!r}")


def _with_zero(values: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], values])
