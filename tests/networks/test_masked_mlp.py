"""The masked network: each output sees the inputs before it, all of them, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.networks import conditional_masked_mlp, masked_mlp
from tests.statistics import jit_once

ORDERING = [2, 0, 3, 1, 4]


def perturbed(params):
    """Not the initial ones, of which the biases are zero."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: leaf + rng.normal(size=leaf.shape).astype("f"), params)


@pytest.mark.parametrize("hidden", [(), (4,), (9, 8), (3, 5, 7)])
@pytest.mark.parametrize("ordering", [None, ORDERING])
def test_outputs_depend_on_exactly_the_dimensions_before(hidden, ordering) -> None:
    network = masked_mlp(5, hidden, 2, ordering=ordering)
    params = perturbed(network.init(jax.random.key(0)))
    jacobian = jit_once(jax.jacobian(network.apply, argnums=1))
    found = np.asarray(jacobian(params, jnp.linspace(-1, 1, 5))).reshape(2, 5, 5)
    order = np.arange(5) if ordering is None else np.array(ordering)
    found = found[:, order][:, :, order]
    below = np.tri(5, k=-1, dtype=bool)
    assert (found[:, ~below] == 0).all()
    if min(hidden, default=5) >= 4:  # As many units as degrees: no path is missing.
        assert (found[:, below] != 0).all()


@pytest.mark.parametrize("hidden", [(), (10,), (6, 9)])
def test_every_output_depends_on_the_context(hidden) -> None:
    network = conditional_masked_mlp(5, hidden, 2, context_dim=3, ordering=ORDERING)
    params = perturbed(network.init(jax.random.key(0)))
    inputs, context = jnp.linspace(-1, 1, 5), jnp.array([0.3, -0.2, 0.5])
    jacobians = jit_once(jax.jacobian(network.apply, argnums=(1, 2)))
    by_inputs, by_context = jacobians(params, inputs, context)
    by_inputs = np.asarray(by_inputs).reshape(2, 5, 5)[:, ORDERING][:, :, ORDERING]
    assert (by_inputs[:, ~np.tri(5, k=-1, dtype=bool)] == 0).all()
    assert (by_inputs[:, np.tri(5, k=-1, dtype=bool)] != 0).all()
    assert by_context.shape == (10, 3) and (by_context != 0).all()


def test_a_single_dimension_sees_nothing() -> None:
    network = masked_mlp(1, (3,), 2)
    params = perturbed(network.init(jax.random.key(0)))
    outputs = [network.apply(params, jnp.array([x])) for x in (-1.0, 2.0)]
    np.testing.assert_array_equal(*outputs)


def test_the_last_layer_starts_at_zero_where_it_is_told_to() -> None:
    network = masked_mlp(4, (5,), 2, zero_last_layer=True)
    outputs = network.apply(network.init(jax.random.key(0)), jnp.ones(4))
    np.testing.assert_array_equal(outputs, np.zeros(8))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0, (3,), 1), {}, ValueError, "num_dims must be at least 1, got 0"),
        ((3, (3, 0), 1), {}, ValueError, r"hidden must be at least 1, got \(3, 0\)"),
        ((3, (3,), 0), {}, ValueError, "num_outputs_per_dim must be at least 1"),
        ((3, (3,), 1), {"ordering": [0, 1, 1]}, ValueError, "ordering must have each dimension"),
        ((3, (3,), 1), {"ordering": [0.0, 1.0, 2.0]}, TypeError, "ordering must be of integers"),
        ((3, (3,), 1), {"context_dim": 0}, ValueError, "context_dim must be at least 1"),
    ],
)
def test_arguments_that_are_refused(arguments, options, error, message) -> None:
    make = conditional_masked_mlp if "context_dim" in options else masked_mlp
    with pytest.raises(error, match=message):
        make(*arguments, **options)
