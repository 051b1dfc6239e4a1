"""Variational auto-encoders with other objectives than the ELBO: free bits, capacity, MMD, TC.

`python -m experiments.regularized --objective free_bits` takes about a minute on handwritten
digits, as do `capacity` (Burgess et al. 2018), `info_vae` (Zhao et al. 2019) and `beta_tcvae`
(Chen et al. 2018, with `--beta`, the weight of the total correlation); `--help` lists the rest.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import optax

from experiments import harness
from experiments.harness import variational
from genjax_models import learning
from genjax_models.interfaces import LatentVariableModel, Objective
from genjax_models.models import latent

# Of the bounds of one example; a microbatch would be the batch that these objectives are of.
_UNUSED = (
    *("bound", "alpha", "betas", "num_groups", "elbo_weight"),
    *("chunk_size", "estimator", "kl", "microbatch_size"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.VariationalSettings):
    """Train a VAE with a regularised objective, and measure it as any other."""

    latent_dim: int = 50
    """Size of z."""
    hidden: tuple[int, ...] = (200, 200)
    """Units of the encoder's hidden layers; the decoder has them in reverse."""
    objective: Literal["free_bits", "capacity", "info_vae", "beta_tcvae"] = "free_bits"
    """What is minimised."""
    minimum: float = 0.05
    """free_bits: nats of each dimension that cost nothing."""
    gamma: float = 10.0
    """capacity: weight of the distance between rate and capacity."""
    capacity: float = 6.0
    """capacity: nats at the end."""
    capacity_epochs: int = 500
    """capacity: epochs over which it rises from 0."""
    information: float = 0.0
    """info_vae: alpha, at most 1, how much of the KL term gives way to the MMD."""
    mmd: float = 10.0
    """info_vae: lambda, so that the MMD has the weight alpha + lambda - 1."""
    tc_estimator: Literal["weighted", "stratified"] = "stratified"
    """beta_tcvae: how the batch estimates q(z)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(self, "latent_dim", "capacity_epochs")
        self._check_unused("here", *_UNUSED)
        if self.objective != "beta_tcvae":
            self._check_unused(f"for objective {self.objective}", "beta", "warm_up_epochs")
        if self.objective in ("info_vae", "beta_tcvae"):
            self._check_unused(f"for objective {self.objective}", "num_samples")
        if not 0 <= self.capacity < float("inf"):
            raise ValueError(f"capacity must be finite and not negative, got {self.capacity}")

    def _check_unused(self, where: str, *names: str) -> None:
        """Raise a `ValueError` that names a setting which has not its default."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in names and value != field.default:
                raise ValueError(f"{field.name} must be {field.default!r} {where}, got {value!r}")


def build_model(settings: Settings, data: dict[str, Any]) -> LatentVariableModel:
    """The model for data of the given `num_dims` and `num_levels`."""
    return latent.vae(
        num_dims=data["num_dims"],
        latent_dim=settings.latent_dim,
        hidden=settings.hidden,
        likelihood=settings.likelihood,
        num_levels=harness.num_levels(settings, data),
    )


def build_objective(settings: Settings, model: LatentVariableModel, num_examples: int) -> Objective:
    """What the settings name, for so many training examples."""
    num_samples = settings.num_samples
    if settings.objective == "free_bits":
        return learning.free_bits(model, minimum=settings.minimum, num_samples=num_samples)
    if settings.objective == "capacity":
        return learning.controlled_capacity(model, gamma=settings.gamma, num_samples=num_samples)
    if settings.objective == "info_vae":
        return learning.info_vae(model, alpha=settings.information, scale=settings.mmd)
    return learning.beta_tcvae(model, num_examples=num_examples, estimator=settings.tc_estimator)


def build_schedules(settings: Settings, steps_per_epoch: int) -> dict[str, optax.Schedule]:
    """Of the keywords that the objective has."""
    if settings.objective == "capacity":
        num_steps = settings.capacity_epochs * steps_per_epoch
        return {"capacity": optax.linear_schedule(0.0, settings.capacity, num_steps)}
    if settings.objective == "beta_tcvae":
        return {"beta": variational.beta(settings, settings.warm_up_epochs * steps_per_epoch)}
    return {}


def run(settings: Settings) -> Path:
    """Train, evaluate and draw; returns the run's folder."""
    return harness.run_variational(
        "regularized",
        settings,
        build_model,
        name=f"vae, {settings.objective.replace('_', ' ')}",
        objective=lambda model, dataset: build_objective(settings, model, len(dataset.train.x)),
        schedules=lambda steps_per_epoch: build_schedules(settings, steps_per_epoch),
    )


main = harness.command_line(run, Settings, "regularized")

if __name__ == "__main__":
    main()
