"""Noise schedules: their tables by hand, what they reach, and what they refuse."""

import re
from fractions import Fraction

import numpy as np
import pytest

from genjax_models.models.markov_chain import (
    cosine_schedule,
    from_variances,
    linear_schedule,
    log_snr_schedule,
    schedule_by_name,
)


def test_the_tables_are_products_of_exact_fractions() -> None:
    betas = [Fraction(1, 10), Fraction(1, 4), Fraction(1, 3)]
    schedule = from_variances([float(beta) for beta in betas])
    shares = [Fraction(1), Fraction(9, 10), Fraction(27, 40), Fraction(9, 20)]
    assert schedule.num_steps == 3
    np.testing.assert_allclose(schedule.beta, [0, *map(float, betas)], rtol=1e-15)
    np.testing.assert_allclose(schedule.alpha_bar, [float(share) for share in shares], rtol=1e-14)
    noise = [float(1 - share) for share in shares]
    np.testing.assert_allclose(schedule.noise_variance, noise, rtol=1e-14)
    np.testing.assert_allclose(schedule.signal**2, schedule.alpha_bar, rtol=1e-14)
    np.testing.assert_allclose(schedule.noise_scale**2, noise, rtol=1e-14)
    posterior = [0, 0, Fraction(1, 4) * Fraction(1, 10) / Fraction(13, 40)]
    posterior.append(Fraction(1, 3) * Fraction(13, 40) / Fraction(11, 20))
    np.testing.assert_allclose(schedule.posterior_variance, [*map(float, posterior)], rtol=1e-14)


def test_little_noise_keeps_its_digits() -> None:
    """1 - alpha_bar is beta to first order, where a difference would have lost all digits."""
    schedule = from_variances(np.full(3, 1e-13))
    np.testing.assert_allclose(schedule.noise_variance, [0, 1e-13, 2e-13, 3e-13], rtol=1e-10)


def test_linear_is_that_of_ho_for_a_thousand_steps() -> None:
    schedule = linear_schedule(1000)
    np.testing.assert_allclose(schedule.beta[[1, 1000]], [1e-4, 0.02], rtol=1e-12)
    np.testing.assert_allclose(np.diff(schedule.beta[1:]), 0.0199 / 999, rtol=1e-9)
    np.testing.assert_array_equal(linear_schedule(1000, rescale=False), schedule)
    np.testing.assert_allclose(schedule.alpha_bar[-1], 4.0358e-5, rtol=1e-4)


@pytest.mark.parametrize("num_steps", [50, 200, 4000])
def test_linear_ends_in_the_same_noise_whatever_the_number_of_steps(num_steps: int) -> None:
    """log alpha_bar_T tends to -10.05, the integral of the variances."""
    schedule = linear_schedule(num_steps)
    np.testing.assert_allclose(schedule.beta[[1, -1]] * num_steps, [0.1, 20], rtol=1e-12)
    limit = -(0.1 + 20) / 2
    assert limit * (1 + 10 / num_steps) < np.log(schedule.alpha_bar[-1]) < limit


def test_cosine_is_a_squared_cosine_until_its_limit() -> None:
    schedule = cosine_schedule(40)
    angles = np.pi / 2 * (np.arange(41) / 40 + 0.008) / 1.008
    exact = np.cos(angles) ** 2 / np.cos(angles[0]) ** 2
    np.testing.assert_allclose(schedule.alpha_bar[:-1], exact[:-1], rtol=1e-12)
    assert schedule.beta[-1] == 0.999
    assert (np.diff(schedule.beta) > 0).all()


@pytest.mark.parametrize("num_steps", [2, 5, 300])
def test_log_snr_falls_in_equal_steps_between_its_ends(num_steps: int) -> None:
    schedule = log_snr_schedule(num_steps, first_noise=0.05, last_signal=0.1)
    assert schedule.beta[1] == pytest.approx(0.0025, rel=1e-12)
    assert schedule.alpha_bar[-1] == pytest.approx(0.01, rel=1e-10)
    log_ratios = np.log(schedule.alpha_bar[1:] / schedule.noise_variance[1:])
    exact = np.linspace(np.log(0.9975 / 0.0025), np.log(0.01 / 0.99), num_steps)
    np.testing.assert_allclose(log_ratios, exact, rtol=1e-9)
    assert log_snr_schedule(1).alpha_bar[-1] == pytest.approx(0.0067**2)


