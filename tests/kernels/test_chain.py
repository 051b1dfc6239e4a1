"""Running a chain: its keys, its number of steps, its types."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.kernels import run_chain


def walk(params, key, x):
    """A random walk of a pytree."""
    return {"at": x["at"] + params * jax.random.normal(key), "count": x["count"] + 1}


START = {"at": jnp.zeros(()), "count": jnp.zeros((), jnp.int32)}


def test_step_i_has_key_i() -> None:
    key = jax.random.key(0)
    noise = [jax.random.normal(jax.random.fold_in(jax.random.clone(key), i)) for i in range(5)]
    end = jax.jit(run_chain, static_argnums=(0, 4))(walk, 2.0, key, START, 5)
    np.testing.assert_allclose(end["at"], 2 * sum(noise), rtol=1e-6)
    assert end["count"] == 5


def test_a_number_of_steps_that_is_known_only_later() -> None:
    key = jax.random.key(0)
    run = jax.jit(run_chain, static_argnums=0)
    for num_steps in (0, 3):
        end = run(walk, 2.0, jax.random.clone(key), START, jnp.int32(num_steps))
        assert end["count"] == num_steps
    assert run(walk, 2.0, key, START, jnp.int32(0)) == START


def test_the_start_may_be_of_another_dtype() -> None:
    end = run_chain(lambda params, key, x: 0.5 * x, None, jax.random.key(0), jnp.int8(4), 2)
    assert end == 1.0 and end.dtype == jnp.float32


def test_a_negative_number_of_steps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"num_steps.*-1"):
        run_chain(walk, 1.0, jax.random.key(0), START, -1)
