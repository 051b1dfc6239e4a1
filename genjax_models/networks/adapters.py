"""From flax modules to (init, apply) pairs."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from genjax_models.interfaces import Array, ConditionalNetwork, Key, Network, Params


def from_flax(module: linen.Module, input_shape: tuple[int, ...]) -> Network:
    """A flax (linen) module as an (init, apply) pair.

    Args:
        module: takes one example of `input_shape`; all its variables are parameters.
        input_shape: of one example, without a batch axis.

    Returns:
        `Network(init, apply)`; `apply` raises a `ValueError` unless it is given one example.
    """

    @jax.jit  # Many small operations: several seconds one by one, where a network is deep.
    def init(key: Key) -> Params:
        return module.init(key, jnp.zeros(input_shape))

    def apply(params: Params, inputs: Array) -> Any:
        if jnp.shape(inputs) != input_shape:
            raise ValueError(
                f"inputs must be one example of shape {input_shape}, got {jnp.shape(inputs)}: vmap"
                " over a batch"
            )
        return module.apply(params, inputs)

    return Network(init, apply)


def conditional_from_flax(
    module: linen.Module, input_shape: tuple[int, ...], context_shape: tuple[int, ...]
) -> ConditionalNetwork:
    """A flax (linen) module of two inputs as an (init, apply) pair.

    Args:
        module: takes one example of `input_shape` and its context of `context_shape`; all its
            variables are parameters.
        input_shape: of one example, without a batch axis.
        context_shape: of its context.

    Returns:
        `ConditionalNetwork(init, apply)`.
    """

    @jax.jit  # As above.
    def init(key: Key) -> Params:
        return module.init(key, jnp.zeros(input_shape), jnp.zeros(context_shape))

    def apply(params: Params, inputs: Array, context: Array) -> Any:
        return module.apply(params, inputs, context)

    return ConditionalNetwork(init, apply)
