"""Objectives that carry a state from batch to batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

from genjax_models.interfaces import Array, Key, Metrics, Params, PyTree, StatefulObjective


class StatefulVariational(NamedTuple):
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
