"""The neural autoregressive distribution estimator (Larochelle & Murray 2011).

`python -m experiments.nade` takes about a minute on handwritten digits; `--data binarized_mnist
--num-epochs 40` about half an hour on two cores; `--help` lists the rest.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax

from experiments import harness
from experiments.harness import pictures
from experiments.harness.mesh import is_main_process, to_host
from experiments.harness.run import Run
from genjax_models.interfaces import Algorithm, DensityModel
from genjax_models.learning import maximum_likelihood
from genjax_models.models import fully_observed
from genjax_models.training import gradient_descent

_NUM_FILTERS = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.Settings):
    """Train a NADE on binary data, measure its exact test log-likelihood, and draw from it."""

    hidden_dim: int = 500
    """Number of hidden units."""
    ordering: Literal["natural", "random"] = "natural"
    """Order of the dimensions: 0, 1, 2, ... (of an image: row by row), or drawn with the seed."""
    num_epochs: int = 800
    """Passes through the training set."""
    learning_rate: float = 1e-3
    """Of Adam, at the start; a cosine takes it to 0."""
    weight_decay: float = 0.0
    """Of AdamW: each step shrinks the parameters by this times the learning rate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(self, "hidden_dim", "num_epochs", "learning_rate")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")


def build_model(settings: Settings, data: dict[str, Any]) -> DensityModel:
    """The model for data of the given `num_dims`."""
    num_dims = data["num_dims"]
    ordering = None
    if settings.ordering == "random":
        ordering = np.random.default_rng(settings.seed).permutation(num_dims).tolist()
    return fully_observed.nade(num_dims=num_dims, hidden_dim=settings.hidden_dim, ordering=ordering)


def build_algorithm(settings: Settings, model: DensityModel, steps_per_epoch: int) -> Algorithm:
    """Adam on the negative log-likelihood, its rate a cosine down to 0."""
    num_steps = settings.num_epochs * steps_per_epoch
    learning_rate = optax.cosine_decay_schedule(settings.learning_rate, num_steps)
    optimizer = optax.adamw(learning_rate, weight_decay=settings.weight_decay)
    return gradient_descent(maximum_likelihood(model), optimizer, model.init)


class Evaluator(harness.DensityEvaluator):
    """Draws what the hidden units look at, besides what every density has."""

    def draw(self, state: Any, run: Run) -> None:
        """The run's pictures: samples, learning curves, and filters.png.

        Filters are the input weights of the hidden units with the largest ones, each scaled to
        its own range.
        """
        super().draw(state, run)
        if not is_main_process():
            return
        filters = np.asarray(to_host(state.params)["input_weights"]).T
        largest = np.argsort(-np.linalg.norm(filters, axis=1))[:_NUM_FILTERS]
        filters = filters[largest] / np.abs(filters[largest]).max(axis=1, keepdims=True)
        shape = self.dataset.example_shape
        pictures.save_grid(run.path / "filters.png", filters, shape, num_columns=10)


def run(settings: Settings) -> Path:
    """Train, evaluate and draw; returns the run's folder."""
    dataset, mesh = harness.prepare(settings, likelihood="bernoulli")
    steps_per_epoch = harness.steps_per_epoch(settings, dataset)
    model = build_model(settings, harness.data_shape(dataset))
    evaluator = Evaluator(
        model=model,
        dataset=dataset,
        mesh=mesh,
        key=jax.random.fold_in(jax.random.key(settings.seed), 2),
    )
    return harness.run_experiment(
        "nade",
        settings,
        dataset,
        mesh,
        build_algorithm(settings, model, steps_per_epoch),
        model="nade",
        num_steps=settings.num_epochs * steps_per_epoch,
        evaluator=evaluator,
    )


main = harness.command_line(run, Settings, "nade")

if __name__ == "__main__":
    main()
