"""Adaptive weight noise: what the parameters cost, as a part of what is minimised."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from genjax_models.checks import check_sizes
from genjax_models.distributions.numerics import at_least_float32
from genjax_models.interfaces import (
    Array,
    Key,
    LatentVariableModel,
    Metrics,
    Objective,
    Params,
    PyTree,
)
from genjax_models.learning.stateful import StatefulVariational, of_batch

_ENTRY = "weight_noise"


def with_weight_noise(
    model: LatentVariableModel, *, initial_scale: float = 0.01
) -> LatentVariableModel:
    """The model whose parameters know how much noise they bear.

    They have one entry more, "weight_noise": a log standard deviation for every number. The model's
    own functions do not look at it, and so compute with the means.

    Args:
        model: whose parameters are a dict.
        initial_scale: standard deviation to begin with.

    Returns:
        The same model but for `init`.

    Raises:
        ValueError: a scale that is not above zero and finite.
    """
    if not 0 < initial_scale < math.inf:
        raise ValueError(f"initial_scale must be above zero and finite, got {initial_scale}")

    def init(key: Key) -> Params:
        means = model.init(key)
        scales = jax.tree.map(lambda mean: jnp.full_like(mean, math.log(initial_scale)), means)
        return {**means, _ENTRY: scales}

    return model._replace(init=init)


def weight_divergence(params: Params) -> Array:
    """KL(q || p) of noisy parameters and the best Gaussian prior, in nats.

        q(w) = prod_i N(w_i; m_i, s_i^2),  p(w) = prod_i N(w_i; mu, sigma^2) for each array
        mu = mean(m),  sigma^2 = mean(s^2 + (m - mu)^2),  KL = sum_i log(sigma / s_i)

    mu and sigma minimise the divergence, and are not charged for: an array of one number is free.

    Args:
        params: of a model `with_weight_noise`.

    Returns:
        A scalar; not negative but for rounding.

    Source: Graves 2011 (Practical variational inference for neural networks), section 3.2.
    """
    means, log_scales = _split(params)
    return jax.tree.reduce(jnp.add, jax.tree.map(_divergence, means, log_scales))


def adaptive_weight_noise(
    objective: Objective | StatefulVariational, *, num_examples: int
) -> StatefulVariational:
    """An objective at noisy parameters, and the divergence of the noise from the best prior.

        loss = E_q(w)[mean_n loss(w, x_n)] + KL(q || p) / N,   w = m + s * noise

    N times it is the description length of all examples and the parameters, where the loss is one
    of an example; its negative bounds the log evidence from below for the prior that is chosen.
    The noise is drawn once a step, for the whole batch.

    Args:
        objective: of an example, or of a batch with a state, such as `variational` gives; it is
            given the parameters without "weight_noise".
        num_examples: N, in the training set.

    Returns:
        The objective of a batch, for `training.stateful_gradient_descent`, of the parameters of a
        model `with_weight_noise`; the metrics have "weight_divergence", KL / N, too.

    Raises:
        ValueError: fewer than one example.

    Source: Graves 2011, section 3; of DARN, Gregor et al. 2014 ("adaptive weight noise").
    """
    check_sizes(num_examples=num_examples)
    inner = of_batch(objective)

    def noisy(
        params: Params, state: PyTree, key: Key, batch: PyTree, **scheduled: Any
    ) -> tuple[Array, tuple[PyTree, Metrics]]:
        noise_key, key = jax.random.split(key)
        drawn = _draw(*_split(params), noise_key)
        loss, (state, metrics) = inner(drawn, state, key, batch, **scheduled)
        divergence = weight_divergence(params) / num_examples
        return loss + divergence, (state, metrics | {"weight_divergence": divergence})

    return StatefulVariational(lambda params, key: inner.init_state(_split(params)[0], key), noisy)


def _split(params: Params) -> tuple[Params, Params]:
    """Means and log standard deviations."""
    return {name: value for name, value in params.items() if name != _ENTRY}, params[_ENTRY]


def _draw(means: Params, log_scales: Params, key: Key) -> Params:
    leaves, structure = jax.tree.flatten(means)
    keys = jax.tree.unflatten(structure, jax.random.split(key, len(leaves)))

    def draw(mean: Array, log_scale: Array, key: Key) -> Array:
        wide, log_scale = at_least_float32(mean), at_least_float32(log_scale)
        noise = jax.random.normal(key, wide.shape, wide.dtype)
        return (wide + jnp.exp(log_scale) * noise).astype(mean.dtype)

    return jax.tree.map(draw, means, log_scales, keys)


def _divergence(mean: Array, log_scale: Array) -> Array:
    mean, log_scale = at_least_float32(mean), at_least_float32(log_scale)
    if not mean.size:
        return jnp.zeros((), mean.dtype)
    variance = jnp.mean(jnp.exp(2 * log_scale) + jnp.square(mean - jnp.mean(mean)))
    # Of each number, so that large sums do not cancel.
    return jnp.sum(jnp.log(variance) / 2 - log_scale)
