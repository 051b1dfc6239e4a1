"""Every estimator for a Gaussian variable against quadrature: the textbook case."""

from functools import partial

import jax.numpy as jnp
import optax

from genjax_models.distributions import DiagonalGaussian
from genjax_models.interfaces import Network
from genjax_models.learning import gradients as library
from genjax_models.learning.gradients import control_variates
from tests.learning.gradients.certify import (
    assert_unbiased,
    closed,
    exact_gradient,
    gaussian_expectation,
)

PARAMS = {"loc": jnp.array(0.6), "log_scale": jnp.array(-0.3), "bend": jnp.array(0.4)}
NETWORK = Network(lambda key: jnp.array([0.5, 0.1]), lambda params, x: params[0] * x + params[1])


def cost(params, x):
    """Asymmetric, and no polynomial; it holds a parameter of its own."""
    return params["bend"] * x * (1 + x) - jnp.exp(-jnp.square(x - 0.2)) + 1


def normal(params):
    return DiagonalGaussian(params["loc"], params["log_scale"])


def expectation(params):
    scale = jnp.exp(params["log_scale"])
    return gaussian_expectation(lambda x: cost(params, x), params["loc"], scale)


def taylor(make, wrap=lambda variate: variate, **settings):
    """A maker of an estimator with the Taylor series of its f as control variate."""

    def of(distribution, f):
        variate = wrap(control_variates.delta_method(f, **settings))
        return make(distribution, f, control_variate=variate)

    return of


def test_every_estimator_of_a_gaussian() -> None:
    """In mean, scale and what f closes over."""
    score, path = library.score_function, library.pathwise
    optimal = control_variates.optimal
    by_parameter = {"loc": 1.2, "log_scale": 1.6, "bend": 5.0}
    learned = control_variates.learned_baseline(NETWORK, optax.sgd(0.1), jnp.array(0.7))
    average = control_variates.AverageState(jnp.array(0.4), jnp.array(0.5))
    makers = {
        "score": score,
        "constant": partial(score, control_variate=control_variates.constant(0.9)),
        "by parameter": partial(score, control_variate=control_variates.constant(by_parameter)),
        "average": partial(score, control_variate=control_variates.moving_average()),
        "leave one out": library.rloo,
        "optimal": partial(score, control_variate=optimal()),
        "learned": partial(score, control_variate=learned),
        "muprop": library.muprop,
        "delta": taylor(score),
        "optimal delta": taylor(score, optimal),
        "pathwise": path,
        "location-scale": partial(path, route="location_scale"),
        "inverse": partial(path, route="inverse_cdf"),
        "polar": partial(path, route="polar"),
        "implicit": partial(path, route="implicit"),
        "pathwise, delta": taylor(path),
        "pathwise, first order": taylor(path, order=1),
        "pathwise, optimal": taylor(path, optimal),
        "measure-valued": library.measure_valued,
    }
    states = {"average": average}
    replicates = {
        name: closed(make, normal, cost, PARAMS, 6, states.get(name))
        for name, make in makers.items()
    }
    found = assert_unbiased(replicates, exact_gradient(expectation, PARAMS), resolution=0.02)
    variance = {name: float(found.variance[name]["loc"]) for name in makers}
    assert variance["constant"] < 0.7 * variance["score"]
    assert variance["leave one out"] < variance["score"]
    assert variance["delta"] < 0.5 * variance["score"]
