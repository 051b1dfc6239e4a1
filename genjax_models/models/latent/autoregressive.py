"""The inverse autoregressive flow as a posterior (Kingma et al. 2016)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from genjax_models.checks import check_counts, check_sizes
from genjax_models.distributions import DiagonalGaussian, Pushforward
from genjax_models.distributions.numerics import at_least_float32, promoted, sigmoid, softplus
from genjax_models.interfaces import Array, ConditionalNetwork, Key, Params
from genjax_models.models.latent.parts import Conditional, NetworkFactory, gaussian
from genjax_models.models.latent.posteriors import sized
from genjax_models.networks import conditional_masked_mlp

# The gates start almost open, as the source advises: sigmoid(2) = 0.88 of z passes.
_GATE_BIAS = 2.0


def inverse_autoregressive(
    encoder: NetworkFactory,
    latent_dim: int,
    *,
    num_flows: int = 2,
    hidden: Sequence[int] = (320,),
    context_dim: int = 64,
) -> Conditional:
    """q(z | x) of a diagonal Gaussian and a chain of inverse autoregressive flows.

        (m, log s, h) = encoder(x),   z_0 = m + s * eps
        g = sigmoid(r_t(z, h) + 2),   z <- g * z + (1 - g) * m_t(z, h)
        log q(z | x) = log N(z_0; m, s^2) - sum_t sum_i log g_i

    (m_t, r_t) are the outputs of a masked network with the context h, so that the Jacobian of a
    flow is triangular, with g on its diagonal; the order of the dimensions is reversed between
    flows. A draw takes one pass of each network, and comes with its density; that of a given z
    would take latent_dim passes, and is not offered.

    Args:
        encoder: makes the network from x to [2 * latent_dim + context_dim], or [2 * latent_dim]
            where there are no flows.
        latent_dim: size of the vector z.
        num_flows: number of flows; 0 gives the diagonal Gaussian.
        hidden: units of the hidden layers of each flow's network.
        context_dim: size of the context h.

    Returns:
        The posterior; its parameters are the encoder's and, with a leading axis [num_flows], the
        flows': {"encoder", "flows"}.

    Raises:
        ValueError: a size below one, a negative number of flows, or a network of another output
            shape (found when it is used).

    Source: Kingma et al. 2016 (Improved variational inference with inverse autoregressive flow),
    section 3, equations 10 to 14.
    """
    check_sizes(latent_dim=latent_dim, hidden=tuple(hidden), context_dim=context_dim)
    check_counts(num_flows=num_flows)
    if num_flows == 0:
        return gaussian(sized(encoder, 2 * latent_dim))
    base = sized(encoder, 2 * latent_dim + context_dim)
    network = conditional_masked_mlp(latent_dim, hidden, 2, context_dim=context_dim)

    def init(key: Key) -> Params:
        encoder_key, flows_key = jax.random.split(key)
        flow_keys = jax.random.split(flows_key, num_flows)
        return {"encoder": base.init(encoder_key), "flows": jax.vmap(network.init)(flow_keys)}

    def transform(flows: Params, context: Array, z: Array) -> tuple[Array, Array]:
        def flow(z: Array, params: Params) -> tuple[Array, Array]:
            z, log_det = _gated(network, params, context, z)
            return z[::-1], log_det

        z, log_dets = jax.lax.scan(flow, promoted(z, flows), flows)
        return z, jnp.sum(log_dets)

    def distribution(params: Params, x: Array) -> Pushforward:
        outputs = base.apply(params["encoder"], x)
        loc, log_scale, context = jnp.split(outputs, [latent_dim, 2 * latent_dim])
        return Pushforward(
            DiagonalGaussian(loc, log_scale),
            jax.tree_util.Partial(transform, params["flows"], context),
        )

    # A posterior need have no log_prob.
    return Conditional(init, distribution)


def _gated(
    network: ConditionalNetwork, params: Params, context: Array, z: Array
) -> tuple[Array, Array]:
    """One flow, and the logarithm of its determinant."""
    loc, gate = jnp.split(at_least_float32(network.apply(params, z, context)), 2)
    gate = gate + _GATE_BIAS
    # log sigmoid(gate) = -softplus(-gate).
    return sigmoid(gate) * z + sigmoid(-gate) * loc, -jnp.sum(softplus(-gate))
