"""RealNVP: a flow of affine couplings (Dinh et al. 2017).

`python -m experiments.real_nvp` takes about a minute on the grey levels of handwritten digits;
`--data half_moons` learns a density of the plane and draws how it bends it; `--help` lists the
rest.
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
from experiments.harness import pictures, warp
from experiments.harness.mesh import is_main_process, to_host
from experiments.harness.run import Run
from genjax_models.interfaces import (
    Algorithm,
    Array,
    DensityModel,
    Key,
    LatentVariableModel,
    Params,
)
from genjax_models.learning import bounds, maximum_likelihood, variational
from genjax_models.models import latent, transformation
from genjax_models.models.transformation.couplings import alternating_masks, checkerboard_masks
from genjax_models.training import gradient_descent

_NUM_STARTING = 1000
_NUM_WARPED = 2000
_MAX_GRADIENT = 100.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.Settings):
    """Train a RealNVP on grey levels or real values, measure its likelihood, and draw from it."""

    network: Literal["mlp", "multi_scale"] = "mlp"
    """Perceptrons on vectors, or residual convolutional networks at several scales of images."""
    num_couplings: int = 8
    """Of the whole flow; of each kind at each scale for multi_scale."""
    hidden: tuple[int, ...] = (128, 128)
    """Units of the perceptrons' hidden layers."""
    activation: Literal["relu", "tanh"] = "tanh"
    """Of the perceptrons; tanh bends the plane smoothly."""
    num_scales: int = 2
    """Scales of multi_scale."""
    num_features: int = 32
    """Channels of the residual networks of multi_scale."""
    num_blocks: int = 2
    """Residual blocks of each network of multi_scale."""
    max_log_scale: float = 2.0
    """Largest |log scale| of a coupling."""
    alpha: float = 0.05
    """Of the logit transform of grey levels: logit(alpha + (1 - 2 alpha) y)."""
    num_epochs: int = 100
    """Passes through the training set."""
    learning_rate: float = 1e-3
    """Of Adam, at the start; a cosine takes it to 0."""
    weight_decay: float = 0.0
    """Of AdamW: each step shrinks the parameters by this times the learning rate."""
    evaluation_samples: int = 100
    """Dequantisations for the test log-likelihood of each example."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(self, "num_epochs", "learning_rate", "evaluation_samples")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")


def build_flow(settings: Settings, data: dict[str, Any]) -> transformation.Flow:
    """The flow from noise to real values, or to the logits of grey ones."""
    shape = data["example_shape"]
    if settings.network == "multi_scale":
        return transformation.multi_scale_flow(
            image_shape=shape,
            num_scales=settings.num_scales,
            num_couplings=settings.num_couplings,
            num_features=settings.num_features,
            num_blocks=settings.num_blocks,
            max_log_scale=settings.max_log_scale,
        )
    if len(shape) == 1:
        masks = alternating_masks(settings.num_couplings, data["num_dims"])
    else:
        masks = checkerboard_masks(settings.num_couplings, (*shape, 1)[:3])
    return transformation.real_nvp_flow(
        num_dims=data["num_dims"],
        num_couplings=settings.num_couplings,
        hidden=settings.hidden,
        activation=getattr(jax.nn, settings.activation),
        masks=masks,
        max_log_scale=settings.max_log_scale,
    )


def build_model(settings: Settings, data: dict[str, Any]) -> DensityModel | LatentVariableModel:
    """A density of real values, or the dequantised model of `num_levels` grey levels."""
    density = transformation.density(build_flow(settings, data))
    if data["num_levels"] is None:
        return density
    density = transformation.logit_transformed(density, alpha=settings.alpha)
    return transformation.dequantized(density, num_levels=data["num_levels"])


def build_algorithm(
    settings: Settings,
    model: DensityModel | LatentVariableModel,
    flow: transformation.Flow,
    dataset: harness.Dataset,
    steps_per_epoch: int,
) -> Algorithm:
    """Adam on the likelihood or its bound, from actnorms that fit the first training examples."""
    if isinstance(model, DensityModel):
        objective = maximum_likelihood(model)
    else:
        objective = variational(model, bound=bounds.elbo)
    num_steps = settings.num_epochs * steps_per_epoch
    learning_rate = optax.cosine_decay_schedule(settings.learning_rate, num_steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(_MAX_GRADIENT),
        optax.adamw(learning_rate, weight_decay=settings.weight_decay),
    )
    examples = jnp.asarray(dataset.train.x[:_NUM_STARTING])

    def init(key: Key) -> Params:
        flow_key, starting_key = jax.random.split(key)
        keys = jax.random.split(starting_key, len(examples))
        starting = functools.partial(starting_example, settings, dataset)
        xs = jax.vmap(starting)(keys, examples)
        return transformation.initialize_from_data(flow, flow.init(flow_key), xs)

    return gradient_descent(objective, optimizer, init)


def starting_example(settings: Settings, dataset: harness.Dataset, key: Key, x: Array) -> Array:
    """A row of the training set as the flow sees it: of grey levels, the logits of a draw."""
    prepare_key, noise_key = jax.random.split(key)
    x = dataset.prepare(prepare_key, x)
    if dataset.num_levels is None:
        return x
    y = transformation.dequantize(noise_key, x, num_levels=dataset.num_levels)
    return transformation.LogitTransform(settings.alpha).inverse(y)


class LevelsEvaluator(harness.LatentEvaluator):
    """Bounds and log-likelihoods of grey levels, in nats and in bits per dimension.

    The latent is the level itself with the noise that makes it continuous: what it carries is no
    question.
    """

    def monitor(self, state: Any) -> dict[str, float]:
        """What the learning curves show beside the training loss."""
        return {"validation_bound": self.measure_bound(state.params, "validation")["value"]}

    def evaluate(self, state: Any) -> dict[str, Any]:
        """The `metrics` of result.json."""
        metrics = self.measure_bounds(state.params)
        num_dims = self.dataset.test.x.shape[1]
        bits = harness.bits_per_dim(metrics["test_log_likelihood"], num_dims)
        return metrics | {"test_bits_per_dim": bits}

    def draw(self, state: Any, run: Run) -> None:
        """The run's pictures: samples and learning curves."""
        if not is_main_process():
            return
        sample = functools.partial(latent.sample, self.model)
        harness.draw_samples(sample, to_host(state.params), self.key, self.dataset, run)
        names = {"bound": "training bound", "validation_bound": "validation bound"}
        pictures.save_curves(run.path / "curves.png", run.records(), names)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RealEvaluator(harness.DensityEvaluator):
    """Exact log-likelihoods of real values, and how the flow bends the plane.

    Attributes:
        flow: of the model.
    """

    flow: transformation.Flow

    def evaluate(self, state: Any) -> dict[str, Any]:
        """The `metrics` of result.json."""
        metrics = super().evaluate(state)
        bits = harness.bits_per_dim(metrics["test_log_likelihood"], self.flow.num_dims)
        return metrics | {"test_bits_per_dim": bits}

    def draw(self, state: Any, run: Run) -> None:
        """The run's pictures: samples, learning curves and, in the plane, warp.png."""
        super().draw(state, run)
        if not is_main_process() or self.flow.num_dims != 2:
            return
        params = to_host(state.params)
        noise = np.random.default_rng(0).normal(size=(_NUM_WARPED, 2))
        warp.save_warp(
            run.path / "warp.png",
            self.flow.bijector(params).forward,
            functools.partial(self.model.log_prob, params),
            noise,
            self.dataset.test.x[:_NUM_WARPED],
        )


