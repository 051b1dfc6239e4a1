"""The variational information bottleneck (Alemi et al. 2017): labels through a noisy code.

`python -m experiments.bottleneck` sweeps beta on the labels of handwritten digits in about a
minute: test accuracy, the rate of the code and what it says of the label. `--help` lists the rest.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.nn import logsumexp
from jax.sharding import Mesh

from experiments import harness
from experiments.harness.mesh import is_main_process, place, replicated, to_host
from experiments.harness.pictures import draw_curves, pyplot
from genjax_models.distributions import kl_divergence
from genjax_models.interfaces import Algorithm, Array, Key, Metrics, Params, PyTree
from genjax_models.learning import information_bottleneck
from genjax_models.models import latent
from genjax_models.training import gradient_descent

_NUM_CLASSES = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.Settings):
    """Train a classifier behind a noisy code for several weights of its rate."""

    betas: tuple[float, ...] = (0.0, 1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0)
    """Weights of the rate, all trained side by side."""
    latent_dim: int = 32
    """Size of the code."""
    hidden: tuple[int, ...] = (128, 128)
    """Units of the encoder's hidden layers."""
    num_samples: int = 1
    """Codes for each example and step."""
    num_epochs: int = 150
    """Passes through the training set."""
    learning_rate: float = 1e-3
    """Of Adam, at the start; a cosine takes it to 0."""
    evaluation_samples: int = 100
    """Codes over which the predicted probabilities are averaged."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(
            self, "latent_dim", "num_samples", "num_epochs", "learning_rate", "evaluation_samples"
        )
        if not self.betas or not all(0 <= beta < float("inf") for beta in self.betas):
            raise ValueError(f"betas must be finite and not negative, got {self.betas}")
        harness.check_distinct(self, "betas")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The same model for each weight of the rate; `init` gives parameters with that leading axis.

    Attributes:
        model: one of them.
        num_betas: how many there are.
    """

    model: latent.ConditionalLatentVariableModel
    num_betas: int

    def init(self, key: Key) -> Params:
        """Parameters, each leaf [num_betas, ...]."""
        return jax.vmap(self.model.init)(jax.random.split(key, self.num_betas))


def build_model(settings: Settings, data: dict[str, Any]) -> Sweep:
    """The models for data of the given `num_dims`, of which the label takes `num_classes`."""
    model = latent.information_bottleneck(
        num_dims=data["num_dims"] - _NUM_CLASSES,
        num_classes=_NUM_CLASSES,
        latent_dim=settings.latent_dim,
        hidden=settings.hidden,
    )
    return Sweep(model, len(settings.betas))


def with_labels(dataset: harness.Dataset) -> harness.Dataset:
    """The data with the one-hot label behind each example, as real values.

    Raises:
        ValueError: the data have no labels, or others than 0..9.
    """

    def joined(split: Any, x: np.ndarray) -> Any:
        labels = split.labels
        if labels is None or not set(np.unique(labels)) <= set(range(_NUM_CLASSES)):
            raise ValueError(f"{dataset.name} needs labels 0..9, e.g. digits or mnist")
        one_hot = np.eye(_NUM_CLASSES, dtype=np.float32)[labels]
        return split._replace(x=np.concatenate([x, one_hot], axis=1))

    num_dims = dataset.train.x.shape[1] + _NUM_CLASSES
    levels = 1 if dataset.num_levels is None else dataset.num_levels - 1
    return dataset._replace(
        protocol=f"{dataset.protocol}, labels",
        example_shape=(num_dims,),
        num_levels=None,
        train=joined(dataset.train, dataset.train.x.astype(np.float32) / levels),
        validation=joined(dataset.validation, dataset.validation.x.astype(np.float32)),
        test=joined(dataset.test, dataset.test.x.astype(np.float32)),
    )


