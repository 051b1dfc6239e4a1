"""What latent-variable models are composed of: priors and conditionals with parameters.

A model's prior, likelihood and posterior are each a pair of `init` and `distribution`, so that
any that fit compose. A conditional that leaves its network open takes a `NetworkFactory`: it alone
knows how many outputs it needs.
"""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from genjax_models.checks import check_sizes
from genjax_models.distributions import DiagonalGaussian
from genjax_models.interfaces import (
    Array,
    Distribution,
    Key,
    LatentVariableModel,
    Network,
    Params,
    Posterior,
    PyTree,
)
from genjax_models.models.likelihoods import Likelihood
from genjax_models.networks import with_output_bias

NetworkFactory = Callable[[int], Network]
"""`factory(num_outputs) -> network`, e.g. `lambda num_outputs: mlp(784, (200,), num_outputs)`."""

Drawn = TypeVar("Drawn", bound=Posterior, covariant=True)


class Prior(NamedTuple, Generic[Drawn]):
    """A distribution with parameters.

    Attributes:
        init: `init(key) -> params`.
        distribution: `distribution(params) -> p(z)`.
    """

    init: Callable[[Key], Params]
    distribution: Callable[[Params], Drawn]


class Conditional(NamedTuple, Generic[Drawn]):
    """A conditional distribution with parameters, such as p(x | z) or q(z | x).

    Attributes:
        init: `init(key) -> params`.
        distribution: `distribution(params, inputs) -> p(. | inputs)`.
    """

    init: Callable[[Key], Params]
    distribution: Callable[[Params, PyTree], Drawn]


def compose(
    prior: Prior[Distribution],
    likelihood: Conditional[Distribution],
    posterior: Conditional[Posterior],
) -> LatentVariableModel:
    """The latent-variable model of a prior, a likelihood and a posterior with separate parameters.

    Args:
        prior: p(z).
        likelihood: p(x | z).
        posterior: q(z | x).

    Returns:
        The model; its parameters are {"prior", "likelihood", "posterior"}.
    """

    def init(key: Key) -> Params:
        prior_key, likelihood_key, posterior_key = jax.random.split(key, 3)
        return {
            "prior": prior.init(prior_key),
            "likelihood": likelihood.init(likelihood_key),
            "posterior": posterior.init(posterior_key),
        }

    return LatentVariableModel(
        init,
        lambda params: prior.distribution(params["prior"]),
        lambda params, z: likelihood.distribution(params["likelihood"], z),
        lambda params, x: posterior.distribution(params["posterior"], x),
    )


def standard_normal(latent_dim: int) -> Prior[DiagonalGaussian]:
    """p(z) = N(0, I), without parameters.

    Args:
        latent_dim: size of the vector z.

    Returns:
        The prior.
    """
    check_sizes(latent_dim=latent_dim)

    def distribution(params: Params) -> DiagonalGaussian:
        return DiagonalGaussian(jnp.zeros(latent_dim), jnp.zeros(latent_dim))

    return Prior(lambda key: {}, distribution)


def gaussian(network: Network) -> Conditional[DiagonalGaussian]:
    """N(m(x), diag s(x)^2), with (m, log s) the two halves of the network's outputs.

    Args:
        network: from the inputs to [2 * num_dims].

    Returns:
        The conditional; its parameters are the network's.
    """

    def distribution(params: Params, inputs: Array) -> DiagonalGaussian:
        loc, log_scale = jnp.split(network.apply(params, inputs), 2)
        return DiagonalGaussian(loc, log_scale)

    return Conditional(network.init, distribution)


def decoder(network: Network, observation: Likelihood) -> Conditional[Distribution]:
    """p(x | z) of a network's outputs.

    Args:
        network: from z to [num_outputs_per_dim * num_dims].
        observation: from these outputs to the distribution over x.

    Returns:
        The conditional; its parameters are {"network", "observation"}.
    """

    def init(key: Key) -> Params:
        network_key, observation_key = jax.random.split(key)
        return {
            "network": network.init(network_key),
            "observation": observation.init(observation_key),
        }

    def distribution(params: Params, z: Array) -> Distribution:
        outputs = network.apply(params["network"], z)
        return observation.distribution(params["observation"], outputs)

    return Conditional(init, distribution)


def start_at_mean(params: Params, mean: Array) -> Params:
    """Parameters with which a Bernoulli decoder gives each dimension of x its mean in the data.

    Its last bias becomes log(mean / (1 - mean)). Otherwise the mean is the first thing that is
    learned, at the cost of large gradients in every layer: a two-layer belief net on MNIST lost 27
    nats by it in its first 12 epochs (docs/decisions.md).

    Args:
        params: of a model whose params["likelihood"]["network"] ends in a dense layer of
            num_dims logits.
        mean: of the training examples, [num_dims], in [0, 1]; moved 0.001 away from the ends.

    Returns:
        The parameters; only that bias is new.

    Raises:
        ValueError: a last layer of another size, or none.

    Source: Burda et al. 2016 (IWAE), whose code starts so.
    """
    inside = jnp.clip(mean, 1e-3, 1 - 1e-3)
    likelihood = params["likelihood"]
    network = with_output_bias(likelihood["network"], jnp.log(inside) - jnp.log1p(-inside))
    return params | {"likelihood": likelihood | {"network": network}}


def checked(name: str, network: Network, num_inputs: int, num_outputs: int) -> Network:
    """The network, whose `init` raises a `ValueError` unless it maps vectors of these sizes.

    Args:
        name: of the argument, for the error.
        network: any (init, apply) pair.
        num_inputs: size of its input vector.
        num_outputs: size of its output vector.

    Returns:
        The same network but for `init`.
    """
    network = Network(*network)

    def init(key: Key) -> Params:
        params = network.init(key)
        inputs = jax.ShapeDtypeStruct((num_inputs,), jnp.zeros(()).dtype)
        shape = jax.tree.map(jnp.shape, jax.eval_shape(network.apply, params, inputs))
        if shape != (num_outputs,):
            raise ValueError(
                f"{name} must map [{num_inputs}] to [{num_outputs}], but its outputs have shape"
                f" {shape}"
            )
        return params

    return Network(init, network.apply)
