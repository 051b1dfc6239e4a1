"""Belief nets of binary units as experiments: short runs against sums over all hidden states."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import darn, discrete, harness, helmholtz, sigmoid_belief_net
from genjax_models.evaluation import binary_states, enumerated_log_likelihood
from tests.statistics import jit_once

SHORT = {"num_epochs": 3, "evaluation_samples": 3}


def read(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def machine(tmp_path_factory) -> Path:
    """The folder of a short run of a small Helmholtz machine."""
    out = str(tmp_path_factory.mktemp("helmholtz"))
    settings = {"latent_dims": (3, 2), "num_epochs": 20, "evaluation_samples": 100}
    return helmholtz.run(helmholtz.Settings(out=out, **settings))


def test_the_likelihood_of_a_helmholtz_machine_is_exact(machine: Path) -> None:
    metrics = read(machine)["metrics"]
    model, params = harness.load_run(machine)[:2]
    xs = harness.load("digits", likelihood="bernoulli").test.x
    states = binary_states((2, 3))

    @jit_once
    @jax.vmap
    def exact(x):
        return enumerated_log_likelihood(model, params, x, states)

    values = np.asarray(exact(np.float32(xs)))
    found = metrics["test_exact_log_likelihood"]
    assert (found["bound"], found["estimator"]) == ("exact", "enumeration")
    assert found["value"] == pytest.approx(values.mean(), abs=1e-4)
    assert metrics["test_bound"]["value"] < found["value"]
    estimate = metrics["test_log_likelihood"]
    assert found["value"] == pytest.approx(
        estimate["value"], abs=5 * estimate["monte_carlo_error"] + 0.02
    )


def test_its_dreams_are_kept_and_its_bound_is_below_the_exact_likelihood(machine: Path) -> None:
    lines = (machine / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    watched = [record for record in records if "dreams" in record]
    assert watched
    for record in watched:
        assert np.shape(record["dreams"]) == (16, 64)
        assert set(np.unique(record["dreams"])) <= {0, 1}
        assert record["monitored_bound"] < record["monitored_log_likelihood"]
    names = {path.name for path in machine.glob("*.png")}
    assert {"dreams.png", "awake.png", "free_energy.png", "samples.png"} <= names


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent_dims": (30,)}, "latent_dims must have 1 to 20 units in all"),
        ({"likelihood": "gaussian"}, "likelihood must be bernoulli"),
        ({"estimator": "reweighted_wake_sleep"}, "is for --bound iwae"),
    ],
)
def test_what_a_helmholtz_machine_refuses(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        helmholtz.Settings(**settings)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> Path:
    """The folder of a short comparison of two estimators on two layers."""
    return discrete.run(
        discrete.Settings(
            estimators=("reweighted_wake_sleep", "disarm"),
            latent_dims=(4, 3),
            num_evaluations=4,
            num_replicates=10,
            out=str(tmp_path_factory.mktemp("discrete")),
            **SHORT,
        )
    )


def test_estimators_are_compared_at_equal_samples_and_equal_time(comparison: Path) -> None:
    metrics = read(comparison)["metrics"]
    for name in ("reweighted_wake_sleep", "disarm"):
        own = read(comparison / name)
        assert metrics[f"test_bound, {name}"] == own["metrics"]["test_bound"]
        assert metrics[f"step, {name}"]["value"] == pytest.approx(
            1e3 * own["seconds"]["train"] / own["steps"]
        )
        assert metrics[f"gradient_variance, {name}"]["value"] > 0
        expected = {"reweighted_wake_sleep": ("iwae", 4), "disarm": ("elbo", 1)}[name]
        assert (own["settings"]["bound"], own["settings"]["num_samples"]) == expected
    assert (comparison / "bounds.png").exists()


def test_equal_time_before_the_first_record_is_not_reached() -> None:
    """The fastest is done after 3 seconds; the last has one record, after that."""
    times = {"arm": (1.0, 3.0), "rloo": (2.0, 4.0), "nvil": (5.0,)}
    entry = {"value": -1.0}
    trained = {
        name: discrete.Trained(
            {
                "metrics": {"test_bound": entry, "test_log_likelihood": entry},
                "seconds": {"train": seconds[-1]},
                "steps": 10,
            },
            [{"seconds_train": time, "validation_bound": -10 / time} for time in seconds],
        )
        for name, seconds in times.items()
    }
    found = discrete.summarize(discrete.Settings(), trained, dict.fromkeys(times, 1.0))
    entries = {name: found[f"validation_bound at equal time, {name}"] for name in times}
    assert entries["arm"]["value"] == pytest.approx(-10 / 3)
    assert entries["rloo"]["value"] == pytest.approx((-10 / 2 - 10 / 4) / 2)
    assert entries["rloo"]["bound"] == "lower"
    assert entries["nvil"]["value"] is None and entries["nvil"]["bound"] is None
    assert entries["nvil"]["estimator"] == "not reached: first record after 5.0 s"


def test_a_run_of_the_comparison_is_one_of_the_belief_net(comparison: Path) -> None:
    loaded = harness.load_run(comparison / "disarm")
    assert loaded.settings.latent_dims == (4, 3)
    z = loaded.model.prior(loaded.params).sample(seed=jax.random.key(0))
    assert [layer.shape for layer in z] == [(3,), (4,)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimators": ()}, "estimators must be different ones"),
        ({"estimators": ("arm", "arm")}, "estimators must be different ones"),
        ({"estimators": ("rebar",), "num_evaluations": 4}, "must be a multiple of 3"),
        ({"estimators": ("arm",), "latent_dims": (2, 2)}, "must be a multiple of 4"),
        ({"num_replicates": 1}, "num_replicates must be at least 2"),
    ],
)
def test_what_the_comparison_refuses(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        discrete.Settings(**settings)


def test_no_estimator_is_refused_after_another_was_trained(tmp_path: Path) -> None:
    settings = discrete.Settings(
        estimators=("score_function", "rloo"), num_evaluations=1, out=str(tmp_path / "run")
    )
    with pytest.raises(ValueError, match="num_samples must be an integer >= 2, got 1"):
        discrete.run(settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"likelihood": "gaussian"}, "likelihood must be bernoulli"),
        ({"estimator": "disarm"}, "estimator disarm is for bound elbo, got iwae"),
        (
            {"estimator": "disarm", "bound": "elbo", "chunk_size": 2},
            "chunk_size has no effect with estimator disarm",
        ),
        ({"evaluation_samples": 1}, "evaluation_samples must be at least 2"),
    ],
)
def test_what_the_belief_net_refuses(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sigmoid_belief_net.Settings(**settings)


def test_microbatches_are_not_for_an_estimator_with_a_state() -> None:
    settings = sigmoid_belief_net.Settings(estimator="arm", bound="elbo", microbatch_size=10)
    with pytest.raises(ValueError, match='microbatch_size is not for estimator "arm" here'):
        sigmoid_belief_net.run(settings)


def test_the_settings_of_darn_reach_the_model(tmp_path: Path) -> None:
    settings = {"latent_dims": (3,), "num_samples": 2, "weight_noise": 0.05} | SHORT
    folder = darn.run(darn.Settings(out=str(tmp_path), **settings))
    params = harness.load_run(folder).params
    noise = params["weight_noise"]["prior"]["top"]["weights"]
    assert noise.shape == (3, 3) and np.all(noise != np.float32(np.log(0.05)))
    assert params["prior"]["top"]["weights"].shape == (3, 3)
    assert np.any(np.tril(params["likelihood"]["observation"]["weights"], -1) != 0)
    assert -30 < read(folder)["metrics"]["test_bound"]["value"] < -20
    with pytest.raises(ValueError, match="likelihood must be bernoulli"):
        darn.Settings(likelihood="gaussian")
    with pytest.raises(ValueError, match="weight_noise must be above zero, got 0"):
        darn.Settings(weight_noise=0.0)
