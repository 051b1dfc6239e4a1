"""The score-function estimator: REINFORCE, its control variates, and MuProp."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.interfaces import Array, Key, Params, PyTree
from genjax_models.learning.first_order import gradient_of
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
    sample,
)


class ScoreDraw(NamedTuple):
    """One draw of the score-function estimator.

    Attributes:
        x: the sample.
        cost: f(x), [].
        signal: f(x) - h(x), []; zero where `gradient` says it all.
        state: what h saw, where each sample has its own, of the other samples; else None.
        gradient: the whole gradient, where each parameter has a control variate of its own; else
            None.
    """

    x: PyTree
    cost: Array
    signal: Array
    state: State | None
    gradient: PyTree | None


def score_function(
    distribution: DistributionOf,
    function: Function,
    *,
    control_variate: ControlVariate | None = None,
) -> GradientEstimator:
    """REINFORCE: the gradient of the log-probability times the cost. Unbiased.

        g = (f(x) - h(x)) grad log p(x) + grad E[h],  x ~ p

    f is evaluated once a sample and need be neither differentiable nor continuous. Where each
    parameter has a control variate of its own the gradient is that in `params` alone: trained
    parameters that `distribution` closes over get none.

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
        value = current.log_prob(x)
        if jnp.shape(value) != ():
            raise ValueError(f"log_prob must give one number, got an array of {jnp.shape(value)}")
        return value

    def draw(params: Params, state: State, key: Key, num_samples: int) -> ScoreDraw:
        current = distribution(params)
        check_one_event(current)
        xs = sample(current, key, num_samples)
        costs = jax.vmap(lambda x: evaluate(function, x))(xs)
        prepared, own = variate.prepare(state, current), None
        if variate.leave_one_out is None:
            values = jax.vmap(variate.value, (None, 0))(prepared, xs)
        else:
            own = variate.leave_one_out(prepared, xs, costs)
            values = jax.vmap(variate.value)(own, xs)
        if not variate.optimal and _is_scalar(values):
            return ScoreDraw(xs, costs, costs - values, own, None)
        gradients = by_parameter(params, prepared, xs, costs, values)
        return ScoreDraw(xs, costs, jnp.zeros_like(costs), None, gradients)

    def by_parameter(
        params: Params, prepared: State, xs: PyTree, costs: Array, values: PyTree
    ) -> PyTree:
        scores = jax.vmap(jax.grad(log_prob), (None, 0))(params, xs)
        estimates = jax.tree.map(lambda s: _like(costs, s) * s, scores)
        if _is_scalar(values):
            values = jax.tree.map(lambda s: values, scores)
        variates = jax.tree.map(lambda s, h: _like(h, s) * s, scores, values)
        if not variate.is_baseline:
            known = jax.grad(lambda params: known_mean(prepared, params))(params)
            variates = jax.tree.map(jnp.subtract, variates, known)
        if variate.optimal:
            return regressed(estimates, variates)
        return jax.tree.map(jnp.subtract, estimates, variates)

    def known_mean(prepared: State, params: Params) -> Array:
        value = variate.expectation(prepared, distribution(params))
        if jnp.shape(value) != ():
            raise ValueError("a control variate that depends on x must be one number")
        return value

    def surrogate(params: Params, state: State, draw: ScoreDraw) -> Array:
        value = evaluate(function, draw.x)
        if draw.gradient is not None:
            return value + linear(draw.gradient, params)
        found = draw.signal * log_prob(params, draw.x)
        if not variate.is_baseline:
            # Held whole: what f closes over must not be differentiated through its Taylor series.
            own = draw.state
            prepared = variate.prepare(state, distribution(held(params))) if own is None else own
            found = found + known_mean(held(prepared), params)
        return value + gradient_of(found)

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
    """[S] or [S, ...] made broadcastable to the leaf, from the left."""
    return jnp.reshape(values, values.shape + (1,) * (leaf.ndim - values.ndim))
