"""The moving average of parameters: its recursion by hand, beside training that it leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_models.training import exponential_moving_average, gradient_descent

OPTIMIZER = optax.sgd(0.1)


def init(key: jax.Array) -> dict[str, jax.Array]:
    return {"loc": jnp.array([1.0, -2.0])}


def objective(params, key, x):
    return jnp.sum((params["loc"] - x) ** 2) / 2, {"loc": params["loc"][0]}


def run(algorithm, num_steps: int):
    """The states after 0, 1, ..., num_steps steps towards the same point."""
    states = [algorithm.init(jax.random.key(0))]
    step = jax.jit(algorithm.step)
    for number in range(num_steps):
        state, metrics = step(states[-1], jax.random.key(number), jnp.array([[3.0, 5.0]] * 4))
        assert set(metrics) == {"loss", "loc"}
        states.append(state)
    return states


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_the_average_is_its_recursion_and_training_is_untouched(decay: float) -> None:
    plain = gradient_descent(objective, OPTIMIZER, init)
    alone = run(plain, 12)
    states = run(exponential_moving_average(plain, decay), 12)
    average = np.array([1.0, -2.0])
    for number, (state, exact) in enumerate(zip(states, alone, strict=True)):
        np.testing.assert_allclose(state.trained.params["loc"], exact.params["loc"], rtol=1e-6)
        if number:
            share = min(decay, (1 + number) / (10 + number))
            average = share * average + (1 - share) * np.asarray(exact.params["loc"], float)
        np.testing.assert_allclose(state.params["loc"], average, rtol=1e-5)
        assert state.step == number
    # It follows behind, unless it remembers nothing.
    gap = np.abs(states[-1].params["loc"] - alone[-1].params["loc"]).max()
    assert gap < 1e-6 if decay == 0 else gap > 0.01


def test_the_state_can_be_donated() -> None:
    algorithm = exponential_moving_average(gradient_descent(objective, OPTIMIZER, init), 0.9)
    state = algorithm.init(jax.random.key(0))
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(pointers)) == len(pointers)
    step = jax.jit(algorithm.step, donate_argnums=0)
    state, _ = step(state, jax.random.key(1), jnp.zeros((2, 2)))
    assert state.step == 1


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_a_decay_that_is_none_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got"):
        exponential_moving_average(gradient_descent(objective, OPTIMIZER, init), decay)