@pytest.mark.parametrize("make", [linear_schedule, cosine_schedule, log_snr_schedule])
@pytest.mark.parametrize("num_steps", [21, 100, 1000])
def test_variances_and_their_parts_are_in_order(make, num_steps: int) -> None:
    schedule = make(num_steps)
    assert len(schedule.beta) == num_steps + 1
    assert ((schedule.beta[1:] > 0) & (schedule.beta[1:] < 1)).all()
    assert (np.diff(schedule.alpha_bar) < 0).all()
    assert (np.diff(schedule.noise_variance) > 0).all()
    # beta~_t < beta_t, and their ratio is near t / (t - 1) only in the first steps.
    assert (schedule.posterior_variance[1:] < schedule.beta[1:]).all()


def test_one_step_is_enough_for_a_schedule() -> None:
    assert cosine_schedule(1).beta[1] == 0.999
    assert linear_schedule(1, first=0.5, rescale=False).num_steps == 1


@pytest.mark.parametrize("num_steps", [1, 2, 20])
def test_rescaled_linear_is_refused_where_a_variance_would_reach_one(num_steps: int) -> None:
    with pytest.raises(ValueError, match=r"last gives a variance of .*take num_steps >= 21"):
        linear_schedule(num_steps)
    assert linear_schedule(21).beta[-1] < 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: linear_schedule(0), "num_steps must be an integer >= 1, got 0"),
        (lambda: cosine_schedule(-3), "num_steps must be an integer >= 1, got -3"),
        (lambda: cosine_schedule(2.5), "num_steps must be an integer >= 1, got 2.5"),
        (lambda: linear_schedule(1000, first=0.0), "first gives a variance of 0"),
        (lambda: linear_schedule(1000, last=-0.1), "last gives a variance of -0.1"),
        (lambda: linear_schedule(10, last=1.0, rescale=False), r"last .* of 1 with num_steps = 10"),
        (lambda: linear_schedule(10, first=float("nan")), "first gives a variance of nan"),
        (lambda: cosine_schedule(10, offset=-0.1), "offset must be a number >= 0, got -0.1"),
        (lambda: cosine_schedule(10, max_variance=1.0), r"max_variance must be in \(0, 1\), got 1"),
        (lambda: log_snr_schedule(0), "num_steps must be an integer >= 1, got 0"),
        (lambda: log_snr_schedule(9, first_noise=0.0), r"first_noise must be in \(0, 1\), got 0.0"),
        (lambda: log_snr_schedule(9, last_signal=1.5), r"last_signal must be in \(0, 1\), got 1.5"),
        (
            lambda: log_snr_schedule(9, first_noise=0.8, last_signal=0.7),
            r"first_noise\^2 \+ last_signal\^2 must be below 1",
        ),
        (lambda: from_variances([]), r"beta must have shape \[T\] with T >= 1, got \(0,\)"),
        (lambda: from_variances([[0.1]]), r"beta must have shape .* got \(1, 1\)"),
        (lambda: from_variances([0.1, 1.0]), r"in \(0, 1\) at every step, got 1.0 at t = 2"),
        (lambda: from_variances([0.0, 0.1]), r"in \(0, 1\) at every step, got 0.0 at t = 1"),
        (lambda: from_variances([0.1, np.nan]), r"in \(0, 1\) at every step, got nan at t = 2"),
        (lambda: schedule_by_name("sigmoid", 10), r"one of \['linear', 'cosine', 'log_snr'\], got"),
    ],
)
def test_bad_variances_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert re.search(message, str(error.value))


def test_schedules_by_name() -> None:
    np.testing.assert_array_equal(schedule_by_name("linear", 30), linear_schedule(30))
    np.testing.assert_array_equal(schedule_by_name("cosine", 30), cosine_schedule(30))
    np.testing.assert_array_equal(schedule_by_name("log_snr", 30), log_snr_schedule(30))
