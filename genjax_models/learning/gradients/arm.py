"""ARM, DisARM and multi-pair DisARM: antithetic pairs of binary samples."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.checks import check_sizes
from genjax_models.distributions.numerics import sigmoid
from genjax_models.interfaces import Array, Key, Params
from genjax_models.learning.gradients.core import (
    DistributionOf,
    Function,
    GradientEstimator,
    State,
    check_one_event,
    evaluate,
    linear,
)
from genjax_models.learning.gradients.families import binary_logits


class PairDraw(NamedTuple):
    """One antithetic pair.

    Attributes:
        first: a sample, [...] of the logits' shape.
        second: another; each has the right distribution, but they are dependent.
        gradient: in the logits.
    """

    first: Array
    second: Array
    gradient: Array


def arm(distribution: DistributionOf, function: Function) -> GradientEstimator:
    """Augment-REINFORCE-merge, for binary variables. Unbiased; f need not be differentiable.

        g = [f(1[u > s(-l)]) - f(1[u < s(l)])] (u - 1/2),  u ~ U(0, 1)^D, s the logistic function

    Two evaluations of f for each draw, on two samples whose mean is the value of the surrogate.

    Args:
        distribution: `distribution(params) -> p`: independent Bernoulli variables, with logits l.
        function: f, `function(x) -> []`.

    Returns:
        The estimator.

    Raises:
        TypeError: (from the estimator) variables that are not binary.

    Source: Yin & Zhou 2019 (ARM: Augment-REINFORCE-merge gradient), theorem 1.
    """

    def gradient(logits: Array, u: Array, first: Array, second: Array, difference: Array) -> Array:
        return difference * (u - 0.5)

    return _antithetic("arm", distribution, function, gradient)


def disarm(distribution: DistributionOf, function: Function) -> GradientEstimator:
    """DisARM, or U2G: ARM with the uniform noise summed out. Unbiased, and varies less than ARM.

        g_d = (f(b) - f(c)) / 2 * (-1)^(c_d) 1[b_d != c_d] s(|l_d|),
        b = 1[u > s(-l)], c = 1[u < s(l)]

    Two evaluations of f for each draw.

    Args:
        distribution: `distribution(params) -> p`: independent Bernoulli variables, with logits l.
        function: f, `function(x) -> []`.

    Returns:
        The estimator.

    Raises:
        TypeError: (from the estimator) variables that are not binary.

    Source: Dong et al. 2020 (DisARM), equation 7; Yin et al. 2020 (U2G).
    """

    def gradient(logits: Array, u: Array, first: Array, second: Array, difference: Array) -> Array:
        return difference * pair_weight(logits, first, second)

    return _antithetic("disarm", distribution, function, gradient)


def multi_pair_disarm(
    distribution: DistributionOf,
    function: Function,
    *,
    combine: Callable[[Array], Array],
    num_pairs: int,
) -> GradientEstimator:
    """DisARM for a symmetric function of K samples, such as a multi-sample bound. Unbiased.

        grad E[F(f(b_1), ..., f(b_K))],
        g = sum_k w(b_k, c_k) / 2 sum_{o in {b, c}} [F(f(b_k), f(o_-k)) - F(f(c_k), f(o_-k))]

    with K antithetic pairs (b_k, c_k), and w(b, c) = (-1)^c 1[b != c] s(|l|) / 2. The other samples
    are those of all first or all second members, and both choices are averaged. 2 K evaluations of
    f; the value is the mean of F over the first and over the second members.

    Args:
        distribution: `distribution(params) -> p`: independent Bernoulli variables, with logits l.
        function: f, `function(x) -> []`, e.g. a log weight.
        combine: F, [K] -> [], symmetric in its arguments, e.g. `bounds.iwae`.
        num_pairs: K >= 1; each of the estimator's samples takes K pairs.

    Returns:
        The estimator.

    Raises:
        ValueError: no pair.
        TypeError: (from the estimator) variables that are not binary.

    Source: Dong et al. 2020 (DisARM), section 3.2.
    """
    check_sizes(num_pairs=num_pairs)

    def draw(params: Params, state: State, key: Key, num_samples: int) -> PairDraw:
        logits = _logits("multi_pair_disarm", distribution, params)

        def one(key: Key) -> PairDraw:
            _, b, c = _pair(key, logits, (num_pairs,))
            costs_b, costs_c = costs(b), costs(c)

            def difference(others: Array, index: Array) -> Array:
                with_b = combine(others.at[index].set(costs_b[index]))
                return with_b - combine(others.at[index].set(costs_c[index]))

            indices = jnp.arange(num_pairs)
            differences = jax.vmap(jax.vmap(difference, (None, 0)), (0, None))(
                jnp.stack([costs_b, costs_c]), indices
            )
            weights = jax.vmap(pair_weight, (None, 0, 0))(logits, b, c)
            return PairDraw(b, c, jnp.tensordot(differences.mean(axis=0), weights, 1))

        return jax.vmap(one)(jax.random.split(key, num_samples))

    def costs(samples: Array) -> Array:
        return jax.vmap(lambda x: evaluate(function, x))(samples)

    def surrogate(params: Params, state: State, draw: PairDraw) -> Array:
        logits = _logits("multi_pair_disarm", distribution, params)
        value = 0.5 * (combine(costs(draw.first)) + combine(costs(draw.second)))
        return value + linear(draw.gradient, logits)

    return GradientEstimator(draw, surrogate)


def pair_weight(logits: Array, first: Array, second: Array) -> Array:
    """(-1)^c 1[b != c] s(|l|) / 2: the expectation of ARM's u - 1/2 given the pair.

    Args:
        logits: l, [...].
        first: b, zeros and ones of the same shape.
        second: c.

    Returns:
        The weight of each variable, [...].
    """
    # b - c is 1 where b = 1, c = 0; -1 where b = 0, c = 1; and 0 where they agree.
    return 0.5 * (first - second) * sigmoid(jnp.abs(logits))


def _antithetic(
    name: str, distribution: DistributionOf, function: Function, gradient: Callable[..., Array]
) -> GradientEstimator:
    def draw(params: Params, state: State, key: Key, num_samples: int) -> PairDraw:
        logits = _logits(name, distribution, params)

        def one(key: Key) -> PairDraw:
            u, first, second = _pair(key, logits, ())
            both = jax.vmap(lambda x: evaluate(function, x))(jnp.stack([first, second]))
            difference = both[0] - both[1]
            return PairDraw(first, second, gradient(logits, u, first, second, difference))

        return jax.vmap(one)(jax.random.split(key, num_samples))

    def surrogate(params: Params, state: State, draw: PairDraw) -> Array:
        both = jax.vmap(lambda x: evaluate(function, x))(jnp.stack([draw.first, draw.second]))
        return jnp.mean(both) + linear(draw.gradient, _logits(name, distribution, params))

    return GradientEstimator(draw, surrogate)


def _logits(name: str, distribution: DistributionOf, params: Params) -> Array:
    current = distribution(params)
    check_one_event(current)
    return binary_logits(current, name)


def _pair(key: Key, logits: Array, shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
    u = jax.random.uniform(key, (*shape, *logits.shape), logits.dtype)
    first = (u > sigmoid(-logits)).astype(logits.dtype)
    second = (u < sigmoid(logits)).astype(logits.dtype)
    return u, first, second
