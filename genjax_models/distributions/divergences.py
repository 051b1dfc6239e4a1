"""Divergences in closed form."""

import sys
from typing import Any

import jax
import jax.numpy as jnp

from genjax_models.distributions.bernoulli import Bernoulli
from genjax_models.distributions.full_covariance_gaussian import FullCovarianceGaussian
from genjax_models.distributions.gaussian import DiagonalGaussian
from genjax_models.distributions.numerics import at_least_float32, softplus, sum_event
from genjax_models.distributions.one_hot_categorical import OneHotCategorical
from genjax_models.interfaces import Array


def kl_divergence(q: Any, p: Any) -> Array:
    """KL(q || p) = E_q[log q(z) - log p(z)] in closed form, in nats.

    Args:
        q: a distribution of ours or of distrax's, over one event.
        p: another over the same event; a diagonal Gaussian of ours may stand beside distrax's
            (`MultivariateNormalDiag`, or `Normal` in `Independent`), or a Gaussian with full
            covariance of ours.

    Returns:
        A scalar >= 0, in float32 at least.

    Raises:
        TypeError: no closed form is known for the pair; estimate it by Monte Carlo instead.
        ValueError: q or p is a batch of distributions rather than one, or their shapes differ.
    """
    _check_one(q, p)
    terms = _terms(q, p)
    if terms is not None:
        return sum_event(terms)
    if isinstance(q, OneHotCategorical) and isinstance(p, OneHotCategorical):
        _check_shapes(q.logits, p.logits)
        return _kl_one_hot(q, p)
    q_gaussian, p_gaussian = _as_gaussian(q), _as_gaussian(p)
    if q_gaussian is not None and p_gaussian is not None:
        _check_shapes(q_gaussian.loc, p_gaussian.loc)
        return _kl_gaussian(q_gaussian, p_gaussian)
    try:
        return jnp.asarray(q.kl_divergence(p))
    except (AttributeError, NotImplementedError, TypeError) as error:
        raise TypeError(
            f"no closed form is known for KL({type(q).__name__} || {type(p).__name__}):"
            ' estimate it by Monte Carlo (kl="monte_carlo" in `learning.variational`)'
        ) from error


def kl_per_dimension(q: Any, p: Any) -> Array:
    """KL(q_d || p_d) of each dimension of two distributions whose dimensions are independent.

    Args:
        q: a diagonal Gaussian of ours or of distrax's, or a Bernoulli of ours.
        p: another of the same kind over the same event.

    Returns:
        Numbers >= 0 in nats, of the event's shape; their sum is `kl_divergence(q, p)`.

    Raises:
        TypeError: the pair is of another kind.
        ValueError: as of `kl_divergence`.
    """
    _check_one(q, p)
    terms = _terms(q, p)
    if terms is None:
        raise TypeError(
            f"KL({type(q).__name__} || {type(p).__name__}) has no closed form of each dimension:"
            " that needs two diagonal Gaussians, or two Bernoullis"
        )
    return at_least_float32(terms)


def _check_one(q: Any, p: Any) -> None:
    for name, distribution in {"q": q, "p": p}.items():
        if tuple(getattr(distribution, "batch_shape", ())):
            raise ValueError(
                f"{name} is a batch of distributions, of shape {distribution.batch_shape}: wrap it"
                " in distrax.Independent(..., reinterpreted_batch_ndims=...)"
            )


def _terms(q: Any, p: Any) -> Array | None:
    """KL of each dimension, or None for a pair whose dimensions are not known to be independent."""
    if isinstance(q, Bernoulli) and isinstance(p, Bernoulli):
        _check_shapes(q.logits, p.logits)
        return _kl_bernoulli(q, p)
    q_gaussian, p_gaussian = as_diagonal_gaussian(q), as_diagonal_gaussian(p)
    if q_gaussian is not None and p_gaussian is not None:
        _check_shapes(q_gaussian.loc, p_gaussian.loc)
        return _kl_diagonal_gaussian(q_gaussian, p_gaussian)
    return None


