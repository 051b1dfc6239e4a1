"""Gradient descent: what a step computes, what its state is like, and where training ends."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_models.learning import variational
from genjax_models.models.latent import vae
from genjax_models.networks import mlp
from genjax_models.training import gradient_descent
from tests import oracles


def gaussian_batch(batch_size: int) -> jax.Array:
    return oracles.linear_gaussian_x() + jnp.linspace(-1, 2, batch_size)[:, None]


def recorded():
    """An objective that reports what it was given, beside a loss that needs every parameter."""

    def objective(params, key, x, **scheduled):
        loss = jnp.sum((params - x) ** 2)
        return loss, {"noise": jax.random.normal(key), **scheduled}

    return objective


@pytest.mark.parametrize("microbatch_size", [None, 1, 3, 6])
def test_a_step_follows_the_mean_of_the_gradients_of_the_examples(microbatch_size) -> None:
    """With keys split(key, batch_size), whatever the microbatch: by plain descent with rate one."""
    objective = variational(oracles.linear_gaussian())
    algorithm = gradient_descent(
        objective,
        optax.sgd(1.0),
        oracles.linear_gaussian_params,
        microbatch_size=microbatch_size,
    )
    xs, key = gaussian_batch(6), jax.random.key(1)
    start = algorithm.init(jax.random.key(0))
    state, metrics = jax.jit(algorithm.step)(start, jax.random.clone(key), xs)
    one = jax.jit(jax.value_and_grad(objective, has_aux=True))
    examples = [
        one(start.params, subkey, x) for subkey, x in zip(jax.random.split(key, 6), xs, strict=True)
    ]
    (losses, parts), gradients = jax.tree.map(lambda *leaves: jnp.stack(leaves), *examples)
    for name, gradient in gradients.items():
        step = start.params[name] - state.params[name]
        np.testing.assert_allclose(step, gradient.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(metrics["loss"], losses.mean(), rtol=1e-5)
    assert metrics.keys() == {"loss", *parts}
    for name, values in parts.items():
        np.testing.assert_allclose(metrics[name], values.mean(), rtol=1e-4, atol=1e-6)


def test_the_optimizer_is_used() -> None:
    """Adam's first step has the size of the learning rate in every coordinate."""
    algorithm = gradient_descent(recorded(), optax.adam(0.01), lambda key: jnp.zeros(3))
    state = algorithm.init(jax.random.key(0))
    for _ in range(2):
        state, _ = jax.jit(algorithm.step)(state, jax.random.key(1), jnp.array([[1.0, -2.0, 5.0]]))
    np.testing.assert_allclose(state.params, [0.02, -0.02, 0.02], rtol=1e-3)
    assert state.step == 2


def test_an_optimizer_that_needs_the_parameters_has_them() -> None:
    algorithm = gradient_descent(
        lambda params, key, x: (0.0 * jnp.sum(params), {}),
        optax.chain(optax.add_decayed_weights(0.5), optax.sgd(1.0)),
        lambda key: jnp.array([4.0]),
    )
    state, _ = algorithm.step(
        algorithm.init(jax.random.key(0)), jax.random.key(1), jnp.ones((2, 1))
    )
    np.testing.assert_allclose(state.params, [2.0])


@pytest.mark.parametrize("loop", ["calls", "scan"])
def test_schedules_fill_keywords_at_the_number_of_the_step(loop: str) -> None:
    schedules = {"beta": optax.linear_schedule(0.0, 1.0, 4), "temperature": lambda step: 2.0**-step}
    algorithm = gradient_descent(
        recorded(), optax.sgd(0.1), lambda key: jnp.zeros(2), schedules=schedules
    )
    state, xs = algorithm.init(jax.random.key(0)), jnp.ones((3, 2))
    keys = jax.random.split(jax.random.key(1), 6)
    if loop == "calls":
        step, rows = jax.jit(algorithm.step), []
        for key in keys:
            state, metrics = step(state, key, xs)
            rows.append(metrics)
        metrics = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
    else:
        state, metrics = jax.jit(
            lambda state, keys: jax.lax.scan(lambda s, k: algorithm.step(s, k, xs), state, keys)
        )(state, keys)
    np.testing.assert_allclose(metrics["beta"], [0, 0.25, 0.5, 0.75, 1, 1])
    np.testing.assert_allclose(metrics["temperature"], 2.0 ** -np.arange(6))


