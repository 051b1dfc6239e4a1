"""How a run begins and ends, alike for every experiment."""

import hashlib
from typing import Any

import numpy as np

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


def open_run(experiment: str, settings: Settings, dataset: Dataset) -> Run:
    """The folder of a new run, or of the one to resume; nothing is written before all is checked.

    Raises:
        ValueError: the folder holds something else, or the run to resume was of other settings or
            other data.
    """
    # A resumed run must see the data that it began with, whatever the file is called.
    digest = hashlib.sha256(np.ascontiguousarray(dataset.train.x)).hexdigest()
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
