"""Gradients through a relaxation of discrete variables: biased, unless f is linear."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.distributions.numerics import sigmoid, softplus
from genjax_models.interfaces import Array, Key, Params
from genjax_models.learning.gradients.core import (
    DistributionOf,
    Function,
    GradientEstimator,
    State,
    check_one_event,
    evaluate,
    held,
)
from genjax_models.learning.gradients.families import is_one_hot, relaxable_logits


class Relaxation(NamedTuple):
    """Discrete variables as a function of continuous ones, z = l + noise, and their soft form.

    Attributes:
        logits: l, of the shape of the event: log-odds, or log-probabilities of one-hot variables.
        one_hot: whether the last axis is one one-hot variable.
    """

    logits: Array
    one_hot: bool

    def noise(self, key: Key) -> Array:
        """Logistic noise for binary variables, Gumbel noise for one-hot ones."""
        draw = jax.random.gumbel if self.one_hot else jax.random.logistic
        return draw(key, self.logits.shape, self.logits.dtype)

    def hard(self, z: Array) -> Array:
        """1[z > 0], or one-hot(argmax z): a sample of the discrete variables."""
        if self.one_hot:
            return jax.nn.one_hot(jnp.argmax(z, axis=-1), z.shape[-1], dtype=z.dtype)
        return (z > 0).astype(z.dtype)

    def soft(self, z: Array, temperature: Array | float) -> Array:
        """The logistic function of z / temperature, or the softmax."""
        return (jax.nn.softmax if self.one_hot else sigmoid)(z / temperature)

    def mean(self) -> Array:
        """The probabilities."""
        return jnp.exp(self.logits) if self.one_hot else sigmoid(self.logits)

    def uniform(self, key: Key) -> Array:
        """Uniform noise in (0, 1), of the shape of the logits."""
        limits = jnp.finfo(self.logits.dtype)
        return jax.random.uniform(
            key, self.logits.shape, self.logits.dtype, minval=limits.tiny, maxval=1 - limits.epsneg
        )

    def conditional(self, v: Array, hard: Array) -> Array:
        """z given the discrete sample, from uniform noise: differentiable in the logits."""
        if not self.one_hot:
            # P(|z| > t) = s(a - t) / s(a) = v, with a the log-odds of the side that z is on.
            odds = jnp.where(hard > 0, self.logits, -self.logits)
            size = softplus(odds + jnp.log1p(-v)) - jnp.log(v)
            return jnp.where(hard > 0, size, -size)
        # The largest z is a standard Gumbel variable; the others are cut at it.
        exponential = jnp.log(-jnp.log(v))
        largest = jnp.sum(hard * exponential, axis=-1, keepdims=True)
        rest = -jnp.logaddexp(exponential - self.logits, largest)
        return jnp.where(hard > 0, -largest, rest)

    def log_prob(self, hard: Array) -> Array:
        """Log-probability of a discrete sample, []."""
        if self.one_hot:
            return jnp.sum(jnp.where(hard > 0, self.logits, 0))
        return -jnp.sum(softplus(jnp.where(hard > 0, -self.logits, self.logits)))


def relaxation(name: str, distribution: DistributionOf, params: Params) -> Relaxation:
    """The relaxation of binary or one-hot variables.

    Args:
        name: of the estimator, for the message.
        distribution: `distribution(params) -> p`.
        params: its parameters.

    Returns:
        The relaxation.

    Raises:
        TypeError: other variables.
        ValueError: a batch of distributions.
    """
    current = distribution(params)
    check_one_event(current)
    return Relaxation(relaxable_logits(current, name), is_one_hot(current))


def biased_straight_through(distribution: DistributionOf, function: Function) -> GradientEstimator:
    """Straight-through: the sample in place of its mean in the chain rule. BIASED.

        g = f'(b) . d mean / d params,  b ~ p

    Unbiased where f is linear in each variable while the others are fixed (products of different
    variables included); elsewhere the bias is of the order of the second derivatives of f, and does
    not vanish with the number of samples.

    Args:
        distribution: `distribution(params) -> p`: Bernoulli or one-hot categorical variables.
        function: f, `function(x) -> []`, differentiable.

    Returns:
        The estimator.

    Raises:
        TypeError: (from the estimator) other variables.

    Source: Bengio et al. 2013 (Estimating or propagating gradients through stochastic neurons),
    section 4.
    """

    def sample(variables: Relaxation, noise: Array) -> Array:
        mean = variables.mean()
        return held(variables.hard(variables.logits + noise)) + mean - held(mean)

    return _relaxed("biased_straight_through", distribution, function, sample)


def biased_gumbel_softmax(
    distribution: DistributionOf, function: Function, *, temperature: float = 0.5
) -> GradientEstimator:
    """Gumbel-softmax, or the concrete distribution: f of a relaxed sample. BIASED.

        g = grad f(softmax((l + gumbel) / temperature)), or s((l + logistic) / temperature)

    The value is that of the relaxed sample, and biased as well. The bias falls with the temperature
    and the variance grows as it does.

    Args:
        distribution: `distribution(params) -> p`: Bernoulli or one-hot categorical variables.
        function: f, `function(x) -> []`, differentiable between the discrete values too.
        temperature: above zero.

    Returns:
        The estimator.

    Raises:
        ValueError: a temperature that is not above zero.
        TypeError: (from the estimator) other variables.

    Source: Jang et al. 2017 (Categorical reparameterization with Gumbel-softmax); Maddison et al.
    2017 (The concrete distribution).
    """
    _check_temperature(temperature)

    def sample(variables: Relaxation, noise: Array) -> Array:
        return variables.soft(variables.logits + noise, temperature)

    return _relaxed("biased_gumbel_softmax", distribution, function, sample)


def biased_straight_through_gumbel_softmax(
    distribution: DistributionOf, function: Function, *, temperature: float = 0.5
) -> GradientEstimator:
    """The discrete sample forwards, the derivative of the relaxed one backwards. BIASED.

        g = f'(hard(z)) . d soft(z / temperature) / d params,  z = l + noise

    The value is that of a discrete sample, and not biased.

    Args:
        distribution: `distribution(params) -> p`: Bernoulli or one-hot categorical variables.
        function: f, `function(x) -> []`, differentiable.
        temperature: above zero.

    Returns:
        The estimator.

    Raises:
        ValueError: a temperature that is not above zero.
        TypeError: (from the estimator) other variables.

    Source: Jang et al. 2017, section 2.2.
    """
    _check_temperature(temperature)

    def sample(variables: Relaxation, noise: Array) -> Array:
        z = variables.logits + noise
        soft = variables.soft(z, temperature)
        return held(variables.hard(z)) + soft - held(soft)

    return _relaxed("biased_straight_through_gumbel_softmax", distribution, function, sample)


def _relaxed(
    name: str,
    distribution: DistributionOf,
    function: Function,
    sample: Callable[[Relaxation, Array], Array],
) -> GradientEstimator:
    def draw(params: Params, state: State, key: Key, num_samples: int) -> Array:
        variables = relaxation(name, distribution, params)
        return jax.vmap(variables.noise)(jax.random.split(key, num_samples))

    def surrogate(params: Params, state: State, draw: Array) -> Array:
        x = sample(relaxation(name, distribution, params), draw)
        return evaluate(function, x, differentiable=True)

    return GradientEstimator(draw, surrogate)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be above zero, got {temperature}")
