"""Auxiliary deep generative models without labels: AVAE and SDGM (Maaloe et al. 2016).

`python -m experiments.auxiliary` trains the auxiliary variational auto-encoder on handwritten
digits in about a minute, `--model skip` the skip deep generative model. On MNIST `--data mnist
--latent-dims 100 100 --auxiliary-dims 100 100 --hidden 500 500` has the paper's sizes with two
layers; the paper also normalises batches.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from experiments import harness
from genjax_models.interfaces import LatentVariableModel
from genjax_models.models import latent

MODELS = {"auxiliary": latent.auxiliary_vae, "skip": latent.skip_deep_generative_model}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.VariationalSettings):
    """Train a model with auxiliary variables, measure its test log-likelihood, and draw."""

    model: Literal["auxiliary", "skip"] = "auxiliary"
    """Whether the auxiliaries are of the posterior alone, or latents between z and x."""
    latent_dims: tuple[int, ...] = (40,)
    """Sizes of z_1, ..., z_L, from the data upwards."""
    auxiliary_dims: tuple[int, ...] = (10,)
    """Sizes of a_1, ..., a_L."""
    hidden: tuple[int, ...] = (200, 200)
    """Units of the hidden layers of every network."""
    num_epochs: int = 500
    """Passes through the training set."""


def build_model(settings: Settings, data: dict[str, Any]) -> LatentVariableModel:
    """The model for data of the given `num_dims` and `num_levels`."""
    return MODELS[settings.model](
        num_dims=data["num_dims"],
        latent_dims=settings.latent_dims,
        auxiliary_dims=settings.auxiliary_dims,
        hidden=settings.hidden,
        likelihood=settings.likelihood,
        num_levels=harness.num_levels(settings, data),
    )


def run(settings: Settings) -> Path:
    """Train, evaluate and draw; returns the run's folder."""
    name = "auxiliary vae" if settings.model == "auxiliary" else "skip deep generative model"
    name += f", {len(settings.latent_dims)} layers"
    return harness.run_variational("auxiliary", settings, build_model, name=name)


main = harness.command_line(run, Settings, "auxiliary")

if __name__ == "__main__":
    main()