def _check_shapes(q: Array, p: Array) -> None:
    if jnp.shape(q) != jnp.shape(p):
        raise ValueError(
            f"q and p must be over events of one shape, got {jnp.shape(q)} and {jnp.shape(p)}"
        )


def _kl_bernoulli(q: Bernoulli, p: Bernoulli) -> Array:
    """s(a) (a - b) + softplus(b) - softplus(a), with logits a of q and b of p."""
    difference = jax.nn.sigmoid(q.logits) * (q.logits - p.logits)
    return difference + softplus(p.logits) - softplus(q.logits)


def _kl_one_hot(q: OneHotCategorical, p: OneHotCategorical) -> Array:
    """sum_mc q_mc (log q_mc - log p_mc)."""
    log_q, log_p = (jax.nn.log_softmax(at_least_float32(one.logits)) for one in (q, p))
    probabilities = jnp.exp(log_q)
    # Double where: what q leaves out adds nothing, also where p leaves it out, and has no gradient.
    is_possible = probabilities > 0
    log_ratio = jnp.where(is_possible, log_q, 0) - jnp.where(is_possible, log_p, 0)
    return jnp.sum(probabilities * log_ratio)


def _kl_diagonal_gaussian(q: DiagonalGaussian, p: DiagonalGaussian) -> Array:
    """[(s_q^2 + (m_q - m_p)^2) / s_p^2 - 1] / 2 - log(s_q / s_p)."""
    log_ratio = q.log_scale - p.log_scale
    distance = (q.loc - p.loc) * jnp.exp(-p.log_scale)
    terms = 0.5 * (jnp.expm1(2 * log_ratio) + jnp.square(distance)) - log_ratio
    return jnp.broadcast_to(terms, jnp.shape(q.loc))


def _kl_gaussian(
    q: DiagonalGaussian | FullCovarianceGaussian, p: DiagonalGaussian | FullCovarianceGaussian
) -> Array:
    """[|A|^2 + |L_p^-1 (m_q - m_p)|^2 - D] / 2 - sum_d log A_dd, with A = L_p^-1 L_q."""
    distance = at_least_float32(q.loc) - p.loc
    factor_q, log_diagonal_q = _factor(q)
    factor_p, log_diagonal_p = _factor(p)
    columns = jnp.column_stack([factor_q, distance])
    whitened = jax.scipy.linalg.solve_triangular(factor_p, columns, lower=True)
    log_ratio = log_diagonal_q - log_diagonal_p
    diagonal = 0.5 * jnp.expm1(2 * log_ratio) - log_ratio
    rest = jnp.tril(whitened[:, :-1], -1), whitened[:, -1]
    return sum_event(diagonal) + 0.5 * sum(sum_event(jnp.square(part)) for part in rest)


def _factor(gaussian: DiagonalGaussian | FullCovarianceGaussian) -> tuple[Array, Array]:
    """L with covariance L L', [D, D], and the logarithms of its diagonal, [D]."""
    if isinstance(gaussian, FullCovarianceGaussian):
        return gaussian.scale_tril, at_least_float32(gaussian.log_diagonal)
    log_scale = jnp.broadcast_to(at_least_float32(gaussian.log_scale), jnp.shape(gaussian.loc))
    return jnp.diag(jnp.exp(log_scale)), log_scale


def as_diagonal_gaussian(distribution: Any) -> DiagonalGaussian | None:
    """The same distribution as one of ours, or None if it is no diagonal Gaussian."""
    gaussian = _as_gaussian(distribution)
    return gaussian if isinstance(gaussian, DiagonalGaussian) else None


def _as_gaussian(distribution: Any) -> DiagonalGaussian | FullCovarianceGaussian | None:
    """The same distribution as one of ours, or None if it is neither of the two."""
    if isinstance(distribution, DiagonalGaussian | FullCovarianceGaussian):
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
