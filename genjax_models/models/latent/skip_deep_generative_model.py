"""The skip deep generative model, SDGM, for unlabelled data (Maaloe et al. 2016)."""

from collections.abc import Sequence

import jax.numpy as jnp

from genjax_models.distributions import Reversed
from genjax_models.interfaces import LatentVariableModel, Params, PyTree
from genjax_models.models import likelihoods
from genjax_models.models.latent import auxiliary, hierarchies, parts
from genjax_models.models.latent.auxiliary_variational_auto_encoder import check_auxiliary_dims
from genjax_models.networks import mlp


def skip_deep_generative_model(
    *,
    num_dims: int = 784,
    latent_dims: Sequence[int] = (100,),
    auxiliary_dims: Sequence[int] = (100,),
    hidden: Sequence[int] = (500, 500),
    activation: hierarchies.Activation = jnp.tanh,
    likelihood: str | likelihoods.Likelihood = "bernoulli",
    num_levels: int | None = None,
) -> LatentVariableModel:
    """The auxiliary model with the auxiliary as a latent of its own, between z and x.

        p(x, z, a) = p(z) p(a | z) p(x | z, a)
        q(z, a | x) = q(a | x) q(z | a, x)

    Both skip: x is given z beside a, and z is given x beside a. With more layers the pair
    (z_(l-1), a_(l-1)) takes the place of x for the pair above it,

        p(x, z, a) = p(z_L) p(a_L | z_L) ... p(z_1 | z_2, a_2) p(a_1 | z_1) p(x | z_1, a_1)
        q(z, a | x) = q(a_1 | x) q(z_1 | a_1, x) q(a_2 | z_1, a_1) q(z_2 | a_2, z_1, a_1) ...

    All conditionals but that of x are diagonal Gaussians. The paper writes down one layer.

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
        The model; x is a vector, z the tuple of pairs ((z_L, a_L), ..., (z_1, a_1)).

    Raises:
        ValueError: sizes below one, or not one auxiliary for each layer of latents.

    Source: Maaloe et al. 2016 (Auxiliary deep generative models), without the label.
    """
    check_auxiliary_dims(num_dims, latent_dims, auxiliary_dims, hidden)
    observation = likelihoods.resolve(likelihood, num_levels=num_levels)

    def gaussian(num_inputs: int, num_outputs: int) -> parts.Conditional:
        return parts.gaussian(mlp(num_inputs, hidden, 2 * num_outputs, activation=activation))

    pairs = [*zip(latent_dims, auxiliary_dims, strict=True)]
    sizes = [sum(dims) for dims in pairs]
    recognition = [
        auxiliary.pair(gaussian(below, a), gaussian(a + below, z), skip=True)
        for below, (z, a) in zip([num_dims, *sizes], pairs, strict=False)
    ]
    generation = [
        auxiliary.pair(gaussian(above, z), gaussian(z, a))
        for above, (z, a) in zip(sizes[:0:-1], pairs[-2::-1], strict=True)
    ]
    top, top_auxiliary = pairs[-1]
    num_outputs = observation.num_outputs_per_dim * num_dims
    decoder = parts.decoder(mlp(sizes[0], hidden, num_outputs, activation=activation), observation)
    return parts.compose(
        hierarchies.top_down(
            hierarchies.top_down(parts.standard_normal(top), [gaussian(top, top_auxiliary)]),
            generation,
        ),
        hierarchies.of_layers(hierarchies.of_layers(decoder, skip=True)),
        hierarchies.bottom_up([_upwards(layer) for layer in recognition]),
    )


def _upwards(layer: parts.Conditional) -> parts.Conditional:
    """The layer (a, z), drawn in this order, as a distribution over (z, a)."""

    def distribution(params: Params, below: PyTree) -> Reversed:
        return Reversed(layer.distribution(params, below))

    return parts.Conditional(layer.init, distribution)
