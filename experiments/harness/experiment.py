"""How a run begins and ends, alike for every experiment."""

import hashlib
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.harness.data import Dataset, load
from experiments.harness.mesh import join_processes, make_mesh
from experiments.harness.run import Run, describe_device, versions
from experiments.harness.settings import NOT_PART_OF_THE_RESULT, Settings
from genjax_models.interfaces import Algorithm, Array, Key


def prepare(settings: Settings, *, likelihood: str) -> tuple[Dataset, Mesh]:
    """The data and the devices of a run, the other processes joined and the sizes checked.

    Args:
        settings: of the run.
        likelihood: what the values must fit; see `data.load`.

    Raises:
        ValueError: the data do not fit the likelihood, or the sizes do not fit each other.
    """
    if settings.distributed:
        join_processes()
    dataset = load(
        settings.data,
        likelihood=likelihood,
        protocol=settings.protocol,
        data_dir=settings.data_dir,
    )
    mesh = make_mesh()
    _check_sizes(settings, dataset, mesh)
    return dataset, mesh


def data_shape(dataset: Dataset) -> dict[str, Any]:
    """What a model needs to know of the data; `build_model` takes it, and config.json keeps it."""
    return {
        "num_dims": int(np.prod(dataset.example_shape)),
        "example_shape": dataset.example_shape,
        "num_levels": dataset.num_levels,
    }


def open_run(experiment: str, settings: Settings, dataset: Dataset, algorithm: Algorithm) -> Run:
    """The folder of a new run, or of the one to resume; nothing is written before all is checked.

    Args:
        experiment: the name of its module.
        settings: of the run.
        dataset: what it trains on.
        algorithm: traced once, so that what it refuses is known before the folder is made.

    Raises:
        TypeError: the algorithm refuses its model.
        ValueError: the folder holds something else, or the run to resume was of other settings or
            other data.
    """
    _trace(settings, dataset, algorithm)
    # A resumed run must see the data that it began with, whatever the file is called.
    digest = hashlib.sha256(dataset.train.x.tobytes()).hexdigest()
    data = dataset.describe() | data_shape(dataset) | {"train_sha256": digest}
    return Run.open(
        settings.out,
        experiment=experiment,
        settings=settings,
        extra_config={"data": data},
        resume=settings.resume,
        ignored=NOT_PART_OF_THE_RESULT,
    )


def finish_run(
    run: Run,
    settings: Settings,
    dataset: Dataset,
    *,
    model: str,
    metrics: dict[str, Any],
    num_steps: int,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Write and give back the result, which marks the run as finished."""
    result = {
        "experiment": run.config["experiment"],
        "model": model,
        "data": dataset.describe(),
        "metrics": metrics,
        "seed": settings.seed,
        "steps": num_steps,
        "seconds": seconds,
        "device": describe_device(),
        "versions": versions(),
    }
    run.write_result(result)
    return result


def _trace(settings: Settings, dataset: Dataset, algorithm: Algorithm) -> None:
    batch = jax.ShapeDtypeStruct((settings.batch_size, dataset.train.x.shape[1]), np.float32)

    def first_step(key: Key, batch: Array) -> Any:
        init_key, step_key = jax.random.split(key)
        return algorithm.step(algorithm.init(init_key), step_key, batch)

    jax.eval_shape(first_step, jax.random.key(0), batch)


def _check_sizes(settings: Settings, dataset: Dataset, mesh: Mesh) -> None:
    """Raise a `ValueError` unless the data give batches, every device a share, and error bars."""
    num_examples = len(dataset.train.x)
    if settings.batch_size > num_examples:
        raise ValueError(
            f"batch_size must be at most the number of training examples, {num_examples},"
            f" got {settings.batch_size}"
        )
    if settings.batch_size % mesh.size:
        raise ValueError(
            f"batch_size must be a multiple of the number of devices, {mesh.size},"
            f" got {settings.batch_size}"
        )
    for name in ("validation", "test"):
        if len(getattr(dataset, name).x) < 2:
            raise ValueError(
                f"the {name} split of {dataset.name} needs at least 2 examples for an error bar,"
                f" got {len(getattr(dataset, name).x)}"
            )
