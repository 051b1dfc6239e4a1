"""Layers of binary units: the priors and conditionals that belief nets are made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.checks import check_sizes
from genjax_models.distributions import (
    Bernoulli,
    LinearAutoregressiveBernoulli,
    NeuralAutoregressiveBernoulli,
)
from genjax_models.interfaces import Array, Distribution, Key, Network, Params
from genjax_models.models import likelihoods
from genjax_models.models.latent.parts import Conditional, NetworkFactory, Prior, decoder


class Layer(NamedTuple):
    """How the units of a layer depend on each other and on what is above or below them.

    Attributes:
        prior: `prior(num_units) -> p(z)`, of a layer with nothing above it.
        conditional: `conditional(num_units, factory) -> p(z | inputs)`; the factory makes the
            network from the inputs to as many outputs as the layer needs.
    """

    prior: Callable[[int], Prior]
    conditional: Callable[[int, NetworkFactory], Conditional]


def sigmoid() -> Layer:
    """Units that are independent given the layer above: z_d ~ Bernoulli(sigmoid(l_d)).

    Returns:
        The layer; a prior's parameters are {"logits": [num_units]}.
    """

    def prior(num_units: int) -> Prior[Bernoulli]:
        check_sizes(num_units=num_units)
        return Prior(
            lambda key: {"logits": jnp.zeros(num_units)},
            lambda params: Bernoulli(params["logits"]),
        )

    def conditional(num_units: int, factory: NetworkFactory) -> Conditional[Distribution]:
        return decoder(factory(num_units), likelihoods.bernoulli())

    return Layer(prior, conditional)


def autoregressive() -> Layer:
    """Units of which each also sees those before it: z_d ~ Bernoulli(sigmoid(l_d + W_d z_<d)).

    The weights W start at zero, as independent units.

    Returns:
        The layer; a prior's parameters are {"logits": [num_units], "weights": [num_units,
        num_units]}, a conditional's {"network", "observation": {"weights"}}.

    Source: Gregor et al. 2014 (Deep autoregressive networks), section 2.1.
    """

    def prior(num_units: int) -> Prior[LinearAutoregressiveBernoulli]:
        check_sizes(num_units=num_units)
        return Prior(
            lambda key: {"logits": jnp.zeros(num_units)} | weights(num_units),
            lambda params: LinearAutoregressiveBernoulli(**params),
        )

    def conditional(num_units: int, factory: NetworkFactory) -> Conditional[Distribution]:
        def distribution(params: Params, outputs: Array) -> Distribution:
            return LinearAutoregressiveBernoulli(outputs, params["weights"])

        observation = likelihoods.Likelihood(1, lambda key: weights(num_units), distribution)
        return decoder(factory(num_units), observation)

    def weights(num_units: int) -> Params:
        return {"weights": jnp.zeros((num_units, num_units))}

    return Layer(prior, conditional)


def nade(hidden_dim: int) -> Layer:
    """Units with the conditionals of a neural autoregressive distribution estimator.

        z_d ~ Bernoulli(sigmoid(b_d + V_d . sigmoid(c + sum_{j < d} W_j z_j)))

    The biases b and c of a conditional are the network's outputs, W and V its own.

    Args:
        hidden_dim: number of hidden units of each conditional.

    Returns:
        The layer; a prior's parameters are those of `fully_observed.nade`, a conditional's
        {"network", "input_weights", "output_weights"}.

    Raises:
        ValueError: a size below one.

    Source: Bornschein & Bengio 2015 (Reweighted wake-sleep), section 3.
    """
    check_sizes(hidden_dim=hidden_dim)

    def weights(num_units: int, key: Key) -> Params:
        names, keys = ("input_weights", "output_weights"), jax.random.split(key)
        start = jax.nn.initializers.glorot_uniform()
        return {n: start(k, (num_units, hidden_dim)) for n, k in zip(names, keys, strict=True)}

    def prior(num_units: int) -> Prior[NeuralAutoregressiveBernoulli]:
        check_sizes(num_units=num_units)

        def init(key: Key) -> Params:
            biases = {"output_bias": jnp.zeros(num_units), "hidden_bias": jnp.zeros(hidden_dim)}
            return weights(num_units, key) | biases

        return Prior(init, lambda params: NeuralAutoregressiveBernoulli(**params))

    def conditional(
        num_units: int, factory: NetworkFactory
    ) -> Conditional[NeuralAutoregressiveBernoulli]:
        network = factory(num_units + hidden_dim)

        def init(key: Key) -> Params:
            network_key, weights_key = jax.random.split(key)
            return {"network": network.init(network_key)} | weights(num_units, weights_key)

        def distribution(params: Params, inputs: Any) -> NeuralAutoregressiveBernoulli:
            outputs = network.apply(params["network"], inputs)
            return NeuralAutoregressiveBernoulli(
                params["input_weights"],
                params["output_weights"],
                outputs[:num_units],
                outputs[num_units:],
            )

        return Conditional(init, distribution)

    return Layer(prior, conditional)


def centred(network: Network) -> Network:
    """The network, which sees binary inputs as -1 and 1.

    A unit that is off then moves the weights below it as one that is on does.

    Args:
        network: of inputs in {-1, 1}.

    Returns:
        The network of inputs in {0, 1}, with the same parameters.
    """
    # Floats: one less than zero is 255 in bytes.
    return Network(network.init, lambda params, inputs: network.apply(params, 2.0 * inputs - 1.0))
