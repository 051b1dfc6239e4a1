"""The restricted Boltzmann machine against enumeration of all of its states."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.models.energy import rbm
from tests.models.energy import machines
from tests.statistics import assert_mean, jit_once

MACHINE = machines.machine()
REFERENCE = np.float32([0.7, -1.2, 0.2, 0.5])
STATES = machines.states(4)
NUM_DRAWS = 40_000


def draw(sample, num: int = NUM_DRAWS, seed: int = 1):
    return jit_once(jax.vmap(sample))(jax.random.split(jax.random.key(seed), num))


@jit_once
def draw_exactly(params):
    """Independent samples of the machine."""
    return jax.vmap(rbm.exact_sampler(params))(jax.random.split(jax.random.key(1), NUM_DRAWS))


def test_the_free_energy_sums_the_hidden_units_out() -> None:
    energies = jit_once(jax.vmap(functools.partial(rbm.free_energy, MACHINE)))(STATES)
    exact = -np.logaddexp.reduce(machines.log_joint(MACHINE), axis=1)
    np.testing.assert_allclose(energies, exact, rtol=1e-5, atol=1e-5)


def test_the_joint_energy() -> None:
    over_h = jax.vmap(rbm.joint_energy, in_axes=(None, None, 0))
    over_both = jit_once(jax.vmap(over_h, in_axes=(None, 0, None)))
    energies = over_both(MACHINE, STATES, machines.states(3))
    np.testing.assert_allclose(energies, -machines.log_joint(MACHINE), rtol=1e-5, atol=1e-5)


def test_the_model_has_the_free_energy_and_starts_where_it_is_told() -> None:
    model = rbm.rbm(num_dims=4, num_hidden=3, weight_scale=0.5, visible_logits=REFERENCE)
    params = jit_once(model.init)(jax.random.key(0))
    assert {name: leaf.shape for name, leaf in params.items()} == {
        "weights": (4, 3),
        "visible_bias": (4,),
        "hidden_bias": (3,),
    }
    np.testing.assert_array_equal(params["visible_bias"], REFERENCE)
    np.testing.assert_array_equal(params["hidden_bias"], np.zeros(3))
    assert model.energy(MACHINE, STATES[5]) == rbm.free_energy(MACHINE, STATES[5])
    weights = jit_once(rbm.rbm(num_dims=100, num_hidden=90, weight_scale=0.5).init)(
        jax.random.key(0)
    )
    assert float(weights["weights"].std()) == pytest.approx(0.5, rel=0.05)
    assert not weights["visible_bias"].any()


@pytest.mark.parametrize("shape", [(4, 3), (3, 5), (11, 12), (13, 2)])
def test_log_partition_by_enumeration_of_either_side(shape) -> None:
    params = machines.machine(*shape, seed=sum(shape))
    np.testing.assert_allclose(
        jit_once(rbm.exact_log_partition)(params), machines.log_partition(params), rtol=1e-6
    )


@pytest.mark.parametrize("shape", [(4, 3), (3, 5)])
def test_exact_samples_have_the_frequencies_of_the_model(shape) -> None:
    params = machines.machine(*shape, seed=3)
    samples = draw_exactly(params)
    assert_mean(machines.one_hot(samples), machines.marginal(params))


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_the_tempered_machine_is_a_machine(beta) -> None:
    @jit_once
    def energies(reference):
        return jax.vmap(lambda v: rbm.tempered_energy(MACHINE, v, beta, reference))(STATES)

    for reference in (0.0, REFERENCE):
        params = machines.tempered(MACHINE, beta, reference)
        exact = -np.logaddexp.reduce(machines.log_joint(params), axis=1)
        np.testing.assert_allclose(energies(reference), exact, rtol=1e-5, atol=1e-5)
    if beta == 1:
        free_energies = jit_once(jax.vmap(lambda v: rbm.free_energy(MACHINE, v)))(STATES)
        np.testing.assert_allclose(energies(REFERENCE), free_energies, atol=1e-6)


@functools.cache
def gibbs(beta: float):
    """Many next states from given ones."""

    def step(key, v):
        return rbm.gibbs_kernel(MACHINE, key, v, beta, REFERENCE)

    compiled = jit_once(jax.vmap(step))
    return lambda v, seed: compiled(jax.random.split(jax.random.key(seed), len(v)), v)


@pytest.mark.parametrize("beta", [0.4, 1.0])
@pytest.mark.parametrize("start", [0, 6, 15])
def test_a_gibbs_step_has_the_exact_transition_probabilities(beta, start) -> None:
    starts = np.tile(STATES[start], (NUM_DRAWS, 1)).astype(np.float32)
    row = machines.transitions(machines.tempered(MACHINE, beta, REFERENCE))[start]
    assert_mean(machines.one_hot(gibbs(beta)(starts, seed=start)), row)


@pytest.mark.parametrize("beta", [0.4, 1.0])
def test_gibbs_leaves_the_model_invariant(beta) -> None:
    params = machines.tempered(MACHINE, beta, REFERENCE)
    states = draw_exactly(params)
    for seed in (2, 3):
        states = gibbs(beta)(states, seed=seed)
    assert_mean(machines.one_hot(states), machines.marginal(params))


def test_a_kernel_of_another_machine_does_not() -> None:
    """The test above would notice an inverse temperature of 0.8 in place of 1."""
    states = gibbs(0.8)(draw_exactly(MACHINE), seed=4)
    with pytest.raises(AssertionError, match="biased"):
        assert_mean(machines.one_hot(states), machines.marginal(MACHINE))


def test_the_machine_of_the_enumeration_is_reversible_and_invariant() -> None:
    """What the oracle itself must hold."""
    p, step = machines.marginal(MACHINE), machines.transitions(MACHINE)
    np.testing.assert_allclose(p @ step, p, rtol=1e-10)
    np.testing.assert_allclose(p[:, None] * step, (p[:, None] * step).T, rtol=1e-10)


@pytest.mark.parametrize("num", [7, 8])
def test_two_uniforms_from_one_word_are_uniform_and_uncorrelated(num) -> None:
    uniforms = np.asarray(draw(lambda key: rbm._uniforms(key, num), 100_000), np.float64)
    assert uniforms.shape == (100_000, num) and uniforms.min() >= 0 and uniforms.max() < 1
    # Moments, and tails: an event of probability 2^-10 in every coordinate.
    assert_mean(uniforms, np.full(num, 1 / 2))
    assert_mean(uniforms**2, np.full(num, 1 / 3))
    assert_mean(uniforms < 2**-8, np.full(num, 2**-8), resolution=0.06)
    centred = uniforms - 0.5
    products = np.einsum("ni,nj->nij", centred, centred)
    assert_mean(products, np.eye(num) / 12)


def test_the_halves_of_a_word_are_taken_apart(monkeypatch) -> None:
    words = np.uint32([0x89ABCDEF, 0xFFFFFFFF])
    monkeypatch.setattr(jax.random, "bits", lambda *_: jnp.asarray(words))
    expected = np.array([0x89ABCD, 0xFFFFFF, 0xCDEF89]) / 2**24
    np.testing.assert_array_equal(rbm._uniforms(None, 3), expected)


def test_pseudo_likelihood_against_the_exact_conditionals() -> None:
    log_p = np.log(machines.marginal(MACHINE))
    for v in STATES[[0, 5, 14]]:
        exact = 0.0
        for d in range(4):
            flipped = v.copy()
            flipped[d] = 1 - flipped[d]
            here, there = log_p[machines.index_of(v)], log_p[machines.index_of(flipped)]
            exact += here - np.logaddexp(here, there)
        found = jit_once(rbm.pseudo_log_likelihood)(MACHINE, v)
        np.testing.assert_allclose(found, exact, rtol=1e-5)


def test_visible_means_are_those_of_the_next_state() -> None:
    v = STATES[6]
    means = draw(lambda key: rbm.visible_means(MACHINE, key, v))
    exact = machines.transitions(MACHINE)[6] @ STATES
    assert_mean(means, exact)


def test_logits_of_the_mean() -> None:
    examples = np.uint8([[1, 0, 1], [1, 0, 0], [1, 0, 1]])
    found = rbm.mean_logits(examples, pseudocount=0.5)
    np.testing.assert_allclose(found, np.log([3.5 / 0.5, 0.5 / 3.5, 2.5 / 1.5]), rtol=1e-6)


def test_the_path_begins_at_independent_pixels_and_ends_at_the_machine() -> None:
    path = rbm.annealing_path(MACHINE, REFERENCE)
    start = machines.tempered(MACHINE, 0.0, REFERENCE)
    np.testing.assert_allclose(path.log_normalizer, machines.log_partition(start), rtol=1e-6)
    assert_mean(machines.one_hot(draw(path.sample)), machines.marginal(start))
    energy = jit_once(path.energy)
    for v in STATES[[3, 8]]:
        np.testing.assert_allclose(energy(v, 1.0), jit_once(rbm.free_energy)(MACHINE, v), rtol=1e-6)
        np.testing.assert_allclose(energy(v, 0.0), -v @ REFERENCE - 3 * np.log(2), rtol=1e-6)
    from_zero = jit_once(rbm.annealing_path(MACHINE).energy)
    np.testing.assert_allclose(from_zero(STATES[8], 0.0), -3 * np.log(2), rtol=1e-6)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_nothing_overflows(size) -> None:
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, size), MACHINE)
    v = jnp.ones(4)
    value, gradient = jit_once(jax.value_and_grad(rbm.free_energy))(params, v)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.isfinite(jit_once(rbm.exact_log_partition)(params))
    moved = jit_once(rbm.gibbs_kernel)(params, jax.random.key(0), v)
    np.testing.assert_array_equal(moved, np.full(4, size > 0))


def test_bfloat16_parameters_sum_in_float32() -> None:
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), machines.machine(300, 40))
    exact = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), rounded)
    v = (jnp.arange(300) % 3 == 0).astype(jnp.bfloat16)
    energy = jit_once(rbm.free_energy)(rounded, v)
    assert energy.dtype == jnp.float32
    np.testing.assert_allclose(energy, jit_once(rbm.free_energy)(exact, v), rtol=5e-3)
    moved = jax.eval_shape(rbm.gibbs_kernel, rounded, jax.random.key(0), v)
    assert moved.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_dims": 0}, "num_dims"),
        ({"num_hidden": -1}, "num_hidden"),
        ({"weight_scale": 0.0}, "weight_scale"),
        ({"weight_scale": float("nan")}, "weight_scale"),
        ({"num_dims": 3, "visible_logits": np.zeros(4)}, r"visible_logits.*3.*\(4,\)"),
        ({"num_dims": 2, "visible_logits": np.array([0, np.inf])}, "visible_logits.*1 not finite"),
    ],
)
def test_settings_that_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        rbm.rbm(**options)


def test_calls_that_are_refused() -> None:
    batch = np.zeros((2, 4))
    for function in (rbm.free_energy, rbm.pseudo_log_likelihood):
        with pytest.raises(ValueError, match="vmap"):
            function(MACHINE, batch)
    with pytest.raises(ValueError, match="vmap"):
        rbm.gibbs_kernel(MACHINE, jax.random.key(0), batch)
    large = machines.machine(22, 21)
    for enumerate_states in (rbm.exact_log_partition, rbm.exact_sampler):
        with pytest.raises(ValueError, match=r"at most 20.*22 visible and 21 hidden"):
            enumerate_states(large)
    with pytest.raises(ValueError, match=r"reference.*\(4,\).*\(3,\)"):
        rbm.annealing_path(MACHINE, np.zeros(3))
    with pytest.raises(ValueError, match="pseudocount"):
        rbm.mean_logits(np.zeros((2, 3)), pseudocount=0.0)
    with pytest.raises(ValueError, match=r"\[N, D\]"):
        rbm.mean_logits(np.zeros(3))
