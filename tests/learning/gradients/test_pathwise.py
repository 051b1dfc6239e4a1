"""Pathwise gradients, explicit and implicit, against quadrature; what has none is refused."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy import special, stats

from genjax_models.distributions import Bernoulli, DiagonalGaussian
from genjax_models.learning.gradients import control_variates, pathwise, per_sample_gradients
from tests.learning.gradients.certify import (
    assert_biased,
    assert_unbiased,
    estimate,
    gaussian_expectation,
    grid_expectation,
)

PARAMS = {"loc": np.array(0.6), "scale": np.array(0.8)}


def bump(x):
    """Asymmetric, and no polynomial."""
    return jnp.exp(-jnp.square(x - 0.2)) + 0.4 * x + 0.5 * jnp.square(x)


def family(make):
    return lambda params: make(params["loc"], params["scale"])


def uniform(loc, scale):
    return distrax.Uniform(loc, loc + scale)


def exact_location_scale(name):
    """By quadrature over the quantiles' natural range, in the standard variable."""

    def log_density(e):
        return {
            "Normal": stats.norm.logpdf,
            "Laplace": stats.laplace.logpdf,
            "Logistic": stats.logistic.logpdf,
            "Gumbel": lambda e: -e - jnp.exp(-e),
            "Uniform": lambda e: 0.0 * e,
        }[name](e)

    ranges = {"Uniform": [(0.0, 1.0)], "Laplace": [(-40.0, 0.0), (0.0, 40.0)]}
    default = [(-6.0, 45.0)] if name == "Gumbel" else [(-45.0, 0.0), (0.0, 45.0)]

    def expectation(params):
        def function(e):
            return bump(params["loc"] + params["scale"] * e)

        pieces = ranges.get(name, default)
        return sum(grid_expectation(function, log_density, low, high) for low, high in pieces)

    return jax.grad(expectation)(PARAMS)


@pytest.mark.parametrize("name", ["Normal", "Laplace", "Logistic", "Gumbel", "Uniform"])
def test_every_route_of_a_location_scale_family(name: str) -> None:
    make = uniform if name == "Uniform" else getattr(distrax, name)
    routes = ["sample", "location_scale", "inverse_cdf", "implicit"]
    routes += ["polar"] if name == "Normal" else []
    replicates = {
        route: estimate(pathwise(family(make), bump, route=route), PARAMS) for route in routes
    }
    assert_unbiased(replicates, exact_location_scale(name))


def test_polar_pairs_are_independent_gaussians() -> None:
    """Of three coordinates: covariance the identity, by a function of products of them."""

    def distribution(params):
        return DiagonalGaussian(params, jnp.array([0.1, -0.2, 0.3]))

    def product(x):
        return x[0] * x[1] * x[2] + x[0] ** 2 * x[2] ** 2

    params, variance = jnp.array([0.5, -0.8, 1.1]), jnp.exp(2 * jnp.array([0.1, -0.2, 0.3]))

    def expectation(m):
        return m.prod() + (m[0] ** 2 + variance[0]) * (m[2] ** 2 + variance[2])

    replicates = {
        "polar": estimate(pathwise(distribution, product, route="polar"), params),
        "inverse": estimate(pathwise(distribution, product, route="inverse_cdf"), params),
    }
    assert_unbiased(replicates, jax.grad(expectation)(params), resolution=0.02)


def test_implicit_gamma_and_beta() -> None:
    """The library's samplers differentiate through the distribution function."""
    params = {"a": jnp.array(1.7), "b": jnp.array(0.8)}

    def gamma_expectation(params):
        def log_density(x):
            return stats.gamma.logpdf(x * params["b"], params["a"]) + jnp.log(params["b"])

        return grid_expectation(bump, log_density, 1e-9, 60.0)

    def beta_expectation(params):
        # In x = sin^2 t, where the density has no pole.
        def log_density(t):
            x = jnp.square(jnp.sin(t))
            beta = special.betaln(params["a"], params["b"])
            log_jacobian = jnp.log(2 * jnp.sin(t) * jnp.cos(t))
            shape = (params["a"] - 1) * jnp.log(x) + (params["b"] - 1) * jnp.log1p(-x)
            return shape - beta + log_jacobian

        function = lambda t: bump(3 * jnp.square(jnp.sin(t)))  # noqa: E731
        return grid_expectation(function, log_density, 1e-6, np.pi / 2 - 1e-6)

    gamma = pathwise(lambda p: distrax.Gamma(p["a"], p["b"]), bump)
    beta = pathwise(lambda p: distrax.Beta(p["a"], p["b"]), lambda x: bump(3 * x))
    assert_unbiased({"gamma": estimate(gamma, params)}, jax.grad(gamma_expectation)(params))
    assert_unbiased({"beta": estimate(beta, params)}, jax.grad(beta_expectation)(params))


def test_implicit_dirichlet() -> None:
    """E of a quadratic in closed form."""
    alpha = jnp.array([0.8, 1.5, 2.2])
    weights = jnp.array([1.0, -0.5, 2.0])

    def expectation(alpha):
        total = alpha.sum()
        mean = alpha / total
        second = (jnp.diag(mean) - jnp.outer(mean, mean)) / (total + 1) + jnp.outer(mean, mean)
        return weights @ second @ weights + mean[0]

    estimator = pathwise(distrax.Dirichlet, lambda x: jnp.square(weights @ x) + x[0])
    assert_unbiased({"dirichlet": estimate(estimator, alpha)}, jax.grad(expectation)(alpha))


