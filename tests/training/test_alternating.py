"""Two players in turn: what a step computes, in which order, and where training ends."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_models.interfaces import ImplicitModel, Network
from genjax_models.learning import adversarial, adversarial_game
from genjax_models.models.transformation import critic, generator
from genjax_models.training import alternating
from tests.statistics import assert_mean, jit_once


def generator_objective(params, critic_params, key, x):
    """-w' (t + x): its gradient in t is -w."""
    return -jnp.sum(critic_params * (params + x)), {"first": x[0]}


def critic_objective(critic_params, params, key, x):
    """w' (t - x) + ||w||^2: its gradient in w is t - x + 2 w."""
    loss = jnp.sum(critic_params * (params - x)) + jnp.sum(critic_params**2)
    return loss, {"first": x[0]}


def quadratic_game(num_critic_steps: int, **optimizers):
    return alternating(
        generator_objective,
        critic_objective,
        optimizers.get("generator", optax.sgd(0.5)),
        optimizers.get("critic", optax.sgd(0.1)),
        lambda key: jnp.array([1.0, -2.0]),
        lambda key: jnp.array([0.3, 0.7]),
        num_critic_steps=num_critic_steps,
    )


BATCH = np.array([[0.4, 1.0], [2.0, -1.0], [0.1, 3.0], [-0.7, 0.2], [1.5, 0.6], [0.0, 2.2]])


@pytest.mark.parametrize("num_critic_steps", [1, 2, 3, 6])
def test_a_step_is_the_updates_by_hand(num_critic_steps: int) -> None:
    """The critic moves on one part of the batch after the other, then the generator against it."""
    algorithm = quadratic_game(num_critic_steps)
    state = algorithm.init(jax.random.key(0))
    step = jit_once(algorithm.step)
    theta, w = np.array([1.0, -2.0]), np.array([0.3, 0.7])
    for number in range(2):
        losses = []
        for index in range(num_critic_steps):
            part = BATCH[index::num_critic_steps]
            losses.append(w @ (theta - part.mean(axis=0)) + w @ w)
            w = w - 0.1 * (theta - part.mean(axis=0) + 2 * w)
        first = BATCH[::num_critic_steps].mean(axis=0)
        loss = -w @ (theta + first)
        theta = theta + 0.5 * w
        state, metrics = step(state, jax.random.key(number), jnp.asarray(BATCH))
        np.testing.assert_allclose(state.critic_params, w, rtol=1e-5)
        np.testing.assert_allclose(state.params, theta, rtol=1e-5)
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
        np.testing.assert_allclose(metrics["critic_loss"], np.mean(losses), rtol=1e-5)
        np.testing.assert_allclose(metrics["first"], first[0], rtol=1e-5)
        np.testing.assert_allclose(metrics["critic_first"], BATCH[:, 0].mean(), rtol=1e-5)
        assert metrics.keys() == {"loss", "first", "critic_loss", "critic_first"}
        assert state.step == number + 1


def test_each_optimizer_counts_the_steps_of_its_own_player() -> None:
    algorithm = quadratic_game(3, generator=optax.adam(0.01), critic=optax.adam(0.02))
    state = algorithm.init(jax.random.key(0))
    step = jit_once(algorithm.step)
    for number in range(2):
        state, _ = step(state, jax.random.key(number), jnp.asarray(BATCH))
    assert state.optimizer_state[0].count == 2
    assert state.critic_optimizer_state[0].count == 6
    # Adam's steps have the size of its learning rate, while the signs of the gradients last.
    np.testing.assert_allclose(np.abs(state.params - jnp.array([1.0, -2.0])), 0.02, rtol=0.3)


def test_every_draw_has_a_key_of_its_own() -> None:
    """Players that follow the noise alone: the variance of where they go counts the draws."""

    def noise(params, other_params, key, x):
        return params * jax.random.normal(key), {}

    algorithm = alternating(
        *(noise, noise, optax.sgd(1.0), optax.sgd(1.0)),
        *(lambda key: jnp.zeros(()), lambda key: jnp.zeros(())),
        num_critic_steps=2,
    )

    @jit_once
    def run(keys):
        def one(key):
            state, _ = algorithm.step(algorithm.init(jax.random.key(0)), key, jnp.zeros((8, 1)))
            return jnp.stack([state.params, state.critic_params])

        return jax.vmap(one)(keys)

    moves = run(jax.random.split(jax.random.key(1), 20_000))
    # Means over four examples: of one step, and of two.
    exact = jnp.array([[1 / 4, 0], [0, 2 / 4]])
    assert_mean(moves[:, :, None] * moves[:, None], exact)


def shared(key):
    """Parameters of a user who names one array twice."""
    array = jnp.zeros(2)
    return {"first": array, "second": array}


@pytest.mark.parametrize("optimizer", [optax.adam(0.1), optax.sgd(0.1, momentum=0.9)])
def test_no_two_leaves_of_the_state_share_a_buffer(optimizer) -> None:
    """Not even where both players begin with the same arrays; training goes on with donation."""
    same = shared(None)

    def objective(params, other_params, key, x):
        total = params["first"] - params["second"] + other_params["first"]
        return jnp.sum((total - x) ** 2), {}

    algorithm = alternating(
        *(objective, objective, optimizer, optimizer, lambda key: same, lambda key: same)
    )
    state = algorithm.init(jax.random.key(0))
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(buffers)) == len(buffers)
    step = jax.jit(algorithm.step, donate_argnums=0)
    for seed in range(3):
        state, _ = step(state, jax.random.key(seed), jnp.ones((2, 2)))
    assert (state.params["first"] != 0).all() and (state.critic_params["second"] != 0).all()


