"""The multilayer perceptron."""

from collections.abc import Callable, Sequence

import jax
from flax import linen

from genjax_models.interfaces import Array, Network
from genjax_models.networks.adapters import from_flax
from genjax_models.networks.rows import rows_dot_general


class MLP(linen.Module):
    """Dense layers with an activation after each but the last.

    Attributes:
        hidden: number of units of each hidden layer.
        num_outputs: number of units of the last layer.
        activation: elementwise function after each hidden layer.
    """

    hidden: tuple[int, ...]
    num_outputs: int
    activation: Callable[[Array], Array] = jax.numpy.tanh

    @linen.compact
    def __call__(self, inputs: Array) -> Array:
        """Outputs [num_outputs] of inputs [num_inputs]."""
        for num_units in self.hidden:
            inputs = self.activation(_dense(num_units)(inputs))
        return _dense(self.num_outputs)(inputs)


def mlp(
    num_inputs: int,
    hidden: Sequence[int],
    num_outputs: int,
    *,
    activation: Callable[[Array], Array] = jax.numpy.tanh,
) -> Network:
    """A multilayer perceptron with Glorot-uniform weights and zero biases.

    Args:
        num_inputs: size of the input vector.
        hidden: number of units of each hidden layer; empty for an affine map.
        num_outputs: size of the output vector.
        activation: elementwise function after each hidden layer.

    Returns:
        `Network(init, apply)` from [num_inputs] to [num_outputs].
    """
    return from_flax(MLP(tuple(hidden), num_outputs, activation), (num_inputs,))


def _dense(num_units: int) -> linen.Dense:
    return linen.Dense(
        num_units,
        kernel_init=linen.initializers.glorot_uniform(),
        dot_general=rows_dot_general,
    )
