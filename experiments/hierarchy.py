"""Several layers of Gaussian latents: belief net, ladder, deep latent Gaussian model.

`python -m experiments.hierarchy` trains a two-layer VAE on handwritten digits in about a minute.
On MNIST `--data mnist --latent-dims 100 50 --hidden 200 100 --bound iwae --num-samples 5` is the
two-layer importance-weighted auto-encoder of Burda et al. 2016, and `--model ladder --latent-dims
64 32 16 8 4 --hidden 512 256 128 64 32` the ladder of Sonderby et al. 2016.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from experiments import harness
from genjax_models.interfaces import LatentVariableModel
from genjax_models.models import latent

MODELS = {
    "belief_net": latent.gaussian_belief_net,
    "ladder": latent.ladder_vae,
    "deep_latent_gaussian": latent.deep_latent_gaussian_model,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.VariationalSettings):
    """Train a hierarchy of Gaussian latents, measure its test log-likelihood, and draw from it."""

    model: Literal["belief_net", "ladder", "deep_latent_gaussian"] = "belief_net"
    """How the layers hang together, and which way the posterior goes."""
    latent_dims: tuple[int, ...] = (30, 10)
    """Sizes of the layers, from the data upwards."""
    hidden: tuple[int, ...] = (200, 100)
    """Units of the hidden layers between the data and the first layer of latents, and so on."""
    num_hidden_layers: int = 2
    """Hidden layers in each of these places."""
    skip: bool = False
    """Let every layer see all above it (belief_net)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.skip and self.model != "belief_net":
            raise ValueError(f"skip is for model belief_net, not {self.model}")


def build_model(settings: Settings, data: dict[str, Any]) -> LatentVariableModel:
    """The model for data of the given `num_dims` and `num_levels`."""
    options: dict[str, Any] = {"skip": True} if settings.skip else {}
    return MODELS[settings.model](
        num_dims=data["num_dims"],
        latent_dims=settings.latent_dims,
        hidden=settings.hidden,
        num_hidden_layers=settings.num_hidden_layers,
        likelihood=settings.likelihood,
        num_levels=harness.num_levels(settings, data),
        **options,
    )


def run(settings: Settings) -> Path:
    """Train, evaluate and draw; returns the run's folder."""
    name = f"{settings.model.replace('_', ' ')}, {len(settings.latent_dims)} layers"
    if settings.bound != "elbo":
        name += f", {settings.bound}"
    return harness.run_variational("hierarchy", settings, build_model, name=name)


main = harness.command_line(run, Settings, "hierarchy")

if __name__ == "__main__":
    main()
