"""The masked multilayer perceptron, whose outputs see only the inputs before them."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from flax import linen

from genjax_models.checks import check_sizes
from genjax_models.distributions.rows import rows_dot_general
from genjax_models.interfaces import Array, ConditionalNetwork, Network
from genjax_models.networks.adapters import conditional_from_flax, from_flax


class MaskedDense(linen.Module):
    """A dense layer with some of its weights held at zero.

    Attributes:
        mask: boolean, [num_inputs, num_outputs], False where there is no weight.
        zero: start with weights of zero.
    """

    mask: np.ndarray
    zero: bool = False

    @linen.compact
    def __call__(self, inputs: Array) -> Array:
        """Outputs [num_outputs] of inputs [num_inputs]."""
        initializers = linen.initializers
        kernel_init = initializers.zeros if self.zero else initializers.glorot_uniform()
        kernel = self.param("kernel", kernel_init, self.mask.shape)
        bias = self.param("bias", initializers.zeros, (self.mask.shape[1],))
        return rows_dot_general(inputs, jnp.where(self.mask, kernel, 0)) + bias


class MaskedMLP(linen.Module):
    """Masked dense layers with an activation after each but the last.

    Attributes:
        masks: of each layer, as of `MaskedDense`.
        activation: elementwise function after each layer but the last.
        zero_last_layer: start with outputs of zero.
    """

    masks: tuple[np.ndarray, ...]
    activation: Callable[[Array], Array]
    zero_last_layer: bool

    @linen.compact
    def __call__(self, inputs: Array, context: Array | None = None) -> Array:
        """Outputs of inputs and of a context that all units of the first layer see."""
        last = len(self.masks) - 1
        for index, mask in enumerate(self.masks):
            outputs = MaskedDense(mask, zero=self.zero_last_layer and index == last)(inputs)
            if index == 0 and context is not None:
                joined = linen.Dense(
                    mask.shape[1], use_bias=False, name="context", dot_general=rows_dot_general
                )
                outputs = outputs + joined(context)
            inputs = outputs if index == last else self.activation(outputs)
        return inputs


def masked_mlp(
    num_dims: int,
    hidden: Sequence[int],
    num_outputs_per_dim: int,
    *,
    ordering: Sequence[int] | None = None,
    activation: Callable[[Array], Array] = jnp.tanh,
    zero_last_layer: bool = False,
) -> Network:
    """A multilayer perceptron whose outputs for a dimension see only the dimensions before it.

    Inputs have the degrees 1..D in the ordering, hidden units evenly spaced ones in 1..D-1. A
    hidden unit sees the units of the layer before with a degree up to its own; the outputs for a
    dimension see those with a degree below its own. The Jacobian of each block of outputs is
    strictly lower triangular in the ordering.

    Args:
        num_dims: D, size of the input vector.
        hidden: number of units of each hidden layer; empty for an affine map.
        num_outputs_per_dim: numbers for each dimension.
        ordering: each dimension 0..D-1 once, the first to come first; default: 0, 1, 2, ...
        activation: elementwise function after each hidden layer.
        zero_last_layer: start with weights of zero in the last layer: outputs of zero.

    Returns:
        `Network(init, apply)` from [num_dims] to [num_outputs_per_dim * num_dims], one block of
        num_dims after the other.

    Raises:
        ValueError: a size below one, or an ordering that leaves a dimension out or has one twice.
        TypeError: an ordering that is not of integers.

    Source: Germain et al. 2015 (MADE: masked autoencoder for distribution estimation), section 4.
    """
    masks = _masks(num_dims, hidden, num_outputs_per_dim, ordering, lowest_degree=1)
    return from_flax(MaskedMLP(masks, activation, zero_last_layer), (num_dims,))


def conditional_masked_mlp(
    num_dims: int,
    hidden: Sequence[int],
    num_outputs_per_dim: int,
    *,
    context_dim: int,
    ordering: Sequence[int] | None = None,
    activation: Callable[[Array], Array] = jnp.tanh,
    zero_last_layer: bool = False,
) -> ConditionalNetwork:
    """A `masked_mlp` with a second input that every output may depend on.

    The context is added to the first layer, in which some hidden units have degree 0: they see
    nothing but the context, and are what the outputs for the first dimension see.

    Args:
        num_dims: D, size of the input vector.
        hidden: number of units of each hidden layer; empty for an affine map.
        num_outputs_per_dim: numbers for each dimension.
        context_dim: size of the context vector.
        ordering: each dimension 0..D-1 once, the first to come first; default: 0, 1, 2, ...
        activation: elementwise function after each hidden layer.
        zero_last_layer: start with weights of zero in the last layer: outputs of zero.

    Returns:
        `ConditionalNetwork(init, apply)` from [num_dims] and [context_dim] to
        [num_outputs_per_dim * num_dims], one block of num_dims after the other.

    Raises:
        ValueError: a size below one, or an ordering that leaves a dimension out or has one twice.
        TypeError: an ordering that is not of integers.

    Source: Germain et al. 2015; Kingma et al. 2016 (Improved variational inference with inverse
    autoregressive flow), section 3 (the context).
    """
    check_sizes(context_dim=context_dim)
    masks = _masks(num_dims, hidden, num_outputs_per_dim, ordering, lowest_degree=0)
    module = MaskedMLP(masks, activation, zero_last_layer)
    return conditional_from_flax(module, (num_dims,), (context_dim,))


def _masks(
    num_dims: int,
    hidden: Sequence[int],
    num_outputs_per_dim: int,
    ordering: Sequence[int] | None,
    *,
    lowest_degree: int,
) -> tuple[np.ndarray, ...]:
    """Which unit of each layer sees which of the layer before."""
    check_sizes(num_dims=num_dims, num_outputs_per_dim=num_outputs_per_dim, hidden=tuple(hidden))
    of_inputs = 1 + np.argsort(check_ordering(ordering, num_dims))
    # A single dimension sees nothing, and neither do its hidden units.
    lowest_degree = min(lowest_degree, num_dims - 1)
    num_degrees = num_dims - lowest_degree
    masks, degrees = [], of_inputs
    for num_units in hidden:
        of_units = lowest_degree + np.arange(num_units) * num_degrees // num_units
        masks.append(degrees[:, None] <= of_units)
        degrees = of_units
    masks.append(degrees[:, None] < np.tile(of_inputs, num_outputs_per_dim))
    return tuple(masks)


def check_ordering(ordering: Sequence[int] | None, num_dims: int) -> np.ndarray:
    """The ordering as an array of integers, 0, 1, 2, ... where there is none.

    Args:
        ordering: each dimension once, or None.
        num_dims: how many there are.

    Returns:
        The ordering, [num_dims].

    Raises:
        ValueError: it has not each dimension 0..num_dims - 1 once.
        TypeError: it is not of integers.
    """
    order = np.arange(num_dims) if ordering is None else np.asarray(ordering)
    if not np.issubdtype(order.dtype, np.integer):
        raise TypeError(f"ordering must be of integers, got {order.dtype}")
    if order.ndim != 1 or not np.array_equal(np.sort(order), np.arange(num_dims)):
        raise ValueError(
            f"ordering must have each dimension 0..{num_dims - 1} once,"
            f" got {np.array2string(order, threshold=20)}"
        )
    return order
