"""Bits-back coding: images onto a stack of bits at the price of the variational bound.

    encode x:  pop z ~ q(z | x),  push x with p(x | z),  push z with p(z)
    decode:    pop z with p(z),   pop x with p(x | z),   push z with q(z | x)

Popping with a distribution draws from it, with the bits of the stack as the source of randomness,
and what was drawn tells the decoder those bits again: they are given back. An image costs
-log p(x | z) - log p(z) + log q(z | x), on average the negative bound.

Source: Townsend et al. 2019 (Practical lossless compression with latent variables using bits back
coding); Hinton & van Camp 1993 (Keeping neural networks simple by minimizing the description
length).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.codecs import (
    Codec,
    Stack,
    binned_gaussian,
    codec,
    draw_of,
    equal_mass_bins,
    new_stack,
    uniform,
)
from genjax_models.distributions import DiagonalGaussian
from genjax_models.interfaces import LatentVariableModel, Params

_MAX_BINS = 2**16


class BitsBack(NamedTuple):
    """What bits-back coding asks of a latent-variable model.

    Attributes:
        prior: of z.
        likelihood: `likelihood(z) -> codec of x`, of the symbols z.
        posterior: `posterior(x) -> codec of z`.
        values: `values(z)`, the z that the model's own functions take.
        num_initial_words: words of 32 bits that the first posterior may draw from.
    """

    prior: Codec
    likelihood: Callable[[Any], Codec]
    posterior: Callable[[np.ndarray], Codec]
    values: Callable[[Any], Any]
    num_initial_words: int


class Coded(NamedTuple):
    """Images on a stack.

    Attributes:
        words: the stack, uint32.
        sizes: its size in bits before the first image and after each, [N + 1].
        zs: the values of z by which each image was coded.
    """

    words: np.ndarray
    sizes: np.ndarray
    zs: list[Any]


class DecodingError(ValueError):
    """A stack that does not hold what it should."""


def push_example(stack: Stack, model: BitsBack, x: np.ndarray) -> Any:
    """Encode one example of zeros and ones; gives back the symbols z."""
    z = model.posterior(x).pop(stack)
    model.likelihood(z).push(stack, x)
    model.prior.push(stack, z)
    return z


def pop_example(stack: Stack, model: BitsBack) -> np.ndarray:
    """Decode the example that was encoded last."""
    z = model.prior.pop(stack)
    x = model.likelihood(z).pop(stack)
    model.posterior(x).push(stack, z)
    return x


def encode(model: BitsBack, xs: np.ndarray, *, seed: int = 0) -> Coded:
    """Put examples on a new stack, the last one first.

    Args:
        model: see `from_model`.
        xs: zeros and ones, [N, num_dims].
        seed: of the random bits that the stack begins with.

    Returns:
        The stack and its sizes.

    Raises:
        ValueError: the examples are not zeros and ones, or the model computes NaN.
        TypeError: the model has a distribution that has no codec.
    """
    if np.ndim(xs) != 2 or len(xs) == 0:
        raise ValueError(f"xs must have shape [N, num_dims], N > 0, got {np.shape(xs)}")
    if not ((xs == 0) | (xs == 1)).all():
        raise ValueError("xs must be zeros and ones")
    stack = new_stack(initial_words(model, seed), seal=True)
    sizes, zs = [stack.num_valid_bits()], []
    for x in xs[::-1]:
        zs.append(model.values(push_example(stack, model, np.asarray(x, np.int32))))
        sizes.append(stack.num_valid_bits())
    return Coded(stack.get_compressed(), np.array(sizes), zs[::-1])


def decode(model: BitsBack, words: np.ndarray, num_examples: int, *, seed: int = 0) -> np.ndarray:
    """Take examples off a stack again.

    Args:
        model: the one that encoded them.
        words: the stack, uint32.
        num_examples: N.
        seed: as of `encode`.

    Returns:
        Zeros and ones, uint8 [N, num_dims].

    Raises:
        DecodingError: what is left is not what the stack began with.
    """
    words = np.asarray(words, np.uint32)
    if not len(words) or not words[-1]:
        raise DecodingError("the words are no stack: it ends in one that is not zero")
    stack = new_stack(words)
    xs = [pop_example(stack, model) for _ in range(num_examples)]
    left = stack.get_compressed()
    if not np.array_equal(left, new_stack(initial_words(model, seed), seal=True).get_compressed()):
        raise DecodingError(
            "the stack does not end in the bits that it began with: it is damaged, or the model is"
            " another, or computes otherwise on this machine"
        )
    return np.array(xs).astype(np.uint8)


def initial_words(model: BitsBack, seed: int) -> np.ndarray:
    """The random words that a stack begins with."""
    # The raw bits of a generator never change between numpy's releases; its methods may.
    raw = np.random.PCG64(seed).random_raw(model.num_initial_words)
    return (raw >> 32).astype(np.uint32)


def check_num_bins(num_bins: int) -> None:
    """Raise a `ValueError` unless it is a power of two in 2..2^16."""
    is_integer = hasattr(num_bins, "__index__")
    if not is_integer or num_bins & (num_bins - 1) or not 2 <= num_bins <= _MAX_BINS:
        raise ValueError(f"num_bins must be a power of two in 2..{_MAX_BINS}, got {num_bins}")


def from_model(
    model: LatentVariableModel, params: Params, num_dims: int, *, num_bins: int = 4096
) -> BitsBack:
    """The codecs of a model of binary x.

    z is either a vector of which prior and posterior are diagonal Gaussians, cut into bins that
    have equal probability under the prior; or binary, with Bernoulli or autoregressive layers, one
    or a `Chain` of them.

    Args:
        model: any such model.
        params: its parameters.
        num_dims: size of x.
        num_bins: of each dimension of a Gaussian z, a power of two. More follow the posterior more
            closely, but each takes at least 2^-24 of its probability.

    Returns:
        The codecs.

    Raises:
        ValueError: a number of bins that is no power of two in 2..2^16.
        TypeError: a Gaussian prior beside a posterior of another kind.
    """
    check_num_bins(num_bins)
    prior = jax.jit(model.prior)(params)
    likelihood_of, posterior_of = jax.jit(model.likelihood), jax.jit(model.posterior)

    def posterior(x: np.ndarray) -> Any:
        return posterior_of(params, np.asarray(x, np.float32))

    kind = jax.eval_shape(model.posterior, params, jnp.zeros(num_dims))
    num_latents = sum(
        leaf.size for leaf in jax.tree.leaves(jax.eval_shape(draw_of, kind, jax.random.key(0)))
    )
    if not isinstance(prior, DiagonalGaussian):
        return BitsBack(
            codec(prior),
            lambda z: codec(likelihood_of(params, z)),
            lambda x: codec(posterior(x)),
            lambda z: z,
            math.ceil(num_latents / 32) + 1,
        )
    if not isinstance(kind, DiagonalGaussian):
        raise TypeError(
            "beside a Gaussian prior the posterior must be a DiagonalGaussian, got a"
            f" {type(kind).__name__}"
        )
    bins = equal_mass_bins(num_bins)
    loc, scale = _moments(prior)

    def values(z: np.ndarray) -> np.ndarray:
        return (loc + scale * bins.centers[z]).astype(np.float32)

    def of_posterior(x: np.ndarray) -> Codec:
        own_loc, own_scale = _moments(posterior(x))
        return binned_gaussian((own_loc - loc) / scale, own_scale / scale, bins)

    return BitsBack(
        uniform(num_latents, num_bins),
        lambda z: codec(likelihood_of(params, values(z))),
        of_posterior,
        values,
        math.ceil(num_latents * math.log2(num_bins) / 32) + 1,
    )


def _moments(gaussian: DiagonalGaussian) -> tuple[np.ndarray, np.ndarray]:
    loc, scale = (np.asarray(part, np.float64) for part in _loc_and_scale(gaussian))
    if not (np.isfinite(loc).all() and np.isfinite(scale).all()):
        raise ValueError("a Gaussian of z is not finite: the model's parameters cannot be used")
    return loc, np.maximum(scale, 1e-9)


@jax.jit
def _loc_and_scale(gaussian: DiagonalGaussian) -> tuple[jax.Array, jax.Array]:
    scale = jnp.exp(gaussian.log_scale.astype(jnp.float32))
    return gaussian.loc.astype(jnp.float32), jnp.broadcast_to(scale, gaussian.loc.shape)
