"""EM's two algorithms, on a model without latents, whose every step is known, and on real ones."""

import functools
import json
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_models.models.classical import factor_analysis, mixture_of_bernoullis
from genjax_models.training import (
    expectation_maximization,
    stochastic_expectation_maximization,
)
from tests import programs
from tests.statistics import jit_once


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


START = jnp.array([5.0, -3.0])


def expected_statistics(params: Any, batch: Any) -> tuple[Any, Any]:
    """Of a unit-variance Gaussian: nothing is hidden, and the mean is sufficient."""
    return -0.5 * jnp.mean(jnp.sum((batch - params["mean"]) ** 2, axis=1)), batch.mean(axis=0)


def maximize(statistics: Any, params: Any) -> Any:
    return {"mean": statistics}


def stochastic(step_size: Any) -> Any:
    return stochastic_expectation_maximization(
        expected_statistics,
        maximize,
        lambda key: {"mean": START},
        lambda params: params["mean"],
        step_size,
    )


def batches(num_batches: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal([1.0, 2.0], size=(num_batches, 4, 2))


def trajectory(algorithm: Any, batches: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    """The last state, the mean after every step, and the loss of every step."""

    def step(state: Any, batch: Any) -> Any:
        state, metrics = algorithm.step(state, jax.random.key(0), batch)
        return state, (state.params["mean"], metrics)

    state, (means, metrics) = jit_once(
        lambda batches: jax.lax.scan(step, algorithm.init(jax.random.key(0)), batches)
    )(batches)
    np.testing.assert_array_equal(metrics["log_likelihood"], -metrics["loss"])
    return state, np.asarray(means), np.asarray(metrics["loss"])


def test_a_step_maximises_the_statistics_of_its_batch() -> None:
    algorithm = expectation_maximization(expected_statistics, maximize, lambda key: {"mean": START})
    state, means, losses = trajectory(algorithm, batches())
    assert state.step == 6
    np.testing.assert_allclose(means, batches().mean(axis=1))
    # The loss is that of the parameters before the step.
    before = np.concatenate([START[None], means[:-1]])
    residuals = batches() - before[:, None]
    np.testing.assert_allclose(losses, 0.5 * (residuals**2).sum(axis=2).mean(axis=1))


def test_the_average_with_steps_of_one_over_t_is_that_of_all_data() -> None:
    _, means, losses = trajectory(stochastic(lambda step: 1 / (1.0 + step)), batches())
    counts = np.arange(1, 7)[:, None]
    np.testing.assert_allclose(means, np.cumsum(batches().mean(axis=1), axis=0) / counts)
    residuals = batches() - np.concatenate([START[None], means[:-1]])[:, None]
    np.testing.assert_allclose(losses, 0.5 * (residuals**2).sum(axis=2).mean(axis=1))


def test_the_average_begins_with_the_models_own_statistics() -> None:
    step_size = lambda step: 0.25 + 0.1 * step  # noqa: E731
    state, means, _ = trajectory(stochastic(step_size), batches())
    expected = np.asarray(START)
    for step, batch in enumerate(batches()):
        expected = (1 - step_size(step)) * expected + step_size(step) * batch.mean(axis=0)
        np.testing.assert_allclose(means[step], expected)
    assert state.step == 6
    np.testing.assert_allclose(state.statistics, expected)


def mixture_data() -> np.ndarray:
    rng = np.random.default_rng(1)
    prototypes = np.array([[1, 1, 0, 0, 1], [0, 1, 1, 1, 0]])
    chosen = prototypes[rng.choice(2, 200, p=[0.7, 0.3])]
    return np.where(rng.uniform(size=chosen.shape) < 0.1, 1 - chosen, chosen).astype(float)


def gaussian_data() -> np.ndarray:
    rng = np.random.default_rng(0)
    loading = np.array([[1.0, 0.2], [-0.7, 0.8], [0.3, -0.9], [0.5, 0.5], [1.1, -0.4]])
    scale = np.array([0.3, 0.5, 0.4, 0.6, 0.2])
    return rng.normal(size=(200, 2)) @ loading.T + scale * rng.normal(size=(200, 5)) + np.arange(5)


MODELS: dict[str, Any] = {
    "factor analysis": (factor_analysis, gaussian_data, {}),
    "mixture of Bernoullis": (mixture_of_bernoullis, mixture_data, {"smoothing": 0.001}),
}


def parts(name: str) -> tuple[Any, Any, np.ndarray]:
    """The module, its `maximize` and `init`, and data."""
    module, data, options = MODELS[name]
    if module is factor_analysis:
        model = module.factor_analysis(num_dims=5, latent_dim=2)
    else:
        model = module.mixture_of_bernoullis(num_dims=5, num_components=2)
    return module, (functools.partial(module.maximize, **options), model), data()


@functools.cache
def optimum(name: str) -> Any:
    """The parameters after many steps of EM."""
    with jax.enable_x64(True):
        module, (maximize, model), xs = parts(name)
        algorithm = expectation_maximization(module.expected_statistics, maximize, model.init)

        def run(xs: Any) -> Any:
            step = lambda state, _: algorithm.step(state, jax.random.key(1), xs)  # noqa: E731
            return jax.lax.scan(step, algorithm.init(jax.random.key(0)), None, length=1000)[0]

        return jax.jit(run)(xs).params


@pytest.mark.parametrize("name", MODELS)
def test_stochastic_em_reaches_the_same_optimum(name: str) -> None:
    """With batches of 20 of 200 examples, from another start."""
    module, (maximize, model), xs = parts(name)
    algorithm = stochastic_expectation_maximization(
        module.expected_statistics,
        maximize,
        model.init,
        module.model_statistics,
        optax.cosine_decay_schedule(0.2, 3000),
    )

    def run(xs: Any) -> Any:
        def step(state: Any, index: Any) -> Any:
            step_key, batch_key = jax.random.split(jax.random.fold_in(jax.random.key(3), index))
            batch = xs[jax.random.choice(batch_key, len(xs), (20,), replace=False)]
            return algorithm.step(state, step_key, batch)

        return jax.lax.scan(step, algorithm.init(jax.random.key(2)), jnp.arange(3000))[0]

    mean_log_prob = jit_once(lambda params: module.expected_statistics(params, xs)[0])
    state = jax.jit(run)(xs)
    best, found = float(mean_log_prob(optimum(name))), float(mean_log_prob(state.params))
    assert best - 2e-3 < found < best + 1e-4
    assert float(mean_log_prob(jit_once(model.init)(jax.random.key(2)))) < best - 0.2


@pytest.mark.parametrize("name", MODELS)
def test_with_all_data_and_full_steps_it_is_em(name: str) -> None:
    module, (maximize, model), xs = parts(name)
    full = expectation_maximization(module.expected_statistics, maximize, model.init)
    online = stochastic_expectation_maximization(
        module.expected_statistics, maximize, model.init, module.model_statistics, jnp.ones_like
    )

    def run(xs: Any) -> Any:
        states = []
        for algorithm in (full, online):
            state = algorithm.init(jax.random.key(0))
            for index in range(3):
                state, _ = algorithm.step(state, jax.random.key(index), xs)
            states.append(state.params)
        return states

    left, right = jit_once(run)(xs)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-10), left, right)


