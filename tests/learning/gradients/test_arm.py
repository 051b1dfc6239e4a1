"""ARM and its kin: the weight of a pair, bounds of several samples, what is refused."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.distributions import Bernoulli, DiagonalGaussian
from genjax_models.learning import bounds
from genjax_models.learning import gradients as library
from genjax_models.learning.gradients.arm import pair_weight
from tests.learning.gradients.certify import (
    LOGITS,
    assert_unbiased,
    binary_expectation,
    estimate,
    exact_gradient,
    form,
)
from tests.statistics import assert_mean, jit_once


def test_multi_pair_disarm_of_bounds() -> None:
    """grad E[F(f(b_1), f(b_2))], over all 64 pairs of samples, for two functions F."""

    def expectation(combine):
        def of_logits(logits):
            def outer(b):
                def inner(c):
                    return combine(jnp.stack([form(b), form(c)]))

                return binary_expectation(inner, logits)

            return binary_expectation(outer, logits)

        return of_logits

    combines = {"iwae": bounds.iwae, "product": jnp.prod}
    estimators = {
        name: library.multi_pair_disarm(Bernoulli, form, combine=combine, num_pairs=2)
        for name, combine in combines.items()
    }
    exact = {
        name: exact_gradient(expectation(combine), LOGITS) for name, combine in combines.items()
    }
    replicates = {name: estimate(one, LOGITS, 1) for name, one in estimators.items()}
    assert_unbiased(replicates, exact, each=True)

    @jit_once
    @jax.vmap
    def values(key):
        return library.surrogate_loss(estimators["iwae"], LOGITS, key)

    found = values(jax.random.split(jax.random.key(5), 20_000))
    assert_mean(found, jit_once(expectation(bounds.iwae))(LOGITS))


def test_the_noise_of_arm_is_centred() -> None:
    """u - 1/2, at most a half: u itself has the same mean, and varies more."""
    draws = library.arm(Bernoulli, form).draw(jnp.asarray(LOGITS), (), jax.random.key(0), 200)
    difference = jax.vmap(form)(draws.first) - jax.vmap(form)(draws.second)
    noise = draws.gradient[difference != 0] / difference[difference != 0][:, None]
    assert 0.45 < np.abs(noise).max() <= 0.5


def test_multi_pair_disarm_written_out() -> None:
    """Loops over pairs and over the two choices of the others, on one draw of three pairs."""
    estimator = library.multi_pair_disarm(Bernoulli, form, combine=bounds.iwae, num_pairs=3)
    draw = jax.tree.map(
        lambda leaf: leaf[0], estimator.draw(jnp.asarray(LOGITS), (), jax.random.key(1), 1)
    )
    b, c = np.asarray(draw.first), np.asarray(draw.second)
    bound = jit_once(lambda rows: bounds.iwae(jax.vmap(form)(rows)))
    expected = np.zeros(3)
    for k in range(3):
        sign = np.where(b[k] == c[k], 0, np.where(c[k] == 1, -1, 1))
        weight = sign / (1 + np.exp(-np.abs(LOGITS))) / 2
        for others in (b, c):
            sides = []
            for own in (b, c):
                sides.append(bound(np.where(np.arange(3)[:, None] == k, own, others)))
            expected += weight * (sides[0] - sides[1]) / 2
    np.testing.assert_allclose(draw.gradient, expected, rtol=1e-9)


def test_one_pair_is_disarm() -> None:
    """With F the identity and one pair, the mean of f over both members is what DisARM has."""
    one = library.multi_pair_disarm(Bernoulli, form, combine=lambda f: f[0], num_pairs=1)
    exact = exact_gradient(lambda logits: binary_expectation(form, logits), LOGITS)
    replicates = {
        "one pair": estimate(one, LOGITS),
        "disarm": estimate(library.disarm(Bernoulli, form), LOGITS),
    }
    found = assert_unbiased(replicates, exact, resolution=0.02)
    ratio = found.variance["one pair"] / found.variance["disarm"]
    np.testing.assert_allclose(ratio, 1, rtol=0.2)


def test_the_weight_of_a_pair_is_the_mean_of_arms_noise() -> None:
    """E[u - 1/2 given b and c], by quadrature over the part of (0, 1) where the pair is that."""
    u = (np.arange(20_000) + 0.5) / 20_000
    for logit in (1.3, -0.9):
        probability = 1 / (1 + np.exp(-logit))
        b, c = u > 1 - probability, u < probability
        seen = [(x, y) for x in (False, True) for y in (False, True) if ((b == x) & (c == y)).any()]
        assert len(seen) == 3
        for x, y in seen:
            where = (b == x) & (c == y)
            weight = pair_weight(jnp.array(logit), jnp.array(x * 1.0), jnp.array(y * 1.0))
            np.testing.assert_allclose(weight, (u[where] - 0.5).mean(), atol=2e-4)


@pytest.mark.parametrize("name", ["arm", "disarm", "multi_pair_disarm"])
@pytest.mark.parametrize(
    "distribution",
    [
        lambda p: DiagonalGaussian(p, jnp.zeros(3)),
        lambda p: distrax.OneHotCategorical(logits=p),
        lambda p: distrax.Categorical(logits=p),
    ],
)
def test_latents_that_are_not_binary_are_refused(name: str, distribution) -> None:
    more = {"combine": jnp.sum, "num_pairs": 1} if name == "multi_pair_disarm" else {}
    estimator = getattr(library, name)(distribution, jnp.sum, **more)
    class_name = type(distribution(jnp.zeros(3))).__name__
    message = f"{name} is for binary variables.*got a {class_name}: score_function works for any"
    with pytest.raises(TypeError, match=message):
        library.surrogate_loss(estimator, jnp.zeros(3), jax.random.key(0))


def test_no_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="num_pairs"):
        library.multi_pair_disarm(Bernoulli, form, combine=bounds.iwae, num_pairs=0)