def build_algorithm(settings: Settings, sweep: Sweep, num_steps: int) -> Algorithm:
    """Adam on the sum of the objectives: the models share no parameter."""
    objective = information_bottleneck(sweep.model, num_samples=settings.num_samples)
    betas = jnp.asarray(settings.betas)

    def sum_of_losses(params: Params, key: Key, row: Array) -> tuple[Array, Metrics]:
        example = row[:-_NUM_CLASSES], row[-_NUM_CLASSES:]

        def one(params: Params, key: Key, beta: Array) -> Array:
            return objective(params, key, example, beta=beta)[0]

        losses = jax.vmap(one)(params, jax.random.split(key, len(betas)), betas)
        return jnp.sum(losses), {}

    schedule = optax.cosine_decay_schedule(settings.learning_rate, num_steps)
    return gradient_descent(sum_of_losses, optax.adam(schedule), sweep.init)


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Accuracy, rate and label information of each model.

    Attributes:
        sweep: the models.
        dataset: with labels.
        mesh: the devices.
        key: of the codes.
        settings: of the run.
    """

    sweep: Sweep
    dataset: harness.Dataset
    mesh: Mesh
    key: Key
    settings: Settings

    def monitor(self, state: Any) -> dict[str, float]:
        """Validation accuracies."""
        found = self.measure(state.params, self.dataset.validation.x)
        accuracies = found["accuracy"].mean(axis=1)
        pairs = zip(self.settings.betas, accuracies, strict=True)
        return {f"accuracy_{beta:g}": float(accuracy) for beta, accuracy in pairs}

    def evaluate(self, state: Any) -> Mapping[str, Any]:
        """The `metrics` of result.json: for each beta accuracy, rate and log p(y | x)."""
        found = self.measure(state.params, self.dataset.test.x)
        units = {"accuracy": "share", "rate": "nats", "log_likelihood": "nats"}
        metrics = {}
        for index, beta in enumerate(self.settings.betas):
            for name, unit in units.items():
                values = found[name][index]
                metrics[f"test_{name}, beta {beta:g}"] = harness.measurement(
                    value=float(values.mean()),
                    standard_error=float(values.std(ddof=1) / len(values) ** 0.5),
                    monte_carlo_error=None,
                    estimator="closed form" if name == "rate" else "mean probability",
                    num_samples=None if name == "rate" else self.settings.evaluation_samples,
                    bound="lower" if name == "log_likelihood" else "exact",
                    unit=unit,
                )
        return metrics

    def measure(self, params: Params, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Of each model and example, [num_betas, N]."""
        placed = place(rows, replicated(self.mesh))
        # The same codes each time.
        return to_host(self._measured(params, jax.random.clone(self.key), placed))

    @functools.cached_property
    def _measured(self) -> Any:
        def of_example(params: Params, key: Key, row: Array) -> dict[str, Array]:
            x, y = row[:-_NUM_CLASSES], row[-_NUM_CLASSES:]
            model = latent.condition(self.sweep.model, x)
            posterior = model.posterior(params, y)
            keys = jax.random.split(key, self.settings.evaluation_samples)

            def predict(key: Key) -> tuple[Array, Array]:
                likelihood: Any = model.likelihood(params, posterior.sample(seed=key))
                return likelihood.mean(), likelihood.log_prob(y)

            probabilities, log_probs = jax.vmap(predict)(keys)
            mean = jnp.mean(probabilities, axis=0)
            return {
                "accuracy": jnp.argmax(mean) == jnp.argmax(y),
                "rate": kl_divergence(posterior, model.prior(params)),
                # The mean probability of y, which may be too small for its own dtype.
                "log_likelihood": logsumexp(log_probs) - jnp.log(len(log_probs)),
            }

        def measured(params: Params, key: Key, rows: Array) -> PyTree:
            keys = jax.random.split(key, len(rows))
            over_examples = jax.vmap(of_example, (None, 0, 0))
            return jax.vmap(over_examples, (0, None, None))(params, keys, rows)

        return jax.jit(measured, out_shardings=replicated(self.mesh))

    def draw(self, state: Any, run: harness.Run) -> None:
        """Accuracy and information over beta, and the learning curves."""
        found = self.measure(state.params, self.dataset.test.x)
        if not is_main_process():
            return
        plt = pyplot()
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
        names = {f"accuracy_{beta:g}": f"beta {beta:g}" for beta in self.settings.betas}
        draw_curves(left, run.records(), names, ylabel="validation accuracy")
        rate, accuracy = found["rate"].mean(axis=1), found["accuracy"].mean(axis=1)
        error = found["accuracy"].std(axis=1, ddof=1) / found["accuracy"].shape[1] ** 0.5
        right.errorbar(rate, accuracy, error, marker="o", linewidth=1, capsize=2)
        for beta, x, y in zip(self.settings.betas, rate, accuracy, strict=True):
            right.annotate(f"{beta:g}", (x, y), textcoords="offset points", xytext=(4, -10))
        right.set_xscale("symlog", linthresh=1.0)
        right.set_xlabel("rate KL(q(z|x) || r(z)), nats; numbers are beta")
        right.set_ylabel("test accuracy")
        right.grid(alpha=0.3)
        figure.savefig(run.path / "curves.png", dpi=150)
        plt.close(figure)


def run(settings: Settings) -> Path:
    """Train, evaluate and draw; returns the run's folder."""
    plain, mesh = harness.prepare(settings, likelihood="none")
    dataset = with_labels(plain)
    num_steps = settings.num_epochs * harness.steps_per_epoch(settings, dataset)
    sweep = build_model(settings, harness.data_shape(dataset))
    evaluator = Evaluator(
        sweep=sweep,
        dataset=dataset,
        mesh=mesh,
        key=jax.random.fold_in(jax.random.key(settings.seed), 2),
        settings=settings,
    )
    return harness.run_experiment(
        "bottleneck",
        settings,
        dataset,
        mesh,
        build_algorithm(settings, sweep, num_steps),
        model="information bottleneck",
        num_steps=num_steps,
        evaluator=evaluator,
    )


main = harness.command_line(run, Settings, "bottleneck")

if __name__ == "__main__":
    main()
