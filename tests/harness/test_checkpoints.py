"""Checkpoints come back bit for bit, or not at all: never silently wrong, whenever the kill."""

import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.harness import checkpoints
from experiments.harness.checkpoints import CheckpointError, latest_step, restore, save

ROOT = Path(__file__).resolve().parents[2]


class State(NamedTuple):
    params: dict
    params_average: dict
    optimizer: optax.OptState
    step: jax.Array


def make_state(value: float = 0.5) -> State:
    params = {
        "dense": {"kernel": jnp.full((3, 4), value), "a/b.c": jnp.float32([value, -0.0, 1e-45])},
        "half": jnp.bfloat16([value, 3.140625]),
    }
    optimizer = optax.adam(1e-3)
    _, moments = optimizer.update(params, optimizer.init(params))
    average = jax.tree.map(jnp.copy, params)
    return State(params, average, moments, jnp.int32(7))


def assert_identical(left: object, right: object) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert (a.dtype, a.shape, type(a)) == (b.dtype, b.shape, type(b))
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def files_of(folder: Path, step: int) -> list[Path]:
    return sorted(path for path in (folder / str(step)).rglob("*") if path.is_file())


def test_the_state_comes_back_bit_for_bit(tmp_path):
    state = make_state()
    save(tmp_path, 3, state)
    assert latest_step(tmp_path) == 3
    assert_identical(restore(tmp_path, 3, state), state)
    assert_identical(restore(tmp_path, 3, jax.eval_shape(lambda: state)), state)


def test_numpy_leaves_keys_and_special_numbers_come_back(tmp_path):
    state = {
        "double": np.array([np.nan, np.inf, 1 / 3]),
        "scalar": np.array(2, np.int64),
        "truth": jnp.array([True, False]),
        "key": jax.random.key(5),
        "keys": jax.random.split(jax.random.key(6, impl="rbg"), 3),
        "nothing": None,
        "pair": (jnp.uint8([1, 255]), ()),
    }
    save(tmp_path, 0, state)
    assert_identical(restore(tmp_path, 0, state), state)
    abstract = jax.eval_shape(lambda: state["keys"])
    restored = restore(tmp_path, 0, state | {"keys": abstract})
    assert_identical(restored, state)


def test_params_alone_can_be_restored(tmp_path):
    state = make_state()
    save(tmp_path, 1, state)
    like = jax.eval_shape(lambda: state.params)
    assert_identical(checkpoints.restore_params(tmp_path, 1, like), state.params)


def test_a_restored_state_shares_no_memory_and_can_be_donated(tmp_path):
    state = {"a": jnp.ones(4096), "b": jnp.ones(4096), "c": jnp.ones(())}
    save(tmp_path, 1, state)
    for like in (state, jax.device_put(state, jax.devices()[0])):
        restored = restore(tmp_path, 1, like)
        assert len({leaf.unsafe_buffer_pointer() for leaf in restored.values()}) == 3
        doubled = jax.jit(lambda s: jax.tree.map(lambda x: 2 * x, s), donate_argnums=0)(restored)
        assert restored["a"].is_deleted()
        np.testing.assert_array_equal(doubled["b"], 2.0)
    assert_identical(restore(tmp_path, 1, state), state)


def test_only_the_newest_are_kept(tmp_path):
    for step in range(1, 6):
        save(tmp_path, step, {"x": jnp.float32(step)}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "4",
        "4.sha256.json",
        "5",
        "5.sha256.json",
    ]
    assert restore(tmp_path, 4, {"x": jnp.float32(0)})["x"] == 4


def test_a_step_is_never_written_twice(tmp_path):
    save(tmp_path, 2, {"x": jnp.ones(2)})
    for step in (1, 2):
        with pytest.raises(ValueError, match=r"step must be above the last one .*, 2, got"):
            save(tmp_path, step, {"x": jnp.ones(2)})
    with pytest.raises(ValueError, match="keep must be at least 1"):
        save(tmp_path, 3, {"x": jnp.ones(2)}, keep=0)


def test_a_leaf_that_is_no_array_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match=r"state\['rate'\] must be a jax or numpy array, got float"):
        save(tmp_path / "new", 2, {"rate": 0.1})
    assert not (tmp_path / "new").exists()


