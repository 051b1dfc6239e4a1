"""The contenders of the throughput benchmark compute one thing, and its floor is what it says."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import timing
from benchmarks.contenders import Sizes, draw_batch
from benchmarks.peers import hierarchies, matmuls
from benchmarks.throughput import contenders
from genjax_models.learning import bounds, variational
from genjax_models.models.latent import sigmoid_belief_net
from tests.statistics import assert_mean, jit_once

SIZES = Sizes(num_dims=12, num_hidden=7, latent_dim=3, batch_size=100)
NUM_DRAWS = 1000


@pytest.mark.parametrize("num_samples", [1, 5])
def test_contenders_agree_on_the_expected_loss(num_samples):
    competing = [c for c in contenders(num_samples, SIZES) if c.losses]
    assert {"genjax_models", "hand-written JAX"} <= {c.name for c in competing}
    draws = {c.name: c.losses(NUM_DRAWS).astype(np.float64) for c in competing}
    reference = draws["hand-written JAX"]
    for name, losses in draws.items():
        assert losses.shape == (NUM_DRAWS,)
        standard_error = np.sqrt((losses.var() + reference.var()) / NUM_DRAWS)
        assert standard_error < 0.025  # small against a missing bias or a K that is off by one
        assert abs(losses.mean() - reference.mean()) < 5 * standard_error, name
        assert losses.std() == pytest.approx(reference.std(), rel=0.2), name


@pytest.mark.parametrize("name", hierarchies.MODELS)
def test_hierarchies_agree_on_the_expected_loss_and_train(name):
    sizes = {"latent_dims": (3, 2)}
    if name != hierarchies.BELIEF_NET:
        sizes |= {"hidden": (5, 4), "num_hidden_layers": 2}
    competing = hierarchies.contenders(name, 5, draw_batch(SIZES, 0), microbatch_size=20, **sizes)
    assert [c.name for c in competing] == [
        "genjax_models",
        "genjax_models, microbatches of 20",
        "hand-written JAX",
    ]
    ours, _, by_hand = (c.losses(NUM_DRAWS).astype(np.float64) for c in competing)
    standard_error = np.sqrt((ours.var() + by_hand.var()) / NUM_DRAWS)
    assert standard_error < 0.02
    assert abs(ours.mean() - by_hand.mean()) < 5 * standard_error
    assert ours.std() == pytest.approx(by_hand.std(), rel=0.2)
    for contender in competing:
        contender.run(2)


def test_vimco_by_hand_has_the_gradient_of_the_library():
    model = sigmoid_belief_net(num_dims=3, latent_dims=(2, 2))
    params = jax.tree.map(
        lambda leaf: jnp.sin(1.0 + jnp.arange(leaf.size)).reshape(leaf.shape),
        jax.eval_shape(model.init, jax.random.key(0)),
    )
    x = jnp.array([1.0, 0.0, 1.0])
    library = variational(model, bound=bounds.iwae, estimator="vimco_arithmetic", num_samples=3)
    losses = (
        lambda params, key: library(params, key, x)[0],
        lambda params, key: hierarchies.belief_net_loss(params, key, x[None], 3),
    )
    ours, by_hand = (
        jit_once(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(
            params, jax.random.split(jax.random.key(seed), 50_000)
        )
        for seed, loss in enumerate(losses)
    )
    for our, hand in zip(jax.tree.leaves(ours), jax.tree.leaves(by_hand), strict=True):
        assert_mean(our - hand, jnp.zeros(our.shape[1:]), scale=1.0, resolution=0.003)
    # The signals of the posterior are not lost in noise.
    lowest = ours["posterior"][0]["network"]["params"]["Dense_0"]
    assert jnp.abs(lowest["bias"].mean(axis=0)).max() > 0.04


def test_contenders_train():
    competing = contenders(20, SIZES)
    assert competing[1].name == "genjax_models, microbatches of 50"
    for contender in competing:
        contender.run(3)


def test_floor_holds_every_product_once():
    operands = matmuls.draw_operands(SIZES, 5)
    compiled = jax.jit(matmuls.products).lower(operands).compile()
    layers = [(x.shape[0], *w.shape) for x, w, _ in operands]
    assert len(re.findall(r" dot\(", compiled.as_text())) == 3 * len(layers) - 1 == 17
    flops = sum(2 * 3 * rows * m * n for rows, m, n in layers) - 2 * np.prod(layers[0])
    assert compiled.cost_analysis()["flops"] == flops


def test_median_interval_covers_the_median():
    generator = np.random.default_rng(0)
    samples = generator.exponential(size=(4000, 15))
    intervals = [timing.median_interval(row) for row in samples]
    covered = np.mean([low <= np.log(2) <= high for _, low, high in intervals])
    # 1 - 2 P(Binomial(15, 1/2) < 4) = 0.9648
    assert abs(covered - 0.9648) < 5 * np.sqrt(0.9648 * 0.0352 / 4000)
    with pytest.raises(ValueError, match="at least 6"):
        timing.median_interval([1.0] * 5)


def test_race_gives_everyone_the_same_turns():
    calls = []
    runs = [lambda n, name=name: calls.append((name, n)) for name in "ab"]
    seconds = timing.race(runs, num_rounds=2, num_steps=3)
    assert np.shape(seconds) == (2, 2)
    turns = ["a", "b", "b", "a"]
    assert calls == [(name, n) for name in turns for n in (1, 3)]
