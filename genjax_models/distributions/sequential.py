"""Variables that are drawn one after the other, each given a summary of those before it."""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from genjax_models.distributions.numerics import at_least_float32
from genjax_models.interfaces import Array, Key


class Sequential(Protocol):
    """A distribution whose variables depend on those before them through a summary."""

    def start(self) -> Array:
        """The summary of no variables."""

    def next_logits(self, summary: Array, index: int | Array) -> Array:
        """Logits of variable `index` given the summary of those before it."""

    def see(self, summary: Array, index: int | Array, x: Array) -> Array:
        """The summary that has variable `index` in it."""


def one_by_one(
    distribution: Sequential, choose: Callable[[Array, Array], Array], noise: Array
) -> Array:
    """Every variable `choose(logits, noise)` given those before it; of the noise's shape."""
    # A traced index is not for numpy's arrays; a leaf may be a function too.
    distribution = jax.tree.map(
        lambda leaf: leaf if callable(leaf) else jnp.asarray(leaf), distribution
    )

    def choose_next(summary: Array, variable: tuple[Array, Array]) -> tuple[Array, Array]:
        index, noise = variable
        x = choose(distribution.next_logits(summary, index), noise).astype(summary.dtype)
        return distribution.see(summary, index, x), x

    _, x = jax.lax.scan(choose_next, distribution.start(), (jnp.arange(len(noise)), noise))
    return x


def sample_bits(distribution: Sequential, like: Array, *, seed: Key) -> Array:
    """A draw of a binary distribution, of the shape [D] and dtype of `like`."""
    noise = jax.random.logistic(seed, like.shape, at_least_float32(like).dtype)
    # u < sigmoid(l) for a uniform u where a logistic variable is below l.
    x = one_by_one(distribution, lambda logit, noise: noise < logit, noise)
    return x.astype(jnp.result_type(like))


def mean_field_bits(distribution: Sequential, like: Array) -> Array:
    """Each probability of a one, those before it at their own; as `like`.

    The exact mean is a sum over all states, and this its mean-field approximation; the two are
    equal where no variable depends on another.
    """
    x = one_by_one(distribution, lambda logit, _: jax.nn.sigmoid(logit), at_least_float32(like))
    return x.astype(jnp.result_type(like))
