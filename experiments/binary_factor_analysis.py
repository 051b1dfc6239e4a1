"""Binary factor analysis (Tipping 1999): people, or digits, in a plane.

`python -m experiments.binary_factor_analysis` takes half a minute on handwritten digits that were
binarised once, by variational EM; `--algorithm gradient` maximises the likelihood itself, which is
exact by quadrature. `--data nltcs --data-dir DIR` fits 16 answers of 16181 people, with DIR the
folder that has the folder nltcs; `--help` lists the rest.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import harness
from experiments.harness import downstream, pictures
from experiments.harness.mesh import is_main_process, to_host
from genjax_models.interfaces import (
    Algorithm,
    Array,
    DensityModel,
    Key,
    LatentVariableModel,
    Params,
)
from genjax_models.learning import maximum_likelihood
from genjax_models.models import latent
from genjax_models.models.classical import binary_factor_analysis as bfa
from genjax_models.training import expectation_maximization, gradient_descent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.Settings):
    """Fit binary factor analysis, measure its test log-likelihood by quadrature, and draw it."""

    protocol: str | None = "static"
    """static or threshold; EM wants data that do not change."""
    batch_size: int | None = None
    """Examples a step, over all devices; None: the whole training set, as EM wants it."""
    latent_dim: Literal[1, 2] = 2
    """Number of factors."""
    algorithm: Literal["em", "gradient"] = "em"
    """em of the variational bound, or Adam on the likelihood by quadrature, without the prior."""
    num_updates: int = 20
    """Fixed-point steps of each posterior."""
    weight_prior: float = 0.3
    """Precision of a Gaussian prior on every weight and bias, for EM."""
    num_epochs: int = 300
    """Passes through the training set."""
    learning_rate: float = 0.03
    """Of Adam, at the start; a cosine takes it to 0."""
    num_points: int = 32
    """Nodes of each dimension of the quadrature."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(self, "num_updates", "num_epochs", "num_points", "learning_rate")
        if self.num_points > 200:
            raise ValueError(f"num_points must be in 1..200, got {self.num_points}")
        if self.latent_dim not in (1, 2):
            raise ValueError(f"latent_dim must be 1 or 2, got {self.latent_dim}")
        if not 0 <= self.weight_prior < float("inf"):
            raise ValueError(
                f"weight_prior must be finite and not negative, got {self.weight_prior}"
            )
        unused = "learning_rate" if self.algorithm == "em" else "weight_prior"
        harness.check_unused(self, unused, by=f"algorithm {self.algorithm}")
        if self.algorithm == "em" and self.batch_size is not None:
            raise ValueError(
                "algorithm em takes the whole training set: use gradient with a batch_size, got"
                f" {self.batch_size}"
            )
        if self.algorithm == "em" and self.protocol == "dynamic":
            raise ValueError(
                "algorithm em wants data that do not change: use protocol static or threshold, got"
                " dynamic"
            )


def build_model(settings: Settings, data: dict[str, Any]) -> LatentVariableModel:
    """The model for data of the given `num_dims`."""
    return bfa.binary_factor_analysis(
        num_dims=data["num_dims"],
        latent_dim=settings.latent_dim,
        num_updates=settings.num_updates,
    )


def build_density(settings: Settings, model: LatentVariableModel) -> DensityModel:
    """The same model as a density, which is exact by quadrature."""

    def log_prob(params: Params, x: Array) -> Array:
        return bfa.quadrature_log_prob(
            params, x, num_points=settings.num_points, num_updates=settings.num_updates
        )

    return DensityModel(model.init, log_prob, functools.partial(latent.sample, model))


