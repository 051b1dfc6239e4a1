"""Bounds on log p(x), each from K log weights log p(x, z_k) - log q(z_k | x), z_k ~ q.

Whoever has log weights can use them, with no model of the library in sight. The **value** is a
sample of the bound (the bound itself is its expectation), and its pathwise gradient is right
where z_k is reparameterised. All are in nats and want K >= 1.

A log weight of -inf (a z that cannot have made x) is a weight of zero: what averages weights stays
finite and its gradient does not see that sample, what averages logarithms is -inf. Where every log
weight is -inf the value is -inf, and the gradient of what averages weights is zero.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.distributions.numerics import at_least_float32
from genjax_models.interfaces import Array

Bound = Callable[[Array], Array]
"""From log weights [K] to a scalar."""
_MAX_SUBSETS = 20_000


class SplitBound(NamedTuple):
    """Two bounds on the same samples: one trains the model p(x, z), the other the posterior q.

    Called with log weights, it is the model's bound.

    Attributes:
        model: whose gradient the parameters take inside p(z) and p(x | z).
        posterior: whose gradient they take inside q(z | x).
    """

    model: Bound
    posterior: Bound

    def __call__(self, log_weights: Array) -> Array:
        """The model's bound."""
        return self.model(log_weights)


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
    log_weights = _checked(log_weights)
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
    log_weights = _checked(log_weights)
    return _log_mean_exp(log_weights)


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
    log_weights = _checked(log_weights)
    if math.isnan(alpha) or alpha == math.inf:
        raise ValueError(f"alpha must be a number below +inf, got {alpha}")
    if alpha == -math.inf:
        return vr_max(log_weights)
    if alpha == 0:
        return iwae(log_weights)
    if alpha == 1:
        return elbo(log_weights)
    # Any constant will do as the centre, so it needs no derivative; an infinite one would not.
    largest = jax.lax.stop_gradient(jnp.max(log_weights))
    centre = jnp.where(jnp.isinf(largest), 0, largest)
    powers = (1 - alpha) * (log_weights - centre)
    # Near alpha = 1 the logarithm is of one plus next to nothing.
    is_small = jnp.max(jnp.abs(powers)) < 1
    # The double where keeps the branch that is not taken finite, and so its derivative.
    small = jnp.log1p(jnp.mean(jnp.expm1(jnp.where(is_small, powers, 0))))
    return centre + jnp.where(is_small, small, _log_mean_exp(powers)) / (1 - alpha)


def vr_max(log_weights: Array) -> Array:
    """The largest log weight, the limit of `renyi` for alpha -> -inf.

    Its expectation lies between the ELBO and the largest log w of all z; it bounds log p(x) from
    neither side.

    Args:
        log_weights: log w, shape [K].

    Returns:
        A scalar in nats.

    Raises:
        ValueError: not of shape [K] with K >= 1.

    Source: Li & Turner 2016 (Renyi divergence variational inference), section 4.3.
    """
    log_weights = _checked(log_weights)
    return jnp.max(log_weights)


def cubo(log_weights: Array, order: float = 2.0) -> Array:
    """The chi upper bound, (1/n) log (1/K) sum_k w_k^n: `renyi` with alpha = 1 - n.

    As K grows it tends from below to log p(x) + (1/n) log(1 + chi^n divergence of p(z | x) from
    q), an **upper** bound on log p(x); at finite K its expectation may lie below log p(x). Give it
    to `learning.variational` as it stands or in a `functools.partial`: a lambda would hide that it
    is to be minimised.

    Args:
        log_weights: log w, shape [K].
        order: n >= 1, a static number.

    Returns:
        A scalar in nats.

    Raises:
        ValueError: not of shape [K] with K >= 1, or an order below one or not finite.

    Source: Dieng et al. 2017 (Variational inference via chi upper bound minimization), equation 5.
    """
    if not 1 <= order < math.inf:
        raise ValueError(f"order must be a finite number >= 1, got {order}")
    return renyi(log_weights, 1 - order)


