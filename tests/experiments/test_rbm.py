"""The experiment from end to end: its numbers by enumeration, a run that was interrupted."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import image

from experiments import harness, rbm
from experiments.rbm import Settings
from genjax_models.models.energy import rbm as machine
from tests import interruption, programs
from tests.models.energy import machines
from tests.statistics import jit_once

SMALL: dict[str, Any] = {
    "num_hidden": 8,
    "num_epochs": 50,
    "num_chains": 20,
    "ais_chains": 100,
    "ais_temperatures": 300,
    "monitor_temperatures": 100,
    "chain_steps": 200,
    "checkpoint_seconds": 0.0,
}


@pytest.fixture(scope="module")
def exact(tmp_path_factory) -> Path:
    """The folder of a short run on the digits, small enough to be enumerated."""
    return rbm.run(Settings(out=str(tmp_path_factory.mktemp("exact")), **SMALL))


@pytest.fixture(scope="module")
def annealed(exact: Path) -> dict[str, Any]:
    """What is measured of the same machine if it counts as too large to be enumerated."""
    model, params, settings = harness.load_run(exact)
    dataset, mesh = harness.prepare(settings, likelihood="bernoulli")
    logits = machine.mean_logits(dataset.train.x / np.float32(16))
    evaluator = rbm.Evaluator(settings, model, dataset, mesh, logits)
    state = SimpleNamespace(params=params)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "MAX_ENUMERATED", 0)
        return evaluator.monitor(state) | evaluator.evaluate(state)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def log_probs(folder: Path, split: str) -> np.ndarray:
    """Exact log p(x) of the loaded machine for a split, in numpy."""
    _, params, _ = harness.load_run(folder)
    w, b, c = (np.float64(params[name]) for name in ("weights", "visible_bias", "hidden_bias"))
    bits = np.arange(256)[:, None] >> np.arange(8) & 1
    log_partition = np.logaddexp.reduce(bits @ c + np.logaddexp(0, b + bits @ w.T).sum(axis=1))
    xs = np.float64(getattr(harness.load("digits", likelihood="bernoulli"), split).x)
    return xs @ b + np.logaddexp(0, c + xs @ w).sum(axis=1) - log_partition


def test_the_result_says_what_was_measured_and_how(exact: Path, annealed: dict[str, Any]) -> None:
    result = read_json(exact / "result.json")
    assert (result["experiment"], result["model"]) == ("rbm", "restricted Boltzmann machine")
    assert set(result["metrics"]) == {"test_log_likelihood", "train_log_likelihood"}
    for metric in result["metrics"].values():
        assert (metric["estimator"], metric["bound"]) == ("exact", "exact")
        assert (metric["num_samples"], metric["monte_carlo_error"]) == (None, 0)
    for split in ("train", "test"):
        forward = annealed[f"{split}_log_likelihood"]
        reverse = annealed[f"{split}_log_likelihood_reverse"]
        assert (forward["estimator"], forward["bound"]) == ("AIS, 300 temperatures", "upper")
        assert "approximate" in reverse["estimator"] and reverse["bound"] == "lower"
        assert forward["num_samples"] == reverse["num_samples"] == 100
        assert 0 < forward["monte_carlo_error"] < forward["standard_error"] < 0.5


def test_the_number_is_that_of_the_loaded_model(exact: Path, annealed: dict[str, Any]) -> None:
    values = log_probs(exact, "test")
    metric = read_json(exact / "result.json")["metrics"]["test_log_likelihood"]
    assert metric["value"] == pytest.approx(values.mean(), rel=1e-5)
    error = values.std(ddof=1) / len(values) ** 0.5
    assert metric["standard_error"] == pytest.approx(error, rel=1e-4)
    for name in ("test_log_likelihood", "test_log_likelihood_reverse"):
        metric = annealed[name]
        assert abs(metric["value"] - values.mean()) < 5 * metric["monte_carlo_error"] < 0.3
        total = np.hypot(error, metric["monte_carlo_error"])
        assert metric["standard_error"] == pytest.approx(total, rel=1e-4)


def test_the_learning_curve_ends_at_the_exact_value(exact: Path, annealed) -> None:
    last = [json.loads(line) for line in (exact / "metrics.jsonl").read_text().splitlines()][-1]
    validation = log_probs(exact, "validation").mean()
    assert last["validation_log_likelihood"] == pytest.approx(validation, rel=1e-5)
    assert annealed["validation_log_likelihood"] == pytest.approx(validation, abs=0.3)
    train = read_json(exact / "result.json")["metrics"]["train_log_likelihood"]["value"]
    assert last["energy_gap"] == pytest.approx(train - validation, abs=1e-3)


def test_a_short_run_is_better_than_independent_pixels(exact: Path) -> None:
    data = harness.load("digits", likelihood="bernoulli")
    probability = np.clip(data.train.x.mean(axis=0) / 16, 1e-3, 1 - 1e-3)
    on = data.test.x.astype(bool)
    independent = np.where(on, np.log(probability), np.log1p(-probability)).sum(axis=1).mean()
    assert log_probs(exact, "test").mean() > independent + 1


def test_the_folder_holds_the_pictures(exact: Path) -> None:
    for name in ("samples.png", "filters.png", "curves.png"):
        pixels = image.imread(exact / name)
        assert min(pixels.shape[:2]) >= 50 and pixels[..., :3].std() > 0.02, name


def test_a_resumed_run_ends_as_the_uninterrupted_one(exact: Path, tmp_path, monkeypatch) -> None:
    """Bit for bit, which the persistent chains must be restored for."""
    interruption.run_in_two_parts(rbm.run, Settings(out=str(tmp_path), **SMALL), monkeypatch)
    interruption.assert_same_end(tmp_path, exact)


def test_the_steps_of_a_chain_rise_in_equal_stages() -> None:
    settings = Settings(principle="cd", num_steps=1, last_num_steps=4)
    steps = [int(rbm.chain_steps(settings, 12)(step)) for step in range(12)]
    assert steps == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]


def test_contrastive_divergence_takes_as_many_steps_as_the_stage_says() -> None:
    """From a start that a chain needs several steps to leave: its energy tells them apart."""
    settings = Settings(principle="cd", num_hidden=3, num_steps=1, last_num_steps=8)
    model, logits, xs = rbm.build_model(settings, {"num_dims": 4}), jnp.zeros(4), jnp.ones((500, 4))
    algorithm = rbm.build_algorithm(settings, model, logits, num_steps=8)
    params = machines.two_modes(4, strength=1.5)
    state = algorithm.init(jax.random.key(0))._replace(params=params)
    step = jit_once(algorithm.step)
    transitions, start = machines.transitions(params), machines.one_hot(np.ones(4))
    energies = -np.log(machines.marginal(params)) - machines.log_partition(params)
    for number in (0, 7):
        key = jax.random.key(number)
        _, metrics = step(state._replace(step=jnp.int32(number)), key, xs)
        row = start @ np.linalg.matrix_power(transitions, number + 1)
        error = np.sqrt(row @ energies**2 - (row @ energies) ** 2) / 500**0.5
        assert abs(metrics["chain_energy"] - row @ energies) < 5 * error


def test_tempered_chains_are_part_of_the_state() -> None:
    settings = Settings(num_hidden=3, num_replicas=5, num_chains=7)
    model = rbm.build_model(settings, {"num_dims": 4})
    algorithm = rbm.build_algorithm(settings, model, jnp.zeros(4), num_steps=8)
    xs = jnp.ones((3, 4))

    def first_step(key: jax.Array) -> Any:
        init_key, step_key = jax.random.split(key)
        return algorithm.step(algorithm.init(init_key), step_key, xs)[0]

    state = jax.eval_shape(first_step, jax.random.key(0))
    assert state.objective_state.shape == (7, 5, 4)


def test_the_ladder_has_the_shares_of_the_paper() -> None:
    betas = rbm.ladder(14_501)
    assert betas[0] == 0 and betas[-1] == 1 and np.all(np.diff(betas) > 0)
    counts, _ = np.histogram(betas[:-1], [0, 0.5 - 1e-9, 0.9 - 1e-9, 1])
    np.testing.assert_array_equal(counts, [500, 4000, 10_000])


def test_the_learning_rate_falls_as_the_settings_say() -> None:
    for name, middle, end in [("linear", 1.5, 0), ("cosine", 1.5, 0), ("constant", 3, 3)]:
        rate = rbm.learning_rate(Settings(learning_rate=3.0, learning_rate_schedule=name), 100)
        rates = [float(rate(jnp.int32(step))) for step in (0, 50, 100)]
        np.testing.assert_allclose(rates, [3, middle, end], atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_hidden": 0}, "num_hidden"),
        ({"num_chains": 0}, "num_chains"),
        ({"num_replicas": 0}, "num_replicas"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"ais_chains": 1}, "ais_chains must be at least 2"),
        ({"ais_temperatures": 1}, "ais_temperatures must be at least 2"),
        ({"principle": "cd", "num_steps": 5, "last_num_steps": 3}, "last_num_steps.*5.*3"),
        ({"last_num_steps": 3}, "last_num_steps needs principle=cd"),
        ({"principle": "cd", "num_replicas": 2}, "num_replicas above 1 needs principle=pcd"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
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
            rbm.run(Settings(out=str(out), **SMALL | changed))
    assert not out.exists()


def test_two_devices_train_as_one_does(tmp_path: Path) -> None:
    """The chains are part of the state on every device, dispatch after dispatch."""
    settings = SMALL | {"num_epochs": 15}  # Three dispatches.
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    flags = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=2"
    command = ("-m", "experiments.rbm", "--out", tmp_path / "two", *options)
    programs.run(*command, XLA_FLAGS=flags)
    assert "2 devices" in read_json(tmp_path / "two" / "result.json")["device"]
    rbm.run(Settings(out=str(tmp_path / "one"), **settings))
    # Sums in another order may turn over a bit of a chain, and no more.
    difference = log_probs(tmp_path / "two", "test") - log_probs(tmp_path / "one", "test")
    assert np.abs(difference).max() < 0.2
