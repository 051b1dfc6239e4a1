"""How a run begins and ends, alike for every experiment."""

import hashlib
from typing import Any

import numpy as np
from jax.sharding import Mesh

from experiments.harness.data import Dataset
from experiments.harness.loop import Seconds
from experiments.harness.run import Run, describe_device, versions
from experiments.harness.settings import NOT_PART_OF_THE_RESULT, Settings


def data_shape(dataset: Dataset) -> dict[str, Any]:
    """What a model needs to know of the data; `build_model` takes it, and config.json keeps it."""
    return {
        "num_dims": int(np.prod(dataset.example_shape)),
        "example_shape": dataset.example_shape,
        "num_levels": dataset.num_levels,
    }


def check_sizes(settings: Settings, dataset: Dataset, mesh: Mesh) -> None:
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


def open_run(experiment: str, settings: Settings, dataset: Dataset) -> Run:
    """The folder of a new run, or of the one to resume; nothing is written before all is checked.

    Raises:
        ValueError: the folder holds something else, or the run to resume was of other settings or
            other data.
    """
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
    seconds: Seconds,
    evaluate_seconds: float,
) -> dict[str, Any]:
    """Write and give back the result, which marks the run as finished."""
    result = {
        "experiment": run.config["experiment"],
        "model": model,
        "data": dataset.describe(),
        "metrics": metrics,
        "seed": settings.seed,
        "steps": num_steps,
        "seconds": {**seconds._asdict(), "evaluate": evaluate_seconds},
        "device": describe_device(),
        "versions": versions(),
    }
    run.write_result(result)
    return result
