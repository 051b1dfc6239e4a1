"""The score-function estimator: REINFORCE, its control variates, and MuProp."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.interfaces import Array, Key, Params, PyTree
from genjax_models.learning.gradients.control_variates import (
    ControlVariate,
    constant,
    delta_method,
    leave_one_out,
    regressed,
)
from genjax_models.learning.gradients.core import (
    DistributionOf,
    Function,
    GradientEstimator,
    State,
    check_one_event,
    evaluate,
    held,
    linear,
    only_gradient,
    sample,
)


class ScoreDraw(NamedTuple):
    """One draw of the score-function estimator.

    Attributes:
        x: the sample.
        cost: f(x), [].
        signal: f(x) - h(x), []; zero where `gradient` says it all.
        gradient: the gradient less that of E[h], where each parameter has a baseline of its own.
    """

    x: PyTree
    cost: Array
    signal: Array
    gradient: PyTree | None


def score_function(
    distribution: DistributionOf,
    function: Function,
    *,
    control_variate: ControlVariate | None = None,
) -> GradientEstimator:
    """REINFORCE: the gradient of the log-probability times the cost. Unbiased.

        g = (f(x) - h(x)) grad log p(x) + grad E[h],  x ~ p

    f is evaluated once a sample and need be neither differentiable nor continuous.

    Args:
        distribution: `distribution(params) -> p`, any distribution with a `log_prob`.
        function: f, `function(x) -> []`.
        control_variate: h; none if None.

    Returns:
        The estimator; its state is that of the control variate.

    Raises:
        TypeError: (from the estimator) a distribution without `log_prob`.
        ValueError: (from the estimator) a batch of distributions, a function of more than one
            number, or fewer samples than the control variate needs.

    Source: Glynn 1990; Williams 1992 (REINFORCE); Mohamed et al. 2020, section 4.
    """
    variate = control_variate or constant()

    def log_prob(params: Params, x: PyTree) -> Array:
        current = distribution(params)
        if not hasattr(current, "log_prob"):
            raise TypeError(
                f"score_function needs log_prob, which a {type(current).__name__} does not have:"
                " use pathwise if its samples are differentiable"
            )
        check_one_event(current)
        return current.log_prob(x)

    def draw(params: Params, state: State, key: Key, num_samples: int) -> ScoreDraw:
        current = distribution(params)
        check_one_event(current)
        xs = sample(current, key, num_samples)
        costs = jax.vmap(lambda x: evaluate(function, x))(xs)
        state = variate.prepare(state, current)
        if variate.leave_one_out is None:
            values = jax.vmap(variate.value, (None, 0))(state, xs)
        else:
            values = jax.vmap(variate.value)(variate.leave_one_out(state, xs, costs), xs)
        if not variate.optimal and _is_scalar(values):
            return ScoreDraw(xs, costs, costs - values, None)
        gradients = by_parameter(params, state, xs, costs, values)
        return ScoreDraw(xs, costs, jnp.zeros_like(costs), gradients)

    def by_parameter(
        params: Params, state: State, xs: PyTree, costs: Array, values: PyTree
    ) -> PyTree:
        scores = jax.vmap(jax.grad(log_prob), (None, 0))(params, xs)
        if not variate.optimal:
            return jax.tree.map(lambda s, h: (_like(costs, s) - h) * s, scores, values)
        known = jax.grad(lambda params: variate.expectation(state, distribution(params)))(params)
        estimates = jax.tree.map(lambda s: _like(costs, s) * s, scores)
        variates = jax.tree.map(lambda s, k: _like(values, s) * s - k, scores, known)
        return regressed(estimates, variates)

    def surrogate(params: Params, state: State, draw: ScoreDraw) -> Array:
        value = evaluate(function, draw.x)
        if draw.gradient is not None:
            return value + linear(draw.gradient, params)
        # Held whole: what f closes over must not be differentiated through its Taylor series.
        prepared = held(variate.prepare(state, distribution(held(params))))
        known = jnp.sum(variate.expectation(prepared, distribution(params)))
        return value + only_gradient(draw.signal * log_prob(params, draw.x) + known)

    def observe(params: Params, state: State, draws: ScoreDraw) -> PyTree:
        return variate.observe(state, draws.x, draws.cost)

    return GradientEstimator(draw, surrogate, variate.init, observe, variate.update)


def rloo(distribution: DistributionOf, function: Function) -> GradientEstimator:
    """REINFORCE with a leave-one-out baseline. Unbiased.

        g_s = (f(x_s) - (1 / (S - 1)) sum_{r != s} f(x_r)) grad log p(x_s),  S >= 2

    Args:
        distribution: `distribution(params) -> p`, any distribution with a `log_prob`.
        function: f, `function(x) -> []`.

    Returns:
        The estimator, which needs two samples or more.

    Raises:
        ValueError: (from the estimator) one sample.

    Source: Salimans & Knowles 2014, section 4; Kool et al. 2019, section 3.
    """
    return score_function(distribution, function, control_variate=leave_one_out())


def muprop(distribution: DistributionOf, function: Function) -> GradientEstimator:
    """MuProp: the score function with a first-order Taylor series as control variate. Unbiased.

        g = [f(x) - f(m) - f'(m).(x - m)] grad log p(x) + f'(m).grad E[x],  m = E[x]

    f must be differentiable at m, the mean-field point, where discrete variables never are; two
    evaluations and a gradient of f, of which those at m are shared by all samples.

    Args:
        distribution: `distribution(params) -> p`, with `log_prob` and `mean`.
        function: f, `function(x) -> []`, differentiable.

    Returns:
        The estimator.

    Raises:
        TypeError: (from the estimator) a distribution without a mean.

    Source: Gu et al. 2016 (MuProp), section 3.
    """
    return score_function(distribution, function, control_variate=delta_method(function, order=1))


def _is_scalar(values: PyTree) -> bool:
    """Whether there is one value a sample, rather than one for each parameter."""
    return isinstance(values, jax.Array) and values.ndim == 1


def _like(values: Array, leaf: Any) -> Array:
    """[S] made broadcastable to [S, ...]."""
    return jnp.reshape(values, values.shape + (1,) * (leaf.ndim - 1))
