"""Difference target propagation: layers that learn from targets of their own, without backprop.

A network is a chain of layers h_i = f_i(h_{i-1}), i = 1..M, with h_0 its inputs. Learned inverses
g_i carry what the layer i should have been back to the layer below.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.distributions.numerics import at_least_float32, sum_event
from genjax_models.interfaces import Array, Key, Metrics, Network, Objective, Params, PyTree
from genjax_models.learning.first_order import gradient_of


class LayeredNetwork(NamedTuple):
    """A feed-forward network as a chain of layers, with inverses of those in the middle.

    Attributes:
        init: `init(key) -> {"layers": [params], "inverses": [params]}`.
        layers: f_1, ..., f_M.
        inverses: g_2, ..., g_{M-1}, each from the outputs of f_i to its inputs. The first layer
            needs none, and what the last one passes down is a gradient.
    """

    init: Callable[[Key], Params]
    layers: tuple[Network, ...]
    inverses: tuple[Network, ...]

    def apply(self, params: Params, inputs: Array) -> Array:
        """Outputs of the last layer, of one example."""
        return hidden_states(self, params, inputs)[-1]


def layered_network(layers: Sequence[Network], inverses: Sequence[Network]) -> LayeredNetwork:
    """A chain of layers with inverses of all but the first and the last.

    Args:
        layers: f_1, ..., f_M, two at least; each takes the outputs of the one before.
        inverses: g_2, ..., g_{M-1}, in the order of the layers.

    Returns:
        The network.

    Raises:
        ValueError: fewer than two layers, or another number of inverses than M - 2; from the
            objective: an inverse whose outputs have another shape than the inputs of its layer.
    """
    if len(layers) < 2:
        raise ValueError(f"layers must be at least 2, got {len(layers)}")
    if len(inverses) != len(layers) - 2:
        raise ValueError(
            f"inverses must be of all layers but the first and the last, {len(layers) - 2} of them,"
            f" got {len(inverses)}"
        )
    chain = tuple(Network(*layer) for layer in layers)
    back = tuple(Network(*inverse) for inverse in inverses)

    def init(key: Key) -> Params:
        layer_key, inverse_key = jax.random.split(key)
        return {
            "layers": [f.init(k) for f, k in zip(chain, _split(layer_key, chain), strict=True)],
            "inverses": [g.init(k) for g, k in zip(back, _split(inverse_key, back), strict=True)],
        }

    return LayeredNetwork(init, chain, back)


def difference_target_propagation(
    network: LayeredNetwork,
    loss: Callable[[Array, PyTree], Array],
    *,
    step_size: float = 0.1,
    noise_scale: float = 0.1,
    difference: bool = True,
    inputs: Callable[[PyTree], Array] = lambda x: x,
) -> Objective:
    """Every layer learns to hit a target that the inverse of the layer above has set.

        t_{M-1} = h_{M-1} - step_size * dL/dh_{M-1}
        t_{i-1} = g_i(t_i) + h_{i-1} - g_i(h_i),  i = M-1, ..., 2

    The last layer descends on the global loss L; each other one on ||f_i(h_{i-1}) - t_i||^2 / 2
    over the step size; each inverse on ||g_i(f_i(h')) - h'||^2 / 2, with h' = h_{i-1} + noise. No
    gradient passes from one layer to another. Where the layers are linear and the inverses exact,
    t_i - h_i is -step_size (J'J)^-1 times the gradient that backprop has there, with J the Jacobian
    from h_i to h_{M-1}: a step of Gauss and Newton. Where their matrices are orthogonal, too, the
    gradient is backprop's.

    Args:
        network: layers and inverses.
        loss: `loss(outputs, x) -> []`, the global loss L of one example.
        step_size: of the first target. The layers' losses are over it, so that the size of their
            gradients does not depend on it.
        noise_scale: standard deviation of the noise that the inverses learn at.
        difference: with the correction h_{i-1} - g_i(h_i); without it, target propagation, where
            an inverse that is not exact moves the target of a layer that has nothing to learn.
        inputs: what of x the network sees, h_0; all of it by default.

    Returns:
        `objective(params, key, x) -> (loss, metrics)`: the value is L, the gradient the update of
        every layer and inverse. Metrics: "layer_loss" and "inverse_loss", sums of the squared
        distances above, halved, before the division by the step size.

    Raises:
        ValueError: a step size that is not above zero, or a negative noise scale.

    Source: Lee et al. 2015 (Difference target propagation), equations 9 to 15 and algorithm 1.
    """
    if not 0 < step_size < math.inf:
        raise ValueError(f"step_size must be finite and above zero, got {step_size}")
    if not 0 <= noise_scale < math.inf:
        raise ValueError(f"noise_scale must be finite and not negative, got {noise_scale}")

    def objective(params: Params, key: Key, x: PyTree) -> tuple[Array, Metrics]:
        fixed = jax.lax.stop_gradient(params)
        hidden = hidden_states(network, fixed, inputs(x))
        _check_inverses(network, fixed, hidden)

        def global_loss(layer_params: Params, below: Array) -> Array:
            return loss(network.layers[-1].apply(layer_params, below), x)

        value = global_loss(params["layers"][-1], hidden[-2])
        step = -step_size * jax.grad(global_loss, 1)(fixed["layers"][-1], hidden[-2])
        targets = _targets(network, fixed, hidden, hidden[-2] + step, difference)
        layer_loss = _layer_loss(network, params, hidden, targets)
        inverse_loss = _inverse_loss(network, params, hidden, key, noise_scale)
        value = value + gradient_of(layer_loss / step_size) + gradient_of(inverse_loss)
        metrics = {"layer_loss": layer_loss, "inverse_loss": inverse_loss}
        return value, jax.lax.stop_gradient(metrics)

    return objective


def hidden_states(network: LayeredNetwork, params: Params, inputs: Array) -> list[Array]:
    """The inputs and the outputs of every layer, h_0, ..., h_M."""
    hidden = [inputs]
    for layer, layer_params in zip(network.layers, params["layers"], strict=True):
        hidden.append(layer.apply(layer_params, hidden[-1]))
    return hidden


def _targets(
    network: LayeredNetwork, params: Params, hidden: list[Array], top: Array, difference: bool
) -> list[Array]:
    """t_1, ..., t_{M-1}."""
    targets = [top]
    for index in reversed(range(len(network.inverses))):
        inverse, inverse_params = network.inverses[index], params["inverses"][index]
        below, above = hidden[index + 1], hidden[index + 2]
        target = inverse.apply(inverse_params, targets[0])
        if difference:
            target = target + below - inverse.apply(inverse_params, above)
        targets.insert(0, target)
    return targets


def _layer_loss(
    network: LayeredNetwork, params: Params, hidden: list[Array], targets: list[Array]
) -> Array:
    """Of all layers but the last."""
    parts = zip(network.layers[:-1], params["layers"][:-1], hidden[:-2], targets, strict=True)
    return _total(
        _half_distance(layer.apply(layer_params, below), target)
        for layer, layer_params, below, target in parts
    )


def _inverse_loss(
    network: LayeredNetwork, params: Params, hidden: list[Array], key: Key, noise_scale: float
) -> Array:
    parts = zip(
        network.layers[1:-1],
        jax.lax.stop_gradient(params["layers"][1:-1]),
        network.inverses,
        params["inverses"],
        hidden[1:-2],
        _split(key, network.inverses),
        strict=True,
    )

    def of_one(
        layer: Network,
        layer_params: Params,
        inverse: Network,
        inverse_params: Params,
        below: Array,
        noise_key: Key,
    ) -> Array:
        noise = jax.random.normal(noise_key, below.shape, at_least_float32(below).dtype)
        noisy = (below + noise_scale * noise).astype(below.dtype)
        return _half_distance(
            inverse.apply(inverse_params, layer.apply(layer_params, noisy)), noisy
        )

    return _total(of_one(*part) for part in parts)


def _half_distance(outputs: Array, target: Array) -> Array:
    return 0.5 * sum_event(jnp.square(at_least_float32(outputs) - target))


def _total(terms: Iterable[Array]) -> Array:
    return sum(terms, jnp.zeros(()))


def _split(key: Key, networks: Sequence[Network]) -> list[Key]:
    return list(jax.random.split(key, len(networks))) if networks else []


def _check_inverses(network: LayeredNetwork, params: Params, hidden: list[Array]) -> None:
    for index, (inverse, inverse_params) in enumerate(
        zip(network.inverses, params["inverses"], strict=True)
    ):
        below, above = hidden[index + 1], hidden[index + 2]
        shape = jax.tree.map(jnp.shape, jax.eval_shape(inverse.apply, inverse_params, above))
        if shape != below.shape:
            raise ValueError(
                f"inverses[{index}] must map {above.shape} to {below.shape}, what layers"
                f"[{index + 1}] takes, but its outputs have shape {shape}"
            )
