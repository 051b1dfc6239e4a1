"""A recurrent encoder of sequences, and of images row by row."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen

from genjax_models.checks import check_sizes
from genjax_models.interfaces import Array, Network, Params
from genjax_models.networks.adapters import from_flax


class RecurrentEncoder(linen.Module):
    """A gated recurrent unit over the steps of a sequence, then one dense layer of its last state.

    Attributes:
        example_shape: (num_steps, ...), the length of the sequence and the shape of a step.
        num_units: size of the state, which starts at zero.
        num_outputs: size of the output vector.
    """

    example_shape: tuple[int, ...]
    num_units: int
    num_outputs: int

    @linen.compact
    def __call__(self, inputs: Array) -> Array:
        """Outputs [num_outputs] of a flattened sequence."""
        steps = inputs.reshape(self.example_shape[0], -1)
        start = jnp.zeros(self.num_units, steps.dtype)
        cells = linen.RNN(linen.GRUCell(self.num_units), return_carry=True)
        state, _ = cells(steps, initial_carry=start)
        return linen.Dense(self.num_outputs)(state)


def recurrent_encoder(
    example_shape: Sequence[int], num_outputs: int, *, num_units: int = 128
) -> Network:
    """A gated recurrent unit over a sequence, or over an image row by row, as a vector.

        r = sigmoid(W_r x_t + U_r h + b_r)
        u = sigmoid(W_u x_t + U_u h + b_u)
        n = tanh(W_n x_t + b_n + r * (U_n h + c_n))
        h <- (1 - u) n + u h

    The outputs are an affine map of the state h after the last step; it starts at zero.

    Args:
        example_shape: (num_steps, ...): the length of the sequence, or the height of the image,
            and the shape of one step.
        num_outputs: size of the output vector; 2 * latent_dim for the encoder of `latent.vae`.
        num_units: size of the state.

    Returns:
        `Network(init, apply)` from [prod(example_shape)] to [num_outputs].

    Raises:
        ValueError: the example has no steps, or a size below one.

    Source: Cho et al. 2014 (Learning phrase representations using RNN encoder-decoder), section
    2.3, with the reset gate after the recurrent product.
    """
    shape = tuple(example_shape)
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(
            f"example_shape must be (num_steps, ...) with the shape of a step, got {shape}"
        )
    check_sizes(num_outputs=num_outputs, num_units=num_units)
    module = RecurrentEncoder(shape, num_units, num_outputs)
    network = from_flax(module, (math.prod(shape),))

    def apply(params: Params, inputs: Array) -> Array:
        # The state is in the dtype of the inputs from its start, which must be that of its steps.
        dtype = jnp.result_type(inputs, *jax.tree.leaves(params))
        return network.apply(params, inputs.astype(dtype))

    return Network(network.init, apply)
