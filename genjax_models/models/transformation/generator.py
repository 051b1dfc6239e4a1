"""The generator of an adversarial network, and its critic (Goodfellow et al. 2014)."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from genjax_models.checks import check_sizes
from genjax_models.distributions.numerics import sigmoid
from genjax_models.interfaces import Array, ImplicitModel, Key, Network, Params
from genjax_models.networks import mlp

_OUTPUTS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda outputs: outputs,
    "sigmoid": sigmoid,
    "tanh": jnp.tanh,
}


def generator(
    *,
    num_dims: int = 784,
    noise_dim: int = 64,
    hidden: Sequence[int] = (256, 256),
    output: str = "linear",
    network: Network | None = None,
) -> ImplicitModel:
    """A deterministic map of noise: a model that can be sampled but has no density.

        x = output(network(z)),  z ~ N(0, I)

    Its parameters are those of the network.

    Args:
        num_dims: size of the vector x.
        noise_dim: size of the vector z.
        hidden: units of the hidden ReLU layers.
        output: what follows the last layer: "linear" (real x), "sigmoid" (x in [0, 1]) or "tanh"
            (x in [-1, 1]).
        network: replaces the network: any (init, apply) pair from [noise_dim] to [num_dims], e.g.
            `networks.convolutional_decoder`.

    Returns:
        The model; x is a vector.

    Raises:
        ValueError: a size below one, an unknown output, or a network of the wrong output shape
            (found when `init` runs).

    Source: Goodfellow et al. 2014 (Generative adversarial nets), section 3.
    """
    check_sizes(num_dims=(num_dims,), noise_dim=(noise_dim,), hidden=tuple(hidden))
    if output not in _OUTPUTS:
        raise ValueError(f"output must be one of {list(_OUTPUTS)}, got {output!r}")
    squash = _OUTPUTS[output]
    if network is None:
        network = mlp(noise_dim, hidden, num_dims, activation=jax.nn.relu)
    network = Network(*network)

    def init(key: Key) -> Params:
        params = network.init(key)
        _check_outputs("network of the generator", network, params, noise_dim, num_dims)
        return params

    def sample(params: Params, key: Key) -> Array:
        return squash(network.apply(params, jax.random.normal(key, (noise_dim,))))

    return ImplicitModel(init, sample)


def critic(
    *, num_dims: int = 784, hidden: Sequence[int] = (256, 256), network: Network | None = None
) -> Network:
    """The other player: a network from one example to one logit.

    What the logit means is up to the loss: at the optimum of `learning.adversarial.minimax` it is
    log p(x) / q(x), of `learning.adversarial.wasserstein` it is unbounded.

    Args:
        num_dims: size of the vector x.
        hidden: units of the hidden leaky-ReLU layers.
        network: replaces the network: any (init, apply) pair from [num_dims] to [1], e.g.
            `networks.convolutional_encoder`.

    Returns:
        `Network(init, apply)` from [num_dims] to a scalar.

    Raises:
        ValueError: a size below one, or a network of the wrong output shape (found when `init`
            runs).

    Source: Goodfellow et al. 2014 (Generative adversarial nets), section 3.
    """
    check_sizes(num_dims=(num_dims,), hidden=tuple(hidden))
    if network is None:
        network = mlp(num_dims, hidden, 1, activation=leaky_relu)
    network = Network(*network)

    def init(key: Key) -> Params:
        params = network.init(key)
        _check_outputs("network of the critic", network, params, num_dims, 1)
        return params

    def apply(params: Params, x: Array) -> Array:
        return jnp.squeeze(network.apply(params, x), axis=0)

    return Network(init, apply)


def leaky_relu(x: Array) -> Array:
    """max(x, x / 5), elementwise: the critic's gradient never vanishes.

    Args:
        x: any array.

    Returns:
        An array of the same shape.

    Source: Radford et al. 2016 (DCGAN), section 3 (slope 0.2).
    """
    return jax.nn.leaky_relu(x, 0.2)


def _check_outputs(
    name: str, network: Network, params: Params, num_inputs: int, num_outputs: int
) -> None:
    inputs = jax.ShapeDtypeStruct((num_inputs,), jnp.zeros(()).dtype)
    shape = jax.tree.map(jnp.shape, jax.eval_shape(network.apply, params, inputs))
    if shape != (num_outputs,):
        raise ValueError(
            f"the {name} must map [{num_inputs}] to [{num_outputs}],"
            f" but its outputs have shape {shape}"
        )