def test_a_flipped_bit_in_any_file_is_found_and_named(tmp_path):
    state = make_state()
    save(tmp_path, 4, state)
    files = files_of(tmp_path, 4)
    assert len(files) >= 5
    for file in files:
        original = file.read_bytes()
        for position in {0, len(original) // 2, len(original) - 1}:
            corrupt = bytearray(original)
            corrupt[position] ^= 1
            file.write_bytes(corrupt)
            with pytest.raises(CheckpointError, match=re.escape(f"{file} has changed")):
                restore(tmp_path, 4, state)
        file.unlink()
        with pytest.raises(CheckpointError, match=re.escape(f"{file} is missing")):
            restore(tmp_path, 4, state)
        file.write_bytes(original)
    assert_identical(restore(tmp_path, 4, state), state)


def test_a_foreign_file_in_a_checkpoint_is_found(tmp_path):
    save(tmp_path, 4, {"x": jnp.ones(2)})
    (tmp_path / "4" / "d" / "extra").write_text("?")
    with pytest.raises(CheckpointError, match=r"4/d/extra is not its own"):
        restore(tmp_path, 4, {"x": jnp.ones(2)})


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"_METADATA": "12', b"\xff\xfe"])
def test_corrupt_digests_are_found_and_the_remedy_works(tmp_path, content):
    like = {"x": jnp.ones(2)}
    save(tmp_path, 4, like)
    save(tmp_path, 8, {"x": jnp.zeros(2)})
    digests = tmp_path / "8.sha256.json"
    digests.write_bytes(content)
    remedy = f"To go back to the checkpoint of step 4, delete {digests}"
    with pytest.raises(CheckpointError, match=re.escape(remedy)):
        restore(tmp_path, 8, like)
    digests.unlink()
    assert latest_step(tmp_path) == 4
    assert_identical(restore(tmp_path, 4, like), like)
    save(tmp_path, 8, like)
    assert_identical(restore(tmp_path, 8, like), like)


def test_the_last_checkpoint_says_that_the_run_would_start_again(tmp_path):
    save(tmp_path, 4, {"x": jnp.ones(2)})
    shutil.rmtree(tmp_path / "4")
    with pytest.raises(CheckpointError, match="To go back to the start of the run, delete"):
        restore(tmp_path, 4, {"x": jnp.ones(2)})


def test_a_checkpoint_that_is_not_there_is_named(tmp_path):
    assert latest_step(tmp_path / "nowhere") is None
    with pytest.raises(CheckpointError, match="has no checkpoint of step 4"):
        restore(tmp_path, 4, {"x": jnp.ones(2)})


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"w": jnp.ones((2, 3)), "b": jnp.ones(3)}, r"state\['b'\] is not in checkpoint 1 of"),
        ({}, r"state\['w'\] is not wanted, but in checkpoint 1 of"),
        ({"w": jnp.ones((3, 2))}, r"state\['w'\] is float32\[2, 3\] in .* but float32\[3, 2\]"),
        ({"w": jnp.ones((2, 3), jnp.bfloat16)}, r"state\['w'\] is float32.*but bfloat16\[2, 3\]"),
        ({"w": jax.random.key(0)}, r"state\['w'\] is float32.*but uint32\[2\] is wanted"),
    ],
)
def test_a_state_of_another_form_is_refused(tmp_path, like, message):
    save(tmp_path, 1, {"w": jnp.ones((2, 3))})
    with pytest.raises(CheckpointError, match=message):
        restore(tmp_path, 1, like)


class CrashError(Exception):
    """What a test raises in the middle of a save."""


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (checkpoints, "_checkpointer", 0),
        (checkpoints, "_fsync", 0),
        (checkpoints, "_digests", 0),
        (checkpoints.os, "replace", 0),
        (checkpoints.shutil, "rmtree", 0),
        (checkpoints.shutil, "rmtree", 1),
    ],
)
def test_a_crash_at_any_point_of_a_save_leaves_a_good_checkpoint(
    tmp_path, monkeypatch, owner, name, call
):
    like = {"x": jnp.zeros(3)}
    save(tmp_path, 1, {"x": jnp.full(3, 1.0)}, keep=1)
    (tmp_path / "0").mkdir()  # left behind by an earlier kill
    original, calls = getattr(owner, name), []

    def crash(*args, **kwargs):
        if owner is not checkpoints.os or str(args[1]).endswith(".json"):
            calls.append(args)
        if len(calls) == call + 1:
            raise CrashError
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, crash)
        with pytest.raises(CrashError):
            save(tmp_path, 2, {"x": jnp.full(3, 2.0)}, keep=1)
    step = latest_step(tmp_path)
    assert step in (1, 2)
    np.testing.assert_array_equal(restore(tmp_path, step, like)["x"], step)
    save(tmp_path, 3, {"x": jnp.full(3, 3.0)}, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "3.sha256.json"]


