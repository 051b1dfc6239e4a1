"""Real runs, killed at random times and resumed: they end as if nothing had happened."""

import hashlib
import json
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments import harness, vae
from experiments.harness import checkpoints, experiment, variational
from experiments.harness.checkpoints import CheckpointError
from experiments.harness.run import load_config
from tests import programs

# 28 dispatches of about a hundredth of a second each; every one ends with a checkpoint.
SETTINGS = {
    "num_epochs": 200,
    "hidden": (16,),
    "latent_dim": 2,
    "evaluation_samples": 10,
    "checkpoint_seconds": 0.0,
}
NUM_STEPS = 2800


class KilledError(Exception):
    """Stands for a kill, where there need be none."""


def start(out: Path, cache: Path, *more: str) -> subprocess.Popen[str]:
    """The command with these settings; the first one compiles, the others read what it compiled."""
    options = [
        f"--{name.replace('_', '-')}={value[0] if isinstance(value, tuple) else value}"
        for name, value in SETTINGS.items()
    ]
    return programs.start(
        *("-m", "experiments.vae", "--out", out, *options, *more),
        JAX_COMPILATION_CACHE_DIR=cache,
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    )


@pytest.fixture
def begun(tmp_path, monkeypatch) -> Path:
    """The folder of a run that was killed before its first step."""

    def killed(*_: Any, **__: Any) -> None:
        raise KilledError

    np.save(tmp_path / "data.npy", np.eye(40, 4))
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "train", killed)
        with pytest.raises(KilledError):
            vae.run(small_settings(tmp_path / "run", resume=False))
    return tmp_path / "run"


def small_settings(out: Path, **changed: Any) -> vae.Settings:
    data = str(out.parent / "data.npy")
    return settings_of(out, **{"data": data, "batch_size": 8, "hidden": (3,)} | changed)


def settings_of(out: Path, **changed: Any) -> vae.Settings:
    return vae.Settings(**SETTINGS | {"out": str(out), "resume": True} | changed)


def digests(folder: Path) -> dict[Path, str]:
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def records_of(folder: Path) -> list[dict[str, Any]]:
    """The records without what the clock says; a line that is none is an error."""
    text = (folder / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    return [
        {name: value for name, value in json.loads(line).items() if "seconds" not in name}
        for line in text.splitlines()
    ]


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text()) | {"seconds": None}


def last_state(folder: Path) -> Any:
    """Everything in the last checkpoint, the optimizer's moments included."""
    config = load_config(folder)
    settings = settings_of(folder)
    model = vae.build_model(settings, config["data"])
    algorithm = variational.build_algorithm(settings, model, steps_per_epoch=14)
    like = jax.eval_shape(algorithm.init, jax.random.key(0))
    step = checkpoints.latest_step(folder / "checkpoints")
    return checkpoints.restore(folder / "checkpoints", step, like)


def assert_identical(left: Any, right: Any) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def assert_ended_alike(left: Path, right: Path) -> None:
    """Fails unless all that two runs left behind is the same, but for what the clock says."""
    assert_identical(last_state(left), last_state(right))
    assert_identical(harness.load_run(left).params, harness.load_run(right).params)
    assert records_of(left) == records_of(right)
    assert result_of(left) == result_of(right)
    pictures = sorted(path.name for path in left.glob("*.png"))
    assert pictures == sorted(path.name for path in right.glob("*.png"))
    for name in pictures:
        assert (left / name).read_bytes() == (right / name).read_bytes(), name


def assert_nothing_half_written(folder: Path) -> None:
    load_config(folder)
    if (folder / "metrics.jsonl").exists():
        *lines, cut_short = (folder / "metrics.jsonl").read_text().split("\n")
        assert cut_short == "" or cut_short.startswith('{"step"')
        steps = [json.loads(line)["step"] for line in lines]
        assert steps == sorted(set(steps))
    if checkpoints.latest_step(folder / "checkpoints") is not None:
        last_state(folder)  # verifies the digests of its files


def last_step(folder: Path) -> int:
    return checkpoints.latest_step(folder / "checkpoints") or 0


def test_a_run_killed_at_random_times_ends_as_one_never_killed(tmp_path):
    whole, path, cache = (tmp_path / name for name in ("whole", "run", "cache"))
    times = random.Random(0)
    printed = programs.finish(start(whole, cache))

    def killed_after(has_come: Callable[[], bool], seconds: float) -> None:
        """Starts or resumes the run, and kills it so many seconds after something came."""
        process = start(path, cache, *["--resume"] if path.exists() else [])
        try:
            while not has_come() and process.poll() is None:
                time.sleep(0.01)
            time.sleep(seconds)
        finally:
            process.kill()
            process.communicate()
        assert_nothing_half_written(path)

    # Before the first checkpoint: the next one begins at step 0 in the same folder.
    killed_after((path / "config.json").exists, 0.0)
    assert last_step(path) == 0
    # While it trains and saves, each time later on.
    for fraction in (0.05, 0.3, 0.6):
        goal = fraction * NUM_STEPS
        killed_after(lambda goal=goal: last_step(path) > goal, times.uniform(0, 0.3))
        assert last_step(path) > goal
    # While it measures and draws.
    killed_after(lambda: last_step(path) == NUM_STEPS, times.uniform(0, 2))
    programs.finish(start(path, cache, "--resume"))
    assert_ended_alike(path, whole)
    assert [record["step"] for record in records_of(path)] == [*range(100, NUM_STEPS + 1, 100)]

    # Resuming a finished run changes nothing and prints its result again.
    before = digests(whole)
    printed_again = programs.finish(start(whole, cache, "--resume"))
    assert digests(whole) == before
    assert printed_again.strip() == printed[printed.index(printed_again.lstrip()[:20]) :].strip()


def test_resuming_with_other_settings_is_refused_by_their_names(begun):
    before = digests(begun)
    with pytest.raises(ValueError, match="was started differently") as refused:
        vae.run(small_settings(begun, seed=1, hidden=(3, 2)))
    assert str(refused.value).splitlines()[1:] == [
        "  hidden: [3] then, [3, 2] now",
        "  seed: 0 then, 1 now",
    ]
    assert digests(begun) == before


def test_resuming_with_other_data_under_the_same_name_is_refused(begun):
    before = digests(begun)
    np.save(begun.parent / "data.npy", 1 - np.eye(40, 4))
    with pytest.raises(ValueError, match=r"started differently:\n  data.train_sha256: '"):
        vae.run(small_settings(begun))
    assert digests(begun) == before


def test_the_folder_of_another_run_is_refused(begun):
    before = digests(begun)
    with pytest.raises(ValueError, match=r"--out: .* holds another run; use --resume"):
        vae.run(small_settings(begun, resume=False))
    assert digests(begun) == before


def test_a_flipped_bit_in_a_checkpoint_is_named_and_nothing_is_trained_again(begun):
    settings, data = small_settings(begun), load_config(begun)["data"]
    algorithm = variational.build_algorithm(
        settings, vae.build_model(settings, data), steps_per_epoch=4
    )
    like = jax.eval_shape(algorithm.init, jax.random.key(0))
    state = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), like)
    checkpoints.save(begun / "checkpoints", 100, state)
    files = [path for path in (begun / "checkpoints" / "100").rglob("*") if path.is_file()]
    largest = max(files, key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    before = digests(begun)
    for use in (lambda: vae.run(settings), lambda: harness.load_run(begun)):
        with pytest.raises(CheckpointError, match=f"corrupt .* step 100: {largest} has changed"):
            use()
    assert digests(begun) == before
