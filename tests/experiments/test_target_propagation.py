"""The experiment from end to end: accuracy, angles to the gradient, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from matplotlib import image

from experiments import harness, target_propagation
from experiments.harness.mesh import make_mesh
from experiments.target_propagation import Settings
from genjax_models.learning import difference_target_propagation
from genjax_models.training.gradient import TrainingState
from tests.statistics import jit_once

SMALL: dict[str, Any] = {"num_epochs": 15, "hidden": (20, 18, 16), "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """The folder of a short run on the digits."""
    return target_propagation.run(Settings(out=str(tmp_path_factory.mktemp("digits")), **SMALL))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def logits_of(params: Any, x: np.ndarray) -> np.ndarray:
    for index, layer in enumerate(params["layers"]):
        dense = layer["params"]["Dense_0"]
        x = x @ np.float64(dense["kernel"]) + np.float64(dense["bias"])
        x = np.tanh(x) if index < 3 else x
    return x


def test_the_accuracy_is_that_of_the_loaded_model(digits: Path) -> None:
    test = harness.load("digits", likelihood="none").test
    logits = logits_of(harness.load_run(digits).params, test.x.astype(np.float64))
    assert test.labels is not None
    correct = logits.argmax(axis=1) == test.labels
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    losses = -log_probs[np.arange(len(logits)), test.labels]
    metrics = read_json(digits / "result.json")["metrics"]
    assert metrics["test_accuracy"]["value"] == pytest.approx(correct.mean(), abs=1e-6)
    assert metrics["test_cross_entropy"]["value"] == pytest.approx(losses.mean(), rel=1e-4)
    assert (metrics["test_accuracy"]["unit"], metrics["test_cross_entropy"]["unit"]) == (
        "share",
        "nats",
    )
    # A tenth is chance.
    assert metrics["test_accuracy"]["value"] > 0.8


def test_the_result_says_what_was_learned_and_how(digits: Path) -> None:
    result = read_json(digits / "result.json")
    assert result["model"] == "classifier, difference target"
    assert result["data"]["protocol"] == "grey, with labels"
    assert result["command"] == (
        "python -m experiments.target_propagation --hidden 20 18 16 --num-epochs 15"
        " --learning-rate 0.01"
    )


def test_the_folder_holds_the_pictures(digits: Path) -> None:
    for name in ("curves.png", "angles.png"):
        pixels = image.imread(digits / name)
        assert min(pixels.shape[:2]) >= 100 and pixels[..., :3].std() > 0.02, name


def test_the_angles_are_those_of_the_mean_gradients(digits: Path) -> None:
    """The layer below the last follows the gradient; the others come closer than at random."""
    model, params, settings = harness.load_run(digits)
    dataset = target_propagation.with_labels(harness.load("digits", likelihood="none"), 10)
    key = jax.random.key(1)
    evaluator = target_propagation.Evaluator(settings, model, dataset, make_mesh(), key)
    state = TrainingState(jnp.zeros((), jnp.int32), params, ())
    found = evaluator.monitor(state)
    x = jnp.asarray(dataset.validation.x)

    def loss(outputs, x):
        return -jnp.sum(x[-10:] * jax.nn.log_softmax(outputs))

    ours = difference_target_propagation(model, loss, inputs=lambda x: x[:-10])

    @jit_once
    def gradients(params, key):
        keys = jax.random.split(key, len(x))

        def mean(f):
            return jax.grad(lambda p: jnp.mean(jax.vmap(f, (None, 0, 0))(p, keys, x)))

        first = mean(lambda p, key, x: ours(p, key, x)[0])(params)
        second = mean(lambda p, key, x: loss(model.apply(p, x[:-10]), x))(params)
        return first["layers"], second["layers"]

    for index, pair in enumerate(list(zip(*gradients(params, key), strict=True))[:3]):
        a, b = (np.float64(ravel_pytree(layer)[0]) for layer in pair)
        angle = np.rad2deg(np.arccos(min(a @ b / np.linalg.norm(a) / np.linalg.norm(b), 1.0)))
        assert found[f"angle_{index + 1}"] == pytest.approx(angle, abs=0.2)
    assert found["angle_3"] < 0.2 and found["angle_1"] < 85 and found["angle_2"] < 85


@pytest.mark.parametrize("method", ["difference_target", "target", "backpropagation"])
def test_the_value_of_every_method_is_the_cross_entropy(method: Any) -> None:
    settings = Settings(method=method, hidden=(5, 4, 3), num_classes=2)
    model = target_propagation.build_model(settings, {"num_dims": 6})
    objective = target_propagation.build_objective(settings, model)
    x = jnp.array([0.1, 0.5, 0.3, 0.9, 0.0, 1.0])

    @jit_once
    def run(key):
        init_key, key = jax.random.split(key)
        params = model.init(init_key)
        return params, objective(params, key, x)[0]

    params, value = run(jax.random.key(0))
    logits = logits_of(params, np.float64(x[:4]))
    assert value == pytest.approx(np.log(np.exp(logits).sum()) - logits[1], rel=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden": ()}, "hidden must be units of at least one layer"),
        ({"num_classes": 1}, "num_classes must be at least 2"),
        ({"num_classes": 9}, r"labels must be 0..num_classes - 1 = 8, got 0..9"),
        ({"step_size": 0.0}, "step_size must be finite and above zero"),
        ({"noise_scale": -1.0}, "noise_scale must be finite and not negative"),
        ({"learning_rate": 0.0}, "learning_rate must be above zero"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(tmp_path, changed, message) -> None:
    with pytest.raises(ValueError, match=message):
        target_propagation.run(Settings(out=str(tmp_path / "run"), **changed))
    assert not (tmp_path / "run").exists()


def test_examples_without_labels_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "plain.npy", np.random.default_rng(0).normal(size=(200, 4)))
    with pytest.raises(ValueError, match=r"a classifier needs labels, and plain.npy has none"):
        target_propagation.run(
            Settings(data=str(tmp_path / "plain.npy"), out=str(tmp_path / "run"))
        )
    assert not (tmp_path / "run").exists()
