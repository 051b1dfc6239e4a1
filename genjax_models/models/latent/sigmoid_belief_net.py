"""Belief nets of binary units, with a recognition network (the Helmholtz machine)."""

import functools
from collections.abc import Sequence
from typing import Literal, get_args

import jax.numpy as jnp

from genjax_models.checks import check_sizes
from genjax_models.interfaces import LatentVariableModel, Network
from genjax_models.models.latent import binary, hierarchies, parts
from genjax_models.networks import mlp

LayerName = Literal["sigmoid", "autoregressive", "nade"]


def sigmoid_belief_net(
    *,
    num_dims: int = 784,
    latent_dims: Sequence[int] = (200,),
    hidden: Sequence[int] = (),
    generative: LayerName = "sigmoid",
    recognition: LayerName = "sigmoid",
    nade_dim: int = 200,
    activation: hierarchies.Activation = jnp.tanh,
) -> LatentVariableModel:
    """Layers z_1, ..., z_L of binary units above binary data, and their recognition.

        p(z) = p(z_L) prod_l p(z_l | z_(l+1)),   p(x | z) = p(x | z_1)
        q(z | x) = q(z_1 | x) prod_l q(z_l | z_(l-1))

    The units of a "sigmoid" layer are independent given its neighbour, those of an
    "autoregressive" one are a logistic regression on those before them as well, and those of a
    "nade" layer a network with one hidden layer (`latent.binary`). Trained by wake-sleep
    (`learning.variational(model, estimator="wake_sleep")`) this is the Helmholtz machine, by
    "reweighted_wake_sleep" the model of Bornschein & Bengio; the bound is a free energy, negated.

    Args:
        num_dims: size of the vector x, of zeros and ones.
        latent_dims: sizes of z_1, ..., z_L, from the data upwards.
        hidden: units of the hidden layers of the network between any two layers, the same for
            all; none makes its logits affine (the linear belief net).
        generative: kind of all layers of p, that of x included.
        recognition: kind of all layers of q.
        nade_dim: hidden units of each "nade" layer.
        activation: of the hidden layers.

    Returns:
        The model; z is the tuple (z_L, ..., z_1).

    Raises:
        ValueError: a size below one, no layer, or an unknown kind.

    Source: Neal 1992 (belief nets); Dayan et al. 1995 (The Helmholtz machine); Mnih & Gregor 2014
    (NVIL), section 5, of which the sizes are; Bornschein & Bengio 2015 (the kinds of layers).
    """
    latent_dims, hidden = tuple(latent_dims), tuple(hidden)
    check_sizes(num_dims=num_dims, latent_dims=latent_dims, hidden=hidden)
    if not latent_dims:
        raise ValueError("latent_dims must have at least one layer, got ()")
    p, q = (
        _kind(name, value, nade_dim)
        for name, value in (("generative", generative), ("recognition", recognition))
    )
    sizes = (num_dims, *latent_dims)

    def network(num_inputs: int, num_outputs: int) -> Network:
        return binary.centred(mlp(num_inputs, hidden, num_outputs, activation=activation))

    def between(layer: binary.Layer, num_inputs: int, num_units: int) -> parts.Conditional:
        return layer.conditional(num_units, functools.partial(network, num_inputs))

    levels = range(len(latent_dims))
    upwards = [between(q, sizes[i], sizes[i + 1]) for i in levels]
    downwards = [between(p, sizes[i + 1], sizes[i]) for i in reversed(levels)]
    return parts.compose(
        hierarchies.top_down(p.prior(latent_dims[-1]), downwards[:-1]),
        hierarchies.of_layers(downwards[-1]),
        hierarchies.bottom_up(upwards),
    )


def _kind(argument: str, name: str, nade_dim: int) -> binary.Layer:
    if name == "sigmoid":
        return binary.sigmoid()
    if name == "autoregressive":
        return binary.autoregressive()
    if name == "nade":
        return binary.nade(nade_dim)
    raise ValueError(f"{argument} must be one of {list(get_args(LayerName))}, got {name!r}")
