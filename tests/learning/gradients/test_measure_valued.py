"""Measure-valued gradients, coupled and uncoupled, against quadrature and sums."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy import stats
from tensorflow_probability.substrates import jax as tfp

from genjax_models.distributions import Bernoulli, DiagonalGaussian
from genjax_models.learning import gradients as library
from genjax_models.learning.gradients import measure_valued
from tests.learning.gradients.certify import (
    assert_unbiased,
    estimate,
    exact_gradient,
    gaussian_expectation,
    gradients,
    grid_expectation,
)

BOTH = {"coupled": True, "uncoupled": False}


def step(x):
    """With a jump, which a pathwise gradient would not see."""
    return jnp.where(x > 1.4, 2.0, 0.0) + jnp.exp(-jnp.square(x)) + 0.3 * x


def replicates(distribution, function, params, num_samples=2):
    return {
        name: estimate(measure_valued(distribution, function, coupled=coupled), params, num_samples)
        for name, coupled in BOTH.items()
    }


def test_gaussian_vectors() -> None:
    params = {"loc": jnp.array([0.6, -0.4]), "log_scale": jnp.array([-0.2, 0.3])}

    def function(x):
        return jnp.sin(x[0] + 0.5) * x[1] + x[0] ** 2 + jnp.exp(-jnp.square(x[1] - 1))

    def expectation(params):
        (a, b), (s, t) = params["loc"], jnp.exp(params["log_scale"])
        inner = lambda x: gaussian_expectation(lambda y: function(jnp.stack([x, y])), b, t)  # noqa: E731
        return gaussian_expectation(inner, a, s)

    estimators = replicates(lambda p: DiagonalGaussian(**p), function, params)
    found = assert_unbiased(estimators, exact_gradient(expectation, params), resolution=0.02)
    for name in params:
        assert (found.variance["coupled"][name] < found.variance["uncoupled"][name]).all()


def test_a_jump_of_f_is_seen() -> None:
    """Gaussian and Gamma, in both parameters."""
    normal = {"loc": jnp.array(0.6), "scale": jnp.array(0.8)}
    gamma = {"concentration": jnp.array(1.7), "rate": jnp.array(0.9)}

    def normal_expectation(params):
        def log_density(x):
            return stats.norm.logpdf(x, params["loc"], params["scale"])

        return sum(grid_expectation(step, log_density, *ends) for ends in ((-9, 1.4), (1.4, 10)))

    def gamma_expectation(params):
        def log_density(x):
            a, b = params["concentration"], params["rate"]
            return stats.gamma.logpdf(x * b, a) + jnp.log(b)

        return sum(grid_expectation(step, log_density, *ends) for ends in ((1e-9, 1.4), (1.4, 60)))

    of_normal = replicates(lambda p: distrax.Normal(**p), step, normal)
    of_gamma = replicates(lambda p: distrax.Gamma(**p), step, gamma)
    exact = {
        **{f"normal {name}": exact_gradient(normal_expectation, normal) for name in BOTH},
        **{f"gamma {name}": exact_gradient(gamma_expectation, gamma) for name in BOTH},
    }
    both = {
        **{f"normal {name}": one for name, one in of_normal.items()},
        **{f"gamma {name}": one for name, one in of_gamma.items()},
    }
    found = assert_unbiased(both, exact, each=True, resolution=0.02)
    variance = found.variance
    assert variance["normal coupled"]["scale"] < variance["normal uncoupled"]["scale"]
    assert variance["gamma coupled"]["rate"] < variance["gamma uncoupled"]["rate"]


def test_a_vector_of_gammas() -> None:
    """An interaction of two: every coordinate is replaced beside the right others."""
    params = {"concentration": jnp.array([1.7, 0.6]), "rate": jnp.array([0.9, 1.5])}

    def distribution(params):
        return distrax.Independent(distrax.Gamma(**params), 1)

    def expectation(params):
        """Of x y^2 + x, from moments."""
        (a, c), (b, d) = params["concentration"], params["rate"]
        return a / b * c * (c + 1) / d**2 + a / b

    estimators = replicates(distribution, lambda x: x[0] * x[1] ** 2 + x[0], params)
    exact = exact_gradient(expectation, params)
    assert_unbiased(estimators, exact, resolution=0.02, max_replicates=1_000_000)


def test_poisson() -> None:
    rate = jnp.array(2.3)

    def function(k):
        return jnp.sin(0.7 * k) + 0.2 * k**2

    def expectation(rate):
        counts = jnp.arange(60.0)
        return jnp.sum(jnp.exp(stats.poisson.logpmf(counts, rate)) * function(counts))

    estimators = replicates(lambda r: tfp.distributions.Poisson(rate=r), function, rate, 1)
    # TFP's sampler is a loop that selects between its old and its new key.
    with jax.debug_key_reuse(False):
        exact = exact_gradient(expectation, rate)
        found = assert_unbiased(estimators, exact, resolution=0.02)
    assert found.variance["coupled"] < found.variance["uncoupled"]


def test_one_variable_of_two_values_has_no_variance() -> None:
    found = gradients(measure_valued(Bernoulli, lambda b: jnp.exp(b) + 1), jnp.array(0.4), 5)
    exact = (np.e - 1) * jax.nn.sigmoid(0.4) * jax.nn.sigmoid(-0.4)
    np.testing.assert_allclose(found, exact, rtol=1e-12)


@pytest.mark.parametrize(
    "distribution",
    [
        lambda p: distrax.Laplace(p, 1.0),
        lambda p: distrax.MultivariateNormalTri(p[None], jnp.eye(1)),
        lambda p: distrax.Beta(jnp.exp(p), 1.0),
    ],
)
def test_other_families_are_refused(distribution) -> None:
    name = type(distribution(jnp.zeros(()))).__name__
    with pytest.raises(TypeError, match=f"got a {name}: score_function works for any"):
        library.surrogate_loss(
            measure_valued(distribution, jnp.sum), jnp.zeros(()), jax.random.key(0)
        )
