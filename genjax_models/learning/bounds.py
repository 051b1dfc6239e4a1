"""Bounds on log p(x), each from K log weights log p(x, z_k) - log q(z_k | x), z_k ~ q.

Whoever has log weights can use them, with no model of the library in sight. The **value** is a
sample of the bound (the bound itself is its expectation), and its pathwise gradient is right
where z_k is reparameterised. All are in nats and want K >= 1.
"""

import math

import jax.numpy as jnp
from jax.nn import logsumexp

from genjax_models.interfaces import Array


def elbo(log_weights: Array) -> Array:
    """The evidence lower bound, (1/K) sum_k log w_k.

    Its expectation is log p(x) - KL(q(z | x) || p(z | x)) for every K.

    Args:
        log_weights: log w, shape [K].

    Returns:
        A scalar in nats.

    Raises:
        ValueError: not of shape [K] with K >= 1.

    Source: Jordan et al. 1999; Kingma & Welling 2014, equation 2.
    """
    _check(log_weights)
    return jnp.mean(log_weights)


def iwae(log_weights: Array) -> Array:
    """The importance-weighted bound, log (1/K) sum_k w_k.

    Its expectation rises with K from the ELBO (K = 1) towards log p(x).

    Args:
        log_weights: log w, shape [K].

    Returns:
        A scalar in nats.

    Raises:
        ValueError: not of shape [K] with K >= 1.

    Source: Burda et al. 2016 (Importance weighted autoencoders), equation 8.
    """
    _check(log_weights)
    return logsumexp(log_weights) - math.log(log_weights.shape[0])


def renyi(log_weights: Array, alpha: float) -> Array:
    """The variational Renyi bound, 1/(1 - alpha) log (1/K) sum_k w_k^(1 - alpha).

    alpha = 0 is the importance-weighted bound, alpha -> 1 the ELBO, and alpha -> -inf the largest
    log weight (VR-max). As K grows the value tends to a lower bound for alpha > 0 and to an upper
    bound for alpha < 0; at finite K it is biased downwards, so that for alpha < 0 it may lie on
    either side of log p(x).

    Args:
        log_weights: log w, shape [K].
        alpha: order, a static number; 1 and -inf are the limits.

    Returns:
        A scalar in nats.

    Raises:
        ValueError: not of shape [K] with K >= 1, or alpha is NaN or +inf.

    Source: Li & Turner 2016 (Renyi divergence variational inference), equation 15.
    """
    _check(log_weights)
    if math.isnan(alpha) or alpha == math.inf:
        raise ValueError(f"alpha must be a number below +inf, got {alpha}")
    if alpha == -math.inf:
        return jnp.max(log_weights)
    if alpha == 0:
        return iwae(log_weights)
    centre = jnp.mean(log_weights)
    if alpha == 1:
        return centre
    powers = (1 - alpha) * (log_weights - centre)
    # Near alpha = 1 the logarithm is of one plus next to nothing.
    is_small = jnp.max(jnp.abs(powers)) < 1
    # The double where keeps the branch that is not taken finite, and so its derivative.
    small = jnp.log1p(jnp.mean(jnp.expm1(jnp.where(is_small, powers, 0))))
    return centre + jnp.where(is_small, small, iwae(powers)) / (1 - alpha)


def _check(log_weights: Array) -> None:
    shape = jnp.shape(log_weights)
    if len(shape) != 1 or shape[0] < 1:
        raise ValueError(
            f"log_weights must have shape [K] with K >= 1, got {shape}: vmap over a batch"
        )
