"""Control variates: functions of known expectation that are subtracted from f.

    grad E[f] = E[(f(x) - h(x)) grad log p(x)] + grad E[h(x)]

A control variate is its value h(x), its expectation and the update of its explicit state. What it
subtracts from the cost of a sample must not depend on that sample other than through h: a baseline
that is computed from its own sample is correlated with the score, and biases the gradient.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.distributions.numerics import at_least_float32
from genjax_models.interfaces import Array, Key, Network, Params, PyTree
from genjax_models.learning.gradients.core import (
    Function,
    State,
    check_num_samples,
    evaluate,
    held,
    leave_one_out_sums,
    no_state,
)
from genjax_models.learning.gradients.families import (
    gaussian_parameters,
    is_one_hot,
    kind,
    logits_of,
    name_of,
    unwrapped,
)

if TYPE_CHECKING:
    import optax


class ControlVariate(NamedTuple):
    """A function h of known expectation, with an explicit state.

    Attributes:
        value: `value(state, x) -> []`, h(x).
        expectation: `expectation(state, distribution) -> []`, E[h], differentiable in the
            parameters of the distribution where h depends on x.
        init: `init(params, key) -> state`.
        observe: `observe(state, xs, costs) -> observation`: what the state learns from the samples
            xs [S, ...] and costs f(x_s) [S]; averaged over examples before `update`.
        update: `update(state, observation) -> state`, for the samples that come after.
        prepare: `prepare(state, distribution) -> state`: what h takes from the distribution as it
            is now (held constant), such as the point of a Taylor series.
        leave_one_out: `leave_one_out(state, xs, costs) -> states`, leaves [S, ...]: the state that
            each sample sees, made of the other samples alone; None where all see the same.
        optimal: whether h is scaled, for each parameter, by the coefficient that the other samples
            estimate to be best.
        is_baseline: whether h does not depend on x, so that the gradient of E[h] is zero; value
            and expectation of a baseline may be pytrees of the structure of the parameters.
    """

    value: Callable[[State, PyTree], Array]
    expectation: Callable[[State, Any], Array]
    init: Callable[[Params, Key], State] = no_state
    observe: Callable[[State, PyTree, Array], PyTree] = lambda state, xs, costs: ()
    update: Callable[[State, PyTree], State] = lambda state, observation: state
    prepare: Callable[[State, Any], State] = lambda state, distribution: state
    leave_one_out: Callable[[State, PyTree, Array], State] | None = None
    optimal: bool = False
    is_baseline: bool = False


def _baseline(value: Callable[[State], Array], **fields: Any) -> ControlVariate:
    """What is the same for every x is its own expectation."""
    return ControlVariate(
        lambda state, x: value(state),
        lambda state, distribution: value(state),
        is_baseline=True,
        **fields,
    )


def constant(value: PyTree = 0.0) -> ControlVariate:
    """A fixed baseline: h(x) = b.

    Args:
        value: b; a scalar, or a pytree of the structure of the parameters, with a baseline for
            each of them, or for each of their components.

    Returns:
        The control variate, without state.

    Source: Williams 1992 (Simple statistical gradient-following algorithms), section 4.
    """
    return _baseline(lambda state: jax.tree.map(jnp.asarray, value))


class AverageState(NamedTuple):
    """What a moving average carries.

    Attributes:
        average: decayed sum of the costs; it starts at zero and is never corrected itself.
        weight: sum of the decayed weights, 1 - decay^n after n updates.
    """

    average: Array
    weight: Array


def moving_average(decay: float = 0.9) -> ControlVariate:
    """The exponentially weighted mean of past costs: h(x) = a_n / (1 - decay^n).

        a_n = decay a_{n-1} + (1 - decay) mean cost of step n,  a_0 = 0

    The correction is made when the average is read; a state that held corrected averages would
    count the correction again at every step, and grow. Before the first update h is zero.

    Args:
        decay: in [0, 1).

    Returns:
        The control variate; its state is an `AverageState`.

    Raises:
        ValueError: a decay outside [0, 1).

    Source: Mnih & Gregor 2014 (NVIL), section 2.3; the correction is Kingma & Ba 2015's (Adam,
    section 3).
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay}")

    def value(state: AverageState) -> Array:
        return state.average / jnp.where(state.weight > 0, state.weight, 1)

    def update(state: AverageState, cost: Array) -> AverageState:
        # Both by the same recursion: their quotient is a weighted mean to the last digit.
        average = decay * state.average + (1 - decay) * cost
        return AverageState(average, decay * state.weight + (1 - decay))

    return _baseline(
        value,
        init=lambda params, key: AverageState(jnp.zeros(()), jnp.zeros(())),
        observe=lambda state, xs, costs: jnp.mean(costs),
        update=update,
    )


