"""Importance samples of a latent-variable model, with the parts of their weights."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp

from genjax_models.distributions import has_log_prob, is_reparameterized, sample_and_log_prob
from genjax_models.distributions.numerics import at_least_float32
from genjax_models.interfaces import (
    Array,
    Distribution,
    Key,
    LatentVariableModel,
    Metrics,
    Params,
    Posterior,
    PyTree,
)

Parts = TypeVar("Parts")


class ImportanceSamples(NamedTuple):
    """Samples z_k ~ q(z | x) and the parts of their log weights, each with leading axis [K].

    Attributes:
        z: the samples, [K, ...] for each leaf.
        log_likelihood: log p(x | z_k), [K], in nats.
        log_prior: log p(z_k), [K].
        log_posterior: log q(z_k | x), [K].
    """

    z: PyTree
    log_likelihood: Array
    log_prior: Array
    log_posterior: Array

    @property
    def log_weights(self) -> Array:
        """log w_k = log p(x | z_k) + log p(z_k) - log q(z_k | x), [K], in nats."""
        return self.log_likelihood + self.log_prior - self.log_posterior


class WeightParts(NamedTuple):
    """What an objective keeps of a sample: the parts of its log weight, each [K].

    Attributes:
        log_likelihood: log p(x | z_k), in nats.
        log_prior: log p(z_k).
        log_posterior: log q(z_k | x).
        slot: zeros; its cotangent scales that of z_k where the sampler says so.
    """

    log_likelihood: Array
    log_prior: Array
    log_posterior: Array
    slot: Array


def importance_samples(
    model: LatentVariableModel, params: Params, key: Key, x: PyTree, num_samples: int
) -> ImportanceSamples:
    """Draw K importance samples for one x, with the approximate posterior as the proposal.

    Args:
        model: any latent-variable model.
        params: its parameters.
        key: PRNG key; sample k uses `jax.random.split(key, num_samples)[k]`.
        x: one example.
        num_samples: K >= 1.

    Returns:
        The samples and the parts of their log weights.

    Raises:
        ValueError: K < 1, or a log-probability is not a scalar.
    """
    check_num_samples(num_samples)
    draw = importance_sampler(model, params, x)
    return jax.vmap(draw)(jax.random.split(key, num_samples))


def log_weights(
    model: LatentVariableModel, params: Params, key: Key, x: PyTree, num_samples: int
) -> Array:
    """K log weights log p(x, z_k) - log q(z_k | x) of one x, z_k ~ q(z | x).

    Args:
        model: any latent-variable model.
        params: its parameters.
        key: PRNG key.
        x: one example.
        num_samples: K >= 1.

    Returns:
        Log weights, shape [K], in nats.

    Raises:
        ValueError: K < 1, or a log-probability is not a scalar.
    """
    return importance_samples(model, params, key, x, num_samples).log_weights


def importance_sampler(
    model: LatentVariableModel, params: Params, x: PyTree, *, pathwise: bool = True
) -> Callable[[Key], ImportanceSamples]:
    """The function that draws one sample and the parts of its weight, all without the axis [K].

    Args:
        model: any latent-variable model.
        params: its parameters.
        x: one example.
        pathwise: differentiate through the sample. Otherwise the sample is a constant, and the
            gradient of `log_posterior` is the score.

    Returns:
        `draw(key) -> ImportanceSamples` with leaves of one sample.
    """
    prior, posterior = model.prior(params), model.posterior(params, x)

    def draw(key: Key) -> ImportanceSamples:
        if pathwise:
            z, log_posterior = sample_and_log_prob(posterior, seed=key)
        else:
            z = jax.lax.stop_gradient(posterior.sample(seed=key))
            log_posterior = cast(Distribution, posterior).log_prob(z)
        return ImportanceSamples(
            z,
            scalar_log_prob("likelihood", model.likelihood(params, z).log_prob(x)),
            scalar_log_prob("prior", prior.log_prob(z)),
            scalar_log_prob("posterior", log_posterior),
        )

    return draw


def part_sampler(
    model: LatentVariableModel, params: Params, x: PyTree, *, pathwise: bool
) -> Callable[[Key], WeightParts]:
    """As `importance_sampler`, for the parts of the weight alone."""
    draw = importance_sampler(model, params, x, pathwise=pathwise)

    def draw_weight(key: Key) -> WeightParts:
        _, log_likelihood, log_prior, log_posterior = draw(key)
        slot = jnp.zeros_like(log_posterior)
        return WeightParts(log_likelihood, log_prior, log_posterior, slot)

    return draw_weight


def draw_parts(
    draw: Callable[[Key], Parts], key: Key, num_samples: int, chunk_size: int | None = None
) -> Parts:
    """K draws of the parts of a log weight, held all at once or a chunk at a time.

    With a chunk size, memory forward and backward is that of one chunk: the backward pass computes
    each chunk anew, for one more forward pass in all. The draws and the gradient are the same.

    Args:
        draw: `draw(key) -> parts` of one sample, a pytree of scalars.
        key: PRNG key; sample k uses `jax.random.split(key, num_samples)[k]`.
        num_samples: K.
        chunk_size: samples held at a time, a divisor of K; None for all.

    Returns:
        The parts, each [K].
    """
    if chunk_size is None or chunk_size == num_samples:
        return jax.vmap(draw)(jax.random.split(key, num_samples))

    def draw_chunk(indices: Array) -> Parts:
        # fold_in(key, k) is split(key, K)[k], without holding K keys.
        return jax.vmap(lambda index: draw(jax.random.fold_in(key, index)))(indices)

    # Nothing of a chunk but its parts is kept for the backward pass.
    chunk = jax.checkpoint(draw_chunk, prevent_cse=False)
    indices = jnp.arange(num_samples).reshape(-1, chunk_size)
    parts = jax.lax.scan(lambda carry, chunk_of: (carry, chunk(chunk_of)), (), indices)[1]
    return jax.tree.map(lambda leaf: leaf.reshape(num_samples), parts)


def temper(log_likelihood: Array, divergence: Array, beta: float | Array) -> Array:
    """Log weights log p(x | z_k) - beta [log q(z_k | x) - log p(z_k)].

    Args:
        log_likelihood: log p(x | z_k), [K].
        divergence: the bracket, [K], or its expectation, [].
        beta: weight of the bracket, a scalar.

    Returns:
        Log weights, [K]. Where p(z_k) is zero they are -inf for every beta, zero included, and
        without derivative.
    """
    is_impossible = jnp.isposinf(divergence)
    # Double where: zero times infinity, here and in the derivative in beta, is not a number.
    finite = jnp.where(is_impossible, 0, divergence)
    return jnp.where(is_impossible, -jnp.inf, log_likelihood - beta * finite)


def bound_metrics(
    bound: Callable[[Array], Array], log_likelihood: Array, divergence: Array
) -> Metrics:
    """What every variational objective reports, without derivatives.

    Args:
        bound: from log weights [K] to a scalar.
        log_likelihood: log p(x | z_k), [K].
        divergence: log q(z_k | x) - log p(z_k), [K], or its expectation, [].

    Returns:
        "bound" (with beta = 1), "log_likelihood" and "kl_divergence".
    """
    metrics = {
        "bound": bound(log_likelihood - divergence),
        "log_likelihood": jnp.mean(log_likelihood),
        "kl_divergence": jnp.mean(divergence),
    }
    return jax.lax.stop_gradient(metrics)


def check_num_samples(num_samples: int, *, at_least: int = 1) -> None:
    """Raise a `ValueError` unless `num_samples` is an integer of at least `at_least`."""
    if not hasattr(num_samples, "__index__") or num_samples < at_least:
        raise ValueError(f"num_samples must be an integer >= {at_least}, got {num_samples!r}")


def check_weights(**weights: float | Array) -> None:
    """Raise a `ValueError` that names a weight which is negative or not finite, where it is known.

    The value of a scheduled weight is not known while the objective is compiled.
    """
    for name, value in weights.items():
        if isinstance(value, jax.core.Tracer):
            continue
        if not 0 <= float(value) < float("inf"):
            raise ValueError(f"{name} must be finite and not negative, got {value}")


def check_chunk_size(chunk_size: int | None, num_samples: int) -> None:
    """Raise a `ValueError` unless `chunk_size` is None or divides `num_samples`."""
    if chunk_size is None:
        return
    if not hasattr(chunk_size, "__index__") or chunk_size < 1 or num_samples % chunk_size:
        raise ValueError(f"chunk_size must divide num_samples, {num_samples}, got {chunk_size!r}")


def check_pathwise(posterior: Any, estimator: str = "pathwise") -> None:
    """Raise a `TypeError` that names the remedy unless samples of `posterior` are pathwise."""
    if not is_reparameterized(posterior):
        raise TypeError(
            f'estimator "{estimator}" needs reparameterised samples, but those of the posterior'
            f" ({type(posterior).__name__}) are not differentiable in its parameters:"
            ' use estimator="rloo" (score function with a leave-one-out baseline)'
        )


def check_log_prob(posterior: Posterior, estimator: str) -> Distribution:
    """The posterior; raises a `TypeError` that names the remedy unless it has a `log_prob`."""
    if not has_log_prob(posterior):
        raise TypeError(
            f'estimator "{estimator}" needs log_prob of the posterior, which a'
            f' {type(posterior).__name__} does not have: use estimator="pathwise"'
        )
    return cast(Distribution, posterior)


def check_weighable(posterior: Any) -> None:
    """Raise a `TypeError` that names the remedy unless samples come with a log-probability."""
    if not (hasattr(posterior, "sample_and_log_prob") or hasattr(posterior, "log_prob")):
        raise TypeError(
            f"the posterior ({type(posterior).__name__}) has neither sample_and_log_prob nor"
            " log_prob, so that its samples have no weight: give it one of the two, or use"
            ' kl="analytic"'
        )


def scalar_log_prob(name: str, log_prob: Array) -> Array:
    """The log-probability in float32 at least, once its shape is known to be []."""
    if jnp.shape(log_prob):
        raise ValueError(
            f"log_prob of the {name} has shape {jnp.shape(log_prob)} for one example, not []:"
            " wrap a batch of independent distributions in"
            " distrax.Independent(..., reinterpreted_batch_ndims=...)"
        )
    return at_least_float32(log_prob)
