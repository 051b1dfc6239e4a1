"""A variational auto-encoder with a Hamiltonian posterior (Salimans, Kingma & Welling 2015).

`python -m experiments.hamiltonian` takes a few leapfrog steps inside the posterior on handwritten
digits, in about a minute. `--data binarized_mnist --num-steps 4` is near the paper's fully
connected network on static MNIST, with 1, 4 or 8 steps.
"""

import dataclasses
from pathlib import Path
from typing import Any

from experiments import harness
from genjax_models.interfaces import LatentVariableModel
from genjax_models.models import latent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.VariationalSettings):
    """Train a VAE with a Hamiltonian posterior, measure its test log-likelihood, and draw."""

    latent_dim: int = 32
    """Size of z."""
    hidden: tuple[int, ...] = (200, 200)
    """Units of the hidden layers of encoder and reverse model; the decoder has them in reverse."""
    num_steps: int = 4
    """Leapfrog steps, of each iteration."""
    num_iterations: int = 1
    """How often the momentum is drawn."""
    initial_step_size: float = 0.1
    """Of the leapfrog steps, before it is learned."""
    num_epochs: int = 300
    """Passes through the training set."""
    evaluation_samples: int = 1000
    """Samples for the test log-likelihood of each example."""


def build_model(settings: Settings, data: dict[str, Any]) -> LatentVariableModel:
    """The model for data of the given `num_dims` and `num_levels`."""
    return latent.hamiltonian_vae(
        num_dims=data["num_dims"],
        latent_dim=settings.latent_dim,
        hidden=settings.hidden,
        num_steps=settings.num_steps,
        num_iterations=settings.num_iterations,
        initial_step_size=settings.initial_step_size,
        likelihood=settings.likelihood,
        num_levels=harness.num_levels(settings, data),
    )


def run(settings: Settings) -> Path:
    """Train, evaluate and draw; returns the run's folder."""
    name = f"Hamiltonian vae, {settings.num_iterations} x {settings.num_steps} leapfrog steps"
    return harness.run_variational("hamiltonian", settings, build_model, name=name)


main = harness.command_line(run, Settings, "hamiltonian")

if __name__ == "__main__":
    main()
