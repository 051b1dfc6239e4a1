"""Factor analysis (Rubin & Thayer 1982), fitted by EM, by stochastic EM or by gradient.

`python -m experiments.factor_analysis` takes some seconds on handwritten digits; `--algorithm
stochastic_em --batch-size 100` and `--algorithm gradient --batch-size 100` are the other ways;
`--help` lists the rest.
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
from genjax_models.interfaces import Algorithm, Array, DensityModel, Key, Params
from genjax_models.learning import maximum_likelihood
from genjax_models.models.classical import factor_analysis
from genjax_models.training import (
    expectation_maximization,
    gradient_descent,
    stochastic_expectation_maximization,
)

_NUM_RECONSTRUCTED = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.Settings):
    """Fit factor analysis, measure its exact test log-likelihood, and draw from it."""

    batch_size: int | None = None
    """Examples a step, over all devices; None: the whole training set, as EM wants it."""
    latent_dim: int = 10
    """Number of factors."""
    algorithm: Literal["em", "stochastic_em", "gradient"] = "em"
    """What maximises the likelihood; em takes no --batch-size."""
    min_standard_deviation: float = 0.02
    """Dimensions that vary less in the training set are left out; a constant one always is."""
    min_variance: float = 1e-6
    """The least noise that EM leaves a dimension."""
    num_epochs: int = 300
    """Passes through the training set."""
    step_size: float = 0.2
    """Of stochastic EM, at the start; a cosine takes it to 0."""
    learning_rate: float = 1e-3
    """Of Adam, at the start; a cosine takes it to 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(self, "latent_dim", "min_variance", "num_epochs", "learning_rate")
        if not 0 < self.step_size <= 1:
            raise ValueError(f"step_size must be in (0, 1], got {self.step_size}")
        if not self.min_standard_deviation >= 0:
            raise ValueError(
                f"min_standard_deviation must not be negative, got {self.min_standard_deviation}"
            )
        if self.algorithm == "em" and self.batch_size is not None:
            raise ValueError(
                "algorithm em takes the whole training set: use stochastic_em with a batch_size,"
                f" got {self.batch_size}"
            )


def build_model(settings: Settings, data: dict[str, Any]) -> DensityModel:
    """The model for data of the given `num_dims`."""
    return factor_analysis.factor_analysis(
        num_dims=data["num_dims"], latent_dim=settings.latent_dim
    )


def build_algorithm(
    settings: Settings, model: DensityModel, examples: np.ndarray, num_steps: int
) -> Algorithm:
    """What the settings name; each begins at the principal components of the training set."""
    begin = functools.partial(
        factor_analysis.principal_components,
        latent_dim=settings.latent_dim,
        min_variance=settings.min_variance,
    )
    start = to_host(jax.jit(begin)(examples))

    def init(key: Key) -> Params:
        return start

    if settings.algorithm == "gradient":
        learning_rate = optax.cosine_decay_schedule(settings.learning_rate, num_steps)
        return gradient_descent(maximum_likelihood(model), optax.adam(learning_rate), init)
    center = start["mean"]
    e_step = functools.partial(factor_analysis.expected_statistics, center=center)
    m_step = functools.partial(
        factor_analysis.maximize, center=center, min_variance=settings.min_variance
    )
    if settings.algorithm == "em":
        return expectation_maximization(e_step, m_step, init)
    own = functools.partial(factor_analysis.model_statistics, center=center)
    step_size = optax.cosine_decay_schedule(settings.step_size, num_steps)
    return stochastic_expectation_maximization(e_step, m_step, init, own, step_size)


def select_dimensions(
    dataset: harness.Dataset, min_standard_deviation: float
) -> tuple[harness.Dataset, np.ndarray]:
    """The dimensions that vary enough in the training set, as real values, and which they are.

    Returns:
        The data of those dimensions, whose protocol says how many they are, and [num_dims] bool.

    Raises:
        ValueError: no dimension varies enough.
    """
    train = prepared(dataset)
    varies = train.std(axis=0, dtype=np.float64) > min_standard_deviation
    # Rounding gives a constant dimension a standard deviation above zero.
    selected = varies & (train.max(axis=0) > train.min(axis=0))
    if not selected.any():
        raise ValueError(
            f"no dimension of {dataset.name} has a standard deviation above"
            f" {min_standard_deviation} in the training set"
        )
    count = int(selected.sum())
    named = dataset.protocol
    if count < selected.size:
        named += f", {count} of {selected.size} dimensions"
    part = dataset._replace(
        protocol=named,
        example_shape=dataset.example_shape if count == selected.size else (count,),
        num_levels=None,
        train=dataset.train._replace(x=train[:, selected]),
        validation=dataset.validation._replace(x=dataset.validation.x[:, selected]),
        test=dataset.test._replace(x=dataset.test.x[:, selected]),
    )
    return part, selected


