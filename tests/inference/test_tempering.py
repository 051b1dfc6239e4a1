"""Parallel tempering: every marginal is left invariant, and modes are reached."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.inference import coldest, parallel_tempering
from genjax_models.kernels import run_chain
from genjax_models.models.energy import rbm
from tests.models.energy import machines
from tests.statistics import assert_mean, jit_once

NUM_DRAWS = 40_000
BETAS = (0.25, 0.6, 1.0)
MACHINE = machines.machine(3, 2, scale=1.2, seed=4)
REFERENCE = np.float32([0.5, -1.0, 0.3])
ENERGY = functools.partial(rbm.tempered_energy, reference=REFERENCE)
GIBBS = functools.partial(rbm.gibbs_kernel, reference=REFERENCE)


def at(beta: float):
    return machines.tempered(MACHINE, beta, REFERENCE)


def stay(params, key, x, beta):
    """A kernel that leaves everything invariant: only exchanges move."""
    return x


@jit_once
def exact_states():
    """Independent replicas in equilibrium, [NUM_DRAWS, L, D]."""

    def draw(key):
        keys = jax.random.split(key, len(BETAS))
        samplers = [rbm.exact_sampler(at(beta)) for beta in BETAS]
        return jnp.stack([sample(key) for sample, key in zip(samplers, keys, strict=True)])

    return jax.vmap(draw)(jax.random.split(jax.random.key(0), NUM_DRAWS))


def step_all(kernel, states, params=MACHINE, num_steps: int = 1, betas=BETAS, energy=ENERGY):
    step = parallel_tempering(energy, kernel, betas)
    keys = jax.random.split(jax.random.key(1), len(states))
    run = jax.vmap(lambda key, x: run_chain(step, params, key, x, num_steps))
    return jit_once(run)(keys, states)


def products() -> np.ndarray:
    """p_1(v_1) p_2(v_2) p_3(v_3), the joint of the replicas, [8, 8, 8]."""
    return np.einsum("i,j,k->ijk", *(machines.marginal(at(beta)) for beta in BETAS))


@pytest.mark.parametrize("kernel", [stay, GIBBS])
def test_the_product_of_all_temperatures_is_invariant(kernel) -> None:
    states = step_all(kernel, exact_states(), num_steps=2)
    one_hot = machines.one_hot(states)
    for replica, beta in enumerate(BETAS):
        assert_mean(one_hot[:, replica], machines.marginal(at(beta)), scale=0.2)
    # Replicas stay independent: every pair, too.
    for first, second in ((0, 1), (1, 2), (0, 2)):
        pairs = np.einsum("ni,nj->nij", one_hot[:, first], one_hot[:, second])
        axis = ({0, 1, 2} - {first, second}).pop()
        assert_mean(pairs, products().sum(axis=axis), resolution=0.05, floor=5e-4)


def test_an_acceptance_of_the_wrong_sign_is_noticed() -> None:
    def wrong(params, x, beta):
        return -ENERGY(params, x, beta)

    states = step_all(stay, exact_states(), energy=wrong)
    with pytest.raises(AssertionError, match="biased"):
        assert_mean(machines.one_hot(coldest_of(states)), machines.marginal(at(1.0)))


def coldest_of(states):
    return coldest(np.moveaxis(states, 1, 0))


@pytest.mark.parametrize("rows", [(1, 6, 3), (5, 0, 2)])
def test_the_probabilities_of_exchanges(rows) -> None:
    """From three given states: half the time the first pair is tried, otherwise the last."""
    states = machines.states(3)[list(rows)]
    log_p = [np.logaddexp.reduce(machines.log_joint(at(b)), axis=1) for b in BETAS]
    moved = machines.index_of(step_all(stay, np.tile(np.float32(states), (NUM_DRAWS, 1, 1))))
    for lower in (0, 1):
        cold, warm = rows[lower + 1], rows[lower]
        log_ratio = (
            log_p[lower][cold]
            + log_p[lower + 1][warm]
            - log_p[lower][warm]
            - log_p[lower + 1][cold]
        )
        exchanged = list(rows)
        exchanged[lower], exchanged[lower + 1] = cold, warm
        found = np.all(moved == exchanged, axis=1)
        assert_mean(found, 0.5 * min(1.0, np.exp(log_ratio)), resolution=0.04)


def test_it_mixes_where_gibbs_does_not() -> None:
    params, betas, num_steps = machines.two_modes(), np.linspace(0, 1, 6), 150
    starts = np.zeros((1000, len(betas), 6), np.float32)
    is_upper = machines.states(6).sum(axis=-1) > 3
    exact = machines.marginal(params)[is_upper].sum()
    assert 0.6 < exact < 0.9
    tempered = step_all(
        rbm.gibbs_kernel, starts, params, num_steps, betas, energy=rbm.tempered_energy
    )
    upper = coldest_of(tempered).sum(axis=-1) > 3
    assert_mean(upper, exact, resolution=0.03)
    # As many steps at the lowest temperature alone, from the same start: exactly, by enumeration.
    plain = np.linalg.matrix_power(machines.transitions(params), num_steps)[0, is_upper].sum()
    assert plain < 0.05


def test_the_replicas_may_be_pytrees() -> None:
    def energy(params, x, beta):
        return beta * params * x["value"] ** 2

    def kernel(params, key, x, beta):
        value = jax.random.normal(key) / jnp.sqrt(2 * beta * params)
        return {"value": value, "label": x["label"]}

    step = parallel_tempering(energy, kernel, (0.5, 1.0))
    states = {"value": jnp.zeros(2), "label": jnp.array([0, 1])}
    moved = jit_once(step)(2.0, jax.random.key(0), states)
    assert sorted(moved["label"]) == [0, 1] and coldest(moved)["value"] == moved["value"][1]


@pytest.mark.parametrize(
    "ladder", [[1.0], [1.0, 0.5], [0.2, 0.2, 1.0], [0.5, 0.9], [-0.5, 1.0], [0.5, np.nan]]
)
def test_ladders_that_are_refused(ladder) -> None:
    with pytest.raises(
        ValueError, match=r"inverse_temperatures .*increase strictly from 0 or more"
    ):
        parallel_tempering(ENERGY, GIBBS, ladder)


def test_states_without_an_axis_of_temperatures_are_refused() -> None:
    step = parallel_tempering(ENERGY, GIBBS, BETAS)
    with pytest.raises(ValueError, match=r"leading axis \[3\].*\(2, 3\)"):
        step(MACHINE, jax.random.key(0), jnp.zeros((2, 3)))
