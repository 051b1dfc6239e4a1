"""Distributions that are drawn one variable after the other."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.distributions import (
    AutoregressiveBernoulli,
    LinearAutoregressiveBernoulli,
    LinearAutoregressiveOneHot,
    NeuralAutoregressiveBernoulli,
)
from tests.statistics import assert_mean, jit_once

D, C = 4, 3


def _correction(scale: Any, neighbors: Any, features: Any) -> Any:
    return scale * jnp.tanh(neighbors @ features)


@functools.cache
def distribution(name: str) -> Any:
    """With weights that matter."""
    noise = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.float32(noise.normal(size=shape))

    match name:
        case "linear":
            return LinearAutoregressiveBernoulli(normal(D), 2 * normal(D, D))
        case "nade":
            return NeuralAutoregressiveBernoulli(
                3 * normal(D, 2), 2 * normal(D, 2), normal(D), normal(2)
            )
        case "neighbors":
            correction = jax.tree_util.Partial(_correction, jnp.float32(3))
            neighbors = np.array([[D, D], [0, D], [0, 1], [2, 0]])
            return AutoregressiveBernoulli(normal(D), normal(D, 2), correction, neighbors)
    return LinearAutoregressiveOneHot(normal(D, C), 2 * normal(D, C, D, C))


def states(name: str) -> np.ndarray:
    if name == "categories":
        return np.eye(C, dtype=np.float32)[list(itertools.product(range(C), repeat=D))]
    return np.float32(list(itertools.product((0, 1), repeat=D)))


NAMES = ("linear", "nade", "neighbors", "categories")


@pytest.mark.parametrize("name", NAMES)
def test_one_step_after_the_other_gives_the_conditionals(name: str) -> None:
    """`next_logits` of what was seen is `conditional_logits`, whose terms make log p(x)."""
    made = distribution(name)

    def stepwise(x: Any) -> Any:
        summary, logits = made.start(), []
        for index in range(D):
            logits.append(made.next_logits(summary, index))
            summary = made.see(summary, index, x[index])
        return jnp.stack(logits)

    xs = states(name)
    expected = jit_once(jax.vmap(made.conditional_logits))(xs)
    np.testing.assert_allclose(jit_once(jax.vmap(stepwise))(xs), expected, rtol=1e-5, atol=1e-5)
    log_probs = jit_once(jax.vmap(made.log_prob))(xs)
    np.testing.assert_allclose(np.exp(np.float64(log_probs)).sum(), 1, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_draws_have_the_probabilities(name: str) -> None:
    """Also where the parameters are numpy's."""
    made = jax.tree.map(np.asarray, distribution(name))
    keys = jax.random.split(jax.random.key(1), 20_000)
    draws = np.asarray(jit_once(jax.vmap(lambda key: made.sample(seed=key)))(keys))
    xs = states(name)
    probabilities = np.exp(np.float64(jit_once(jax.vmap(made.log_prob))(xs)))
    flat = xs.reshape(len(xs), -1)
    which = np.argmax(draws.reshape(len(draws), -1) @ flat.T - flat.sum(1) / 2, axis=1)
    np.testing.assert_array_equal(xs[which], draws)
    for state in np.argsort(probabilities)[-3:]:
        assert_mean(np.float64(which == state), probabilities[state])


def test_a_plain_function_is_a_correction_too() -> None:
    found = distribution("neighbors")
    plain = found._replace(correction=lambda x, features: _correction(3.0, x, features))
    key = jax.random.key(2)
    np.testing.assert_array_equal(plain.sample(seed=key), found.sample(seed=jax.random.clone(key)))
    np.testing.assert_allclose(plain.mean(), found.mean(), rtol=1e-6)


@pytest.mark.parametrize("name", ["linear", "categories"])
def test_weights_of_what_comes_later_are_not_looked_at(name: str) -> None:
    made = distribution(name)
    later = np.triu(np.ones((D, D), bool))
    if name == "categories":
        later = later[:, None, :, None]
    broken = made._replace(weights=jnp.where(later, jnp.nan, made.weights))
    key = jax.random.key(2)
    for function in (lambda d: d.mean(), lambda d: d.sample(seed=jax.random.clone(key))):
        np.testing.assert_array_equal(jit_once(function)(broken), jit_once(function)(made))
    x = states(name)[-1]
    np.testing.assert_array_equal(
        jit_once(lambda d: d.log_prob(x))(broken), jit_once(lambda d: d.log_prob(x))(made)
    )
