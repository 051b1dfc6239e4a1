"""What every experiment that maximises a variational bound shares: settings, algorithm, the run."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.harness.data import Dataset
from experiments.harness.experiment import data_shape, prepare, run_experiment, steps_per_epoch
from experiments.harness.latent import LatentEvaluator
from experiments.harness.settings import Settings, check_positive
from genjax_models.checks import check_sizes
from genjax_models.interfaces import Algorithm, Key, LatentVariableModel, Objective, Params
from genjax_models.learning import bounds, variational
from genjax_models.learning.bounds import Bound, SplitBound
from genjax_models.learning.stateful import StatefulVariational
from genjax_models.models import latent, likelihoods
from genjax_models.training import gradient_descent, stateful_gradient_descent

MakeObjective = Callable[[LatentVariableModel, Dataset], Objective | StatefulVariational]

_NUM_OF_MEAN = 10_000
# No other key of a run has this number.
_KEY_OF_MEAN = 2**31


@dataclasses.dataclass(frozen=True, kw_only=True)
class VariationalSettings(Settings):
    """What such an experiment can be told; its own settings derive from this."""

    likelihood: Literal[
        "bernoulli",
        "gaussian",
        "discretized_logistic",
        "discretized_logistic_mixture",
        "categorical",
    ] = "bernoulli"
    """p(x | z): of binary data, real data, or grey levels."""
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
    start_at_mean: bool = True
    """Start a Bernoulli decoder at the mean of the training examples, where it ends in a dense
    layer."""
    adam_epsilon: float = 1e-8
    """Of Adam; Burda et al. use 1e-4."""
    evaluation_samples: int = 5000
    """Samples for the test log-likelihood of each example."""
    iwae_samples: int | None = None
    """K of an importance-weighted bound of the test split, beside the bound that is trained."""
    microbatch_size: int | None = None
    """Examples whose activations are held at a time; saves memory, and time at large K on a CPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "num_epochs", "learning_rate", "adam_epsilon", "evaluation_samples")
        if self.evaluation_samples < 2:
            raise ValueError(
                "evaluation_samples must be at least 2 for an error bar, got"
                f" {self.evaluation_samples}"
            )
        if self.iwae_samples is not None:
            check_sizes(iwae_samples=self.iwae_samples)
        if self.warm_up_epochs < 0:
            raise ValueError(f"warm_up_epochs must not be negative, got {self.warm_up_epochs}")
        if not 0 <= self.beta < float("inf"):
            raise ValueError(f"beta must be finite and not negative, got {self.beta}")


def num_levels(settings: VariationalSettings, data: dict[str, Any]) -> int | None:
    """What a model with the settings' likelihood takes as `num_levels`."""
    return data["num_levels"] if likelihoods.needs_num_levels(settings.likelihood) else None


def run_variational(
    experiment: str,
    settings: VariationalSettings,
    build_model: Callable[[Any, dict[str, Any]], LatentVariableModel],
    *,
    name: str,
    objective: MakeObjective | None = None,
    schedules: Callable[[int], dict[str, optax.Schedule]] | None = None,
    start: Callable[[Dataset], Callable[[Params], Params]] | None = None,
    picture_means: bool = True,
    evaluator: type[LatentEvaluator] = LatentEvaluator,
) -> Path:
    """Train a latent-variable model by a bound, evaluate it and draw from it.

    Args:
        experiment: the name of its module.
        settings: of the run.
        build_model: `build_model(settings, data_shape) -> model`.
        name: the model's name in tables.
        objective: `objective(model, dataset) -> objective`, of an example or, with an `init_state`,
            of a batch; by default the bound that the settings name.
        schedules: `schedules(steps_per_epoch) -> schedules` of the objective's keywords; by
            default beta's.
        start: `start(dataset)` is a function from the model's own initial parameters to those with
            which training begins.
        picture_means: whether the pictures show E[x | z] rather than draws of x.
        evaluator: what is measured and drawn, where it is more than usual.

    Returns:
        The run's folder.
    """
    dataset, mesh = prepare(settings, likelihood=settings.likelihood)
    per_epoch = steps_per_epoch(settings, dataset)
    model = build_model(settings, data_shape(dataset))
    begin = _begin(settings, dataset, start)
    minimized = None if objective is None else objective(model, dataset)
    algorithm = build_algorithm(
        settings, model, per_epoch, objective=minimized, schedules=schedules, begin=begin
    )
    bound_name, bound = reported_bound(settings)
    measures = evaluator(
        model=model,
        dataset=dataset,
        mesh=mesh,
        key=jax.random.fold_in(jax.random.key(settings.seed), 2),
        bound=bound,
        bound_name=bound_name,
        num_samples=settings.num_samples,
        evaluation_samples=settings.evaluation_samples,
        iwae_samples=settings.iwae_samples,
        picture_means=picture_means,
    )
    return run_experiment(
        experiment,
        settings,
        dataset,
        mesh,
        algorithm,
        model=name,
        num_steps=settings.num_epochs * per_epoch,
        evaluator=measures,
    )


