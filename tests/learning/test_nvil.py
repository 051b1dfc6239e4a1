"""NVIL: unbiased at any state of its baselines, and the baselines learn what they should."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from genjax_models.evaluation import certify_gradient
from genjax_models.interfaces import Network
from genjax_models.learning import NVIL, bounds, nvil, variational
from genjax_models.training import stateful_gradient_descent
from tests.learning.exact import CASES, belief_net, exact

BATCH = jnp.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


def linear() -> Network:
    """b(x) = w x + b, from zero."""
    return Network(
        lambda key: {"weight": jnp.zeros(2), "bias": jnp.zeros(())},
        lambda params, x: params["weight"] @ x + params["bias"],
    )


def settings(**options) -> NVIL:
    return NVIL(baseline=linear(), optimizer=optax.sgd(0.1), decay=0.8, **options)


def objective(bound=bounds.iwae, num_samples: int = 2, **options):
    return variational(
        belief_net().model, bound=bound, estimator=settings(**options), num_samples=num_samples
    )


def warm_state(of, params, batch) -> nvil.NVILState:
    """The state after some batches."""
    state = of.init_state(params, jax.random.key(0))

    def step(state, index):
        key = jax.random.fold_in(jax.random.key(1), index)
        return of(params, state, key, batch)[1][0], None

    return jax.jit(lambda state: jax.lax.scan(step, state, jnp.arange(20))[0])(state)


@functools.cache
def answer(name: str, num_samples: int):
    """The mean over the batch of the exact gradients, a vector."""
    case = belief_net()
    each = [exact(case._replace(x=x), getattr(bounds, name), num_samples) for x in BATCH]
    return jax.tree.map(lambda *leaves: sum(leaves) / len(BATCH), *each)


def certificate(made: dict, answers: dict, params=None, batch=BATCH):
    params = belief_net().params if params is None else params
    states = {name: warm_state(of, params, batch) for name, of in made.items()}

    def estimate(key):
        def gradient(index, name):
            subkey = jax.random.fold_in(key, index)
            loss = lambda params: made[name](params, states[name], subkey, batch)  # noqa: E731
            return ravel_pytree(jax.grad(loss, has_aux=True)(params)[0])[0]

        return {name: gradient(index, name) for index, name in enumerate(made)}

    flat = {name: ravel_pytree(answers[name])[0] for name in made}
    return certify_gradient(estimate, flat, jax.random.key(2), resolution=0.02, batch_size=1000)


def test_unbiased_with_baselines_that_have_learned() -> None:
    made = {"iwae": objective(), "elbo": objective(bounds.elbo), "single": objective(num_samples=1)}
    answers = {
        name: answer(*of)
        for name, of in {"iwae": ("iwae", 2), "elbo": ("elbo", 1), "single": ("elbo", 1)}.items()
    }
    found = certificate(made, answers)
    assert found.is_unbiased, {k: np.abs(z).max() for k, z in found.z_score.items()}


@pytest.mark.parametrize("name", ["gaussian", "mixed"])
def test_unbiased_for_real_and_mixed_latent_variables(name: str) -> None:
    case = CASES[name]()
    baseline = Network(
        lambda key: {"weight": jnp.zeros(())}, lambda params, x: params["weight"] * x
    )
    estimator = NVIL(baseline=baseline, optimizer=optax.sgd(0.1))
    of = variational(case.model, bound=bounds.iwae, estimator=estimator, num_samples=2)
    answers = {"iwae": exact(case, bounds.iwae, 2)}
    found = certificate({"iwae": of}, answers, case.params, jnp.stack([case.x, case.x]))
    assert found.is_unbiased, {k: np.abs(z).max() for k, z in found.z_score.items()}


def test_normalised_it_is_the_gradient_of_phi_over_the_scale(monkeypatch) -> None:
    """A state with scale 3: theta has the gradient, phi a third of it; of the gradient, biased."""
    right = nvil._moving_average

    def scaled(state, normalize):
        mean, _ = right(state, normalize)
        return mean, jnp.asarray(3.0) if normalize else jnp.asarray(1.0)

    monkeypatch.setattr(nvil, "_moving_average", scaled)
    plain = answer("iwae", 2)
    made = {"iwae": objective(normalize=True)}
    third = {"theta": plain["theta"], "phi": jax.tree.map(lambda leaf: leaf / 3, plain["phi"])}
    assert certificate(made, {"iwae": third}).is_unbiased
    assert certificate(made, {"iwae": plain}).verdict == "biased"


def test_a_baseline_of_its_own_batch_is_rejected(monkeypatch) -> None:
    """The mean of the batch that is being scored: every signal then holds a share of itself."""
    monkeypatch.setattr(
        nvil, "signals", lambda values, _: jax.lax.stop_gradient(values - jnp.mean(values))
    )
    of = variational(belief_net().model, bound=bounds.elbo, estimator=NVIL())
    assert certificate({"elbo": of}, {"elbo": answer("elbo", 1)}).verdict == "biased"


def test_the_moving_average_is_debiased_at_every_step() -> None:
    """Of constant targets it is that constant after 1, 2, 3, ... batches, not only the first."""
    state = nvil.NVILState((), (), *jnp.zeros(3))
    for _ in range(4):
        state = nvil._moved(NVIL(decay=0.9), state, BATCH, jnp.full((3, 1), -7.0))
        mean, scale = nvil._moving_average(state, normalize=True)
        np.testing.assert_allclose(mean, -7.0)
        np.testing.assert_allclose(scale, 1.0)
    varied = jnp.array([[-2.0], [-8.0], [-5.0]])
    weights = 0.9 ** np.arange(4, -1, -1) * 0.1
    state = nvil._moved(NVIL(decay=0.9), state, BATCH, varied)
    mean, scale = nvil._moving_average(state, normalize=True)
    batch_means = np.array([-7.0, -7, -7, -7, -5])
    np.testing.assert_allclose(mean, weights @ batch_means / weights.sum())
    second = weights @ np.array([49.0, 49, 49, 49, 31]) / weights.sum()
    np.testing.assert_allclose(scale, max(1, np.sqrt(second - float(mean) ** 2)))


def test_the_baseline_takes_one_step_on_what_the_average_leaves() -> None:
    """Gradient descent on the mean of (bound - b(x) - c)^2, c that of earlier batches."""
    of = objective()
    state = of.init_state(belief_net().params, jax.random.key(0))._replace(
        weight=jnp.array(0.5), total=jnp.array(-1.0)
    )
    targets = jnp.array([[-3.0], [-5.0], [-1.0]])
    moved = nvil._moved(settings(), state, BATCH, targets)
    rest = targets[:, 0] - (-2.0)
    np.testing.assert_allclose(moved.baseline["bias"], 0.1 * 2 * rest.mean())
    np.testing.assert_allclose(moved.baseline["weight"], 0.1 * 2 * rest @ BATCH / 3)
    np.testing.assert_allclose(moved.total, 0.8 * -1.0 + 0.2 * -3.0)


def test_the_average_forgets_nothing_of_a_batch_without_weight() -> None:
    state = nvil.NVILState((), (), *jnp.zeros(3))
    state = nvil._moved(NVIL(), state, BATCH, jnp.full((3, 1), -7.0))
    moved = nvil._moved(NVIL(), state, BATCH, jnp.full((3, 1), -jnp.inf))
    np.testing.assert_allclose(ravel_pytree(moved)[0], ravel_pytree(state)[0])
    one = jnp.array([[-jnp.inf], [-7.0], [-7.0]])
    mean, _ = nvil._moving_average(nvil._moved(NVIL(), state, BATCH, one), normalize=False)
    np.testing.assert_allclose(mean, -7.0)


def test_the_learned_baseline_learns_the_bound_and_lowers_the_variance() -> None:
    case = belief_net()
    of = objective(bounds.elbo, num_samples=1)
    step = jax.jit(lambda state, key: of(case.params, state, key, BATCH)[1][0])
    state = of.init_state(case.params, jax.random.key(0))
    start = state
    for index in range(300):
        state = step(state, jax.random.fold_in(jax.random.key(1), index))
    mean, _ = nvil._moving_average(state, normalize=False)
    for x in BATCH:
        table = case.table(case.params, x, 0)
        weights = table.log_likelihood + table.log_prior - table.log_posterior
        elbo = jnp.sum(table.probability * weights)
        learned = state.baseline["weight"] @ x + state.baseline["bias"] + mean
        np.testing.assert_allclose(learned, elbo, atol=0.35)

    @jax.jit
    def variance(state):
        def gradient(key):
            loss = lambda params: of(params, state, key, BATCH)  # noqa: E731
            return jax.grad(loss, has_aux=True)(case.params)[0]["phi"]["bias"]

        return jnp.var(jax.vmap(gradient)(jax.random.split(jax.random.key(2), 2000)), axis=0)

    assert (variance(state) < 0.5 * variance(start)).all()


def test_it_trains_with_stateful_gradient_descent() -> None:
    """The exact ELBO of the batch, by enumeration, goes most of the way up to -log 3."""
    case = belief_net()
    of = objective(bounds.elbo)
    algorithm = stateful_gradient_descent(
        of, optax.adam(0.03), case.model.init, of.init_state, schedules={"beta": lambda step: 1.0}
    )

    def run(state):
        keys = jax.random.split(jax.random.key(1), 800)
        return jax.lax.scan(lambda state, key: algorithm.step(state, key, BATCH), state, keys)

    def exact_elbo(params):
        total = 0.0
        for x in BATCH:
            table = case.table(params, x, 0)
            weights = table.log_likelihood + table.log_prior - table.log_posterior
            total += float(jnp.sum(table.probability * weights)) / len(BATCH)
        return total

    start = algorithm.init(jax.random.key(0))
    end, _ = jax.jit(run)(start)
    gap = -np.log(3) - exact_elbo(start.params)
    assert gap > 0.1
    assert 0 < -np.log(3) - exact_elbo(end.params) < 0.5 * gap


@pytest.mark.parametrize(
    ("estimator", "options", "message"),
    [
        (NVIL(decay=1.0), {}, "decay must be at least 0 and below 1, got 1.0"),
        (NVIL(baseline=linear()), {}, "baseline and optimizer must be given together"),
        (NVIL(normalize=True), {"kl": "analytic"}, "normalize=True"),
    ],
)
def test_settings_that_are_refused(estimator, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        variational(belief_net().model, estimator=estimator, **options)


def test_a_baseline_that_is_no_scalar_is_refused() -> None:
    network = Network(lambda key: (), lambda params, x: x)
    of = variational(belief_net().model, estimator=NVIL(baseline=network, optimizer=optax.sgd(0.1)))
    state = of.init_state(belief_net().params, jax.random.key(0))
    with pytest.raises(ValueError, match=r"baseline must map x to a scalar, got outputs \(2,\)"):
        of(belief_net().params, state, jax.random.key(1), BATCH)
