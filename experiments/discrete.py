"""One belief net, every estimator of its gradient, at equal samples and at equal time.

`python -m experiments.discrete` trains the same net of binary units by each estimator on
handwritten digits, all with as many evaluations of the model in a step, in a few minutes.
`bounds.png` shows the bound against steps and against seconds of training; the table gives it at
the end, at the time at which the fastest was done, and the variance of each gradient at one point.
"""

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness, sigmoid_belief_net
from experiments.harness.mesh import is_main_process
from experiments.harness.pictures import pyplot
from experiments.harness.variational import build_algorithm
from genjax_models.evaluation import moments
from genjax_models.interfaces import Array, Key, Params
from genjax_models.learning.stateful import StatefulVariational, of_batch

_EVALUATIONS = {"muprop": 2, "arm": 2, "disarm": 2, "rebar": 3, "relax": 3}
"""Of the model for one layer and draw; one where it is not listed."""
_WEIGHTED = ("vimco_arithmetic", "reweighted_wake_sleep")
"""Estimators that are for the importance-weighted bound."""
_NUM_EXAMPLES = 50
_NUM_WARM_UP = 300


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.Settings):
    """Train one net by each estimator, and compare bounds, variances and times."""

    estimators: tuple[sigmoid_belief_net.Estimator, ...] = (
        "score_function",
        "nvil",
        "muprop",
        "rloo",
        "arm",
        "disarm",
        "rebar",
        "relax",
        "vimco_arithmetic",
        "reweighted_wake_sleep",
        "wake_sleep",
        "biased_straight_through",
        "biased_gumbel_softmax",
    )
    """What is compared; the variances are taken where the first ends."""
    latent_dims: tuple[int, ...] = (50,)
    """Sizes of the layers, from the data upwards."""
    hidden: tuple[int, ...] = ()
    """Units of the hidden tanh layers between any two layers; none makes a linear net."""
    num_evaluations: int = 6
    """Of the model, in each estimate of a gradient."""
    num_epochs: int = 100
    """Passes through the training set."""
    learning_rate: float = 2e-3
    """Of Adam, at the start; a cosine takes it to 0."""
    evaluation_samples: int = 500
    """Samples for the test log-likelihood of each example."""
    num_replicates: int = 500
    """Gradients of which the variance is taken."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(self, "num_epochs", "learning_rate", "evaluation_samples")
        if not self.estimators or len(set(self.estimators)) < len(self.estimators):
            raise ValueError(f"estimators must be different ones, got {self.estimators}")
        if self.num_replicates < 2:
            raise ValueError(f"num_replicates must be at least 2, got {self.num_replicates}")
        for estimator in self.estimators:
            if self.num_evaluations % evaluations(self, estimator):
                raise ValueError(
                    f"num_evaluations must be a multiple of {evaluations(self, estimator)}, what"
                    f" one draw of {estimator} takes, got {self.num_evaluations}"
                )


def evaluations(settings: Settings, estimator: str) -> int:
    """Of the model, for one draw: each layer evaluates what is above it that often."""
    return _EVALUATIONS.get(estimator, 1) ** len(settings.latent_dims)


def settings_of(settings: Settings, estimator: str, folder: Path) -> sigmoid_belief_net.Settings:
    """Those of the run that trains by one estimator."""
    shared = {field.name for field in dataclasses.fields(sigmoid_belief_net.Settings)}
    own = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if field.name in shared
    }
    own |= {
        "out": str(folder / estimator),
        "resume": (folder / estimator).exists(),
        "estimator": estimator,
        "bound": "iwae" if estimator in _WEIGHTED else "elbo",
        "num_samples": settings.num_evaluations // evaluations(settings, estimator),
    }
    return sigmoid_belief_net.Settings(**own)


class Trained(NamedTuple):
    """What is left of the run of one estimator.

    Attributes:
        result: as its `result.json` has it.
        records: its learning curves.
    """

    result: dict[str, Any]
    records: list[dict[str, Any]]

    def curve(self, axis: str) -> tuple[np.ndarray, np.ndarray]:
        """The validation bound against "step" or "seconds_train"."""
        points = [r for r in self.records if "validation_bound" in r]
        return tuple(np.asarray([r[name] for r in points]) for name in (axis, "validation_bound"))  # type: ignore[return-value]


def train(settings: Settings, folder: Path) -> dict[str, Trained]:
    """A run of each estimator in a folder of its own; those that are finished are only read."""
    found: dict[str, Trained] = {}
    for estimator in settings.estimators:
        path = sigmoid_belief_net.run(settings_of(settings, estimator, folder))
        lines = (path / "metrics.jsonl").read_text().splitlines()
        result = json.loads((path / "result.json").read_text())
        found[estimator] = Trained(result, [json.loads(line) for line in lines])
    return found


def variance(
    settings: Settings, folder: Path, estimator: str, params: Params, xs: np.ndarray
) -> float:
    """Of the gradient in the posterior's parameters, of a batch; summed over all of them."""
    own = settings_of(settings, estimator, folder)
    objective = batch_objective(own, xs.shape[1])
    batch = jnp.asarray(xs, jnp.float32)

    def gradient(state: Any, key: Key) -> tuple[Params, Any]:
        found, (state, _) = jax.grad(objective.objective, has_aux=True)(params, state, key, batch)
        return found["posterior"], state

    @jax.jit
    def measure(key: Key) -> Array:
        state_key, warm_up_key, key = jax.random.split(key, 3)
        # What baselines and control variates know after some steps at this point.
        warm_up = jax.random.split(warm_up_key, _NUM_WARM_UP)
        state = objective.init_state(params, state_key)
        state, _ = jax.lax.scan(lambda state, key: (gradient(state, key)[1], None), state, warm_up)
        found = moments(
            lambda key: gradient(state, key)[0],
            key,
            num_replicates=settings.num_replicates,
            batch_size=10,
        )
        return jax.tree.reduce(jnp.add, jax.tree.map(jnp.sum, found.variance))

    # Training and evaluation have the key itself and fold 2.
    return float(measure(jax.random.fold_in(jax.random.key(settings.seed), 3)))


