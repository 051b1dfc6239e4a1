"""Planning as inference: the latent is a sequence of actions, the observation that all went well.

The model is `variational_mdp`; what is exact for it, by dynamic programming, is `soft_plan`.
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import logsumexp

from genjax_models.checks import check_sizes
from genjax_models.distributions import Bernoulli
from genjax_models.distributions.numerics import at_least_float32, check_event
from genjax_models.interfaces import Array, Key, LatentVariableModel, Params
from genjax_models.models.latent import parts

# A probability of one has infinite log-odds; this costs 1e-6 nats where it is one.
_MIN_DEFICIT = 1e-6


class DecisionProcess(NamedTuple):
    """A known world of S states and A actions.

    Attributes:
        transitions: p(next state | state, action), [S, A, S].
        rewards: of an action in a state, [S, A].
    """

    transitions: np.ndarray
    rewards: np.ndarray


class ActionSequence(NamedTuple):
    """T actions one after the other, each from probabilities of its own in the state it is met in.

    p(a_1, ..., a_T) = prod_t softmax(l_t(s_t))_{a_t},  s_{t+1} = next(s_t, a_t).

    With a single state the actions are independent: an open loop.

    Attributes:
        logits: l, [T, S, A].
        next_state: integers [S, A].
        start: s_1, an integer.
    """

    logits: Array
    next_state: Array
    start: Array

    @property
    def reparameterized(self) -> bool:
        """Samples are discrete."""
        return False

    def sample(self, *, seed: Key) -> Array:
        """Integers in 0..A-1, [T]."""
        logits = at_least_float32(self.logits)
        num_steps, _, num_actions = logits.shape
        noise = jax.random.gumbel(seed, (num_steps, num_actions), logits.dtype)

        def act(state: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
            logits, noise = step
            action = jnp.argmax(logits[state] + noise)
            return self.next_state[state, action], action

        return jax.lax.scan(act, self.start, (logits, noise))[1]

    def log_prob(self, value: Array) -> Array:
        """Log-probability of T actions, a scalar in nats; -inf where one is not in 0..A-1."""
        log_probs = jax.nn.log_softmax(at_least_float32(self.logits))
        actions = check_event(value, log_probs[:, 0, 0])

        def act(state: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
            log_probs, action = step
            return self.next_state[state, action], log_probs[state, action]

        log_prob = jnp.sum(jax.lax.scan(act, self.start, (log_probs, actions))[1])
        return jnp.where(_exist(actions, log_probs.shape[-1]), log_prob, -jnp.inf)

    def sample_and_log_prob(self, *, seed: Key) -> tuple[Array, Array]:
        """A draw and its log-probability."""
        value = self.sample(seed=seed)
        return value, self.log_prob(value)


def variational_mdp(
    process: DecisionProcess,
    *,
    start: int,
    num_steps: int,
    temperature: float = 1.0,
    prior: Literal["uniform", "learned"] = "uniform",
    posterior: Literal["open_loop", "closed_loop"] = "closed_loop",
) -> LatentVariableModel:
    """Action sequences as latents, success as the observation.

        p(a) = prod_t p_t(a_t)
        p(x = 1 | a) = E_{s | a}[prod_t exp((r(s_t, a_t) - max r) / temperature)]
        q(a | x = 1) = prod_t q_t(a_t) or prod_t q_t(a_t | s_t)

    x is a scalar in {0, 1}; plans are the posterior of x = 1, and the bound of x = 1 is what is
    maximised. The states are summed, S^2 operations a step. Where the world is deterministic the
    closed loop contains the exact posterior; and as the temperature falls, the posterior comes to
    the action sequences of the highest return.

    Args:
        process: the world.
        start: its first state.
        num_steps: T.
        temperature: how many nats a unit of reward is worth is its inverse.
        prior: "uniform", or "learned": logits of each step, for macro-actions that are shared by
            several tasks.
        posterior: "open_loop": logits of each step; or "closed_loop": of each step and state, for
            a deterministic world, where the actions so far tell the state.

    Returns:
        The model; z are integers [num_steps], and success is NaN where one is not in 0..A-1.

    Raises:
        ValueError: arrays of the wrong shape, transitions that are no probabilities, a start that
            is no state, a size or temperature out of range, an unknown prior or posterior, or a
            closed loop where the world is not deterministic.

    Source: Toussaint & Storkey 2006 (Probabilistic inference for solving discrete and continuous
    state Markov decision processes); Levine 2018 (Reinforcement learning and control as
    probabilistic inference), section 2.
    """
    log_transitions, log_success = _tables(process, num_steps, temperature)
    num_states, num_actions = log_success.shape
    if not hasattr(start, "__index__") or not 0 <= start < num_states:
        raise ValueError(f"start must be a state in 0..{num_states - 1}, got {start}")
    for name, value, known in (
        ("prior", prior, ("uniform", "learned")),
        ("posterior", posterior, ("open_loop", "closed_loop")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {list(known)}, got {value!r}")
    is_closed = posterior == "closed_loop"
    if is_closed and not (np.asarray(process.transitions).max(axis=-1) == 1).all():
        raise ValueError(
            "a closed loop is for a deterministic world, where transitions are zeros and ones: use"
            ' posterior="open_loop"'
        )
    next_state = jnp.asarray(np.argmax(process.transitions, axis=-1), jnp.int32)

    def open_loop(logits: Array) -> ActionSequence:
        one_state = jnp.zeros((1, num_actions), jnp.int32)
        return ActionSequence(logits[:, None, :], one_state, jnp.zeros((), jnp.int32))

    def init_logits(key: Key) -> Params:
        shape = (num_steps, num_states, num_actions) if is_closed else (num_steps, num_actions)
        return {"logits": 0.01 * jax.random.normal(key, shape)}

    def prior_of(params: Params) -> ActionSequence:
        return open_loop(params.get("logits", jnp.zeros((num_steps, num_actions))))

    def success(params: Params, actions: Array) -> Bernoulli:
        actions = check_event(actions, jnp.zeros(num_steps))

        def step(log_state: Array, action: Array) -> tuple[Array, None]:
            log_joint = log_state + log_success[:, action]
            return logsumexp(log_joint[:, None] + log_transitions[:, action], axis=0), None

        at_start = jnp.log(jnp.zeros(num_states).at[start].set(1))
        log_prob = logsumexp(jax.lax.scan(step, at_start, actions)[0])
        log_prob = jnp.where(_exist(actions, num_actions), log_prob, jnp.nan)
        failure = -jnp.expm1(jnp.minimum(log_prob, -_MIN_DEFICIT))
        return Bernoulli(log_prob - jnp.log(failure))

    def posterior_of(params: Params, x: Array) -> ActionSequence:
        check_event(x, jnp.zeros(()))
        if not is_closed:
            return open_loop(params["logits"])
        return ActionSequence(params["logits"], next_state, jnp.asarray(start, jnp.int32))

    initial = {"logits": lambda: jnp.zeros((num_steps, num_actions))} if prior == "learned" else {}
    return parts.compose(
        parts.Prior(lambda key: {name: make() for name, make in initial.items()}, prior_of),
        parts.Conditional(lambda key: {}, success),
        parts.Conditional(init_logits, posterior_of),
    )


class SoftPlan(NamedTuple):
    """What dynamic programming gives exactly.

    Attributes:
        log_messages: log p(success from step t on | s_t), [T + 1, S]; at the first step and the
            start it is log p(x = 1).
        log_policy: log p(a_t | s_t, success), [T, S, A]: as the logits of a closed loop in a
            deterministic world, the exact posterior.
    """

    log_messages: Array
    log_policy: Array


def soft_plan(
    process: DecisionProcess,
    *,
    num_steps: int,
    temperature: float = 1.0,
    prior_logits: Array | None = None,
) -> SoftPlan:
    """The evidence and the posterior of `variational_mdp` by backward messages.

        B_t(s, a) = p_t(a) exp((r(s, a) - max r) / temperature) sum_s' p(s' | s, a) b_{t+1}(s')
        b_t(s) = sum_a B_t(s, a),  b_{T+1} = 1,  p(a_t | s_t, success) = B_t(s_t, a_t) / b_t(s_t)

    Args:
        process: the world.
        num_steps: T.
        temperature: as of the model.
        prior_logits: of each step's actions, [T, A]; None for equal ones.

    Returns:
        The messages and the policy.

    Raises:
        ValueError: as of `variational_mdp`, or prior logits of another shape.

    Source: Levine 2018, section 2.2, with the prior and without its approximation of the dynamics.
    """
    log_transitions, log_success = _tables(process, num_steps, temperature)
    if prior_logits is None:
        prior_logits = jnp.zeros((num_steps, log_success.shape[1]))
    if jnp.shape(prior_logits) != (num_steps, log_success.shape[1]):
        raise ValueError(
            f"prior_logits must have shape {(num_steps, log_success.shape[1])}, got"
            f" {jnp.shape(prior_logits)}"
        )

    def back(message: Array, log_prior: Array) -> tuple[Array, tuple[Array, Array]]:
        ahead = logsumexp(log_transitions + message[None, None], axis=-1)
        joint = log_prior[None] + log_success + ahead
        message = logsumexp(joint, axis=1)
        return message, (message, joint - message[:, None])

    end = jnp.zeros(log_success.shape[0])
    log_priors = jax.nn.log_softmax(at_least_float32(prior_logits))
    _, (messages, policy) = jax.lax.scan(back, end, log_priors, reverse=True)
    return SoftPlan(jnp.concatenate([messages, end[None]]), policy)


def _exist(actions: Array, num_actions: int) -> Array:
    """Whether all of them are in 0..num_actions - 1: an index out of range would be clipped."""
    return jnp.all((actions >= 0) & (actions < num_actions))


def _tables(process: DecisionProcess, num_steps: int, temperature: float) -> tuple[Array, Array]:
    """log p(s' | s, a) [S, A, S] and (r(s, a) - max r) / temperature [S, A]."""
    check_sizes(num_steps=num_steps)
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be above zero and finite, got {temperature}")
    transitions, rewards = np.asarray(process.transitions), np.asarray(process.rewards)
    shape = (*rewards.shape, *rewards.shape[:1])
    if rewards.ndim != 2 or not rewards.size or transitions.shape != shape:
        raise ValueError(
            "rewards must be [S, A] and transitions [S, A, S], got"
            f" {rewards.shape} and {transitions.shape}"
        )
    sums = transitions.sum(axis=-1)
    if not (transitions >= 0).all() or not np.allclose(sums, 1, atol=1e-5):
        raise ValueError("transitions must be probabilities that sum to one over the last axis")
    if not np.isfinite(rewards).all():
        raise ValueError("rewards must be finite")
    with np.errstate(divide="ignore"):
        log_transitions = np.log(transitions)
    return jnp.asarray(log_transitions), jnp.asarray((rewards - rewards.max()) / temperature)
