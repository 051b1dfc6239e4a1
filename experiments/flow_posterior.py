"""A variational auto-encoder with a posterior richer than a diagonal Gaussian.

`python -m experiments.flow_posterior` trains one with planar flows on handwritten digits in about
a minute; `--posterior sylvester --num-flows 4` with Sylvester flows, and `--posterior diagonal` the
plain one to compare with. `--data binarized_mnist --posterior planar --num-flows 80 --hidden 400
400 --warm-up-epochs 20` is near the setting of Rezende & Mohamed 2015, whose networks have one
layer of 400 maxout units, and whose warm-up weighs the whole of log p(x, z) rather than the KL.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from experiments import harness
from genjax_models.interfaces import LatentVariableModel
from genjax_models.models import latent
from genjax_models.models.latent import posteriors
from genjax_models.models.latent.autoregressive import inverse_autoregressive
from genjax_models.models.latent.parts import Conditional, NetworkFactory
from genjax_models.networks import mlp


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.VariationalSettings):
    """Train a VAE with a rich posterior, measure its test log-likelihood, and draw from it."""

    posterior: Literal["diagonal", "full_covariance", "planar", "radial", "sylvester", "iaf"] = (
        "planar"
    )
    """q(z | x)."""
    num_flows: int = 10
    """Of planar, radial, sylvester and iaf; zero is the diagonal Gaussian."""
    amortized: bool = True
    """Whether the flows' parameters depend on x (an iaf has a context that does)."""
    num_reflections: int = 4
    """Householder reflections in each Sylvester flow."""
    flow_hidden: tuple[int, ...] = (320,)
    """Units of the hidden layers of each inverse autoregressive flow."""
    context_dim: int = 64
    """Size of the context that the encoder gives these flows."""
    latent_dim: int = 40
    """Size of z."""
    hidden: tuple[int, ...] = (200, 200)
    """Units of the encoder's hidden layers; the decoder has them in reverse."""
    num_epochs: int = 500
    """Passes through the training set."""


def flows(
    family: Callable[..., Conditional], settings: Settings, encoder: NetworkFactory, **options: Any
) -> Conditional:
    """The flow posterior of a family that the settings describe."""
    return family(
        encoder,
        settings.latent_dim,
        num_flows=settings.num_flows,
        amortized=settings.amortized,
        **options,
    )


POSTERIORS: dict[str, Callable[[Settings, NetworkFactory], Conditional]] = {
    "diagonal": lambda settings, encoder: latent.parts.gaussian(encoder(2 * settings.latent_dim)),
    "full_covariance": lambda settings, encoder: posteriors.full_covariance(
        encoder, settings.latent_dim
    ),
    "planar": functools.partial(flows, posteriors.planar),
    "radial": functools.partial(flows, posteriors.radial),
    "sylvester": lambda settings, encoder: flows(
        posteriors.sylvester, settings, encoder, num_reflections=settings.num_reflections
    ),
    "iaf": lambda settings, encoder: inverse_autoregressive(
        encoder,
        settings.latent_dim,
        num_flows=settings.num_flows,
        hidden=settings.flow_hidden,
        context_dim=settings.context_dim,
    ),
}
"""`posterior(settings, encoder) -> q(z | x)` of each name."""


def build_model(settings: Settings, data: dict[str, Any]) -> LatentVariableModel:
    """The model for data of the given `num_dims` and `num_levels`."""
    encoder = functools.partial(mlp, data["num_dims"], settings.hidden)
    return latent.vae(
        num_dims=data["num_dims"],
        latent_dim=settings.latent_dim,
        hidden=settings.hidden,
        likelihood=settings.likelihood,
        num_levels=harness.num_levels(settings, data),
        posterior=POSTERIORS[settings.posterior](settings, encoder),
    )


def run(settings: Settings) -> Path:
    """Train, evaluate and draw; returns the run's folder."""
    name = f"vae, {settings.posterior.replace('_', ' ')} posterior"
    if settings.posterior not in ("diagonal", "full_covariance"):
        name += f", {settings.num_flows} flows"
    return harness.run_variational("flow_posterior", settings, build_model, name=name)


main = harness.command_line(run, Settings, "flow_posterior")

if __name__ == "__main__":
    main()
