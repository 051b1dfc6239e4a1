"""The same step on one device, on many, and on those of two processes: the same parameters."""

import json
from collections import Counter

import jax
import numpy as np
import pytest

from experiments import vae
from experiments.harness import load_run
from tests import programs

# Halves the time to compile, and leaves the program that is compiled as it is.
FAST_COMPILE = "--xla_backend_optimization_level=0"
SETTINGS = {
    "num_epochs": 7,
    "hidden": (16,),
    "latent_dim": 3,
    "evaluation_samples": 10,
    "learning_rate_schedule": "constant",
}


def assert_data_parallel(report: dict, num_devices: int) -> None:
    """Fails unless all devices trained to what one did, with one sum of gradients a step."""
    assert report["num_devices"] == num_devices
    assert report["difference"] < 1e-10 < 1e-2 < report["moved"]
    ((name, types),) = report["collectives"]
    assert name == "all-reduce"
    # Beside the gradients only the loss and the metrics, which are scalars.
    beside = Counter(types) - Counter(report["parameters"])
    assert Counter(types) >= Counter(report["parameters"])
    assert set(beside) <= {"f64[]"}


def test_eight_devices_train_as_one_does():
    output = programs.run(
        "-m",
        "tests.programs.data_parallel",
        JAX_ENABLE_X64="1",
        XLA_FLAGS=f"{FAST_COMPILE} --xla_force_host_platform_device_count=8",
    )
    assert_data_parallel(json.loads(output), 8)


def test_two_processes_train_as_one_does():
    outputs = programs.run_two(
        *("-m", "tests.programs.data_parallel", "--distributed"),
        JAX_ENABLE_X64="1",
        XLA_FLAGS=FAST_COMPILE,
    )
    for output in outputs:
        # gloo prints to the same stream.
        assert_data_parallel(json.loads(output.splitlines()[-1]), 2)


def test_the_command_runs_as_two_processes(tmp_path):
    options = [
        f"--{name.replace('_', '-')}={value[0] if isinstance(value, tuple) else value}"
        for name, value in SETTINGS.items()
    ]
    together = tmp_path / "together"
    first, second = programs.run_two(
        *("-m", "experiments.vae", "--distributed", "--out", together, *options),
        XLA_FLAGS=FAST_COMPILE,
    )
    assert "run folder:" in first and "run folder:" not in second
    result = json.loads((together / "result.json").read_text())
    assert "2 devices" in result["device"]
    (record,) = map(json.loads, (together / "metrics.jsonl").read_text().splitlines())
    assert record["step"] == result["steps"] == 98

    alone = vae.run(vae.Settings(out=str(tmp_path / "alone"), **SETTINGS))
    # In float32 and with Adam a different order of summation grows from the last bit.
    difference = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), load_run(together).params, load_run(alone).params
    )
    assert max(jax.tree.leaves(difference)) < 1e-3
    for name, metric in json.loads((alone / "result.json").read_text())["metrics"].items():
        assert result["metrics"][name]["value"] == pytest.approx(metric["value"], abs=1e-2)