def test_implicit_von_mises() -> None:
    """distrax's sampler uses a key twice, in our name."""
    params = {"loc": jnp.array(0.4), "concentration": jnp.array(1.3)}

    def function(x):
        return jnp.cos(x - 1.0) + 0.5 * jnp.sin(2 * x)

    def expectation(params):
        def log_density(x):
            return params["concentration"] * (jnp.cos(x - params["loc"]) - 1)

        mass = grid_expectation(lambda x: 1.0, log_density, -np.pi, np.pi)
        return grid_expectation(function, log_density, -np.pi, np.pi) / mass

    estimator = pathwise(lambda p: distrax.VonMises(p["loc"], p["concentration"]), function)
    with jax.debug_key_reuse(False):
        assert_unbiased({"von Mises": estimate(estimator, params)}, jax.grad(expectation)(params))


def mixture(params):
    return distrax.MixtureSameFamily(
        distrax.Categorical(logits=params["logits"]),
        distrax.MultivariateNormalDiag(params["loc"], params["scale"]),
    )


def test_implicit_mixtures() -> None:
    """Two correlated coordinates: sum over components of tensor quadrature."""
    params = {
        "logits": jnp.array([0.3, -0.4]),
        "loc": jnp.array([[0.5, -0.6], [-0.9, 0.7]]),
        "scale": jnp.array([[0.8, 0.6], [0.5, 1.0]]),
    }

    def function(x):
        return jnp.sin(x[0]) * x[1] + jnp.square(x[0]) + 0.5 * x[1]

    def expectation(params):
        def component(loc, scale):
            inner = lambda a: gaussian_expectation(  # noqa: E731
                lambda b: function(jnp.stack([a, b])), loc[1], scale[1]
            )
            return gaussian_expectation(inner, loc[0], scale[0])

        means = jax.vmap(component)(params["loc"], params["scale"])
        return jax.nn.softmax(params["logits"]) @ means

    estimator = pathwise(mixture, function, route="implicit")
    exact = jax.grad(expectation)(params)
    found = assert_unbiased({"mixture": estimate(estimator, params)}, exact)
    assert found.bias["mixture"]["logits"].shape == (2,)

    def frozen_weights(key):
        """The mutant that differentiates the chosen component alone, as plain samplers do."""

        def value(params):
            return function(mixture(params).sample(seed=key))

        return jax.grad(value)(params)

    assert_biased({"plain": frozen_weights}, exact)


def test_control_variates_of_second_order() -> None:
    def distribution(params):
        return distrax.Normal(params["loc"], params["scale"])

    delta = control_variates.delta_method(bump)
    replicates = {
        "none": estimate(pathwise(distribution, bump), PARAMS, 4),
        "delta": estimate(pathwise(distribution, bump, control_variate=delta), PARAMS, 4),
        "optimal": estimate(
            pathwise(distribution, bump, control_variate=control_variates.optimal(delta)),
            PARAMS,
            4,
        ),
    }
    assert_unbiased(replicates, exact_location_scale("Normal"))
    # Of a quadratic the series is f itself.
    square = pathwise(
        distribution, jnp.square, control_variate=control_variates.delta_method(jnp.square)
    )
    gradients = per_sample_gradients(square, PARAMS, jax.random.key(0), 3)
    np.testing.assert_allclose(gradients["loc"], 2 * PARAMS["loc"], rtol=1e-9)
    np.testing.assert_allclose(gradients["scale"], 2 * PARAMS["scale"], rtol=1e-9)


@pytest.mark.parametrize(
    ("distribution", "route", "message"),
    [
        (Bernoulli, "sample", "arm"),
        (lambda p: distrax.Categorical(logits=p), "sample", "enumeration"),
        (
            lambda p: distrax.MixtureSameFamily(
                distrax.Categorical(logits=p), distrax.Normal(p, jnp.ones(3))
            ),
            "sample",
            'route="implicit"',
        ),
        (lambda p: distrax.Gamma(jnp.exp(p[0]), 1.0), "polar", "Gaussians"),
        (lambda p: distrax.Gamma(jnp.exp(p[0]), 1.0), "inverse_cdf", "score_function"),
        (Bernoulli, "implicit", "score_function"),
    ],
)
def test_samples_that_are_not_differentiable_are_refused(distribution, route, message) -> None:
    estimator = pathwise(distribution, jnp.sum, route=route)
    with pytest.raises(TypeError, match=message):
        per_sample_gradients(estimator, jnp.zeros(3), jax.random.key(0))


def test_an_unknown_route_is_refused() -> None:
    with pytest.raises(ValueError, match="route must be one of"):
        pathwise(lambda p: distrax.Normal(p, 1.0), bump, route="box_muller")


def test_a_batch_of_distributions_is_refused() -> None:
    with pytest.raises(ValueError, match="Independent"):
        per_sample_gradients(
            pathwise(lambda p: distrax.Normal(p, 1.0), jnp.sum), jnp.zeros(3), jax.random.key(0)
        )
