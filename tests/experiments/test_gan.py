"""The experiment from end to end: its numbers, its pictures, and a run that was interrupted."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from matplotlib import image
from scipy.spatial.distance import cdist, pdist

from experiments import gan, harness
from experiments.gan import Settings
from experiments.harness import checkpoints
from experiments.harness.mesh import make_mesh
from experiments.harness.run import load_config
from tests import interruption
from tests.statistics import jit_once

SMALL: dict[str, Any] = {
    "num_steps": 130,
    "hidden": (24,),
    "noise_dim": 6,
    "evaluation_samples": 150,
    "num_permutations": 50,
    "checkpoint_seconds": 0.0,
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """The folder of a short run on the digits."""
    return gan.run(Settings(out=str(tmp_path_factory.mktemp("digits")), **SMALL))


@pytest.fixture(scope="module")
def ring(tmp_path_factory) -> Path:
    """The folder of a shorter run on the ring, of the other kinds of loss and penalty."""
    settings = SMALL | {"num_steps": 3, "loss": "non_saturating", "penalty": "data", "seed": 4}
    return gan.run(Settings(data="ring", out=str(tmp_path_factory.mktemp("ring")), **settings))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def samples_of(folder: Path, seed: int, num_samples: int) -> np.ndarray:
    """Those that the run was measured with: of key 0 of the evaluator's key."""
    model, params, _ = harness.load_run(folder)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2), 0)
    keys = jax.random.split(key, num_samples)
    return np.asarray(jit_once(jax.vmap(model.sample, in_axes=(None, 0)))(params, keys), float)


def test_the_result_says_what_was_measured_and_how(digits: Path) -> None:
    result = read_json(digits / "result.json")
    assert (result["experiment"], result["model"]) == ("gan", "gan, wasserstein")
    assert (result["data"]["name"], result["data"]["protocol"]) == ("digits", "grey")
    assert [*result["metrics"]] == [
        *("test_squared_mmd", "test_p_value", "real_squared_mmd", "real_p_value")
    ]
    for name, metric in result["metrics"].items():
        assert metric["bound"] == "exact"
        if name.endswith("p_value"):
            assert (metric["unit"], metric["num_samples"]) == ("probability", 50)
            assert (metric["value"] * 51) == pytest.approx(round(metric["value"] * 51))
        else:
            assert metric["unit"] == "squared MMD" and 0 < metric["standard_error"] < 0.1
            assert re.match(r"unbiased, Gaussian kernel of bandwidth \d\.\d+", metric["estimator"])
    assert result["metrics"]["test_squared_mmd"]["num_samples"] == 150
    assert result["steps"] == 130
    assert result["command"] == (
        "python -m experiments.gan --noise-dim 6 --hidden 24 --num-steps 130"
        " --evaluation-samples 150 --num-permutations 50"
    )


def test_the_discrepancy_is_that_of_the_loaded_model(digits: Path) -> None:
    """By its definition, with scipy's distances, of samples and of training examples."""
    data = harness.load("digits", likelihood="none")
    real = data.test.x[:150].astype(float)
    bandwidth = np.median(pdist(data.validation.x.astype(float)))
    chosen = np.random.default_rng(0).permutation(len(data.train.x))[:150]
    others = {"test": samples_of(digits, 0, 150), "real": data.train.x[chosen] / 16}
    for name, examples in others.items():

        def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            return np.exp(-(cdist(x, y) ** 2) / (2 * bandwidth**2))

        within = sum((kernel(z, z).sum() - 150) / (150 * 149) for z in (real, examples))
        exact = within - 2 * kernel(real, examples).mean()
        metric = read_json(digits / "result.json")["metrics"][f"{name}_squared_mmd"]
        assert metric["value"] == pytest.approx(exact, abs=1e-5)
    metrics = read_json(digits / "result.json")["metrics"]
    # So few steps are told from the truth; other examples of the truth are not.
    assert metrics["test_p_value"]["value"] == pytest.approx(1 / 51)
    assert metrics["real_p_value"]["value"] > 0.02
    assert metrics["test_squared_mmd"]["value"] > 5 * abs(metrics["real_squared_mmd"]["value"])


