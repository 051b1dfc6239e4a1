"""The deep latent Gaussian model (Rezende, Mohamed & Wierstra 2014)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from genjax_models.checks import check_sizes
from genjax_models.distributions import Chain, DiagonalGaussian, RankOneGaussian
from genjax_models.interfaces import (
    Array,
    Distribution,
    Key,
    LatentVariableModel,
    Network,
    Params,
)
from genjax_models.models import likelihoods
from genjax_models.models.latent import hierarchies, parts
from genjax_models.networks import mlp


def deep_latent_gaussian_model(
    *,
    num_dims: int = 784,
    latent_dims: Sequence[int] = (40,),
    hidden: Sequence[int] = (400,),
    num_hidden_layers: int = 2,
    activation: hierarchies.Activation = jnp.tanh,
    covariance: str = "rank_one",
    likelihood: str | likelihoods.Likelihood = "bernoulli",
    num_levels: int | None = None,
) -> LatentVariableModel:
    """Independent Gaussian noise enters a network at every layer.

        xi_l ~ N(0, I)
        h_L = G_L xi_L,   h_l = T_l(h_(l+1)) + G_l xi_l
        p(x | xi) = likelihood(T_0(h_1))
        q(xi | x) = prod_l N(xi_l; m_l(x), C_l(x)),   (m_l, C_l) of a network of x for each layer

    The latents are the noises; the layers h are functions of them. G_l is a square matrix that is
    learned, and T_l a multilayer perceptron.

    Args:
        num_dims: size of the vector x.
        latent_dims: sizes of xi_1, ..., xi_L, from the data upwards.
        hidden: units of the hidden layers of T_0, T_1, and so on, and of the network for the
            posterior of xi_1, xi_2, and so on.
        num_hidden_layers: how many hidden layers each has; none makes it affine.
        activation: of the hidden layers.
        covariance: "diagonal", or "rank_one" for C^-1 = D + u u' with D diagonal.
        likelihood: as of `latent.vae`.
        num_levels: as of `latent.vae`.

    Returns:
        The model; x is a vector, z the tuple (xi_L, ..., xi_1) with the top layer in front.

    Raises:
        ValueError: sizes below one, not one size of hidden layers for each layer of latents, or an
            unknown covariance.

    Source: Rezende et al. 2014 (Stochastic backpropagation and approximate inference in deep
    generative models), sections 3 and 4.3 (equations 17 and 18).
    """
    check_sizes(num_dims=num_dims)
    hierarchies.check_layers(latent_dims, hidden, num_hidden_layers)
    if covariance not in ("diagonal", "rank_one"):
        raise ValueError(f'covariance must be "diagonal" or "rank_one", got {covariance!r}')
    observation = likelihoods.resolve(likelihood, num_levels=num_levels)

    def network(num_inputs: int, level: int, num_outputs: int) -> Network:
        units = (hidden[level],) * num_hidden_layers
        return mlp(num_inputs, units, num_outputs, activation=activation)

    levels = range(len(latent_dims))[::-1]
    num_outputs = observation.num_outputs_per_dim * num_dims
    outputs = [network(latent_dims[i], i, latent_dims[i - 1] if i else num_outputs) for i in levels]
    make, num_vectors = (rank_one, 3) if covariance == "rank_one" else (parts.gaussian, 2)
    recognition = [make(network(num_dims, i, num_vectors * latent_dims[i])) for i in levels]
    dims = [latent_dims[i] for i in levels]

    def init_likelihood(key: Key) -> Params:
        noise_key, network_key, observation_key = jax.random.split(key, 3)
        keys = jax.random.split(noise_key, len(dims))
        orthogonal = jax.nn.initializers.orthogonal()
        *layers, network = hierarchies.init_all(outputs, network_key)
        return {
            "noise": tuple(orthogonal(k, (n, n)) for k, n in zip(keys, dims, strict=True)),
            "layers": tuple(layers),
            "network": network,
            "observation": observation.init(observation_key),
        }

    def likelihood_of(params: Params, xi: tuple[Array, ...]) -> Distribution:
        activity: Array = jnp.zeros(())
        networks = (*params["layers"], params["network"])
        layers = zip(params["noise"], xi, outputs, networks, strict=True)
        for noise, xi_layer, output, output_params in layers:
            activity = output.apply(output_params, activity + noise @ xi_layer)
        return observation.distribution(params["observation"], activity)

    def posterior(params: Params, x: Array) -> Chain:
        return hierarchies.independent(
            [r.distribution(p, x) for r, p in zip(recognition, params, strict=True)]
        )

    def prior(params: Params) -> Chain:
        return hierarchies.independent([DiagonalGaussian(jnp.zeros(n), jnp.zeros(n)) for n in dims])

    return parts.compose(
        parts.Prior(lambda key: {}, prior),
        parts.Conditional(init_likelihood, likelihood_of),
        parts.Conditional(lambda key: hierarchies.init_all(recognition, key), posterior),
    )


def rank_one(network: Network) -> parts.Conditional:
    """N(m(x), C(x)) with C^-1 = D + u u', from the network's outputs (m, log D, u).

    Args:
        network: from the inputs to [3 * num_dims].

    Returns:
        The conditional; its parameters are the network's.
    """

    def distribution(params: Params, inputs: Array) -> RankOneGaussian:
        return RankOneGaussian(*jnp.split(network.apply(params, inputs), 3))

    return parts.Conditional(network.init, distribution)
