"""Scores of disentanglement from examples that have one factor in common.

Every score takes codes [N, num_codes], e.g. posterior means, and the factors behind the same
examples, [N, num_factors] integers from 0; examples are drawn from these N.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from genjax_models.checks import check_sizes
from genjax_models.distributions.numerics import at_least_float32
from genjax_models.evaluation.disentanglement import check_codes
from genjax_models.interfaces import Array, Key

_FIT_STEPS = 200
_EXAMPLES_AT_A_TIME = 1000


def beta_vae_score(
    key: Key,
    codes: Array,
    factors: Array,
    *,
    num_pairs: int = 64,
    num_train: int = 5000,
    num_test: int = 5000,
) -> Array:
    """Accuracy of a linear classifier that says which factor two examples have in common.

    One of its inputs is the mean of |z - z'| over pairs of examples that agree in a factor k, drawn
    anew for each input, and are otherwise independent; its answer is k. The classifier is a
    logistic regression on standardised inputs with the penalty ||W||^2 / 2 beside the summed
    loss.

    Args:
        key: PRNG key.
        codes: [N, num_codes].
        factors: [N, num_factors] integers from 0.
        num_pairs: pairs for each input.
        num_train: inputs that the classifier learns from.
        num_test: inputs that it is measured on.

    Returns:
        The accuracy, a scalar; chance is 1 / num_factors.

    Raises:
        TypeError: factors that are no integers.
        ValueError: the shapes do not fit, a code is not finite, a factor is constant, or a number
            is below one.

    Source: Higgins et al. 2017 (beta-VAE), section 3.
    """
    check_codes(codes, factors)
    check_sizes(num_pairs=num_pairs, num_train=num_train, num_test=num_test)
    arrays = at_least_float32(codes), jnp.asarray(factors)
    return _beta_vae_score(key, *arrays, num_pairs, num_train, num_test)


def factor_vae_score(
    key: Key,
    codes: Array,
    factors: Array,
    *,
    num_examples: int = 64,
    num_train: int = 5000,
    num_test: int = 5000,
    min_variance: float = 0.05,
) -> Array:
    """Accuracy of a majority vote that says which factor is fixed, from the code that varies least.

    A vote draws a factor k and examples that agree in it; the code whose variance among them is
    the least part of its variance among all examples names k, by the majority of the training
    votes for that code.

    Args:
        key: PRNG key.
        codes: [N, num_codes].
        factors: [N, num_factors] integers from 0.
        num_examples: examples for each vote, at least 2.
        num_train: votes that the majorities are counted over.
        num_test: votes that they are measured on.
        min_variance: codes of at most this variance among all examples do not take part: of a
            collapsed dimension, the prior's variance 1 stands in q(z | x) and none in its mean.

    Returns:
        The accuracy, a scalar; chance is 1 / num_factors.

    Raises:
        TypeError: factors that are no integers.
        ValueError: the shapes do not fit, a code is not finite, a factor is constant, or a number
            is too small.

    Source: Kim & Mnih 2018 (Disentangling by factorising), section 4; the threshold of a
    collapsed dimension is Locatello et al. 2019's.
    """
    check_codes(codes, factors)
    check_sizes(num_train=num_train, num_test=num_test)
    if num_examples < 2:
        raise ValueError(f"num_examples must be at least 2, got {num_examples}")
    if not min_variance >= 0:
        raise ValueError(f"min_variance must not be negative, got {min_variance}")
    arrays = at_least_float32(codes), jnp.asarray(factors)
    return _factor_vae_score(key, *arrays, min_variance, num_examples, num_train, num_test)


class _Groups(NamedTuple):
    """The examples in order of each factor, so that those that agree in it are neighbours."""

    order: Array
    values: Array

    def draw(self, key: Key, factor: Array, value: Array, num_examples: int) -> Array:
        """Indices of examples whose factor has this value, uniformly and independently."""
        values = self.values[factor]
        start = jnp.searchsorted(values, value, side="left")
        end = jnp.searchsorted(values, value, side="right")
        return self.order[factor][jax.random.randint(key, (num_examples,), start, end)]


def _groups(factors: Array) -> _Groups:
    order = jnp.argsort(factors.T, axis=1)
    return _Groups(order, jnp.take_along_axis(factors.T, order, axis=1))


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _beta_vae_score(
    key: Key, codes: Array, factors: Array, num_pairs: int, num_train: int, num_test: int
) -> Array:
    num_factors, groups = factors.shape[1], _groups(factors)

    def difference(index: Array) -> tuple[Array, Array]:
        factor_key, first_key, second_key = jax.random.split(jax.random.fold_in(key, index), 3)
        factor = jax.random.randint(factor_key, (), 0, num_factors)
        first = jax.random.randint(first_key, (num_pairs,), 0, codes.shape[0])
        values = factors[first, factor]
        keys = jax.random.split(second_key, num_pairs)
        second = jax.vmap(lambda k, v: groups.draw(k, factor, v, 1)[0])(keys, values)
        return jnp.mean(jnp.abs(codes[first] - codes[second]), axis=0), factor

    inputs, labels = jax.lax.map(
        difference, jnp.arange(num_train + num_test), batch_size=_EXAMPLES_AT_A_TIME
    )
    mean = jnp.mean(inputs[:num_train], axis=0, keepdims=True)
    deviation = jnp.std(inputs[:num_train], axis=0, keepdims=True)
    inputs = (inputs - mean) / jnp.where(deviation > 0, deviation, 1)
    weights, bias = _fit_linear(inputs[:num_train], labels[:num_train], num_factors)
    predictions = jnp.argmax(inputs[num_train:] @ weights + bias[None], axis=1)
    return jnp.mean(predictions == labels[num_train:])


def _fit_linear(inputs: Array, labels: Array, num_classes: int) -> tuple[Array, Array]:
    """Multinomial logistic regression by L-BFGS, with the penalty ||W||^2 / 2."""

    def loss(params: tuple[Array, Array]) -> Array:
        logits = inputs @ params[0] + params[1][None]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return (jnp.sum(losses) + 0.5 * jnp.sum(params[0] ** 2)) / inputs.shape[0]

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(_: Array, carry: tuple[tuple[Array, Array], optax.OptState]) -> tuple:
        params, state = carry
        value, gradient = value_and_grad(params, state=state)
        updates, state = optimizer.update(
            gradient, state, params, value=value, grad=gradient, value_fn=loss
        )
        return optax.apply_updates(params, updates), state

    params = jnp.zeros((inputs.shape[1], num_classes)), jnp.zeros(num_classes)
    return jax.lax.fori_loop(0, _FIT_STEPS, step, (params, optimizer.init(params)))[0]


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _factor_vae_score(
    key: Key,
    codes: Array,
    factors: Array,
    min_variance: Array,
    num_examples: int,
    num_train: int,
    num_test: int,
) -> Array:
    num_factors, groups = factors.shape[1], _groups(factors)
    variance = jnp.var(codes, axis=0)
    takes_part = variance > min_variance

    def vote(index: Array) -> tuple[Array, Array]:
        factor_key, value_key, key_of_group = jax.random.split(jax.random.fold_in(key, index), 3)
        factor = jax.random.randint(factor_key, (), 0, num_factors)
        value = factors[jax.random.randint(value_key, (), 0, codes.shape[0]), factor]
        group = codes[groups.draw(key_of_group, factor, value, num_examples)]
        share = jnp.var(group, axis=0) / jnp.where(takes_part, variance, 1)
        return jnp.argmin(jnp.where(takes_part, share, jnp.inf)), factor

    winners, labels = jax.lax.map(
        vote, jnp.arange(num_train + num_test), batch_size=_EXAMPLES_AT_A_TIME
    )
    votes = jnp.zeros((codes.shape[1], num_factors), jnp.int32)
    votes = votes.at[winners[:num_train], labels[:num_train]].add(1)
    predictions = jnp.argmax(votes, axis=1)[winners[num_train:]]
    return jnp.mean(predictions == labels[num_train:])