def prepared(dataset: harness.Dataset) -> np.ndarray:
    """The training examples as the model sees them; neither protocol of this script draws."""
    return np.asarray(dataset.prepare(jax.random.key(0), jnp.asarray(dataset.train.x)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(harness.DensityEvaluator):
    """Measures the density of the selected dimensions, and draws whole examples.

    Attributes:
        whole: the data with every dimension.
        selected: which dimensions the model is of, [num_dims] bool.
    """

    whole: harness.Dataset
    selected: np.ndarray

    def draw(self, state: Any, run: harness.Run) -> None:
        """The run's pictures: samples, reconstructions, factors and learning curves."""
        if not is_main_process():
            return
        params, shape = to_host(state.params), self.whole.example_shape
        mean = prepared(self.whole).mean(axis=0)

        def complete(x: Array) -> Array:
            # What the model does not speak of is drawn as the training set's mean.
            whole = jnp.asarray(mean).at[self.selected].set(x)
            return whole if self.whole.num_levels is None else jnp.clip(whole, 0, 1)

        def sample(params: Params, key: Key) -> Array:
            return complete(self.model.sample(params, key))

        def reconstruct(x: Array) -> Array:
            z = factor_analysis.posterior(params, x).mean
            return complete(params["mean"] + params["loading"] @ z)

        harness.draw_samples(sample, params, self.key, self.whole, run)
        if shape != (2,):
            originals = np.asarray(self.whole.test.x[:_NUM_RECONSTRUCTED], np.float32)
            reconstructions = jax.jit(jax.vmap(reconstruct))(originals[:, self.selected])
            pictures.save_reconstructions(
                run.path / "reconstructions.png", originals, np.asarray(reconstructions), shape
            )
            factors = np.full((params["loading"].shape[1], self.selected.size), 0.5)
            factors[:, self.selected] += 0.5 * principal_factors(params["loading"])
            pictures.save_grid(run.path / "factors.png", factors, shape, num_columns=10)
        names = {
            "log_likelihood": "training log-likelihood",
            "validation_log_likelihood": "validation log-likelihood",
        }
        pictures.save_curves(run.path / "curves.png", run.records(), names)


def principal_factors(loading: np.ndarray) -> np.ndarray:
    """W' rotated to orthogonal rows, the largest first, each with its largest entry at 1."""
    _, scales, factors = np.linalg.svd(loading.T, full_matrices=False)
    rows = scales[:, None] * factors
    peaks = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)
    return rows / np.where(peaks == 0, 1, peaks)


def run(settings: Settings) -> Path:
    """Fit, evaluate and draw; returns the run's folder."""
    whole, mesh = harness.prepare(settings, likelihood="gaussian")
    dataset, selected = select_dimensions(whole, settings.min_standard_deviation)
    model = build_model(settings, harness.data_shape(dataset))
    num_steps = settings.num_epochs * harness.steps_per_epoch(settings, dataset)
    evaluator = Evaluator(
        model=model,
        dataset=dataset,
        mesh=mesh,
        key=jax.random.fold_in(jax.random.key(settings.seed), 2),
        whole=whole,
        selected=selected,
    )
    return harness.run_experiment(
        "factor_analysis",
        settings,
        dataset,
        mesh,
        build_algorithm(settings, model, dataset.train.x, num_steps),
        model=f"factor analysis, {settings.latent_dim} factors",
        num_steps=num_steps,
        evaluator=evaluator,
        steps_per_dispatch=max(1, min(100, num_steps // 50)),
    )


main = harness.command_line(run, Settings, "factor_analysis")

if __name__ == "__main__":
    main()
