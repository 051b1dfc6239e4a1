"""Gradient descent on an objective, of one example or of a batch with a state of its own."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from genjax_models.interfaces import (
    Algorithm,
    Array,
    Key,
    Metrics,
    Objective,
    Params,
    PyTree,
    StatefulObjective,
)
from genjax_models.training.batches import check_batch
from genjax_models.training.leaves import own


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
    microbatch_size: int | None = None,
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
        microbatch_size: examples whose activations are held at a time; the batch is a multiple of
            it. The step is the same to rounding, in less memory, and faster on a CPU where a
            whole batch leaves the cache (many samples of each example). An objective that uses
            the axis "batch" sees a microbatch.

    Returns:
        An `Algorithm`; its state is a `TrainingState`, its metrics are "loss" and the
        objective's, as means over the batch.

    Raises:
        TypeError: an objective that carries a state.
        ValueError: (from the step) leaves of the batch of unequal or no length, or a batch that is
            no multiple of `microbatch_size`.
    """
    if hasattr(objective, "init_state"):
        raise TypeError(
            f"objective must be of one example, and a {type(objective).__name__} carries a state:"
            " use stateful_gradient_descent"
        )
    schedules = dict(schedules or {})

    def init_state(key: Key) -> TrainingState:
        params = own(init(key))
        return TrainingState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    def mean_loss(
        params: Params, key: Key, scheduled: dict[str, Array], indices: Array, batch: PyTree
    ) -> tuple[Array, Metrics]:
        def example_loss(index: Array, x: PyTree) -> tuple[Array, Metrics]:
            # The key that split(key, batch_size)[index] gives, whatever the microbatch.
            loss, metrics = objective(params, jax.random.fold_in(key, index), x, **scheduled)
            return loss, {"loss": loss, **metrics}

        losses, metrics = jax.vmap(example_loss, axis_name="batch")(indices, batch)
        return jnp.mean(losses), jax.tree.map(lambda values: jnp.mean(values, axis=0), metrics)

    def step(state: TrainingState, key: Key, batch: PyTree) -> tuple[TrainingState, Metrics]:
        scheduled = {name: schedule(state.step) for name, schedule in schedules.items()}
        batch_size = check_batch(batch)
        mean_gradient: Callable[..., PyTree] = functools.partial(
            jax.grad(mean_loss, has_aux=True), state.params, key, scheduled
        )
        if microbatch_size is not None:
            mean_gradient = _over_microbatches(mean_gradient, batch_size, microbatch_size)
        gradient, metrics = mean_gradient(jnp.arange(batch_size), batch)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainingState(state.step + 1, params, optimizer_state), metrics

    return Algorithm(init_state, step)


class StatefulTrainingState(NamedTuple):
    """What `stateful_gradient_descent` carries from step to step.

    Attributes:
        step: number of steps taken, an int32 scalar.
        params: parameters of the model.
        optimizer_state: state of the optax optimizer.
        objective_state: what the objective carries, e.g. its persistent chains.
    """

    step: Array
    params: Params
    optimizer_state: optax.OptState
    objective_state: PyTree


def stateful_gradient_descent(
    objective: StatefulObjective,
    optimizer: optax.GradientTransformation,
    init: Callable[[Key], Params],
    init_objective_state: Callable[[Params, Key], PyTree],
    *,
    schedules: Mapping[str, Callable[[Array], Array]] | None = None,
    write_back: Callable[[Params, PyTree], Params] = lambda params, state: params,
) -> Algorithm:
    """Minimise an objective of a whole batch that carries a state from step to step.

    For what a function of one example cannot do: persistent chains, baselines, codebooks.

    Args:
        objective: `objective(params, state, key, batch, **scheduled) -> (loss, (state, metrics))`,
            differentiated in `params`.
        optimizer: any optax optimizer.
        init: `init(key) -> params`, usually `model.init`.
        init_objective_state: `init_objective_state(params, key) -> state`.
        schedules: as of `gradient_descent`.
        write_back: `write_back(params, state) -> params`, after the optimizer: parameters that the
            objective's state decides on instead, such as a codebook of moving averages.

    Returns:
        An `Algorithm`; its state is a `StatefulTrainingState`, its metrics are "loss" and the
        objective's.

    Raises:
        ValueError: (from the step) leaves of the batch of unequal or no length.
    """
    schedules = dict(schedules or {})

    def init_state(key: Key) -> StatefulTrainingState:
        params_key, state_key = jax.random.split(key)
        params = own(init(params_key))
        objective_state = own(init_objective_state(params, state_key))
        optimizer_state = optimizer.init(params)
        return StatefulTrainingState(
            jnp.zeros((), jnp.int32), params, optimizer_state, objective_state
        )

    def step(
        state: StatefulTrainingState, key: Key, batch: PyTree
    ) -> tuple[StatefulTrainingState, Metrics]:
        check_batch(batch)
        scheduled = {name: schedule(state.step) for name, schedule in schedules.items()}

        def loss(params: Params) -> tuple[Array, tuple[PyTree, Metrics]]:
            return objective(params, state.objective_state, key, batch, **scheduled)

        (value, (objective_state, metrics)), gradient = jax.value_and_grad(loss, has_aux=True)(
            state.params
        )
        updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.params)
        params = write_back(optax.apply_updates(state.params, updates), objective_state)
        moved = StatefulTrainingState(state.step + 1, params, optimizer_state, objective_state)
        return moved, {"loss": value, **metrics}

    return Algorithm(init_state, step)


def _over_microbatches(
    mean: Callable[..., PyTree], batch_size: int, microbatch_size: int
) -> Callable[..., PyTree]:
    """A mean over the batch as the mean of its means over microbatches, one after the other."""
    if microbatch_size < 1 or batch_size % microbatch_size:
        raise ValueError(
            f"microbatch_size must divide the batch size, {batch_size}, got {microbatch_size}"
        )
    num_microbatches = batch_size // microbatch_size

    def split(leaf: Array) -> Array:
        # Strided, so that every device of a sharded batch has a share of each microbatch.
        return jnp.swapaxes(leaf.reshape(microbatch_size, -1, *leaf.shape[1:]), 0, 1)

    def mean_of_means(*arguments: PyTree) -> PyTree:
        def add(total: PyTree, microbatch: PyTree) -> tuple[PyTree, None]:
            terms = mean(*microbatch)
            return jax.tree.map(lambda t, term: t + term / num_microbatches, total, terms), None

        microbatches = jax.tree.map(split, arguments)
        shapes = jax.eval_shape(
            lambda leaves: mean(*jax.tree.map(lambda x: x[0], leaves)), microbatches
        )
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.lax.scan(add, zeros, microbatches)[0]

    return mean_of_means