def build_algorithm(
    settings: Settings, density: DensityModel, num_examples: int, num_steps: int
) -> Algorithm:
    """What the settings name."""
    if settings.algorithm == "gradient":
        learning_rate = optax.cosine_decay_schedule(settings.learning_rate, num_steps)
        objective = maximum_likelihood(density)
        return gradient_descent(objective, optax.adam(learning_rate), density.init)
    return expectation_maximization(
        functools.partial(bfa.expected_statistics, num_updates=settings.num_updates),
        functools.partial(bfa.maximize, decay=settings.weight_prior / num_examples),
        density.init,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(harness.DensityEvaluator):
    """Measures the density beside that of independent dimensions, and draws the latent space.

    Attributes:
        settings: of the run.
    """

    settings: Settings

    def evaluate(self, state: Any) -> dict[str, Any]:
        """The `metrics` of result.json: log-likelihoods by quadrature, a bound and a baseline."""
        return super().evaluate(state) | {
            "test_bound": self.measure_bound(state.params),
            "independent_test_log_likelihood": self.measure_independent(),
        }

    def measure(self, params: Params, split: str) -> dict[str, Any]:
        """log p(x) of the first 10,000 examples of a split, as an entry of `metrics`."""
        points = f"quadrature, {self.settings.num_points} nodes a factor"
        return super().measure(params, split) | {"estimator": points}

    def measure_bound(self, params: Params) -> dict[str, Any]:
        """What EM maximises, without the prior, of the test split."""

        def one_example(params: Params, key: Key, x: Array) -> Array:
            return bfa.bound(params, x, num_updates=self.settings.num_updates)

        mapped = harness.map_examples(one_example, self.mesh, batch_size=self.batch_size)
        values = mapped(params, self.key, self.dataset.test.x)
        return harness.metric(values, estimator="variational", num_samples=None, bound="lower")

    def measure_independent(self) -> dict[str, Any]:
        """log p(x) of the test split with one probability a dimension, by Laplace's rule."""
        train = downstream.intensities(self.dataset)
        on = (train.sum(axis=0, dtype=np.float64) + 1) / (len(train) + 2)
        values = np.where(self.dataset.test.x == 1, np.log(on), np.log1p(-on)).sum(axis=1)
        return harness.metric(values, estimator="exact", num_samples=None, bound="exact")

    def draw(self, state: Any, run: harness.Run) -> None:
        """The run's pictures: samples, learning curves and, of two factors, the latent plane."""
        super().draw(state, run)
        if not is_main_process():
            return
        if self.settings.latent_dim != 2:
            return
        params, test = to_host(state.params), self.dataset.test
        rotation = principal_rotation(np.asarray(params["loading"]))
        find = functools.partial(bfa.posterior, num_updates=self.settings.num_updates)
        of_all = jax.jit(jax.vmap(lambda x: find(params, x).loc))
        means = np.asarray(of_all(jnp.asarray(test.x, jnp.float32))) @ rotation
        if test.labels is not None:
            pictures.save_embedding(run.path / "embedding.png", means, test.labels)
        else:
            save_people(run.path / "embedding.png", means, test.x, params["loading"] @ rotation)
        decode = jax.jit(jax.vmap(lambda z: jax.nn.sigmoid(_logits(params, rotation @ z))))
        pictures.save_manifold(run.path / "manifold.png", decode, self.dataset.example_shape)


def _logits(params: Mapping[str, Array], z: Array) -> Array:
    return params["loading"] @ z + params["bias"]


def principal_rotation(loading: np.ndarray) -> np.ndarray:
    """R with W R's columns orthogonal, the largest first, each of positive sum: [L, L]."""
    rotation = np.linalg.svd(loading, full_matrices=False)[2].T
    return rotation * np.where((loading @ rotation).sum(axis=0) < 0, -1, 1)


def save_people(path: Path, means: np.ndarray, xs: np.ndarray, loading: np.ndarray) -> None:
    """Posterior means of those who answered alike as one dot, and questions as directions.

    Args:
        path: the PNG file.
        means: [N, 2].
        xs: zeros and ones, [N, D]; a dot is coloured by its number of ones, and its area is that
            of the people who share it.
        loading: [D, 2]; an arrow points to where a question is more often answered by one.
    """
    _, first, counts = np.unique(xs, axis=0, return_index=True, return_counts=True)
    plt = pictures.pyplot()
    figure, axes = plt.subplots(figsize=(7, 5.5), layout="constrained")
    dots = axes.scatter(
        *means[first].T,
        s=8 * counts**0.75,
        c=xs[first].sum(axis=1),
        cmap="viridis",
        alpha=0.7,
        linewidths=0,
    )
    figure.colorbar(dots, ax=axes, label="answers that are one")
    longest = np.linalg.norm(loading, axis=1).max()
    for number, row in enumerate(loading / longest * np.abs(means).max(), start=1):
        axes.plot([0, row[0]], [0, row[1]], color="black", alpha=0.25, linewidth=0.7)
        axes.text(*row, str(number), fontsize=8, ha="center", va="center")
    axes.set_xlabel("first factor")
    axes.set_ylabel("second factor")
    axes.set_aspect("equal")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def run(settings: Settings) -> Path:
    """Fit, evaluate and draw; returns the run's folder."""
    dataset, mesh = harness.prepare(settings, likelihood="bernoulli")
    density = build_density(settings, build_model(settings, harness.data_shape(dataset)))
    num_steps = settings.num_epochs * harness.steps_per_epoch(settings, dataset)
    evaluator = Evaluator(
        model=density,
        dataset=dataset,
        mesh=mesh,
        key=jax.random.fold_in(jax.random.key(settings.seed), 2),
        settings=settings,
    )
    return harness.run_experiment(
        "binary_factor_analysis",
        settings,
        dataset,
        mesh,
        build_algorithm(settings, density, len(dataset.train.x), num_steps),
        model=f"binary factor analysis, latent_dim {settings.latent_dim}",
        num_steps=num_steps,
        evaluator=evaluator,
        steps_per_dispatch=max(1, min(100, num_steps // 30)),
    )


main = harness.command_line(run, Settings, "binary_factor_analysis")

if __name__ == "__main__":
    main()
