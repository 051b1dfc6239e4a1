"""A mixture of Bernoullis, fitted by EM or by stochastic EM.

`python -m experiments.mixture_of_bernoullis` takes some seconds on handwritten digits; `--data
binarized_mnist --data-dir DIR --num-components 500` some minutes on two cores; `--help` lists the
rest.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import harness
from experiments.harness import pictures
from experiments.harness.mesh import is_main_process, to_host
from genjax_models.interfaces import Algorithm, DensityModel, Key, Params
from genjax_models.models.classical import mixture_of_bernoullis
from genjax_models.training import (
    expectation_maximization,
    stochastic_expectation_maximization,
)

_MAX_PICTURED = 500
# Of the components that EM gives data to, the lightest have one example in a data set.
_MIN_WEIGHT = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.Settings):
    """Fit a mixture of Bernoullis, measure its exact test log-likelihood, and draw from it."""

    batch_size: int | None = None
    """Examples a step, over all devices; None: the whole training set, as EM wants it."""
    num_components: int = 200
    """Number of components."""
    algorithm: Literal["em", "stochastic_em"] = "stochastic_em"
    """What maximises the likelihood; em takes no --batch-size."""
    pseudo_count: float = 0.03
    """Prior on every probability: as if each component had seen so many more ones and zeros."""
    num_epochs: int = 400
    """Passes through the training set."""
    step_size: float = 0.2
    """Of stochastic EM, at the start; a cosine takes it to 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(self, "num_components", "num_epochs")
        if not self.pseudo_count >= 0:
            raise ValueError(f"pseudo_count must not be negative, got {self.pseudo_count}")
        if not 0 < self.step_size <= 1:
            raise ValueError(f"step_size must be in (0, 1], got {self.step_size}")
        if self.algorithm == "em" and self.batch_size is not None:
            raise ValueError(
                "algorithm em takes the whole training set: use stochastic_em with a batch_size,"
                f" got {self.batch_size}"
            )


def build_model(settings: Settings, data: dict[str, Any]) -> DensityModel:
    """The model for data of the given `num_dims`."""
    return mixture_of_bernoullis.mixture_of_bernoullis(
        num_dims=data["num_dims"], num_components=settings.num_components
    )


def build_algorithm(settings: Settings, dataset: harness.Dataset, num_steps: int) -> Algorithm:
    """What the settings name; each begins with training examples as components.

    Raises:
        ValueError: more components than training examples.
    """
    num_examples, num_components = len(dataset.train.x), settings.num_components
    if num_components > num_examples:
        raise ValueError(
            "num_components must be at most the number of training examples,"
            f" {num_examples}, got {num_components}"
        )
    # Chosen here, so that the compiled start holds these examples and no others.
    chosen = np.random.default_rng(settings.seed).choice(
        num_examples, num_components, replace=False
    )
    examples = jnp.asarray(dataset.train.x[chosen])

    def init(key: Key) -> Params:
        prepare_key, start_key = jax.random.split(key)
        prepare_keys = jax.random.split(prepare_key, num_components)
        return mixture_of_bernoullis.examples_as_components(
            start_key,
            jax.vmap(dataset.prepare)(prepare_keys, examples),
            num_components=num_components,
        )

    e_step = mixture_of_bernoullis.expected_statistics
    m_step = functools.partial(
        mixture_of_bernoullis.maximize, smoothing=settings.pseudo_count / num_examples
    )
    if settings.algorithm == "em":
        return expectation_maximization(e_step, m_step, init)
    step_size = optax.cosine_decay_schedule(settings.step_size, num_steps)
    return stochastic_expectation_maximization(
        e_step, m_step, init, mixture_of_bernoullis.model_statistics, step_size
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(harness.DensityEvaluator):
    """Measures the density, and draws the components too."""

    def draw(self, state: Any, run: harness.Run) -> None:
        """The run's pictures: samples, learning curves and components, the heaviest first."""
        super().draw(state, run)
        if not is_main_process():
            return
        params = to_host(state.params)
        weights = np.asarray(jax.nn.softmax(params["logits"]))
        alive = int((weights > _MIN_WEIGHT).sum())
        order = np.argsort(-weights)[: min(alive, _MAX_PICTURED)]
        probabilities = np.asarray(jax.nn.sigmoid(params["component_logits"][order]))
        num_columns = min(len(order), 10 if len(order) <= 100 else 25)
        pictures.save_grid(
            run.path / "components.png",
            probabilities,
            self.dataset.example_shape,
            num_columns=num_columns,
        )


def run(settings: Settings) -> Path:
    """Fit, evaluate and draw; returns the run's folder."""
    dataset, mesh = harness.prepare(settings, likelihood="bernoulli")
    model = build_model(settings, harness.data_shape(dataset))
    num_steps = settings.num_epochs * harness.steps_per_epoch(settings, dataset)
    evaluator = Evaluator(
        model=model,
        dataset=dataset,
        mesh=mesh,
        key=jax.random.fold_in(jax.random.key(settings.seed), 2),
        batch_size=1000,
    )
    return harness.run_experiment(
        "mixture_of_bernoullis",
        settings,
        dataset,
        mesh,
        build_algorithm(settings, dataset, num_steps),
        model=f"mixture of Bernoullis, {settings.num_components} components",
        num_steps=num_steps,
        evaluator=evaluator,
        steps_per_dispatch=max(1, min(100, num_steps // 50)),
    )


main = harness.command_line(run, Settings, "mixture_of_bernoullis")

if __name__ == "__main__":
    main()
