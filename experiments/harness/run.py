"""The folder of one run: what it was asked, what it measured, how it ended.

    config.json      the experiment, its settings, the versions of everything; never changes
    metrics.jsonl    one line a record: {"step": ..., name: value, ...}
    tensorboard/     the same, for TensorBoard
    checkpoints/     see `checkpoints`
    result.json      written last; a run that has it is finished

Every file is replaced as a whole, or grows by lines of which a kill can only cut the last.
"""

import dataclasses
import fcntl
import importlib
import importlib.metadata
import json
import math
import os
import platform
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from experiments.harness import checkpoints
from experiments.harness.checkpoints import write_atomically

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "distrax", "numpy", "genjax_models")


class Run:
    """The folder of a run that this process works in; one process at a time can.

    In a program of several processes each opens the run: the first one owns the folder and writes
    to it, the others only read.

    Attributes:
        path: the folder.
        config: what `config.json` holds.
        checkpoints: the folder of its checkpoints.
    """

    def __init__(self, path: Path, config: dict[str, Any], lock: int | None) -> None:
        """Use `Run.open`; `lock` is an open descriptor of the folder, None where others write."""
        self.path = path
        self.config = config
        self.checkpoints = path / "checkpoints"
        self._lock = lock
        self._metrics: Any = None
        self._tensorboard: Any = None

    @classmethod
    def open(
        cls,
        out: str | None,
        *,
        experiment: str,
        settings: Any,
        extra_config: Mapping[str, Any] | None = None,
        resume: bool = False,
        ignored: Collection[str] = (),
    ) -> Self:
        """Start a run in a new folder, or go on with the one that is there.

        Args:
            out: the folder; None makes a new one, `runs/EXPERIMENT-DATE-TIME`.
            experiment: the name of its module in `experiments`.
            settings: a dataclass that JSON can hold.
            extra_config: more of what defines the run, for `config.json`.
            resume: go on with the run in `out` (from step 0 if it was killed before anything else).
            ignored: the settings that may differ in a resumed run, since they do not change its
                result.

        Raises:
            ValueError: `out` holds something else, another process works there, there is nothing to
                resume, or the run was started with other settings (the message lists them all).
        """
        config = _config(experiment, settings, extra_config or {})
        if out is None and resume:
            raise ValueError("--resume needs --out, the folder of the run to go on with")
        if out is None and jax.process_count() > 1:
            raise ValueError("a run of several processes needs --out, the folder that they share")
        if jax.process_index() != 0:
            return cls(Path(str(out)), config, None)
        path = _new_folder(experiment) if out is None else Path(out)
        if resume and not path.exists():
            raise ValueError(f"--resume: there is no run in {path}, since there is no such folder")
        if path.exists() and not path.is_dir():
            raise ValueError(f"--out: {path} is a file, not a folder")
        path.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
        try:
            return cls(path, _claim(path, config, resume, ignored), lock)
        except BaseException:
            os.close(lock)
            raise

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Append a record to `metrics.jsonl` and TensorBoard; it is on disk when this returns.

        Lists, such as examples drawn on the way, are kept in the first alone.

        The first record of a resumed run drops those of the killed one from the same step on.

        Raises:
            ValueError: a value is NaN or infinite (the message names it).
        """
        line = _to_json({"step": int(step), **metrics}, f"the record of step {step}")
        if self._lock is None:
            return
        if self._metrics is None:
            self.rewind(step - 1)
        self._metrics.write(line + "\n")
        self._metrics.flush()
        for name, value in metrics.items():
            if not isinstance(value, list):
                self._tensorboard.add_scalar(name, float(value), step)
        self._tensorboard.flush()

    def rewind(self, step: int) -> None:
        """Drop the records after `step`, the last one that a restored run has done."""
        if self._lock is None:
            return
        self._close_logs()
        path = self.path / "metrics.jsonl"
        if path.exists():
            kept = (record for record in self.records() if record["step"] <= step)
            write_atomically(path, "".join(json.dumps(record) + "\n" for record in kept))
        from tensorboardX import SummaryWriter

        self._metrics = path.open("a", encoding="utf-8")
        # The name that it makes of the second alone could be that of a file which is there.
        self._tensorboard = SummaryWriter(
            str(self.path / "tensorboard"),
            purge_step=step + 1,
            filename_suffix=f".{time.time_ns()}",
        )

    def records(self) -> list[dict[str, Any]]:
        """The records logged so far, oldest first; one that a kill cut short is left out.

        Raises:
            ValueError: a line is not a record (the message names the file and the line).
        """
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        records = []
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"line {number} of {path} is corrupt: {error}") from None
        return records

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write `result.json`, which marks the run as finished.

        Raises:
            ValueError: a number is NaN or infinite (the message names it).
        """
        text = _to_json(result, "result", indent=2)
        if self._lock is not None:
            write_atomically(self.path / "result.json", text + "\n")

    def result(self) -> dict[str, Any] | None:
        """What `result.json` holds; None where the run is not finished."""
        path = self.path / "result.json"
        return _read_json(path) if path.exists() else None

    def close(self) -> None:
        """Close the logs and let another process work in the folder."""
        self._close_logs()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _close_logs(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
            self._tensorboard.close()
            self._metrics = self._tensorboard = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class LoadedRun(NamedTuple):
    """A trained model: `model.sample(params, key)` and the like work at once."""

    model: Any
    params: Any
    settings: Any


def load_run(folder: str | Path) -> LoadedRun:
    """Give back the model, the parameters and the settings of a run's last checkpoint.

    The experiment's module must have `Settings` and `build_model(settings, data)`, where `data`
    is what the run stored under that name in `config.json`.

    Raises:
        ValueError: `folder` is not the folder of a run, or has no checkpoint yet.
        CheckpointError: the checkpoint is corrupt, or of another model.
    """
    config = load_config(folder)
    step = checkpoints.latest_step(Path(folder) / "checkpoints")
    if step is None:
        raise ValueError(f"the run in {folder} has no checkpoint yet")
    experiment = importlib.import_module(f"experiments.{config['experiment']}")
    settings = experiment.Settings(**_tuples(config["settings"]))
    model = experiment.build_model(settings, _tuples(config.get("data", {})))
    like = jax.eval_shape(model.init, jax.random.key(0))
    params = checkpoints.restore_params(Path(folder) / "checkpoints", step, like)
    return LoadedRun(model, params, settings)


def load_config(folder: str | Path) -> dict[str, Any]:
    """What the `config.json` of a run holds.

    Raises:
        ValueError: `folder` is not the folder of a run, or the file is corrupt.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not the folder of a run: it has no config.json")
    config = _read_json(path)
    if not {"experiment", "settings"} <= config.keys():
        raise ValueError(f"{path} is not the config.json of a run: no experiment, no settings")
    return config


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def describe_device() -> str:
    """The devices in words: "cpu (2 cores)", "NVIDIA H200 x1"."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{device.device_kind} x{jax.device_count()}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    simulated = f" as {jax.device_count()} devices" if jax.device_count() > 1 else ""
    return f"cpu ({cores} cores{simulated})"


def _config(experiment: str, settings: Any, extra: Mapping[str, Any]) -> dict[str, Any]:
    config = {"experiment": experiment, "settings": dataclasses.asdict(settings), **extra}
    # Through JSON and back, so that what is compared later is what was stored: lists, not tuples.
    return json.loads(_to_json(config | {"versions": versions()}, "config"))


def _new_folder(experiment: str) -> Path:
    name = f"{experiment}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = Path("runs", name), 1
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            number += 1
            path = path.with_name(f"{name}-{number}")


def _lock(path: Path) -> int:
    """Lock the folder until its descriptor is closed, which the end of the process does too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ValueError(f"--out: another process is running in {path}") from None
    except OSError:
        pass  # Some network file systems have no locks; that is no reason not to run.
    return descriptor


def _claim(
    path: Path, config: dict[str, Any], resume: bool, ignored: Collection[str]
) -> dict[str, Any]:
    """Write `config.json` in an empty folder, or check it in that of a resumed run."""
    # A kill may leave the unfinished config.json of a run that never began.
    if not {file.name for file in path.iterdir()} - {"config.json.tmp"}:
        write_atomically(path / "config.json", json.dumps(config, indent=2) + "\n")
        return config
    if not resume:
        held = "another run" if (path / "config.json").exists() else "other files"
        raise ValueError(f"--out: {path} holds {held}; use --resume or another --out")
    stored = load_config(path)
    before, now = _flat(stored), _flat(config)
    changed = [
        f"  {name}: {before.get(name)!r} then, {now.get(name)!r} now"
        for name in sorted((before.keys() | now.keys()) - set(ignored))
        if before.get(name) != now.get(name)
    ]
    if changed:
        differences = "\n".join(changed)
        raise ValueError(f"--resume: the run in {path} was started differently:\n{differences}")
    return stored


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """What defines a run: each setting by its name, the rest as `data.num_dims` and the like."""
    flat = dict(config["settings"])
    for name, value in config.items():
        if isinstance(value, dict) and name not in ("settings", "versions"):
            flat |= {f"{name}.{key}": part for key, part in value.items()}
    return flat | {"experiment": config["experiment"]}


def _to_json(value: Any, what: str, indent: int | None = None) -> str:
    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        number = isinstance(leaf, float | np.floating | jax.Array)
        if number and not math.isfinite(leaf):
            name = jax.tree_util.keystr(path)
            raise ValueError(f"{what}{name} must be finite, got {float(leaf)}")
    return json.dumps(value, indent=indent, allow_nan=False, default=lambda scalar: scalar.item())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is corrupt: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is corrupt: not a JSON object")
    return value


def _tuples(value: Any) -> Any:
    """Lists as the tuples that they were before JSON."""
    if isinstance(value, dict):
        return {name: _tuples(part) for name, part in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
