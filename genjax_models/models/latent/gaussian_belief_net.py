"""The nonlinear Gaussian belief net, the hierarchy of the two-layer VAE and IWAE."""

from collections.abc import Sequence

import jax.numpy as jnp

from genjax_models.checks import check_sizes
from genjax_models.interfaces import LatentVariableModel
from genjax_models.models import likelihoods
from genjax_models.models.latent import hierarchies, parts
from genjax_models.networks import mlp


def gaussian_belief_net(
    *,
    num_dims: int = 784,
    latent_dims: Sequence[int] = (100, 50),
    hidden: Sequence[int] = (200, 100),
    num_hidden_layers: int = 2,
    activation: hierarchies.Activation = jnp.tanh,
    skip: bool = False,
    likelihood: str | likelihoods.Likelihood = "bernoulli",
    num_levels: int | None = None,
) -> LatentVariableModel:
    """Gaussian layers z_1, ..., z_L, each the mean and scale of a network of the one above it.

        p(z) = N(z_L; 0, I) prod_l N(z_l; m_l(z_(l+1)), diag s_l(z_(l+1))^2)
        p(x | z) = likelihood(decoder(z_1))
        q(z | x) = N(z_1; n_1(x), diag t_1(x)^2) prod_l N(z_l; n_l(z_(l-1)), diag t_l(z_(l-1))^2)

    The posterior goes upwards from the data. With one layer it is `latent.vae`; with the default
    two it is the two-layer VAE (`learning.bounds.elbo`) or IWAE (`learning.bounds.iwae`).

    Args:
        num_dims: size of the vector x.
        latent_dims: sizes of z_1, ..., z_L, from the data upwards.
        hidden: units of the hidden layers between x and z_1, z_1 and z_2, and so on.
        num_hidden_layers: how many hidden layers there are in each of these places; none makes
            every map affine.
        activation: of the hidden layers.
        skip: whether p(z_l | .) and p(x | .) are given all layers above rather than the next one.
        likelihood: as of `latent.vae`.
        num_levels: as of `latent.vae`.

    Returns:
        The model; x is a vector, z the tuple (z_L, ..., z_1) with the top layer in front.

    Raises:
        ValueError: sizes below one, or not one size of hidden layers for each layer of latents.

    Source: Frey & Hinton 1999 (Variational learning in nonlinear Gaussian belief networks);
    Burda et al. 2016 (IWAE), section 5 and equation 2, of which the default sizes are.
    """
    check_sizes(num_dims=num_dims)
    hierarchies.check_layers(latent_dims, hidden, num_hidden_layers)
    observation = likelihoods.resolve(likelihood, num_levels=num_levels)
    sizes = (num_dims, *latent_dims)

    def network(num_inputs: int, level: int, num_outputs: int) -> parts.Network:
        units = (hidden[level],) * num_hidden_layers
        return mlp(num_inputs, units, num_outputs, activation=activation)

    def num_inputs_from_above(level: int) -> int:
        return sum(latent_dims[level:]) if skip else latent_dims[level]

    levels = range(len(latent_dims))
    upwards = [parts.gaussian(network(sizes[i], i, 2 * sizes[i + 1])) for i in levels]
    downwards = [
        parts.gaussian(network(num_inputs_from_above(i), i, 2 * sizes[i]))
        for i in reversed(levels[1:])
    ]
    num_outputs = observation.num_outputs_per_dim * num_dims
    decoder = parts.decoder(network(num_inputs_from_above(0), 0, num_outputs), observation)
    return parts.compose(
        hierarchies.top_down(parts.standard_normal(latent_dims[-1]), downwards, skip=skip),
        hierarchies.of_layers(decoder, skip=skip),
        hierarchies.bottom_up(upwards),
    )
