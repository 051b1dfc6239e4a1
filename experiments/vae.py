"""A variational or importance-weighted auto-encoder (Kingma & Welling 2014; Burda et al. 2016).

`python -m experiments.vae` takes about a minute on handwritten digits; `--data mnist --bound iwae
--num-samples 5` trains the importance-weighted auto-encoder on MNIST, and `--bound iwae --estimator
dreg --num-samples 64 --chunk-size 8` with many samples and little noise; `--help` lists the rest.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import harness
from genjax_models import networks
from genjax_models.interfaces import Algorithm, LatentVariableModel
from genjax_models.learning import NVIL, bounds, variational
from genjax_models.learning.bounds import Bound, SplitBound
from genjax_models.models import latent
from genjax_models.training import gradient_descent, stateful_gradient_descent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.Settings):
    """Train a VAE or IWAE, measure its test log-likelihood, and draw from it."""

    likelihood: Literal["bernoulli", "gaussian", "discretized_logistic"] = "bernoulli"
    """p(x | z): of binary data, real data, or grey levels."""
    latent_dim: int = 50
    """Size of z; 2 adds pictures of the latent space."""
    hidden: tuple[int, ...] = (200, 200)
    """Units of the encoder's hidden layers; the decoder has them in reverse."""
    network: Literal["mlp", "convolutional"] = "mlp"
    """Kind of encoder and decoder."""
    bound: Literal[
        "elbo", "iwae", "renyi", "vr_max", "tvo", "jackknife", "miwae", "ciwae", "piwae"
    ] = "elbo"
    """What is maximised. Where it is no lower bound on log p(x) (vr_max, jackknife, renyi of an
    alpha below 0), the results give IWAE instead."""
    alpha: float = 0.5
    """Order of the Renyi bound."""
    betas: tuple[float, ...] = (0.0, 0.1, 0.3, 1.0)
    """From 0 to 1, where the thermodynamic bound (tvo) is evaluated."""
    num_groups: int = 1
    """Groups of the samples of miwae and piwae, a divisor of num_samples."""
    elbo_weight: float = 0.5
    """Weight of the ELBO in ciwae, from 0 to 1."""
    num_samples: int = 1
    """K, posterior samples for each example and step."""
    chunk_size: int | None = None
    """Samples whose activations are held at a time, a divisor of K: for many in little memory."""
    estimator: Literal[
        "pathwise",
        "sticking_the_landing",
        "dreg",
        "score_function",
        "rloo",
        "vimco_geometric",
        "vimco_arithmetic",
        "nvil",
        "wake_sleep",
        "reweighted_wake_sleep",
    ] = "pathwise"
    """Estimator of the gradient."""
    kl: Literal["monte_carlo", "analytic"] = "monte_carlo"
    """How the KL term of the ELBO is computed."""
    beta: float = 1.0
    """Weight of the KL term."""
    warm_up_epochs: int = 0
    """Epochs over which the weight of the KL term rises from 0."""
    num_epochs: int = 1000
    """Passes through the training set."""
    learning_rate: float = 2e-3
    """Of Adam, at the start."""
    learning_rate_schedule: Literal["cosine", "burda", "constant"] = "cosine"
    """cosine: down to 0; burda: eight stages of 3^i parts of the epochs, at rates * 10^(-i/7)."""
    adam_epsilon: float = 1e-8
    """Of Adam; Burda et al. use 1e-4."""
    evaluation_samples: int = 5000
    """Samples for the test log-likelihood of each example."""
    microbatch_size: int | None = None
    """Examples whose activations are held at a time; saves memory, and time at large K on a CPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(self, "num_epochs", "learning_rate", "adam_epsilon")
        harness.check_positive(self, "evaluation_samples")
        if self.warm_up_epochs < 0:
            raise ValueError(f"warm_up_epochs must not be negative, got {self.warm_up_epochs}")


def build_model(settings: Settings, data: dict[str, Any]) -> LatentVariableModel:
    """The model for data of the given `num_dims`, `example_shape` and `num_levels`."""
    grey = settings.likelihood == "discretized_logistic"
    encoder, decoder = None, None
    if settings.network == "convolutional":
        encoder = networks.convolutional_encoder(data["example_shape"], 2 * settings.latent_dim)
        decoder = networks.convolutional_decoder(
            settings.latent_dim, data["example_shape"], num_outputs_per_dim=2 if grey else 1
        )
    return latent.vae(
        num_dims=data["num_dims"],
        latent_dim=settings.latent_dim,
        hidden=settings.hidden,
        likelihood=settings.likelihood,
        num_levels=data["num_levels"] if grey else None,
        encoder=encoder,
        decoder=decoder,
    )


def build_algorithm(
    settings: Settings, model: LatentVariableModel, steps_per_epoch: int
) -> Algorithm:
    """Adam on the bound, with the schedules of the learning rate and of beta."""
    bound, num_samples = build_bound(settings), settings.num_samples
    num_steps = settings.num_epochs * steps_per_epoch
    optimizer = optax.adam(learning_rate(settings, num_steps), eps=settings.adam_epsilon)
    schedules = {"beta": beta(settings, settings.warm_up_epochs * steps_per_epoch)}
    options: dict[str, Any] = {
        "bound": bound,
        "kl": settings.kl,
        "num_samples": num_samples,
        "chunk_size": settings.chunk_size,
    }
    if settings.estimator == "nvil":
        if settings.microbatch_size is not None:
            raise ValueError(
                'microbatch_size is not for estimator "nvil", whose moving average is of a whole'
                " batch: use chunk_size"
            )
        stateful = variational(model, estimator=NVIL(), **options)
        return stateful_gradient_descent(
            stateful.objective, optimizer, model.init, stateful.init_state, schedules=schedules
        )
    return gradient_descent(
        variational(model, estimator=settings.estimator, **options),
        optimizer,
        model.init,
        schedules=schedules,
        microbatch_size=settings.microbatch_size,
    )


def build_bound(settings: Settings) -> Bound | SplitBound:
    """The bound that the settings name, as a function of log weights."""
    made: dict[str, Bound | SplitBound] = {
        "elbo": bounds.elbo,
        "iwae": bounds.iwae,
        "renyi": functools.partial(bounds.renyi, alpha=settings.alpha),
        "vr_max": bounds.vr_max,
        "tvo": functools.partial(bounds.tvo, betas=settings.betas),
        "jackknife": bounds.jackknife,
        "miwae": functools.partial(bounds.miwae, num_groups=settings.num_groups),
        "ciwae": functools.partial(bounds.ciwae, weight=settings.elbo_weight),
        "piwae": bounds.piwae(settings.num_groups),
    }
    return made[settings.bound]


def reported_bound(settings: Settings) -> tuple[str, Bound]:
    """Name and function of what the results give: what was trained, where it is a lower bound."""
    is_lower = settings.bound not in ("vr_max", "jackknife")
    is_lower &= settings.bound != "renyi" or settings.alpha >= 0
    bound = build_bound(settings)
    # A split bound trains the posterior by another bound than its value.
    if isinstance(bound, SplitBound) or not is_lower:
        return "iwae", bounds.iwae
    return settings.bound, bound


def learning_rate(settings: Settings, num_steps: int) -> optax.Schedule:
    """The schedule that the settings name.

    "burda" is that of Burda et al. 2016, section 5: 3^i epochs at 1e-3 * 10^(-i/7), i = 0..7, in
    these shares of any number of epochs. It is made for millions of small steps: two thirds of
    them are at a tenth of the rate.
    """
    if settings.learning_rate_schedule == "constant":
        return optax.constant_schedule(settings.learning_rate)
    if settings.learning_rate_schedule == "cosine":
        return optax.cosine_decay_schedule(settings.learning_rate, num_steps)
    ends = jnp.asarray(np.cumsum(3 ** np.arange(8)) / 3280 * num_steps)
    return lambda step: settings.learning_rate * 10 ** (-jnp.sum(step >= ends) / 7)


def beta(settings: Settings, warm_up_steps: int) -> optax.Schedule:
    """The weight of the KL term: from 0 in equal steps, then constant."""
    if warm_up_steps == 0:
        return optax.constant_schedule(settings.beta)
    return optax.linear_schedule(0.0, settings.beta, warm_up_steps)


def run(settings: Settings) -> Path:
    """Train, evaluate and draw; returns the run's folder."""
    dataset, mesh = harness.prepare(settings, likelihood=settings.likelihood)
    steps_per_epoch = harness.steps_per_epoch(settings, dataset)
    model = build_model(settings, harness.data_shape(dataset))
    algorithm = build_algorithm(settings, model, steps_per_epoch)
    bound_name, bound = reported_bound(settings)
    evaluator = harness.LatentEvaluator(
        model=model,
        dataset=dataset,
        mesh=mesh,
        key=jax.random.fold_in(jax.random.key(settings.seed), 2),
        bound=bound,
        bound_name=bound_name,
        num_samples=settings.num_samples,
        evaluation_samples=settings.evaluation_samples,
    )
    return harness.run_experiment(
        "vae",
        settings,
        dataset,
        mesh,
        algorithm,
        model="vae" if settings.bound == "elbo" else f"{settings.bound} auto-encoder",
        num_steps=settings.num_epochs * steps_per_epoch,
        evaluator=evaluator,
    )


main = harness.command_line(run, Settings, "vae")

if __name__ == "__main__":
    main()