def batch_objective(own: sigmoid_belief_net.Settings, num_dims: int) -> StatefulVariational:
    """The objective of a run, of a batch; with an empty state where it has none."""
    model = sigmoid_belief_net.build_model(own, {"num_dims": num_dims})
    return of_batch(sigmoid_belief_net.build_objective(own, model))


def summarize(
    settings: Settings, trained: Mapping[str, Trained], variances: Mapping[str, float]
) -> dict[str, Any]:
    """The `metrics` of result.json."""
    shortest = min(one.result["seconds"]["train"] for one in trained.values())

    def number(value: float | None, estimator: str, unit: str, bound: str | None = None) -> Any:
        return harness.measurement(
            value=value,
            standard_error=None,
            monte_carlo_error=None,
            estimator=estimator,
            num_samples=None,
            unit=unit,
            bound=bound,
        )

    metrics: dict[str, Any] = {}
    for name, one in trained.items():
        for entry in ("test_bound", "test_log_likelihood"):
            metrics[f"{entry}, {name}"] = one.result["metrics"][entry]
        value, how = bound_after(shortest, one)
        milliseconds = 1e3 * one.result["seconds"]["train"] / one.result["steps"]
        metrics |= {
            f"validation_bound at equal time, {name}": number(
                value, how, "nats", None if value is None else "lower"
            ),
            f"step, {name}": number(milliseconds, "mean of the run", "milliseconds"),
            f"gradient_variance, {name}": number(
                variances[name], f"{settings.num_replicates} replicates", "nats squared"
            ),
        }
    return metrics


def bound_after(seconds: float, trained: Trained) -> tuple[float | None, str]:
    """The validation bound after some time, in words too; None before its first record."""
    times, values = trained.curve("seconds_train")
    if seconds < times[0]:
        return None, f"not reached: first record after {times[0]:.1f} s"
    return float(np.interp(seconds, times, values)), f"after {seconds:.1f} s"


def draw(trained: Mapping[str, Trained], path: Path) -> None:
    """The validation bound against steps and against seconds."""
    plt = pyplot()
    figure, both = plt.subplots(1, 2, figsize=(12, 4.5), sharey=True, layout="constrained")
    colours = plt.get_cmap("tab20", len(trained))
    for axes, axis in zip(both, ("step", "seconds_train"), strict=True):
        for index, (name, one) in enumerate(trained.items()):
            # Of another bound: not to be compared with the others by height.
            style = "--" if name in _WEIGHTED else "-"
            label = name.replace("_", " ") + (" (iwae)" if name in _WEIGHTED else "")
            axes.plot(*one.curve(axis), style, color=colours(index), label=label, linewidth=1)
        axes.set_xlabel("step" if axis == "step" else "seconds of training")
        axes.grid(alpha=0.3)
    ends = [one.curve("step")[1] for one in trained.values()]
    lowest, highest = min(bounds[-1] for bounds in ends), max(bounds.max() for bounds in ends)
    margin = 0.3 * (highest - lowest) + 0.1
    both[0].set_ylim(lowest - margin, highest + 0.2 * margin)
    both[0].set_ylabel("validation bound, nats")
    both[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def run(settings: Settings) -> Path:
    """Train by every estimator, compare and draw; returns the run's folder."""
    dataset, _ = harness.prepare(settings, likelihood="bernoulli")
    data = harness.data_shape(dataset)
    num_steps = settings.num_epochs * harness.steps_per_epoch(settings, dataset)
    # All of them, so that none is refused after those before it were trained.
    algorithms = []
    for estimator in settings.estimators:
        own = settings_of(settings, estimator, Path())
        model = sigmoid_belief_net.build_model(own, data)
        objective = sigmoid_belief_net.build_objective(own, model)
        algorithms.append(build_algorithm(own, model, num_steps, objective=objective))
    with harness.open_run("discrete", settings, dataset, algorithms[0]) as run:
        result = run.result()
        if result is None:
            started = time.perf_counter()
            trained = train(settings, run.path)
            params = harness.load_run(run.path / settings.estimators[0]).params
            xs = dataset.validation.x[:_NUM_EXAMPLES]
            variances = {name: variance(settings, run.path, name, params, xs) for name in trained}
            if is_main_process():
                draw(trained, run.path / "bounds.png")
            result = harness.finish_run(
                run,
                settings,
                dataset,
                model="belief net, every estimator",
                metrics=summarize(settings, trained, variances),
                num_steps=num_steps * len(trained),
                seconds={"train and compare": time.perf_counter() - started},
            )
        harness.print_result(result, run.path)
    return run.path


main = harness.command_line(run, Settings, "discrete")

if __name__ == "__main__":
    main()
