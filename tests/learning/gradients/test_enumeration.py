"""Rao-Blackwellisation, one draw written out, and what is refused; see test_discrete too."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.distributions import Bernoulli
from genjax_models.learning import gradients as library
from tests.learning.gradients.certify import LOGITS, form, gradients
from tests.statistics import jit_once


def test_one_draw_is_the_equation() -> None:
    """Chosen coordinates have no score: they are summed, with the others as they were drawn."""
    estimator, key = library.rao_blackwell(Bernoulli, form, [2, 0]), jax.random.key(3)
    found = gradients(estimator, LOGITS, 8, seed=3)
    draws = jit_once(lambda key: estimator.draw(jnp.asarray(LOGITS), (), key, 8))(key)
    p, cost = 1 / (1 + np.exp(-LOGITS)), jit_once(form)

    def summed(b):
        """F and its gradient in the logits of the two that are summed."""
        total, slope = 0.0, np.zeros(3)
        for first in (0.0, 1.0):
            for last in (0.0, 1.0):
                value = float(cost(jnp.array([first, b[1], last])))
                masses = [p[0] if first else 1 - p[0], p[2] if last else 1 - p[2]]
                total += masses[0] * masses[1] * value
                slope[0] += (2 * first - 1) * p[0] * (1 - p[0]) * masses[1] * value
                slope[2] += (2 * last - 1) * p[2] * (1 - p[2]) * masses[0] * value
        return total, slope

    parts = [summed(b) for b in np.asarray(draws.x)]
    totals = np.array([total for total, _ in parts])
    assert np.ptp(totals) > 0.05  # what is summed differs between the draws
    for s, (total, slope) in enumerate(parts):
        score = np.array([0.0, float(draws.x[s][1]) - p[1], 0.0])
        expected = slope + (total - np.delete(totals, s).mean()) * score
        np.testing.assert_allclose(found[s], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("coordinates", [[], [1, 1], [-1]])
def test_coordinates_that_are_none_are_refused(coordinates) -> None:
    with pytest.raises(ValueError, match="coordinates must be different indices"):
        library.rao_blackwell(Bernoulli, form, coordinates)


@pytest.mark.parametrize(
    ("estimator", "num_samples", "message"),
    [
        (library.rao_blackwell(Bernoulli, form, [0]), 1, "num_samples must be .* at least 2"),
        (library.rao_blackwell(Bernoulli, form, [3]), 2, "coordinates must be below 3"),
    ],
)
def test_calls_that_are_refused(estimator, num_samples: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        library.surrogate_loss(estimator, LOGITS, jax.random.key(0), num_samples)


def test_too_many_values_are_refused() -> None:
    for make in (library.enumeration, lambda d, f: library.rao_blackwell(d, f, range(21))):
        with pytest.raises(ValueError, match="too many to enumerate"):
            library.surrogate_loss(make(Bernoulli, jnp.sum), jnp.zeros(40), jax.random.key(0), 2)


def test_continuous_variables_are_refused() -> None:
    for make in (library.enumeration, lambda d, f: library.rao_blackwell(d, f, [0])):
        estimator = make(lambda p: distrax.Normal(p, 1.0), jnp.sum)
        with pytest.raises(TypeError, match=r"Bernoulli or categorical.*Normal: score_function"):
            library.surrogate_loss(estimator, jnp.zeros(()), jax.random.key(0), 2)
