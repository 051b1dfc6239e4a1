"""Contrastive divergence against exact gradients: by enumeration, and of a Gaussian."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_models import inference
from genjax_models.interfaces import EnergyModel
from genjax_models.kernels import run_chain
from genjax_models.learning import contrastive_divergence, persistent_contrastive_divergence
from genjax_models.models.energy import rbm
from genjax_models.training import gradient_descent, stateful_gradient_descent
from tests.models.energy import machines
from tests.statistics import assert_mean, jit_once

MODEL = rbm.rbm(num_dims=4, num_hidden=3)
PARAMS = machines.machine(scale=0.7, seed=1)
BATCH = np.float32(machines.states(4)[[1, 6, 7, 7, 12]])
NUM_DRAWS = 20_000


def mean_energy(params, weights):
    """sum_v weights(v) F(v), for a gradient by enumeration."""
    energies = jax.vmap(MODEL.energy, in_axes=(None, 0))(params, np.float32(machines.states(4)))
    return jnp.sum(weights * energies)


energy_gradient = jit_once(jax.grad(mean_energy))


def gradient_of_difference(data: np.ndarray, model: np.ndarray):
    """E_data[grad F] - E_model[grad F] of two distributions over the states."""
    return energy_gradient(PARAMS, np.float32(data - model))


def data_frequencies() -> np.ndarray:
    return machines.one_hot(BATCH).mean(axis=0)


def exact_gradient():
    """Of -mean log p(x) over the batch."""
    return gradient_of_difference(data_frequencies(), machines.marginal(PARAMS))


def test_the_oracle_is_the_gradient_of_the_exact_log_likelihood() -> None:
    def loss(params):
        return mean_energy(params, np.float32(data_frequencies())) + rbm.exact_log_partition(params)

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-5),
        jit_once(jax.grad(loss))(PARAMS),
        exact_gradient(),
    )


@functools.cache
def divergence_gradients(num_steps: int):
    """Independent draws of the gradient of CD-k, the mean over the batch."""
    objective = contrastive_divergence(MODEL, rbm.gibbs_kernel, num_steps=num_steps)

    def gradient(key):
        def loss(params):
            keys = jax.random.split(key, len(BATCH))
            return jnp.mean(jax.vmap(objective, (None, 0, 0))(params, keys, BATCH)[0])

        return jax.grad(loss)(PARAMS)

    return jit_once(jax.vmap(gradient))(jax.random.split(jax.random.key(0), NUM_DRAWS))


@pytest.mark.parametrize("num_steps", [1, 2])
def test_the_gradient_of_few_steps_is_that_of_the_chain(num_steps) -> None:
    """Its expectation is known: the data's frequencies, moved by the exact transitions."""
    frequencies = data_frequencies()
    step = np.linalg.matrix_power(machines.transitions(PARAMS), num_steps)
    assert_mean(
        divergence_gradients(num_steps), gradient_of_difference(frequencies, frequencies @ step)
    )


def test_with_long_chains_it_is_the_gradient_of_the_log_likelihood() -> None:
    assert_mean(divergence_gradients(30), exact_gradient())


def test_few_steps_are_biased_and_it_shows() -> None:
    with pytest.raises(AssertionError, match="biased"):
        assert_mean(divergence_gradients(1), exact_gradient())


def test_the_value_is_the_difference_of_energies() -> None:
    objective = contrastive_divergence(MODEL, rbm.gibbs_kernel, num_steps=3)
    key, x = jax.random.key(4), BATCH[1]
    loss, metrics = jit_once(objective)(PARAMS, jax.random.clone(key), x)
    chain = jit_once(run_chain, static_argnums=(0, 4))(rbm.gibbs_kernel, PARAMS, key, x, 3)
    energy = jit_once(MODEL.energy)
    np.testing.assert_allclose(metrics["energy"], energy(PARAMS, x), rtol=1e-5)
    np.testing.assert_allclose(metrics["chain_energy"], energy(PARAMS, chain), rtol=1e-5)
    np.testing.assert_allclose(loss, metrics["energy"] - metrics["chain_energy"], rtol=1e-6)