def tvo(log_weights: Array, betas: Sequence[float], rule: str = "left") -> Array:
    """The thermodynamic bound: a Riemann sum of log p(x) = integral_0^1 E_beta[log w] d beta.

        sum_j (beta_{j+1} - beta_j) f(beta_j),  f(beta) = sum_k w_k^beta log w_k / sum_k w_k^beta

    E_beta is over q(z | x)^(1 - beta) p(x, z)^beta and rises with beta; f is its self-normalised
    estimate, biased at finite K (but for f(0), the ELBO). The integral of f is IWAE, and f rises
    too: for any samples the left sum is at most IWAE, a lower bound on log p(x), and the right one
    at least IWAE, an upper bound on log p(x) as K grows. One interval of the left rule is the ELBO.
    `learning.variational` minimises the right rule, as it does `cubo`.

    Args:
        log_weights: log w, shape [K].
        betas: static numbers that rise from 0 to 1.
        rule: "left" (f at the lower end of each interval), "right", or "trapezoid" (their mean).

    Returns:
        A scalar in nats.

    Raises:
        ValueError: not of shape [K] with K >= 1, betas that do not rise from 0 to 1, or an unknown
            rule.

    Source: Masrani et al. 2019 (The thermodynamic variational objective), equations 7 and 8.
    """
    log_weights = _checked(log_weights)
    grid = np.asarray(betas, np.float64)
    is_partition = grid.ndim == 1 and grid.size >= 2 and grid[0] == 0 and grid[-1] == 1
    if not is_partition or (np.diff(grid) <= 0).any():
        raise ValueError(f"betas must rise from 0 to 1, got {betas}")
    if rule not in ("left", "right", "trapezoid"):
        raise ValueError(f"rule must be one of ['left', 'right', 'trapezoid'], got {rule!r}")
    widths = np.diff(grid)
    shares = {"left": (1.0, 0.0), "right": (0.0, 1.0), "trapezoid": (0.5, 0.5)}[rule]
    weights = shares[0] * np.append(widths, 0) + shares[1] * np.append(0, widths)
    # A weight of zero is left out of every tempered mean: 0 log 0 = 0.
    is_zero = jnp.isneginf(log_weights)
    finite = jnp.where(is_zero, 0, log_weights)

    def tempered_mean(beta: Array) -> Array:
        powers = jnp.where(is_zero, -jnp.inf, beta * finite)
        total = _log_mean_exp(powers) + math.log(len(log_weights))
        # Where all are zero the total is -inf, and so is the mean.
        is_empty = jnp.isneginf(total)
        shares = jnp.exp(powers - jnp.where(is_empty, 0, total))
        return jnp.where(is_empty, -jnp.inf, jnp.sum(shares * finite))

    dtype = jnp.result_type(log_weights, jnp.float32)
    means = jax.vmap(tempered_mean)(jnp.asarray(grid[1:], dtype))
    used = np.flatnonzero(weights[1:])
    value = jnp.sum(jnp.asarray(weights[1:], dtype)[used] * means[used])
    return value + weights[0] * elbo(log_weights) if weights[0] else value


def jackknife(log_weights: Array, order: int = 1) -> Array:
    """The jackknife estimate of log p(x): the bias of IWAE taken out to order m in 1/K.

        sum_{j=0}^m c_j mean over subsets of K - j samples of IWAE,
        c_j = (-1)^j (K - j)^m / ((m - j)! j!)

    Order 0 is IWAE; order 1 is K IWAE_K - (K - 1) mean_k IWAE_{K-1} without sample k. Its bias is
    O(K^-(m+1)) and of either sign: it is **not** a bound. Where some K - m samples have no weight
    at all the value is that of order 0.

    Args:
        log_weights: log w, shape [K].
        order: m >= 0, a static number below K.

    Returns:
        A scalar in nats.

    Raises:
        ValueError: not of shape [K] with K > m, m negative, or more than 20,000 subsets.

    Source: Nowozin 2018 (Debiasing evidence approximations), equations 12 and 13.
    """
    log_weights = _checked(log_weights)
    num_samples = log_weights.shape[0]
    if not hasattr(order, "__index__") or not 0 <= order < num_samples:
        raise ValueError(
            f"order must be an integer from 0 to num_samples - 1 = {num_samples - 1}, got {order}"
        )
    if math.comb(num_samples, order) > _MAX_SUBSETS:
        raise ValueError(
            f"order {order} of {num_samples} samples has {math.comb(num_samples, order)} subsets,"
            f" more than {_MAX_SUBSETS}: use a lower order or fewer samples"
        )
    # The coefficients, of the order of K^m, add up to one: what all terms share stays outside.
    largest = jax.lax.stop_gradient(jnp.max(log_weights))
    centre = jnp.where(jnp.isinf(largest), 0, largest)
    value, has_empty = jnp.zeros_like(centre), jnp.zeros((), bool)
    for j in range(order + 1):
        size = num_samples - j
        coefficient = (-1) ** j * size**order / (math.factorial(order - j) * math.factorial(j))
        subsets = np.array(list(itertools.combinations(range(num_samples), size)))
        terms = jax.vmap(_log_mean_exp)((log_weights - centre)[subsets])
        has_empty |= jnp.any(jnp.isneginf(terms))
        value += coefficient * jnp.mean(jnp.where(jnp.isneginf(terms), 0, terms))
    return jnp.where(has_empty, iwae(log_weights), centre + value)