def test_the_state_keeps_the_types_of_the_parameters_and_may_be_donated() -> None:
    """Two leaves of the start are one array: the state has copies."""
    start = jnp.zeros(2, jnp.float32)
    algorithm = stochastic_expectation_maximization(
        lambda params, batch: (jnp.zeros(()), {"a": batch.mean(axis=0), "b": batch.mean(axis=0)}),
        lambda statistics, params: dict(statistics),
        lambda key: {"a": start, "b": start},
        dict,
        lambda step: 0.5 + 0.0 * step,
    )
    step = jax.jit(algorithm.step, donate_argnums=0)
    state, _ = step(algorithm.init(jax.random.key(0)), jax.random.key(1), jnp.ones((3, 2)))
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.statistics))} == {
        jnp.dtype("float32")
    }
    np.testing.assert_array_equal(state.params["b"], [0.5, 0.5])


@pytest.mark.parametrize("batch", [np.ones(()), np.ones((0, 3)), (np.ones((2, 3)), np.ones(3))])
def test_batches_without_a_common_leading_axis_are_refused(batch: Any) -> None:
    for algorithm in (
        expectation_maximization(expected_statistics, maximize, lambda key: {"mean": START}),
        stochastic(lambda step: 0.5),
    ):
        with pytest.raises(ValueError, match="leading axis"):
            algorithm.step(algorithm.init(jax.random.key(0)), jax.random.key(1), batch)


def test_four_devices_do_as_one() -> None:
    output = programs.run(
        "-m",
        "tests.programs.sharded_expectation_maximization",
        JAX_ENABLE_X64="1",
        XLA_FLAGS="--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=4",
    )
    report = json.loads(output)
    assert report["num_devices"] == 4
    assert report["difference"] < 1e-10 < 1e-2 < report["moved"]
    # Sums over the batch, of the statistics and the log-likelihood, and nothing else.
    assert set(report["collectives"]) == {"all-reduce"}
