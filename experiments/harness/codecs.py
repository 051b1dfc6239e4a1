"""How symbols go onto a stack of bits, and come off it again: one codec for each distribution.

Everything that goes into a probability is computed by the same compiled functions, of the same
shapes, in either direction, so that it is the same to the last bit: on one machine, with one
version of everything.
"""

import functools
import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, NamedTuple

import constriction
import jax
import numpy as np

from genjax_models.distributions import Bernoulli, Chain, Reversed

# A probability is a multiple of 2^-22, and neither 0 nor 1; the coder itself has 24 bits.
_UNIT = 2.0**-22
_BIT = constriction.stream.model.Bernoulli(perfect=False)

Stack = Any
"""A `constriction.stream.stack.AnsCoder`."""


class Codec(NamedTuple):
    """How symbols go onto a stack, and come off it again.

    Attributes:
        push: `push(stack, symbols)`.
        pop: `pop(stack) -> symbols`, the inverse.
    """

    push: Callable[[Stack, Any], None]
    pop: Callable[[Stack], Any]


def new_stack(words: np.ndarray, *, seal: bool = False) -> Stack:
    """A stack of these words, with a sentinel on top where it is sealed.

    Args:
        words: uint32.
        seal: keeps words of zeros at the end from being dropped.
    """
    return constriction.stream.stack.AnsCoder(words, seal=seal)


def codec(distribution: Any) -> Codec:
    """The codec of a distribution over binary variables.

    Args:
        distribution: a `Bernoulli`; a `Sequential` one, of which each variable is given those
            before it; or a `Chain` of such, or one `Reversed`.

    Returns:
        The codec; symbols are float32 vectors of zeros and ones, or tuples of them.

    Raises:
        TypeError: another distribution.
    """
    if isinstance(distribution, Reversed):
        inner = _chain(distribution.chain)
        return Codec(
            lambda stack, value: inner.push(stack, value[::-1]),
            lambda stack: inner.pop(stack)[::-1],
        )
    if isinstance(distribution, Chain):
        return _chain(distribution)
    if isinstance(distribution, Bernoulli):
        return _independent(distribution)
    if hasattr(distribution, "next_logits") and len(_shape(distribution)) == 1:
        return _one_by_one(distribution)
    raise TypeError(
        f"a {type(distribution).__name__} has no codec: there is one for Bernoulli variables, for"
        " binary ones drawn one after the other, and for chains of these"
    )


def uniform(num_dims: int, num_symbols: int) -> Codec:
    """Symbols 0..num_symbols - 1, a power of two, of equal probability."""
    family = constriction.stream.model.Uniform(num_symbols)
    return Codec(
        lambda stack, symbols: stack.encode_reverse(np.asarray(symbols, np.int32), family),
        lambda stack: stack.decode(family, num_dims),
    )


class Bins(NamedTuple):
    """Bins of equal probability under a standard normal.

    Attributes:
        edges: [num_bins + 1], the first -inf and the last inf.
        centers: the medians within the bins, [num_bins].
    """

    edges: np.ndarray
    centers: np.ndarray


@functools.cache
def equal_mass_bins(num_bins: int) -> Bins:
    """Bins of probability 1 / num_bins each."""
    quantile = NormalDist().inv_cdf
    inner = [quantile(i / num_bins) for i in range(1, num_bins)]
    centers = [quantile((i + 0.5) / num_bins) for i in range(num_bins)]
    return Bins(np.array([-math.inf, *inner, math.inf]), np.array(centers))


def mass_below(edge: float, loc: float, scale: float) -> float:
    """The probability that N(loc, scale^2) gives to what is below an edge."""
    return 0.5 * math.erfc((loc - edge) / (scale * math.sqrt(2)))


def binned_gaussian(loc: np.ndarray, scale: np.ndarray, bins: Bins) -> Codec:
    """Independent Gaussians, as the bins that they fall into.

    Each bin has at least 2^-24 of the probability, so that every symbol can be pushed.

    Args:
        loc: means, [num_dims], where the bins' own distribution is the standard normal.
        scale: standard deviations, [num_dims].
        bins: see `equal_mass_bins`.
    """
    edges, num_bins, normal = bins.edges.tolist(), len(bins.centers), NormalDist()

    def below(symbol: float, loc: float, scale: float) -> float:
        return mass_below(edges[round(symbol + 0.5)], loc, scale)

    def guess(mass: float, loc: float, scale: float) -> float:
        # Where the search for a symbol begins; it does not decide which is found.
        inside = min(max(mass, 1e-12), 1 - 1e-12)
        return normal.cdf(loc + scale * normal.inv_cdf(inside)) * num_bins - 0.5

    family = constriction.stream.model.CustomModel(below, guess, 0, num_bins - 1)
    return Codec(
        lambda stack, symbols: stack.encode_reverse(
            np.asarray(symbols, np.int32), family, loc, scale
        ),
        lambda stack: stack.decode(family, loc, scale),
    )


