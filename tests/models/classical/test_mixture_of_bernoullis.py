"""The mixture of Bernoullis against enumeration of all states and EM by hand."""

import functools
import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy import optimize

from genjax_models.models.classical import mixture_of_bernoullis
from genjax_models.training import expectation_maximization
from tests.statistics import assert_mean, jit_once

NUM_DIMS, NUM_COMPONENTS = 4, 3
STATES = np.array(list(itertools.product([0.0, 1.0], repeat=NUM_DIMS)))
MODEL = mixture_of_bernoullis.mixture_of_bernoullis(
    num_dims=NUM_DIMS, num_components=NUM_COMPONENTS
)
log_probs = jit_once(jax.vmap(MODEL.log_prob, (None, 0)))
e_step = jit_once(mixture_of_bernoullis.expected_statistics)
m_step = jit_once(mixture_of_bernoullis.maximize, static_argnames="smoothing")


def make_params(seed: int = 0) -> Any:
    """Parameters without symmetry."""
    rng = np.random.default_rng(seed)
    return {
        "logits": rng.normal(size=NUM_COMPONENTS),
        "component_logits": 1.5 * rng.normal(size=(NUM_COMPONENTS, NUM_DIMS)),
    }


def make_data(num_examples: int = 60, seed: int = 1) -> np.ndarray:
    """From three clusters, each pixel turned over now and then."""
    rng = np.random.default_rng(seed)
    prototypes = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 1]])
    chosen = prototypes[rng.choice(3, num_examples, p=[0.5, 0.3, 0.2])]
    return np.where(rng.uniform(size=chosen.shape) < 0.15, 1 - chosen, chosen).astype(float)


def tables(params: Any) -> tuple[np.ndarray, np.ndarray]:
    """The weights [K] and the probabilities of a one [K, D]."""
    weights = np.exp(params["logits"]) / np.exp(params["logits"]).sum()
    return weights, 1 / (1 + np.exp(-params["component_logits"]))


def joint_of(params: Any, xs: np.ndarray) -> np.ndarray:
    """p(x, k), [N, K], as a product of probabilities."""
    weights, on = tables(params)
    return weights * np.where(xs[:, None, :] == 1, on, 1 - on).prod(axis=-1)


def em_by_hand(params: Any, xs: np.ndarray, pseudo_count: float) -> Any:
    """One step of EM, component by component and pixel by pixel."""
    joint = joint_of(params, xs)
    new = jax.tree.map(np.empty_like, params)
    for k in range(NUM_COMPONENTS):
        share = joint[:, k] / joint.sum(axis=1)
        new["logits"][k] = np.log(share.sum() / len(xs))
        for d in range(NUM_DIMS):
            ones, zeros = share[xs[:, d] == 1].sum(), share[xs[:, d] == 0].sum()
            probability = (ones + pseudo_count) / (ones + zeros + 2 * pseudo_count)
            new["component_logits"][k, d] = np.log(probability / (1 - probability))
    return new


