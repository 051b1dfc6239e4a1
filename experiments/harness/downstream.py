"""What experiments on a trained latent-variable model share: the model, its data, its codes."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.data import Dataset, load
from experiments.harness.evaluate import measurement
from experiments.harness.experiment import data_shape, finish_run
from experiments.harness.mesh import is_main_process
from experiments.harness.run import Run, load_config, load_run
from genjax_models.interfaces import Array, Key, LatentVariableModel, Params

AnySettings = TypeVar("AnySettings")


class Trained(NamedTuple):
    """A trained model and what it was trained on.

    Attributes:
        model: as `load_run` gives it.
        params: its parameters.
        settings: of the run that trained it.
        dataset: its data.
        name: of its experiment, for tables.
    """

    model: Any
    params: Params
    settings: Any
    dataset: Dataset
    name: str


def read_trained(
    folder: str | Path, data_dir: str | None, *, auto_encoders: bool = False
) -> Trained:
    """The latent-variable model of a run, with its data.

    Args:
        folder: of the run.
        data_dir: where its data are; None for where the run had them.
        auto_encoders: whether a model will do that has no more than an `encode`.

    Raises:
        ValueError: the folder is not that of a run with a checkpoint, its model is of another
            kind, or its data are not those of its data set's name.
    """
    config = load_config(folder)
    if "trained" in config["settings"]:
        source = config["settings"]["trained"] or Path(folder) / "model"
        raise ValueError(
            f"{folder} is a run of {config['experiment']} on the model of {source}: give that one"
        )
    loaded = load_run(folder)
    is_latent = isinstance(loaded.model, LatentVariableModel)
    if not is_latent and not (auto_encoders and hasattr(loaded.model, "encode")):
        wanted = "a latent-variable model" + (" or an auto-encoder" if auto_encoders else "")
        raise ValueError(
            f"trained must be the run of {wanted}, but {folder} is one of {config['experiment']},"
            f" with a {type(loaded.model).__name__}"
        )
    dataset = load(
        loaded.settings.data,
        likelihood=getattr(loaded.settings, "likelihood", "none"),
        protocol=loaded.settings.protocol,
        data_dir=data_dir or loaded.settings.data_dir,
    )
    trained_on = config.get("data", {}).get("num_dims")
    if trained_on != data_shape(dataset)["num_dims"]:
        raise ValueError(
            f"the run in {folder} was trained on {trained_on} dimensions, but"
            f" {loaded.settings.data} has {data_shape(dataset)['num_dims']}"
        )
    return Trained(loaded.model, loaded.params, loaded.settings, dataset, config["experiment"])


def run_downstream(
    experiment: str,
    settings: Any,
    train: Callable[[AnySettings], Path],
    own: type[AnySettings],
    evaluate: Callable[[Any, Trained, Path], Mapping[str, Any]],
    report: Callable[[dict[str, Any], Path], None],
    *,
    check: Callable[[Any, Trained], None] = lambda settings, trained: None,
    num_steps: int = 0,
    auto_encoders: bool = False,
) -> Path:
    """Take or train a model, measure and draw, in a folder of its own.

    A run that `trained` names is read and checked before the folder is made: what cannot be used
    leaves none.

    Args:
        experiment: the name of its module.
        settings: with `trained`, a folder or None, and all that `own` has.
        train: the experiment that trains, `train(settings) -> folder`.
        own: the class of its settings.
        evaluate: `evaluate(settings, trained, folder)`, the `metrics` of result.json; it draws.
        report: `report(result, folder)`, which prints.
        check: `check(settings, trained)`, which raises what `evaluate` would.
        num_steps: of an optimisation that is part of the evaluation.
        auto_encoders: whether the model may be an auto-encoder.

    Returns:
        The run's folder.

    Raises:
        ValueError: see `read_trained`, and what `check` or `evaluate` refuses.
    """
    given = None
    if settings.trained is not None:
        given = read_trained(settings.trained, settings.data_dir, auto_encoders=auto_encoders)
        check(settings, given)
    with _open(experiment, settings) as run:
        result = run.result()
        if result is None:
            trained = given or read_trained(_train(run, settings, train, own), settings.data_dir)
            started = time.perf_counter()
            metrics = evaluate(settings, trained, run.path)
            result = finish_run(
                run,
                settings,
                trained.dataset,
                model=trained.name,
                metrics=metrics,
                num_steps=num_steps,
                seconds={"evaluate": time.perf_counter() - started},
            )
        report(result, run.path)
    return run.path


def _open(experiment: str, settings: Any) -> Run:
    """The folder of an experiment on a trained model; the model's own config goes into its own."""
    extra = {}
    if settings.trained is not None:
        extra["trained"] = load_config(settings.trained)
    return Run.open(
        settings.out,
        experiment=experiment,
        settings=settings,
        extra_config=extra,
        resume=settings.resume,
        ignored=("data_dir", "out", "resume", "checkpoint_seconds", "distributed"),
    )