SAVE_FOREVER = """
import itertools, sys
import numpy as np
from experiments.harness.checkpoints import latest_step, save
first = (latest_step(sys.argv[1]) or 0) + 1
print("ready", flush=True)
for step in itertools.count(first):
    save(sys.argv[1], step, {"x": np.full(1000, step), "y": np.float32(step)}, keep=1)
"""


def test_a_process_killed_while_it_saves_leaves_a_good_checkpoint(tmp_path):
    like, generator, last = {"x": np.full(1000, 0), "y": np.float32(0)}, random.Random(0), 0
    for _ in range(4):
        command = [sys.executable, "-c", SAVE_FOREVER, str(tmp_path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout.readline() == b"ready\n"
                deadline = time.monotonic() + 60
                while (latest_step(tmp_path) or 0) <= last and time.monotonic() < deadline:
                    time.sleep(0.01)
                time.sleep(generator.uniform(0, 0.2))
            finally:
                process.kill()  # SIGKILL
        step = latest_step(tmp_path)
        assert step > last
        restored = restore(tmp_path, step, like)
        np.testing.assert_array_equal(restored["x"], step)
        assert restored["y"] == step
        last = step


ON_A_MESH = """
import sys
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_num_cpu_devices", 4)
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from experiments.harness.checkpoints import restore, save
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
state = {"all": jax.device_put(np.arange(4096.0), NamedSharding(mesh, P())),
         "part": jax.device_put(np.arange(4096.0), NamedSharding(mesh, P("data"))),
         "one": jax.device_put(np.arange(3), jax.devices()[2])}
save(sys.argv[1], 1, state)
restored = restore(sys.argv[1], 1, state)
for name, leaf in state.items():
    assert restored[name].sharding == leaf.sharding, name
    np.testing.assert_array_equal(restored[name], leaf)
    memory = {shard.data.unsafe_buffer_pointer() for shard in restored[name].addressable_shards}
    assert len(memory) == len(leaf.addressable_shards), name
doubled = jax.jit(lambda x: 2 * x, donate_argnums=0)(restored["all"])
for shard in doubled.addressable_shards:
    np.testing.assert_array_equal(shard.data, 2 * np.arange(4096.0))
"""


def test_shardings_over_a_mesh_come_back(tmp_path):
    subprocess.run([sys.executable, "-c", ON_A_MESH, str(tmp_path)], cwd=ROOT, check=True)


IN_TWO_PROCESSES = """
import sys
import jax, numpy as np
folder, address, process = sys.argv[1], sys.argv[2], int(sys.argv[3])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, 2, process)
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from experiments.harness.checkpoints import latest_step, restore, save
mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
double = jax.jit(lambda x: 2 * x, out_shardings=NamedSharding(mesh, P()))
state = {"x": double(np.arange(8.0))}
save(folder, 1, state)
multihost_utils.sync_global_devices("saved")
assert latest_step(folder) == 1
restored = restore(folder, 1, state)
assert restored["x"].sharding == state["x"].sharding
np.testing.assert_array_equal(double(restored["x"]), 4 * np.arange(8.0))
split = jax.jit(lambda x: 2 * x, out_shardings=NamedSharding(mesh, P("data")))
try:
    save(folder, 2, {"x": split(np.arange(8.0))})
except ValueError as error:
    assert "state['x'] is split over several processes" in str(error)
else:
    raise SystemExit("an array that no process holds whole was saved")
"""


def test_two_processes_save_once_and_restore_both(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    commands = [
        [sys.executable, "-c", IN_TWO_PROCESSES, str(tmp_path), address, str(process)]
        for process in range(2)
    ]
    processes = [subprocess.Popen(command, cwd=ROOT, env=os.environ) for command in commands]
    try:
        assert [process.wait(timeout=60) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