def assert_close(found: Any, expected: Any, **tolerance: Any) -> None:
    tolerance = {"rtol": 1e-9, "atol": 1e-11} | tolerance
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), found, expected)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_probabilities_are_those_of_enumeration_and_sum_to_one(scale: float) -> None:
    params = make_params()
    params["component_logits"] *= scale
    found = np.exp(log_probs(params, STATES))
    np.testing.assert_allclose(found.sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(found, joint_of(params, STATES).sum(axis=1), atol=1e-14)


def test_the_weights_need_no_normalisation() -> None:
    params = make_params()
    moved = params | {"logits": params["logits"] + 7.0}
    assert_close(log_probs(moved, STATES), log_probs(params, STATES))


def test_responsibilities_are_bayes_rule() -> None:
    params = make_params()
    joint = joint_of(params, STATES)
    found = jit_once(jax.vmap(mixture_of_bernoullis.responsibilities, (None, 0)))(params, STATES)
    assert_close(found, joint / joint.sum(axis=1, keepdims=True))


def test_extreme_logits_are_exact_in_float32() -> None:
    """x . l - sum softplus(l), the other way to write it, would be off by whole nats."""
    num_dims = 784
    model = mixture_of_bernoullis.mixture_of_bernoullis(num_dims=num_dims, num_components=2)
    signs = np.where(np.arange(num_dims) % 3 == 0, 1.0, -1.0)
    # Numbers that are not round: sums of round ones would be exact by chance.
    sizes = np.float32(np.random.default_rng(0).uniform(0.5e4, 1e4, num_dims))
    with jax.enable_x64(False):
        params = {
            "logits": jnp.float32([1e4, -1e4]),
            "component_logits": jnp.float32([sizes * signs, -sizes * signs]),
        }
        value_and_grad = jit_once(jax.value_and_grad(model.log_prob))
        for wrong in (0, 1, 5):
            x = jnp.float32((signs > 0) ^ (np.arange(num_dims) < wrong))
            value, gradient = value_and_grad(params, x)
            np.testing.assert_allclose(value, -sizes[:wrong].sum(), rtol=1e-6)
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_samples_have_the_probabilities_of_all_states() -> None:
    params, keys = make_params(), jax.random.split(jax.random.key(0), 20_000)
    xs = jit_once(jax.vmap(MODEL.sample, (None, 0)))(params, keys)
    is_state = (np.asarray(xs)[:, None, :] == STATES).all(axis=-1)
    assert is_state.any(axis=1).all()
    assert_mean(is_state, np.exp(log_probs(params, STATES)))


@pytest.mark.usefixtures("strict_ranks")
def test_expected_statistics_are_those_of_every_posterior() -> None:
    params, xs = make_params(), make_data(7)
    joint = joint_of(params, xs)
    shares = joint / joint.sum(axis=1, keepdims=True)
    log_likelihood, found = e_step(params, xs)
    on = np.mean([np.outer(share, x) for share, x in zip(shares, xs, strict=True)], axis=0)
    assert_close(found, {"weight": shares.mean(axis=0), "on": on})
    np.testing.assert_allclose(log_likelihood, np.log(joint.sum(axis=1)).mean(), rtol=1e-12)


@pytest.mark.usefixtures("strict_ranks")
@pytest.mark.parametrize("pseudo_count", [0.0, 0.7])
def test_steps_are_those_by_hand(pseudo_count: float) -> None:
    params, xs = make_params(), make_data()
    for _ in range(5):
        found = m_step(e_step(params, xs)[1], params, smoothing=pseudo_count / len(xs))
        params = em_by_hand(params, xs, pseudo_count)
        assert_close(found, params)


@pytest.mark.parametrize("smoothing", [0.0, 0.01])
def test_the_m_step_is_the_numerical_maximum(smoothing: float) -> None:
    """Of the expected complete log-likelihood plus a log p(on) + a log p(off) at every pixel."""
    old, xs = make_params(), make_data(30)
    joint = joint_of(old, xs)
    shares = joint / joint.sum(axis=1, keepdims=True)
    flat, unravel = ravel_pytree(old)

    def surrogate(flat: Any) -> Any:
        params = unravel(flat)
        log_on = jax.nn.log_sigmoid(params["component_logits"])
        log_off = jax.nn.log_sigmoid(-params["component_logits"])
        log_likelihood = jnp.sum(
            xs[:, None] * log_on + (1 - xs[:, None]) * log_off, axis=-1
        ) + jax.nn.log_softmax(params["logits"])
        prior = smoothing * jnp.sum(log_on + log_off)
        return -jnp.sum(shares * log_likelihood) / len(xs) - prior

    value_and_grad = jit_once(jax.value_and_grad(surrogate))
    found = m_step(e_step(old, xs)[1], old, smoothing=smoothing)
    found_flat = np.asarray(ravel_pytree(found)[0])
    value, gradient = value_and_grad(found_flat)
    np.testing.assert_allclose(gradient, np.zeros_like(gradient), atol=1e-12)
    result = optimize.minimize(
        lambda flat: jax.tree.map(np.asarray, value_and_grad(flat)), flat, jac=True, tol=1e-9
    )
    np.testing.assert_allclose(value, result.fun, rtol=1e-10)
    assert_close(found["component_logits"], unravel(result.x)["component_logits"], rtol=1e-5)


def test_the_models_own_statistics_are_those_of_all_states() -> None:
    """Weighted by their probabilities; and the M-step gives the parameters back."""
    params = make_params()
    of_each = jit_once(
        jax.vmap(lambda p, x: mixture_of_bernoullis.expected_statistics(p, x[None])[1], (None, 0))
    )(params, STATES)
    probabilities = np.exp(log_probs(params, STATES))
    expected = jax.tree.map(lambda leaf: np.tensordot(probabilities, leaf, 1), of_each)
    found = mixture_of_bernoullis.model_statistics(params)
    assert_close(found, expected)
    back = m_step(found, params)
    assert_close(back["component_logits"], params["component_logits"])
    assert_close(jax.nn.softmax(back["logits"]), tables(params)[0])


def em(start: Any, xs: Any, num_steps: int, smoothing: float = 0.0) -> tuple[Any, np.ndarray]:
    """The parameters after some steps, and what EM maximises before each."""
    maximize = functools.partial(mixture_of_bernoullis.maximize, smoothing=smoothing)
    algorithm = expectation_maximization(
        mixture_of_bernoullis.expected_statistics, maximize, lambda key: start
    )

    def run(state: Any, batch: Any) -> Any:
        def step(state: Any, _: Any) -> Any:
            moved, metrics = algorithm.step(state, jax.random.key(0), batch)
            prior = smoothing * log_prior(state.params)
            return moved, metrics["log_likelihood"] + prior

        return jax.lax.scan(step, state, None, length=num_steps)

    state, values = jax.jit(run)(algorithm.init(jax.random.key(0)), jnp.asarray(xs))
    return state.params, np.asarray(values)


def log_prior(params: Any) -> Any:
    """log p(on) + log p(off) of every pixel of every component."""
    logits = params["component_logits"]
    return jnp.sum(jax.nn.log_sigmoid(logits) + jax.nn.log_sigmoid(-logits))


@pytest.mark.parametrize("smoothing", [0.0, 0.002])
def test_em_never_lowers_what_it_maximises(smoothing: float) -> None:
    for seed in range(4):
        _, values = em(MODEL.init(jax.random.key(seed)), make_data(), 40, smoothing)
        assert np.diff(values).min() > -1e-12
        assert values[-1] - values[0] > 0.1


def test_em_ends_where_the_gradient_is_zero() -> None:
    xs, smoothing = make_data(), 0.002
    params, _ = em(MODEL.init(jax.random.key(0)), xs, 3000, smoothing)

    def objective(params: Any) -> Any:
        return jnp.mean(jax.vmap(MODEL.log_prob, (None, 0))(params, xs)) + smoothing * log_prior(
            params
        )

    gradient = jit_once(jax.grad(objective))(params)
    assert_close(gradient, jax.tree.map(np.zeros_like, params), atol=1e-9)


def test_one_component_is_independent_pixels() -> None:
    xs = make_data()
    start = {"logits": np.zeros(1), "component_logits": np.ones((1, NUM_DIMS))}
    params, values = em(jax.tree.map(jnp.asarray, start), xs, 3)
    mean = xs.mean(axis=0)
    entropy = -np.sum(mean * np.log(mean) + (1 - mean) * np.log(1 - mean))
    np.testing.assert_allclose(values[1:], -entropy, rtol=1e-12)
    assert_close(jax.nn.sigmoid(params["component_logits"][0]), mean)


def test_pixels_that_never_change_leave_everything_finite() -> None:
    """Even in float32, without smoothing: their probability is 3e-7, not zero."""
    xs = make_data().astype(np.float32)
    xs[:, 0], xs[:, 1] = 0, 1
    with jax.enable_x64(False):
        params, values = em(MODEL.init(jax.random.key(0)), xs, 40)
        assert np.isfinite(values).all()
        np.testing.assert_allclose(params["component_logits"][:, 0], -15)
        np.testing.assert_allclose(params["component_logits"][:, 1], 15)
        other = float(MODEL.log_prob(params, jnp.float32([1, 1, 0, 0])))
    assert -18 < other < -14


def test_a_component_without_data_stays_as_it_is() -> None:
    params = make_params()
    statistics = {
        "weight": jnp.array([0.6, 0.4, 0.0]),
        "on": jnp.array([[0.3, 0.1, 0.2, 0.5], [0.1, 0.2, 0.3, 0.3], [0.0, 0.0, 0.0, 0.0]]),
    }
    found = m_step(statistics, params)
    assert_close(found["component_logits"][2], params["component_logits"][2])
    assert_close(jax.nn.softmax(found["logits"]), np.array([0.6, 0.4, 0.0]), atol=1e-15)

    def total(statistics: Any) -> Any:
        return jnp.sum(mixture_of_bernoullis.maximize(statistics, params)["component_logits"])

    gradient = jit_once(jax.grad(total))(statistics)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_a_start_from_examples_favours_their_pixels() -> None:
    xs = STATES[[1, 4, 7, 9, 12]]
    start = mixture_of_bernoullis.examples_as_components(
        jax.random.key(0), jnp.asarray(xs), num_components=5
    )
    weights, on = tables(start)
    assert_close(weights, np.full(5, 0.2))
    found = {tuple(row) for row in np.round(on, 12)}
    assert found == {tuple(row) for row in np.where(xs == 1, 0.75, 0.25)}


def test_the_e_step_holds_no_outer_product_of_each_example() -> None:
    params = {"logits": jnp.zeros(20), "component_logits": jnp.ones((20, 30))}
    xs = jnp.ones((40, 30))
    text = str(jax.make_jaxpr(mixture_of_bernoullis.expected_statistics)(params, xs))
    assert "f64[40,20]" in text
    assert not re.search(r"f64\[\d+,\d+,\d+", text)


@pytest.mark.parametrize("name", ["num_dims", "num_components"])
def test_bad_sizes_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        mixture_of_bernoullis.mixture_of_bernoullis(**{"num_dims": 3, "num_components": 2, name: 0})


def test_bad_arrays_are_refused() -> None:
    params = make_params()
    with pytest.raises(ValueError, match="shape of one event"):
        MODEL.log_prob(params, STATES)
    for shape in [(0, NUM_DIMS), (3, 5), (NUM_DIMS,)]:
        with pytest.raises(ValueError, match=r"batch must be \[N, 4\] with N >= 1, got"):
            mixture_of_bernoullis.expected_statistics(params, np.zeros(shape))
    with pytest.raises(ValueError, match=r"smoothing must not be negative, got -0\.1"):
        mixture_of_bernoullis.maximize(e_step(params, STATES)[1], params, smoothing=-0.1)
    for num_components, xs in [(0, STATES), (17, STATES), (1, STATES[0])]:
        with pytest.raises(ValueError, match=r"num_components must be in 1\.\.N .* got"):
            mixture_of_bernoullis.examples_as_components(
                jax.random.key(0), xs, num_components=num_components
            )
