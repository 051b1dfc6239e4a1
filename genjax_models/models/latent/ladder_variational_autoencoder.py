"""The ladder variational auto-encoder (Sonderby et al. 2016)."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.tree_util import Partial

from genjax_models.checks import check_sizes
from genjax_models.distributions import Chain, DiagonalGaussian
from genjax_models.interfaces import Array, Key, LatentVariableModel, Network, Params
from genjax_models.models import likelihoods
from genjax_models.models.latent import hierarchies, parts
from genjax_models.networks import mlp


def ladder_vae(
    *,
    num_dims: int = 784,
    latent_dims: Sequence[int] = (64, 32, 16, 8, 4),
    hidden: Sequence[int] = (512, 256, 128, 64, 32),
    num_hidden_layers: int = 2,
    activation: hierarchies.Activation = jax.nn.leaky_relu,
    likelihood: str | likelihoods.Likelihood = "bernoulli",
    num_levels: int | None = None,
) -> LatentVariableModel:
    """A Gaussian hierarchy whose posterior goes down the same ladder as its prior.

        d_0 = x,  d_l = MLP_l(d_(l-1)),  (n_l, log t_l) = affine_l(d_l)
        p(z) = N(z_L; 0, I) prod_l N(z_l; m_l(z_(l+1)), diag s_l(z_(l+1))^2)
        q(z | x) = N(z_L; n_L, diag t_L^2) prod_l N(z_l; .) with the normalised product of
            N(z_l; n_l, diag t_l^2) and p(z_l | z_(l+1))
        p(x | z) = likelihood(decoder(z_1))

    What x says of a layer and what the layer above says of it are weighted by their precisions.
    The paper's networks have batch normalisation, these have none.

    Args:
        num_dims: size of the vector x.
        latent_dims: sizes of z_1, ..., z_L, from the data upwards.
        hidden: units of the hidden layers between x and z_1, z_1 and z_2, and so on.
        num_hidden_layers: how many there are in each of these places, at least one.
        activation: of the hidden layers.
        likelihood: as of `latent.vae`.
        num_levels: as of `latent.vae`.

    Returns:
        The model; x is a vector, z the tuple (z_L, ..., z_1) with the top layer in front.

    Raises:
        ValueError: sizes below one, or not one size of hidden layers for each layer of latents.

    Source: Sonderby et al. 2016 (Ladder variational autoencoders), section 2.2; sizes of section 3.
    """
    check_sizes(num_dims=num_dims, num_hidden_layers=num_hidden_layers)
    hierarchies.check_layers(latent_dims, hidden, num_hidden_layers)
    observation = likelihoods.resolve(likelihood, num_levels=num_levels)

    def network(num_inputs: int, level: int, num_outputs: int) -> Network:
        units = (hidden[level],) * num_hidden_layers
        return mlp(num_inputs, units, num_outputs, activation=activation)

    levels = range(len(latent_dims))
    downwards = [
        parts.gaussian(network(latent_dims[i], i, 2 * latent_dims[i - 1]))
        for i in reversed(levels[1:])
    ]
    num_outputs = observation.num_outputs_per_dim * num_dims
    decoder = parts.decoder(network(latent_dims[0], 0, num_outputs), observation)
    evidence = _evidence(num_dims, latent_dims, hidden, num_hidden_layers, activation)
    ladder = hierarchies.top_down(parts.standard_normal(latent_dims[-1]), downwards)
    observed = hierarchies.of_layers(decoder)

    def init(key: Key) -> Params:
        prior_key, likelihood_key, posterior_key = jax.random.split(key, 3)
        return {
            "prior": ladder.init(prior_key),
            "likelihood": observed.init(likelihood_key),
            "posterior": evidence.init(posterior_key),
        }

    def prior(params: Params) -> Chain:
        return ladder.distribution(params["prior"])

    def posterior(params: Params, x: Array) -> Chain:
        top, *below = evidence.apply(params["posterior"], x)
        conditionals = prior(params).rest
        merged = tuple(
            Partial(_merge, one, conditional)
            for one, conditional in zip(below, conditionals, strict=True)
        )
        return Chain(top, merged)

    return LatentVariableModel(
        init,
        prior,
        lambda params, z: observed.distribution(params["likelihood"], z),
        posterior,
    )


def _merge(evidence: DiagonalGaussian, conditional: Partial, above: tuple) -> DiagonalGaussian:
    return hierarchies.merge(evidence, conditional(above))


def _evidence(
    num_dims: int,
    latent_dims: Sequence[int],
    hidden: Sequence[int],
    num_hidden_layers: int,
    activation: hierarchies.Activation,
) -> Network:
    """What x says of each layer: N(n_L, diag t_L^2), ..., N(n_1, diag t_1^2)."""
    trunks = [
        hierarchies.activated(
            mlp(num_inputs, (units,) * (num_hidden_layers - 1), units, activation=activation),
            activation,
        )
        for num_inputs, units in zip((num_dims, *hidden[:-1]), hidden, strict=True)
    ]
    heads = [
        parts.gaussian(mlp(units, (), 2 * latent_dim))
        for units, latent_dim in zip(hidden, latent_dims, strict=True)
    ]

    def init(key: Key) -> Params:
        trunks_key, heads_key = jax.random.split(key)
        return {
            "trunks": hierarchies.init_all(trunks, trunks_key),
            "heads": hierarchies.init_all(heads, heads_key),
        }

    def apply(params: Params, x: Array) -> Any:
        found = []
        for trunk, trunk_params in zip(trunks, params["trunks"], strict=True):
            x = trunk.apply(trunk_params, x)
            found.append(x)
        layers = zip(heads, params["heads"], found, strict=True)
        return tuple(head.distribution(p, activity) for head, p, activity in layers)[::-1]

    return Network(init, apply)
