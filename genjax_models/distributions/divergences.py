"""Divergences in closed form."""

import sys
from typing import Any

import jax
import jax.numpy as jnp

from genjax_models.distributions.bernoulli import Bernoulli
from genjax_models.distributions.gaussian import DiagonalGaussian
from genjax_models.distributions.numerics import softplus, sum_event
from genjax_models.interfaces import Array


def kl_divergence(q: Any, p: Any) -> Array:
    """KL(q || p) = E_q[log q(z) - log p(z)] in closed form, in nats.

    Args:
        q: a distribution of ours or of distrax's, over one event.
        p: another over the same event; a diagonal Gaussian of ours may stand beside distrax's
            (`MultivariateNormalDiag`, or `Normal` in `Independent`).

    Returns:
        A scalar >= 0, in float32 at least.

    Raises:
        TypeError: no closed form is known for the pair; estimate it by Monte Carlo instead.
        ValueError: q or p is a batch of distributions rather than one, or their shapes differ.
    """
    for name, distribution in {"q": q, "p": p}.items():
        if tuple(getattr(distribution, "batch_shape", ())):
            raise ValueError(
                f"{name} is a batch of distributions, of shape {distribution.batch_shape}: wrap it"
                " in distrax.Independent(..., reinterpreted_batch_ndims=...)"
            )
    if isinstance(q, Bernoulli) and isinstance(p, Bernoulli):
        _check_shapes(q.logits, p.logits)
        return _kl_bernoulli(q, p)
    q_gaussian, p_gaussian = _as_diagonal_gaussian(q), _as_diagonal_gaussian(p)
    if q_gaussian is not None and p_gaussian is not None:
        _check_shapes(q_gaussian.loc, p_gaussian.loc)
        return _kl_diagonal_gaussian(q_gaussian, p_gaussian)
    try:
        return jnp.asarray(q.kl_divergence(p))
    except (AttributeError, NotImplementedError, TypeError) as error:
        raise TypeError(
            f"no closed form is known for KL({type(q).__name__} || {type(p).__name__}):"
            ' estimate it by Monte Carlo (kl="monte_carlo" in `learning.variational`)'
        ) from error


def _check_shapes(q: Array, p: Array) -> None:
    if jnp.shape(q) != jnp.shape(p):
        raise ValueError(
            f"q and p must be over events of one shape, got {jnp.shape(q)} and {jnp.shape(p)}"
        )


def _kl_bernoulli(q: Bernoulli, p: Bernoulli) -> Array:
    """sum_d [s(a) (a - b) + softplus(b) - softplus(a)], with logits a of q and b of p."""
    difference = jax.nn.sigmoid(q.logits) * (q.logits - p.logits)
    return sum_event(difference + softplus(p.logits) - softplus(q.logits))


def _kl_diagonal_gaussian(q: DiagonalGaussian, p: DiagonalGaussian) -> Array:
    """sum_d [(s_q^2 + (m_q - m_p)^2) / s_p^2 - 1] / 2 - log(s_q / s_p), per dimension."""
    log_ratio = q.log_scale - p.log_scale
    distance = (q.loc - p.loc) * jnp.exp(-p.log_scale)
    terms = 0.5 * (jnp.expm1(2 * log_ratio) + jnp.square(distance)) - log_ratio
    return sum_event(jnp.broadcast_to(terms, jnp.shape(q.loc)))


def _as_diagonal_gaussian(distribution: Any) -> DiagonalGaussian | None:
    """The same distribution as one of ours, or None if it is no diagonal Gaussian."""
    if isinstance(distribution, DiagonalGaussian):
        return distribution
    # An object of a distrax class can only exist where distrax has been imported.
    distrax = sys.modules.get("distrax")
    if distrax is None or not isinstance(distribution, distrax.Distribution):
        return None
    if isinstance(distribution, distrax.Independent):
        distribution = distribution.distribution
    if isinstance(distribution, distrax.Normal):
        return DiagonalGaussian(distribution.loc, jnp.log(distribution.scale))
    if isinstance(distribution, distrax.MultivariateNormalDiag):
        return DiagonalGaussian(distribution.loc, jnp.log(distribution.scale_diag))
    return None