def test_beta_of_a_variational_objective_is_scheduled() -> None:
    """At beta = 0 the loss is the negative log-likelihood alone."""
    algorithm = gradient_descent(
        variational(oracles.linear_gaussian()),
        optax.sgd(0.0),
        oracles.linear_gaussian_params,
        schedules={"beta": lambda step: 0.5 * step},
    )
    state, step = algorithm.init(jax.random.key(0)), jax.jit(algorithm.step)
    for beta in (0.0, 0.5, 1.0):
        state, metrics = step(state, jax.random.key(1), gaussian_batch(4))
        exact = beta * metrics["kl_divergence"] - metrics["log_likelihood"]
        np.testing.assert_allclose(metrics["loss"], exact, rtol=1e-5)


def test_a_schedule_for_what_the_objective_does_not_take_is_an_error() -> None:
    algorithm = gradient_descent(
        variational(oracles.linear_gaussian()),
        optax.sgd(0.1),
        oracles.linear_gaussian_params,
        schedules={"warmth": lambda step: 1.0},
    )
    with pytest.raises(TypeError, match="warmth"):
        algorithm.step(algorithm.init(jax.random.key(0)), jax.random.key(1), gaussian_batch(2))


def shared(key):
    """Parameters of a user who names one array twice."""
    array = jnp.zeros(3)
    return {"first": array, "second": array}


@pytest.mark.parametrize("optimizer", [optax.adam(0.1), optax.sgd(0.1, momentum=0.9)])
def test_no_two_leaves_of_the_state_share_a_buffer(optimizer) -> None:
    """A donated buffer can be given away once; training goes on with donation."""

    def objective(params, key, x):
        return jnp.sum((params["first"] - x) ** 2 + (params["second"] + x) ** 2), {}

    algorithm = gradient_descent(objective, optimizer, shared)
    state = algorithm.init(jax.random.key(0))
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(buffers)) == len(buffers)
    step = jax.jit(algorithm.step, donate_argnums=0)
    for seed in range(3):
        state, _ = step(state, jax.random.key(seed), jnp.ones((2, 3)))
    assert (state.params["first"] > 0).all() and (state.params["second"] < 0).all()


def test_steps_do_not_trace_again() -> None:
    traces = 0

    def objective(params, key, x):
        nonlocal traces
        traces += 1
        return jnp.sum((params - x) ** 2), {}

    algorithm = gradient_descent(objective, optax.adam(0.1), lambda key: jnp.zeros(3))
    step = jax.jit(algorithm.step)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    for seed in range(4):
        state, _ = step(state, jax.random.key(seed), jnp.ones((2, 3)))
    assert traces == 1


def test_a_batch_of_any_structure() -> None:
    def objective(params, key, x):
        return params * x["a"] * x["b"][0].sum(), {}

    algorithm = gradient_descent(objective, optax.sgd(1.0), lambda key: jnp.array(0.0))
    batch = {"a": jnp.array([1.0, 2.0]), "b": (jnp.array([[3.0, 1.0], [5.0, 2.0]]),)}
    state, _ = algorithm.step(algorithm.init(jax.random.key(0)), jax.random.key(1), batch)
    np.testing.assert_allclose(state.params, -(1 * 4 + 2 * 7) / 2)


@pytest.mark.parametrize(
    "batch",
    [
        np.ones(()),
        np.ones((0, 3)),
        (np.ones((2, 3)), np.ones((3, 3))),
        (np.ones((2, 3)), np.ones(())),
        {},
    ],
)
def test_batches_without_a_common_leading_axis_are_refused(batch) -> None:
    algorithm = gradient_descent(recorded(), optax.sgd(0.1), lambda key: jnp.zeros(3))
    with pytest.raises(ValueError, match="leading axis"):
        algorithm.step(algorithm.init(jax.random.key(0)), jax.random.key(1), batch)


