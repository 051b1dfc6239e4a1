"""Running a Markov chain."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genjax_models.interfaces import Array, Key, Params, PyTree

Kernel = Callable[[Params, Key, PyTree], PyTree]
"""`kernel(params, key, x) -> x`, one step of a Markov chain."""


def run_chain(
    kernel: Kernel,
    params: Params,
    key: Key,
    x: PyTree,
    num_steps: int | Array,
) -> PyTree:
    """Apply a kernel again and again: the state of one chain after `num_steps` steps.

    Args:
        kernel: `kernel(params, key, x) -> x`.
        params: its parameters.
        key: PRNG key; step i has the key `fold_in(key, i)`.
        x: the state to begin with, one example; it is cast to the dtype of the kernel's states.
        num_steps: steps, an integer or a scalar array.

    Returns:
        The last state.

    Raises:
        ValueError: a fixed number of steps below zero.
    """
    if isinstance(num_steps, int) and num_steps < 0:
        raise ValueError(f"num_steps must not be negative, got {num_steps}")

    def step(index: Array, state: PyTree) -> PyTree:
        return kernel(params, jax.random.fold_in(key, index), state)

    return jax.lax.fori_loop(0, num_steps, step, as_state(kernel, params, x))


def as_state(kernel: Kernel, params: Params, x: PyTree) -> PyTree:
    """x in the dtypes of the kernel's states, so that a loop may begin with it.

    Args:
        kernel: `kernel(params, key, x) -> x`.
        params: its parameters.
        x: a state.

    Returns:
        The state, cast.
    """
    key = jax.eval_shape(jax.random.key, 0)
    states = jax.eval_shape(kernel, params, key, x)
    return jax.tree.map(lambda leaf, state: jnp.asarray(leaf, state.dtype), x, states)
