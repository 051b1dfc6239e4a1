"""Chains: probabilities by enumeration, samples, what crosses jit and vmap, what is refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from genjax_models.distributions import (
    Bernoulli,
    Chain,
    DiagonalGaussian,
    Pushforward,
    Reversed,
    has_log_prob,
    sample_and_log_prob,
)
from tests.statistics import assert_mean, jit_once

FIRST = jnp.array([0.4, -1.1])
WEIGHTS = (jnp.array([[0.7, -1.3]]), jnp.array([[0.5, 2.0, -0.8]]))
STATES = [
    (jnp.array(s[:2]), jnp.array(s[2:3]), jnp.array(s[3:]))
    for s in itertools.product([0.0, 1.0], repeat=4)
]


def given_all(weights: jax.Array, previous: tuple) -> Bernoulli:
    """Logits from the concatenation of all layers before."""
    return Bernoulli(weights @ jnp.concatenate(previous) - 0.3)


def chain() -> Chain:
    """Layers of 2, 1 and 1 binary units."""
    return Chain(Bernoulli(FIRST), tuple(Partial(given_all, w) for w in WEIGHTS))


def probability(state: tuple) -> list[float]:
    """Of each layer given those before it, by the definition."""
    first, second, third = (np.asarray(layer, np.float64) for layer in state)

    def mass(logits: np.ndarray, value: np.ndarray) -> float:
        p = 1 / (1 + np.exp(-logits))
        return float(np.prod(np.where(value == 1, p, 1 - p)))

    second_logits = np.asarray(WEIGHTS[0], np.float64) @ first - 0.3
    third_logits = np.asarray(WEIGHTS[1], np.float64) @ np.concatenate([first, second]) - 0.3
    return [
        mass(np.asarray(FIRST, np.float64), first),
        mass(second_logits, second),
        mass(third_logits, third),
    ]


def test_probabilities_of_all_states() -> None:
    found = np.array([chain().layer_log_probs(state) for state in STATES])
    expected = np.log([probability(state) for state in STATES])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    totals = np.array([chain().log_prob(state) for state in STATES])
    np.testing.assert_allclose(totals, expected.sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(np.exp(totals).sum(), 1, rtol=1e-6)


def test_samples_have_these_probabilities_and_come_with_them() -> None:
    def draw(key):
        value, log_prob = chain().sample_and_log_prob(seed=key)
        again, log_probs = chain().sample_and_layer_log_probs(seed=jax.random.clone(key))
        alone = chain().sample(seed=jax.random.clone(key))
        return *map(jnp.concatenate, (value, again, alone)), log_prob, log_probs

    keys = jax.random.split(jax.random.key(0), 20_000)
    states, again, alone, log_prob, log_probs = jit_once(jax.vmap(draw))(keys)
    np.testing.assert_array_equal(states, again)
    np.testing.assert_array_equal(states, alone)
    indices = (np.asarray(states) @ np.array([8, 4, 2, 1])).astype(int)
    expected = np.log([probability(state) for state in STATES])
    np.testing.assert_allclose(log_probs, expected[indices], rtol=1e-5)
    np.testing.assert_allclose(log_prob, expected[indices].sum(axis=1), rtol=1e-5)
    hits = indices[:, None] == np.arange(16)
    assert_mean(hits.astype(np.float64), np.exp(expected.sum(axis=1)))


def test_reversed_is_the_same_in_the_other_order() -> None:
    value, log_prob = chain().sample_and_log_prob(seed=jax.random.key(1))
    turned = Reversed(chain())
    value_turned, log_prob_turned = turned.sample_and_log_prob(seed=jax.random.key(1))
    assert log_prob == log_prob_turned == turned.log_prob(value_turned)
    for layer, other in zip(value, value_turned[::-1], strict=True):
        np.testing.assert_array_equal(layer, other)
    np.testing.assert_array_equal(turned.sample(seed=jax.random.key(1))[0], value[2])
    np.testing.assert_array_equal(
        turned.layer_log_probs(value_turned), chain().layer_log_probs(value)[::-1]
    )
    _, log_probs = turned.sample_and_layer_log_probs(seed=jax.random.key(1))
    np.testing.assert_array_equal(log_probs, turned.layer_log_probs(value_turned))


def test_it_crosses_jit_and_vmap() -> None:
    @jax.jit
    @jax.vmap
    def make(shift):
        first = Bernoulli(FIRST + shift)
        return Reversed(Chain(first, tuple(Partial(given_all, w + shift) for w in WEIGHTS)))

    def score(chains, value):
        return chains.log_prob(value)

    shifts = jnp.array([0.0, 0.5])
    value = STATES[5][::-1]
    found = jax.jit(jax.vmap(score, (0, None)))(make(shifts), value)
    np.testing.assert_allclose(found[0], np.log(probability(STATES[5])).sum(), rtol=1e-5)
    assert found[0] != found[1]


def gaussian(scale: jax.Array, previous: tuple) -> DiagonalGaussian:
    return DiagonalGaussian(previous[-1], scale)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (Chain(DiagonalGaussian(jnp.zeros(2), jnp.zeros(2))), True),
        (chain(), False),
        (Chain(DiagonalGaussian(FIRST, FIRST), (Partial(gaussian, FIRST),)), True),
        # One discrete layer is enough, wherever it stands.
        (Chain(Bernoulli(FIRST), (Partial(gaussian, FIRST),)), False),
        (Chain(DiagonalGaussian(FIRST, FIRST), (Partial(given_all, jnp.ones((1, 2))),)), False),
    ],
)
def test_it_is_reparameterized_if_every_layer_is(layers: Chain, expected: bool) -> None:
    assert layers.reparameterized is expected
    assert Reversed(layers).reparameterized is expected


def without_density(scale: jax.Array, previous: tuple) -> Pushforward:
    return Pushforward(DiagonalGaussian(previous[-1], scale), lambda z: (2 * z, jnp.zeros(())))


def test_it_has_a_log_prob_if_every_layer_has() -> None:
    assert has_log_prob(chain())
    assert has_log_prob(Reversed(chain()))
    start = DiagonalGaussian(FIRST, FIRST)
    flow = Chain(start, (Partial(without_density, FIRST),))
    assert not has_log_prob(flow)
    assert not has_log_prob(Reversed(flow))
    # A chain inside a chain.
    assert not has_log_prob(Chain(start, (lambda previous: flow,)))
    with pytest.raises(TypeError, match="a Pushforward does not have: use sample_and_log_prob"):
        flow.log_prob((FIRST, FIRST))


@pytest.mark.parametrize("value", [STATES[0][:2], (*STATES[0], FIRST), list(STATES[0]), FIRST])
def test_another_number_of_layers_is_refused(value) -> None:
    with pytest.raises(ValueError, match="tuple of 3 layers"):
        chain().log_prob(value)


def test_any_distribution_gives_a_sample_with_its_log_prob() -> None:
    class Bare:
        def sample(self, *, seed):
            return jax.random.normal(seed)

        def log_prob(self, value):
            return -value

    value, log_prob = sample_and_log_prob(Bare(), seed=jax.random.key(0))
    assert log_prob == -value
