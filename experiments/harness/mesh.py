"""The devices of a run: one mesh with the axis "data", over which batches are sharded."""

import os
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def join_processes() -> None:
    """Join the other processes of a run; call before anything touches a device.

    The variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say how; without
    them `jax.distributed` asks the cluster (Slurm, Open MPI, Cloud TPU, Kubernetes).
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = [os.environ.get(name) for name in names]
    if not any(given):
        jax.distributed.initialize()
        return
    address, num_processes, process_id = given
    if address is None or num_processes is None or process_id is None:
        raise ValueError(f"--distributed wants all of {', '.join(names)}, got {given}")
    jax.distributed.initialize(address, int(num_processes), int(process_id))


def make_mesh() -> Mesh:
    """A mesh of every device of every process."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh, axis: int) -> NamedSharding:
    """Every device holds its share of one axis."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def place(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """An array that every process holds alike, put on the devices as the sharding says."""
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def is_main_process() -> bool:
    """Whether this process is the one that writes files and prints."""
    return jax.process_index() == 0


def to_host(tree: Any) -> Any:
    """Arrays that every device holds whole, as numpy arrays."""
    return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0)), tree)
