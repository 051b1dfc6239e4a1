"""Evaluation of a whole split equals that of its examples one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness.evaluate import bits_per_dim, map_examples, metric
from experiments.harness.mesh import make_mesh


@pytest.mark.parametrize("num_examples", [1, 7, 8, 23])
def test_each_example_has_its_own_key_and_place_whatever_the_batches(num_examples):
    def function(params: jax.Array, key: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        return {"sum": params * jnp.sum(x), "noise": jax.random.normal(key, (2,))}

    examples = np.arange(num_examples * 3, dtype=np.uint8).reshape(num_examples, 3)
    mapped = map_examples(function, make_mesh(), batch_size=8)
    found = mapped(jnp.float32(0.5), jax.random.key(1), examples)
    np.testing.assert_array_equal(found["sum"], 0.5 * examples.sum(axis=1, dtype=np.float32))
    expected = [
        jax.random.normal(jax.random.fold_in(jax.random.key(1), index), (2,))
        for index in range(num_examples)
    ]
    np.testing.assert_allclose(found["noise"], expected, rtol=1e-6)


def test_a_metric_has_its_value_and_two_errors():
    values, errors = np.float32([1, 2, 6]), np.float32([0.3, 0, 0.4])
    found = metric(values, errors, estimator="iwae", num_samples=5, bound="lower")
    assert found == {
        "value": pytest.approx(3.0),
        "standard_error": pytest.approx(np.std([1, 2, 6], ddof=1) / np.sqrt(3)),
        "monte_carlo_error": pytest.approx(0.5 / 3),
        "estimator": "iwae",
        "num_samples": 5,
        "bound": "lower",
        "unit": "nats",
    }
    assert {type(found[name]) for name in ("value", "standard_error")} == {float}


def test_bits_per_dim_are_those_of_a_uniform_distribution_and_turn_the_bound():
    """4 dimensions of 8 equally likely levels: 3 bits each."""
    found = metric(
        np.full(2, -4 * np.log(8)), np.ones(2), estimator="elbo", num_samples=1, bound="lower"
    )
    bits = bits_per_dim(found, 4)
    assert bits["value"] == pytest.approx(3.0)
    assert bits["monte_carlo_error"] == pytest.approx(np.sqrt(2) / 2 / 4 / np.log(2))
    assert (bits["bound"], bits["unit"]) == ("upper", "bits per dimension")
