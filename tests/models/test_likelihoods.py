"""From the outputs of a decoder to a distribution, and the names of likelihoods."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.models import likelihoods


def test_outputs_of_bernoulli_are_logits() -> None:
    likelihood = likelihoods.bernoulli()
    params = likelihood.init(jax.random.key(0))
    np.testing.assert_array_equal(
        likelihood.distribution(params, jnp.array([0.3, -1.0])).logits, jnp.array([0.3, -1.0])
    )
    assert likelihood.num_outputs_per_dim == 1
    assert jax.tree.leaves(params) == []


def test_outputs_of_gaussian_are_means_and_its_scale_is_a_parameter() -> None:
    likelihood = likelihoods.gaussian()
    (scale,) = jax.tree.leaves(likelihood.init(jax.random.key(0)))
    assert scale.shape == ()
    params = {"log_scale": jnp.array(0.7)}
    distribution = likelihood.distribution(params, jnp.array([0.3, -1.0]))
    np.testing.assert_array_equal(distribution.loc, jnp.array([0.3, -1.0]))
    assert distribution.log_scale == params["log_scale"]
    assert likelihood.num_outputs_per_dim == 1


def test_outputs_of_discretized_logistic_are_a_block_of_locations_and_one_of_scales() -> None:
    likelihood = likelihoods.discretized_logistic(17)
    distribution = likelihood.distribution({}, jnp.array([0.1, 0.2, 0.3, 1.0, 2.0, 3.0]))
    np.testing.assert_allclose(np.diff(distribution.loc), [0.1, 0.1], rtol=1e-5)
    np.testing.assert_allclose(np.diff(distribution.log_scale), [1, 1], rtol=1e-5)
    assert distribution.num_levels == 17
    assert likelihood.num_outputs_per_dim == 2
    start = likelihood.distribution({}, jnp.zeros(2))
    np.testing.assert_allclose((start.loc, start.log_scale), [[0.5], [-2.0]])


def test_outputs_of_the_mixture_are_weights_locations_and_scales_a_block_for_each_component():
    likelihood = likelihoods.discretized_logistic_mixture(17, num_components=2)
    assert likelihood.num_outputs_per_dim == 6
    start = likelihood.distribution({}, jnp.zeros(18))
    np.testing.assert_allclose(start.loc, [[0.25] * 3, [0.75] * 3])
    np.testing.assert_allclose(start.log_scale, np.full((2, 3), -2 - np.log(2)), rtol=1e-6)
    outputs = jnp.arange(18.0)
    moved = likelihood.distribution({}, outputs)
    found = moved.logits, moved.loc - start.loc, moved.log_scale - start.log_scale
    np.testing.assert_allclose(np.concatenate(found), outputs.reshape(6, 3), rtol=1e-5)
    assert moved.num_levels == 17


def test_outputs_of_the_categorical_are_logits_a_block_for_each_level() -> None:
    likelihood = likelihoods.categorical(4)
    assert likelihood.num_outputs_per_dim == 4
    outputs = jnp.arange(12.0)
    logits = likelihood.distribution({}, outputs).logits
    np.testing.assert_array_equal(logits, outputs.reshape(4, 3))


NAMES = [
    "bernoulli",
    "gaussian",
    "discretized_logistic",
    "discretized_logistic_mixture",
    "categorical",
]


@pytest.mark.parametrize("name", NAMES)
def test_by_name(name: str) -> None:
    assert likelihoods.needs_num_levels(name) == (name in NAMES[2:])
    levels = {"num_levels": 5} if likelihoods.needs_num_levels(name) else {}
    likelihood = likelihoods.by_name(name, **levels)
    params = likelihood.init(jax.random.key(0))
    outputs = jnp.linspace(-1, 1, 3 * likelihood.num_outputs_per_dim)
    value = likelihood.distribution(params, outputs).sample(seed=jax.random.key(0))
    assert value.shape == (3,)


@pytest.mark.parametrize(
    ("name", "num_levels", "message"),
    [
        ("poisson", None, "'poisson'"),
        ("discretized_logistic", None, "needs num_levels"),
        ("discretized_logistic", 1, "at least 2, got 1"),
        ("discretized_logistic_mixture", None, "needs num_levels"),
        ("discretized_logistic_mixture", 1, "at least 2, got 1"),
        ("categorical", None, "needs num_levels"),
        ("categorical", 1, "at least 2, got 1"),
        ("bernoulli", 17, "num_levels is for"),
        ("gaussian", 17, "num_levels is for"),
    ],
)
def test_settings_that_are_refused(name: str, num_levels: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        likelihoods.by_name(name, num_levels=num_levels)


def test_a_mixture_without_components_is_refused() -> None:
    with pytest.raises(ValueError, match="num_components must be at least 1, got 0"):
        likelihoods.discretized_logistic_mixture(17, num_components=0)
