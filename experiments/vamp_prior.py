"""Learned priors: the VampPrior and its rivals (Tomczak & Welling 2018; Chen et al. 2017).

`python -m experiments.vamp_prior` takes about a minute on handwritten digits, and `--prior normal`,
`mixture` or `autoregressive` puts another prior into the same auto-encoder. The published sizes are
`--data binarized_mnist --num-components 500 --warm-up-epochs 100 --learning-rate 5e-4`; `--help`
lists the rest.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.harness import pictures
from experiments.harness.mesh import is_main_process
from experiments.harness.run import load_config
from genjax_models.interfaces import LatentVariableModel, Params
from genjax_models.models import latent

_NUM_PICTURED = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.VariationalSettings):
    """Train a VAE with a learned prior, measure its test log-likelihood, and draw from it."""

    prior: Literal["vamp", "normal", "mixture", "autoregressive"] = "vamp"
    """p(z): a mixture of the posteriors at learned inputs, N(0, I), a mixture of Gaussians, or a
    flow."""
    latent_dim: int = 40
    """Size of z; 2 adds pictures of the latent space."""
    hidden: tuple[int, ...] = (300, 300)
    """Units of the encoder's hidden layers; the decoder has them in reverse."""
    warm_up_epochs: int = 100
    """Epochs over which the weight of the KL term rises from 0: without them a VampPrior collapses
    together with the posterior, wherever that is."""
    num_components: int = 100
    """Pseudo-inputs of the VampPrior, or Gaussians of the mixture."""
    pseudo_inputs: Literal["examples", "random"] = "examples"
    """Where the pseudo-inputs start."""
    data_range: tuple[float, float] = (0.0, 1.0)
    """Between which values the pseudo-inputs stay."""
    num_flows: int = 2
    """Of the autoregressive prior."""
    flow_hidden: tuple[int, ...] = (100,)
    """Units of the hidden layers of each of its flows."""


def build_model(settings: Settings, data: dict[str, Any]) -> LatentVariableModel:
    """The model for data of the given `num_dims` and `num_levels`."""
    options: dict[str, Any] = {
        "num_dims": data["num_dims"],
        "latent_dim": settings.latent_dim,
        "hidden": settings.hidden,
        "likelihood": settings.likelihood,
        "num_levels": harness.num_levels(settings, data),
    }
    if settings.prior == "vamp":
        return latent.vamp_prior_vae(
            num_pseudo_inputs=settings.num_components, data_range=settings.data_range, **options
        )
    return latent.vae(prior=build_prior(settings), **options)


def build_prior(settings: Settings) -> latent.parts.Prior:
    """The prior that the settings name, where it does not hang on the posterior."""
    if settings.prior == "mixture":
        return latent.priors.gaussian_mixture(settings.latent_dim, settings.num_components)
    if settings.prior == "autoregressive":
        return latent.priors.autoregressive_flow(
            settings.latent_dim, num_flows=settings.num_flows, hidden=settings.flow_hidden
        )
    return latent.parts.standard_normal(settings.latent_dim)


def start_at_examples(settings: Settings, dataset: harness.Dataset) -> Callable[[Params], Params]:
    """Puts the pseudo-inputs onto training examples that are drawn with the seed."""
    num_examples = len(dataset.train.x)
    if settings.num_components > num_examples:
        raise ValueError(
            f"num_components must be at most the number of training examples, {num_examples}, where"
            f" the pseudo-inputs start at them, got {settings.num_components}"
        )
    generator = np.random.default_rng(settings.seed)
    chosen = generator.choice(num_examples, settings.num_components, replace=False)
    # The seed's own key is training's; no other key of a run has this number.
    key = jax.random.fold_in(jax.random.key(settings.seed), 2**31 + 1)
    keys = jax.random.split(key, settings.num_components)
    examples = np.asarray(jax.vmap(dataset.prepare)(keys, jnp.asarray(dataset.train.x[chosen])))
    return functools.partial(
        latent.start_at_examples, examples=examples, data_range=settings.data_range
    )


def run(settings: Settings) -> Path:
    """Train, evaluate and draw; returns the run's folder."""
    from_examples = settings.prior == "vamp" and settings.pseudo_inputs == "examples"
    path = harness.run_variational(
        "vamp_prior",
        settings,
        build_model,
        name=f"vae, {settings.prior} prior",
        start=functools.partial(start_at_examples, settings) if from_examples else None,
    )
    if settings.prior == "vamp" and is_main_process():
        draw_pseudo_inputs(path)
    return path


def draw_pseudo_inputs(path: Path) -> None:
    """The learned pseudo-inputs of a run, into pseudo_inputs.png."""
    shape = load_config(path)["data"]["example_shape"]
    learned = harness.load_run(path).params["prior"]["pseudo_inputs"][:_NUM_PICTURED]
    images = np.asarray(jax.nn.sigmoid(learned))
    pictures.save_grid(path / "pseudo_inputs.png", images, tuple(shape), num_columns=10)


main = harness.command_line(run, Settings, "vamp_prior")

if __name__ == "__main__":
    main()
