"""Parts of models with several layers of latents, z = (z_L, ..., z_1), the top layer in front."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from genjax_models.checks import check_counts, check_sizes
from genjax_models.distributions import Chain, DiagonalGaussian, Reversed
from genjax_models.distributions.numerics import softplus
from genjax_models.interfaces import Array, Distribution, Key, Network, Params
from genjax_models.models.latent.parts import Conditional, Prior

Activation = Callable[[Array], Array]


def bottom_up(layers: Sequence[Conditional]) -> Conditional[Reversed]:
    """q(z_1 | x) q(z_2 | z_1) ... q(z_L | z_(L-1)).

    Args:
        layers: of each layer of latents, the lowest first.

    Returns:
        The posterior over (z_L, ..., z_1); its parameters are a tuple of theirs.
    """
    first, *rest = layers
    given = [_given_last(layer) for layer in rest]

    def distribution(params: Params, x: Array) -> Reversed:
        conditionals = tuple(Partial(f, p) for f, p in zip(given, params[1:], strict=True))
        return Reversed(Chain(first.distribution(params[0], x), conditionals))

    return Conditional(lambda key: init_all(layers, key), distribution)


def top_down(
    top: Prior[Distribution], layers: Sequence[Conditional], *, skip: bool = False
) -> Prior[Chain]:
    """p(z_L) p(z_(L-1) | z_L) ... p(z_1 | z_2), or each layer given all above it.

    Args:
        top: p(z_L).
        layers: of each further layer, from the second highest down.
        skip: whether a layer is given the concatenation of all above it (z_L in front) rather than
            the last one.

    Returns:
        The prior over (z_L, ..., z_1); its parameters are {"top", "layers"}.
    """
    given = [_given_all(layer) if skip else _given_last(layer) for layer in layers]

    def init(key: Key) -> Params:
        top_key, layers_key = jax.random.split(key)
        return {"top": top.init(top_key), "layers": init_all(layers, layers_key)}

    def distribution(params: Params) -> Chain:
        conditionals = tuple(Partial(f, p) for f, p in zip(given, params["layers"], strict=True))
        return Chain(top.distribution(params["top"]), conditionals)

    return Prior(init, distribution)


def of_layers(conditional: Conditional, *, skip: bool = False) -> Conditional:
    """p(x | z_1), or p(x | z_L, ..., z_1), from a conditional distribution of one vector.

    Args:
        conditional: given z_1, or the concatenation of all layers (z_L in front).
        skip: whether it is given all layers.

    Returns:
        The likelihood given the tuple of layers; its parameters are the conditional's.
    """
    given = _given_all(conditional) if skip else _given_last(conditional)
    return Conditional(conditional.init, given)


def independent(layers: Sequence[Distribution]) -> Chain:
    """Layers that do not depend on each other, as a chain.

    Args:
        layers: their distributions, the top one in front.

    Returns:
        The chain.
    """
    return Chain(layers[0], tuple(Partial(_constant, layer) for layer in layers[1:]))


def merge(evidence: DiagonalGaussian, prior: DiagonalGaussian) -> DiagonalGaussian:
    """The normalised product of two Gaussian densities: means weighted by their precisions.

        1/s^2 = 1/s_e^2 + 1/s_p^2,   m = s^2 (m_e / s_e^2 + m_p / s_p^2)

    Args:
        evidence: N(m_e, diag s_e^2), e.g. what the data say of a layer.
        prior: N(m_p, diag s_p^2), e.g. what the layer above says of it.

    Returns:
        N(m, diag s^2); nothing overflows where one of the scales is extreme.

    Source: Sonderby et al. 2016 (Ladder variational autoencoders), equations 16 and 17.
    """
    log_ratio = 2 * (prior.log_scale - evidence.log_scale)
    loc = prior.loc + jax.nn.sigmoid(log_ratio) * (evidence.loc - prior.loc)
    return DiagonalGaussian(loc, prior.log_scale - 0.5 * softplus(log_ratio))


def check_layers(latent_dims: Sequence[int], hidden: Sequence[int], num_hidden_layers: int) -> None:
    """Raise a `ValueError` unless there is one size of hidden layers for each layer of latents.

    Args:
        latent_dims: sizes of the layers of latents.
        hidden: units of the hidden layers below each of them.
        num_hidden_layers: how many hidden layers there are in each of these places.
    """
    for name, sizes in {"latent_dims": latent_dims, "hidden": hidden}.items():
        if not hasattr(sizes, "__len__"):
            raise ValueError(f"{name} must have one size for each layer of latents, got {sizes!r}")
        check_sizes(**{name: tuple(sizes)})
    check_counts(num_hidden_layers=num_hidden_layers)
    if len(latent_dims) == 0 or len(hidden) != len(latent_dims):
        raise ValueError(
            "hidden must have one number of units for each layer of latents: got"
            f" {len(tuple(hidden))}, {tuple(hidden)}, for latent_dims {tuple(latent_dims)}"
        )


def activated(network: Network, activation: Activation) -> Network:
    """The network with an activation after its last layer.

    Args:
        network: any.
        activation: elementwise.

    Returns:
        The network, with the same parameters.
    """
    return Network(network.init, lambda params, inputs: activation(network.apply(params, inputs)))


def init_all(layers: Sequence[Conditional | Network], key: Key) -> Params:
    """The parameters of every layer.

    Args:
        layers: conditionals or networks.
        key: PRNG key.

    Returns:
        A tuple of theirs.
    """
    keys = jax.random.split(key, len(layers)) if layers else ()
    return tuple(layer.init(key) for layer, key in zip(layers, keys, strict=True))


def _given_last(layer: Conditional) -> Callable[[Params, tuple[Array, ...]], Distribution]:
    return lambda params, previous: layer.distribution(params, previous[-1])


def _given_all(layer: Conditional) -> Callable[[Params, tuple[Array, ...]], Distribution]:
    return lambda params, previous: layer.distribution(params, jnp.concatenate(previous))


def _constant(layer: Distribution, previous: tuple[Array, ...]) -> Distribution:
    return layer
