"""What is known of an x that was not seen whole: a part of its dimensions, or all in noise."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.distributions import Bernoulli
from genjax_models.distributions.factorized import check_factorized, log_prob_per_dimension
from genjax_models.distributions.numerics import at_least_float32, check_event
from genjax_models.interfaces import Array, Distribution, Key


class Observation(NamedTuple):
    """y, which depends on x alone, as functions of p(x | z).

    Attributes:
        log_prob: `log_prob(p(x | z)) -> log p(y | z)`, a scalar in nats, up to a constant.
        sample: `sample(p(x | z), key) -> x`, a draw from p(x | z, y).
        mean: `mean(p(x | z)) -> E[x | z, y]`.
    """

    log_prob: Callable[[Distribution], Array]
    sample: Callable[[Distribution, Key], Array]
    mean: Callable[[Distribution], Array]


def missing(x: Array, mask: Array) -> Observation:
    """Some dimensions of x are seen, the others are missing at random.

        log p(y | z) = sum over the observed d of log p(x_d | z)

    Args:
        x: [num_dims]; what stands in the missing dimensions does not matter, it may be NaN.
        mask: [num_dims] bool, true where x is observed.

    Returns:
        The observation; p(x | z) has independent dimensions (see
        `distributions.log_prob_per_dimension`) and a `mean`. Of one whose dimensions depend on
        each other, as of `latent.lossy_vae`, the missing ones would have to be drawn given the
        observed ones: all three functions raise a `TypeError` for it.

    Raises:
        ValueError: the shapes differ, or the mask is not boolean.
    """
    x, mask = jnp.asarray(x), jnp.asarray(mask)
    if x.ndim != 1 or mask.shape != x.shape or mask.dtype != bool:
        raise ValueError(
            "mask must be boolean and have the shape of x, [num_dims], got"
            f" {mask.dtype} {mask.shape} for x {x.shape}"
        )

    # What is missing may be anything: zero in its place keeps NaN out of values and gradients.
    x = jnp.where(mask, x, jnp.zeros_like(x))

    def log_prob(likelihood: Any) -> Array:
        # Zero itself may have no probability.
        return jnp.sum(jnp.where(mask, log_prob_per_dimension(likelihood, x), 0))

    def fill(values: Array) -> Array:
        return jnp.where(mask, x, check_event(values, x).astype(x.dtype))

    def sample(likelihood: Any, key: Key) -> Array:
        check_factorized(likelihood)
        return fill(likelihood.sample(seed=key))

    def mean(likelihood: Any) -> Array:
        check_factorized(likelihood)
        return fill(_mean(likelihood))

    return Observation(log_prob, sample, mean)


def binary_channel(log_channel: Array) -> Observation:
    """A binary x seen through noise that is independent over its dimensions.

        log p(y | z) = sum_d log [p(y_d | x_d = 0) p(x_d = 0 | z) + p(y_d | x_d = 1) p(x_d = 1 | z)]

    A bit that flips with probability f has [log(1 - f), log f] where y_d = 0; Gaussian noise of
    scale s has -(y_d - x_d)^2 / (2 s^2); a missing bit has two equal numbers.

    Args:
        log_channel: log p(y_d | x_d) of the y that was seen, for x_d = 0 and 1, [2, num_dims], up
            to a constant.

    Returns:
        The observation; p(x | z) is a `distributions.Bernoulli`.

    Raises:
        ValueError: not of shape [2, num_dims].
    """
    log_channel = jnp.asarray(log_channel)
    if log_channel.ndim != 2 or log_channel.shape[0] != 2:
        raise ValueError(f"log_channel must have shape [2, num_dims], got {log_channel.shape}")
    zero, one = at_least_float32(log_channel)

    def logits(likelihood: Any) -> Array:
        if not isinstance(likelihood, Bernoulli):
            raise TypeError(
                f"a binary channel is for a Bernoulli p(x | z), got {type(likelihood).__name__}"
            )
        if jnp.shape(likelihood.logits) != zero.shape:
            raise ValueError(
                "p(x | z) must have one logit for each column of log_channel, of shape"
                f" {zero.shape}, got {jnp.shape(likelihood.logits)}"
            )
        return at_least_float32(likelihood.logits)

    def log_prob(likelihood: Any) -> Array:
        log_off, log_on = (
            -jax.nn.softplus(logits(likelihood)),
            -jax.nn.softplus(-logits(likelihood)),
        )
        return jnp.sum(jnp.logaddexp(zero + log_off, one + log_on))

    def given(likelihood: Any) -> Bernoulli:
        return Bernoulli(logits(likelihood) + one - zero)

    return Observation(
        log_prob,
        lambda likelihood, key: given(likelihood).sample(seed=key),
        lambda likelihood: given(likelihood).mean(),
    )


def _mean(likelihood: Any) -> Array:
    if not callable(getattr(likelihood, "mean", None)):
        raise TypeError(f"p(x | z) needs a mean, which a {type(likelihood).__name__} has not")
    return likelihood.mean()
