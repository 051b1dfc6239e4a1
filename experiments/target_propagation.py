"""A classifier that learns by difference target propagation (Lee et al. 2015), not by backprop.

`python -m experiments.target_propagation` takes about a minute on handwritten digits;
`--method backpropagation` trains the same network with the exact gradient, `--method target`
without the difference correction; `--help` lists the rest.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments import harness
from experiments.harness import pictures
from experiments.harness.mesh import is_main_process
from genjax_models.interfaces import Algorithm, Array, Key, Metrics, Network, Objective, Params
from genjax_models.learning import (
    LayeredNetwork,
    difference_target_propagation,
    layered_network,
)
from genjax_models.networks import mlp
from genjax_models.training import gradient_descent

_BATCH_SIZE = 500
_NUM_MONITORED = 500


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.Settings):
    """Train a classifier layer by layer on targets, and measure its test accuracy."""

    data: str = "digits"
    """digits, mnist, fashion_mnist, or a .npz file of x and labels."""
    method: Literal["difference_target", "target", "backpropagation"] = "difference_target"
    """What a layer learns from: targets with or without the correction, or the gradient."""
    hidden: tuple[int, ...] = (128, 128, 128)
    """Units of the hidden tanh layers."""
    num_classes: int = 10
    """Labels are 0..num_classes - 1."""
    step_size: float = 0.1
    """Of the first target."""
    noise_scale: float = 0.1
    """Standard deviation of the noise that the inverses learn at."""
    num_epochs: int = 100
    """Passes through the training set."""
    learning_rate: float = 1e-3
    """Of Adam, at the start; a cosine takes it to 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(self, "num_epochs", "learning_rate")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must be units of at least one layer, got {self.hidden}")
        if self.num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {self.num_classes}")


def build_model(settings: Settings, data: dict[str, Any]) -> LayeredNetwork:
    """The classifier, of data whose last `num_classes` dimensions are the label's."""
    num_inputs = data["num_dims"] - settings.num_classes
    sizes = (num_inputs, *settings.hidden)
    layers = [_tanh_layer(below, above) for below, above in itertools.pairwise(sizes)]
    last = mlp(sizes[-1], (), settings.num_classes)
    inverses = [_tanh_layer(above, below) for below, above in itertools.pairwise(sizes[1:])]
    return layered_network([*layers, last], inverses)


def _tanh_layer(num_inputs: int, num_outputs: int) -> Network:
    affine = mlp(num_inputs, (), num_outputs)
    return Network(affine.init, lambda params, inputs: jnp.tanh(affine.apply(params, inputs)))


def build_objective(settings: Settings, model: LayeredNetwork) -> Objective:
    """What the settings name: the value is the cross-entropy, the gradient differs."""

    def inputs(x: Array) -> Array:
        return x[: -settings.num_classes]

    def cross_entropy(logits: Array, x: Array) -> Array:
        return -jnp.sum(x[-settings.num_classes :] * jax.nn.log_softmax(logits))

    if settings.method == "backpropagation":

        def backpropagation(params: Params, key: Key, x: Array) -> tuple[Array, Metrics]:
            return cross_entropy(model.apply(params, inputs(x)), x), {}

        return backpropagation
    return difference_target_propagation(
        model,
        cross_entropy,
        step_size=settings.step_size,
        noise_scale=settings.noise_scale,
        difference=settings.method == "difference_target",
        inputs=inputs,
    )


def build_algorithm(settings: Settings, model: LayeredNetwork, num_steps: int) -> Algorithm:
    """Adam on the objective, its rate a cosine down to 0."""
    schedule = optax.cosine_decay_schedule(settings.learning_rate, num_steps)
    return gradient_descent(build_objective(settings, model), optax.adam(schedule), model.init)


