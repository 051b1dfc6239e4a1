"""Pathwise gradients, explicit and implicit, against quadrature; what has none is refused."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from jax.flatten_util import ravel_pytree
from jax.scipy import special, stats

from genjax_models.distributions import Bernoulli, DiagonalGaussian
from genjax_models.learning.gradients import control_variates, pathwise, surrogate_loss
from genjax_models.learning.gradients.routes import FAMILIES
from tests.learning.gradients.certify import (
    assert_biased,
    assert_unbiased,
    estimate,
    exact_gradient,
    gaussian_expectation,
    gradients,
    grid_expectation,
)
from tests.statistics import jit_once

SCIPY = {
    "Normal": "norm",
    "Laplace": "laplace",
    "Logistic": "logistic",
    "Gumbel": "gumbel_r",
    "Uniform": "uniform",
}
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

    return exact_gradient(expectation, PARAMS)


def test_every_route_of_every_location_scale_family() -> None:
    replicates, exact = {}, {}
    for name in FAMILIES.keys() - {"Normal"}:  # that is in test_gaussian
        make = uniform if name == "Uniform" else getattr(distrax, name)
        for route in ("sample", "location_scale", "inverse_cdf", "implicit"):
            estimator = pathwise(family(make), bump, route=route)
            replicates[f"{name}, {route}"] = estimate(estimator, PARAMS)
            exact[f"{name}, {route}"] = exact_location_scale(name)
    assert_unbiased(replicates, exact, each=True, resolution=0.02)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_its_quantiles_densities_and_distribution_function(name: str) -> None:
    """Against scipy.stats, far into the tails."""
    found, known = FAMILIES[name], getattr(scipy.stats, SCIPY[name])
    u = np.array([1e-12, 1e-3, 0.2, 0.5, 0.9, 0.999999])
    np.testing.assert_allclose(found.quantile(u), known.ppf(u), rtol=1e-6, atol=1e-12)
    e = known.ppf(u)
    np.testing.assert_allclose(found.cdf(e), known.cdf(e), rtol=1e-9)
    np.testing.assert_allclose(found.log_density(e), known.logpdf(e), rtol=1e-9, atol=1e-12)


def test_the_middle_of_a_family_has_a_derivative() -> None:
    """A sample that is the location to the last digit, as float32 gives with a large location."""
    with jax.enable_x64(False):
        for make in (distrax.Laplace, distrax.Normal, distrax.Logistic, distrax.Gumbel):
            estimator = pathwise(lambda p, make=make: make(p, 1e-4), jnp.sum, route="implicit")
            found = gradients(estimator, jnp.array(1e4), 50)
            np.testing.assert_allclose(found, 1.0, rtol=1e-5)


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
    assert_unbiased(replicates, exact_gradient(expectation, params), resolution=0.02)


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


DIRICHLET = jnp.array([1.0, -0.5, 2.0])


def dirichlet_expectation(alpha):
    """Of a quadratic, in closed form."""
    total = alpha.sum()
    mean = alpha / total
    second = (jnp.diag(mean) - jnp.outer(mean, mean)) / (total + 1) + jnp.outer(mean, mean)
    return DIRICHLET @ second @ DIRICHLET + mean[0]


def wave(x):
    return jnp.cos(x - 1.0) + 0.5 * jnp.sin(2 * x)


def von_mises_expectation(params):
    def log_density(x):
        return params["b"] * (jnp.cos(x - params["a"]) - 1)

    mass = grid_expectation(lambda x: 1.0, log_density, -np.pi, np.pi)
    return grid_expectation(wave, log_density, -np.pi, np.pi) / mass


def test_implicit_gamma_beta_dirichlet_and_von_mises() -> None:
    """The samplers differentiate through the distribution function, under both names."""
    pair = {"a": jnp.array(1.7), "b": jnp.array(0.8)}
    dirichlet = jnp.array([0.8, 1.5, 2.2])
    cases = {
        "gamma": (lambda p: distrax.Gamma(**_names(p)), bump, pair, gamma_expectation),
        "beta": (
            lambda p: distrax.Beta(p["a"], p["b"]),
            lambda x: bump(3 * x),
            pair,
            beta_expectation,
        ),
        "dirichlet": (
            distrax.Dirichlet,
            lambda x: jnp.square(DIRICHLET @ x) + x[0],
            dirichlet,
            dirichlet_expectation,
        ),
        "von Mises": (
            lambda p: distrax.VonMises(p["a"], p["b"]),
            wave,
            pair,
            von_mises_expectation,
        ),
    }
    replicates, exact = {}, {}
    routes = ["implicit", "sample"] * 2
    for route, (name, case) in zip(routes, cases.items(), strict=True):
        distribution, function, params, expectation = case
        estimator = pathwise(distribution, function, route=route)
        replicates[name] = estimate(estimator, params, 1)
        exact[name] = exact_gradient(expectation, params)
    # distrax's sampler of von Mises variables uses a key twice, in our name.
    with jax.debug_key_reuse(False):
        assert_unbiased(replicates, exact, each=True, resolution=0.02)


def _names(params):
    return {"concentration": params["a"], "rate": params["b"]}


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
    exact = exact_gradient(expectation, params)
    assert_unbiased({"mixture": estimate(estimator, params)}, exact, resolution=0.02)

    def frozen_weights(key):
        """The mutant that differentiates the chosen component alone, as plain samplers do."""

        def value(params):
            return function(mixture(params).sample(seed=key))

        return jax.grad(value)(params)

    assert_biased({"plain": frozen_weights}, exact, resolution=0.02)


def test_a_mixture_of_scalars_by_the_derivative_of_its_quantile() -> None:
    """dx/dparams at the sample is that of the quantile, by finite differences of its inverse."""
    params = {"logits": jnp.array([0.3, -0.4]), "loc": jnp.array([0.5, -0.9])}
    params["scale"] = jnp.array([0.8, 0.6])

    def distribution(params):
        weights = distrax.Categorical(logits=params["logits"])
        return distrax.MixtureSameFamily(weights, distrax.Gumbel(params["loc"], params["scale"]))

    def cdf(x, params):
        standard = (x - params["loc"]) / params["scale"]
        return scipy.special.softmax(params["logits"]) @ scipy.stats.gumbel_r.cdf(standard)

    identity = pathwise(distribution, lambda x: x, route="implicit")
    flat, restore = ravel_pytree(params)
    found = gradients(identity, params, 3)
    draws = identity.draw(params, (), jax.random.key(0), 3)
    values = jit_once(jax.vmap(identity.surrogate, (None, None, 0)))(params, (), draws)
    for s, x in enumerate(np.asarray(values)):
        u, slopes = cdf(x, params), []
        for index in range(flat.size):
            sides = []
            for sign in (1, -1):
                moved = restore(flat.at[index].add(sign * 1e-5))
                gap = lambda x, moved=moved, u=u: cdf(x, moved) - u  # noqa: E731
                sides.append(scipy.optimize.brentq(gap, x - 0.1, x + 0.1, xtol=1e-13))
            slopes.append((sides[0] - sides[1]) / 2e-5)
        got = ravel_pytree(jax.tree.map(lambda leaf, s=s: leaf[s], found))[0]
        np.testing.assert_allclose(got, slopes, rtol=1e-4, atol=1e-6)


def test_components_far_apart_have_finite_gradients() -> None:
    """Where the density of the other component underflows; each sample moves with its own."""
    with jax.enable_x64(False):
        params = {
            "logits": jnp.array([0.3, -0.4]),
            "loc": jnp.array([[-40.0, 60.0], [80.0, -90.0]]),
        }
        params["scale"] = jnp.ones((2, 2))
        for index in range(2):
            estimator = pathwise(mixture, lambda x, index=index: x[index], route="implicit")
            found = gradients(estimator, params, 20)
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
            np.testing.assert_allclose(found["loc"][:, :, index].sum(axis=1), 1, rtol=1e-5)


def test_a_series_of_second_order_is_exact_for_a_quadratic() -> None:
    """The series is f itself: no variance."""

    def distribution(params):
        return distrax.Normal(params["loc"], params["scale"])

    square = pathwise(
        distribution, jnp.square, control_variate=control_variates.delta_method(jnp.square)
    )
    found = gradients(square, PARAMS, 3)
    np.testing.assert_allclose(found["loc"], 2 * PARAMS["loc"], rtol=1e-9)
    np.testing.assert_allclose(found["scale"], 2 * PARAMS["scale"], rtol=1e-9)


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
        surrogate_loss(estimator, jnp.zeros(3), jax.random.key(0))


@pytest.mark.parametrize(
    ("weights", "components"),
    [
        (jnp.zeros(2), lambda p: distrax.Uniform(p[:2], p[:2] + 1)),
        (jnp.zeros((2, 2)), lambda p: distrax.Normal(jnp.stack([p[:2], p[:2]]), jnp.ones((2, 2)))),
        (jnp.zeros(2), lambda p: distrax.MultivariateNormalTri(jnp.zeros((2, 2)), jnp.eye(2))),
        (jnp.zeros(2), lambda p: distrax.Gamma(jnp.exp(p[:2]), jnp.ones(2))),
    ],
)
def test_mixtures_that_it_cannot_differentiate_are_refused(weights, components) -> None:
    def distribution(params):
        mixture = distrax.MixtureSameFamily(distrax.Categorical(weights), components(params))
        return distrax.Independent(mixture, 1) if mixture.batch_shape else mixture

    estimator = pathwise(distribution, jnp.sum, route="implicit")
    with pytest.raises(TypeError, match=r'route="implicit" is for .*score_function'):
        surrogate_loss(estimator, jnp.zeros(3), jax.random.key(0))


def test_an_unknown_route_is_refused() -> None:
    with pytest.raises(ValueError, match="route must be one of"):
        pathwise(lambda p: distrax.Normal(p, 1.0), bump, route="box_muller")


@pytest.mark.parametrize(
    "variate",
    [
        control_variates.constant(1.0),
        control_variates.moving_average(),
        control_variates.leave_one_out(),
        control_variates.optimal(),
    ],
)
def test_a_baseline_is_refused(variate) -> None:
    """It has no gradient through the sample: nothing would change."""
    with pytest.raises(TypeError, match="use delta_method"):
        pathwise(lambda p: distrax.Normal(p, 1.0), bump, control_variate=variate)
