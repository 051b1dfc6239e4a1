"""The experiment from end to end: its number anew, its interruption, what it refuses."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_digits

from experiments import factor_analysis, harness
from experiments.factor_analysis import Settings
from tests.statistics import jit_once


class KilledError(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """The folder of a short run on the digits."""
    out = str(tmp_path_factory.mktemp("digits"))
    return factor_analysis.run(Settings(out=out, latent_dim=3, num_epochs=30))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A user's real values, 47 / 6 / 7 examples of which dimension 2 is constant in training."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 1)) @ rng.normal(size=(1, 5)) + 0.3 * rng.normal(size=(60, 5)) + 3
    x[:47, 2] = 0.7
    folder = tmp_path_factory.mktemp("data")
    splits = dict(zip(("train", "validation", "test"), np.split(x, [47, 53]), strict=True))
    np.savez(folder / "real.npz", **splits)
    return folder / "real.npz"


def records_of(folder: Path) -> list[dict[str, Any]]:
    """The records without what the clock says."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if "seconds" not in name}
        for line in lines
    ]


def test_the_result_is_the_log_density_of_the_pixels_that_vary(digits):
    result = json.loads((digits / "result.json").read_text())
    assert result["experiment"] == "factor_analysis"
    assert result["model"] == "factor analysis, 3 factors"
    assert result["data"]["name"] == "digits"
    assert result["data"]["protocol"] == "grey, 53 of 64 dimensions"
    assert result["steps"] == 30
    _, params, settings = harness.load_run(digits)
    assert settings == Settings(out=str(digits), latent_dim=3, num_epochs=30)
    # Selected by the training split, which is known by its size and its first image.
    dataset = harness.load("digits", likelihood="gaussian")
    selected = (dataset.train.x / 16).std(axis=0) > 0.02
    loading, variance = np.float64(params["loading"]), np.exp(np.float64(params["log_variance"]))
    gaussian = stats.multivariate_normal(params["mean"], loading @ loading.T + np.diag(variance))
    examples = {
        "train": dataset.train.x[:, selected] / 16,
        "validation": dataset.validation.x[:, selected],
        "test": dataset.test.x[:, selected],
    }
    assert set(result["metrics"]) == {f"{split}_log_likelihood" for split in examples}
    for split, xs in examples.items():
        metric = result["metrics"][f"{split}_log_likelihood"]
        log_probs = gaussian.logpdf(xs)
        assert metric["value"] == pytest.approx(log_probs.mean(), abs=1e-3)
        error = log_probs.std(ddof=1) / np.sqrt(len(xs))
        assert metric["standard_error"] == pytest.approx(error, rel=1e-4)
        assert (metric["estimator"], metric["bound"]) == ("exact", "exact")
    assert len(load_digits().data) == sum(map(len, examples.values()))


def test_the_likelihood_only_rises_and_the_pictures_are_there(digits):
    log_likelihoods = [record["log_likelihood"] for record in records_of(digits)]
    assert len(log_likelihoods) == 30
    assert np.diff(log_likelihoods).min() > -1e-4
    pictures = {path.name for path in digits.glob("*.png")}
    assert pictures == {"samples.png", "reconstructions.png", "factors.png", "curves.png"}


def test_constant_dimensions_are_left_out_by_the_training_split(data):
    dataset = harness.load(str(data), likelihood="gaussian")
    part, selected = factor_analysis.select_dimensions(dataset, 0.0)
    assert selected.tolist() == [True, True, False, True, True]
    assert part.protocol == "real, 4 of 5 dimensions"
    assert part.example_shape == (4,)
    for split in ("train", "validation", "test"):
        whole = getattr(dataset, split).x
        np.testing.assert_array_equal(getattr(part, split).x, whole[:, selected])
    # Of data that vary in every dimension nothing changes.
    again, selected = factor_analysis.select_dimensions(part, 0.0)
    assert selected.all()
    assert (again.protocol, again.example_shape) == (part.protocol, part.example_shape)


