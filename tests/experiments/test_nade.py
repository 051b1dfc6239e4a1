"""The experiment from end to end: its numbers, its pictures, and a run that was interrupted."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from matplotlib import image

from experiments import harness, nade
from experiments.nade import Settings
from tests import interruption
from tests.statistics import jit_once

SMALL: dict[str, Any] = {
    "num_epochs": 10,
    "hidden_dim": 16,
    "learning_rate": 3e-2,
    "ordering": "random",
    "checkpoint_seconds": 0.0,
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """The folder of a short run on the digits."""
    return nade.run(Settings(out=str(tmp_path_factory.mktemp("digits")), **SMALL))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_result_says_what_was_measured_and_how(digits: Path) -> None:
    result = read_json(digits / "result.json")
    assert (result["experiment"], result["model"]) == ("nade", "nade")
    assert (result["data"]["name"], result["data"]["protocol"]) == ("digits", "dynamic")
    assert set(result["metrics"]) == {
        f"{split}_log_likelihood" for split in ("train", "validation", "test")
    }
    for metric in result["metrics"].values():
        assert (metric["estimator"], metric["num_samples"]) == ("exact", None)
        assert (metric["bound"], metric["monte_carlo_error"]) == ("exact", 0)
        assert 0 < metric["standard_error"] < 0.5
    assert result["steps"] == 10 * 14
    assert result["command"] == (
        "python -m experiments.nade --hidden-dim 16 --ordering random --num-epochs 10"
        " --learning-rate 0.03"
    )


def test_the_number_is_that_of_the_loaded_model(digits: Path) -> None:
    """By the product of conditionals, dimension after dimension, in numpy."""
    _, params, settings = harness.load_run(digits)
    assert settings == Settings(out=str(digits), **SMALL)
    params = {name: np.float64(leaf) for name, leaf in params.items()}
    xs = harness.load("digits", likelihood="bernoulli").test.x.astype(np.float64)
    pre_activation = np.tile(params["hidden_bias"], (len(xs), 1))
    log_probs = np.zeros(len(xs))
    for d in np.random.default_rng(settings.seed).permutation(64):
        hidden = 1 / (1 + np.exp(-pre_activation))
        logits = params["output_bias"][d] + hidden @ params["output_weights"][d]
        log_probs -= np.logaddexp(0, np.where(xs[:, d] == 1, -logits, logits))
        pre_activation += xs[:, d, None] * params["input_weights"][d]
    metric = read_json(digits / "result.json")["metrics"]["test_log_likelihood"]
    assert metric["value"] == pytest.approx(log_probs.mean(), rel=1e-5)
    error = log_probs.std(ddof=1) / len(xs) ** 0.5
    assert metric["standard_error"] == pytest.approx(error, rel=1e-4)


def test_a_short_run_is_better_than_independent_pixels(digits: Path) -> None:
    data = harness.load("digits", likelihood="bernoulli")
    probability = np.clip(data.train.x.mean(axis=0) / 16, 1e-3, 1 - 1e-3)
    on = data.test.x.astype(bool)
    independent = np.where(on, np.log(probability), np.log1p(-probability)).sum(axis=1).mean()
    metric = read_json(digits / "result.json")["metrics"]["test_log_likelihood"]
    assert metric["value"] - 5 * metric["standard_error"] > independent


def test_the_folder_holds_the_pictures(digits: Path) -> None:
    for name in ("samples.png", "filters.png", "curves.png"):
        pixels = image.imread(digits / name)
        assert min(pixels.shape[:2]) >= 100 and pixels[..., :3].std() > 0.02, name


def test_a_resumed_run_ends_as_the_uninterrupted_one(digits: Path, tmp_path, monkeypatch) -> None:
    interruption.run_in_two_parts(nade.run, Settings(out=str(tmp_path), **SMALL), monkeypatch)
    interruption.assert_same_end(tmp_path, digits)


def test_the_weight_decay_shrinks_the_parameters_by_its_share() -> None:
    """The first step with it less the one without is -rate * decay * params."""
    xs = np.float32([[1, 0, 1], [0, 0, 1]])

    def after_one_step(decay: float) -> tuple[Any, Any]:
        settings = Settings(hidden_dim=2, learning_rate=0.1, weight_decay=decay)
        model = nade.build_model(settings, {"num_dims": 3})
        algorithm = nade.build_algorithm(settings, model, steps_per_epoch=5)

        def first_step(key: jax.Array) -> tuple[Any, Any]:
            init_key, step_key = jax.random.split(key)
            state = algorithm.init(init_key)
            return state.params, algorithm.step(state, step_key, xs)[0].params

        return jit_once(first_step)(jax.random.key(0))

    (start, plain), (_, decayed) = after_one_step(0.0), after_one_step(0.5)
    for before, without, with_decay in zip(
        *map(jax.tree.leaves, (start, plain, decayed)), strict=True
    ):
        np.testing.assert_allclose(with_decay - without, -0.1 * 0.5 * before, atol=1e-6)
    assert np.abs(start["input_weights"]).max() > 0.1


@pytest.mark.parametrize(
    "settings",
    [{"hidden_dim": 0}, {"num_epochs": 0}, {"learning_rate": -1.0}, {"weight_decay": -0.1}],
)
def test_settings_that_are_refused(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(ValueError, match=name):
        Settings(**settings)


def test_data_that_are_not_binary_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    np.save(tmp_path / "real.npy", np.random.default_rng(0).normal(size=(60, 4)))
    out = tmp_path / "run"
    for changed, message in [
        ({"data": str(tmp_path / "real.npy")}, "bernoulli"),
        ({"protocol": "grey"}, "protocol"),
        ({"batch_size": 100_000}, "batch_size"),
    ]:
        with pytest.raises(ValueError, match=message):
            nade.run(Settings(out=str(out), **SMALL | changed))
    assert not out.exists()
