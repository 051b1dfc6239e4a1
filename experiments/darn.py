"""The deep autoregressive network (Gregor et al. 2014).

`python -m experiments.darn` trains one with 32 hidden units on handwritten digits, in about two
minutes; `--data binarized_mnist --latent-dims 500 --recognition sigmoid` is the paper's size.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from experiments import harness
from genjax_models.interfaces import LatentVariableModel
from genjax_models.models import latent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.VariationalSettings):
    """Train a deep autoregressive network, measure its test log-likelihood, and draw from it."""

    latent_dims: tuple[int, ...] = (32,)
    """Sizes of the layers, from the data upwards."""
    hidden: tuple[int, ...] = ()
    """Units of the hidden tanh layers between any two layers."""
    recognition: Literal["sigmoid", "autoregressive"] = "autoregressive"
    """Whether the units of a code see each other in the posterior."""
    bound: Literal["elbo", "iwae"] = "iwae"
    """What is maximised."""
    estimator: Literal[
        "vimco_arithmetic", "vimco_geometric", "rloo", "nvil", "reweighted_wake_sleep"
    ] = "vimco_arithmetic"
    """Estimator of the gradient; the paper's is biased."""
    num_samples: int = 10
    """K, posterior samples for each example and step."""
    num_epochs: int = 100
    """Passes through the training set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.likelihood != "bernoulli":
            raise ValueError(f"likelihood must be bernoulli, got {self.likelihood}")


def build_model(settings: Settings, data: dict[str, Any]) -> LatentVariableModel:
    """The model for data of the given `num_dims`."""
    return latent.darn(
        num_dims=data["num_dims"],
        latent_dims=settings.latent_dims,
        hidden=settings.hidden,
        recognition=settings.recognition,
    )


def run(settings: Settings) -> Path:
    """Train, evaluate and draw; returns the run's folder."""
    name = f"deep autoregressive network, {'-'.join(map(str, settings.latent_dims))}"
    return harness.run_variational("darn", settings, build_model, name=name)


main = harness.command_line(run, Settings, "darn")

if __name__ == "__main__":
    main()