def test_training_lowers_the_discrepancy(digits: Path) -> None:
    settings, data = Settings(**SMALL), load_config(digits)["data"]
    dataset = harness.load("digits", likelihood="none")
    model = gan.build_model(settings, data)
    key = jax.random.key(0)
    evaluator = gan.Evaluator(model, dataset, make_mesh(), key, 100, 10, {})
    untrained = gan.build_algorithm(settings, model, gan.build_critic(settings, data)).init(key)
    before = evaluator.monitor(untrained)["validation_squared_mmd"]
    records = [json.loads(line) for line in (digits / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["validation_squared_mmd"] < 0.7 * before
    assert {"loss", "critic_loss", "critic_gradient_penalty"} <= set(records[-1])


def test_the_modes_of_the_ring_are_counted_by_its_protocol(ring: Path) -> None:
    result = read_json(ring / "result.json")
    assert result["model"] == "gan, non-saturating"
    samples = samples_of(ring, 4, 2500)
    angles = 2 * np.pi * np.arange(8) / 8
    distances = cdist(samples, np.stack([np.cos(angles), np.sin(angles)], axis=1))
    near = distances.min(axis=1) <= 0.03
    metrics = result["metrics"]
    covered = len(np.unique(distances.argmin(axis=1)[near]))
    assert metrics["covered_modes"]["value"] == covered
    assert metrics["covered_modes"]["unit"] == "modes of 8"
    assert metrics["high_quality_samples"]["value"] == pytest.approx(near.mean(), abs=1e-6)
    assert metrics["high_quality_samples"]["num_samples"] == 2500
    frequencies = np.bincount(distances.argmin(axis=1), minlength=8) / 2500
    terms = np.where(frequencies > 0, frequencies * np.log(8 * np.maximum(frequencies, 1e-9)), 0)
    assert metrics["mode_reverse_kl"]["value"] == pytest.approx(terms.sum(), rel=1e-4)
    assert metrics["mode_reverse_kl"]["unit"] == "nats"


def test_the_folders_hold_the_pictures(digits: Path, ring: Path) -> None:
    common = {"samples.png", "curves.png", "discrepancy.png"}
    for folder, names in ((digits, common | {"neighbours.png"}), (ring, common)):
        assert {path.name for path in folder.glob("*.png")} == names
        for name in names:
            pixels = image.imread(folder / name)
            assert min(pixels.shape[:2]) >= 100 and pixels[..., :3].std() > 0.02, name


def test_a_resumed_run_ends_as_the_uninterrupted_one(digits: Path, tmp_path, monkeypatch) -> None:
    """Both players are in the checkpoint, with their optimizers."""
    interruption.run_in_two_parts(gan.run, Settings(out=str(tmp_path), **SMALL), monkeypatch)
    interruption.assert_same_end(tmp_path, digits)
    ours, theirs = (last_state(folder) for folder in (tmp_path, digits))
    assert len(jax.tree.leaves(ours.critic_params)) == 4
    assert ours.critic_optimizer_state[0].count == 3 * 130
    for left, right in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(left, right)


def last_state(folder: Path) -> Any:
    settings, data = Settings(**SMALL), load_config(folder)["data"]
    model = gan.build_model(settings, data)
    algorithm = gan.build_algorithm(settings, model, gan.build_critic(settings, data))
    like = jax.eval_shape(algorithm.init, jax.random.key(0))
    return checkpoints.restore(folder / "checkpoints", 130, like)


@pytest.mark.parametrize(
    ("num_levels", "shape"), [(256, (28, 28)), (2, (28, 28)), (None, (2,)), (None, (6, 6, 3))]
)
def test_samples_have_the_range_of_the_data(num_levels: int | None, shape) -> None:
    """Between zero and one for images, and anywhere for real values."""
    settings = Settings(hidden=(4,), noise_dim=2)
    data = {"num_dims": int(np.prod(shape)), "example_shape": shape, "num_levels": num_levels}
    model = gan.build_model(settings, data)

    def extremes(key: jax.Array) -> jax.Array:
        init_key, key = jax.random.split(key)
        params = jax.tree.map(lambda leaf: 100 * leaf, model.init(init_key))
        x = jax.vmap(model.sample, in_axes=(None, 0))(params, jax.random.split(key, 50))
        return jnp.stack([x.min(), x.max()])

    low, high = jit_once(extremes)(jax.random.key(0))
    assert (low >= 0 and high <= 1) == (num_levels is not None)


def test_the_convolutional_players_fit_each_other() -> None:
    settings = Settings(network="convolutional", features=(4, 3), noise_dim=2, num_critic_steps=2)
    data = {"num_dims": 30, "example_shape": (6, 5), "num_levels": 17}
    model = gan.build_model(settings, data)
    algorithm = gan.build_algorithm(settings, model, gan.build_critic(settings, data))

    def first_step(key: jax.Array) -> Any:
        init_key, step_key = jax.random.split(key)
        return algorithm.step(algorithm.init(init_key), step_key, jnp.zeros((4, 30)))

    state, metrics = jax.eval_shape(first_step, jax.random.key(0))
    assert metrics["loss"].shape == ()
    channels = {leaf.shape[-1] for leaf in jax.tree.leaves(state.critic_params) if leaf.ndim == 4}
    assert channels == {3, 4}


def test_the_learning_rates_fall_to_zero_with_the_last_step_of_each_player() -> None:
    settings = Settings(num_steps=4, num_critic_steps=3, learning_rate=0.1, hidden=(3,))
    data = {"num_dims": 2, "example_shape": (2,), "num_levels": None}
    model = gan.build_model(settings, data)
    algorithm = gan.build_algorithm(settings, model, gan.build_critic(settings, data))
    step = jit_once(algorithm.step)
    states = [algorithm.init(jax.random.key(0))]
    for number in range(6):
        states.append(step(states[-1], jax.random.key(number), jnp.ones((6, 2)))[0])
    for player in ("params", "critic_params"):
        flat = [ravel_pytree(getattr(state, player))[0] for state in states]
        moves = np.abs(np.diff(flat, axis=0)).max(axis=1)
        assert moves[:4].min() > 1e-3 and moves[4:].max() == 0, player


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch_size": 100}, "multiple of num_critic_steps, 3, got 100"),
        ({"num_critic_steps": 0}, "num_critic_steps must be above zero, got 0"),
        ({"loss": "wgan"}, "loss must be one of .*got 'wgan'"),
        ({"penalty": "l2"}, "penalty must be one of .*got 'l2'"),
        ({"penalty_weight": -1.0}, "penalty_weight must not be negative, got -1"),
        ({"noise_dim": 0}, "noise_dim must be at least 1"),
        ({"num_steps": 0}, "num_steps must be above zero, got 0"),
        ({"num_permutations": 0}, "num_permutations must be above zero, got 0"),
        ({"evaluation_samples": 1}, "evaluation_samples must be at least 2, got 1"),
        ({"adam_beta1": 1.0}, r"adam_beta1 must be in \[0, 1\), got 1.0"),
        ({"learning_rate": 0.0}, "learning_rate must be above zero"),
        ({"data": "ring", "network": "convolutional"}, "image_shape must be"),
        ({"protocol": "dynamic"}, "protocol='dynamic' does not fit"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    tmp_path, changed: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        gan.run(Settings(out=str(tmp_path / "run"), **changed))
    assert not (tmp_path / "run").exists()
