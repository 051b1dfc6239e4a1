"""Expectation maximisation, of the whole data or of a running average over batches."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.interfaces import Algorithm, Array, Key, Metrics, Params, PyTree
from genjax_models.training.batches import check_batch
from genjax_models.training.leaves import own

ExpectedStatistics = Callable[[Params, PyTree], tuple[Array, PyTree]]
Maximize = Callable[[PyTree, Params], Params]


class ExpectationMaximizationState(NamedTuple):
    """What `expectation_maximization` carries from step to step.

    Attributes:
        step: number of steps taken, an int32 scalar.
        params: parameters of the model.
    """

    step: Array
    params: Params


class StochasticExpectationMaximizationState(NamedTuple):
    """What `stochastic_expectation_maximization` carries from step to step.

    Attributes:
        step: number of steps taken, an int32 scalar.
        params: parameters of the model.
        statistics: running average of the expected statistics.
    """

    step: Array
    params: Params
    statistics: PyTree


def expectation_maximization(
    expected_statistics: ExpectedStatistics, maximize: Maximize, init: Callable[[Key], Params]
) -> Algorithm:
    """Expectation maximisation: the batch is the whole training set.

        params <- maximize(mean over x of E[statistics(x, z)] under p(z | x, params))

    No step lowers the likelihood of the batch (of what `maximize` maximises, where it has a prior).
    A batch sharded over the devices of a mesh costs one all-reduce a step.

    Args:
        expected_statistics: the E-step, `expected_statistics(params, batch) -> (log_likelihood,
            statistics)`: the mean log p(x) and the expected sufficient statistics as means over
            the batch. Of a batch, not of one example: its sums are matrix products.
        maximize: the M-step, `maximize(statistics, params) -> params`.
        init: `init(key) -> params`: `model.init`, or a start from data.

    Returns:
        An `Algorithm`; its state is an `ExpectationMaximizationState`, its metrics are "loss" and
        "log_likelihood", of the parameters before the step.

    Raises:
        ValueError: (from the step) leaves of the batch of unequal or no length.

    Source: Dempster, Laird & Rubin 1977 (Maximum likelihood from incomplete data).
    """

    def init_state(key: Key) -> ExpectationMaximizationState:
        return ExpectationMaximizationState(jnp.zeros((), jnp.int32), own(init(key)))

    def step(
        state: ExpectationMaximizationState, key: Key, batch: PyTree
    ) -> tuple[ExpectationMaximizationState, Metrics]:
        check_batch(batch)
        log_likelihood, statistics = expected_statistics(state.params, batch)
        params = _like(state.params, maximize(statistics, state.params))
        return ExpectationMaximizationState(state.step + 1, params), _metrics(log_likelihood)

    return Algorithm(init_state, step)


def stochastic_expectation_maximization(
    expected_statistics: ExpectedStatistics,
    maximize: Maximize,
    init: Callable[[Key], Params],
    model_statistics: Callable[[Params], PyTree],
    step_size: Callable[[Array], Array],
) -> Algorithm:
    """Online expectation maximisation: the batch is a part of the data.

        statistics <- (1 - g_t) statistics + g_t mean over the batch of E[statistics(x, z)]
        params <- maximize(statistics)

    With g_t falling as t^-a, 1/2 < a <= 1, it converges to a stationary point of the likelihood of
    all data (Cappé & Moulines advise a = 0.6). With g = 1 and the whole data as batch it is EM.

    Args:
        expected_statistics: as of `expectation_maximization`.
        maximize: as there.
        init: as there.
        model_statistics: `model_statistics(params) -> statistics`, those of the model's own
            samples, of which the parameters are the maximum: the average begins with them.
        step_size: `step_size(step) -> g_t` in (0, 1], e.g. an optax schedule.

    Returns:
        An `Algorithm`; its state is a `StochasticExpectationMaximizationState`, its metrics are
        "loss" and "log_likelihood" of the batch under the parameters before the step.

    Raises:
        ValueError: (from the step) leaves of the batch of unequal or no length.

    Source: Cappé & Moulines 2009 (On-line expectation-maximization algorithm for latent data
    models), equations 15 and 16.
    """

    def init_state(key: Key) -> StochasticExpectationMaximizationState:
        params = own(init(key))
        statistics = own(model_statistics(params))
        return StochasticExpectationMaximizationState(jnp.zeros((), jnp.int32), params, statistics)

    def step(
        state: StochasticExpectationMaximizationState, key: Key, batch: PyTree
    ) -> tuple[StochasticExpectationMaximizationState, Metrics]:
        check_batch(batch)
        log_likelihood, current = expected_statistics(state.params, batch)
        size = step_size(state.step)
        statistics = jax.tree.map(
            lambda mean, new: ((1 - size) * mean + size * new).astype(mean.dtype),
            state.statistics,
            current,
        )
        params = _like(state.params, maximize(statistics, state.params))
        moved = StochasticExpectationMaximizationState(state.step + 1, params, statistics)
        return moved, _metrics(log_likelihood)

    return Algorithm(init_state, step)


def _like(params: Params, new: Params) -> Params:
    """The new parameters in the dtypes of the old ones: the state of a scan keeps its types."""
    return jax.tree.map(lambda old, leaf: leaf.astype(old.dtype), params, new)


def _metrics(log_likelihood: Array) -> Metrics:
    return {"loss": -log_likelihood, "log_likelihood": log_likelihood}
