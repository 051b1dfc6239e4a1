"""Averages of the parameters over training steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.interfaces import Algorithm, Array, Key, Metrics, Params, PyTree
from genjax_models.training.leaves import own


class AveragedState(NamedTuple):
    """What `exponential_moving_average` carries from step to step.

    Attributes:
        step: number of steps taken, an int32 scalar.
        params: the averages, which models take.
        trained: the state of the algorithm itself; `trained.params` are the latest parameters.
    """

    step: Array
    params: Params
    trained: Any


def exponential_moving_average(algorithm: Algorithm, decay: float) -> Algorithm:
    """The same algorithm, with an average of its parameters beside it.

        average <- d_n average + (1 - d_n) params,  d_n = min(decay, (1 + n) / (10 + n))

    after step n = 1, 2, ...; the smaller d_n of the first steps let it forget the start. Training
    is untouched: the average is what is evaluated, and what `state.params` holds.

    Args:
        algorithm: any algorithm whose state has `params`.
        decay: 0 <= decay < 1; 1 / (1 - decay) is the number of steps averaged over.

    Returns:
        An `Algorithm`; its state is an `AveragedState`, its metrics are the algorithm's.

    Raises:
        ValueError: a decay outside [0, 1).

    Source: Ho et al. 2020 (Denoising diffusion probabilistic models), appendix B, whose decay is
    0.9999; the first steps as in Tensorflow's `ExponentialMovingAverage`.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay}")

    def init(key: Key) -> AveragedState:
        trained = algorithm.init(key)
        return AveragedState(jnp.zeros((), jnp.int32), own(trained.params), trained)

    def step(state: AveragedState, key: Key, batch: PyTree) -> tuple[AveragedState, Metrics]:
        trained, metrics = algorithm.step(state.trained, key, batch)
        number = state.step + 1
        rate = 1 - jnp.minimum(decay, (1 + number) / (10 + number))

        def move(average: Array, value: Array) -> Array:
            return average + rate.astype(average.dtype) * (value - average)

        params = jax.tree.map(move, state.params, trained.params)
        return AveragedState(number, params, trained), metrics

    return Algorithm(init, step)