def miwae(log_weights: Array, num_groups: int) -> Array:
    """The mean of M importance-weighted bounds, each of K / M samples.

    Samples are grouped in their order. M = 1 is IWAE, M = K the ELBO.

    Args:
        log_weights: log w, shape [K].
        num_groups: M, a static number that divides K.

    Returns:
        A scalar in nats.

    Raises:
        ValueError: not of shape [K] with K >= 1, or M does not divide K.

    Source: Rainforth et al. 2018 (Tighter variational bounds are not necessarily better), eq. 14.
    """
    log_weights = _checked(log_weights)
    num_samples = log_weights.shape[0]
    is_integer = hasattr(num_groups, "__index__")
    if not is_integer or num_groups < 1 or num_samples % num_groups:
        raise ValueError(f"num_groups must divide num_samples, {num_samples}, got {num_groups}")
    return jnp.mean(jax.vmap(_log_mean_exp)(log_weights.reshape(num_groups, -1)))


def ciwae(log_weights: Array, weight: float) -> Array:
    """The combination of two bounds, weight * ELBO + (1 - weight) * IWAE.

    Args:
        log_weights: log w, shape [K].
        weight: of the ELBO, a static number from 0 to 1.

    Returns:
        A scalar in nats.

    Raises:
        ValueError: not of shape [K] with K >= 1, or a weight out of range.

    Source: Rainforth et al. 2018 (Tighter variational bounds are not necessarily better), eq. 15.
    """
    log_weights = _checked(log_weights)
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must be from 0 to 1, got {weight}")
    if weight == 0:
        return iwae(log_weights)
    return weight * elbo(log_weights) + (1 - weight) * iwae(log_weights)


def piwae(num_groups: int) -> SplitBound:
    """The model is trained by IWAE of all K samples, the posterior by MIWAE of M groups of them.

    Args:
        num_groups: M, a static number that divides K.

    Returns:
        A bound for `learning.variational`; called with log weights [K], it is IWAE.

    Source: Rainforth et al. 2018 (Tighter variational bounds are not necessarily better), eq. 16.
    """

    def grouped(log_weights: Array) -> Array:
        return miwae(log_weights, num_groups)

    return SplitBound(iwae, grouped)


def resolve(bound: Bound) -> tuple[Callable[..., Array], dict]:
    """A bound's function and its keywords, through `functools.partial`s without positions.

    Args:
        bound: from log weights [K] to a scalar.

    Returns:
        The innermost function and the keywords that it is called with.
    """
    keywords: dict = {}
    while isinstance(bound, functools.partial) and not bound.args:
        keywords = {**bound.keywords, **keywords}
        bound = bound.func
    return bound, keywords


def is_upper(bound: Bound) -> bool:
    """Whether it is an upper bound: CUBO, TVO by the right rule.

    Args:
        bound: from log weights [K] to a scalar.

    Returns:
        True for those that `resolve` recognises.
    """
    function, keywords = resolve(bound)
    return function is cubo or (function is tvo and keywords.get("rule") == "right")


def _log_mean_exp(values: Array) -> Array:
    """log (1/K) sum_k e^v_k over the only axis; zero derivatives where the largest is infinite."""
    largest = jax.lax.stop_gradient(jnp.max(values))
    is_infinite = jnp.isinf(largest)
    # Double where: the derivative of the branch that is not taken is finite. NaN is let through.
    shifted = jnp.where(is_infinite, 0, values) - jnp.where(is_infinite, 0, largest)
    mean = jnp.log(jnp.sum(jnp.exp(shifted))) - math.log(values.shape[0])
    return jnp.where(is_infinite, largest, mean + largest)


def _checked(log_weights: Array) -> Array:
    """Log weights [K] in float32 at least: differences of theirs are what bounds are made of."""
    shape = jnp.shape(log_weights)
    if len(shape) != 1 or shape[0] < 1:
        raise ValueError(
            f"log_weights must have shape [K] with K >= 1, got {shape}: vmap over a batch"
        )
    return at_least_float32(log_weights)
