"""Log-probabilities of the dimensions one by one: they are those of vectors of one dimension."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models import distributions
from genjax_models.distributions import log_prob_per_dimension

LOGITS = np.float32([[0.3, -1.2, 2.0], [0.5, 0.1, -0.7], [-0.2, 0.9, 0.4]])
LOC, LOG_SCALE = LOGITS[0], LOGITS[1]
CASES = {
    "bernoulli": distributions.Bernoulli(LOC),
    "gaussian": distributions.DiagonalGaussian(LOC, LOG_SCALE),
    "gaussian of one scale": distributions.DiagonalGaussian(LOC, np.float32(-0.3)),
    "logistic": distributions.DiscretizedLogistic(LOC, LOG_SCALE, 3),
    "discretised gaussian": distributions.DiscretizedGaussian(LOC, LOG_SCALE, 3),
    # As many components and levels as dimensions: the axes must not be taken for each other.
    "mixture": distributions.DiscretizedLogisticMixture(LOGITS, LOGITS[::-1], LOGITS + 0.3, 3),
    "categorical": distributions.CategoricalLevels(LOGITS),
}


@pytest.mark.parametrize("name", CASES)
def test_a_dimension_changes_its_own_number_alone(name):
    """By differences of the whole log-probability, which only holds for independent dimensions."""
    distribution = CASES[name]
    first, second = jnp.float32([0.0, 1.0, 0.0]), jnp.float32([1.0, 0.0, 1.0])
    parts = (
        log_prob_per_dimension(distribution, first),
        log_prob_per_dimension(distribution, second),
    )
    np.testing.assert_allclose(jnp.sum(parts[0]), distribution.log_prob(first), rtol=1e-5)
    for d in range(3):
        mixed = first.at[d].set(second[d])
        difference = distribution.log_prob(mixed) - distribution.log_prob(first)
        np.testing.assert_allclose(parts[1][d] - parts[0][d], difference, atol=1e-5)


def test_numbers_of_the_dimensions_against_one_bernoulli_each():
    found = log_prob_per_dimension(CASES["bernoulli"], jnp.float32([1, 0, 1]))
    np.testing.assert_allclose(
        found,
        [jax.nn.log_sigmoid(0.3), jax.nn.log_sigmoid(1.2), jax.nn.log_sigmoid(2.0)],
        rtol=1e-5,
    )


def test_distrax_and_the_users_own():
    independent = distrax.Independent(distrax.Bernoulli(logits=jnp.asarray(LOC)), 1)
    x = jnp.float32([1, 0, 0])
    np.testing.assert_allclose(
        log_prob_per_dimension(independent, x),
        log_prob_per_dimension(CASES["bernoulli"], x),
        rtol=1e-5,
    )

    class Own:
        def log_prob_per_dimension(self, value):
            return -value

    np.testing.assert_array_equal(log_prob_per_dimension(Own(), x), -x)


def test_dimensions_that_may_depend_on_each_other_are_refused():
    joint = distrax.MultivariateNormalFullCovariance(jnp.zeros(3), jnp.eye(3))
    with pytest.raises(TypeError, match="MultivariateNormalFullCovariance are not known to be ind"):
        log_prob_per_dimension(joint, jnp.zeros(3))
    several = distrax.Independent(distrax.Bernoulli(logits=jnp.zeros((2, 3))), 2)
    with pytest.raises(TypeError, match="Independent are not known to be independent"):
        log_prob_per_dimension(several, jnp.zeros(3))
    independent = distrax.Independent(distrax.Bernoulli(logits=jnp.zeros(1)), 1)
    with pytest.raises(ValueError, match=r"shape of one event, \(1,\), got \(3,\)"):
        log_prob_per_dimension(independent, jnp.zeros(3))
    with pytest.raises(ValueError, match="value must be a vector"):
        log_prob_per_dimension(CASES["bernoulli"], jnp.zeros((3, 3)))
