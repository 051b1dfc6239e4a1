"""An auto-encoder: plain, denoising, sparse or contractive.

`python -m experiments.auto_encoder` takes some seconds on handwritten digits, and ends with the
reconstruction error beside that of as many principal components; `--linear` finds these;
`--kind contractive --tied --code-dim 100` learns filters; `--network attention` reads the image
row by row by self-attention; `--help` lists the rest.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import optax

from experiments import harness
from genjax_models import networks
from genjax_models.interfaces import Algorithm, AutoEncoder, Network, Objective
from genjax_models.learning import reconstruction
from genjax_models.learning.reconstruction import Corruption
from genjax_models.models import latent
from genjax_models.training import gradient_descent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.Settings):
    """Train an auto-encoder, and measure what its code loses beside principal components."""

    kind: Literal["plain", "denoising", "sparse", "contractive"] = "plain"
    """What is minimised beside the reconstruction error."""
    likelihood: Literal["gaussian", "bernoulli", "discretized_logistic"] = "gaussian"
    """p(x | code): of real data or grey levels, binary data, or grey levels."""
    network: Literal["mlp", "convolutional", "recurrent", "attention"] = "mlp"
    """Kind of encoder; the decoder is convolutional, too, or else an MLP."""
    code_dim: int = 10
    """Size of the code; 2 adds a picture of the codes."""
    hidden: tuple[int, ...] = (200,)
    """Units of the hidden layers of an MLP; a decoder has them in reverse."""
    features: tuple[int, ...] = (16, 32)
    """Channels of the convolutional encoder's layers; the decoder has them in reverse."""
    linear: bool = False
    """No hidden layers: an affine encoder and decoder."""
    tied: bool = False
    """One layer each way with the same weights, and a sigmoid code."""
    corruption: Literal["masking", "salt_and_pepper", "gaussian"] = "masking"
    """What kind denoising undoes."""
    corruption_level: float = 0.25
    """Probability for each dimension, or standard deviation of Gaussian noise."""
    penalty: Literal["kl", "l1"] = "kl"
    """Of kind sparse: kl of mean activations over the batch (of a sigmoid code), or l1 of codes."""
    target: float = 0.1
    """Mean activation that the penalty kl wants."""
    weight: float = 10.0
    """Of the penalty of kind sparse or contractive, in nats."""
    num_epochs: int = 300
    """Passes through the training set."""
    learning_rate: float = 2e-3
    """Of Adam, at the start; a cosine takes it to 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(self, "num_epochs", "learning_rate")
        if (self.linear or self.tied) and self.network != "mlp":
            raise ValueError(f"linear and tied are for network mlp, got {self.network!r}")
        if self.linear and self.tied:
            raise ValueError("linear has a linear code and tied a sigmoid one: give one of the two")


def build_model(settings: Settings, data: dict[str, Any]) -> AutoEncoder:
    """The model for data of the given `num_dims`, `example_shape` and `num_levels`."""
    if settings.tied:
        return latent.tied_auto_encoder(
            num_dims=data["num_dims"], code_dim=settings.code_dim, likelihood=settings.likelihood
        )
    grey = settings.likelihood == "discretized_logistic"
    decoder = None
    if settings.network == "convolutional":
        decoder = networks.convolutional_decoder(
            settings.code_dim,
            data["example_shape"],
            num_outputs_per_dim=2 if grey else 1,
            features=settings.features[::-1],
        )
    has_activations = settings.kind == "sparse" and settings.penalty == "kl"
    return latent.auto_encoder(
        num_dims=data["num_dims"],
        code_dim=settings.code_dim,
        hidden=() if settings.linear else settings.hidden,
        code="sigmoid" if has_activations else "linear",
        likelihood=settings.likelihood,
        num_levels=data["num_levels"] if grey else None,
        encoder=build_encoder(settings, data),
        decoder=decoder,
    )


def build_encoder(settings: Settings, data: dict[str, Any]) -> Network | None:
    """The encoder that the settings name; None for an MLP."""
    shape, code_dim = data["example_shape"], settings.code_dim
    if settings.network == "convolutional":
        return networks.convolutional_encoder(shape, code_dim, features=settings.features)
    if settings.network == "recurrent":
        return networks.recurrent_encoder(shape, code_dim)
    if settings.network == "attention":
        return networks.attention_encoder(shape, code_dim)
    return None


def build_corruption(settings: Settings) -> Corruption | None:
    """What the settings name; None but for kind denoising."""
    made = {
        "masking": reconstruction.masking,
        "salt_and_pepper": reconstruction.salt_and_pepper,
        "gaussian": reconstruction.gaussian_noise,
    }
    if settings.kind != "denoising":
        return None
    return made[settings.corruption](settings.corruption_level)


def build_objective(settings: Settings, model: AutoEncoder) -> Objective:
    """What the settings name."""
    corruption = build_corruption(settings)
    if corruption is not None:
        return reconstruction.denoising(model, corruption)
    if settings.kind == "sparse":
        return reconstruction.sparse(
            model, weight=settings.weight, penalty=settings.penalty, target=settings.target
        )
    if settings.kind == "contractive":
        return reconstruction.contractive(model, weight=settings.weight)
    return reconstruction.plain(model)


def build_algorithm(settings: Settings, model: AutoEncoder, num_steps: int) -> Algorithm:
    """Adam on the objective, its rate a cosine down to 0."""
    schedule = optax.cosine_decay_schedule(settings.learning_rate, num_steps)
    return gradient_descent(build_objective(settings, model), optax.adam(schedule), model.init)


def run(settings: Settings) -> Path:
    """Train, evaluate and draw; returns the run's folder."""
    dataset, mesh = harness.prepare(settings, likelihood=settings.likelihood)
    num_steps = settings.num_epochs * harness.steps_per_epoch(settings, dataset)
    model = build_model(settings, harness.data_shape(dataset))
    evaluator = harness.AutoEncoderEvaluator(
        model=model,
        dataset=dataset,
        mesh=mesh,
        key=jax.random.fold_in(jax.random.key(settings.seed), 2),
        code_dim=settings.code_dim,
        corruption=build_corruption(settings),
    )
    kind = "linear" if settings.linear and settings.kind == "plain" else settings.kind
    return harness.run_experiment(
        "auto_encoder",
        settings,
        dataset,
        mesh,
        build_algorithm(settings, model, num_steps),
        model=f"{kind} auto-encoder, {settings.network}",
        num_steps=num_steps,
        evaluator=evaluator,
    )


main = harness.command_line(run, Settings, "auto_encoder")

if __name__ == "__main__":
    main()
