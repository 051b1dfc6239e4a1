"""Two players that descend in turn, as one algorithm."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from genjax_models.checks import check_sizes
from genjax_models.interfaces import Algorithm, Array, Key, Metrics, Objective, Params, PyTree
from genjax_models.training.batches import check_batch
from genjax_models.training.leaves import own


class AlternatingState(NamedTuple):
    """What `alternating` carries from step to step.

    Attributes:
        step: number of steps taken, an int32 scalar.
        params: parameters of the generator, which the model's functions take.
        optimizer_state: state of the generator's optimizer.
        critic_params: parameters of the critic.
        critic_optimizer_state: state of the critic's optimizer.
    """

    step: Array
    params: Params
    optimizer_state: optax.OptState
    critic_params: Params
    critic_optimizer_state: optax.OptState


def alternating(
    generator_objective: Objective,
    critic_objective: Objective,
    generator_optimizer: optax.GradientTransformation,
    critic_optimizer: optax.GradientTransformation,
    init: Callable[[Key], Params],
    init_critic: Callable[[Key], Params],
    *,
    num_critic_steps: int = 1,
) -> Algorithm:
    """Gradient descent of two players, several steps of the critic and one of the generator.

    The batch is split into `num_critic_steps` parts. Each step of the critic sees a part of its
    own, and the generator, which meets the critic after its steps, as many samples as the first
    part has examples. An update follows the mean of the gradients over the part.

    Args:
        generator_objective: `generator_objective(params, critic_params, key, x) -> (loss,
            metrics)`, for one example, as `learning.adversarial_game` gives it.
        critic_objective: `critic_objective(critic_params, params, key, x) -> (loss, metrics)`,
            likewise.
        generator_optimizer: any optax optimizer; it takes one step where the critic's takes
            `num_critic_steps`, which their schedules have to know.
        critic_optimizer: any optax optimizer.
        init: `init(key) -> params`, of the generator.
        init_critic: `init_critic(key) -> critic_params`.
        num_critic_steps: steps of the critic for one of the generator.

    Returns:
        An `Algorithm`; its state is an `AlternatingState`. Its metrics are "loss" and those of the
        generator's objective, and "critic_loss" and those of the critic's, with "critic_" before
        their names, as means over its steps.

    Raises:
        ValueError: num_critic_steps < 1; from the step: leaves of the batch of unequal or no
            length, or a batch that is no multiple of `num_critic_steps`.

    Source: Goodfellow et al. 2014 (Generative adversarial nets), algorithm 1.
    """
    check_sizes(num_critic_steps=num_critic_steps)

    def init_state(key: Key) -> AlternatingState:
        key, critic_key = jax.random.split(key)
        params = own(init(key))
        critic_params = own(init_critic(critic_key))
        return AlternatingState(
            jnp.zeros((), jnp.int32),
            params,
            generator_optimizer.init(params),
            critic_params,
            critic_optimizer.init(critic_params),
        )

    def step(state: AlternatingState, key: Key, batch: PyTree) -> tuple[AlternatingState, Metrics]:
        parts = _split(batch, num_critic_steps)
        generator_key, critic_key = jax.random.split(key)

        def critic_step(carry: tuple[Params, Any], index_and_part: tuple[Array, PyTree]) -> Any:
            index, part = index_and_part
            critic_params, optimizer_state = carry
            gradient, metrics = _mean_gradient(
                critic_objective,
                critic_params,
                state.params,
                jax.random.fold_in(critic_key, index),
                part,
            )
            return _update(critic_optimizer, gradient, optimizer_state, critic_params), metrics

        (critic_params, critic_optimizer_state), critic_metrics = jax.lax.scan(
            critic_step,
            (state.critic_params, state.critic_optimizer_state),
            (jnp.arange(num_critic_steps), parts),
        )
        first = jax.tree.map(lambda leaf: leaf[0], parts)
        gradient, metrics = _mean_gradient(
            generator_objective, state.params, critic_params, generator_key, first
        )
        params, optimizer_state = _update(
            generator_optimizer, gradient, state.optimizer_state, state.params
        )
        moved = AlternatingState(
            state.step + 1, params, optimizer_state, critic_params, critic_optimizer_state
        )
        of_critic = {f"critic_{name}": jnp.mean(v) for name, v in critic_metrics.items()}
        return moved, metrics | of_critic

    return Algorithm(init_state, step)


def _mean_gradient(
    objective: Objective, params: Params, other_params: Params, key: Key, part: PyTree
) -> tuple[Params, Metrics]:
    """The mean over examples of the gradient in `params`, and the means of loss and metrics."""

    def mean_loss(params: Params) -> tuple[Array, Metrics]:
        def example_loss(index: Array, x: PyTree) -> tuple[Array, Metrics]:
            loss, metrics = objective(params, other_params, jax.random.fold_in(key, index), x)
            return loss, {"loss": loss, **metrics}

        indices = jnp.arange(check_batch(part))
        losses, metrics = jax.vmap(example_loss, axis_name="batch")(indices, part)
        return jnp.mean(losses), jax.tree.map(lambda values: jnp.mean(values, axis=0), metrics)

    return jax.grad(mean_loss, has_aux=True)(params)


def _update(
    optimizer: optax.GradientTransformation,
    gradient: Params,
    optimizer_state: optax.OptState,
    params: Params,
) -> tuple[Params, optax.OptState]:
    updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
    return optax.apply_updates(params, updates), optimizer_state


def _split(batch: PyTree, num_parts: int) -> PyTree:
    """Every leaf [batch_size, ...] as [num_parts, batch_size / num_parts, ...]."""
    batch_size = check_batch(batch)
    if batch_size % num_parts:
        raise ValueError(
            f"the batch size must be a multiple of num_critic_steps, {num_parts}, got {batch_size}"
        )

    def split(leaf: Array) -> Array:
        # Strided, so that every device of a sharded batch has a share of each part.
        return jnp.swapaxes(leaf.reshape(-1, num_parts, *leaf.shape[1:]), 0, 1)

    return jax.tree.map(split, batch)
