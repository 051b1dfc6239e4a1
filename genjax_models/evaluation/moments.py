"""Mean and variance of many replicates of a pytree, in the memory of a few."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.checks import check_sizes
from genjax_models.distributions.numerics import at_least_float32
from genjax_models.interfaces import Array, Key, PyTree


class Moments(NamedTuple):
    """Running moments of replicates of a pytree; every pytree has the structure of one replicate.

    Attributes:
        num_replicates: how many, a scalar.
        mean: their mean.
        second: sum of squared deviations from the mean.
        third: sum of cubed deviations.
        fourth: sum of deviations to the fourth.
    """

    num_replicates: Array
    mean: PyTree
    second: PyTree
    third: PyTree
    fourth: PyTree

    @property
    def variance(self) -> PyTree:
        """The sample variance of one replicate, with divisor num_replicates - 1."""
        return jax.tree.map(lambda m2: m2 / (self.num_replicates - 1), self.second)

    @property
    def standard_error(self) -> PyTree:
        """Of the mean: sqrt(variance / num_replicates)."""
        return jax.tree.map(lambda v: jnp.sqrt(v / self.num_replicates), self.variance)

    @property
    def variance_error(self) -> PyTree:
        """The standard error of `variance`: sqrt((m4 - m2^2) / N), m_k the central moments."""

        def error(m2: Array, m4: Array) -> Array:
            excess = m4 / self.num_replicates - (m2 / self.num_replicates) ** 2
            return jnp.sqrt(jnp.maximum(excess, 0) / self.num_replicates)

        return jax.tree.map(error, self.second, self.fourth)


def moments(
    function: Callable[[Key], PyTree],
    key: Key,
    *,
    num_replicates: int,
    batch_size: int = 100,
) -> Moments:
    """Moments of `function(key)` over independent keys.

    Batches of replicates are computed together and merged one after the other: memory is that of
    one batch, and no large sums of squares are ever subtracted.

    Args:
        function: one replicate: a pytree of arrays, e.g. an estimate of a gradient.
        key: PRNG key.
        num_replicates: N >= 2; rounded up to whole batches.
        batch_size: replicates computed together.

    Returns:
        The moments of the replicates.

    Raises:
        ValueError: fewer than two replicates, or a batch size < 1.

    Source: Chan, Golub & LeVeque 1983; Pébay 2008 (Formulas for robust, one-pass parallel
    computation of covariances and arbitrary-order statistical moments), section 2.
    """
    if num_replicates < 2:
        raise ValueError(f"num_replicates must be at least 2, got {num_replicates}")
    check_sizes(batch_size=batch_size)
    batch_size = min(batch_size, num_replicates)

    def add_batch(running: Moments, index: Array) -> tuple[Moments, None]:
        keys = jax.random.split(jax.random.fold_in(key, index), batch_size)
        return merge(running, batch_moments(jax.vmap(function)(keys))), None

    shapes = jax.eval_shape(lambda key: batch_moments(jax.vmap(function)(key[None])), key)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    num_batches = -(-num_replicates // batch_size)
    return jax.lax.scan(add_batch, nothing, jnp.arange(num_batches))[0]


def batch_moments(replicates: PyTree) -> Moments:
    """Moments of replicates that are all at hand: leaves [N, ...].

    Args:
        replicates: a pytree with leading axis [N].

    Returns:
        Their moments.
    """
    replicates = jax.tree.map(at_least_float32, replicates)
    leaf = jax.tree.leaves(replicates)[0]
    mean = jax.tree.map(lambda values: jnp.mean(values, axis=0), replicates)
    deviations = jax.tree.map(lambda values, centre: values - centre, replicates, mean)

    def power(exponent: int) -> PyTree:
        return jax.tree.map(lambda values: jnp.sum(values**exponent, axis=0), deviations)

    count = jnp.asarray(leaf.shape[0], leaf.dtype)
    return Moments(count, mean, power(2), power(3), power(4))


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of two sets of replicates together; either may be empty.

    Args:
        a: moments of some replicates.
        b: moments of others.

    Returns:
        The moments of both together.
    """
    n = a.num_replicates + b.num_replicates
    share_a, share_b = a.num_replicates / n, b.num_replicates / n
    delta = jax.tree.map(lambda x, y: y - x, a.mean, b.mean)
    mean = jax.tree.map(lambda x, d: x + d * share_b, a.mean, delta)

    def second(m2_a: Array, m2_b: Array, d: Array) -> Array:
        return m2_a + m2_b + d**2 * a.num_replicates * share_b

    def third(m3_a: Array, m3_b: Array, m2_a: Array, m2_b: Array, d: Array) -> Array:
        cubic = d**3 * a.num_replicates * share_b * (share_a - share_b)
        return m3_a + m3_b + cubic + 3 * d * (share_a * m2_b - share_b * m2_a)

    def fourth(
        m4_a: Array, m4_b: Array, m3_a: Array, m3_b: Array, m2_a: Array, m2_b: Array, d: Array
    ) -> Array:
        quartic = d**4 * a.num_replicates * share_b * (share_a**2 - share_a * share_b + share_b**2)
        square = 6 * d**2 * (share_a**2 * m2_b + share_b**2 * m2_a)
        return m4_a + m4_b + quartic + square + 4 * d * (share_a * m3_b - share_b * m3_a)

    return Moments(
        n,
        mean,
        jax.tree.map(second, a.second, b.second, delta),
        jax.tree.map(third, a.third, b.third, a.second, b.second, delta),
        jax.tree.map(fourth, a.fourth, b.fourth, a.third, b.third, a.second, b.second, delta),
    )
