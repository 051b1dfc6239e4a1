"""How a run begins and ends, alike for every experiment."""

import dataclasses
import hashlib
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.harness.data import Dataset, load
from experiments.harness.loop import STEPS_PER_DISPATCH, train
from experiments.harness.mesh import join_processes, make_mesh
from experiments.harness.report import print_result
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


def steps_per_epoch(settings: Settings, dataset: Dataset) -> int:
    """Whole batches in the training set; a last one that is not whole is left out."""
    num_examples = len(dataset.train.x)
    return num_examples // (settings.batch_size or num_examples)


class Evaluator(Protocol):
    """What an experiment measures and draws, given the algorithm's state."""

    def monitor(self, state: Any) -> dict[str, Any]:
        """What the learning curves show beside the training loss."""
        ...

    def evaluate(self, state: Any) -> Mapping[str, Any]:
        """The `metrics` of result.json; see `evaluate.metric`."""
        ...

    def draw(self, state: Any, run: Run) -> None:
        """The run's pictures, written to its folder."""
        ...


def run_experiment(
    experiment: str,
    settings: Settings,
    dataset: Dataset,
    mesh: Mesh,
    algorithm: Algorithm,
    *,
    model: str,
    num_steps: int,
    evaluator: Evaluator,
    steps_per_dispatch: int = STEPS_PER_DISPATCH,
) -> Path:
    """Train, evaluate and draw, in a folder of its own; go on with it where `--resume` says so.

    Args:
        experiment: the name of its module.
        settings: of the run.
        dataset: what it trains on and is measured on.
        mesh: the devices.
        algorithm: what is trained.
        model: the model's name in tables.
        num_steps: training steps in all.
        evaluator: what is measured and drawn.
        steps_per_dispatch: steps of one compiled program; fewer where a step is long.

    Returns:
        The run's folder.
    """
    with open_run(experiment, settings, dataset, algorithm) as run:
        result = run.result()
        if result is None:
            state, seconds = train(
                run,
                algorithm,
                dataset,
                settings,
                num_steps=num_steps,
                mesh=mesh,
                monitor=evaluator.monitor,
                steps_per_dispatch=steps_per_dispatch,
            )
            started = time.perf_counter()
            metrics = evaluator.evaluate(state)
            evaluator.draw(state, run)
            result = finish_run(
                run,
                settings,
                dataset,
                model=model,
                metrics=metrics,
                num_steps=num_steps,
                seconds={**seconds._asdict(), "evaluate": time.perf_counter() - started},
            )
        print_result(result, run.path)
    return run.path


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
    metrics: Mapping[str, Any],
    num_steps: int,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Write and give back the result, which marks the run as finished."""
    result = {
        "experiment": run.config["experiment"],
        "model": model,
        "command": command(run.config["experiment"], settings),
        "settings": {
            name: value
            for name, value in run.config["settings"].items()
            if name not in NOT_PART_OF_THE_RESULT
        },
        "data": dataset.describe(),
        "metrics": dict(metrics),
        "seed": settings.seed,
        "steps": num_steps,
        "seconds": dict(seconds),
        "device": describe_device(),
        "versions": versions(),
    }
    run.write_result(result)
    return result


def command(experiment: str, settings: Settings) -> str:
    """The command that gives the same result again: what differs from the defaults."""
    words = ["python", "-m", f"experiments.{experiment}"]
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value == field.default or field.name in NOT_PART_OF_THE_RESULT:
            continue
        option = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            parts = value if isinstance(value, tuple | list) else [value]
            words += [f"--{option}", *map(str, parts)]
    return shlex.join(words)


def _trace(settings: Settings, dataset: Dataset, algorithm: Algorithm) -> None:
    num_examples, num_dims = dataset.train.x.shape
    batch = jax.ShapeDtypeStruct((settings.batch_size or num_examples, num_dims), np.float32)

    def first_step(key: Key, batch: Array) -> Any:
        init_key, step_key = jax.random.split(key)
        return algorithm.step(algorithm.init(init_key), step_key, batch)

    jax.eval_shape(first_step, jax.random.key(0), batch)


def _check_sizes(settings: Settings, dataset: Dataset, mesh: Mesh) -> None:
    """Raise a `ValueError` unless the data give batches, every device a share, and error bars."""
    num_examples = len(dataset.train.x)
    batch_size = settings.batch_size or num_examples
    if batch_size > num_examples:
        raise ValueError(
            f"batch_size must be at most the number of training examples, {num_examples},"
            f" got {batch_size}"
        )
    if batch_size % mesh.size:
        raise ValueError(
            f"batch_size must be a multiple of the number of devices, {mesh.size}, got {batch_size}"
        )
    for name in ("validation", "test"):
        if len(getattr(dataset, name).x) < 2:
            raise ValueError(
                f"the {name} split of {dataset.name} needs at least 2 examples for an error bar,"
                f" got {len(getattr(dataset, name).x)}"
            )
