"""A variational or importance-weighted auto-encoder (Kingma & Welling 2014; Burda et al. 2016).

`python -m experiments.vae` takes about a minute on handwritten digits; `--data mnist --bound iwae
--num-samples 5` trains the importance-weighted auto-encoder on MNIST, and `--bound iwae --estimator
dreg --num-samples 64 --chunk-size 8` with many samples and little noise; `--help` lists the rest.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from experiments import harness
from genjax_models import networks
from genjax_models.interfaces import LatentVariableModel
from genjax_models.models import latent, likelihoods


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.VariationalSettings):
    """Train a VAE or IWAE, measure its test log-likelihood, and draw from it."""

    latent_dim: int = 50
    """Size of z; 2 adds pictures of the latent space."""
    hidden: tuple[int, ...] = (200, 200)
    """Units of the encoder's hidden layers; the decoder has them in reverse."""
    network: Literal["mlp", "convolutional"] = "mlp"
    """Kind of encoder and decoder."""


def build_model(settings: Settings, data: dict[str, Any]) -> LatentVariableModel:
    """The model for data of the given `num_dims`, `example_shape` and `num_levels`."""
    num_levels = harness.num_levels(settings, data)
    likelihood = likelihoods.by_name(settings.likelihood, num_levels=num_levels)
    encoder, decoder = None, None
    if settings.network == "convolutional":
        encoder = networks.convolutional_encoder(data["example_shape"], 2 * settings.latent_dim)
        decoder = networks.convolutional_decoder(
            settings.latent_dim,
            data["example_shape"],
            num_outputs_per_dim=likelihood.num_outputs_per_dim,
        )
    return latent.vae(
        num_dims=data["num_dims"],
        latent_dim=settings.latent_dim,
        hidden=settings.hidden,
        likelihood=likelihood,
        encoder=encoder,
        decoder=decoder,
    )


def run(settings: Settings) -> Path:
    """Train, evaluate and draw; returns the run's folder."""
    name = "vae" if settings.bound == "elbo" else f"{settings.bound} auto-encoder"
    return harness.run_variational("vae", settings, build_model, name=name)


main = harness.command_line(run, Settings, "vae")

if __name__ == "__main__":
    main()
