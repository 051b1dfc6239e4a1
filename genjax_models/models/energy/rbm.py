"""The restricted Boltzmann machine (Smolensky 1986; Hinton 2002) on binary data.

    p(v, h) = exp(-E(v, h)) / Z,   E(v, h) = -b.v - c.h - v' W h,   v in {0, 1}^D, h in {0, 1}^H

Parameters are a dict with entries "weights" W [D, H], "visible_bias" b [D] and "hidden_bias" c [H].
Both conditionals are independent Bernoullis. Every function takes one example; `vmap` over chains
turns its products with W into products of matrices.

The tempered machine at inverse temperature beta, between independent pixels and the machine itself,

    log f_beta(v, h) = (1 - beta) r.v - beta E(v, h),

with reference logits r (zero unless given), is what annealing and tempering move through. It is the
geometric path between the joints, so that its marginal over h is in closed form at every beta.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from genjax_models.checks import check_sizes
from genjax_models.distributions.numerics import (
    at_least_float32,
    check_event,
    sigmoid,
    softplus,
    sum_event,
)
from genjax_models.interfaces import AnnealingPath, Array, EnergyModel, Key, Params

MAX_ENUMERATED = 20
"""The most units whose 2^n states are enumerated."""


def rbm(
    *,
    num_dims: int = 784,
    num_hidden: int = 500,
    weight_scale: float = 0.01,
    visible_logits: Array | None = None,
) -> EnergyModel:
    """A restricted Boltzmann machine as an energy model of v, its hidden units summed out.

        energy(v) = -log sum_h exp(-E(v, h)) = -b.v - sum_j softplus(c_j + (v' W)_j)

    Args:
        num_dims: D, binary visible units.
        num_hidden: H, binary hidden units.
        weight_scale: standard deviation of the initial weights, which are normal.
        visible_logits: initial visible biases [D], e.g. `mean_logits(data)`; zero by default. The
            hidden biases start at zero.

    Returns:
        The model; its energy is the free energy of v, in nats.

    Raises:
        ValueError: a size below one, a scale that is not above zero, or logits of another shape
            or not finite.

    Source: Hinton 2012 (A practical guide to training restricted Boltzmann machines), sections 2
    and 8.
    """
    check_sizes(num_dims=num_dims, num_hidden=num_hidden)
    if not 0 < weight_scale < float("inf"):
        raise ValueError(f"weight_scale must be above zero, got {weight_scale}")
    bias = np.zeros(num_dims) if visible_logits is None else np.asarray(visible_logits)
    if bias.shape != (num_dims,) or not np.isfinite(bias).all():
        raise ValueError(
            f"visible_logits must be {num_dims} finite numbers, got shape {bias.shape}"
            f" with {int((~np.isfinite(bias)).sum())} not finite"
        )

    def init(key: Key) -> Params:
        weights = weight_scale * jax.random.normal(key, (num_dims, num_hidden))
        return {
            "weights": weights,
            "visible_bias": jnp.asarray(bias, weights.dtype),
            "hidden_bias": jnp.zeros(num_hidden, weights.dtype),
        }

    return EnergyModel(init, free_energy)


def mean_logits(examples: ArrayLike, *, pseudocount: float = 1.0) -> Array:
    """Log-odds of each dimension's mean over binary examples, kept finite by pseudocounts.

        r_d = log (n_d + a) / (N - n_d + a),   n_d = number of ones

    Independent Bernoullis with these logits are the base-rate model of Salakhutdinov & Murray 2008.

    Args:
        examples: [N, D], values in [0, 1].
        pseudocount: a > 0.

    Returns:
        The logits [D].
    """
    examples = jnp.asarray(examples)
    if examples.ndim != 2 or not pseudocount > 0:
        raise ValueError(
            "mean_logits needs examples [N, D] and a pseudocount above zero, got shape"
            f" {examples.shape} and {pseudocount}"
        )
    ones = jnp.sum(at_least_float32(examples), axis=0)
    return jnp.log(ones + pseudocount) - jnp.log(len(examples) - ones + pseudocount)


def free_energy(params: Params, v: Array) -> Array:
    """F(v) = -b.v - sum_j softplus(c_j + (v' W)_j), so that p(v) = exp(-F(v)) / Z, a scalar.

    Args:
        params: of the machine.
        v: one example [D].

    Returns:
        F(v), a scalar in nats.
    """
    v = _check_visible(params, v)
    linear = sum_event(v * params["visible_bias"])
    return -linear - sum_event(softplus(at_least_float32(hidden_logits(params, v))))


def joint_energy(params: Params, v: Array, h: Array) -> Array:
    """E(v, h) = -b.v - c.h - v' W h, a scalar.

    Args:
        params: of the machine.
        v: one example [D].
        h: hidden units [H].

    Returns:
        E(v, h), a scalar in nats.
    """
    v, h = _check_visible(params, v), check_event(h, params["hidden_bias"])
    return -sum_event(v * params["visible_bias"]) - sum_event(h * hidden_logits(params, v))


def hidden_logits(params: Params, v: Array) -> Array:
    """Log-odds of p(h_j = 1 | v): c + W' v, [H].

    Args:
        params: of the machine.
        v: one example [D].

    Returns:
        The log-odds, [H].
    """
    return params["hidden_bias"] + v @ params["weights"]


def visible_logits(params: Params, h: Array) -> Array:
    """Log-odds of p(v_d = 1 | h): b + W h, [D].

    Args:
        params: of the machine.
        h: hidden units [H].

    Returns:
        The log-odds, [D].
    """
    return params["visible_bias"] + h @ params["weights"].T


def tempered_energy(
    params: Params, v: Array, beta: float | Array, reference: Array | float = 0.0
) -> Array:
    """-log f_beta(v) = -(1 - beta) r.v - beta b.v - sum_j softplus(beta (c_j + (v' W)_j)).

    Args:
        params: of the machine.
        v: one example [D].
        beta: inverse temperature, a scalar; at 1 this is `free_energy`.
        reference: the logits r at beta = 0, [D] or one number.

    Returns:
        The energy, a scalar in nats.
    """
    v = _check_visible(params, v)
    bias = (1 - beta) * reference + beta * params["visible_bias"]
    logits = at_least_float32(hidden_logits(params, v))
    return -sum_event(v * bias) - sum_event(softplus(beta * logits))


def gibbs_kernel(
    params: Params,
    key: Key,
    v: Array,
    beta: float | Array = 1.0,
    reference: Array | float = 0.0,
) -> Array:
    """One step of block Gibbs sampling: h ~ p_beta(h | v), then v ~ p_beta(v | h).

    Leaves p_beta(v), the tempered machine, invariant, and is reversible with respect to it.

    Args:
        params: of the machine.
        key: PRNG key.
        v: one example [D] of zeros and ones.
        beta: inverse temperature, a scalar.
        reference: as in `tempered_energy`.

    Returns:
        The next v, in the dtype of the parameters.
    """
    weights = params["weights"]
    num_dims, num_hidden = weights.shape
    v = _check_visible(params, v)
    hidden_noise, visible_noise = jnp.split(_uniforms(key, num_hidden + num_dims), [num_hidden])
    hidden = beta * at_least_float32(hidden_logits(params, v))
    h = (hidden_noise < sigmoid(hidden)).astype(weights.dtype)
    visible = (1 - beta) * reference + beta * at_least_float32(visible_logits(params, h))
    return (visible_noise < sigmoid(visible)).astype(weights.dtype)


def visible_means(params: Params, key: Key, v: Array) -> Array:
    """E[v' | h] for h ~ p(h | v): what pictures show instead of the next v, [D].

    Args:
        params: of the machine.
        key: PRNG key.
        v: one example [D].

    Returns:
        The means, [D].
    """
    logits = at_least_float32(hidden_logits(params, _check_visible(params, v)))
    h = jax.random.bernoulli(key, sigmoid(logits)).astype(params["weights"].dtype)
    return sigmoid(visible_logits(params, h))


def pseudo_log_likelihood(params: Params, v: Array) -> Array:
    """sum_d log p(v_d | all other dimensions), a scalar in nats: exact, in O(D H), without Z.

    Args:
        params: of the machine.
        v: one example [D].

    Returns:
        The sum, a scalar in nats.
    """
    v = _check_visible(params, v)
    flips = 1 - 2 * v
    logits = hidden_logits(params, v)
    flipped = logits + flips[:, None] * params["weights"]
    gained = jnp.sum(softplus(flipped) - softplus(logits), axis=1)
    # log p(v_d | rest) = -softplus(F(v) - F(v with d flipped)).
    return -sum_event(softplus(flips * params["visible_bias"] + gained))


def annealing_path(params: Params, reference: Array | None = None) -> AnnealingPath:
    """The path from independent pixels to the machine, for annealed importance sampling.

        f_0(v) = 2^H exp(r.v),   f_1(v) = exp(-free_energy(v))

    Args:
        params: of the machine.
        reference: the logits r [D] at the start; those of the data's means bring the start near
            the machine. Zero by default.

    Returns:
        The path; at beta its energy is `tempered_energy`, its kernel `gibbs_kernel`.

    Source: Salakhutdinov & Murray 2008 (On the quantitative analysis of deep belief networks),
    section 4.1, whose base-rate machine has weights of zero.
    """
    bias, num_hidden = params["visible_bias"], params["hidden_bias"].size
    logits = jnp.zeros_like(bias) if reference is None else jnp.asarray(reference, bias.dtype)
    if logits.shape != bias.shape:
        raise ValueError(f"reference must have shape {bias.shape}, got {logits.shape}")

    def sample(key: Key) -> Array:
        return jax.random.bernoulli(key, sigmoid(at_least_float32(logits))).astype(bias.dtype)

    return AnnealingPath(
        sample=sample,
        log_normalizer=sum_event(softplus(logits)) + num_hidden * jnp.log(2.0),
        energy=lambda v, beta: tempered_energy(params, v, beta, logits),
        kernel=lambda key, v, beta: gibbs_kernel(params, key, v, beta, logits),
    )


class _Side(NamedTuple):
    """The smaller layer, whose states are enumerated: biases and weights to the other layer."""

    bias: Array
    other_bias: Array
    weights: Array
    is_visible: bool


def exact_log_partition(params: Params) -> Array:
    """log Z by enumeration of the states of the smaller layer, a scalar in nats.

        log Z = log sum_h exp(c.h + sum_d softplus(b_d + (W h)_d)), or the same with v and h changed

    Args:
        params: of the machine.

    Returns:
        log Z, a scalar in nats.

    Raises:
        ValueError: both layers have more than 20 units.
    """
    return jax.nn.logsumexp(_log_weights(_smaller_side(params)))


def exact_sampler(params: Params) -> Callable[[Key], Array]:
    """`sample(key) -> v`, independent draws of p(v), by enumeration of the smaller layer.

    Args:
        params: of the machine.

    Returns:
        `sample(key) -> v`.

    Raises:
        ValueError: both layers have more than 20 units.
    """
    side = _smaller_side(params)
    log_weights = _log_weights(side)
    dtype = params["weights"].dtype

    def sample(key: Key) -> Array:
        state_key, other_key = jax.random.split(key)
        # Inverse of the distribution function: a Gumbel for each of the states would cost more.
        cumulative = jnp.cumsum(jax.nn.softmax(log_weights))
        index = jnp.searchsorted(
            cumulative, jax.random.uniform(state_key) * cumulative[-1], side="right"
        )
        state = _bits(jnp.minimum(index, log_weights.size - 1), side.bias.size).astype(dtype)
        logits = at_least_float32(side.other_bias + side.weights @ state)
        other = jax.random.bernoulli(other_key, sigmoid(logits)).astype(dtype)
        return state if side.is_visible else other

    return sample


def _smaller_side(params: Params) -> _Side:
    visible, hidden = params["visible_bias"], params["hidden_bias"]
    if min(visible.size, hidden.size) > MAX_ENUMERATED:
        raise ValueError(
            f"enumeration needs a layer of at most {MAX_ENUMERATED} units, got {visible.size}"
            f" visible and {hidden.size} hidden ones: use annealed importance sampling"
        )
    if visible.size <= hidden.size:
        return _Side(visible, hidden, params["weights"].T, True)
    return _Side(hidden, visible, params["weights"], False)


def _log_weights(side: _Side) -> Array:
    """Log of the unnormalised marginal of every state of the smaller layer, [2^n]."""

    def log_weight(index: Array) -> Array:
        state = _bits(index, side.bias.size).astype(side.bias.dtype)
        logits = side.other_bias + side.weights @ state
        return sum_event(state * side.bias) + sum_event(softplus(at_least_float32(logits)))

    # Some states at a time: all of them would need 2^n times the other layer.
    return jax.lax.map(log_weight, jnp.arange(2**side.bias.size), batch_size=1024)


def _bits(index: Array, num_bits: int) -> Array:
    return index >> jnp.arange(num_bits) & 1


def _check_visible(params: Params, v: Array) -> Array:
    return check_event(v, params["visible_bias"]).astype(params["weights"].dtype)


def _uniforms(key: Key, num: int) -> Array:
    """Uniform numbers in [0, 1), [num], two from each 32 random bits.

    Random bits would be a fifth of the time of a Gibbs step. A word and the word with its halves
    swapped are each uniform; the pair is independent but for the event, of probability 2^-16, that
    the upper half alone does not decide a comparison: Bernoulli variables made of them have the
    right means, and covariances below 2^-15 within a pair.
    """
    words = jax.random.bits(key, (-(-num // 2),), jnp.uint32)
    swapped = (words << 16) | (words >> 16)
    upper = jnp.concatenate([words, swapped])[:num] >> 8
    return upper.astype(jnp.float32) * jnp.float32(2**-24)
