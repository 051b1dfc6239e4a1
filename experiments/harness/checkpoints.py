"""Checkpoints: a pytree on disk, every file of it verified before it is restored.

    FOLDER/STEP/               what orbax wrote: a dictionary {name of the leaf: array}
    FOLDER/STEP.sha256.json    {file: SHA-256}; written last, it is what commits the checkpoint

A process may be killed at any moment. A step's folder without its digests is an interrupted save
(or an interrupted removal): it is never restored, and the next save clears it away.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_DIGESTS = ".sha256.json"


class CheckpointError(RuntimeError):
    """A checkpoint is corrupt, or does not hold what was asked of it."""


def save(folder: str | Path, step: int, state: Any, *, keep: int = 2) -> None:
    """Write `state` as the checkpoint of `step`; it is complete when this returns.

    In a program of several processes all of them call this, and the first one writes.

    Args:
        folder: where the checkpoints of a run are; made if need be.
        step: a whole number above every step already saved here.
        state: a pytree of jax and numpy arrays (typed keys too), none of them empty. An array that
            is spread over several processes must be replicated.
        keep: how many of the newest checkpoints, this one included, stay on disk.

    Raises:
        TypeError: a leaf is not an array.
        ValueError: `step` or `keep` is out of range, or a leaf cannot be saved.
    """
    folder = Path(folder).absolute()  # orbax takes no relative path
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    leaves = {name: _to_host(name, leaf) for name, leaf in _named_leaves("state", state)}
    if jax.process_index() != 0:
        return
    committed = _committed_steps(folder)
    if step < 0 or (committed and step <= committed[-1]):
        above = f"above the last one in {folder}, {committed[-1]}" if committed else "at least 0"
        raise ValueError(f"step must be {above}, got {step}")

    from orbax.checkpoint.args import PyTreeSave

    folder.mkdir(parents=True, exist_ok=True)
    _remove_interrupted(folder)
    checkpoint = folder / str(step)
    _checkpointer().save(checkpoint, args=PyTreeSave(leaves))
    for path in (checkpoint, *checkpoint.rglob("*")):
        _fsync(path)
    write_atomically(_digests_path(folder, step), json.dumps(_digests(checkpoint), indent=1) + "\n")
    for old in [*committed, step][:-keep]:
        # The digests go first: a kill in between leaves an interrupted save, not a corrupt one.
        _digests_path(folder, old).unlink()
        shutil.rmtree(folder / str(old), ignore_errors=True)


def latest_step(folder: str | Path) -> int | None:
    """The step of the newest complete checkpoint in `folder`; None where there is none."""
    return max(_committed_steps(Path(folder)), default=None)


def restore(folder: str | Path, step: int, like: Any) -> Any:
    """Read back the state that `save` wrote, after verifying every file of the checkpoint.

    Args:
        folder: where the checkpoints of a run are.
        step: which of them.
        like: a pytree of arrays or `jax.ShapeDtypeStruct`s with the structure, shapes, dtypes and
            shardings of the state; its values are not used.

    Returns:
        The state, bit for bit, on the devices of `like`. No two leaves share memory, so that it may
        be donated.

    Raises:
        CheckpointError: a file is missing, changed or unknown (the message names it), or a leaf
            differs from that of `like` (the message names it).
    """
    return _fill("state", like, _read(Path(folder), step), f"checkpoint {step} of {folder}")


def restore_params(folder: str | Path, step: int, like: Any) -> Any:
    """Read back `state.params` alone; arguments, result and errors are those of `restore`."""
    root = "state.params"
    leaves = {
        name: leaf
        for name, leaf in _read(Path(folder), step).items()
        if name == root or name.startswith((f"{root}[", f"{root}."))
    }
    return _fill(root, like, leaves, f"checkpoint {step} of {folder}")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file as a whole: a reader finds the old content or the new, never a part."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    _fsync(temporary)
    os.replace(temporary, path)
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checkpointer() -> Any:
    from orbax.checkpoint import Checkpointer, PyTreeCheckpointHandler
    from orbax.checkpoint.options import MultiprocessingOptions

    # Each process reads and writes for itself: none waits for another at a barrier of orbax's.
    own = jax.process_index()
    options = MultiprocessingOptions(primary_host=own, active_processes={own})
    handler = PyTreeCheckpointHandler(multiprocessing_options=options)
    return Checkpointer(handler, multiprocessing_options=options)


def _digests_path(folder: Path, step: int) -> Path:
    return folder / f"{step}{_DIGESTS}"


def _committed_steps(folder: Path) -> list[int]:
    names = (path.name.removesuffix(_DIGESTS) for path in folder.glob(f"*{_DIGESTS}"))
    return sorted(int(name) for name in names if name.isdigit())


def _remove_interrupted(folder: Path) -> None:
    committed = {str(step) for step in _committed_steps(folder)}
    for path in folder.iterdir():
        unfinished = path.name.isdigit() or ".orbax-checkpoint-tmp" in path.name
        if path.is_dir() and unfinished and path.name not in committed:
            shutil.rmtree(path)
        elif path.name.endswith(f"{_DIGESTS}.tmp"):
            path.unlink()


def _digests(checkpoint: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        digests[path.relative_to(checkpoint).as_posix()] = digest
    return digests


def _verify(folder: Path, step: int) -> None:
    path = _digests_path(folder, step)
    earlier = [other for other in _committed_steps(folder) if other < step]
    back = f"to the checkpoint of step {earlier[-1]}" if earlier else "to the start of the run"
    remedy = f"To go back {back}, delete {path}"
    try:
        recorded = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no checkpoint of step {step}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is corrupt ({error}). {remedy}") from None
    if not isinstance(recorded, dict):
        raise CheckpointError(f"{path} is corrupt (not a JSON object). {remedy}")
    found = _digests(folder / str(step))
    for name in sorted(recorded.keys() | found.keys()):
        if recorded.get(name) != found.get(name):
            missing, unknown = name not in found, name not in recorded
            what = "is missing" if missing else "is not its own" if unknown else "has changed"
            file = folder / str(step) / name
            raise CheckpointError(f"corrupt checkpoint of step {step}: {file} {what}. {remedy}")


def _read(folder: Path, step: int) -> dict[str, np.ndarray]:
    _verify(folder, step)
    return _checkpointer().restore(folder.absolute() / str(step))


def _named_leaves(root: str, tree: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(root + jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_host(name: str, leaf: Any) -> np.ndarray:
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        raise TypeError(f"{name} must be a jax or numpy array, got {type(leaf).__name__}")
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        raise ValueError(f"{name} is split over several processes; only replicated ones are saved")
    if isinstance(leaf, jax.Array) and _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def _fill(root: str, like: Any, stored: dict[str, np.ndarray], origin: str) -> Any:
    wanted = dict(_named_leaves(root, like))
    for name in sorted(wanted.keys() ^ stored.keys()):
        problem = "is not" if name in wanted else "is not wanted, but"
        raise CheckpointError(f"{name} {problem} in {origin}")
    leaves = [_place(name, leaf, stored[name], origin) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _place(name: str, leaf: Any, array: np.ndarray, origin: str) -> Any:
    """Return `array` as a leaf like `leaf`, in memory of its own."""
    plain = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
    if (array.shape, array.dtype) != (plain.shape, plain.dtype):
        raise CheckpointError(
            f"{name} is {array.dtype}{list(array.shape)} in {origin}, "
            f"but {plain.dtype}{list(plain.shape)} is wanted"
        )
    if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return array
    placed = _to_devices(array, leaf)
    if not _is_key(leaf):
        return placed
    impl = jax.random.key_impl(jnp.empty((), leaf.dtype))  # it takes keys, not their shapes
    return jax.random.wrap_key_data(placed, impl=impl)


def _to_devices(array: np.ndarray, leaf: Any) -> jax.Array:
    if leaf.sharding is None or not getattr(leaf, "committed", True):
        return jax.device_put(array)
    # One copy a device: jax would let all CPU devices share the memory of a numpy array.
    parts = [
        jax.device_put(np.array(array[index]), device)
        for device, index in leaf.sharding.addressable_devices_indices_map(array.shape).items()
    ]
    return jax.make_array_from_single_device_arrays(array.shape, leaf.sharding, parts)