def test_a_resumed_run_ends_as_an_uninterrupted_one(data, tmp_path, monkeypatch):
    """Killed in its training, with a checkpoint of step 9 of 16."""
    common = {"data": str(data), "latent_dim": 1, "num_epochs": 8, "checkpoint_seconds": 0.0}
    common |= {"algorithm": "stochastic_em", "batch_size": 20}
    whole = factor_analysis.run(Settings(out=str(tmp_path / "whole"), **common))

    def killed(self: Any, state: Any) -> dict[str, float]:
        if state.step > 9:
            raise KilledError
        return {}

    out = str(tmp_path / "killed")
    with monkeypatch.context() as patch:
        patch.setattr(factor_analysis.Evaluator, "monitor", killed)
        with pytest.raises(KilledError):
            factor_analysis.run(Settings(out=out, **common))
    assert not (tmp_path / "killed" / "result.json").exists()
    resumed = factor_analysis.run(Settings(out=out, resume=True, **common))
    left, right = (harness.load_run(folder).params for folder in (whole, resumed))
    assert left["mean"].shape == (4,)
    jax.tree.map(np.testing.assert_array_equal, left, right)
    assert records_of(whole)[-1] == records_of(resumed)[-1]


def test_every_algorithm_ends_at_the_same_likelihood(data):
    """With batches of all examples, so that nothing is left to chance."""
    dataset = harness.load(str(data), likelihood="gaussian")
    part, _ = factor_analysis.select_dimensions(dataset, 0.02)
    batch, num_steps, ends = jnp.asarray(part.train.x), 800, []
    for changed in ({}, {"algorithm": "stochastic_em"}, {"algorithm": "gradient"}):
        settings = Settings(latent_dim=1, learning_rate=0.03, step_size=1.0, **changed)
        model = factor_analysis.build_model(settings, harness.data_shape(part))
        fit = factor_analysis.build_algorithm(settings, model, part.train.x, num_steps)

        def run(batch: Any, fit: Any = fit) -> Any:
            def step(state: Any, index: Any) -> Any:
                return fit.step(state, jax.random.fold_in(jax.random.key(1), index), batch)

            return jax.lax.scan(step, fit.init(jax.random.key(0)), jnp.arange(num_steps))[1]

        ends.append(jit_once(run)(batch)["log_likelihood"])
    starts = [float(end[0]) for end in ends]
    assert np.ptp(starts) < 1e-4
    assert np.ptp([float(end[-1]) for end in ends]) < 2e-3
    assert ends[0][-1] > starts[0] + 0.02


@pytest.fixture
def refused(tmp_path, monkeypatch) -> Callable[..., str]:
    """`refused(**settings)`: the message; an error if anything was written."""
    monkeypatch.chdir(tmp_path)

    def run(**settings: Any) -> str:
        with pytest.raises(ValueError) as error:
            factor_analysis.run(Settings(**settings))
        assert not list(tmp_path.iterdir())
        return str(error.value)

    return run


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 100}, "em takes the whole training set: use stochastic_em .* got 100"),
        ({"step_size": 0.0}, r"step_size must be in \(0, 1\], got 0.0"),
        ({"step_size": 1.5}, r"step_size must be in \(0, 1\], got 1.5"),
        ({"min_standard_deviation": -1.0}, "min_standard_deviation must not be negative, got -1"),
        ({"min_standard_deviation": 9.0}, "no dimension of digits has a standard deviation above"),
        ({"min_variance": 0.0}, "min_variance must be above zero, got 0.0"),
        ({"num_epochs": 0}, "num_epochs must be above zero, got 0"),
        ({"latent_dim": 0}, "latent_dim must be above zero, got 0"),
        ({"latent_dim": 54}, "latent_dim must be at most num_dims, 53, got 54"),
        ({"protocol": "dynamic"}, "protocol='dynamic' does not fit likelihood='gaussian'"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(refused, settings, message):
    assert re.search(message, refused(**settings))
