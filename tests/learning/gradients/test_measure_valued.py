"""Measure-valued gradients, coupled and uncoupled, against quadrature, sums and enumeration."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy import stats
from tensorflow_probability.substrates import jax as tfp

from genjax_models.distributions import Bernoulli, DiagonalGaussian
from genjax_models.learning.gradients import measure_valued, per_sample_gradients
from tests.learning.gradients.certify import (
    assert_unbiased,
    binary_expectation,
    categorical_expectation,
    estimate,
    gaussian_expectation,
    grid_expectation,
)

BOTH = {"coupled": True, "uncoupled": False}


def step(x):
    """With a jump, which a pathwise gradient would not see."""
    return jnp.where(x > 0.8, 2.0, 0.0) + jnp.exp(-jnp.square(x)) + 0.3 * x


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
    found = assert_unbiased(estimators, jax.grad(expectation)(params), resolution=0.02)
    for name in params:
        assert (found.variance["coupled"][name] < found.variance["uncoupled"][name]).all()


def test_a_jump_of_f_is_seen() -> None:
    params = {"loc": jnp.array(0.6), "scale": jnp.array(0.8)}

    def expectation(params):
        def log_density(x):
            return stats.norm.logpdf(x, params["loc"], params["scale"])

        return sum(grid_expectation(step, log_density, *ends) for ends in ((-9, 0.8), (0.8, 10)))

    estimators = replicates(lambda p: distrax.Normal(**p), step, params)
    assert_unbiased(estimators, jax.grad(expectation)(params))


def test_poisson() -> None:
    rate = jnp.array(2.3)

    def function(k):
        return jnp.sin(0.7 * k) + 0.2 * k**2

    def expectation(rate):
        counts = jnp.arange(60.0)
        return jnp.sum(jnp.exp(stats.poisson.logpmf(counts, rate)) * function(counts))

    # TFP's sampler of Poisson variables is XLA's own loop, and uses its key once.
    estimators = replicates(lambda r: tfp.distributions.Poisson(rate=r), function, rate)
    found = assert_unbiased(estimators, jax.grad(expectation)(rate))
    assert found.variance["coupled"] < found.variance["uncoupled"]


def test_gamma_in_both_parameters() -> None:
    params = {"concentration": jnp.array(1.7), "rate": jnp.array(0.9)}

    def expectation(params):
        def log_density(x):
            a, b = params["concentration"], params["rate"]
            return stats.gamma.logpdf(x * b, a) + jnp.log(b)

        return sum(grid_expectation(step, log_density, *ends) for ends in ((1e-9, 0.8), (0.8, 60)))

    estimators = replicates(lambda p: distrax.Gamma(**p), step, params)
    assert_unbiased(estimators, jax.grad(expectation)(params), resolution=0.02)


def test_bernoulli_and_categorical() -> None:
    logits = jnp.array([0.4, -0.9, 1.3])

    def form(b):
        return jnp.square(b @ jnp.array([1.0, -0.6, 0.8]) - 0.3) + b[0] * b[2]

    exact = jax.grad(lambda logits: binary_expectation(form, logits))(logits)
    found = assert_unbiased(replicates(Bernoulli, form, logits), exact)
    assert (found.variance["coupled"] < found.variance["uncoupled"]).all()

    table = jnp.array([[1.0, 3.0, 0.2], [0.5, 1.2, 2.0]])
    logits = jnp.array([[0.3, -0.5, 0.9], [-0.2, 0.6, 0.1]])

    def function(k):
        return table[jnp.arange(2), k].prod()

    def distribution(logits):
        return distrax.Independent(distrax.Categorical(logits=logits), 1)

    exact = jax.grad(lambda logits: categorical_expectation(function, logits))(logits)
    assert_unbiased(replicates(distribution, function, logits), exact)


def test_one_binary_variable_has_no_variance() -> None:
    estimator = measure_valued(Bernoulli, lambda b: jnp.exp(b) + 1)
    gradients = per_sample_gradients(estimator, jnp.array(0.4), jax.random.key(0), 5)
    exact = (np.e - 1) * jax.nn.sigmoid(0.4) * jax.nn.sigmoid(-0.4)
    np.testing.assert_allclose(gradients, exact, rtol=1e-12)


@pytest.mark.parametrize(
    "distribution",
    [lambda p: distrax.Laplace(p, 1.0), lambda p: distrax.OneHotCategorical(logits=p)],
)
def test_other_families_are_refused(distribution) -> None:
    params = jnp.zeros(()) if "Laplace" in repr(distribution(jnp.zeros(2))) else jnp.zeros(3)
    with pytest.raises(TypeError, match="score_function works for any"):
        per_sample_gradients(measure_valued(distribution, jnp.sum), params, jax.random.key(0))
