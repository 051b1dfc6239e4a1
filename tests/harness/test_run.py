"""A run's folder: nothing in it is overwritten, mixed up or left half-written."""

import dataclasses
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness import checkpoints
from experiments.harness.run import Run, describe_device, load_config, load_run, versions

ROOT = Path(__file__).resolve().parents[2]
DATA = {"name": "digits", "num_dims": 4, "example_shape": (2, 2)}


@dataclasses.dataclass(frozen=True)
class Settings:
    hidden: tuple[int, ...] = (20, 10)
    learning_rate: float = 1e-3
    beta: float | None = None
    out: str | None = None


def open_run(
    folder: Path | None, resume: bool = False, data: dict | None = None, **changed: Any
) -> Run:
    return Run.open(
        None if folder is None else str(folder),
        experiment="toy",
        settings=Settings(**changed),
        extra_config={"data": data or DATA},
        resume=resume,
        ignored=("out",),
    )


def test_a_run_without_a_folder_gets_a_new_one_each_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda _: "20250101-120000")
    for expected in ("toy-20250101-120000", "toy-20250101-120000-2", "toy-20250101-120000-3"):
        with open_run(None) as run:
            assert run.path == Path("runs", expected)
            assert run.config == load_config(run.path)


def test_the_config_says_what_was_run_and_with_what(tmp_path):
    with open_run(tmp_path / "a" / "b", beta=0.5):
        config = json.loads((tmp_path / "a" / "b" / "config.json").read_text())
    assert config["experiment"] == "toy"
    assert config["settings"] == dataclasses.asdict(Settings(beta=0.5)) | {"hidden": [20, 10]}
    assert config["data"] == DATA | {"example_shape": [2, 2]}
    assert config["versions"] == versions()
    assert config["versions"]["jax"] == jax.__version__


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    def version(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert versions()["optax"] == "not installed"


def test_the_folder_of_another_run_is_refused_and_left_alone(tmp_path):
    open_run(tmp_path).close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="holds another run; use --resume or another --out"):
        open_run(tmp_path, beta=2.0)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_other_files_is_refused_and_left_alone(tmp_path, resume):
    (tmp_path / "thesis.tex").write_text("dear reader")
    message = "it has no config.json" if resume else "holds other files"
    with pytest.raises(ValueError, match=message):
        open_run(tmp_path, resume)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file, not a folder"):
        open_run(tmp_path / "file")


def test_resume_needs_a_folder_that_is_there(tmp_path):
    with pytest.raises(ValueError, match="--resume needs --out"):
        open_run(None, resume=True)
    with pytest.raises(ValueError, match=r"--resume: there is no run in .*/absent"):
        open_run(tmp_path / "absent", resume=True)
    assert not (tmp_path / "absent").exists()


def test_a_run_killed_before_it_had_a_config_begins_again(tmp_path):
    (tmp_path / "config.json.tmp").write_text('{"experim')
    for resume in (True, False):
        with open_run(tmp_path, resume) as run:
            assert load_config(tmp_path) == run.config
        (tmp_path / "config.json").rename(tmp_path / "config.json.tmp")


def test_resume_goes_on_with_the_same_settings_only(tmp_path):
    with open_run(tmp_path, out="here") as run:
        stored = run.config
    with open_run(tmp_path, resume=True, out="there") as run:
        assert run.config == stored == load_config(tmp_path)
    with pytest.raises(ValueError) as error:
        open_run(tmp_path, resume=True, hidden=(20,), beta=2.0, data=DATA | {"num_dims": 9})
    assert str(error.value).splitlines()[1:] == [
        "  beta: None then, 2.0 now",
        "  data.num_dims: 4 then, 9 now",
        "  hidden: [20, 10] then, [20] now",
    ]


def test_resume_of_another_experiment_is_refused(tmp_path):
    open_run(tmp_path).close()
    with pytest.raises(ValueError, match="experiment: 'toy' then, 'other' now"):
        Run.open(str(tmp_path), experiment="other", settings=Settings(), resume=True)


IN_ANOTHER_PROCESS = """
import dataclasses, sys, time
from experiments.harness.run import Run
Settings = dataclasses.make_dataclass("Settings", [])
run = Run.open(sys.argv[1], experiment="toy", settings=Settings())
print("open", flush=True)
time.sleep(60)
"""


def test_one_process_at_a_time_works_in_a_folder_and_a_kill_frees_it(tmp_path):
    with open_run(tmp_path / "here"), pytest.raises(ValueError, match="another process is running"):
        open_run(tmp_path / "here", resume=True)
    open_run(tmp_path / "here", resume=True).close()
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(tmp_path / "there")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(ValueError, match="another process is running"):
            open_run(tmp_path / "there", resume=True)
        process.kill()
    with pytest.raises(ValueError, match="was started differently"):
        open_run(tmp_path / "there", resume=True)


