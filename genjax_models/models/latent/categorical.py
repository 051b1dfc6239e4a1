"""Parts of models whose z is a matrix of one-hot rows, [num_variables, num_categories]."""

import jax.numpy as jnp

from genjax_models.checks import check_sizes
from genjax_models.distributions import LinearAutoregressiveOneHot, OneHotCategorical
from genjax_models.interfaces import Array, Network, Params
from genjax_models.models.latent.parts import Conditional, NetworkFactory, Prior


def uniform(num_variables: int, num_categories: int) -> Prior[OneHotCategorical]:
    """p(z) = num_categories^-num_variables, without parameters.

    Args:
        num_variables: rows of z.
        num_categories: columns of z.

    Returns:
        The prior.

    Raises:
        ValueError: a size below one.
    """
    check_sizes(num_variables=num_variables, num_categories=num_categories)
    shape = (num_variables, num_categories)
    return Prior(lambda key: {}, lambda params: OneHotCategorical(jnp.zeros(shape)))


def independent(num_variables: int, num_categories: int) -> Prior[OneHotCategorical]:
    """p(z) = prod_m softmax(a_m), with logits a that are learned and start at zero.

    Args:
        num_variables: rows of z.
        num_categories: columns of z.

    Returns:
        The prior; its parameters are {"logits": [num_variables, num_categories]}.

    Raises:
        ValueError: a size below one.
    """
    check_sizes(num_variables=num_variables, num_categories=num_categories)
    shape = (num_variables, num_categories)
    return Prior(
        lambda key: {"logits": jnp.zeros(shape)}, lambda params: OneHotCategorical(**params)
    )


def autoregressive(num_variables: int, num_categories: int) -> Prior[LinearAutoregressiveOneHot]:
    """p(z) = prod_m softmax(a_m + sum_{n < m} W_mn z_n), learned from a uniform start.

    A draw takes the rows one after the other. Its KL divergence has no closed form.

    Args:
        num_variables: M, rows of z.
        num_categories: C, columns of z.

    Returns:
        The prior; its parameters are {"logits": [M, C], "weights": [M, C, M, C]}.

    Raises:
        ValueError: a size below one.

    Source: see `distributions.LinearAutoregressiveOneHot`.
    """
    check_sizes(num_variables=num_variables, num_categories=num_categories)
    shape = (num_variables, num_categories)
    return Prior(
        lambda key: {"logits": jnp.zeros(shape), "weights": jnp.zeros(shape + shape)},
        lambda params: LinearAutoregressiveOneHot(**params),
    )


def posterior(
    encoder: NetworkFactory, num_variables: int, num_categories: int
) -> Conditional[OneHotCategorical]:
    """q(z | x) = prod_m softmax(a_m(x)), with logits a of a network.

    Args:
        encoder: `encoder(num_outputs)`, the network from x to [num_outputs].
        num_variables: rows of z.
        num_categories: columns of z.

    Returns:
        The conditional; its parameters are the network's.

    Raises:
        ValueError: a size below one.
    """
    check_sizes(num_variables=num_variables, num_categories=num_categories)
    network = encoder(num_variables * num_categories)

    def distribution(params: Params, x: Array) -> OneHotCategorical:
        outputs = network.apply(params, x)
        return OneHotCategorical(outputs.reshape(num_variables, num_categories))

    return Conditional(network.init, distribution)


def flattening(network: Network, num_rows: int, num_columns: int) -> Network:
    """The network as a function of a matrix, whose rows it sees one after the other.

    Args:
        network: of a vector.
        num_rows: of the matrix.
        num_columns: of the matrix.

    Returns:
        The same parameters, with inputs [num_rows, num_columns]; another shape is a `ValueError`.
    """
    shape = (num_rows, num_columns)

    def apply(params: Params, z: Array) -> Array:
        if jnp.shape(z) != shape:
            raise ValueError(f"z must have shape {shape}, got {jnp.shape(z)}")
        return network.apply(params, jnp.reshape(z, -1))

    return Network(network.init, apply)
