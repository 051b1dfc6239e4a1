"""A variational auto-encoder with categorical latents (Jang et al. 2017).

`python -m experiments.categorical_vae` takes about a minute on handwritten digits and trains
through Gumbel-softmax samples whose temperature falls; `--relaxation straight_through` draws
discrete samples, and `--relaxation none --estimator rloo --num-samples 2` is without bias. All
report the bound of the discrete model. `--data binarized_mnist --num-variables 20
--num-categories 10` is the size of the paper; `--help` lists the rest.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

import optax

from experiments import harness
from experiments.harness import variational
from genjax_models.interfaces import LatentVariableModel, Objective
from genjax_models.learning import relaxed
from genjax_models.models import latent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.VariationalSettings):
    """Train a VAE with categorical latents, measure its log-likelihood, and draw from it."""

    relaxation: Literal["soft", "straight_through", "none"] = "soft"
    """Gradient through relaxed samples, through discrete ones as if they were relaxed, or by the
    estimator that is named."""
    temperature: float = 1.0
    """Of the relaxed samples, at the start."""
    final_temperature: float = 0.1
    """At the end; it falls by the same factor every step."""
    num_variables: int = 20
    """Rows of z."""
    num_categories: int = 10
    """Columns of z, of which each row has one."""
    prior: Literal["uniform", "independent", "autoregressive"] = "uniform"
    """p(z): without parameters, of independent rows, or each a regression on those before."""
    hidden: tuple[int, ...] = (200, 200)
    """Units of the encoder's hidden layers; the decoder has them in reverse."""
    estimator: Literal[
        "score_function",
        "rloo",
        "vimco_geometric",
        "vimco_arithmetic",
        "nvil",
        "wake_sleep",
        "reweighted_wake_sleep",
    ] = "rloo"
    """Estimator of the gradient, with relaxation none."""
    num_epochs: int = 300
    """Passes through the training set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(self, "temperature", "final_temperature")
        if self.relaxation != "none" and self.bound != "elbo":
            raise ValueError(f"a relaxation trains bound elbo, got {self.bound!r}")
        is_relaxed = self.relaxation != "none"
        unused = ("estimator", "chunk_size") if is_relaxed else ("temperature", "final_temperature")
        harness.check_unused(self, *unused, by=f"relaxation {self.relaxation}")


def build_model(settings: Settings, data: dict[str, Any]) -> LatentVariableModel:
    """The model for data of the given `num_dims` and `num_levels`."""
    prior = getattr(latent.categorical, settings.prior)
    return latent.categorical_vae(
        num_dims=data["num_dims"],
        num_variables=settings.num_variables,
        num_categories=settings.num_categories,
        hidden=settings.hidden,
        likelihood=settings.likelihood,
        num_levels=harness.num_levels(settings, data),
        prior=prior(settings.num_variables, settings.num_categories),
    )


def build_objective(settings: Settings, model: LatentVariableModel) -> Objective:
    """The ELBO with the gradient of a relaxation."""
    return relaxed(
        model,
        straight_through=settings.relaxation == "straight_through",
        kl=settings.kl,
        num_samples=settings.num_samples,
    )


def schedules(settings: Settings, steps_per_epoch: int) -> dict[str, optax.Schedule]:
    """The temperature, from the first to the last in equal factors, and the weight of the KL."""
    rate = settings.final_temperature / settings.temperature
    num_steps = settings.num_epochs * steps_per_epoch
    return {
        "temperature": optax.exponential_decay(settings.temperature, num_steps, rate),
        "beta": variational.beta(settings, settings.warm_up_epochs * steps_per_epoch),
    }


def run(settings: Settings) -> Path:
    """Train, evaluate and draw; returns the run's folder."""
    hooks: dict[str, Any] = {}
    how: str = settings.estimator
    if settings.relaxation != "none":
        hooks["objective"] = lambda model, dataset: build_objective(settings, model)
        hooks["schedules"] = functools.partial(schedules, settings)
        how = settings.relaxation
    name = f"categorical vae, {how}"
    return harness.run_variational("categorical_vae", settings, build_model, name=name, **hooks)


main = harness.command_line(run, Settings, "categorical_vae")

if __name__ == "__main__":
    main()