def test_records_are_on_disk_at_once_and_come_back(tmp_path):
    with open_run(tmp_path) as run:
        assert run.records() == []
        run.log(10, {"loss": jnp.float32(0.5), "beta": 1})
        run.log(20, {"loss": np.float64(0.25)})
        assert run.records() == [{"step": 10, "loss": 0.5, "beta": 1}, {"step": 20, "loss": 0.25}]
    assert scalars(tmp_path) == {("loss", 10): 0.5, ("beta", 10): 1.0, ("loss", 20): 0.25}


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    """What TensorBoard shows: a session log drops what came before it from its step on."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    shown: dict[tuple[str, int], float] = {}
    for path in sorted((folder / "tensorboard").iterdir()):
        content, position = path.read_bytes(), 0
        while position < len(content):
            length = int.from_bytes(content[position : position + 8], "little")
            event = Event.FromString(content[position + 12 : position + 12 + length])
            position += 16 + length
            if event.session_log.status == SessionLog.START:
                shown = {key: value for key, value in shown.items() if key[1] < event.step}
            shown |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    return shown


@pytest.mark.parametrize("half_written", [b"", b'{"step": 40, "lo', b'{"step": 40, "loss": 1.0}'])
def test_a_restored_run_drops_the_records_after_its_checkpoint(tmp_path, half_written):
    with open_run(tmp_path) as run:
        for step in (10, 20, 30):
            run.log(step, {"loss": step / 10})
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(half_written)
    with open_run(tmp_path, resume=True) as run:
        assert [record["step"] for record in run.records()] == [10, 20, 30]
        run.rewind(20)
        assert [record["step"] for record in run.records()] == [10, 20]
        run.log(30, {"loss": 7.0})
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == [
        '{"step": 10, "loss": 1.0}',
        '{"step": 20, "loss": 2.0}',
        '{"step": 30, "loss": 7.0}',
    ]
    assert scalars(tmp_path) == {("loss", 10): 1.0, ("loss", 20): 2.0, ("loss", 30): 7.0}


def test_a_resumed_run_that_starts_over_logs_nothing_twice(tmp_path):
    for loss in (1.0, 2.0):
        with open_run(tmp_path, resume=loss > 1) as run:
            run.log(0, {"loss": loss})
            run.log(10, {"loss": loss})
            assert run.records() == [{"step": 0, "loss": loss}, {"step": 10, "loss": loss}]


def test_a_corrupt_record_is_named(tmp_path):
    with open_run(tmp_path) as run:
        (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": \xff}\n')
        with pytest.raises(ValueError, match=r"line 2 of .*metrics\.jsonl is corrupt"):
            run.records()


@pytest.mark.parametrize("value", [float("nan"), np.float32("inf"), jnp.float32(-jnp.inf)])
def test_numbers_that_are_not_finite_are_never_written(tmp_path, value):
    with open_run(tmp_path) as run:
        with pytest.raises(ValueError, match=r"record of step 3\['loss'\] must be finite, got"):
            run.log(3, {"loss": value})
        with pytest.raises(ValueError, match=r"result\['metrics'\]\[0\] must be finite"):
            run.write_result({"metrics": [value]})
        assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_the_result_marks_a_finished_run(tmp_path):
    with open_run(tmp_path) as run:
        assert run.result() is None
        run.write_result({"steps": np.int64(3), "bound": "lower", "value": jnp.float32(-1.5)})
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with open_run(tmp_path, resume=True) as run:
        assert run.result() == {"steps": 3, "bound": "lower", "value": -1.5}
        assert list(run.result()) == ["steps", "bound", "value"]
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["config.json", "result.json"])
@pytest.mark.parametrize("content", [b"", b'{"steps": ', b"[1]"])
def test_a_corrupt_file_is_named(tmp_path, name, content):
    with open_run(tmp_path) as run:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(f"{tmp_path / name} is corrupt")):
            load_config(tmp_path) if name == "config.json" else run.result()


class Model(NamedTuple):
    init: Any


class State(NamedTuple):
    params: dict
    moments: dict


@pytest.fixture
def toy_experiment(monkeypatch):
    """An experiment as load_run wants it: `Settings` and `build_model`."""

    def build_model(settings: Settings, data: dict) -> Model:
        assert isinstance(settings.hidden, tuple)
        assert data == DATA
        shape = (data["num_dims"], *settings.hidden)
        return Model(init=lambda key: {"w": jax.random.normal(key, shape)})

    module = ModuleType("experiments.toy")
    module.Settings, module.build_model = Settings, build_model
    monkeypatch.setitem(sys.modules, "experiments.toy", module)


def test_load_run_gives_back_model_parameters_and_settings(tmp_path, toy_experiment):
    with open_run(tmp_path, beta=0.5) as run, pytest.raises(ValueError, match="no checkpoint yet"):
        load_run(run.path)
    for step in (1, 2):
        state = State({"w": jnp.full((4, 20, 10), 2.0 * step)}, {"w": jnp.zeros(3)})
        checkpoints.save(run.checkpoints, step, state)
    loaded = load_run(str(tmp_path))
    assert loaded.settings == Settings(beta=0.5)
    np.testing.assert_array_equal(loaded.params["w"], 4.0)
    assert loaded.model.init(jax.random.key(0))["w"].shape == (4, 20, 10)


def test_load_run_names_what_is_wrong(tmp_path, toy_experiment):
    with pytest.raises(ValueError, match="nowhere is not the folder of a run"):
        load_run(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"experiment": "toy"}')
    with pytest.raises(ValueError, match=r"is not the config\.json of a run"):
        load_run(tmp_path)
    (tmp_path / "config.json").unlink()
    with open_run(tmp_path) as run:
        checkpoints.save(run.checkpoints, 1, State({"w": jnp.zeros(3)}, {}))
        with pytest.raises(checkpoints.CheckpointError, match=r"state\.params\['w'\] is float32"):
            load_run(tmp_path)


def test_the_device_is_described():
    assert re.fullmatch(r"cpu \(\d+ cores( as \d+ devices)?\)|.+ x\d+", describe_device())