@pytest.mark.parametrize("microbatch_size", [0, 4, 12])
def test_microbatches_that_do_not_divide_the_batch_are_refused(microbatch_size: int) -> None:
    algorithm = gradient_descent(
        recorded(), optax.sgd(0.1), lambda key: jnp.zeros(3), microbatch_size=microbatch_size
    )
    with pytest.raises(ValueError, match="microbatch_size must divide the batch size, 6"):
        algorithm.step(algorithm.init(jax.random.key(0)), jax.random.key(1), jnp.ones((6, 3)))


def test_training_ends_at_probabilistic_pca() -> None:
    """With affine networks the best bound is known: the maximum likelihood of Tipping & Bishop.

    log p = -N/2 [sum_i log l_i + (D - M) log s^2 + D log(2 pi) + D], l_i the M largest eigenvalues
    of the covariance and s^2 the mean of the others; a diagonal q reaches it (a rotation of z
    makes the exact posterior diagonal). A bound above it is a bug, far below it as well.
    """
    rng = np.random.default_rng(0)
    loading = np.array([[2.0, 0.3], [-1.0, 0.8], [0.5, -1.2], [0.1, 0.4], [0.9, 0.2]])
    xs = rng.normal(size=(100, 2)) @ loading.T + 0.5 * rng.normal(size=(100, 5)) + np.arange(5)
    eigenvalues = np.linalg.eigvalsh(np.cov(xs.T, bias=True))[::-1]
    noise = eigenvalues[2:].mean()
    log_determinant = np.log(eigenvalues[:2]).sum() + 3 * np.log(noise)
    exact = -0.5 * (log_determinant + 5 * np.log(2 * np.pi) + 5)

    model = vae(
        num_dims=5,
        latent_dim=2,
        likelihood="gaussian",
        encoder=mlp(5, (), 4),
        decoder=mlp(2, (), 5),
    )
    objective = variational(model, kl="analytic", num_samples=4)
    algorithm = gradient_descent(
        objective, optax.adam(optax.cosine_decay_schedule(0.05, 1500)), model.init
    )

    @jax.jit
    def train(key):
        init_key, steps_key, bound_key = jax.random.split(key, 3)
        batch = jnp.asarray(xs)
        state, _ = jax.lax.scan(
            lambda state, key: algorithm.step(state, key, batch),
            algorithm.init(init_key),
            jax.random.split(steps_key, 1500),
        )
        many = variational(model, kl="analytic", num_samples=200)
        keys = jax.random.split(bound_key, len(xs))
        bounds, _ = jax.vmap(many, (None, 0, 0))(state.params, keys, batch)
        return -jnp.mean(bounds)

    assert exact - 0.05 < train(jax.random.key(0)) < exact + 0.02


def test_an_objective_with_a_state_is_refused() -> None:
    objective = variational(oracles.linear_gaussian(), estimator="nvil")
    with pytest.raises(TypeError, match="use stateful_gradient_descent"):
        gradient_descent(objective, optax.sgd(0.1), lambda key: {})


def test_parameters_of_weak_types_do_not_compile_the_step_twice() -> None:
    traced = []

    def init(key: jax.Array) -> dict:
        return {"scale": jnp.full(2, jnp.log(0.5)), "shift": jnp.zeros(2)}

    def objective(params: dict, key: jax.Array, x: jax.Array) -> tuple[jax.Array, dict]:
        traced.append(params)
        return jnp.sum((jnp.exp(params["scale"]) * x + params["shift"]) ** 2), {}

    assert init(jax.random.key(0))["scale"].weak_type
    algorithm = gradient_descent(objective, optax.adam(1e-2), init)
    step = jax.jit(algorithm.step)
    keys = jax.random.split(jax.random.key(0), 3)
    state, _ = step(algorithm.init(keys[0]), keys[1], jnp.ones((4, 2)))
    num_traced = len(traced)
    step(state, keys[2], jnp.ones((4, 2)))
    assert len(traced) == num_traced
