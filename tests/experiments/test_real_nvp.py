"""The experiment from end to end: its numbers, its pictures, and a run that was interrupted."""

import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import image
from scipy.special import logsumexp
from scipy.stats import norm

from experiments import harness, real_nvp
from experiments.real_nvp import Settings
from genjax_models.models.transformation.couplings import alternating_masks, checkerboard_masks
from tests import interruption
from tests.statistics import jit_once

# Whole dispatches of 100 steps: one program each.
ON_DIGITS: dict[str, Any] = {
    "batch_size": 143,
    "num_epochs": 20,
    "num_couplings": 3,
    "hidden": (16,),
    "evaluation_samples": 20,
    "learning_rate": 5e-3,
    "checkpoint_seconds": 0.0,
}
ON_HALF_MOONS: dict[str, Any] = {
    "data": "half_moons",
    "batch_size": 400,
    "num_epochs": 5,
    "num_couplings": 4,
    "hidden": (16,),
    "learning_rate": 5e-3,
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """The folder of a short run on the grey levels of the digits."""
    return real_nvp.run(Settings(out=str(tmp_path_factory.mktemp("digits")), **ON_DIGITS))


@pytest.fixture(scope="module")
def half_moons(tmp_path_factory) -> Path:
    """The folder of a short run on points of the plane."""
    return real_nvp.run(Settings(out=str(tmp_path_factory.mktemp("moons")), **ON_HALF_MOONS))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def log_density(params: dict, masks: np.ndarray, xs: np.ndarray) -> np.ndarray:
    """log p(x) [N] of the flow, coupling after coupling from the data to the noise, in numpy."""
    params = jax.tree.map(np.float64, params)
    layers = list(params["network"]["params"].values())
    total = np.zeros(len(xs))
    for i in reversed(range(len(masks))):
        log_scale = params["actnorm"]["log_scale"][i]
        xs = (xs - params["actnorm"]["shift"][i]) * np.exp(-log_scale)
        outputs = xs * masks[i]
        for layer in layers[:-1]:
            outputs = np.tanh(outputs @ layer["kernel"][i] + layer["bias"][i])
        outputs = outputs @ layers[-1]["kernel"][i] + layers[-1]["bias"][i]
        shift, raw = np.split(outputs, 2, axis=1)
        scale = np.where(masks[i], 0, 2 * np.tanh(raw / 2))
        xs = np.where(masks[i], xs, (xs - shift) * np.exp(-scale))
        total -= scale.sum(axis=1) + log_scale.sum()
    return total + norm.logpdf(xs).sum(axis=1)


def test_the_result_says_what_was_measured_and_how(digits: Path, half_moons: Path) -> None:
    result = read_json(digits / "result.json")
    assert (result["experiment"], result["model"]) == ("real_nvp", "real_nvp")
    assert (result["data"]["name"], result["data"]["protocol"]) == ("digits", "grey")
    metrics = result["metrics"]
    assert set(metrics) == {
        *("train_bound", "test_bound", "test_log_likelihood", "test_bits_per_dim")
    }
    measured = metrics["test_log_likelihood"]
    assert (measured["estimator"], measured["num_samples"]) == ("importance sampling", 20)
    assert (measured["bound"], measured["unit"]) == ("lower", "nats")
    assert metrics["test_bits_per_dim"]["bound"] == "upper"
    assert metrics["test_bits_per_dim"]["unit"] == "bits per dimension"
    assert metrics["test_bits_per_dim"]["value"] == pytest.approx(
        -measured["value"] / (64 * math.log(2))
    )
    assert metrics["test_bound"]["value"] < measured["value"]
    assert result["steps"] == 20 * 10

    result = read_json(half_moons / "result.json")
    assert (result["data"]["name"], result["data"]["protocol"]) == ("half_moons", "real")
    metrics = result["metrics"]
    assert set(metrics) == {
        *("train_log_likelihood", "validation_log_likelihood", "test_log_likelihood"),
        "test_bits_per_dim",
    }
    measured = metrics["test_log_likelihood"]
    assert (measured["estimator"], measured["bound"]) == ("exact", "exact")
    assert metrics["test_bits_per_dim"]["value"] == pytest.approx(
        -measured["value"] / (2 * math.log(2))
    )


def test_the_exact_number_is_that_of_the_loaded_model(half_moons: Path) -> None:
    _, params, settings = harness.load_run(half_moons)
    assert settings == Settings(out=str(half_moons), **ON_HALF_MOONS)
    xs = harness.load("half_moons", likelihood="none").test.x.astype(np.float64)
    exact = log_density(params, alternating_masks(4, 2), xs)
    measured = read_json(half_moons / "result.json")["metrics"]["test_log_likelihood"]
    assert measured["value"] == pytest.approx(exact.mean(), rel=1e-4)
    error = exact.std(ddof=1) / len(xs) ** 0.5
    assert measured["standard_error"] == pytest.approx(error, rel=1e-3)


def test_the_estimate_is_that_of_the_loaded_model(digits: Path) -> None:
    """Levels with uniform noise, their logits, and the flow, anew in numpy."""
    _, params, settings = harness.load_run(digits)
    assert settings == Settings(out=str(digits), **ON_DIGITS)
    levels = np.rint(harness.load("digits", likelihood="dequantized").test.x * 16.0)
    rng, masks = np.random.default_rng(0), checkerboard_masks(3, (8, 8, 1))
    weights = np.empty((20, len(levels)))
    for row in weights:
        s = 0.05 + 0.9 * (levels + rng.random(levels.shape)) / 17
        log_det = np.log(0.9) - np.log(s) - np.log1p(-s)
        row[:] = log_density(params, masks, np.log(s) - np.log1p(-s)) + log_det.sum(axis=1)
    weights -= 64 * np.log(17)
    metrics = read_json(digits / "result.json")["metrics"]
    for name, values in (
        ("test_bound", weights.mean(axis=0)),
        ("test_log_likelihood", logsumexp(weights, axis=0) - np.log(20)),
    ):
        # The same examples: the two differ by their draws alone.
        error = 2**0.5 * metrics[name]["monte_carlo_error"]
        assert abs(metrics[name]["value"] - values.mean()) < 5 * error < 2, name


def test_a_short_run_is_better_than_independent_pixels(digits: Path) -> None:
    """Whose probabilities are the shares of each level in the training set."""
    data = harness.load("digits", likelihood="dequantized")
    train, test = np.rint(data.train.x).astype(int), np.rint(data.test.x * 16).astype(int)
    counts = np.stack([np.bincount(pixel, minlength=17) for pixel in train.T]) + 0.5
    shares = counts / counts.sum(axis=1, keepdims=True)
    independent = np.log(shares[np.arange(64), test]).sum(axis=1).mean()
    measured = read_json(digits / "result.json")["metrics"]["test_log_likelihood"]
    assert measured["value"] - 5 * measured["standard_error"] > independent


def test_the_folder_holds_the_pictures(digits: Path, half_moons: Path) -> None:
    names = {digits: {"samples", "curves"}, half_moons: {"samples", "curves", "warp"}}
    for folder, pictures in names.items():
        assert {path.stem for path in folder.glob("*.png")} == pictures
        for name in pictures:
            pixels = image.imread(folder / f"{name}.png")
            assert min(pixels.shape[:2]) >= 100 and pixels[..., :3].std() > 0.02, name


def test_a_resumed_run_ends_as_the_uninterrupted_one(digits: Path, tmp_path, monkeypatch) -> None:
    interruption.run_in_two_parts(
        real_nvp.run, Settings(out=str(tmp_path), **ON_DIGITS), monkeypatch
    )
    interruption.assert_same_end(tmp_path, digits)


def test_the_start_fits_the_training_examples() -> None:
    """Where the networks are zero, the noise of the training set is standardised."""
    settings = Settings(**ON_DIGITS)
    dataset = harness.load("digits", likelihood="none")
    data = harness.data_shape(dataset)
    flow = real_nvp.build_flow(settings, data)
    model = real_nvp.build_model(settings, data)
    algorithm = real_nvp.build_algorithm(settings, model, flow, dataset, steps_per_epoch=10)

    @jit_once
    def run(init_key, key):
        params = algorithm.init(init_key).params
        starting = jax.vmap(lambda key, x: real_nvp.starting_example(settings, dataset, key, x))
        us = starting(jax.random.split(key, 1437), jnp.asarray(dataset.train.x))
        return jax.vmap(flow.bijector(params).inverse)(us)

    zs = run(jax.random.key(0), jax.random.key(1))
    np.testing.assert_allclose(np.mean(zs, axis=0), 0, atol=0.2)
    np.testing.assert_allclose(np.std(zs, axis=0), 1, atol=0.2)


@pytest.mark.parametrize("num_levels", [None, 256])
def test_images_at_several_scales(num_levels: int | None) -> None:
    settings = Settings(network="multi_scale", num_couplings=2, num_features=2, num_blocks=0)
    data = {"num_dims": 48, "example_shape": (4, 4, 3), "num_levels": num_levels}
    model = real_nvp.build_model(settings, data)
    params = jax.eval_shape(model.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((48,), jnp.float32)
    if num_levels is None:
        assert jax.eval_shape(model.log_prob, params, x).shape == ()
    else:
        value = jax.eval_shape(lambda params, x: model.prior(params).log_prob(x), params, x)
        assert value.shape == ()


@pytest.mark.parametrize(
    "settings",
    [
        {"num_epochs": 0},
        {"learning_rate": -1.0},
        {"evaluation_samples": 0},
        {"weight_decay": -0.1},
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(ValueError, match=name):
        Settings(**settings)


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "run"
    for changed, message in [
        ({"protocol": "dynamic"}, "protocol"),
        ({"batch_size": 100_000}, "batch_size"),
        ({"alpha": 0.5}, "alpha"),
        ({"num_couplings": 1}, "num_couplings"),
        ({"max_log_scale": 0.0}, "max_log_scale"),
        ({"network": "multi_scale", "num_scales": 4}, "num_scales=4"),
        ({"network": "multi_scale", "data": "half_moons"}, "image_shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            real_nvp.run(Settings(out=str(out), **ON_DIGITS | changed))
    assert not out.exists()
