"""Algorithms: an objective and an optax optimizer become (init, step)."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from genjax_models.interfaces import Algorithm, Array, Key, Metrics, Objective, Params, PyTree


class TrainingState(NamedTuple):
    """What `gradient_descent` carries from step to step.

    Attributes:
        step: number of steps taken, an int32 scalar.
        params: parameters of the model.
        optimizer_state: state of the optax optimizer.
    """

    step: Array
    params: Params
    optimizer_state: optax.OptState


def gradient_descent(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    init: Callable[[Key], Params],
    *,
    schedules: Mapping[str, Callable[[Array], Array]] | None = None,
) -> Algorithm:
    """Minimise the mean of an objective over batches.

    One step draws a key for each example, averages losses and gradients over the batch, and
    applies the optimizer. Both functions are pure: compile with
    `jax.jit(algorithm.step, donate_argnums=0)`, or scan over many steps. Where the batch is
    sharded over the devices of a mesh and the state replicated, the same compiled step is data
    parallel, with one all-reduce.

    Args:
        objective: `objective(params, key, x, **scheduled) -> (loss, metrics)` for one example,
            such as `learning.variational` gives. It runs inside `vmap(axis_name="batch")`.
        optimizer: any optax optimizer.
        init: `init(key) -> params`, usually `model.init`.
        schedules: optax schedules by the name of the objective's keyword that each fills, e.g.
            `{"beta": optax.linear_schedule(0.0, 1.0, 1000)}`, evaluated at the step's number.

    Returns:
        An `Algorithm`; its state is a `TrainingState`, its metrics are "loss" and the
        objective's, as means over the batch.
    """
    schedules = dict(schedules or {})

    def init_state(key: Key) -> TrainingState:
        params = init(key)
        return TrainingState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    def step(state: TrainingState, key: Key, batch: PyTree) -> tuple[TrainingState, Metrics]:
        scheduled = {name: schedule(state.step) for name, schedule in schedules.items()}
        keys = jax.random.split(key, _batch_size(batch))

        def mean_loss(params: Params) -> tuple[Array, Metrics]:
            def example_loss(key: Key, x: PyTree) -> tuple[Array, Metrics]:
                return objective(params, key, x, **scheduled)

            losses, metrics = jax.vmap(example_loss, axis_name="batch")(keys, batch)
            metrics = jax.tree.map(lambda values: jnp.mean(values, axis=0), metrics)
            return jnp.mean(losses), metrics

        (loss, metrics), gradient = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainingState(state.step + 1, params, optimizer_state), {"loss": loss, **metrics}

    return Algorithm(init_state, step)


def _batch_size(batch: PyTree) -> int:
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    if len(sizes) != 1 or sizes in ({()}, {(0,)}):
        raise ValueError(
            "every leaf of batch must have the same leading axis [batch_size >= 1], got shapes"
            f" {[jnp.shape(leaf) for leaf in jax.tree.leaves(batch)]}"
        )
    return sizes.pop()[0]
