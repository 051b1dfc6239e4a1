"""Planning as inference against all action sequences and against dynamic programming."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import logsumexp

from genjax_models.learning import bounds, importance_samples, variational
from genjax_models.models.latent.variational_mdp import (
    DecisionProcess,
    soft_plan,
    variational_mdp,
)
from tests.statistics import assert_mean, jit_once

NUM_STATES, NUM_STEPS, START = 5, 5, 1
SEQUENCES = np.array(list(itertools.product(range(2), repeat=NUM_STEPS)), np.int32)
SUCCESS = jnp.ones(())


def chain(slip: float = 0.0) -> DecisionProcess:
    """Left and right on a line; a little reward at the near end, much at the far one."""
    transitions = np.zeros((NUM_STATES, 2, NUM_STATES))
    for state, action in itertools.product(range(NUM_STATES), range(2)):
        ahead, back = (
            np.clip(state + sign * (2 * action - 1), 0, NUM_STATES - 1) for sign in (1, -1)
        )
        transitions[state, action, ahead] += 1 - slip
        transitions[state, action, back] += slip
    rewards = np.array([[0.3, 0.0], [0.0, -0.1], [0.0, -0.1], [0.0, -0.1], [0.1, 1.0]])
    return DecisionProcess(transitions, rewards)


@functools.cache
def model_of(slip: float = 0.0, start: int = START, **settings: Any) -> Any:
    return variational_mdp(chain(slip), start=start, num_steps=NUM_STEPS, **settings)


def log_success(
    process: DecisionProcess, actions: np.ndarray, temperature: float, start: int
) -> float:
    """log p(x = 1 | a) as a sum over all paths of states."""
    total = 0.0
    for later in itertools.product(range(NUM_STATES), repeat=len(actions) - 1):
        states, probability = (start, *later), 1.0
        for t, (state, action) in enumerate(zip(states, actions, strict=True)):
            deficit = process.rewards[state, action] - process.rewards.max()
            probability *= np.exp(deficit / temperature)
            if t + 1 < len(actions):
                probability *= process.transitions[state, action, states[t + 1]]
        total += probability
    return float(np.log(total))


@functools.cache
def log_joint(slip: float, temperature: float, start: int = START) -> np.ndarray:
    """log p(a) p(x = 1 | a) of all sequences, with equal probabilities of the actions."""
    found = [log_success(chain(slip), actions, temperature, start) for actions in SEQUENCES]
    return np.array(found) - NUM_STEPS * np.log(2)


@pytest.mark.usefixtures("strict_ranks")
@pytest.mark.parametrize(("slip", "temperature"), [(0.0, 1.0), (0.0, 0.2), (0.3, 0.5)])
def test_enumeration_and_dynamic_programming_give_one_evidence(slip, temperature) -> None:
    model = model_of(slip, temperature=temperature, posterior="open_loop")

    @jit_once
    def of_all(params):
        prior = model.prior(params)
        return jax.vmap(
            lambda a: prior.log_prob(a) + model.likelihood(params, a).log_prob(SUCCESS)
        )(SEQUENCES)

    params = model.init(jax.random.key(0))
    exact = log_joint(slip, temperature)
    np.testing.assert_allclose(of_all(params), exact, rtol=1e-5)
    plan = soft_plan(chain(slip), num_steps=NUM_STEPS, temperature=temperature)
    assert float(plan.log_messages[0, START]) == pytest.approx(logsumexp(exact), rel=1e-5)
    np.testing.assert_allclose(np.exp(plan.log_policy).sum(axis=-1), 1, rtol=1e-5)


def test_the_policy_is_the_posterior_of_the_first_action() -> None:
    """Also in a world that slips, where no closed loop of the model exists."""
    exact = log_joint(0.3, 0.5)
    plan = soft_plan(chain(0.3), num_steps=NUM_STEPS, temperature=0.5)
    first = [logsumexp(exact[SEQUENCES[:, 0] == action]) for action in range(2)]
    np.testing.assert_allclose(plan.log_policy[0, START], first - logsumexp(exact), rtol=1e-4)


def test_a_learned_prior_enters_both() -> None:
    logits = jnp.array([[0.3, -0.2], [1.0, 0.0], [-0.5, 0.4], [0.0, 0.7], [0.2, 0.1]])
    model = model_of(prior="learned")
    params = model.init(jax.random.key(0))
    assert params["prior"]["logits"].shape == (NUM_STEPS, 2)
    params["prior"] = {"logits": logits}
    log_priors = np.asarray(logits - logsumexp(logits, axis=1, keepdims=True))
    weights = log_priors[np.arange(NUM_STEPS), SEQUENCES].sum(axis=1)
    found = jax.vmap(model.prior(params).log_prob)(SEQUENCES)
    np.testing.assert_allclose(found, weights, rtol=1e-5)
    exact = logsumexp(log_joint(0.0, 1.0) + NUM_STEPS * np.log(2) + weights)
    plan = soft_plan(chain(), num_steps=NUM_STEPS, prior_logits=logits)
    assert float(plan.log_messages[0, START]) == pytest.approx(exact, rel=1e-5)


def test_the_soft_policy_is_the_exact_posterior() -> None:
    """Every log weight is the evidence, with no variance."""
    model = model_of(temperature=0.4)
    plan = soft_plan(chain(), num_steps=NUM_STEPS, temperature=0.4)
    params = model.init(jax.random.key(0)) | {"posterior": {"logits": plan.log_policy}}
    samples = jit_once(lambda key: importance_samples(model, params, key, SUCCESS, 50))(
        jax.random.key(1)
    )
    assert len(np.unique(samples.z, axis=0)) > 3
    np.testing.assert_allclose(samples.log_weights, plan.log_messages[0, START], rtol=1e-5)
    q = model.posterior(params, SUCCESS)
    found = np.exp(jax.vmap(q.log_prob)(SEQUENCES))
    exact = log_joint(0.0, 0.4)
    np.testing.assert_allclose(found, np.exp(exact - logsumexp(exact)), rtol=1e-4)


def test_draws_have_their_probabilities() -> None:
    model = model_of()
    logits = jax.random.normal(jax.random.key(3), (NUM_STEPS, NUM_STATES, 2))
    params = model.init(jax.random.key(0)) | {"posterior": {"logits": logits}}
    q = model.posterior(params, SUCCESS)
    draws = jit_once(jax.vmap(lambda key: q.sample(seed=key)))(
        jax.random.split(jax.random.key(4), 20_000)
    )
    is_sequence = (np.asarray(draws)[:, None] == SEQUENCES).all(axis=-1)
    assert_mean(is_sequence, np.exp(jax.vmap(q.log_prob)(SEQUENCES)))


def best_by_dynamic_programming(
    process: DecisionProcess, start: int = START
) -> tuple[float, list[int]]:
    """The highest return, and the actions that have it."""
    values, policies = np.zeros(NUM_STATES), []
    for _ in range(NUM_STEPS):
        actions = process.rewards + process.transitions @ values
        policies.insert(0, actions.argmax(axis=1))
        values = actions.max(axis=1)
    state, best = start, []
    for policy in policies:
        best.append(int(policy[state]))
        state = int(process.transitions[state, policy[state]].argmax())
    return values[start], best


def test_at_low_temperature_the_posterior_is_the_optimum() -> None:
    best_return, best = best_by_dynamic_programming(chain())
    temperature = 0.01
    plan = soft_plan(chain(), num_steps=NUM_STEPS, temperature=temperature)
    # log p(x = 1) -> (return - T max r) / temperature, but for the prior of the one sequence.
    evidence = float(plan.log_messages[0, START]) + NUM_STEPS * np.log(2)
    assert temperature * evidence == pytest.approx(best_return - NUM_STEPS, abs=1e-4)
    state, mode = START, []
    for policy in np.asarray(plan.log_policy):
        mode.append(int(policy[state].argmax()))
        assert policy[state].max() > np.log(0.99)
        state = int(chain().transitions[state, mode[-1]].argmax())
    assert mode == best == [1, 1, 1, 1, 1]
    # Not so at a high one: the near end is worth more than the way to the far one.
    warm = soft_plan(chain(), num_steps=2, temperature=0.01)
    assert int(warm.log_policy[0, START].argmax()) == 0


@pytest.mark.parametrize(
    ("estimator", "posterior"), [("rloo", "closed_loop"), ("vimco_geometric", "open_loop")]
)
def test_gradients_are_those_of_enumeration(estimator: str, posterior: str) -> None:
    """Of the ELBO with two samples, and of IWAE, as sums over all sequences and pairs of them."""
    model = model_of(temperature=0.5, posterior=posterior)
    noise = jax.random.normal(jax.random.key(7), (NUM_STEPS, NUM_STATES, 2))
    logits = noise if posterior == "closed_loop" else noise[:, 0]
    params = model.init(jax.random.key(0)) | {"posterior": {"logits": logits}}
    bound = bounds.elbo if estimator == "rloo" else bounds.iwae

    def exact(params):
        log_q = jax.vmap(model.posterior(params, SUCCESS).log_prob)(SEQUENCES)
        log_weights = log_joint(0.0, 0.5) - log_q
        if estimator == "rloo":
            return -jnp.sum(jnp.exp(log_q) * log_weights)
        pairs = jnp.logaddexp(log_weights[:, None], log_weights[None]) - jnp.log(2.0)
        return -jnp.sum(jnp.exp(log_q[:, None] + log_q[None]) * pairs)

    objective = variational(model, bound=bound, estimator=estimator, num_samples=2)
    keys = jax.random.split(jax.random.key(1), 10_000)
    gradient = jax.grad(lambda params, key: objective(params, key, SUCCESS)[0])
    found = jit_once(jax.vmap(gradient, (None, 0)))(params, keys)
    target = jit_once(jax.grad(exact))(params)
    assert_mean(found["posterior"], target["posterior"], resolution=0.04)


@pytest.mark.parametrize(("posterior", "start"), [("closed_loop", 1), ("open_loop", 2)])
def test_training_finds_the_plan(posterior: str, start: int) -> None:
    """From state 1 the open loop settles for the near end, a maximum of its own."""
    model = model_of(start=start, temperature=0.2, posterior=posterior)
    objective = variational(model, estimator="rloo", num_samples=8)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, 800))

    def step(carry, key):
        params, state = carry
        gradient, metrics = jax.grad(objective, has_aux=True)(params, key, SUCCESS)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), metrics["bound"]

    params = model.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 800)
    run = jit_once(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), keys))
    (params, _), values = run(params)
    log_q = np.asarray(jax.vmap(model.posterior(params, SUCCESS).log_prob)(SEQUENCES))
    exact = log_joint(0.0, 0.2, start)
    gap = logsumexp(exact) - np.sum(np.exp(log_q) * (exact - log_q))
    assert SEQUENCES[log_q.argmax()].tolist() == best_by_dynamic_programming(chain(), start)[1]
    assert 0 <= gap < (0.005 if posterior == "closed_loop" else 0.05)
    assert np.mean(values[:20]) < logsumexp(exact) - 1
    # The open loop cannot let a step depend on those before it.
    assert posterior == "closed_loop" or gap > 0.005


def test_a_sure_success_is_almost_sure() -> None:
    """With one reward for all, p(x = 1 | a) = 1: its log-odds stay finite."""
    process = chain()._replace(rewards=np.zeros((NUM_STATES, 2)))
    model = variational_mdp(process, start=0, num_steps=2)
    likelihood = model.likelihood(model.init(jax.random.key(0)), jnp.zeros(2, jnp.int32))
    assert float(likelihood.log_prob(SUCCESS)) == pytest.approx(0, abs=2e-6)
    assert np.isfinite(float(likelihood.log_prob(jnp.zeros(()))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": 5}, r"start must be a state in 0\.\.4, got 5"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be above zero and finite, got 0"),
        ({"prior": "flat"}, "prior must be one of"),
        ({"posterior": "loop"}, "posterior must be one of"),
        ({"process": chain(0.3)}, 'a closed loop is for a deterministic world.*"open_loop"'),
        ({"process": DecisionProcess(np.ones((2, 2)), np.ones((2, 2)))}, "transitions \\[S, A, S"),
        ({"process": DecisionProcess(chain()[0] * 2, chain()[1])}, "must be probabilities"),
        ({"process": DecisionProcess(chain()[0], chain()[1] + np.inf)}, "rewards must be finite"),
    ],
)
def test_bad_input_is_refused(change: dict, message: str) -> None:
    settings = {"process": chain(), "start": START, "num_steps": NUM_STEPS} | change
    with pytest.raises(ValueError, match=message):
        variational_mdp(settings.pop("process"), **settings)


@pytest.mark.parametrize("shape", [(3, 2), (4, 1), (2,)])
def test_logits_of_another_plan_are_refused(shape):
    with pytest.raises(ValueError, match=r"prior_logits must have shape \(4, 2\), got"):
        soft_plan(chain(), num_steps=4, prior_logits=jnp.zeros(shape))


def test_a_world_without_actions_is_refused() -> None:
    nothing = DecisionProcess(np.zeros((2, 0, 2)), np.zeros((2, 0)))
    with pytest.raises(ValueError, match=r"must be \[S, A\] and transitions .*, got \(2, 0\)"):
        soft_plan(nothing, num_steps=3)


@pytest.mark.parametrize("action", [-7, 2, 99])
def test_actions_that_do_not_exist_have_no_probability(action: int) -> None:
    """An index out of range would be taken for the nearest one."""
    model = variational_mdp(chain(), start=START, num_steps=3)
    params = model.init(jax.random.key(0))
    actions = jnp.array([0, action, 1])
    for distribution in (model.prior(params), model.posterior(params, jnp.ones(()))):
        assert distribution.log_prob(actions) == -np.inf
    assert np.isnan(model.likelihood(params, actions).log_prob(jnp.ones(())))


def test_plans_of_another_length_are_refused() -> None:
    model = variational_mdp(chain(), start=START, num_steps=3)
    with pytest.raises(ValueError, match=r"shape of one event, \(3,\), got \(4,\)"):
        model.likelihood(model.init(jax.random.key(0)), jnp.zeros(4, int))
