"""Categories as one-hot vectors: several at once, their divergence, and regressions on each other.

Of one vector see also tests/models/latent/test_information_bottleneck.py.
"""

import itertools

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.distributions import (
    LinearAutoregressiveOneHot,
    OneHotCategorical,
    kl_divergence,
)
from tests.statistics import assert_mean, jit_once

LOGITS = np.array([[0.3, -1.2, 2.0], [0.9, 0.1, -0.4]], np.float32)
OTHER = np.array([[-0.5, 0.4, 0.2], [1.1, -0.3, 0.6]], np.float32)
PAIRS = np.array(list(itertools.product(range(3), repeat=2)))
EVENTS = np.eye(3, dtype=np.float32)[PAIRS]
WEIGHTS = np.random.default_rng(0).normal(0, 1, (2, 3, 2, 3)).astype(np.float32)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def test_rows_are_independent() -> None:
    ours = OneHotCategorical(jnp.asarray(LOGITS))
    expected = log_softmax(LOGITS)[np.arange(2), PAIRS].sum(axis=1)
    np.testing.assert_allclose(jax.vmap(ours.log_prob)(EVENTS), expected, rtol=1e-5)
    keys = jax.random.split(jax.random.key(0), 20_000)
    found = jit_once(jax.vmap(lambda key: ours.sample(seed=key)))(keys)
    np.testing.assert_array_equal(found.sum(axis=-1), 1)
    assert_mean(found, ours.mean())
    # Not only each row by itself: the pairs.
    pairs = found[:, 0, :, None] * found[:, 1, None, :]
    assert_mean(pairs.reshape(-1, 9), np.exp(expected))


def test_between_the_vectors_the_log_mass_is_linear() -> None:
    """Its derivative is that of every category, of those that were not drawn too."""
    ours = OneHotCategorical(jnp.asarray(LOGITS))
    np.testing.assert_allclose(jax.grad(ours.log_prob)(EVENTS[4]), log_softmax(LOGITS), rtol=1e-5)
    impossible = OneHotCategorical(jnp.array([0.0, -jnp.inf]))
    np.testing.assert_array_equal(jax.grad(impossible.log_prob)(jnp.array([1.0, 0.0])), [0, 0])


def test_the_divergence_is_the_sum_over_categories() -> None:
    q, p = OneHotCategorical(jnp.asarray(LOGITS)), OneHotCategorical(jnp.asarray(OTHER))
    log_q, log_p = log_softmax(LOGITS), log_softmax(OTHER)
    expected = (np.exp(log_q) * (log_q - log_p)).sum()
    np.testing.assert_allclose(kl_divergence(q, p), expected, rtol=1e-5)
    reference = distrax.Categorical(LOGITS).kl_divergence(distrax.Categorical(OTHER)).sum()
    np.testing.assert_allclose(kl_divergence(q, p), reference, rtol=1e-5)
    with pytest.raises(ValueError, match="events of one shape"):
        kl_divergence(q, OneHotCategorical(jnp.zeros(3)))


def test_the_divergence_of_what_is_certain_and_of_what_is_impossible() -> None:
    sure = OneHotCategorical(jnp.array([0.0, -jnp.inf, -jnp.inf]))
    prior = OneHotCategorical(jnp.array([0.0, 0.0, -jnp.inf]))
    value, gradient = jax.value_and_grad(
        lambda logits: kl_divergence(sure, OneHotCategorical(logits))
    )(prior.logits)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(gradient, [-0.5, 0.5, 0], atol=1e-6)
    assert kl_divergence(prior, sure) == np.inf
    steep = jnp.array([1e4, 0.0, -1e4])
    flat = OneHotCategorical(jnp.zeros(3))
    value, gradient = jax.value_and_grad(lambda a: kl_divergence(OneHotCategorical(a), flat))(steep)
    np.testing.assert_allclose(value, np.log(3), rtol=1e-6)
    np.testing.assert_array_equal(gradient, 0)


def chained_log_masses() -> np.ndarray:
    """log p of every pair by the product rule, [9]."""
    first = log_softmax(LOGITS[0])
    second = log_softmax(LOGITS[1] + WEIGHTS[1, :, 0, :].T)  # [category of the first, own]
    return first[PAIRS[:, 0]] + second[PAIRS[:, 0], PAIRS[:, 1]]


def test_a_regression_on_the_rows_before_is_the_product_of_its_conditionals() -> None:
    ours = LinearAutoregressiveOneHot(jnp.asarray(LOGITS), jnp.asarray(WEIGHTS))
    found = jit_once(jax.vmap(ours.log_prob))(EVENTS)
    np.testing.assert_allclose(found, chained_log_masses(), rtol=1e-5)
    np.testing.assert_allclose(np.exp(found).sum(), 1, rtol=1e-5)
    _, by_sampler = ours.sample_and_log_prob(seed=jax.random.key(0))
    assert np.isclose(found, by_sampler).any()


def test_its_draws_have_these_probabilities() -> None:
    ours = LinearAutoregressiveOneHot(jnp.asarray(LOGITS), jnp.asarray(WEIGHTS))
    keys = jax.random.split(jax.random.key(1), 20_000)
    draws = jit_once(jax.vmap(lambda key: ours.sample(seed=key)))(keys)
    pairs = draws[:, 0, :, None] * draws[:, 1, None, :]
    assert_mean(pairs.reshape(-1, 9), np.exp(chained_log_masses()))


def test_its_mean_is_exact_without_weights_and_for_the_first_row() -> None:
    ours = LinearAutoregressiveOneHot(jnp.asarray(LOGITS), jnp.asarray(WEIGHTS))
    masses = np.exp(log_softmax(LOGITS))
    np.testing.assert_allclose(ours.mean()[0], masses[0], rtol=1e-5)
    flat = ours._replace(weights=jnp.zeros_like(ours.weights))
    np.testing.assert_allclose(flat.mean(), masses, rtol=1e-5)