def run(settings: Settings) -> Path:
    """Train, evaluate and draw; returns the run's folder."""
    dataset, mesh = harness.prepare(settings, likelihood="none")
    steps_per_epoch = harness.steps_per_epoch(settings, dataset)
    data = harness.data_shape(dataset)
    model, flow = build_model(settings, data), build_flow(settings, data)
    key = jax.random.fold_in(jax.random.key(settings.seed), 2)
    evaluator: harness.Evaluator
    if isinstance(model, DensityModel):
        evaluator = RealEvaluator(model=model, dataset=dataset, mesh=mesh, key=key, flow=flow)
    else:
        evaluator = LevelsEvaluator(
            model=model,
            dataset=dataset,
            mesh=mesh,
            key=key,
            bound=bounds.elbo,
            bound_name="elbo",
            num_samples=1,
            evaluation_samples=settings.evaluation_samples,
        )
    return harness.run_experiment(
        "real_nvp",
        settings,
        dataset,
        mesh,
        build_algorithm(settings, model, flow, dataset, steps_per_epoch),
        model="real_nvp" if settings.network == "mlp" else "multi-scale real_nvp",
        num_steps=settings.num_epochs * steps_per_epoch,
        evaluator=evaluator,
    )


main = harness.command_line(run, Settings, "real_nvp")

if __name__ == "__main__":
    main()
