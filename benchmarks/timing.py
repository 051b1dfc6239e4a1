"""Timing contenders against each other, so that a busy machine hurts all of them alike."""

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A median with its 95 % interval, from order statistics."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """E.g. "1.03 [1.01, 1.05]"."""
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def median_interval(values: Sequence[float]) -> Interval:
    """The sample median and a 95 % interval of the true one, whatever the distribution.

    The number of values below the true median is binomial(n, 1/2); so the i-th smallest and the
    i-th largest value enclose it with probability 1 - 2 P(Binomial(n, 1/2) < i), and the largest i
    with at least 95 % is taken.

    Args:
        values: n >= 6 independent measurements (fewer cannot give 95 %).

    Returns:
        The median and the interval.

    Raises:
        ValueError: fewer than 6 values.
    """
    num_values = len(values)
    if num_values < 6:
        raise ValueError(f"values must hold at least 6 measurements, got {num_values}")
    ordered = sorted(values)
    rank, tail = 0, 2.0**-num_values
    while tail <= 0.025:
        rank += 1
        tail += math.comb(num_values, rank) * 2.0**-num_values
    return Interval(float(np.median(ordered)), ordered[rank - 1], ordered[num_values - rank])


def race(
    runs: Sequence[Callable[[int], None]], *, num_rounds: int, num_steps: int
) -> list[list[float]]:
    """Time functions in alternation.

    In every round each function has one turn of `num_steps` steps, after one step that is not
    timed (it brings its data back into the cache); who goes first rotates from round to round.

    Args:
        runs: each `run(num_steps)`, returning when the last step has finished.
        num_rounds: number of turns of each.
        num_steps: timed steps of a turn.

    Returns:
        Seconds a step, [len(runs)][num_rounds].
    """
    seconds: list[list[float]] = [[] for _ in runs]
    for round_index in range(num_rounds):
        for turn in range(len(runs)):
            i = (round_index + turn) % len(runs)
            runs[i](1)
            start = time.perf_counter()
            runs[i](num_steps)
            seconds[i].append((time.perf_counter() - start) / num_steps)
    return seconds


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """The median over rounds of the ratio within each round, with its interval."""
    return median_interval([a / b for a, b in zip(numerators, denominators, strict=True)])
