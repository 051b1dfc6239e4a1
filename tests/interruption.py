"""A run that is killed after its first checkpoint and resumed, beside one that was left alone."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments import harness
from experiments.harness import checkpoints


class KilledError(Exception):
    """Stands for a kill, where there need be none."""


def run_in_two_parts(
    run: Callable[[Any], Path], settings: Any, monkeypatch: pytest.MonkeyPatch, *, step: int = 100
) -> None:
    """Runs until the first checkpoint is written, which must be that of `step`, and resumes."""
    save = checkpoints.save

    def save_and_stop(*arguments: Any) -> None:
        save(*arguments)
        raise KilledError

    folder = Path(settings.out)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", save_and_stop)
        with pytest.raises(KilledError):
            run(settings)
    assert checkpoints.latest_step(folder / "checkpoints") == step
    assert not (folder / "result.json").exists()
    run(dataclasses.replace(settings, resume=True))


def assert_same_end(folder: Path, other: Path) -> None:
    """Fails unless two runs have the same parameters, to the bit, and the same metrics."""
    ours, theirs = (jax.tree.leaves(harness.load_run(path).params) for path in (folder, other))
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(left, right)
    metrics = [
        json.loads((path / "result.json").read_text())["metrics"] for path in (folder, other)
    ]
    assert metrics[0] == metrics[1]
