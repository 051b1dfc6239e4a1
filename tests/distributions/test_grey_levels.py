"""Mixtures of discretised logistics and categorical levels: sums over all levels, samples, ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.distributions import (
    CategoricalLevels,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    is_reparameterized,
)
from tests.statistics import assert_mean, jit_once

RNG = np.random.default_rng(0)
LOGITS, LOC = RNG.normal(size=(2, 4, 3)).astype(np.float32)
LOG_SCALE = RNG.uniform(-4, 0, size=(4, 3)).astype(np.float32)


def grid(num_levels: int) -> np.ndarray:
    return (np.arange(num_levels) / (num_levels - 1)).astype(np.float32)


def mixture(num_levels: int, **changed) -> DiscretizedLogisticMixture:
    parts = {"logits": LOGITS, "loc": LOC * 0.4 + 0.5, "log_scale": LOG_SCALE} | changed
    return DiscretizedLogisticMixture(**jax.tree.map(jnp.asarray, parts), num_levels=num_levels)


def categorical(num_levels: int, scale: float = 1.0) -> CategoricalLevels:
    return CategoricalLevels(jnp.asarray(scale * RNG.normal(size=(num_levels, 3)), jnp.float32))


def level_probabilities(distribution, num_levels: int) -> np.ndarray:
    """P(x_d = level) of each level in its row and each dimension in its column."""
    levels = grid(num_levels)[:, None]

    def of_dimension(d: int) -> jax.Array:
        one = distribution._replace(
            **{
                name: part[:, d : d + 1]
                for name, part in distribution._asdict().items()
                if name != "num_levels"
            }
        )
        return jax.vmap(one.log_prob)(levels)

    log_probs = jit_once(lambda: jnp.stack([of_dimension(d) for d in range(3)], axis=1))()
    return np.exp(log_probs, dtype=np.float64)


@pytest.mark.parametrize("num_levels", [2, 17, 256])
@pytest.mark.parametrize("make", [mixture, categorical])
def test_probabilities_sum_to_one_in_every_dimension(make, num_levels: int) -> None:
    sums = level_probabilities(make(num_levels), num_levels).sum(axis=0)
    np.testing.assert_allclose(sums, np.ones(3), atol=2e-5)


def test_the_mixture_is_that_of_its_components() -> None:
    """By the weights and the probabilities of each component, in float64."""
    weights = np.exp(LOGITS, dtype=np.float64)
    weights /= weights.sum(axis=0)
    components = [
        level_probabilities(
            mixture(
                17,
                logits=np.where(np.arange(4) == m, 0, -1e4)[:, None] + np.zeros((4, 3), np.float32),
            ),
            17,
        )
        for m in range(4)
    ]
    exact = np.einsum("md,mld->ld", weights, components)
    np.testing.assert_allclose(level_probabilities(mixture(17), 17), exact, rtol=1e-4)


def test_one_component_is_the_discretised_logistic() -> None:
    loc, log_scale = jnp.asarray(LOC[:1]), jnp.asarray(LOG_SCALE[:1])
    one = DiscretizedLogisticMixture(jnp.asarray(LOGITS[:1]), loc, log_scale, 17)
    plain = DiscretizedLogistic(loc[0], log_scale[0], 17)
    x = jnp.array([0, 3, 16]) / 16
    np.testing.assert_allclose(one.log_prob(x), plain.log_prob(x), rtol=1e-6)
    np.testing.assert_allclose(one.mean(), plain.mean(), rtol=1e-6)


def test_categorical_probabilities_are_the_softmax() -> None:
    distribution = categorical(17)
    logits = np.asarray(distribution.logits, np.float64)
    exact = np.exp(logits) / np.exp(logits).sum(axis=0)
    np.testing.assert_allclose(level_probabilities(distribution, 17), exact, rtol=1e-5)


def test_the_log_prob_of_an_event_is_the_sum_over_its_dimensions() -> None:
    x = jnp.array([0, 5, 16]) / 16
    for distribution in (mixture(17), categorical(17)):
        of_each = level_probabilities(distribution, 17)[[0, 5, 16], [0, 1, 2]]
        np.testing.assert_allclose(distribution.log_prob(x), np.log(of_each).sum(), rtol=1e-5)


@pytest.mark.parametrize("make", [mixture, categorical])
def test_samples_have_the_probabilities_and_the_mean(make) -> None:
    distribution = make(5)
    keys = jax.random.split(jax.random.key(0), 40_000)
    samples = jit_once(jax.vmap(lambda key: distribution.sample(seed=key)))(keys)
    probabilities = level_probabilities(distribution, 5)
    assert_mean(np.asarray(samples)[:, None] == grid(5)[:, None], probabilities)
    mean = grid(5) @ probabilities
    assert_mean(samples, mean)
    np.testing.assert_allclose(distribution.mean(), mean, rtol=1e-4)


def test_dimensions_pick_their_components_independently() -> None:
    """Two components, at 0 and 1: all four pairs of levels are as likely."""
    loc = jnp.array([[0.0, 0.0], [1.0, 1.0]])
    coins = DiscretizedLogisticMixture(jnp.zeros((2, 2)), loc, jnp.full((2, 2), -9.0), 2)
    keys = jax.random.split(jax.random.key(1), 4000)
    samples = jit_once(jax.vmap(lambda key: coins.sample(seed=key)))(keys)
    assert_mean(jnp.prod(samples, axis=1), 0.25, resolution=0.05)


def test_nothing_overflows() -> None:
    """Neither a value nor a gradient, with parameters of 1e4 and both signs."""
    ends = 1e4 * np.sign(LOGITS)
    x = jnp.array([0, 5, 16]) / 16
    for make, parts in [
        (mixture, {"logits": ends, "loc": -ends, "log_scale": ends}),
        (mixture, {"log_scale": np.full_like(LOC, -1e4)}),
        (mixture, {"log_scale": np.full_like(LOC, 1e4)}),
        (CategoricalLevels, {"logits": np.float32(1e4 * np.sign(RNG.normal(size=(17, 3))))}),
    ]:

        def log_prob(parts: dict, make=make) -> jax.Array:
            levels = {"num_levels": 17} if make is mixture else {}
            return make(**parts, **levels).log_prob(x)

        for number in jax.tree.leaves(jit_once(jax.value_and_grad(log_prob))(parts)):
            assert np.isfinite(number).all()


def test_rounding_of_a_level_does_not_matter() -> None:
    x = np.float32([1 / 3, 2 / 3, 1.0])
    for distribution in (mixture(256), categorical(256)):
        nearby = [distribution.log_prob(jnp.asarray(x + shift)) for shift in (-1e-6, 0, 1e-6)]
        np.testing.assert_allclose(nearby, nearby[1], rtol=1e-4)


def test_they_say_that_they_are_discrete() -> None:
    assert not is_reparameterized(mixture(5))
    assert not is_reparameterized(categorical(5))


@pytest.mark.parametrize("make", [mixture, categorical])
def test_a_value_of_another_shape_is_refused(make) -> None:
    with pytest.raises(ValueError, match="vmap over a batch"):
        make(5).log_prob(jnp.zeros((2, 3)))


@pytest.mark.parametrize("make", [mixture, categorical])
def test_what_is_not_a_number_has_no_log_probability(make) -> None:
    assert jnp.isnan(make(5).log_prob(jnp.array([0.0, jnp.nan, 1.0])))


def test_one_level_is_refused() -> None:
    for logits in (jnp.zeros((1, 3)), jnp.zeros(())):
        distribution = CategoricalLevels(logits)
        for use in (lambda d: d.sample(seed=jax.random.key(0)), CategoricalLevels.mean):
            with pytest.raises(ValueError, match="L >= 2 levels"):
                use(distribution)
    with pytest.raises(ValueError, match=r"L >= 2 levels, got \(1, 3\)"):
        CategoricalLevels(jnp.zeros((1, 3))).log_prob(jnp.zeros(3))