def leave_one_out() -> ControlVariate:
    """The mean cost of the other samples: h_s = (1 / (S - 1)) sum_{r != s} f(x_r).

    Returns:
        The control variate, without state; it needs two samples or more.

    Source: Salimans & Knowles 2014, section 4; Kool et al. 2019 (Buy 4 REINFORCE samples, get a
    baseline for free!), section 3.
    """

    def others(state: State, xs: PyTree, costs: Array) -> Array:
        check_num_samples(costs.shape[0], 2, " for a leave-one-out baseline")
        return leave_one_out_sums(costs) / (costs.shape[0] - 1)

    return _baseline(lambda state: state, leave_one_out=others)


def optimal(control_variate: ControlVariate | None = None) -> ControlVariate:
    """A control variate scaled by the coefficient that minimises the variance of each parameter.

        a_i = E[g_i c_i] / E[c_i^2],  g = f grad log p,  c = h grad log p - grad E[h]

    The expectations are estimated for each sample from the others, so that nothing is biased. With
    the constant 1 (the default) c is the score, and a the optimal baseline of each parameter. In a
    pathwise estimator g = grad f(x(params)) and c = grad h(x(params)) - grad E[h].

    The gradient of every sample is formed, in memory [S] times the size of the parameters.

    Args:
        control_variate: what is scaled; the constant 1 if None.

    Returns:
        The control variate; it needs two samples or more, and pays off from about ten. With fewer
        than four the variance is infinite unless h is a constant: the denominator is too small too
        often.

    Raises:
        TypeError: a leave-one-out control variate. The others' variates would contain this sample,
            and their coefficient with them: a bias.

    Source: Greensmith et al. 2004, section 4; Mohamed et al. 2020 (Monte Carlo gradient estimation
    in machine learning), section 7.4.1.
    """
    chosen = control_variate or constant(1.0)
    if chosen.leave_one_out is not None:
        raise TypeError(
            "the optimal coefficient of a leave-one-out control variate would be biased (that of a"
            " sample would depend on the sample): use optimal() or rloo"
        )
    return chosen._replace(optimal=True)


class TaylorState(NamedTuple):
    """A Taylor series of f.

    Attributes:
        point: where it is expanded.
        value: f there, [].
        slope: its gradient, of the shape of x.
        curvature: its second derivatives: [D, D] for correlated variables, their diagonal [D] for
            independent ones; zero for a first-order series.
    """

    point: Array
    value: Array
    slope: Array
    curvature: Array


def delta_method(function: Function, *, order: int = 2) -> ControlVariate:
    """A Taylor series of f around the mean m of the distribution as it is now.

        h(x) = f(m) + f'(m).(x - m) + (x - m)' f''(m) (x - m) / 2,
        E[h] = f(m) + f'(m).(E[x] - m) + tr(f''(m) E[(x - m)(x - m)']) / 2

    m is held constant; E[x] and the covariance carry the gradient. For independent variables the
    diagonal of f'' serves. Works for `score_function` and for `pathwise`.

    Args:
        function: f, differentiable in x.
        order: 1 (any distribution with a mean) or 2 (Gaussians).

    Returns:
        The control variate; its state is a `TaylorState`, made anew for every draw.

    Raises:
        ValueError: another order.
        TypeError: (from the estimator) a distribution without mean, or for order 2 no Gaussian.

    Source: Paisley et al. 2012 (Variational Bayesian inference with stochastic search), section 3;
    Miller et al. 2017 (Reducing reparameterization gradient variance), section 3.
    """
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order}")

    def cost(x: Array) -> Array:
        return evaluate(function, x, differentiable=True)

    def prepare(state: State, distribution: Any) -> TaylorState:
        point = _mean(distribution)
        value, slope = jax.value_and_grad(cost)(point)
        curvature = jnp.zeros(())
        if order == 2:
            curvature = _curvature(cost, point, distribution)
        return TaylorState(point, value, slope, curvature)

    def value(state: TaylorState, x: PyTree) -> Array:
        away = jnp.asarray(x, state.point.dtype) - state.point
        linear = state.value + jnp.sum(state.slope * away)
        return linear + 0.5 * _quadratic(state.curvature, away) if order == 2 else linear

    def expectation(state: TaylorState, distribution: Any) -> Array:
        away = _mean(distribution) - state.point
        linear = state.value + jnp.sum(state.slope * away)
        if order == 1:
            return linear
        trace = jnp.sum(state.curvature * _covariance(distribution))
        return linear + 0.5 * (_quadratic(state.curvature, away) + trace)

    return ControlVariate(value, expectation, prepare=prepare)


class LearnedState(NamedTuple):
    """What a learned baseline carries.

    Attributes:
        params: of the network.
        optimizer_state: of its optimizer.
        centre: moving average of the costs less the network's predictions.
    """

    params: Params
    optimizer_state: Any
    centre: AverageState


