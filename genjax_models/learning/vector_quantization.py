"""Learning a codebook together with the encoder and decoder on its two sides."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.distributions.numerics import at_least_float32
from genjax_models.interfaces import Array, Key, Metrics, Params, PyTree, StatefulObjective
from genjax_models.learning import bounds
from genjax_models.learning.importance import bound_metrics, check_weights, scalar_log_prob
from genjax_models.models.latent.vector_quantized import (
    VectorQuantizedVAE,
    code_perplexity,
    quantize,
)

_CODEBOOKS = ("moving_average", "gradient")
_DECAY = 0.99
# A moving count below this is of an entry that is out of use: its quotient would be of noise.
_NOTHING = 1e-18


class CodebookState(NamedTuple):
    """Moving averages of which encodings each entry of the codebook was nearest to.

    Attributes:
        counts: N, how many, [codebook_size].
        sums: s, their sum, [codebook_size, code_dim].
    """

    counts: Array
    sums: Array


class VectorQuantization(NamedTuple):
    """What `training.stateful_gradient_descent` takes.

    Attributes:
        objective: `objective(params, state, key, batch, *, commitment) -> (loss, (state,
            metrics))`.
        init_state: `init_state(params, key) -> state`.
        write_back: `write_back(params, state) -> params`, with the codebook of the state.
    """

    objective: StatefulObjective
    init_state: Callable[[Params, Key], PyTree]
    write_back: Callable[[Params, PyTree], Params]


def vector_quantization(
    model: VectorQuantizedVAE,
    *,
    commitment: float = 0.25,
    codebook: str = "moving_average",
    decay: float = _DECAY,
    smoothing: float = 0.0,
) -> VectorQuantization:
    """The objective of a vector-quantised auto-encoder, with k-means of the encodings inside.

    With the encodings y_m of x, the nearest entries e_m and their one-hot indices z_m:

        loss = mean over the batch of -log p(x | e) - log p(z) + commitment C (+ Q)
        C = mean over m of |y_m - sg[e_m]|^2,   Q = mean over m of |sg[y_m] - e_m|^2

    The decoder sees e, and its derivative goes straight through to y (sg holds constant). The first
    two terms are the negative of a lower bound on log p(x), that of
    `latent.as_latent_variable_model`; the prior learns from it, and nothing else from log p(z).

    - codebook="gradient" adds Q, whose gradient moves the entries towards their encodings.
    - codebook="moving_average" leaves Q out, and after every step has

          N_k <- decay N_k + (1 - decay) n_k,   s_k <- decay s_k + (1 - decay) sum of y near e_k
          e_k = s_k / N_k,  or  s_k / [(N_k + a) / (sum_j N_j + K a) sum_j N_j]

      with the n_k encodings of the batch that are nearest to e_k, and smoothing a. With decay = 0,
      a = 0 and all examples in the batch it is one step of k-means. An entry that is never chosen
      stays where it is; one that is chosen no more stays without smoothing, and goes towards zero
      with it.

    The averages start at zero, so that the first step puts every entry that is chosen onto the mean
    of its encodings.

    Args:
        model: what `latent.vq_vae` gives, or the user's own.
        commitment: weight of C, not below zero; the objective's keyword of that name, for a
            schedule, replaces it.
        codebook: "moving_average" or "gradient".
        decay: of the moving averages, from 0 to below 1.
        smoothing: a, not below zero, of the moving averages too.

    Returns:
        The objective, its initial state, and what writes the codebook back into the parameters:

            vq = vector_quantization(model)
            stateful_gradient_descent(
                vq.objective, optimizer, model.init, vq.init_state, write_back=vq.write_back
            )

        Its key is not used. Metrics, as means over the batch: "bound" (of log p(x), from below),
        "log_likelihood", "kl_divergence" (-log p(z): the posterior has no entropy), "commitment"
        (C), and of the batch's choices "perplexity" and "dead_codes" (entries that nothing chose).

    Raises:
        ValueError: an unknown kind of codebook, a decay out of range, a weight that is negative or
            not finite, or a decay or smoothing without moving averages.

    Source: van den Oord et al. 2017 (Neural discrete representation learning), equation 3 and
    appendix A.1; the smoothing is that of the paper's code.
    """
    check_weights(commitment=commitment, smoothing=smoothing)
    if codebook not in _CODEBOOKS:
        raise ValueError(f"codebook must be one of {list(_CODEBOOKS)}, got {codebook!r}")
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be at least 0 and below 1, got {decay}")
    moves = codebook == "moving_average"
    if not moves and (decay, smoothing) != (_DECAY, 0):
        raise ValueError(
            f"decay and smoothing have no effect with codebook {codebook!r}, got {decay} and"
            f" {smoothing}"
        )

    def init_state(params: Params, key: Key) -> CodebookState | tuple[()]:
        if not moves:
            return ()
        entries = at_least_float32(params["codebook"])
        return CodebookState(jnp.zeros_like(entries[:, 0]), jnp.zeros_like(entries))

    def objective(
        params: Params,
        state: PyTree,
        key: Key,
        batch: PyTree,
        *,
        commitment: float | Array = commitment,
    ) -> tuple[Array, tuple[PyTree, Metrics]]:
        check_weights(commitment=commitment)
        terms = jax.vmap(lambda x: _terms(model, params, x))(batch)
        counts, sums = _assigned(len(params["codebook"]), terms.indices, terms.encodings)
        loss = commitment * terms.commitment - terms.log_likelihood - terms.log_prior
        if moves:
            state = CodebookState(
                decay * state.counts + (1 - decay) * counts,
                decay * state.sums + (1 - decay) * sums,
            )
        else:
            loss = loss + terms.codebook
        # The ELBO of a vector of log weights is their mean, here over the batch.
        metrics = bound_metrics(bounds.elbo, terms.log_likelihood, -terms.log_prior)
        metrics["commitment"] = jnp.mean(terms.commitment)
        metrics["perplexity"] = code_perplexity(counts)
        metrics["dead_codes"] = jnp.sum(counts == 0).astype(counts.dtype)
        return jnp.mean(loss), (state, jax.lax.stop_gradient(metrics))

    def write_back(params: Params, state: PyTree) -> Params:
        if not moves:
            return params
        return params | {"codebook": _quotient(state, params["codebook"], smoothing)}

    return VectorQuantization(objective, init_state, write_back)


def straight_through(encodings: Array, codes: Array) -> Array:
    """The codes, with the derivative of the encodings.

    Args:
        encodings: y, of any shape.
        codes: e, of the same shape.

    Returns:
        e; d/dy is the identity, d/de is zero.

    Source: Bengio et al. 2013 (Estimating or propagating gradients through stochastic neurons).
    """
    # The difference is exactly zero: what the decoder sees is the entry itself.
    return jax.lax.stop_gradient(codes) + (encodings - jax.lax.stop_gradient(encodings))


class _Terms(NamedTuple):
    """Of one example: what the loss is made of, [], its indices [M] and encodings [M, D]."""

    log_likelihood: Array
    log_prior: Array
    commitment: Array
    codebook: Array
    indices: Array
    encodings: Array


def _terms(model: VectorQuantizedVAE, params: Params, x: PyTree) -> _Terms:
    held = jax.lax.stop_gradient
    encodings = model.encode(params, x)
    indices = quantize(held(params["codebook"]), held(encodings))
    codes = params["codebook"][indices]
    likelihood = model.decode(params, straight_through(encodings, codes))
    prior = model.prior(params)
    z = jax.nn.one_hot(indices, len(params["codebook"]), dtype=encodings.dtype)
    return _Terms(
        scalar_log_prob("likelihood", likelihood.log_prob(x)),
        scalar_log_prob("prior", prior.log_prob(z)),
        _mean_squared_distance(encodings, held(codes)),
        _mean_squared_distance(held(encodings), codes),
        indices,
        held(encodings),
    )


def _mean_squared_distance(first: Array, second: Array) -> Array:
    """Squared distances of the rows, as a mean over the rows."""
    return jnp.mean(jnp.sum(jnp.square(at_least_float32(first - second)), axis=1))


def _assigned(codebook_size: int, indices: Array, encodings: Array) -> CodebookState:
    """How many encodings each entry has, and their sums, over all examples and positions."""
    encodings = at_least_float32(encodings).reshape(-1, encodings.shape[-1])
    # A product instead of a scatter: the sums are the same on every run, on any device.
    chosen = jax.nn.one_hot(indices.reshape(-1), codebook_size, dtype=encodings.dtype)
    return CodebookState(
        jnp.sum(chosen, axis=0), jnp.matmul(chosen.T, encodings, precision="highest")
    )


def _quotient(state: CodebookState, codebook: Array, smoothing: float) -> Array:
    """The codebook of the moving averages; an entry that has none yet, or no more, is kept."""
    counts, sums = state
    is_used = counts > _NOTHING
    total = jnp.sum(counts)
    smoothed = (counts + smoothing) / (total + len(counts) * smoothing) * total
    divisor = jnp.where(is_used, smoothed if smoothing else counts, 1)
    return jnp.where(is_used[:, None], sums / divisor[:, None], codebook).astype(codebook.dtype)
