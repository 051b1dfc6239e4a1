"""Belief nets of binary units by every estimator of their gradient.

`python -m experiments.sigmoid_belief_net` trains two layers by VIMCO on handwritten digits, in
about a minute. `--estimator reweighted_wake_sleep --generative nade --recognition nade` is the
model of Bornschein & Bengio 2015, `--estimator disarm --bound elbo --num-samples 1` one with an
antithetic pair for every layer (Dong et al. 2020), and `--data binarized_mnist --latent-dims 200
200` the size of Mnih & Gregor 2014; `--help` lists the rest.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

import optax

from experiments import harness
from experiments.harness.variational import bound_objective
from genjax_models.interfaces import LatentVariableModel, Objective
from genjax_models.learning import gradients, layerwise
from genjax_models.learning.stateful import StatefulVariational
from genjax_models.models import latent
from genjax_models.networks import mlp

Estimator = Literal[
    "vimco_arithmetic",
    "vimco_geometric",
    "rloo",
    "score_function",
    "nvil",
    "wake_sleep",
    "reweighted_wake_sleep",
    "muprop",
    "arm",
    "disarm",
    "rebar",
    "relax",
    "biased_straight_through",
    "biased_gumbel_softmax",
]
LAYERWISE = (
    "muprop",
    "arm",
    "disarm",
    "rebar",
    "relax",
    "biased_straight_through",
    "biased_gumbel_softmax",
)
"""Estimators of `learning.layerwise`; the others are of `learning.variational`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.VariationalSettings):
    """Train a belief net of binary units, measure its test log-likelihood, and draw from it."""

    latent_dims: tuple[int, ...] = (64, 32)
    """Sizes of the layers, from the data upwards."""
    hidden: tuple[int, ...] = ()
    """Units of the hidden tanh layers between any two layers; none makes a linear net."""
    generative: Literal["sigmoid", "autoregressive", "nade"] = "sigmoid"
    """Kind of the model's layers."""
    recognition: Literal["sigmoid", "autoregressive", "nade"] = "sigmoid"
    """Kind of the posterior's layers."""
    nade_dim: int = 64
    """Hidden units of each nade layer."""
    bound: Literal["elbo", "iwae"] = "iwae"
    """What is maximised."""
    estimator: Estimator = "vimco_arithmetic"  # type: ignore[assignment]
    """Estimator of the gradient; those from muprop on work on one layer after the other,
    for the ELBO."""
    num_samples: int = 10
    """K, posterior samples for each example and step; estimates that are averaged, layerwise."""
    num_epochs: int = 300
    """Passes through the training set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.likelihood != "bernoulli":
            raise ValueError(f"likelihood must be bernoulli, got {self.likelihood}")
        if self.estimator in LAYERWISE and self.bound != "elbo":
            raise ValueError(f"estimator {self.estimator} is for bound elbo, got {self.bound}")
        if self.estimator in LAYERWISE:
            harness.check_unused(self, "chunk_size", "kl", by=f"estimator {self.estimator}")


def build_model(settings: Settings, data: dict[str, Any]) -> LatentVariableModel:
    """The model for data of the given `num_dims`."""
    return latent.sigmoid_belief_net(
        num_dims=data["num_dims"],
        latent_dims=settings.latent_dims,
        hidden=settings.hidden,
        generative=settings.generative,
        recognition=settings.recognition,
        nade_dim=settings.nade_dim,
    )


def build_objective(
    settings: Settings, model: LatentVariableModel
) -> Objective | StatefulVariational:
    """The bound, by an estimator of all layers at once or of one after the other."""
    if settings.estimator not in LAYERWISE:
        return bound_objective(settings, model)
    estimator: Any = settings.estimator
    if estimator == "relax":
        estimator = tuple(relax(latent_dim) for latent_dim in settings.latent_dims)
    return layerwise.layerwise(model, estimator, num_samples=settings.num_samples)


def relax(latent_dim: int) -> layerwise.Maker:
    """RELAX of one layer: its control variate, a small network of the units, learns as REBAR's."""
    network = mlp(latent_dim, (100,), 1)
    return functools.partial(gradients.relax, network=network, optimizer=optax.adam(1e-3))


def run(settings: Settings) -> Path:
    """Train, evaluate and draw; returns the run's folder."""
    kinds = dict.fromkeys([settings.generative, settings.recognition])
    name = f"belief net of {' and '.join(kinds)} layers, "
    name += f"{'-'.join(map(str, settings.latent_dims))}, {settings.estimator.replace('_', ' ')}"
    return harness.run_variational(
        "sigmoid_belief_net",
        settings,
        build_model,
        name=name,
        objective=lambda model, _: build_objective(settings, model),
    )


main = harness.command_line(run, Settings, "sigmoid_belief_net")

if __name__ == "__main__":
    main()
