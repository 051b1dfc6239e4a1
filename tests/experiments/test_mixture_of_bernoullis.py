"""The experiment from end to end: its number anew, its interruption, what it refuses."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from scipy.special import logsumexp

from experiments import harness, mixture_of_bernoullis
from experiments.mixture_of_bernoullis import Settings
from tests.statistics import jit_once


class KilledError(Exception):
    """Stands for a kill."""


STATIC = {
    "protocol": "static",
    "algorithm": "em",
    "num_components": 12,
    "num_epochs": 15,
    "checkpoint_seconds": 0.0,
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """The folder of a short run of EM on digits that were binarised once."""
    out = str(tmp_path_factory.mktemp("digits"))
    return mixture_of_bernoullis.run(Settings(out=out, **STATIC))


def records_of(folder: Path) -> list[dict[str, Any]]:
    """The records without what the clock says."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if "seconds" not in name}
        for line in lines
    ]


def test_the_result_is_the_log_likelihood_of_the_loaded_model(digits):
    result = json.loads((digits / "result.json").read_text())
    assert result["experiment"] == "mixture_of_bernoullis"
    assert result["model"] == "mixture of Bernoullis, 12 components"
    assert (result["data"]["name"], result["data"]["protocol"]) == ("digits", "static")
    assert result["steps"] == 15
    _, params, settings = harness.load_run(digits)
    assert settings == Settings(out=str(digits), **STATIC)
    weights = np.float64(params["logits"]) - logsumexp(np.float64(params["logits"]))
    on = 1 / (1 + np.exp(-np.float64(params["component_logits"])))
    dataset = harness.load("digits", likelihood="bernoulli", protocol="static")
    for split in ("train", "validation", "test"):
        xs = getattr(dataset, split).x
        log_likelihoods = xs @ np.log(on).T + (1 - xs) @ np.log1p(-on).T
        log_probs = logsumexp(log_likelihoods + weights, axis=1)
        metric = result["metrics"][f"{split}_log_likelihood"]
        assert metric["value"] == pytest.approx(log_probs.mean(), abs=1e-3)
        error = log_probs.std(ddof=1) / np.sqrt(len(xs))
        assert metric["standard_error"] == pytest.approx(error, rel=1e-4)
        assert (metric["estimator"], metric["bound"]) == ("exact", "exact")
    # Better than one component: independent pixels.
    mean = np.clip(dataset.train.x.mean(axis=0), 1e-3, 1 - 1e-3)
    independent = np.where(dataset.test.x == 1, np.log(mean), np.log1p(-mean)).sum(axis=1).mean()
    assert result["metrics"]["test_log_likelihood"]["value"] > independent + 3


def test_the_likelihood_rises_and_the_pictures_are_there(digits):
    """The prior's share of what EM maximises is small."""
    log_likelihoods = [record["log_likelihood"] for record in records_of(digits)]
    assert len(log_likelihoods) == 15
    assert np.diff(log_likelihoods).min() > 0
    pictures = {path.name for path in digits.glob("*.png")}
    assert pictures == {"samples.png", "components.png", "curves.png"}


def test_a_resumed_run_ends_as_an_uninterrupted_one(digits, tmp_path, monkeypatch):
    """Killed in its training, when it had a checkpoint of step 9 of 15."""

    def killed(self: Any, state: Any) -> dict[str, float]:
        if state.step > 9:
            raise KilledError
        return {}

    out = str(tmp_path / "killed")
    with monkeypatch.context() as patch:
        patch.setattr(mixture_of_bernoullis.Evaluator, "monitor", killed)
        with pytest.raises(KilledError):
            mixture_of_bernoullis.run(Settings(out=out, **STATIC))
    assert not (tmp_path / "killed" / "result.json").exists()
    resumed = mixture_of_bernoullis.run(Settings(out=out, resume=True, **STATIC))
    left, right = (harness.load_run(folder).params for folder in (digits, resumed))
    jax.tree.map(np.testing.assert_array_equal, left, right)
    assert records_of(digits)[-1] == records_of(resumed)[-1]


@pytest.mark.parametrize("batch_size", [None, 20])
def test_stochastic_em_averages_binarisations_drawn_anew(batch_size):
    """On dynamic data the average of many small steps is nearer the data than the last batch."""
    dataset = harness.load("digits", likelihood="bernoulli")
    settings = Settings(num_components=1, batch_size=batch_size)
    algorithm = mixture_of_bernoullis.build_algorithm(settings, dataset, 200)
    raw = dataset.train.x

    def step(state: Any, key: Any) -> Any:
        choice_key, prepare_key, step_key = jax.random.split(key, 3)
        rows = jax.random.choice(choice_key, len(raw), (batch_size or len(raw),), replace=False)
        keys = jax.random.split(prepare_key, len(rows))
        batch = jax.vmap(dataset.prepare)(keys, jax.numpy.asarray(raw)[rows])
        return algorithm.step(state, step_key, batch)

    def run(key: Any) -> Any:
        init_key, steps_key = jax.random.split(key)
        state = algorithm.init(init_key)
        return jax.lax.scan(step, state, jax.random.split(steps_key, 200))[0]

    params = jit_once(run)(jax.random.key(0)).params
    # With one component the optimum is known: the mean grey level, drawn to 1/2 by the prior.
    n = settings.pseudo_count / len(raw)
    expected = (raw.mean(axis=0) / 16 + n) / (1 + 2 * n)
    error = np.abs(jax.nn.sigmoid(params["component_logits"][0]) - expected)
    # A last batch alone would be off by 0.5 / sqrt(20) or 0.5 / sqrt(1437) at worst.
    assert error.max() < (0.06 if batch_size else 0.006)


@pytest.fixture
def refused(tmp_path, monkeypatch) -> Callable[..., str]:
    """`refused(**settings)`: the message; an error if anything was written."""
    grey = np.arange(200).reshape(40, 5).astype(np.uint8)
    np.save(tmp_path / "grey.npy", grey)
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")

    def run(**settings: Any) -> str:
        with pytest.raises(ValueError) as error:
            mixture_of_bernoullis.run(Settings(**settings))
        assert not list((tmp_path / "run").iterdir())
        return str(error.value)

    return run


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "../grey.npy"}, "a Bernoulli is not a likelihood of the grey levels of grey.npy"),
        ({"algorithm": "em", "batch_size": 9}, "em takes the whole training set: .* got 9"),
        ({"num_components": 0}, "num_components must be above zero, got 0"),
        ({"num_components": 1438}, "at most the number of training examples, 1437, got 1438"),
        ({"num_epochs": 0}, "num_epochs must be above zero, got 0"),
        ({"pseudo_count": -0.1}, "pseudo_count must not be negative, got -0.1"),
        ({"pseudo_count": float("nan")}, "pseudo_count must not be negative, got nan"),
        ({"step_size": 2.0}, r"step_size must be in \(0, 1\], got 2.0"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(refused, settings, message):
    assert re.search(message, refused(**settings))