def test_the_players_begin_with_different_keys() -> None:
    algorithm = alternating(
        *(generator_objective, critic_objective, optax.sgd(0.1), optax.sgd(0.1)),
        *(jax.random.normal, jax.random.normal),
    )
    state = algorithm.init(jax.random.key(0))
    assert state.params != state.critic_params


def test_a_batch_of_any_structure() -> None:
    def objective(params, other_params, key, x):
        return params * x["a"] * x["b"][0].sum(), {}

    algorithm = alternating(
        *(objective, objective, optax.sgd(1.0), optax.sgd(1.0)),
        *(lambda key: jnp.array(0.0), lambda key: jnp.array(0.0)),
        num_critic_steps=2,
    )
    batch = {"a": jnp.array([1.0, 2.0]), "b": (jnp.array([[3.0, 1.0], [5.0, 2.0]]),)}
    state, _ = algorithm.step(algorithm.init(jax.random.key(0)), jax.random.key(1), batch)
    np.testing.assert_allclose(state.params, -1 * 4)
    np.testing.assert_allclose(state.critic_params, -(1 * 4 + 2 * 7))


def test_training_ends_at_the_law_of_the_data() -> None:
    """An affine generator against a penalised critic: the mean and deviation of a Gaussian.

    With the interpolated penalty of a Wasserstein critic the players circle around it instead
    (Mescheder et al. 2018, section 2.3).
    """
    loc, scale = 1.5, 0.5
    model, judge = generator(num_dims=1, noise_dim=1, hidden=()), critic(num_dims=1, hidden=(16,))
    game = adversarial_game(
        model, judge, adversarial.non_saturating(), penalty="data", penalty_weight=1.0
    )
    num_steps = 600

    def adam(steps):
        return optax.adam(optax.cosine_decay_schedule(0.02, steps), b1=0.5, b2=0.9)

    algorithm = alternating(
        *(game.generator, game.critic, adam(num_steps), adam(2 * num_steps)),
        *(model.init, judge.init),
        num_critic_steps=2,
    )

    @jit_once
    def train(key):
        init_key, steps_key, samples_key = jax.random.split(key, 3)

        def step(state, key):
            data_key, step_key = jax.random.split(key)
            xs = loc + scale * jax.random.normal(data_key, (100, 1))
            return algorithm.step(state, step_key, xs)[0], None

        start = algorithm.init(init_key)
        state, _ = jax.lax.scan(step, start, jax.random.split(steps_key, num_steps))
        keys = jax.random.split(samples_key, 2000)
        return jax.vmap(model.sample, in_axes=(None, 0))(state.params, keys)

    samples = train(jax.random.key(0))
    assert abs(samples.mean() - loc) < 0.1
    assert abs(samples.std() - scale) < 0.1


def test_one_wrong_sign_drives_the_players_apart() -> None:
    """What the test above would say of a generator that helps the critic."""
    state = quadratic_game(1).init(jax.random.key(0))
    helping = alternating(
        lambda *arguments: (-generator_objective(*arguments)[0], {}),
        *(critic_objective, optax.sgd(0.5), optax.sgd(0.1)),
        *(lambda key: jnp.zeros(2), lambda key: jnp.zeros(2)),
    )
    good, bad = (jit_once(algorithm.step) for algorithm in (quadratic_game(1), helping))
    states = [state, state]
    for number in range(100):
        for index, step in enumerate((good, bad)):
            states[index], _ = step(states[index], jax.random.key(number), jnp.asarray(BATCH))
    mean = BATCH.mean(axis=0)
    distances = [np.linalg.norm(s.params - mean) for s in states]
    assert distances[0] < 0.1 and distances[1] > 100


def test_implicit_models_by_hand_serve_as_well() -> None:
    """A sampler of pytrees and a critic of pytrees."""
    model = ImplicitModel(
        lambda key: jnp.zeros(()), lambda params, key: {"a": params + jax.random.normal(key, (2,))}
    )
    judge = Network(lambda key: jnp.ones(2), lambda params, x: params @ x["a"])
    game = adversarial_game(model, judge, adversarial.hinge(), penalty="interpolated")
    algorithm = alternating(
        *(game.generator, game.critic, optax.sgd(0.1), optax.sgd(0.1), model.init, judge.init)
    )
    state, metrics = algorithm.step(
        algorithm.init(jax.random.key(0)), jax.random.key(1), {"a": jnp.ones((3, 2))}
    )
    np.testing.assert_allclose(metrics["critic_real_logit"], 2.0)
    np.testing.assert_allclose(metrics["critic_gradient_penalty"], (2**0.5 - 1) ** 2, rtol=1e-5)
    # The generator's gradient is minus the sum of the critic's weights after its step.
    np.testing.assert_allclose(state.params, 0.1 * state.critic_params.sum(), rtol=1e-5)


def test_num_critic_steps_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="num_critic_steps must be at least 1, got 0"):
        quadratic_game(0)


def test_a_batch_that_does_not_split_is_refused() -> None:
    algorithm = quadratic_game(4)
    with pytest.raises(ValueError, match="multiple of num_critic_steps, 4, got 6"):
        algorithm.step(algorithm.init(jax.random.key(0)), jax.random.key(1), jnp.asarray(BATCH))


@pytest.mark.parametrize("batch", [np.ones(()), np.ones((0, 2)), {}])
def test_batches_without_a_common_leading_axis_are_refused(batch) -> None:
    algorithm = quadratic_game(1)
    with pytest.raises(ValueError, match="leading axis"):
        algorithm.step(algorithm.init(jax.random.key(0)), jax.random.key(1), batch)