def _train(
    run: Run, settings: Any, train: Callable[[AnySettings], Path], own: type[AnySettings]
) -> Path:
    """Train a model in the folder `model` of this run's folder; gives back that folder.

    Args:
        run: the folder of this experiment.
        settings: with all that `own` has.
        train: the experiment that trains, `train(settings) -> folder`.
        own: the class of its settings.
    """
    path = run.path / "model"
    fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(own)}  # type: ignore[arg-type]
    return train(own(**(fields | {"out": str(path), "resume": path.exists()})))


def intensities(dataset: Dataset, num_examples: int | None = None) -> np.ndarray:
    """The first training examples as numbers, grey ones in [0, 1]: what a baseline learns from."""
    x = dataset.train.x[:num_examples].astype(np.float32)
    grey = dataset.num_levels is not None and dataset.num_levels > 2
    return x / (dataset.num_levels - 1) if grey and dataset.num_levels else x


def prepared(dataset: Dataset, num_examples: int | None = None) -> np.ndarray:
    """The first training examples as a model sees them; what is drawn is drawn once."""
    x = jnp.asarray(dataset.train.x[:num_examples])
    keys = jax.random.split(jax.random.key(0), len(x))
    return np.asarray(jax.jit(jax.vmap(dataset.prepare))(keys, x))


def code(model: Any, params: Params, key: Key, x: Array, *, num_samples: int = 256) -> Array:
    """The posterior mean as one vector, layer after layer.

    An auto-encoder gives its code. A posterior without a `mean` (a flow, a chain of layers) gives
    the mean of samples.

    Args:
        model: a latent-variable model or an auto-encoder.
        params: its parameters.
        key: PRNG key, for a posterior without a mean.
        x: one example.
        num_samples: how many samples the mean is of.

    Returns:
        [num_codes].
    """
    if hasattr(model, "encode"):
        return _flat(model.encode(params, x))
    posterior = model.posterior(params, x)
    if callable(getattr(posterior, "mean", None)):
        return _flat(posterior.mean())
    draws = jax.vmap(lambda key: _flat(posterior.sample(seed=key)))(
        jax.random.split(key, num_samples)
    )
    return jnp.mean(draws, axis=0)


def _flat(tree: Any) -> Array:
    return jnp.concatenate([jnp.ravel(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(tree)])


def example_likelihood(trained: Trained) -> Any:
    """p(x | z) for one draw of z given the first test example: of what kind it is."""
    x = jnp.asarray(trained.dataset.test.x[0], jnp.float32)
    z = trained.model.posterior(trained.params, x).sample(seed=jax.random.key(0))
    return trained.model.likelihood(trained.params, z)


def error_metric(values: np.ndarray, baseline: np.ndarray, name: str, unit: str) -> dict[str, Any]:
    """An entry of `metrics`: a mean over images, and how far it is below or above a baseline's.

    Args:
        values: one number an image, [N].
        baseline: of the baseline for the same images, [N].
        name: of the baseline.
        unit: of the values.
    """

    def mean(values: np.ndarray) -> tuple[float, float]:
        values = np.asarray(values, np.float64)
        return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)

    value, error = mean(values)
    difference, difference_error = mean(values - baseline)
    entry = measurement(
        value=value,
        standard_error=error,
        monte_carlo_error=None,
        estimator=f"mean of {len(values)} test images",
        num_samples=None,
        unit=unit,
    )
    return entry | {f"minus_{name}": {"value": difference, "standard_error": difference_error}}


def cells(entries: Sequence[Mapping[str, Any]], *, digits: int = 3) -> list[str]:
    """Values with their standard errors, for a table."""
    return [
        f"{entry['value']:.{digits}f} ± {entry['standard_error']:.{digits}f}" for entry in entries
    ]


def print_table(
    title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]], notes: Sequence[str]
) -> None:
    """A table with a name for each row, and lines below it."""
    if not is_main_process():
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(name, *row)
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note, soft_wrap=True)
