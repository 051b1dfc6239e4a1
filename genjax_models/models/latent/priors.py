"""Priors p(z) that are learned, for `latent.vae` and its relatives."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from genjax_models.checks import check_counts, check_sizes
from genjax_models.distributions import DiagonalGaussian, GaussianMixture, Pullback
from genjax_models.distributions.numerics import at_least_float32, promoted
from genjax_models.interfaces import Array, Key, Network, Params
from genjax_models.models.latent.parts import Prior
from genjax_models.networks import masked_mlp

_MAX_LOG_SCALE = 2.0


def gaussian_mixture(latent_dim: int, num_components: int) -> Prior:
    """p(z) = sum_k softmax(a)_k N(z; m_k, diag s_k^2), all of it learned.

    The components start with equal weights, means drawn from N(0, I/2) and variances of 1/2, so
    that the mixture has the mean and variance of N(0, I). Scales far below their distances from
    each other cost float32 its precision: see `distributions.GaussianMixture`.

    Args:
        latent_dim: size of the vector z.
        num_components: K.

    Returns:
        The prior; its parameters are {"logits": [K], "loc", "log_scale": [K, latent_dim]}. Its
        gradients for the parameters are those of log p(z); a draw has none.

    Raises:
        ValueError: a size below one.

    Source: the baseline "MoG" of Tomczak & Welling 2018 (VAE with a VampPrior), section 4.
    """
    check_sizes(latent_dim=latent_dim, num_components=num_components)

    def init(key: Key) -> Params:
        shape = (num_components, latent_dim)
        return {
            "logits": jnp.zeros(num_components),
            "loc": jax.random.normal(key, shape) * 0.5**0.5,
            "log_scale": jnp.full(shape, 0.5 * math.log(0.5), float),
        }

    return Prior(init, lambda params: GaussianMixture(**params))


def autoregressive_flow(
    latent_dim: int, *, num_flows: int = 2, hidden: Sequence[int] = (200,)
) -> Prior:
    """p(z) of a chain of autoregressive flows, each of which standardises z given what is before.

    Of every flow, from z towards the noise, with c = 2:

        e_i = (z_i - m_i(z_<i)) exp(-s_i(z_<i)),   |s_i| = |c tanh(r_i / c)| < c
        log p(z) = log N(e; 0, I) - sum_flows sum_i s_i

    (m, r) are the outputs of a masked network, and the order of the dimensions is reversed between
    flows. The density takes one pass of each network; a draw takes latent_dim passes, one after the
    other. The networks' last layers start at zero, and the prior so at N(0, I).

    Args:
        latent_dim: size of the vector z.
        num_flows: number of flows; 0 gives N(0, I).
        hidden: units of the hidden layers of each flow's network.

    Returns:
        The prior; its parameters are the networks', with a leading axis [num_flows].

    Raises:
        ValueError: a size below one, or a negative number of flows.

    Source: Chen et al. 2017 (Variational lossy autoencoder), section 3.2; Papamakarios et al. 2017
    (Masked autoregressive flow), section 3.
    """
    check_sizes(latent_dim=latent_dim, hidden=tuple(hidden))
    check_counts(num_flows=num_flows)
    network = masked_mlp(latent_dim, hidden, 2, zero_last_layer=True)

    def init(key: Key) -> Params:
        return jax.vmap(network.init)(jax.random.split(key, num_flows)) if num_flows else {}

    def standardize(params: Params, z: Array) -> tuple[Array, Array]:
        def flow(z: Array, params: Params) -> tuple[Array, Array]:
            loc, log_scale = _location_and_scale(network, params, z)
            return ((z - loc) * jnp.exp(-log_scale))[::-1], -jnp.sum(log_scale)

        noise, log_dets = jax.lax.scan(flow, promoted(z, params), params)
        return noise, jnp.sum(log_dets)

    def generate(params: Params, noise: Array) -> Array:
        def inverse_flow(noise: Array, params: Params) -> tuple[Array, None]:
            return _solve(network, params, noise[::-1]), None

        return jax.lax.scan(inverse_flow, promoted(noise, params), params, reverse=True)[0]

    def distribution(params: Params) -> Pullback | DiagonalGaussian:
        base = DiagonalGaussian(jnp.zeros(latent_dim), jnp.zeros(latent_dim))
        if num_flows == 0:
            return base
        partial = jax.tree_util.Partial
        return Pullback(base, partial(standardize, params), partial(generate, params))

    return Prior(init, distribution)


def _location_and_scale(network: Network, params: Params, z: Array) -> tuple[Array, Array]:
    loc, log_scale = jnp.split(at_least_float32(network.apply(params, z)), 2)
    return loc, _MAX_LOG_SCALE * jnp.tanh(log_scale / _MAX_LOG_SCALE)


def _solve(network: Network, params: Params, noise: Array) -> Array:
    """z with (z - m(z)) exp(-s(z)) = noise, one dimension after the other."""

    def solve_next(z: Array, index: Array) -> tuple[Array, None]:
        # Right for dimension `index`, whose location and scale hang on those before it alone.
        loc, log_scale = _location_and_scale(network, params, z)
        return z.at[index].set((loc + jnp.exp(log_scale) * noise)[index]), None

    return jax.lax.scan(solve_next, jnp.zeros_like(noise), jnp.arange(noise.shape[0]))[0]
