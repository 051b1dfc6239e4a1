"""The deep autoregressive network (Gregor et al. 2014).

`python -m experiments.darn` trains one with 32 hidden units on handwritten digits, in about two
minutes; `--data binarized_mnist --latent-dims 500 --recognition sigmoid` is the paper's size, and
`--weight-noise 0.05` adds adaptive weight noise.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from experiments import harness
from experiments.harness.variational import bound_objective
from genjax_models.interfaces import LatentVariableModel, Objective
from genjax_models.learning import StatefulVariational, adaptive_weight_noise, with_weight_noise
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
    weight_noise: float | None = None
    """Standard deviation with which adaptive noise of the parameters begins; by default none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.likelihood != "bernoulli":
            raise ValueError(f"likelihood must be bernoulli, got {self.likelihood}")
        if self.weight_noise is not None:
            harness.check_positive(self, "weight_noise")


def build_model(settings: Settings, data: dict[str, Any]) -> LatentVariableModel:
    """The model for data of the given `num_dims`."""
    model = latent.darn(
        num_dims=data["num_dims"],
        latent_dims=settings.latent_dims,
        hidden=settings.hidden,
        recognition=settings.recognition,
    )
    if settings.weight_noise is None:
        return model
    return with_weight_noise(model, initial_scale=settings.weight_noise)


def build_objective(
    settings: Settings, model: LatentVariableModel, num_examples: int
) -> Objective | StatefulVariational:
    """The bound, and where the weights have noise what they cost."""
    objective = bound_objective(settings, model)
    if settings.weight_noise is None:
        return objective
    return adaptive_weight_noise(objective, num_examples=num_examples)


def run(settings: Settings) -> Path:
    """Train, evaluate and draw; returns the run's folder."""
    name = f"deep autoregressive network, {'-'.join(map(str, settings.latent_dims))}"
    if settings.weight_noise is not None:
        name += ", adaptive weight noise"
    return harness.run_variational(
        "darn",
        settings,
        build_model,
        name=name,
        objective=lambda model, data: build_objective(settings, model, len(data.train.x)),
    )


main = harness.command_line(run, Settings, "darn")

if __name__ == "__main__":
    main()
