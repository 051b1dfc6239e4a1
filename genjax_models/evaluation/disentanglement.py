"""How far each dimension of a code follows one factor of variation, and each factor one dimension.

Every score takes codes [N, num_codes], e.g. posterior means, and the factors behind the same
examples, [N, num_factors] integers from 0; "given a factor" is among these N examples.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.checks import check_sizes
from genjax_models.distributions.numerics import at_least_float32
from genjax_models.interfaces import Array


class DCI(NamedTuple):
    """Disentanglement and completeness of a matrix of importances.

    Attributes:
        disentanglement: the mean of `of_codes`, each weighted by its share of all importance.
        completeness: the mean of `of_factors`.
        of_codes: [num_codes], one where a code is important for one factor alone, zero where it is
            equally important for all of them, or for none.
        of_factors: [num_factors], one where one code alone is important for a factor.
    """

    disentanglement: Array
    completeness: Array
    of_codes: Array
    of_factors: Array


def bin_codes(codes: Array, *, num_bins: int = 20) -> Array:
    """Codes as integers: which of equally wide bins from the least to the largest value.

    Args:
        codes: [N, num_codes].
        num_bins: bins for each dimension.

    Returns:
        [N, num_codes], integers 0..num_bins - 1; zeros where a dimension is constant.

    Raises:
        ValueError: codes are no matrix, or there is less than one bin.
    """
    if jnp.ndim(codes) != 2 or not jnp.size(codes):
        raise ValueError(f"codes must have shape [N, num_codes], got {jnp.shape(codes)}")
    check_sizes(num_bins=num_bins)
    return _bin_codes(jnp.asarray(codes), num_bins)


def discrete_mutual_information(first: Array, second: Array) -> Array:
    """I(a; b) of the empirical joint distribution of every pair of columns, in nats.

        I(a; b) = sum_(a, b) p(a, b) log [p(a, b) / (p(a) p(b))]

    Of N independent draws it is too large by (A - 1)(B - 1) / (2N) nats on average, to first
    order, for A and B values.

    Args:
        first: [N, F] integers from 0.
        second: [N, S] integers from 0.

    Returns:
        [F, S].

    Raises:
        TypeError: values that are no integers.
        ValueError: the shapes do not fit, or values are below zero.

    Source: Miller 1955 (Note on the bias of information estimates), for the bias.
    """
    _check_labels("first", first)
    _check_labels("second", second)
    _check_lengths("first", first, "second", second)
    return _mutual_information(*_relabel(first), *_relabel(second))


def mutual_information_gap(codes: Array, factors: Array, *, num_bins: int = 20) -> Array:
    """The mutual information gap (MIG).

        MIG = (1 / num_factors) sum_k [I(z_(1); v_k) - I(z_(2); v_k)] / H(v_k)

    with z_(1) and z_(2) the two codes of most information on the factor v_k. One code that holds
    two factors whole has MIG 1: it wants each factor in one code, not one factor in each code.

    Args:
        codes: [N, num_codes], num_codes >= 2.
        factors: [N, num_factors] integers from 0, none of them constant.
        num_bins: bins of each code; see `bin_codes`.

    Returns:
        The gap, a scalar in [0, 1].

    Raises:
        TypeError: factors that are no integers.
        ValueError: the shapes do not fit, a code is not finite, or a factor is constant.

    Source: Chen et al. 2018 (Isolating sources of disentanglement in VAEs), section 4.1; they
    integrate over q(z | x) where this bins one code an example, as Locatello et al. 2019 do.
    """
    check_codes(codes, factors)
    if jnp.shape(codes)[1] < 2:
        raise ValueError(f"a gap needs at least 2 codes, got {jnp.shape(codes)[1]}")
    information = discrete_mutual_information(bin_codes(codes, num_bins=num_bins), factors)
    entropies = jnp.diagonal(discrete_mutual_information(factors, factors))
    first, second = jax.lax.top_k(information.T, 2)[0].T
    return jnp.mean((first - second) / entropies)


def dci(importance: Array) -> DCI:
    """Disentanglement and completeness from how important each code is for each factor.

        disentanglement = sum_i w_i [1 + sum_k P_ik log_K P_ik],  P_ik = R_ik / sum_k R_ik,
        completeness = (1 / K) sum_k [1 + sum_i Q_ik log_D Q_ik],  Q_ik = R_ik / sum_i R_ik,

    with D codes, K factors and w_i = sum_k R_ik / sum_ik R_ik.

    Args:
        importance: R [num_codes, num_factors], not negative, from any regressor that predicts a
            factor from the codes: |weights| of a lasso, or the importances of a forest.

    Returns:
        The scores, each in [0, 1].

    Raises:
        ValueError: a matrix with less than two rows or columns, or importances that are negative
            or not finite.

    Source: Eastwood & Williams 2018 (A framework for the quantitative evaluation of disentangled
    representations), section 2.
    """
    importance = at_least_float32(importance)
    if importance.ndim != 2 or min(importance.shape) < 2:
        raise ValueError(
            "importance must have shape [num_codes, num_factors], at least 2 of each, got"
            f" {importance.shape}"
        )
    if not bool(jnp.all(jnp.isfinite(importance) & (importance >= 0))):
        raise ValueError("importance must be finite and not negative: take absolute weights")
    of_codes = _concentration(importance)
    of_factors = _concentration(importance.T)
    weights = jnp.sum(importance, axis=1)
    weights = weights / jnp.maximum(jnp.sum(weights), jnp.finfo(weights.dtype).tiny)
    return DCI(jnp.sum(weights * of_codes), jnp.mean(of_factors), of_codes, of_factors)


def informativeness(predictions: Array, factors: Array) -> Array:
    """How often each factor is predicted from the codes of examples that no predictor has seen.

    Args:
        predictions: of the factors, [N, num_factors] integers.
        factors: [N, num_factors] integers.

    Returns:
        The accuracy for each factor, [num_factors]; their mean is the score.

    Raises:
        ValueError: the shapes differ.

    Source: Eastwood & Williams 2018, section 2, by the error of a regression; the accuracy of
    a classification is Locatello et al. 2019's.
    """
    if jnp.shape(predictions) != jnp.shape(factors) or jnp.ndim(factors) != 2:
        raise ValueError(
            "predictions and factors must have one shape [N, num_factors], got"
            f" {jnp.shape(predictions)} and {jnp.shape(factors)}"
        )
    return jnp.mean(jnp.asarray(predictions) == jnp.asarray(factors), axis=0)


@functools.partial(jax.jit, static_argnums=1)
def _bin_codes(codes: Array, num_bins: int) -> Array:
    codes = at_least_float32(codes)
    low, high = jnp.min(codes, axis=0, keepdims=True), jnp.max(codes, axis=0, keepdims=True)
    width = jnp.where(high > low, high - low, 1)
    bins = jnp.floor((codes - low) / width * num_bins).astype(jnp.int32)
    return jnp.clip(bins, 0, num_bins - 1)


@functools.partial(jax.jit, static_argnums=(1, 3))
def _mutual_information(first: Array, num_first: int, second: Array, num_second: int) -> Array:
    def of_pair(a: Array, b: Array) -> Array:
        counts = jnp.zeros((num_first, num_second)).at[a, b].add(1)
        joint = counts / a.shape[0]
        independent = jnp.sum(joint, 1, keepdims=True) * jnp.sum(joint, 0, keepdims=True)
        # 0 log 0 = 0.
        ratio = jnp.where(joint > 0, joint, 1) / jnp.where(joint > 0, independent, 1)
        return jnp.sum(joint * jnp.log(ratio))

    # Column after column: all of the tables at once would be large.
    return jax.lax.map(
        lambda a: jax.lax.map(lambda b: of_pair(a, b), second.T),
        first.T,
    )


def _concentration(importance: Array) -> Array:
    """One minus the entropy of each row as a distribution, to the base of their length."""
    total = jnp.sum(importance, axis=1, keepdims=True)
    uniform = jnp.full_like(importance, 1 / importance.shape[1])
    shares = jnp.where(total > 0, importance / jnp.where(total > 0, total, 1), uniform)
    entropy = jnp.sum(jax.scipy.special.entr(shares), axis=1)
    return 1 - entropy / jnp.log(importance.shape[1])


def check_codes(codes: Array, factors: Array) -> None:
    """Raise unless codes and factors are finite matrices that fit, and every factor varies."""
    if jnp.ndim(codes) != 2 or not jnp.size(codes):
        raise ValueError(f"codes must have shape [N, num_codes], got {jnp.shape(codes)}")
    is_finite = jnp.all(jnp.isfinite(codes), axis=0)
    if not bool(jnp.all(is_finite)):
        raise ValueError(f"codes must be finite, but number {int(jnp.argmin(is_finite))} is not")
    _check_labels("factors", factors)
    _check_lengths("codes", codes, "factors", factors)
    constant = jnp.min(factors, axis=0) == jnp.max(factors, axis=0)
    if bool(jnp.any(constant)):
        raise ValueError(
            f"every factor must vary, but number {int(jnp.argmax(constant))} is constant"
        )


def _relabel(values: Array) -> tuple[Array, int]:
    """The values of each column counted through from 0, and the most that a column has.

    A table of counts has as many rows as there are values, however large they are.
    """
    columns = [np.unique(column, return_inverse=True)[1] for column in np.asarray(values).T]
    labels = np.stack(columns, axis=1).astype(np.int32)
    return jnp.asarray(labels), int(labels.max()) + 1


def _check_labels(name: str, values: Array) -> None:
    if jnp.ndim(values) != 2 or not jnp.size(values):
        raise ValueError(f"{name} must be a matrix, one row an example, got {jnp.shape(values)}")
    if not jnp.issubdtype(jnp.asarray(values).dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got {jnp.asarray(values).dtype}")
    if int(jnp.min(values)) < 0:
        raise ValueError(f"{name} must not be negative, got {int(jnp.min(values))}")


def _check_lengths(name: str, first: Array, other: str, second: Array) -> None:
    if jnp.shape(first)[0] != jnp.shape(second)[0]:
        raise ValueError(
            f"{name} and {other} must have one row an example, got {jnp.shape(first)[0]} and"
            f" {jnp.shape(second)[0]} rows"
        )
