"""The biased estimators: their bias is measured, and vanishes where it should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.distributions import Bernoulli
from genjax_models.learning import gradients as library
from tests.learning.gradients.certify import (
    LOGITS,
    WEIGHTS,
    assert_biased,
    assert_unbiased,
    binary_expectation,
    estimate,
    exact_gradient,
    form,
    gradients,
)

NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(40)
TEMPERATURE = 0.8


def exact(function=form):
    return exact_gradient(lambda logits: binary_expectation(function, logits), LOGITS)


def relaxed_expectation(function):
    """E of a function of uniform noise [3], by tensor quadrature; smooth inside (0, 1)^3."""
    axis = (NODES + 1) / 2
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    weights = NODE_WEIGHTS / 2
    masses = np.einsum("i,j,k->ijk", weights, weights, weights).reshape(-1)
    return jnp.tensordot(masses, jax.vmap(function)(jnp.asarray(grid)), 1)


def straight_through(logits):
    """E f'(b) s(l) s(-l), enumerated."""
    slope = lambda b: jax.grad(form)(b) * jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits)  # noqa: E731
    return jax.vmap(lambda d: binary_expectation(lambda b: slope(b)[d], logits))(jnp.arange(3))


def gumbel_softmax(logits):
    """The gradient of E f(s(z / t)), by quadrature over the noise."""

    def expectation(logits):
        def function(u):
            z = logits + jnp.log(u) - jnp.log1p(-u)
            return form(jax.nn.sigmoid(z / TEMPERATURE))

        return relaxed_expectation(function)

    return jax.grad(expectation)(logits)


def both(logits):
    """E f'(hard(z)) ds(z / t)/dz: for each sample b, quadrature over the noise that gives it."""

    def given(b):
        def function(u):
            # Noise on the side of b: u is spread over (0, P(b)).
            odds = jnp.where(b > 0, logits, -logits)
            v = u * jax.nn.sigmoid(odds)
            z = odds - (jnp.log(v) - jnp.log1p(-v))
            s = jax.nn.sigmoid(-z / TEMPERATURE)
            return s * (1 - s) / TEMPERATURE

        return jax.grad(form)(b) * relaxed_expectation(function)

    return jax.vmap(lambda d: binary_expectation(lambda b: given(b)[d], logits))(jnp.arange(3))


def test_the_bias_of_the_biased_ones_is_what_their_equations_say() -> None:
    """All are rejected against the true gradient, and certified against their own expectation."""
    replicates = {
        "straight-through": estimate(library.biased_straight_through(Bernoulli, form), LOGITS),
        "gumbel-softmax": estimate(
            library.biased_gumbel_softmax(Bernoulli, form, temperature=TEMPERATURE), LOGITS
        ),
        "both": estimate(
            library.biased_straight_through_gumbel_softmax(
                Bernoulli, form, temperature=TEMPERATURE
            ),
            LOGITS,
        ),
    }
    means = (straight_through, gumbel_softmax, both)
    expected = {
        name: jit_mean(jnp.asarray(LOGITS))
        for name, jit_mean in zip(replicates, map(jax.jit, means), strict=True)
    }
    assert_unbiased(replicates, expected, each=True)
    assert_biased(replicates, exact())
    for mean in expected.values():
        assert np.abs(mean - exact()).max() > 0.1 * np.abs(exact()).max()


def test_a_colder_relaxation_is_less_biased() -> None:
    """Exactly, by quadrature: the bias of the temperature 0.8 against that of 0.3."""

    def bias(temperature):
        def expectation(logits):
            def function(u):
                z = logits + jnp.log(u) - jnp.log1p(-u)
                return form(jax.nn.sigmoid(z / temperature))

            return relaxed_expectation(function)

        return np.linalg.norm(exact_gradient(expectation, LOGITS) - exact())

    assert bias(0.4) < 0.5 * bias(0.8)


def test_straight_through_is_unbiased_where_f_is_linear_in_each_variable() -> None:
    linear = lambda b: jnp.dot(WEIGHTS, b)  # noqa: E731
    estimator = library.biased_straight_through(Bernoulli, linear)
    found = gradients(estimator, LOGITS, 4)
    np.testing.assert_allclose(found, jnp.broadcast_to(exact(linear), (4, 3)), rtol=1e-9)
    products = lambda b: jnp.dot(WEIGHTS, b) + b[0] * b[1] - 2 * b[0] * b[1] * b[2]  # noqa: E731
    estimator = library.biased_straight_through(Bernoulli, products)
    assert_unbiased({"products": estimate(estimator, LOGITS)}, exact(products))


@pytest.mark.parametrize(
    "make", [library.biased_gumbel_softmax, library.biased_straight_through_gumbel_softmax]
)
def test_a_temperature_that_is_not_above_zero_is_refused(make) -> None:
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="temperature must be above zero"):
            make(Bernoulli, form, temperature=temperature)


@pytest.mark.parametrize("make", [library.biased_straight_through, library.biased_gumbel_softmax])
def test_the_biased_ones_say_so(make) -> None:
    assert make.__name__.startswith("biased_")
    assert "BIASED" in make.__doc__.splitlines()[0]