def quantized(probabilities: np.ndarray) -> np.ndarray:
    """The nearest multiples of 2^-22 in the open interval from 0 to 1, float64.

    Raises:
        ValueError: a probability is NaN.
    """
    steps = np.rint(np.asarray(probabilities, np.float64) / _UNIT)
    if np.isnan(steps).any():
        raise ValueError("a probability is NaN: the model's parameters cannot be used")
    return np.clip(steps, 1, 1 / _UNIT - 1) * _UNIT


def _independent(distribution: Bernoulli) -> Codec:
    probabilities = quantized(_sigmoid(distribution.logits))
    return Codec(
        lambda stack, x: _push_bits(stack, x, probabilities),
        lambda stack: _pop_bits(stack, probabilities),
    )


def _one_by_one(distribution: Any) -> Codec:
    """Each bit with its probability given those before it."""
    (num_bits,) = _shape(distribution)

    def push(stack: Stack, x: np.ndarray) -> None:
        summary, probability = _first(distribution)
        probabilities = np.zeros(len(x))
        for index, bit in enumerate(np.asarray(x, np.float32)):
            probabilities[index] = probability
            summary, probability = _following(distribution, summary, index, bit)
        _push_bits(stack, x, quantized(probabilities))

    def pop(stack: Stack) -> np.ndarray:
        summary, probability = _first(distribution)
        x = np.zeros(num_bits, np.float32)
        for index in range(num_bits):
            x[index] = _pop_bits(stack, quantized(np.atleast_1d(probability)))[0]
            summary, probability = _following(distribution, summary, index, x[index])
        return x

    return Codec(push, pop)


def _chain(chain: Chain) -> Codec:
    """Layers from first to last come off the stack; from last to first they go onto it."""

    def layer(index: int, before: tuple) -> Codec:
        if index == 0:
            return codec(chain.first)
        conditional = chain.rest[index - 1]
        is_pytree = isinstance(conditional, jax.tree_util.Partial)
        return codec(_call(conditional, before) if is_pytree else conditional(before))

    def push(stack: Stack, value: tuple) -> None:
        for index in reversed(range(len(chain.rest) + 1)):
            layer(index, value[:index]).push(stack, value[index])

    def pop(stack: Stack) -> tuple:
        value: tuple = ()
        for index in range(len(chain.rest) + 1):
            value = (*value, layer(index, value).pop(stack))
        return value

    return Codec(push, pop)


def _push_bits(stack: Stack, x: np.ndarray, probabilities: np.ndarray) -> None:
    stack.encode_reverse(np.asarray(x, np.int32), _BIT, probabilities)


def _pop_bits(stack: Stack, probabilities: np.ndarray) -> np.ndarray:
    return stack.decode(_BIT, probabilities).astype(np.float32)


def _shape(distribution: Any) -> tuple[int, ...]:
    return jax.eval_shape(draw_of, distribution, jax.random.key(0)).shape


def draw_of(distribution: Any, key: jax.Array) -> Any:
    """A draw of any distribution."""
    return distribution.sample(seed=key)


_sigmoid = jax.jit(jax.nn.sigmoid)
_call = jax.jit(lambda conditional, value: conditional(value))


@jax.jit
def _first(distribution: Any) -> tuple[jax.Array, jax.Array]:
    """The summary of no variables, and the first one's probability of a one."""
    summary = distribution.start()
    return summary, jax.nn.sigmoid(distribution.next_logits(summary, 0))


@jax.jit
def _following(
    distribution: Any, summary: jax.Array, index: int, bit: np.float32
) -> tuple[jax.Array, jax.Array]:
    """The summary that has a bit in it, and the probability of the next one."""
    summary = distribution.see(summary, index, bit)
    # After the last there is none: its index is clipped, and nobody looks.
    return summary, jax.nn.sigmoid(distribution.next_logits(summary, index + 1))
