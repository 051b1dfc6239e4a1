"""The kernel two-sample test: whether two sets of examples are of one distribution.

With a Gaussian kernel k(x, y) = exp(-||x - y||^2 / (2 s^2)), the maximum mean discrepancy

    MMD^2(p, q) = E k(x, x') + E k(y, y') - 2 E k(x, y),  x, x' ~ p and y, y' ~ q independent,

is zero where p = q and positive elsewhere.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.checks import check_sizes
from genjax_models.distributions.numerics import at_least_float32
from genjax_models.interfaces import Array, Key

_ROUNDING = 32.0
"""Units in the last place by which two equal statistics may differ."""


class SquaredMMD(NamedTuple):
    """An estimate of the squared maximum mean discrepancy.

    Attributes:
        value: unbiased, so that it is negative half of the time where p = q.
        x_error: how far another set x would move it, by the first-order term of its variance; too
            small where p and q are so near each other that the second-order term matters: there
            the spread under permutations says more.
        y_error: the same of another set y.
    """

    value: Array
    x_error: Array
    y_error: Array


class TwoSampleTest(NamedTuple):
    """A permutation test of p = q.

    Attributes:
        estimate: of the squared maximum mean discrepancy.
        p_value: (1 + number of permutations with a value at least as large) / (1 + number of
            permutations). Where p = q, it is at most u with probability at most u.
        null_standard_deviation: of the value, over the permutations.
    """

    estimate: SquaredMMD
    p_value: Array
    null_standard_deviation: Array


def median_distance(x: Array, *, max_examples: int = 1000) -> Array:
    """The median Euclidean distance between two different examples, a usual bandwidth.

    A kernel that hangs on the compared examples other than through all of them together spoils the
    permutation test: take the bandwidth from others, or from both sets pooled.

    Args:
        x: [N, num_dims], N >= 2.
        max_examples: only the first ones are used.

    Returns:
        The median, a scalar.

    Raises:
        ValueError: fewer than two examples.
    """
    if jnp.ndim(x) != 2 or min(jnp.shape(x)[0], max_examples) < 2:
        raise ValueError(
            f"x must have shape [N, num_dims] with N >= 2, got {jnp.shape(x)}, of which"
            f" max_examples is {max_examples}"
        )
    return _median_distance(jnp.asarray(x)[:max_examples])


def squared_mmd(
    x: Array, y: Array, *, bandwidth: Array | float, chunk_size: int = 500
) -> SquaredMMD:
    """The unbiased estimate of MMD^2(p, q) from examples of both.

        mean over i != j of k(x_i, x_j) + mean over i != j of k(y_i, y_j) - 2 mean of k(x_i, y_j)

    Args:
        x: examples of p, [M, num_dims], M >= 2.
        y: examples of q, [N, num_dims], N >= 2.
        bandwidth: s of the kernel, in the units of x; several, [B], for the mean of their kernels.
        chunk_size: rows of the kernel matrix held at a time; the result does not depend on it.

    Returns:
        The estimate with its errors.

    Raises:
        ValueError: the shapes do not fit, there are fewer than two examples, or the chunk size is
            below one.

    Source: Gretton et al. 2012 (A kernel two-sample test), lemma 6; the errors are the first-order
    term of Serfling 1980, section 5.2.
    """
    _check(x, y, bandwidth, chunk_size)
    return _squared_mmd(jnp.asarray(x), jnp.asarray(y), jnp.asarray(bandwidth), chunk_size)


def mmd_test(
    key: Key,
    x: Array,
    y: Array,
    *,
    bandwidth: Array | float,
    num_permutations: int = 1000,
    chunk_size: int = 500,
) -> TwoSampleTest:
    """Test p = q by the squared MMD under permutations of the pooled examples.

    Every row of the kernel matrix is computed once, for all permutations together: memory is
    that of (chunk_size + num_permutations) rows.

    Args:
        key: PRNG key, of the permutations.
        x: examples of p, [M, num_dims], M >= 2.
        y: examples of q, [N, num_dims], N >= 2.
        bandwidth: as of `squared_mmd`.
        num_permutations: P >= 1; the least p-value is 1 / (P + 1).
        chunk_size: as of `squared_mmd`.

    Returns:
        The estimate and its p-value.

    Raises:
        ValueError: as of `squared_mmd`, or fewer than one permutation.

    Source: Gretton et al. 2012 (A kernel two-sample test), section 2; Phipson & Smyth 2010
    (Permutation p-values should never be zero).
    """
    _check(x, y, bandwidth, chunk_size)
    check_sizes(num_permutations=num_permutations)
    arrays = (jnp.asarray(x), jnp.asarray(y), jnp.asarray(bandwidth))
    return _mmd_test(key, *arrays, num_permutations, chunk_size)


@jax.jit
def _median_distance(x: Array) -> Array:
    rows, columns = jnp.triu_indices(x.shape[0], 1)
    return jnp.sqrt(jnp.median(_squared_distances(x, x)[rows, columns]))


@functools.partial(jax.jit, static_argnums=3)
def _squared_mmd(x: Array, y: Array, bandwidth: Array, chunk_size: int) -> SquaredMMD:
    return _statistics(x, y, _observed(x, y)[:, None], bandwidth, chunk_size)[0]


@functools.partial(jax.jit, static_argnums=(4, 5))
def _mmd_test(
    key: Key, x: Array, y: Array, bandwidth: Array, num_permutations: int, chunk_size: int
) -> TwoSampleTest:
    observed = _observed(x, y)

    def permuted(index: Array) -> Array:
        return jax.random.permutation(jax.random.fold_in(key, index), observed)

    # One after the other: sorting all of them at once would take more memory than the kernel.
    others = jax.lax.map(permuted, jnp.arange(num_permutations))
    members = jnp.concatenate([observed[:, None], others.T], axis=1)
    estimate, values, rounding = _statistics(x, y, members, bandwidth, chunk_size)
    num_larger = jnp.sum(values[1:] >= values[0] - rounding)
    return TwoSampleTest(
        estimate=estimate,
        p_value=(1 + num_larger) / (1 + num_permutations),
        null_standard_deviation=jnp.std(values[1:]),
    )


def _observed(x: Array, y: Array) -> Array:
    """Which of the pooled examples are in the first set: one for x, zero for y."""
    first = jnp.arange(x.shape[0] + y.shape[0]) < x.shape[0]
    return first.astype(at_least_float32(x).dtype)


def _statistics(
    x: Array, y: Array, members: Array, bandwidth: Array, chunk_size: int
) -> tuple[SquaredMMD, Array, Array]:
    """The estimate, its value for each column of `members` [M + N, P], and what rounding may do.

    With a the first set's indicator and b = 1 - a, the means are a'Ka, b'Kb and a'Kb, K the kernel
    matrix with zeros on its diagonal. K less a constant has the same value, and smaller sums.
    """
    num_x, num_y = x.shape[0], y.shape[0]
    pooled = at_least_float32(jnp.concatenate([x, y]))
    pooled = pooled - jnp.mean(pooled, axis=0)
    size = num_x + num_y
    chunk_size = min(chunk_size, size)
    start = _kernel(pooled[:chunk_size], pooled, bandwidth)
    shift = (jnp.sum(start) - chunk_size) / (chunk_size * (size - 1))

    def add_chunk(sums: tuple[Array, Array], first: Array) -> tuple[tuple[Array, Array], Array]:
        indices = first + jnp.arange(chunk_size)
        rows = jnp.minimum(indices, size - 1)
        kernel = _kernel(pooled[rows], pooled, bandwidth) - shift
        # Rows beyond the last one are none, and no example is compared with itself.
        kept = (indices < size)[:, None] & (rows[:, None] != jnp.arange(size))
        kernel = jnp.where(kept, kernel, 0.0)
        with_first = jnp.matmul(kernel, members, precision="highest")
        with_all = jnp.sum(kernel, axis=1)
        within = sums[0] + jnp.sum(members[rows] * with_first, axis=0)
        of_first = sums[1] + jnp.sum(members[rows] * with_all[:, None], axis=0)
        return (within, of_first), jnp.stack([with_first[:, 0], with_all], axis=1)

    zeros = jnp.zeros(members.shape[1], pooled.dtype)
    firsts = jnp.arange(0, size, chunk_size)
    (within_first, of_first), rows = jax.lax.scan(add_chunk, (zeros, zeros), firsts)
    with_first, with_all = jnp.moveaxis(rows.reshape(-1, 2)[:size], 1, 0)
    within_second = jnp.sum(with_all) - 2 * of_first + within_first
    across = of_first - within_first
    terms = (
        within_first / (num_x * (num_x - 1)),
        within_second / (num_y * (num_y - 1)),
        -2 * across / (num_x * num_y),
    )
    values = terms[0] + terms[1] + terms[2]
    size_of_terms = jnp.sum(jnp.abs(jnp.stack([term[0] for term in terms])))
    rounding = _ROUNDING * float(jnp.finfo(pooled.dtype).eps) * size_of_terms
    with_second = with_all - with_first
    of_x = with_first[:num_x] / (num_x - 1) - with_second[:num_x] / num_y
    of_y = with_second[num_x:] / (num_y - 1) - with_first[num_x:] / num_x
    estimate = SquaredMMD(
        values[0],
        2 * jnp.std(of_x, ddof=1) / num_x**0.5,
        2 * jnp.std(of_y, ddof=1) / num_y**0.5,
    )
    return estimate, values, rounding


def _kernel(rows: Array, columns: Array, bandwidth: Array) -> Array:
    """The mean over bandwidths of the Gaussian kernels, [R, C]."""
    squares = _squared_distances(rows, columns)
    return jnp.mean(
        jax.lax.map(lambda s: jnp.exp(-0.5 * squares / s**2), jnp.atleast_1d(bandwidth)), axis=0
    )


def _squared_distances(rows: Array, columns: Array) -> Array:
    products = jnp.matmul(rows, columns.T, precision="highest")
    sums = jnp.sum(rows**2, axis=1)[:, None] + jnp.sum(columns**2, axis=1)
    return jnp.maximum(sums - 2 * products, 0.0)


def _check(x: Array, y: Array, bandwidth: Array | float, chunk_size: int) -> None:
    shapes = jnp.shape(x), jnp.shape(y)
    if any(len(shape) != 2 or shape[0] < 2 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            "x and y must have shapes [M, num_dims] and [N, num_dims], with M and N at least 2,"
            f" got {shapes[0]} and {shapes[1]}"
        )
    if jnp.ndim(bandwidth) > 1 or not jnp.size(bandwidth):
        raise ValueError(f"bandwidth must be a scalar or [B], got shape {jnp.shape(bandwidth)}")
    check_sizes(chunk_size=chunk_size)
