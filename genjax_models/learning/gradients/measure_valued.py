"""Measure-valued gradients: a derivative of a density as a difference of two densities."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.distributions.numerics import at_least_float32, sigmoid
from genjax_models.interfaces import Array, Key, Params
from genjax_models.learning.gradients.core import (
    DistributionOf,
    Function,
    GradientEstimator,
    State,
    check_one_event,
    evaluate,
    held,
    linear,
)
from genjax_models.learning.gradients.families import (
    ANYWHERE,
    as_indices,
    binary_logits,
    gaussian_parameters,
    kind,
    logits_of,
    name_of,
    unwrapped,
)


class WeakDerivative(NamedTuple):
    """The derivative in a parameter t of each coordinate, dp/dt = coefficient (p_plus - p_minus).

    Attributes:
        coefficient: a normalising constant, of the shape of the parameter: that of the event, or
            with a last axis more (the logits of categories).
        plus: a draw from p_plus for each, of the same shape.
        minus: a draw from p_minus.
        others: the sample of the event whose other coordinates stand beside `minus`.
    """

    coefficient: Array
    plus: Array
    minus: Array
    others: Array


class MeasureDraw(NamedTuple):
    """One draw of the measure-valued estimator.

    Attributes:
        x: a sample of the distribution itself; indices for one-hot vectors.
        gradients: coefficient (f(x_plus) - f(x_minus)) for each parameter of the distribution.
    """

    x: Array
    gradients: tuple[Array, ...]


def measure_valued(
    distribution: DistributionOf, function: Function, *, coupled: bool = True
) -> GradientEstimator:
    """The difference of f under two distributions, weighted. Unbiased; f need not be continuous.

        dp/dt = c (p_plus - p_minus),  g = c [f(x_plus) - f(x_minus)]

    | p | t | c | p_plus | p_minus | coupled |
    |---|---|---|---|---|---|
    | Gaussian | mean m | 1 / (s sqrt(2 pi)) | m + s R | m - s R, R Rayleigh | the same R |
    | Gaussian | scale s | 1 / s | m + s M, M two-sided Maxwell | m + s N | N = M U, U uniform |
    | Poisson | rate | 1 | X + 1 | X | the same X |
    | Gamma | rate b | a / b | Gamma(a, b) | Gamma(a + 1, b) | X and X + Exponential(b) |
    | Gamma | concentration a | sqrt(pi / (b Y)) | X + Y, Y ~ Gamma(1/2, b) | X | the same X |
    | Bernoulli | logit | p (1 - p) | 1 | 0 | |
    | categorical, one-hot | logit k | p_k (1 - p_k) | k | p without k | |

    Of a vector with independent coordinates each is replaced in turn, while the others keep a
    sample of the distribution: the same one on both sides where coupled. That takes two
    evaluations of f for each coordinate and parameter, and one more for the value.

    The derivative in the concentration of a Gamma is that of the Gamma process, d/da E[f(X)] =
    int E[f(X + y) - f(X)] e^(-b y) / y dy, with y from Gamma(1/2, b) and its weight. The measure
    e^(-b y) / y dy of jumps is infinite: two sides with random numbers of their own would have
    infinite variance, and this row is always coupled.

    Args:
        distribution: `distribution(params) -> p`: Gaussian, Poisson, Gamma, Bernoulli or
            categorical, one coordinate or several independent ones.
        function: f, `function(x) -> []`.
        coupled: whether the two sides share their random numbers.

    Returns:
        The estimator.

    Raises:
        TypeError: (from the estimator) another distribution.
        ValueError: (from the estimator) a batch of distributions.

    Source: Pflug 1989; Heidergott et al. 2008 (Gaussian); Mohamed et al. 2020, section 6 and
    table 1; Rosca et al. 2019 (Measure-valued derivatives for approximate Bayesian inference).
    """

    def draw(params: Params, state: State, key: Key, num_samples: int) -> MeasureDraw:
        current = distribution(params)
        check_one_event(current)
        derivatives = _weak_derivatives(current)

        to_indices, to_event = as_indices(current)

        def cost(x: Array) -> Array:
            return evaluate(function, to_event(x))

        def one(key: Key) -> MeasureDraw:
            x_key, minus_key, side_key = jax.random.split(key, 3)
            x = to_indices(current.sample(seed=x_key))
            other = x if coupled else to_indices(current.sample(seed=minus_key))
            found = derivatives(side_key, coupled, x, other)
            return MeasureDraw(x, tuple(_difference(cost, x, d) for d in found))

        return held(jax.vmap(one)(jax.random.split(key, num_samples)))

    def surrogate(params: Params, state: State, draw: MeasureDraw) -> Array:
        current = distribution(params)
        _, to_event = as_indices(current)
        return evaluate(function, to_event(draw.x)) + linear(draw.gradients, _parameters(current))

    return GradientEstimator(draw, surrogate)


def _difference(function: Function, x: Array, found: WeakDerivative) -> Array:
    """c [f(x with one coordinate of p_plus) - f(others with one of p_minus)], by parameter."""
    num_coordinates = x.size
    per_coordinate = found.plus.size // num_coordinates
    coordinate = jnp.repeat(jnp.arange(num_coordinates), per_coordinate)

    def replaced(base: Array, values: Array) -> Array:
        flat = jnp.ravel(base)

        def one(index: Array, value: Array) -> Array:
            changed = flat.at[index].set(value.astype(flat.dtype))
            return function(jnp.reshape(changed, base.shape))

        return jax.vmap(one)(coordinate, jnp.ravel(values))

    difference = replaced(x, found.plus) - replaced(found.others, found.minus)
    return found.coefficient * jnp.reshape(difference, found.coefficient.shape)


Sides = Callable[[Key, bool, Array, Array], tuple[WeakDerivative, ...]]
"""`sides(key, coupled, x, other)`: the derivatives, given samples x and `other` of p."""


def _parameters(distribution: Any) -> tuple[Array, ...]:
    """The parameters that a density is differentiated in, in the order of its derivatives."""
    gaussian = gaussian_parameters(distribution)
    if gaussian is not None:
        return gaussian
    inner = unwrapped(distribution)
    name = kind(inner)
    if name == "Bernoulli":
        return (binary_logits(inner, "measure_valued"),)
    if name in ("Categorical", "OneHotCategorical"):
        return (jax.nn.log_softmax(logits_of(inner)),)
    if name == "Poisson":
        return (_rate(inner),)
    if name == "Gamma":
        return tuple(jnp.broadcast_arrays(at_least_float32(inner.concentration), _rate(inner)))
    raise TypeError(
        "measure_valued is for independent Gaussian, Poisson, Gamma, Bernoulli or categorical"
        f" variables, got a {name_of(distribution)}: {ANYWHERE}"
    )


def _rate(distribution: Any) -> Array:
    """The rate, which TFP leaves out where it was given as a logarithm."""
    if distribution.rate is None:
        return jnp.exp(at_least_float32(distribution.log_rate))
    return at_least_float32(distribution.rate)


def _weak_derivatives(distribution: Any) -> Sides:
    parameters = _parameters(distribution)
    if gaussian_parameters(distribution) is not None:
        return _gaussian(*parameters)
    name = kind(unwrapped(distribution))
    makers: dict[str, Callable[..., Sides]] = {
        "Bernoulli": _bernoulli,
        "Categorical": _categorical,
        "Gamma": _gamma,
        "OneHotCategorical": _categorical,
        "Poisson": _poisson,
    }
    return makers[name](*parameters)


def _gaussian(loc: Array, scale: Array) -> Sides:
    def sides(key: Key, coupled: bool, x: Array, other: Array) -> tuple[WeakDerivative, ...]:
        plus_key, minus_key, maxwell_key, last_key = jax.random.split(key, 4)
        shape, dtype = loc.shape, loc.dtype
        above = _rayleigh(plus_key, shape, dtype)
        below = above if coupled else _rayleigh(minus_key, shape, dtype)
        coefficient = 1 / (scale * math.sqrt(2 * math.pi))
        mean = WeakDerivative(coefficient, loc + scale * above, loc - scale * below, other)
        # Two-sided, with the density x^2 e^(-x^2 / 2) / sqrt(2 pi): a chi variable with a sign.
        wide = _two_sided_maxwell(maxwell_key, shape, dtype)
        if coupled:
            narrow = wide * jax.random.uniform(last_key, shape, dtype)
        else:
            narrow = jax.random.normal(last_key, shape, dtype)
        spread = WeakDerivative(1 / scale, loc + scale * wide, loc + scale * narrow, other)
        return mean, spread

    return sides


def _poisson(rate: Array) -> Sides:
    def sides(key: Key, coupled: bool, x: Array, other: Array) -> tuple[WeakDerivative, ...]:
        return (WeakDerivative(jnp.ones_like(rate), x + 1, other, other),)

    return sides


def _gamma(concentration: Array, rate: Array) -> Sides:
    def sides(key: Key, coupled: bool, x: Array, other: Array) -> tuple[WeakDerivative, ...]:
        jump_key, step_key = jax.random.split(key)
        shape, dtype = concentration.shape, concentration.dtype
        jump = jax.random.gamma(jump_key, 0.5, shape, dtype)
        jump = jnp.maximum(jump, jnp.finfo(dtype).tiny)
        weight = jnp.sqrt(math.pi / jump)
        # Always coupled: f(x + y) - f(x) vanishes with y, where the weight does not.
        more = WeakDerivative(weight, x + jump / rate, x, x)
        step = jax.random.exponential(step_key, shape, dtype) / rate
        faster = WeakDerivative(concentration / rate, x, other + step, other)
        return more, faster

    return sides


def _bernoulli(logits: Array) -> Sides:
    def sides(key: Key, coupled: bool, x: Array, other: Array) -> tuple[WeakDerivative, ...]:
        coefficient = sigmoid(logits) * sigmoid(-logits)
        ones = jnp.ones_like(logits)
        return (WeakDerivative(coefficient, ones, 0 * ones, other),)

    return sides


def _categorical(logits: Array) -> Sides:
    num_categories = logits.shape[-1]
    others = jnp.eye(num_categories, dtype=bool)

    def sides(key: Key, coupled: bool, x: Array, other: Array) -> tuple[WeakDerivative, ...]:
        probabilities = jnp.exp(logits)
        remaining = jnp.where(others, -jnp.inf, logits[..., None, :])
        minus = jax.random.categorical(key, remaining, axis=-1)
        plus = jnp.broadcast_to(jnp.arange(num_categories), logits.shape)
        coefficient = probabilities * -jnp.expm1(logits)
        return (WeakDerivative(coefficient, plus, minus, other),)

    return sides


def _rayleigh(key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
    return jnp.sqrt(2 * jax.random.exponential(key, shape, dtype))


def _two_sided_maxwell(key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
    size_key, sign_key = jax.random.split(key)
    size = jnp.linalg.norm(jax.random.normal(size_key, (3, *shape), dtype), axis=0)
    return size * jax.random.rademacher(sign_key, shape, dtype)
