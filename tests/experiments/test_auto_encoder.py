"""The experiment from end to end: its numbers, its pictures, and what the settings build."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import image

from experiments import auto_encoder, harness
from experiments.auto_encoder import Settings
from genjax_models.learning.reconstruction import masking

SMALL: dict[str, Any] = {"num_epochs": 60, "hidden": (24,), "code_dim": 2, "learning_rate": 2e-2}
DATA = {"num_dims": 64, "example_shape": (8, 8), "num_levels": 17}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """The folder of a short run on the digits."""
    out = str(tmp_path_factory.mktemp("digits"))
    return auto_encoder.run(Settings(out=out, kind="denoising", **SMALL))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def reconstructed(folder: Path, xs: np.ndarray) -> np.ndarray:
    """By matrices in numpy."""
    params = jax.tree.map(np.float64, harness.load_run(folder).params)
    chain = [params["encoder"]["params"], params["decoder"]["network"]["params"]]
    for layers in chain:
        for index in range(2):
            layer = layers[f"Dense_{index}"]
            xs = xs @ layer["kernel"] + layer["bias"]
            xs = np.tanh(xs) if index == 0 else xs
    return xs


def principal(xs: np.ndarray) -> np.ndarray:
    """The projection on two principal components of the training examples."""
    train = harness.load("digits", likelihood="gaussian").train.x / 16
    mean = train.mean(axis=0)
    directions = np.linalg.svd(train - mean, full_matrices=False)[2][:2]
    return mean + (xs - mean) @ directions.T @ directions


def test_the_numbers_are_those_of_the_loaded_model_and_of_the_svd(digits: Path) -> None:
    metrics = read_json(digits / "result.json")["metrics"]
    data = harness.load("digits", likelihood="gaussian")
    test = data.test.x.astype(np.float64)
    keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 2), 1), 180)
    corrupted = jax.vmap(masking(0.25))(keys[: len(test)], jnp.asarray(data.test.x))
    corrupted = np.asarray(corrupted, np.float64)
    expected = {
        "train_squared_error": (data.train.x / 16, data.train.x / 16, reconstructed),
        "test_squared_error": (test, test, reconstructed),
        "test_pca_squared_error": (test, test, principal),
        "test_denoising_error": (test, corrupted, reconstructed),
        "test_pca_denoising_error": (test, corrupted, principal),
    }
    for name, (target, seen, function) in expected.items():
        guess = function(digits, seen) if function is reconstructed else function(seen)
        errors = np.square(target - guess).sum(axis=1)
        assert metrics[name]["value"] == pytest.approx(errors.mean(), rel=1e-4), name
        error = errors.std(ddof=1) / len(errors) ** 0.5
        assert metrics[name]["standard_error"] == pytest.approx(error, rel=1e-3), name


def test_the_result_says_what_was_measured_and_how(digits: Path) -> None:
    result = read_json(digits / "result.json")
    assert result["model"] == "denoising auto-encoder, mlp"
    assert (result["data"]["name"], result["data"]["protocol"]) == ("digits", "grey")
    assert len(result["metrics"]) == 8
    for name, metric in result["metrics"].items():
        assert (metric["unit"], metric["bound"]) == ("squared distance", "exact")
        assert (metric["estimator"] == "2 principal components") == ("pca" in name)
    assert result["command"] == (
        "python -m experiments.auto_encoder --kind denoising --code-dim 2 --hidden 24"
        " --num-epochs 60 --learning-rate 0.02"
    )


def test_a_short_run_is_better_than_principal_components(digits: Path) -> None:
    metrics = read_json(digits / "result.json")["metrics"]
    for name in ("squared_error", "denoising_error"):
        ours, theirs = metrics[f"test_{name}"], metrics[f"test_pca_{name}"]
        assert ours["value"] + 2 * ours["standard_error"] < theirs["value"]


def test_the_folder_holds_the_pictures(digits: Path) -> None:
    names = ("reconstructions", "denoised", "filters", "curves", "embedding")
    for name in names:
        pixels = image.imread(digits / f"{name}.png")
        assert min(pixels.shape[:2]) >= 100 and pixels[..., :3].std() > 0.02, name


@pytest.mark.parametrize("network", ["mlp", "convolutional", "recurrent", "attention"])
@pytest.mark.parametrize("likelihood", ["gaussian", "discretized_logistic"])
def test_every_network_goes_with_every_likelihood(network: Any, likelihood: Any) -> None:
    settings = Settings(network=network, likelihood=likelihood, code_dim=3)
    model = auto_encoder.build_model(settings, DATA)

    def run(key):
        params = model.init(key)
        code = model.encode(params, jnp.zeros(64))
        return code, model.decode(params, code).mean()

    code, mean = jax.eval_shape(run, jax.random.key(0))
    assert (code.shape, mean.shape) == ((3,), (64,))


@pytest.mark.parametrize(
    ("changed", "metrics"),
    [
        ({}, {"squared_error"}),
        ({"linear": True}, {"squared_error"}),
        ({"kind": "denoising", "corruption": "salt_and_pepper"}, {"squared_error"}),
        ({"kind": "sparse"}, {"squared_error", "penalty", "activation"}),
        ({"kind": "sparse", "penalty": "l1"}, {"squared_error", "penalty", "activation"}),
        ({"kind": "contractive", "tied": True}, {"squared_error", "penalty"}),
    ],
)
def test_every_kind_takes_a_step(changed: dict[str, Any], metrics: set[str]) -> None:
    settings = Settings(**{"code_dim": 3, "hidden": (4,)} | changed)
    model = auto_encoder.build_model(settings, DATA)
    algorithm = auto_encoder.build_algorithm(settings, model, 10)

    def first_step(key):
        init_key, key, code_key = jax.random.split(key, 3)
        state = algorithm.init(init_key)
        code = model.encode(state.params, 10 * jax.random.normal(code_key, (64,)))
        return algorithm.step(state, key, jnp.zeros((5, 64)))[1], code

    found, code = jax.eval_shape(first_step, jax.random.key(0))
    assert set(found) == metrics | {"loss"} and code.shape == (3,)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"code_dim": 0}, "code_dim must be at least 1, got 0"),
        ({"hidden": (3, 0)}, "hidden must be at least 1"),
        ({"kind": "denoising", "corruption_level": 1.0}, r"probability must be in \[0, 1\)"),
        ({"kind": "sparse", "weight": -1.0}, "weight must be finite and not negative"),
        ({"kind": "contractive", "weight": -1.0}, "weight must be finite and not negative"),
        ({"kind": "sparse", "target": 1.0}, r"target must be in \(0, 1\)"),
        ({"linear": True, "network": "attention"}, "linear and tied are for network mlp"),
        ({"linear": True, "tied": True}, "give one of the two"),
        ({"num_epochs": 0}, "num_epochs must be above zero"),
        ({"data": "half_moons", "network": "recurrent"}, r"example_shape must be .*got \(2,\)"),
        ({"tied": True, "likelihood": "discretized_logistic"}, "num_levels|one output"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(tmp_path, changed, message) -> None:
    with pytest.raises(ValueError, match=message):
        auto_encoder.run(Settings(out=str(tmp_path / "run"), **changed))
    assert not (tmp_path / "run").exists()
