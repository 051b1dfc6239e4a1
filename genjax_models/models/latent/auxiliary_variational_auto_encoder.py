"""The auxiliary variational auto-encoder, AVAE (Maaloe et al. 2016)."""

from collections.abc import Sequence

import jax.numpy as jnp

from genjax_models.checks import check_sizes
from genjax_models.interfaces import LatentVariableModel
from genjax_models.models import likelihoods
from genjax_models.models.latent import auxiliary, hierarchies, parts
from genjax_models.networks import mlp


def auxiliary_vae(
    *,
    num_dims: int = 784,
    latent_dims: Sequence[int] = (100,),
    auxiliary_dims: Sequence[int] = (100,),
    hidden: Sequence[int] = (500, 500),
    activation: hierarchies.Activation = jnp.tanh,
    likelihood: str | likelihoods.Likelihood = "bernoulli",
    num_levels: int | None = None,
) -> LatentVariableModel:
    """A hierarchy in which an auxiliary variable makes the posterior of each layer a mixture.

        p(x, z) = p(z_L) p(z_(L-1) | z_L) ... p(z_1 | z_2) p(x | z_1)
        q(z, a | x) = prod_l q(a_l | z_(l-1)) q(z_l | a_l, z_(l-1)),   z_0 = x
        p(a | x, z) = prod_l p(a_l | z_l, z_(l-1))

    The auxiliaries leave p(x, z) as it is; the log-probability of a draw of the posterior is
    log q(z, a | x) - log p(a | x, z). All conditionals but p(x | z_1) are diagonal Gaussians. The
    paper writes down one layer; with more, each has an auxiliary of its own.

    Args:
        num_dims: size of the vector x.
        latent_dims: sizes of z_1, ..., z_L, from the data upwards.
        auxiliary_dims: sizes of a_1, ..., a_L.
        hidden: units of the hidden layers of every network.
        activation: of the hidden layers. The paper's are rectifiers; with bounded units no scale,
            an exponential, explodes along the chain of draws.
        likelihood: as of `latent.vae`.
        num_levels: as of `latent.vae`.

    Returns:
        The model; x is a vector, z the tuple (z_L, ..., z_1) with the top layer in front.

    Raises:
        ValueError: sizes below one, or not one auxiliary for each layer of latents.

    Source: Maaloe et al. 2016 (Auxiliary deep generative models), without the label.
    """
    check_auxiliary_dims(num_dims, latent_dims, auxiliary_dims, hidden)
    observation = likelihoods.resolve(likelihood, num_levels=num_levels)

    def gaussian(num_inputs: int, num_outputs: int) -> parts.Conditional:
        return parts.gaussian(mlp(num_inputs, hidden, 2 * num_outputs, activation=activation))

    layers = zip((num_dims, *latent_dims), auxiliary_dims, latent_dims, strict=False)
    posterior = [
        auxiliary.auxiliary(
            mixing=gaussian(below, mixing),
            given=gaussian(mixing + below, latent),
            reverse=gaussian(latent + below, mixing),
        )
        for below, mixing, latent in layers
    ]
    downwards = [*zip(latent_dims[:0:-1], latent_dims[-2::-1], strict=True)]
    num_outputs = observation.num_outputs_per_dim * num_dims
    decoder = mlp(latent_dims[0], hidden, num_outputs, activation=activation)
    return parts.compose(
        hierarchies.top_down(
            parts.standard_normal(latent_dims[-1]), [gaussian(*sizes) for sizes in downwards]
        ),
        hierarchies.of_layers(parts.decoder(decoder, observation)),
        hierarchies.bottom_up(posterior),
    )


def check_auxiliary_dims(
    num_dims: int,
    latent_dims: Sequence[int],
    auxiliary_dims: Sequence[int],
    hidden: Sequence[int],
) -> None:
    """Raise a `ValueError` unless every size is at least one and each layer has an auxiliary."""
    check_sizes(
        num_dims=num_dims,
        latent_dims=tuple(latent_dims),
        auxiliary_dims=tuple(auxiliary_dims),
        hidden=tuple(hidden),
    )
    if len(latent_dims) == 0 or len(latent_dims) != len(auxiliary_dims):
        raise ValueError(
            "auxiliary_dims must have one size for each layer of latents: got"
            f" {tuple(auxiliary_dims)} for latent_dims {tuple(latent_dims)}"
        )
