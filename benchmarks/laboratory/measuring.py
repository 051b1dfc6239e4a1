"""Variance of an estimator with its error bar, its time and its memory."""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Interval, median_interval, race
from genjax_models.evaluation.moments import moments
from genjax_models.interfaces import Key, PyTree

Replicate = Callable[..., PyTree]
"""`replicate(key, *arguments)`: one estimate of a gradient."""

NUM_GROUPS = 10


class Spread(NamedTuple):
    """The variance of one estimate.

    Attributes:
        variance: summed over all components.
        standard_error: of it, from groups of replicates that are independent of each other.
        by_leaf: variance and standard error of each leaf, by its path.
        num_replicates: estimates that it was measured on.
    """

    variance: float
    standard_error: float
    by_leaf: dict[str, tuple[float, float]]
    num_replicates: int


class Cost(NamedTuple):
    """What one estimate costs.

    Attributes:
        milliseconds: median with its 95 % interval, in alternation with the other estimators.
        megabytes: temporary memory of the compiled estimate; NaN where XLA does not say.
    """

    milliseconds: Interval
    megabytes: float


def spread(
    replicate: Callable[..., PyTree],
    key: Key,
    *arguments: Any,
    num_replicates: int,
    batch_size: int = 10,
) -> Spread:
    """The variance of `replicate(key, *arguments)` over its key, in the memory of one batch.

    The same key gives every estimator the same random numbers. The replicates are dealt to ten
    groups; the variance is the mean of those within the groups, its standard error theirs.
    """
    in_group = max(2, -(-num_replicates // NUM_GROUPS))
    found = _group_variances(replicate, in_group, batch_size)(key, *arguments)
    leaves = {
        jax.tree_util.keystr(path): np.asarray(leaf, np.float64)
        for path, leaf in jax.tree.leaves_with_path(found)
    }
    total = np.sum(list(leaves.values()), axis=0)
    by_leaf = {name: _mean_and_error(values) for name, values in leaves.items()}
    return Spread(*_mean_and_error(total), by_leaf, in_group * NUM_GROUPS)


@functools.cache
def _group_variances(
    replicate: Callable[..., PyTree], in_group: int, batch_size: int
) -> Callable[..., PyTree]:
    """Total variance of each leaf in each group, leaves [NUM_GROUPS]."""

    def group(key: Key, *arguments: Any) -> PyTree:
        found = moments(
            lambda key: replicate(key, *arguments),
            key,
            num_replicates=in_group,
            batch_size=min(batch_size, in_group),
        )
        return jax.tree.map(jnp.sum, found.variance)

    def groups(key: Key, *arguments: Any) -> PyTree:
        keys = jax.random.split(key, NUM_GROUPS)
        return jax.lax.map(lambda key: group(key, *arguments), keys)

    return jax.jit(groups)


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def costs(
    replicates: Mapping[str, Replicate],
    key: Key,
    arguments: Mapping[str, tuple],
    *,
    num_rounds: int = 7,
    seconds: float = 0.02,
) -> dict[str, Cost]:
    """Time and memory of one estimate `replicate(key, *arguments)` of each, in alternation.

    What an estimate depends on has to be among the arguments: what a function closes over is a
    constant, of which the compiler may compute in advance.
    """
    runs, memory, repeats = [], [], []
    for name, replicate in replicates.items():
        inputs = (key, *arguments[name])
        compiled = jax.jit(replicate).lower(*inputs).compile()
        analysis = compiled.memory_analysis()
        memory.append(analysis.temp_size_in_bytes / 1e6 if analysis else float("nan"))
        _repeat(compiled, inputs, 1)
        start = time.perf_counter()
        _repeat(compiled, inputs, 1)
        count = min(200, max(1, round(seconds / (time.perf_counter() - start))))
        repeats.append(count)
        runs.append(functools.partial(_turn, compiled, inputs, count))
    found = {}
    turns = race(runs, num_rounds=num_rounds, num_steps=1)
    for name, times, count, megabytes in zip(replicates, turns, repeats, memory, strict=True):
        found[name] = Cost(median_interval([1e3 * time / count for time in times]), megabytes)
    return found


def _turn(compiled: Callable[..., PyTree], inputs: tuple, count: int, num_turns: int) -> None:
    _repeat(compiled, inputs, count * num_turns)


def _repeat(compiled: Callable[..., PyTree], inputs: tuple, count: int) -> None:
    result: PyTree = None
    for _ in range(count):
        result = compiled(*inputs)
    jax.block_until_ready(result)
