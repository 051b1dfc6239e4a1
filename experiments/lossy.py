"""The variational lossy auto-encoder: a decoder that sees a window (Chen et al. 2017).

`python -m experiments.lossy` takes about a minute on handwritten digits; `--radius 0` is the plain
auto-encoder, and a window that covers the image is warned of: the code is then ignored. On MNIST
`--data binarized_mnist --prior autoregressive`; `--help` lists the rest.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from experiments import harness
from genjax_models.interfaces import LatentVariableModel
from genjax_models.models import latent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.VariationalSettings):
    """Train a lossy auto-encoder of binary images, measure its test log-likelihood, and draw."""

    radius: int = 1
    """Of the window that the decoder sees of the pixels before, in pixels."""
    latent_dim: int = 50
    """Size of z; 2 adds pictures of the latent space."""
    hidden: tuple[int, ...] = (200, 200)
    """Units of the encoder's hidden layers; the decoder has them in reverse."""
    num_features: int = 4
    """Numbers that the decoder gives each pixel's conditional, beside a logit."""
    pixel_hidden: tuple[int, ...] = (32, 32)
    """Units of the hidden layers of that conditional."""
    prior: Literal["normal", "autoregressive"] = "normal"
    """p(z): N(0, I), or a flow."""
    num_flows: int = 2
    """Of the autoregressive prior."""
    flow_hidden: tuple[int, ...] = (100,)
    """Units of the hidden layers of each of its flows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.likelihood != "bernoulli":
            raise ValueError(
                f"likelihood must be bernoulli: the window is of binary images, got"
                f" {self.likelihood!r}"
            )


def build_model(settings: Settings, data: dict[str, Any]) -> LatentVariableModel:
    """The model for images of the given `example_shape`."""
    prior = None
    if settings.prior == "autoregressive":
        prior = latent.priors.autoregressive_flow(
            settings.latent_dim, num_flows=settings.num_flows, hidden=settings.flow_hidden
        )
    return latent.lossy_vae(
        image_shape=data["example_shape"],
        radius=settings.radius,
        latent_dim=settings.latent_dim,
        hidden=settings.hidden,
        num_features=settings.num_features,
        pixel_hidden=settings.pixel_hidden,
        prior=prior,
    )


def run(settings: Settings) -> Path:
    """Train, evaluate and draw; returns the run's folder."""
    name = f"lossy vae, radius {settings.radius}"
    if settings.prior != "normal":
        name += f", {settings.prior} prior"
    return harness.run_variational("lossy", settings, build_model, name=name, picture_means=False)


main = harness.command_line(run, Settings, "lossy")

if __name__ == "__main__":
    main()
