"""Objectives that carry a state from batch to batch."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from genjax_models.interfaces import (
    Array,
    Key,
    Metrics,
    Objective,
    Params,
    PyTree,
    StatefulObjective,
)


# Not a named tuple, which `jit` and `grad` could not take for a function.
@dataclasses.dataclass(frozen=True)
class StatefulVariational:
    """An objective of a batch that carries a state, callable as a `StatefulObjective`.

    Attributes:
        init_state: `init_state(params, key) -> state`.
        objective: `objective(params, state, key, batch, *, beta=1.0) -> (loss, (state, metrics))`.
    """

    init_state: Callable[[Params, Key], PyTree]
    objective: StatefulObjective

    def __call__(
        self, params: Params, state: PyTree, key: Key, batch: PyTree, **scheduled: Any
    ) -> tuple[Array, tuple[PyTree, Metrics]]:
        """The loss, the state after it and the metrics."""
        return self.objective(params, state, key, batch, **scheduled)


def of_batch(objective: Objective | StatefulVariational) -> StatefulVariational:
    """An objective of one example as the mean over a batch, with an empty state.

    Args:
        objective: `objective(params, key, x, **scheduled) -> (loss, metrics)`; one of a batch
            already is given back as it is.

    Returns:
        The objective of a batch, for `training.stateful_gradient_descent`.
    """
    if isinstance(objective, StatefulVariational):
        return objective

    def mean(
        params: Params, state: tuple, key: Key, batch: PyTree, **scheduled: Any
    ) -> tuple[Array, tuple[tuple, Metrics]]:
        keys = jax.random.split(key, jax.tree.leaves(batch)[0].shape[0])
        of_example = functools.partial(objective, params, **scheduled)
        losses, metrics = jax.vmap(of_example, axis_name="batch")(keys, batch)
        return jnp.mean(losses), (state, jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), metrics))

    return StatefulVariational(lambda params, key: (), mean)
