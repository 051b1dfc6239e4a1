"""Gradient descent on an objective of a batch that carries a state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_models.training import stateful_gradient_descent


def centred(params, state, key, batch, *, weight=1.0):
    """The distance of the parameters from the running mean of the batches, which is the state."""
    moved = 0.75 * state + 0.25 * jnp.mean(batch, axis=0)
    loss = weight * jnp.sum((params["loc"] - state) ** 2)
    return loss, (moved, {"noise": jax.random.normal(key)})


def algorithm(**settings):
    return stateful_gradient_descent(
        centred,
        optax.sgd(0.1),
        lambda key: {"loc": jax.random.normal(key, (2,))},
        lambda params, key: params["loc"],
        **settings,
    )


def test_two_steps_by_hand() -> None:
    """The gradient is that of the state before the step; the state goes on to the next."""
    schedules = {"weight": lambda step: 1.0 + step}
    init, step = algorithm(schedules=schedules)
    batches = np.arange(12.0).reshape(2, 3, 2)
    state = init(jax.random.key(0))
    loc = np.asarray(state.params["loc"], np.float64)
    mean = loc + 1.0
    state = state._replace(objective_state=jnp.asarray(mean, jnp.float32))
    for index, batch in enumerate(batches):
        weight = 1.0 + index
        state, metrics = jax.jit(step)(state, jax.random.key(index), jnp.asarray(batch))
        np.testing.assert_allclose(metrics["loss"], weight * ((loc - mean) ** 2).sum(), rtol=1e-5)
        assert metrics["noise"] == jax.random.normal(jax.random.key(index))
        loc = loc - 0.1 * 2 * weight * (loc - mean)
        mean = 0.75 * mean + 0.25 * batch.mean(axis=0)
        np.testing.assert_allclose(state.params["loc"], loc, rtol=1e-5)
        np.testing.assert_allclose(state.objective_state, mean, rtol=1e-5)
    assert state.step == 2


def test_the_state_may_be_donated_though_it_starts_as_the_parameters() -> None:
    init, step = algorithm()
    state = init(jax.random.key(0))
    leaves = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(leaves)) == len(leaves)
    jax.jit(step, donate_argnums=0)(state, jax.random.key(1), jnp.ones((3, 2)))


def test_a_batch_without_examples_is_refused() -> None:
    init, step = algorithm()
    with pytest.raises(ValueError, match="batch must have the same leading axis"):
        jax.eval_shape(step, init(jax.random.key(0)), jax.random.key(1), jnp.ones((0, 2)))
