"""The multilayer perceptron."""

from collections.abc import Callable, Sequence

import jax
from flax import linen

from genjax_models.distributions.rows import rows_dot_general
from genjax_models.interfaces import Array, Network, Params
from genjax_models.networks.adapters import from_flax


class MLP(linen.Module):
    """Dense layers with an activation after each but the last.

    Attributes:
        hidden: number of units of each hidden layer.
        num_outputs: number of units of the last layer.
        activation: elementwise function after each hidden layer.
        zero_last_layer: start with outputs of zero.
    """

    hidden: tuple[int, ...]
    num_outputs: int
    activation: Callable[[Array], Array] = jax.numpy.tanh
    zero_last_layer: bool = False

    @linen.compact
    def __call__(self, inputs: Array) -> Array:
        """Outputs [num_outputs] of inputs [num_inputs]."""
        for num_units in self.hidden:
            inputs = self.activation(_dense(num_units)(inputs))
        return _dense(self.num_outputs, zero=self.zero_last_layer)(inputs)


def mlp(
    num_inputs: int,
    hidden: Sequence[int],
    num_outputs: int,
    *,
    activation: Callable[[Array], Array] = jax.numpy.tanh,
    zero_last_layer: bool = False,
) -> Network:
    """A multilayer perceptron with Glorot-uniform weights and zero biases.

    Args:
        num_inputs: size of the input vector.
        hidden: number of units of each hidden layer; empty for an affine map.
        num_outputs: size of the output vector.
        activation: elementwise function after each hidden layer.
        zero_last_layer: start with weights of zero in the last layer: outputs of zero.

    Returns:
        `Network(init, apply)` from [num_inputs] to [num_outputs].
    """
    module = MLP(tuple(hidden), num_outputs, activation, zero_last_layer)
    return from_flax(module, (num_inputs,))


def with_output_bias(params: Params, bias: Array) -> Params:
    """The parameters of an `mlp` with another bias in its last layer.

    Args:
        params: of the network; it may start with other layers, as long as the last one is dense.
        bias: [num_outputs].

    Returns:
        The parameters.

    Raises:
        ValueError: there is no dense layer, or its bias is of another shape.
    """
    names = [name for name in params.get("params", {}) if name.startswith("Dense_")]
    last = max(names, key=lambda name: int(name.split("_")[1]), default="")
    shape = jax.numpy.shape(params["params"][last]["bias"]) if last else None
    if shape != jax.numpy.shape(bias):
        raise ValueError(
            f"bias must be that of a last dense layer, of shape {shape}, got"
            f" {jax.numpy.shape(bias)}"
        )
    layer = params["params"][last] | {"bias": jax.numpy.asarray(bias)}
    return params | {"params": params["params"] | {last: layer}}


def _dense(num_units: int, *, zero: bool = False) -> linen.Dense:
    initializers = linen.initializers
    return linen.Dense(
        num_units,
        kernel_init=initializers.zeros if zero else initializers.glorot_uniform(),
        dot_general=rows_dot_general,
    )
