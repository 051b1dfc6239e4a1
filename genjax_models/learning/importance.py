"""Importance samples of a latent-variable model, with the parts of their weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.distributions import is_reparameterized
from genjax_models.distributions.numerics import at_least_float32
from genjax_models.interfaces import (
    Array,
    Distribution,
    Key,
    LatentVariableModel,
    Params,
    PyTree,
)


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
            z, log_posterior = _sample_and_log_prob(posterior, key)
        else:
            z = jax.lax.stop_gradient(posterior.sample(seed=key))
            log_posterior = posterior.log_prob(z)
        return ImportanceSamples(
            z,
            _scalar("likelihood", model.likelihood(params, z).log_prob(x)),
            _scalar("prior", prior.log_prob(z)),
            _scalar("posterior", log_posterior),
        )

    return draw


def check_num_samples(num_samples: int, *, at_least: int = 1) -> None:
    """Raise a `ValueError` unless `num_samples` is an integer of at least `at_least`."""
    if not hasattr(num_samples, "__index__") or num_samples < at_least:
        raise ValueError(f"num_samples must be an integer >= {at_least}, got {num_samples!r}")


def check_pathwise(posterior: Any) -> None:
    """Raise a `TypeError` that names the remedy unless samples of `posterior` are pathwise."""
    if not is_reparameterized(posterior):
        raise TypeError(
            f'estimator "pathwise" needs reparameterised samples, but those of the posterior'
            f" ({type(posterior).__name__}) are not differentiable in its parameters:"
            ' use estimator="rloo" (score function with a leave-one-out baseline)'
        )


def _scalar(name: str, log_prob: Array) -> Array:
    """The log-probability in float32 at least, once its shape is known to be []."""
    if jnp.shape(log_prob):
        raise ValueError(
            f"log_prob of the {name} has shape {jnp.shape(log_prob)} for one example, not []:"
            " wrap a batch of independent distributions in"
            " distrax.Independent(..., reinterpreted_batch_ndims=...)"
        )
    return at_least_float32(log_prob)


def _sample_and_log_prob(distribution: Distribution, key: Key) -> tuple[PyTree, Array]:
    if hasattr(distribution, "sample_and_log_prob"):
        return distribution.sample_and_log_prob(seed=key)
    z = distribution.sample(seed=key)
    return z, distribution.log_prob(z)
