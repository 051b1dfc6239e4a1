"""The pathwise estimator (the reparameterisation trick), explicit and implicit."""

import jax
import jax.numpy as jnp

from genjax_models.interfaces import Array, Key, Params, PyTree
from genjax_models.learning.first_order import gradient_of
from genjax_models.learning.gradients.control_variates import ControlVariate, regressed
from genjax_models.learning.gradients.core import (
    DistributionOf,
    Function,
    GradientEstimator,
    State,
    check_one_event,
    evaluate,
    held,
    linear,
)
from genjax_models.learning.gradients.routes import ROUTES

PathwiseDraw = tuple[Key, PyTree | None]
"""The key of the noise, and the gradient where each parameter has a coefficient of its own."""


def pathwise(
    distribution: DistributionOf,
    function: Function,
    *,
    route: str = "sample",
    control_variate: ControlVariate | None = None,
) -> GradientEstimator:
    """The gradient through the sample. Unbiased where f is differentiable.

        g = grad_params f(x(params, eps)) = f'(x) dx/dparams,  eps ~ p(eps)

    Routes to a differentiable sample:

    - "sample": the distribution's own: location-scale, or implicit (Gamma, Beta, Dirichlet, von
      Mises).
    - "location_scale", "inverse_cdf": x = m + s eps and x = F^-1(u), for Gaussian, Laplace,
      logistic, Gumbel and uniform variables; "polar": Box-Muller, for Gaussians.
    - "implicit": dx = -(dS/dx)^-1 dS/dparams, where S(x; params) is the vector of conditional
      distribution functions: for mixtures of location-scale families as well.

    Args:
        distribution: `distribution(params) -> p`.
        function: f, `function(x) -> []`, differentiable: jumps of f are not seen.
        route: how the sample is made.
        control_variate: one that depends on the sample, such as `delta_method`, alone or `optimal`.

    Returns:
        The estimator.

    Raises:
        ValueError: an unknown route; (from the estimator) a batch of distributions.
        TypeError: a baseline, which has no gradient through the sample; (from the estimator) a
            distribution that the route makes no sense for, or a function that gives integers, whose
            gradient would be silently zero or incomplete.

    Source: Kingma & Welling 2014; Rezende et al. 2014; implicit: Figurnov et al. 2018, section 3;
    routes: Mohamed et al. 2020, section 5; control variate: Miller et al. 2017.
    """
    if route not in ROUTES:
        raise ValueError(f"route must be one of {list(ROUTES)}, got {route!r}")
    make = ROUTES[route]
    variate = control_variate
    if variate is not None and (variate.is_baseline or variate.leave_one_out is not None):
        raise TypeError(
            "a baseline has no gradient through the sample and changes nothing of pathwise: use"
            " delta_method, or score_function"
        )

    def cost(x: PyTree) -> Array:
        return evaluate(function, x, differentiable=True)

    def path(params: Params, key: Key) -> PyTree:
        current = distribution(params)
        check_one_event(current)
        return make(current, key)

    def draw(params: Params, state: State, key: Key, num_samples: int) -> PathwiseDraw:
        keys = jax.random.split(key, num_samples)
        if variate is None or not variate.optimal:
            return keys, None
        current = variate.prepare(state, distribution(params))
        scale, expectation = variate.value, variate.expectation
        # The surrogate draws the same samples again, for its value.
        copies = jax.random.clone(keys)

        def both(params: Params, key: Key) -> Array:
            x = path(params, key)
            return jnp.stack([cost(x), scale(current, x)])

        rows = jax.vmap(jax.jacrev(both), (None, 0))(params, copies)
        known = jax.grad(lambda params: expectation(current, distribution(params)))(params)
        estimates = jax.tree.map(lambda leaf: leaf[:, 0], rows)
        variates = jax.tree.map(lambda leaf, mean: leaf[:, 1] - mean, rows, known)
        return keys, regressed(estimates, variates)

    def surrogate(params: Params, state: State, draw: PathwiseDraw) -> Array:
        key, gradient = draw
        if gradient is not None:
            # The gradient in the parameters is in the draw; that of what f closes over is not.
            return cost(held(path(params, key))) + linear(gradient, params)
        x = path(params, key)
        value = cost(x)
        if variate is None:
            return value
        prepared = held(variate.prepare(state, distribution(held(params))))
        known = variate.expectation(prepared, distribution(params))
        return value + gradient_of(known - variate.value(prepared, x))

    if variate is None:
        return GradientEstimator(draw, surrogate)
    return GradientEstimator(draw, surrogate, variate.init)