def test_a_schedule_fills_in_the_number_of_steps() -> None:
    """With 2.9 steps at step 0 it is CD-2, with 3 at step 1 it is CD-3."""
    objective = contrastive_divergence(MODEL, rbm.gibbs_kernel)
    algorithm = gradient_descent(
        objective,
        optax.sgd(0.1),
        lambda key: PARAMS,
        schedules={"num_steps": lambda step: 2.9 + 0.1 * step},
    )
    step = jit_once(algorithm.step)
    for number, num_steps in [(0, 2), (1, 3)]:
        key = jax.random.key(number)
        state = algorithm.init(jax.random.key(0))._replace(step=jnp.int32(number))
        _, metrics = step(state, key, BATCH[:1])
        fixed = contrastive_divergence(MODEL, rbm.gibbs_kernel, num_steps=num_steps)
        example_key = jax.random.fold_in(jax.random.clone(key), 0)
        expected, _ = jit_once(fixed)(PARAMS, example_key, BATCH[0])
        np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def exact_chain(params, key):
    return rbm.exact_sampler(params)(key)


def persistent_gradients(kernel, init_chain, **options):
    """Independent draws of the gradient from chains that start at exact samples."""
    persistent = persistent_contrastive_divergence(
        MODEL, kernel, init_chain, num_chains=3, **options
    )

    def gradient(key):
        init_key, step_key = jax.random.split(key)
        chains = persistent.init_state(PARAMS, init_key)
        return jax.grad(lambda p: persistent.objective(p, chains, step_key, BATCH)[0])(PARAMS)

    return jit_once(jax.vmap(gradient))(jax.random.split(jax.random.key(1), NUM_DRAWS))


def test_persistent_chains_in_equilibrium_give_the_gradient_of_the_log_likelihood() -> None:
    gradients = persistent_gradients(rbm.gibbs_kernel, exact_chain, num_steps=2)
    assert_mean(gradients, exact_gradient())


BETAS = (0.3, 1.0)


def test_so_do_tempered_chains_in_equilibrium() -> None:
    kernel = inference.parallel_tempering(rbm.tempered_energy, rbm.gibbs_kernel, BETAS)

    def init_chain(params, key):
        keys = jax.random.split(key, len(BETAS))
        samplers = [rbm.exact_sampler(machines.tempered(params, beta)) for beta in BETAS]
        return jnp.stack([sample(key) for sample, key in zip(samplers, keys, strict=True)])

    gradients = persistent_gradients(kernel, init_chain, example_of=inference.coldest)
    assert_mean(gradients, exact_gradient())


# A kernel that is differentiable in the parameter, so that a forgotten stop-gradient shows: p(x) is
# N(0, e^2a), and x' = r x + sqrt(1 - r^2) e^a noise leaves it invariant.
GAUSSIAN = EnergyModel(
    lambda key: jnp.float32(0.4), lambda log_scale, x: 0.5 * (x * jnp.exp(-log_scale)) ** 2
)
LOG_SCALE, EXAMPLE = 0.4, 2.5
GAUSSIAN_GRADIENT = 1 - EXAMPLE**2 * np.exp(-2 * LOG_SCALE)
CORRELATION = 0.1


def autoregression(log_scale, key, x):
    noise = jnp.exp(log_scale) * jax.random.normal(key)
    return CORRELATION * x + (1 - CORRELATION**2) ** 0.5 * noise


def gaussian_gradients(objective):
    def gradient(key):
        return jax.grad(lambda a: objective(a, key, jnp.float32(EXAMPLE))[0])(LOG_SCALE)

    return jit_once(jax.vmap(gradient))(jax.random.split(jax.random.key(0), NUM_DRAWS))


def persistent_as_plain(make):
    """The persistent objective of one example, from chains in equilibrium."""
    persistent = make(
        GAUSSIAN,
        autoregression,
        lambda log_scale, key: np.exp(LOG_SCALE) * jax.random.normal(key),
        num_chains=2,
    )

    def objective(log_scale, key, x):
        init_key, step_key = jax.random.split(key)
        chains = persistent.init_state(log_scale, init_key)
        loss, (_, metrics) = persistent.objective(log_scale, chains, step_key, x[None])
        return loss, metrics

    return objective


