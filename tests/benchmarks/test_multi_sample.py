"""The contenders estimate one bound and train; the laboratory's ratios are right where known."""

import jax
import numpy as np
import pytest

from benchmarks import multi_sample
from benchmarks.contenders import Sizes
from benchmarks.laboratory import signal_to_noise

SIZES = Sizes(num_dims=6, num_hidden=4, latent_dim=2, batch_size=8)


def test_contenders_have_one_bound_and_train() -> None:
    names = ("pathwise", "dreg", "nvil")
    assert set(names) < set(multi_sample.ESTIMATORS)
    competing = multi_sample.contenders(4, SIZES, names=names, chunk_size=2)
    assert [c.name for c in competing] == [*names, "dreg, chunks of 2"]
    draws = {c.name: c.losses(200) for c in competing}
    np.testing.assert_allclose(draws["dreg"], draws["pathwise"], rtol=1e-5)
    np.testing.assert_allclose(draws["dreg, chunks of 2"], draws["pathwise"], rtol=1e-5)
    error = np.sqrt(2 * draws["pathwise"].var() / 200)
    assert abs(draws["nvil"].mean() - draws["pathwise"].mean()) < 5 * error
    for contender in competing:
        contender.run(2)


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 6"):
        multi_sample.report(multi_sample.Settings(rounds=5))


def test_signal_to_noise_of_one_sample_is_the_closed_form() -> None:
    """K = 1 is the ELBO: d log w / dz = x + mu - 2 z, and with the score's path (z - m) / s^2."""
    found = signal_to_noise.measure(jax.random.key(0), num_samples=(1,), num_replicates=20_000)
    params, x = signal_to_noise.example()
    mean = params["A"] * x + params["b"]
    signal = np.linalg.norm(x + params["prior"] - 2 * mean)
    variance = float(np.exp(2 * params["log_scale"]))
    factors = {"pathwise": -2.0, "dreg": -2 + 1 / variance}
    for row in found.rows:
        exact = signal / np.sqrt(len(x) * variance * factors[row["estimator"]] ** 2)
        assert row["standard error"] < 0.02 * exact
        assert abs(row["signal to noise"] - exact) < 5 * row["standard error"]
    assert not found.slopes


def test_slopes_have_the_signs_of_the_theory() -> None:
    found = signal_to_noise.measure(jax.random.key(0), num_samples=(16, 64), num_replicates=4000)
    slopes = {row["estimator"]: (row["slope"], row["standard error"]) for row in found.slopes}
    for name, theory in (("pathwise", -0.5), ("dreg", 0.5)):
        slope, error = slopes[name]
        assert error < 0.05
        assert abs(slope - theory) < 5 * error + 0.05


def test_the_model_is_off_its_exact_posterior() -> None:
    """With the exact one there is no signal; here the bound is a few tenths below log p(x)."""
    params, x = signal_to_noise.example()
    variance = float(np.exp(2 * params["log_scale"]))
    off = params["A"] * x + params["b"] - 0.5 * (x + params["prior"])
    kl = 0.5 * np.sum(off**2 / 0.5 + variance / 0.5 - 1 - np.log(variance / 0.5))
    assert 0.05 < kl < 0.5
