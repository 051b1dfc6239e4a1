"""A denoising diffusion model (Sohl-Dickstein et al. 2015; Ho et al. 2020).

`python -m experiments.diffusion` takes about a minute on handwritten digits; `--data half_moons
--likelihood gaussian` a picture of points; `--data mnist --network unet` is for an accelerator;
`--help` lists the rest.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import optax

from experiments import harness
from experiments.harness.diffusion import DiffusionEvaluator
from genjax_models import networks
from genjax_models.interfaces import Algorithm, ConditionalNetwork
from genjax_models.learning import (
    adaptive_variational_diffusion,
    simple_diffusion,
    variational_diffusion,
)
from genjax_models.models import markov_chain
from genjax_models.models.markov_chain import Diffusion
from genjax_models.training import (
    exponential_moving_average,
    gradient_descent,
    stateful_gradient_descent,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.Settings):
    """Train a diffusion model, measure its bound on test data, and draw from it."""

    likelihood: Literal["discretized_gaussian", "gaussian"] = "discretized_gaussian"
    """p(x | x_1): of grey levels, whose probability is bounded, or of real data."""
    num_timesteps: int = 250
    """T, steps of the chain."""
    schedule: Literal["linear", "cosine", "log_snr"] = "log_snr"
    """Variances of the steps."""
    first_noise: float = 0.05
    """Noise of the first step, of data in [-1, 1]: 0.4 of the distance of two levels (log_snr)."""
    last_signal: float = 0.05
    """Factor of the data after the last step (log_snr)."""
    prediction: Literal["noise", "x_0", "v"] = "v"
    """What the network predicts."""
    reverse_variance: Literal["beta", "posterior"] = "posterior"
    """Variance of a reverse step."""
    network: Literal["mlp", "unet"] = "mlp"
    """Kind of network."""
    num_units: int = 256
    """Units of the mlp's layers."""
    num_blocks: int = 3
    """Residual blocks of the mlp, or of the unet at each resolution."""
    features: tuple[int, ...] = (32, 64, 64)
    """Channels of the unet at each resolution."""
    patch_size: int = 1
    """Pixels along each side that the unet takes as one; 2 is 4 times cheaper."""
    loss: Literal["simple", "variational", "adaptive"] = "simple"
    """Squared error of the prediction; or one term of the bound, at a uniform t or at one that
    is drawn by importance."""
    ema_decay: float = 0.999
    """Of the moving average of parameters that is evaluated."""
    num_epochs: int = 700
    """Passes through the training set."""
    learning_rate: float = 1e-3
    """Of Adam, at the start; a cosine takes it to 0."""
    weight_decay: float = 0.3
    """Of AdamW: each step shrinks the parameters by this times the learning rate."""
    evaluation_samples: int = 4
    """Draws of the bound for each test example."""
    evaluation_terms: int | None = None
    """Steps evaluated in each draw of the bound, one a stretch of the chain (default: all)."""
    evaluation_examples: int = 10_000
    """Examples of each split that are measured, the first ones."""
    ddim_steps: int = 20
    """Network evaluations of the deterministic samples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(self, "num_epochs", "learning_rate", "evaluation_examples")
        if self.evaluation_samples < 2:
            got = self.evaluation_samples
            raise ValueError(f"evaluation_samples must be at least 2 for an error bar, got {got}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")
        if not 1 <= self.ddim_steps <= self.num_timesteps:
            raise ValueError(
                f"ddim_steps must be in 1..num_timesteps, 1..{self.num_timesteps},"
                f" got {self.ddim_steps}"
            )
        terms = self.evaluation_terms
        if terms is not None and not 2 <= terms <= self.num_timesteps:
            raise ValueError(
                f"evaluation_terms must be in 2..num_timesteps, 2..{self.num_timesteps},"
                f" got {terms}"
            )


def build_model(settings: Settings, data: dict[str, Any], *, clip: bool | None = None) -> Diffusion:
    """The model for data of the given `num_dims`, `example_shape` and `num_levels`."""
    grey = settings.likelihood == "discretized_gaussian"
    return markov_chain.diffusion(
        build_network(settings, data),
        build_schedule(settings),
        num_dims=data["num_dims"],
        prediction=settings.prediction,
        reverse_variance=settings.reverse_variance,
        likelihood=settings.likelihood,
        num_levels=data["num_levels"] if grey else None,
        clip=clip,
    )


def build_schedule(settings: Settings) -> markov_chain.NoiseSchedule:
    """The schedule that the settings name."""
    if settings.schedule == "log_snr":
        return markov_chain.log_snr_schedule(
            settings.num_timesteps,
            first_noise=settings.first_noise,
            last_signal=settings.last_signal,
        )
    return markov_chain.schedule_by_name(settings.schedule, settings.num_timesteps)


def build_network(settings: Settings, data: dict[str, Any]) -> ConditionalNetwork:
    """The network that the settings name."""
    if settings.network == "unet":
        return networks.unet(
            data["example_shape"],
            features=settings.features,
            num_blocks=settings.num_blocks,
            patch_size=settings.patch_size,
        )
    return networks.time_mlp(
        data["num_dims"], num_units=settings.num_units, num_blocks=settings.num_blocks
    )


def build_algorithm(settings: Settings, model: Diffusion, num_steps: int) -> Algorithm:
    """Adam on the loss, its rate a cosine down to 0, and the moving average of the parameters.

    Args:
        settings: of the run.
        model: without clipping, which has no gradient.
        num_steps: training steps in all.
    """
    learning_rate = optax.cosine_decay_schedule(settings.learning_rate, num_steps)
    optimizer = optax.adamw(learning_rate, weight_decay=settings.weight_decay)
    if settings.loss == "adaptive":
        adaptive = adaptive_variational_diffusion(model)
        trained = stateful_gradient_descent(
            adaptive.objective, optimizer, model.init, adaptive.init_state
        )
    else:
        losses = {"simple": simple_diffusion, "variational": variational_diffusion}
        trained = gradient_descent(losses[settings.loss](model), optimizer, model.init)
    return exponential_moving_average(trained, settings.ema_decay)


def run(settings: Settings) -> Path:
    """Train, evaluate and draw; returns the run's folder."""
    dataset, mesh = harness.prepare(settings, likelihood=settings.likelihood)
    data = harness.data_shape(dataset)
    num_steps = settings.num_epochs * harness.steps_per_epoch(settings, dataset)
    evaluator = DiffusionEvaluator(
        model=build_model(settings, data),
        dataset=dataset,
        mesh=mesh,
        key=jax.random.fold_in(jax.random.key(settings.seed), 2),
        num_samples=settings.evaluation_samples,
        num_terms=settings.evaluation_terms,
        num_examples=settings.evaluation_examples,
        ddim_steps=settings.ddim_steps,
    )
    return harness.run_experiment(
        "diffusion",
        settings,
        dataset,
        mesh,
        build_algorithm(settings, build_model(settings, data, clip=False), num_steps),
        model="diffusion",
        num_steps=num_steps,
        evaluator=evaluator,
    )


main = harness.command_line(run, Settings, "diffusion")

if __name__ == "__main__":
    main()