def learned_baseline(
    network: Network,
    optimizer: "optax.GradientTransformation",
    context: PyTree,
    *,
    decay: float = 0.9,
) -> ControlVariate:
    """A baseline that a network predicts from what the distribution is conditioned on (NVIL).

        h(x) = c + b(context),  b minimises E[(f(x) - c - b(context))^2],
        c the moving average of f(x) - b(context)

    The context is not the sample: it is the observation that a posterior is conditioned on, say.
    The state learns by descent on the squared error; in a batch, average the observations over the
    examples before `update`.

    Args:
        network: `init(key) -> params` and `apply(params, context) -> []` (or [1]).
        optimizer: any optax optimizer.
        context: what the network sees, the same for all samples.
        decay: of the moving average, in [0, 1).

    Returns:
        The control variate; its state is a `LearnedState`.

    Raises:
        ValueError: a decay outside [0, 1).

    Source: Mnih & Gregor 2014 (Neural variational inference and learning in belief networks),
    section 2.3.
    """
    centre = moving_average(decay)

    def predict(params: Params) -> Array:
        return jnp.reshape(network.apply(params, context), ())

    def centred(state: LearnedState) -> Array:
        return centre.value(state.centre, context)

    def init(params: Params, key: Key) -> LearnedState:
        baseline = network.init(key)
        return LearnedState(baseline, optimizer.init(baseline), centre.init(params, key))

    def observe(state: LearnedState, xs: PyTree, costs: Array) -> tuple[PyTree, Array]:
        costs = held(costs)

        def squared_error(params: Params) -> Array:
            return jnp.mean(jnp.square(costs - centred(state) - predict(params)))

        gradient = jax.grad(squared_error)(state.params)
        return gradient, jnp.mean(costs) - predict(state.params)

    def update(state: LearnedState, observation: tuple[PyTree, Array]) -> LearnedState:
        gradient, residual = observation
        updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.params)
        params = jax.tree.map(jnp.add, state.params, updates)
        return LearnedState(params, optimizer_state, centre.update(state.centre, residual))

    return _baseline(
        lambda state: centred(state) + predict(state.params),
        init=init,
        observe=observe,
        update=update,
    )


def regressed(estimates: PyTree, variates: PyTree) -> PyTree:
    """Per-sample gradients less the best multiple of variates of mean zero, leaves [S, ...].

        g_s - c_s sum_{r != s} g_r c_r / sum_{r != s} c_r^2, component by component

    Args:
        estimates: g, leaves [S, ...].
        variates: c, of the same structure and shapes, of mean zero.

    Returns:
        What is left of the estimates, unbiased as they are.

    Raises:
        ValueError: one sample.
    """
    check_num_samples(
        jax.tree.leaves(estimates)[0].shape[0], 2, " to estimate the optimal coefficient"
    )

    def leaf(g: Array, c: Array) -> Array:
        products, squares = leave_one_out_sums(g * c), leave_one_out_sums(c * c)
        coefficient = jnp.where(squares > 0, products / jnp.where(squares > 0, squares, 1), 0)
        return g - coefficient * c

    return jax.tree.map(leaf, estimates, variates)


def _mean(distribution: Any) -> Array:
    if is_one_hot(distribution):
        return jax.nn.softmax(logits_of(unwrapped(distribution)))
    try:
        mean = distribution.mean()
    except (AttributeError, NotImplementedError) as error:
        raise TypeError(
            "the delta method needs the mean of the distribution, which a"
            f" {name_of(distribution)} does not have: use another control variate (a Categorical is"
            " an index; distrax.OneHotCategorical has a mean)"
        ) from error
    if not isinstance(mean, jax.Array | np.ndarray):
        raise TypeError(
            "the delta method is for distributions over one array, got a"
            f" {name_of(distribution)} over a {type(mean).__name__}"
        )
    return at_least_float32(jnp.asarray(mean))


def _covariance(distribution: Any) -> Array:
    """The variances of independent Gaussians, or the covariance matrix of others."""
    gaussian = gaussian_parameters(distribution)
    if gaussian is not None:
        return jnp.square(gaussian[1])
    if kind(distribution).startswith("MultivariateNormal"):
        return distribution.covariance()
    raise TypeError(
        "the delta method of second order is for Gaussians, got a"
        f" {name_of(distribution)}: use order=1"
    )


def _curvature(function: Function, point: Array, distribution: Any) -> Array:
    if gaussian_parameters(distribution) is None:
        _covariance(distribution)  # refuses what it does not know
        return jax.hessian(function)(point)
    flat, size = jnp.ravel(point), point.size
    slope = jax.grad(lambda x: function(jnp.reshape(x, point.shape)))

    def second_derivative(index: Array) -> Array:
        direction = jnp.zeros(size, flat.dtype).at[index].set(1)
        return jax.jvp(slope, (flat,), (direction,))[1][index]

    return jnp.reshape(jax.lax.map(second_derivative, jnp.arange(size)), point.shape)


def _quadratic(curvature: Array, away: Array) -> Array:
    if curvature.ndim == away.ndim + 1:
        return away @ curvature @ away
    return jnp.sum(curvature * jnp.square(away))
