"""The variational auto-encoder (Kingma & Welling 2014; Rezende et al. 2014)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from genjax_models.distributions import DiagonalGaussian
from genjax_models.interfaces import Array, Key, LatentVariableModel, Network, Params
from genjax_models.models import likelihoods
from genjax_models.networks import mlp


def vae(
    *,
    num_dims: int = 784,
    latent_dim: int = 50,
    hidden: Sequence[int] = (200, 200),
    likelihood: str = "bernoulli",
    num_levels: int | None = None,
    encoder: Network | None = None,
    decoder: Network | None = None,
) -> LatentVariableModel:
    """A latent-variable model with one Gaussian layer.

        p(z) = N(0, I)
        p(x | z) = likelihood(decoder(z))
        q(z | x) = N(m(x), diag s(x)^2), with (m, log s) = encoder(x)

    Its parameters are a dict with entries "encoder", "decoder" and "likelihood". Trained with
    `learning.bounds.elbo` it is the variational auto-encoder, with `learning.bounds.iwae` the
    importance-weighted one.

    Args:
        num_dims: size of the vector x.
        latent_dim: size of the vector z.
        hidden: units of the encoder's hidden tanh layers; the decoder has them in reverse.
        likelihood: "bernoulli" (x in {0, 1}), "gaussian" (real x, one learned scale) or
            "discretized_logistic" (x = k / (num_levels - 1)).
        num_levels: number of grey levels, for "discretized_logistic".
        encoder: replaces the encoder: any (init, apply) pair from [num_dims] to [2 * latent_dim].
        decoder: replaces the decoder: any pair from [latent_dim] to
            [num_outputs_per_dim * num_dims], where the discretised logistic wants 2 outputs per
            dimension and the others 1.

    Returns:
        The model; x and z are vectors.

    Raises:
        ValueError: a size below one, an unknown likelihood, or a network of the wrong output
            shape (found when `init` runs).

    Source: Kingma & Welling 2014 (Auto-encoding variational Bayes), section 3 and appendix C; the
    default sizes are those of Burda et al. 2016, section 5.
    """
    sizes = {"num_dims": (num_dims,), "latent_dim": (latent_dim,), "hidden": tuple(hidden)}
    for name, values in sizes.items():
        if any(value < 1 for value in values):
            raise ValueError(f"{name} must be at least 1, got {values}")
    observation = likelihoods.by_name(likelihood, num_levels=num_levels)
    num_outputs = observation.num_outputs_per_dim * num_dims
    encoder = Network(*encoder) if encoder else mlp(num_dims, hidden, 2 * latent_dim)
    decoder = Network(*decoder) if decoder else mlp(latent_dim, hidden[::-1], num_outputs)

    def init(key: Key) -> Params:
        encoder_key, decoder_key, likelihood_key = jax.random.split(key, 3)
        params = {
            "encoder": encoder.init(encoder_key),
            "decoder": decoder.init(decoder_key),
            "likelihood": observation.init(likelihood_key),
        }
        _check_outputs("encoder", encoder, params["encoder"], num_dims, 2 * latent_dim)
        _check_outputs("decoder", decoder, params["decoder"], latent_dim, num_outputs)
        return params

    def prior(params: Params) -> DiagonalGaussian:
        return DiagonalGaussian(jnp.zeros(latent_dim), jnp.zeros(latent_dim))

    def conditional(params: Params, z: Array) -> likelihoods.Distribution:
        outputs = decoder.apply(params["decoder"], z)
        return observation.distribution(params["likelihood"], outputs)

    def posterior(params: Params, x: Array) -> DiagonalGaussian:
        loc, log_scale = jnp.split(encoder.apply(params["encoder"], x), 2)
        return DiagonalGaussian(loc, log_scale)

    return LatentVariableModel(init, prior, conditional, posterior)


def _check_outputs(
    name: str, network: Network, params: Params, num_inputs: int, num_outputs: int
) -> None:
    inputs = jax.ShapeDtypeStruct((num_inputs,), jnp.zeros(()).dtype)
    outputs = jax.eval_shape(network.apply, params, inputs)
    shape = jax.tree.map(jnp.shape, outputs)
    if shape != (num_outputs,):
        raise ValueError(
            f"{name} must map [{num_inputs}] to [{num_outputs}], but its outputs have shape {shape}"
        )