def test_a_kernel_that_is_differentiable_in_the_parameters() -> None:
    plain = contrastive_divergence(GAUSSIAN, autoregression, num_steps=6)
    for objective in (plain, persistent_as_plain(persistent_contrastive_divergence)):
        assert_mean(gaussian_gradients(objective), GAUSSIAN_GRADIENT)


MUTANTS = {
    "no stop-gradient of the chain": ("jax.lax.stop_gradient(", "("),
    "wrong sign": ("return energy - chain_energy", "return chain_energy - energy"),
    "no negative phase": ("return energy - chain_energy", "return energy"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_gradient_is_noticed(name) -> None:
    source = inspect.getsource(inspect.getmodule(contrastive_divergence))
    before, after = MUTANTS[name]
    assert before in source
    module: dict = {"__name__": __name__}
    exec(compile(source.replace(before, after), name, "exec"), module)
    plain = module["contrastive_divergence"](GAUSSIAN, autoregression, num_steps=6)
    persistent = persistent_as_plain(module["persistent_contrastive_divergence"])
    for objective in (plain, persistent):
        with pytest.raises(AssertionError, match="biased"):
            assert_mean(gaussian_gradients(objective), GAUSSIAN_GRADIENT)


def chains_in_training(num_chains: int = 4):
    persistent = persistent_contrastive_divergence(
        MODEL,
        rbm.gibbs_kernel,
        lambda params, key: jax.random.bernoulli(key, 0.5, (4,)).astype(jnp.float32),
        num_steps=2,
        num_chains=num_chains,
    )
    return stateful_gradient_descent(
        persistent.objective, optax.sgd(0.05), MODEL.init, persistent.init_state
    )


def test_the_chains_go_on_from_step_to_step() -> None:
    algorithm = chains_in_training()
    state = jit_once(algorithm.init)(jax.random.key(0))
    step = jit_once(algorithm.step)
    run_chains = jit_once(
        jax.vmap(lambda p, k, v: run_chain(rbm.gibbs_kernel, p, k, v, 2), (None, 0, 0))
    )
    for number in range(2):
        key = jax.random.key(10 + number)
        moved, _ = step(state, key, BATCH)
        keys = jax.random.split(jax.random.clone(key), 4)
        expected = run_chains(state.params, keys, state.objective_state)
        np.testing.assert_array_equal(moved.objective_state, expected)
        state = moved


def test_training_reaches_the_maximum_of_the_likelihood() -> None:
    """Of frequencies that the model can represent nearly: what is left is below 0.02 nats."""
    frequencies = np.float32(machines.marginal(machines.machine(scale=0.8, seed=5)))
    algorithm = chains_in_training(num_chains=200)

    @jit_once
    def train(key):
        def step(state, key):
            batch_key, step_key = jax.random.split(key)
            index = jax.random.choice(batch_key, 16, (200,), p=frequencies)
            return algorithm.step(state, step_key, jnp.float32(machines.states(4))[index])[0], None

        init_key, steps_key = jax.random.split(key)
        state = algorithm.init(init_key)
        return jax.lax.scan(step, state, jax.random.split(steps_key, 3000))[0].params

    before, after = (
        np.sum(frequencies * (np.log(frequencies) - np.log(machines.marginal(params))))
        for params in (MODEL.init(jax.random.key(0)), train(jax.random.key(2)))
    )
    assert after < 0.02 < before / 10


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_steps": 0}, "num_steps.*0"), ({"num_chains": 0}, "num_chains.*0")],
)
def test_settings_that_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        persistent_contrastive_divergence(MODEL, rbm.gibbs_kernel, exact_chain, **options)
    if "num_steps" in options:
        with pytest.raises(ValueError, match=message):
            contrastive_divergence(MODEL, rbm.gibbs_kernel, **options)