def with_labels(dataset: harness.Dataset, num_classes: int) -> harness.Dataset:
    """Each example followed by its label as zeros and a one.

    Raises:
        ValueError: examples without labels, or labels outside 0..num_classes - 1.
    """
    splits = {}
    for name in ("train", "validation", "test"):
        split = getattr(dataset, name)
        if split.labels is None:
            raise ValueError(f"a classifier needs labels, and {dataset.name} has none")
        if split.labels.min() < 0 or split.labels.max() >= num_classes:
            raise ValueError(
                f"labels must be 0..num_classes - 1 = {num_classes - 1}, got"
                f" {split.labels.min()}..{split.labels.max()} in {dataset.name}"
            )
        x = np.asarray(split.x, np.float32)
        if name == "train":
            x = np.asarray(dataset.prepare(jax.random.key(0), jnp.asarray(x)))
        one_hot = np.eye(num_classes, dtype=np.float32)[split.labels]
        splits[name] = split._replace(x=np.concatenate([x, one_hot], axis=1))
    return dataset._replace(
        protocol=f"{dataset.protocol}, with labels",
        example_shape=(splits["train"].x.shape[1],),
        num_levels=None,
        **splits,
    )


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Measures the classifier, and how far its updates are from the gradient.

    Attributes:
        settings: of the run.
        model: the classifier.
        dataset: examples followed by their labels.
        mesh: the devices.
        key: of the noise.
    """

    settings: Settings
    model: LayeredNetwork
    dataset: harness.Dataset
    mesh: Mesh
    key: Key

    def monitor(self, state: Any) -> dict[str, float]:
        """Accuracy on the validation set, and each layer's angle to the gradient in degrees."""
        correct, _ = self._measured(state.params, self.key, self.dataset.validation.x)
        found = {"validation_error": float(1 - correct.mean())}
        if self.settings.method == "backpropagation":
            return found
        x = jnp.asarray(self.dataset.validation.x[:_NUM_MONITORED])
        angles = np.asarray(self._angles(state.params, self.key, x))
        return found | {f"angle_{index + 1}": float(angle) for index, angle in enumerate(angles)}

    def evaluate(self, state: Any) -> dict[str, Any]:
        """The `metrics` of result.json: accuracy and cross-entropy of every split."""
        metrics = {}
        for name in ("train", "validation", "test"):
            x = getattr(self.dataset, name).x
            correct, losses = self._measured(state.params, self.key, x)
            kinds: dict[str, tuple[np.ndarray, str]] = {
                "accuracy": (correct, "share"),
                "cross_entropy": (losses, "nats"),
            }
            for kind, (values, unit) in kinds.items():
                entry = harness.metric(values, estimator="exact", num_samples=None, bound="exact")
                metrics[f"{name}_{kind}"] = entry | {"unit": unit}
        return metrics

    @functools.cached_property
    def _measured(self) -> Callable[..., Any]:
        exact = build_objective(
            dataclasses.replace(self.settings, method="backpropagation"), self.model
        )
        num_classes = self.settings.num_classes

        def one_example(params: Params, key: Key, x: Array) -> tuple[Array, Array]:
            logits = self.model.apply(params, x[:-num_classes])
            correct = jnp.argmax(logits) == jnp.argmax(x[-num_classes:])
            return correct.astype(jnp.float32), exact(params, key, x)[0]

        return harness.map_examples(one_example, self.mesh, batch_size=_BATCH_SIZE)

    @functools.cached_property
    def _angles(self) -> Callable[..., Array]:
        ours = build_objective(self.settings, self.model)
        exact = build_objective(
            dataclasses.replace(self.settings, method="backpropagation"), self.model
        )

        def mean_gradient(objective: Objective, params: Params, key: Key, x: Array) -> list[Array]:
            def loss(params: Params) -> Array:
                keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(x)))
                return jnp.mean(jax.vmap(objective, (None, 0, 0))(params, keys, x)[0])

            layers = jax.grad(loss)(params)["layers"][:-1]
            return [jax.flatten_util.ravel_pytree(layer)[0] for layer in layers]

        @jax.jit
        def angles(params: Params, key: Key, x: Array) -> Array:
            pairs = zip(
                mean_gradient(ours, params, key, x),
                mean_gradient(exact, params, key, x),
                strict=True,
            )
            cosines = [a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b)) for a, b in pairs]
            return jnp.rad2deg(jnp.arccos(jnp.clip(jnp.stack(cosines), -1, 1)))

        return angles

    def draw(self, state: Any, run: harness.Run) -> None:
        """The run's pictures: learning curves, and angles between update and gradient."""
        if not is_main_process():
            return
        names = {"loss": "training cross-entropy", "validation_error": "validation error rate"}
        pictures.save_curves(run.path / "curves.png", run.records(), names, ylabel="")
        if self.settings.method != "backpropagation":
            layers = range(1, len(self.settings.hidden) + 1)
            names = {f"angle_{layer}": f"layer {layer}" for layer in layers}
            pictures.save_curves(
                run.path / "angles.png", run.records(), names, ylabel="degrees to the gradient"
            )


def run(settings: Settings) -> Path:
    """Train, evaluate and draw; returns the run's folder."""
    found, mesh = harness.prepare(settings, likelihood="none")
    dataset = with_labels(found, settings.num_classes)
    num_steps = settings.num_epochs * harness.steps_per_epoch(settings, dataset)
    model = build_model(settings, harness.data_shape(dataset))
    evaluator = Evaluator(
        settings=settings,
        model=model,
        dataset=dataset,
        mesh=mesh,
        key=jax.random.fold_in(jax.random.key(settings.seed), 2),
    )
    return harness.run_experiment(
        "target_propagation",
        settings,
        dataset,
        mesh,
        build_algorithm(settings, model, num_steps),
        model=f"classifier, {settings.method.replace('_', ' ')}",
        num_steps=num_steps,
        evaluator=evaluator,
    )


main = harness.command_line(run, Settings, "target_propagation")

if __name__ == "__main__":
    main()
