"""Rate and distortion over beta for two families of models, in one picture (Alemi et al. 2018).

`python -m experiments.rate_distortion` trains a VAE for each beta with a standard normal prior,
and with a learned mixture as its prior, in about two minutes on handwritten digits; `--help` lists
the rest.
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
from jax.sharding import Mesh

from experiments import harness
from experiments.harness.mesh import is_main_process, place, replicated, to_host
from experiments.harness.pictures import pyplot
from genjax_models.interfaces import (
    Algorithm,
    Array,
    Key,
    LatentVariableModel,
    Metrics,
    Params,
    PyTree,
)
from genjax_models.learning import importance_samples, variational
from genjax_models.models import latent
from genjax_models.networks import mlp
from genjax_models.training import gradient_descent

_NUM_MONITORED = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.Settings):
    """Train each family for each beta, and measure rate and distortion."""

    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    """p(x | z): of binary data or of real data."""
    families: tuple[Literal["gaussian", "mixture_prior", "full_covariance"], ...] = (
        "gaussian",
        "mixture_prior",
    )
    """gaussian: standard normal prior, diagonal Gaussian posterior; the others replace one."""
    betas: tuple[float, ...] = (0.1, 0.3, 0.6, 1.0, 2.0, 4.0)
    """Weights of the rate, all trained side by side."""
    latent_dim: int = 10
    """Size of z."""
    hidden: tuple[int, ...] = (100,)
    """Units of the encoder's hidden layers; the decoder has them in reverse."""
    num_components: int = 20
    """Of the mixture."""
    num_epochs: int = 300
    """Passes through the training set."""
    learning_rate: float = 2e-3
    """Of Adam, at the start; a cosine takes it to 0."""
    evaluation_samples: int = 20
    """Draws of z for rate and distortion of each test example."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(self, "latent_dim", "num_components", "num_epochs", "learning_rate")
        if self.evaluation_samples < 2:
            raise ValueError(
                f"evaluation_samples must be at least 2, got {self.evaluation_samples}"
            )
        if not self.families or len(set(self.families)) < len(self.families):
            raise ValueError(f"families must be different ones, got {self.families}")
        if not self.betas or not all(0 <= beta < float("inf") for beta in self.betas):
            raise ValueError(f"betas must be finite and not negative, got {self.betas}")
        harness.check_distinct(self, "betas")


@dataclasses.dataclass(frozen=True)
class Families:
    """One model for each family, and for each beta parameters of its own.

    Attributes:
        models: by family.
        num_betas: how many betas there are.
    """

    models: dict[str, LatentVariableModel]
    num_betas: int

    def init(self, key: Key) -> Params:
        """Parameters by family, each leaf [num_betas, ...]."""
        keys = zip(self.models, jax.random.split(key, len(self.models)), strict=True)
        return {
            name: jax.vmap(self.models[name].init)(jax.random.split(family_key, self.num_betas))
            for name, family_key in keys
        }


def build_model(settings: Settings, data: dict[str, Any]) -> Families:
    """The models for data of the given `num_dims`."""

    def make(family: str) -> LatentVariableModel:
        prior, posterior = None, None
        if family == "mixture_prior":
            prior = latent.priors.gaussian_mixture(settings.latent_dim, settings.num_components)
        elif family == "full_covariance":
            posterior = latent.posteriors.full_covariance(
                functools.partial(mlp, data["num_dims"], settings.hidden), settings.latent_dim
            )
        return latent.vae(
            num_dims=data["num_dims"],
            latent_dim=settings.latent_dim,
            hidden=settings.hidden,
            likelihood=settings.likelihood,
            prior=prior,
            posterior=posterior,
        )

    return Families({family: make(family) for family in settings.families}, len(settings.betas))


def build_algorithm(settings: Settings, families: Families, num_steps: int) -> Algorithm:
    """Adam on the sum of all negative beta-ELBOs: they share no parameter."""
    objectives = {name: variational(model) for name, model in families.models.items()}
    betas = jnp.asarray(settings.betas)

    def sum_of_losses(params: Params, key: Key, x: Array) -> tuple[Array, Metrics]:
        total = jnp.zeros(())
        family_keys = jax.random.split(key, len(objectives))
        for (name, objective), family_key in zip(objectives.items(), family_keys, strict=True):

            def one(params: Params, key: Key, beta: Array, objective: Any = objective) -> Array:
                return objective(params, key, x, beta=beta)[0]

            keys = jax.random.split(family_key, len(betas))
            total += jnp.sum(jax.vmap(one)(params[name], keys, betas))
        return total, {}

    schedule = optax.cosine_decay_schedule(settings.learning_rate, num_steps)
    return gradient_descent(sum_of_losses, optax.adam(schedule), families.init)


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Rate and distortion of every model.

    Attributes:
        families: the models.
        dataset: its test split is measured.
        mesh: the devices.
        key: of the draws.
        settings: of the run.
    """

    families: Families
    dataset: harness.Dataset
    mesh: Mesh
    key: Key
    settings: Settings

    def monitor(self, state: Any) -> dict[str, float]:
        """The validation ELBO of each family at the beta nearest to one."""
        found = self.measure(state.params, self.dataset.validation.x[:_NUM_MONITORED])
        nearest = int(np.argmin(np.abs(np.asarray(self.settings.betas) - 1)))
        return {
            f"validation_bound_{name}": float(-np.sum(parts.mean(axis=(2, 3)), axis=0)[nearest])
            for name, parts in found.items()
        }

    def evaluate(self, state: Any) -> Mapping[str, Any]:
        """The `metrics` of result.json: rate and distortion of each family at each beta."""
        found = self.measure(state.params, self.dataset.test.x)
        metrics = {}
        for family, parts in found.items():
            for index, beta in enumerate(self.settings.betas):
                for name, values in zip(("rate", "distortion"), parts[:, index], strict=True):
                    metrics[f"test_{name}, {family}, beta {beta:g}"] = harness.metric(
                        values.mean(axis=1),
                        values.std(axis=1, ddof=1) / values.shape[1] ** 0.5,
                        estimator="mean of draws",
                        num_samples=values.shape[1],
                        bound="exact",
                    )
        return metrics

    def measure(self, params: Params, xs: np.ndarray) -> dict[str, np.ndarray]:
        """By family, [rate and distortion, beta, example, draw]."""
        placed = place(np.asarray(xs, np.float32), replicated(self.mesh))
        # The same draws each time.
        return to_host(self._measured(params, jax.random.clone(self.key), placed))

    @functools.cached_property
    def _measured(self) -> Any:
        num_samples = self.settings.evaluation_samples

        def of_example(model: LatentVariableModel, params: Params, key: Key, x: Array) -> Array:
            parts = importance_samples(model, params, key, x, num_samples)
            return jnp.stack([parts.log_posterior - parts.log_prior, -parts.log_likelihood])

        def measured(params: Params, key: Key, xs: Array) -> PyTree:
            models, found = self.families.models, {}
            family_keys = jax.random.split(key, len(models))
            for (name, model), family_key in zip(models.items(), family_keys, strict=True):
                keys = jax.random.split(family_key, len(xs))
                of_family = functools.partial(of_example, model)
                over_examples = jax.vmap(of_family, (None, 0, 0), out_axes=1)
                over_betas = jax.vmap(over_examples, (0, None, None), out_axes=1)
                found[name] = over_betas(params[name], keys, xs)
            return found

        return jax.jit(measured, out_shardings=replicated(self.mesh))

    def draw(self, state: Any, run: harness.Run) -> None:
        """The plane of rate and distortion; the negative ELBO is constant along the thin lines."""
        found = self.measure(state.params, self.dataset.test.x)
        if not is_main_process():
            return
        plt = pyplot()
        figure, axes = plt.subplots(figsize=(6.5, 5), layout="constrained")
        curves = {family: parts.mean(axis=(2, 3)) for family, parts in found.items()}
        for family, (rates, distortions) in curves.items():
            axes.plot(rates, distortions, marker="o", linewidth=1, label=family.replace("_", " "))
            for beta, x, y in zip(self.settings.betas, rates, distortions, strict=True):
                axes.annotate(f"{beta:g}", (x, y), textcoords="offset points", xytext=(5, 4))
        whole = np.concatenate(list(curves.values()), axis=1)
        low, high = whole.min(axis=1), whole.max(axis=1)
        sums = whole.sum(axis=0)
        for level in np.linspace(sums.min(), sums.max(), 6):
            ends = np.array([0.0, high[0] * 1.05])
            axes.plot(ends, level - ends, color="black", linewidth=0.4, linestyle="--")
        margin = 0.05 * (high[1] - low[1])
        axes.set_xlim(0, high[0] * 1.05)
        axes.set_ylim(low[1] - margin, high[1] + margin)
        axes.set_xlabel("rate E KL(q(z|x) || p(z)), nats; numbers are beta")
        axes.set_ylabel("distortion -E log p(x|z), nats")
        axes.legend(frameon=False)
        figure.savefig(run.path / "rate_distortion.png", dpi=150)
        plt.close(figure)


def run(settings: Settings) -> Path:
    """Train, evaluate and draw; returns the run's folder."""
    dataset, mesh = harness.prepare(settings, likelihood=settings.likelihood)
    num_steps = settings.num_epochs * harness.steps_per_epoch(settings, dataset)
    families = build_model(settings, harness.data_shape(dataset))
    evaluator = Evaluator(
        families=families,
        dataset=dataset,
        mesh=mesh,
        key=jax.random.fold_in(jax.random.key(settings.seed), 2),
        settings=settings,
    )
    return harness.run_experiment(
        "rate_distortion",
        settings,
        dataset,
        mesh,
        build_algorithm(settings, families, num_steps),
        model="vae, rate and distortion",
        num_steps=num_steps,
        evaluator=evaluator,
    )


main = harness.command_line(run, Settings, "rate_distortion")

if __name__ == "__main__":
    main()