def _begin(
    settings: VariationalSettings,
    dataset: Dataset,
    start: Callable[[Dataset], Callable[[Params], Params]] | None,
) -> Callable[[Params], Params]:
    """From the model's own initial parameters to those with which training begins."""
    own = (lambda params: params) if start is None else start(dataset)
    if not settings.start_at_mean or settings.likelihood != "bernoulli":
        return own
    examples = dataset.train.x[:_NUM_OF_MEAN]
    key = jax.random.fold_in(jax.random.key(settings.seed), _KEY_OF_MEAN)
    keys = jax.random.split(key, len(examples))
    mean = jnp.mean(jax.jit(jax.vmap(dataset.prepare))(keys, examples), axis=0)

    def begin(params: Params) -> Params:
        with contextlib.suppress(ValueError):  # The decoder ends in another layer.
            params = latent.parts.start_at_mean(params, mean)
        return own(params)

    return begin


def build_algorithm(
    settings: VariationalSettings,
    model: LatentVariableModel,
    steps_per_epoch: int,
    *,
    objective: Objective | StatefulVariational | None = None,
    schedules: Callable[[int], dict[str, optax.Schedule]] | None = None,
    begin: Callable[[Params], Params] = lambda params: params,
) -> Algorithm:
    """Adam on the bound or another objective, from what `begin` makes of the model's own start."""

    def init(key: Key) -> Params:
        return begin(model.init(key))

    num_steps = settings.num_epochs * steps_per_epoch
    optimizer = optax.adam(learning_rate(settings, num_steps), eps=settings.adam_epsilon)
    if schedules is None:
        scheduled = {"beta": beta(settings, settings.warm_up_epochs * steps_per_epoch)}
    else:
        scheduled = schedules(steps_per_epoch)
    minimized = objective or bound_objective(settings, model)
    if not isinstance(minimized, StatefulVariational):
        return gradient_descent(
            minimized,
            optimizer,
            init,
            schedules=scheduled,
            microbatch_size=settings.microbatch_size,
        )
    if settings.microbatch_size is not None:
        raise ValueError(
            f'microbatch_size is not for estimator "{settings.estimator}" here: the objective is of'
            " a whole batch"
        )
    return stateful_gradient_descent(
        minimized.objective, optimizer, init, minimized.init_state, schedules=scheduled
    )


def bound_objective(
    settings: VariationalSettings, model: LatentVariableModel
) -> Objective | StatefulVariational:
    """The bound and the estimator of its gradient that the settings name."""
    return variational(
        model,
        bound=build_bound(settings),
        estimator=settings.estimator,
        kl=settings.kl,
        num_samples=settings.num_samples,
        chunk_size=settings.chunk_size,
    )


def build_bound(settings: VariationalSettings) -> Bound | SplitBound:
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


def reported_bound(settings: VariationalSettings) -> tuple[str, Bound]:
    """Name and function of what the results give: what was trained, where it is a lower bound."""
    is_lower = settings.bound not in ("vr_max", "jackknife")
    is_lower &= settings.bound != "renyi" or settings.alpha >= 0
    bound = build_bound(settings)
    # A split bound trains the posterior by another bound than its value.
    if isinstance(bound, SplitBound) or not is_lower:
        return "iwae", bounds.iwae
    return settings.bound, bound


def learning_rate(settings: VariationalSettings, num_steps: int) -> optax.Schedule:
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


def beta(settings: VariationalSettings, warm_up_steps: int) -> optax.Schedule:
    """The weight of the KL term: from 0 in equal steps, then constant."""
    if warm_up_steps == 0:
        return optax.constant_schedule(settings.beta)
    return optax.linear_schedule(0.0, settings.beta, warm_up_steps)
