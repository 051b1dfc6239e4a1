"""The experiment from end to end: its numbers, its pictures, and a run that was interrupted."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import image
from scipy import stats

from experiments import diffusion, harness
from experiments.diffusion import Settings
from experiments.harness import checkpoints
from genjax_models.learning import simple_diffusion, variational_diffusion
from genjax_models.models.markov_chain import cosine_schedule, linear_schedule, log_snr_schedule
from tests import interruption
from tests.statistics import jit_once

SMALL: dict[str, Any] = {
    "num_timesteps": 12,
    "num_units": 32,
    "num_blocks": 1,
    "num_epochs": 50,
    "learning_rate": 1e-2,
    "ema_decay": 0.9,
    "evaluation_samples": 3,
    "ddim_steps": 4,
    "checkpoint_seconds": 0.0,
}
PICTURES = ("samples.png", "chain.png", "ddim.png", "curves.png")


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """The folder of a short run on the digits."""
    return diffusion.run(Settings(out=str(tmp_path_factory.mktemp("digits")), **SMALL))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_result_says_what_was_measured_and_how(digits: Path) -> None:
    result = read_json(digits / "result.json")
    assert (result["experiment"], result["model"]) == ("diffusion", "diffusion")
    assert (result["data"]["name"], result["data"]["protocol"]) == ("digits", "grey")
    metrics = result["metrics"]
    assert set(metrics) == {
        *("train_bound", "test_bound", "test_bits_per_dim"),
        *("test_prior_kl", "test_step_kl", "test_reconstruction"),
    }
    for metric in metrics.values():
        assert (metric["estimator"], metric["num_samples"]) == ("all 12 terms of the bound", 3)
    for name, direction in [("train_bound", "lower"), ("test_bits_per_dim", "upper")]:
        assert metrics[name]["bound"] == direction
        assert 0 < metrics[name]["monte_carlo_error"] < metrics[name]["standard_error"] < 5
    values = {name: metric["value"] for name, metric in metrics.items()}
    parts = values["test_reconstruction"] - values["test_step_kl"] - values["test_prior_kl"]
    assert values["test_bound"] == pytest.approx(parts, rel=1e-5)
    bits = -values["test_bound"] / 64 / np.log(2)
    assert values["test_bits_per_dim"] == pytest.approx(bits, rel=1e-6)
    assert metrics["test_bits_per_dim"]["unit"] == "bits per dimension"
    assert result["steps"] == 50 * 14


def test_the_bound_is_that_of_the_loaded_model(digits: Path) -> None:
    """Written out in numpy: every term from its Gaussians, with noise of its own."""
    model, params, settings = harness.load_run(digits)
    assert settings == Settings(out=str(digits), **SMALL)
    xs = harness.load("digits", likelihood="discretized_gaussian").test.x.astype(np.float64)
    x_0, generator = 2 * xs - 1, np.random.default_rng(0)
    beta = model.schedule.beta[1:]
    share = np.cumprod(1 - beta)
    apply = jit_once(jax.vmap(lambda x, t: model.predict(params, x, t).v, in_axes=(0, None)))
    total = np.zeros((20, len(xs)))
    for draw in range(20):
        for t in range(12, 0, -1):
            a, s = np.sqrt(share[t - 1]), np.sqrt(1 - share[t - 1])
            x_t = a * x_0 + s * generator.normal(size=x_0.shape)
            v = np.asarray(apply(jnp.asarray(x_t, jnp.float32), t), np.float64)
            error = np.clip(a * x_t - s * v, -1, 1) - x_0
            if t == 1:
                lower = np.where(xs < 1 / 32, -np.inf, -error - 1 / 16)
                upper = np.where(xs > 31 / 32, np.inf, -error + 1 / 16)
                scale = np.sqrt(beta[0])
                mass = stats.norm.cdf(upper / scale) - stats.norm.cdf(lower / scale)
                total[draw] += np.log(np.maximum(mass, 1e-30)).sum(axis=1)
            else:
                # Both variances are beta~_t: only the means differ.
                before = share[t - 2]
                variance = beta[t - 1] * (1 - before) / (1 - share[t - 1])
                weight = np.sqrt(before) * beta[t - 1] / (1 - share[t - 1])
                total[draw] -= (weight * error) ** 2 @ np.ones(64) / (2 * variance)
    end = share[-1]
    prior = 0.5 * (end * (x_0**2).sum(axis=1) - 64 * end - 64 * np.log1p(-end))
    exact = total.mean(axis=0).mean() - prior.mean()
    error = (total.std(axis=0, ddof=1) / 20**0.5 / len(xs) ** 0.5).mean()
    metric = read_json(digits / "result.json")["metrics"]["test_bound"]
    tolerance = 5 * np.hypot(error, metric["monte_carlo_error"])
    assert abs(metric["value"] - exact) < tolerance < 5


def test_the_loaded_parameters_are_the_averages(digits: Path) -> None:
    """Not the latest ones, which the checkpoint has beside them."""
    model, params, _ = harness.load_run(digits)
    folder = digits / "checkpoints"
    stored = checkpoints._read(folder, checkpoints.latest_step(folder))
    first = jax.tree.leaves_with_path(params)[0]
    name = f"state.params{jax.tree_util.keystr(first[0])}"
    np.testing.assert_array_equal(first[1], stored[name])
    latest = stored[name.replace("state.params", "state.trained.params")]
    assert 0 < np.abs(first[1] - latest).max() < 0.1
    x = model.sample(params, jax.random.key(0))
    assert x.shape == (64,)
    np.testing.assert_allclose(x * 16, np.rint(x * 16), atol=1e-4)


def test_training_raises_the_validation_bound(digits: Path) -> None:
    records = [json.loads(line) for line in (digits / "metrics.jsonl").read_text().splitlines()]
    bounds = [record["validation_bound"] for record in records if "validation_bound" in record]
    assert bounds[-1] > bounds[0] + 10


def test_the_folder_holds_the_pictures(digits: Path) -> None:
    for name in PICTURES:
        pixels = image.imread(digits / name)
        assert min(pixels.shape[:2]) >= 100 and pixels[..., :3].std() > 0.02, name


def test_a_resumed_run_ends_as_the_uninterrupted_one(digits: Path, tmp_path, monkeypatch) -> None:
    interruption.run_in_two_parts(diffusion.run, Settings(out=str(tmp_path), **SMALL), monkeypatch)
    interruption.assert_same_end(tmp_path, digits)


@pytest.fixture(scope="module")
def points(tmp_path_factory) -> Path:
    """The folder of a run on real points of the plane, with fewer terms and adaptive steps."""
    folder = tmp_path_factory.mktemp("points")
    generator = np.random.default_rng(0)
    np.save(folder / "points.npy", generator.normal(size=(300, 2)) * [0.5, 1.5] + [1.0, 0.0])
    settings = SMALL | {"loss": "adaptive", "evaluation_terms": 5, "schedule": "cosine"}
    return diffusion.run(
        Settings(
            data=str(folder / "points.npy"),
            likelihood="gaussian",
            batch_size=50,
            out=str(folder / "run"),
            **settings | {"num_epochs": 25},
        )
    )


def test_real_points_have_a_bound_and_no_bits(points: Path) -> None:
    metrics = read_json(points / "result.json")["metrics"]
    assert "test_bits_per_dim" not in metrics
    metric = metrics["test_bound"]
    assert metric["estimator"] == "5 of the 12 terms of the bound, one a stretch"
    # No density is better than that of the data, on average: here its negative entropy.
    entropy = np.log(2 * np.pi * np.e) + np.log(0.5 * 1.5)
    assert -entropy - 3 < metric["value"] < -entropy + 5 * metric["standard_error"]
    for name in PICTURES:
        assert image.imread(points / name)[..., :3].std() > 0.02, name


def test_the_settings_name_the_parts() -> None:
    data = {"num_dims": 64, "example_shape": (8, 8), "num_levels": 17}
    schedules = {
        "linear": linear_schedule(30),
        "cosine": cosine_schedule(30),
        "log_snr": log_snr_schedule(30, first_noise=0.1, last_signal=0.2),
    }
    for name, expected in schedules.items():
        settings = Settings(
            schedule=name, num_timesteps=30, first_noise=0.1, last_signal=0.2, prediction="x_0"
        )
        model = diffusion.build_model(settings, data)
        np.testing.assert_array_equal(model.schedule.beta, expected.beta)
        assert model.prediction == "x_0"
    for network in ("mlp", "unet"):
        settings = Settings(network=network, features=(4, 8), num_blocks=1, num_units=8)
        model = diffusion.build_model(settings, data)
        params = jax.eval_shape(model.init, jax.random.key(0))
        assert ("Attention_0" in params["params"]) == (network == "unet")


@pytest.mark.parametrize("loss", ["simple", "variational"])
def test_a_step_descends_the_loss_that_the_settings_name(loss: str) -> None:
    """Its metric is the mean of the objective of the unclipped model, with the step's keys."""
    settings = Settings(**SMALL | {"loss": loss})
    data = {"num_dims": 3, "example_shape": (3,), "num_levels": 5}
    model = diffusion.build_model(settings, data, clip=False)
    algorithm = diffusion.build_algorithm(settings, model, num_steps=10)
    make = {"simple": simple_diffusion, "variational": variational_diffusion}[loss]
    xs = jnp.array([[0.0, 0.25, 1.0], [0.5, 0.5, 0.75]])

    def both(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        init_key, step_key = jax.random.split(key)
        state = algorithm.init(init_key)
        _, metrics = algorithm.step(state, step_key, xs)
        keys = jax.random.split(jax.random.clone(step_key), 2)
        losses, _ = jax.vmap(make(model), (None, 0, 0))(state.params, keys, xs)
        return metrics["loss"], jnp.mean(losses)

    np.testing.assert_allclose(*jit_once(both)(jax.random.key(0)), rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "linear", "num_timesteps": 20, "ddim_steps": 5}, "take num_steps >= 21"),
        ({"num_timesteps": 0}, r"ddim_steps must be in 1..num_timesteps, 1..0, got 20"),
        ({"ddim_steps": 0}, r"ddim_steps must be in 1..num_timesteps, 1..250, got 0"),
        ({"first_noise": 1.0}, r"first_noise must be in \(0, 1\), got 1.0"),
        ({"last_signal": 0.0}, r"last_signal must be in \(0, 1\), got 0.0"),
        ({"ema_decay": 1.0}, r"decay must be in \[0, 1\), got 1.0"),
        ({"num_epochs": 0}, "num_epochs must be above zero, got 0"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative, got -0.1"),
        ({"evaluation_samples": 1}, "evaluation_samples must be at least 2 for an error bar"),
        ({"evaluation_terms": 251}, r"evaluation_terms must be in 2..num_timesteps, 2..250"),
        ({"num_units": 0}, "num_units must be at least 1, got 0"),
        ({"network": "unet", "patch_size": 3}, "patch_size must divide height and width, 8 x 8"),
        ({"likelihood": "bernoulli"}, "likelihood must be one of"),
        ({"data": "binarized_mnist"}, "does not fit the binary values of binarized_mnist"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(settings, message, tmp_path) -> None:
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=message):
        diffusion.run(Settings(out=str(out), **settings))
    assert not out.exists()
