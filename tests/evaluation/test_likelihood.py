"""The streamed log-likelihood: its value, its error bar, its memory, and the models it takes."""

import functools

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.evaluation import log_likelihood
from genjax_models.learning import bounds, log_weights
from tests import oracles
from tests.statistics import assert_mean

MODELS = {
    "gaussian": (
        oracles.linear_gaussian,
        oracles.linear_gaussian_params,
        oracles.linear_gaussian_x,
    ),
    "structured": (
        oracles.structured_linear_gaussian,
        oracles.linear_gaussian_params,
        oracles.structured_x,
    ),
    "discrete": (oracles.discrete, oracles.discrete_params, oracles.discrete_x),
}
estimate = jax.jit(log_likelihood, static_argnums=0, static_argnames=("num_samples", "chunk_size"))


def parts(name: str) -> tuple:
    return tuple(make() for make in MODELS[name])


@functools.cache
def log_marginal(name: str) -> float:
    if name == "discrete":
        return float(oracles.discrete_log_marginal(*parts(name)[1:]))
    _, params, x = parts("gaussian")
    return float(jax.jit(oracles.linear_gaussian_log_marginal)(params, x))


@functools.cache
def repeated(num_repeats: int, num_samples: int) -> tuple[np.ndarray, ...]:
    """Estimates with independent keys, on the linear-Gaussian model."""
    model, params, x = parts("gaussian")
    keys = jax.random.split(jax.random.key(0), num_repeats)
    one = lambda key: log_likelihood(model, params, key, x, num_samples=num_samples)  # noqa: E731
    return tuple(map(np.asarray, jax.jit(jax.vmap(one))(keys)))


@pytest.mark.parametrize(
    ("num_samples", "chunk_size"), [(1, 100), (2, 1), (7, 3), (7, 7), (7, 100), (64, 16)]
)
def test_any_chunk_size_gives_the_sums_over_all_log_weights(num_samples, chunk_size) -> None:
    model, params, x = parts("gaussian")
    key = jax.random.key(3)
    weights = jax.jit(log_weights, static_argnums=(0, 4))(
        model, params, jax.random.clone(key), x, num_samples
    )
    w = np.exp(np.asarray(weights, np.float64))
    value, error, size = estimate(
        model, params, key, x, num_samples=num_samples, chunk_size=chunk_size
    )
    np.testing.assert_allclose(value, np.log(w.mean()), rtol=1e-5)
    np.testing.assert_allclose(size, w.sum() ** 2 / (w**2).sum(), rtol=1e-4)
    if num_samples == 1:
        assert error == np.inf
    else:
        exact = w.std(ddof=1) / np.sqrt(num_samples) / w.mean()
        np.testing.assert_allclose(error, exact, rtol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_the_mean_weight_is_the_marginal_likelihood(name: str) -> None:
    model, params, x = parts(name)
    keys = jax.random.split(jax.random.key(0), 5000)
    one = lambda key: log_likelihood(model, params, key, x, num_samples=8, chunk_size=3)  # noqa: E731
    values = np.exp(jax.jit(jax.vmap(one))(keys).value)
    assert_mean(values, np.exp(log_marginal(name)), resolution=0.01)


def test_in_expectation_it_is_the_importance_weighted_bound() -> None:
    """A lower bound, by enumeration of every triple of latent states."""
    model, params, x = parts("discrete")
    keys = jax.random.split(jax.random.key(0), 20_000)
    one = lambda key: log_likelihood(model, params, key, x, num_samples=3)  # noqa: E731
    exact = oracles.discrete_expectation(bounds.iwae, params, x, 3)
    assert_mean(jax.jit(jax.vmap(one))(keys).value, exact, resolution=0.002)
    assert exact < log_marginal("discrete")


def test_many_samples_are_within_their_error_of_the_exact_answer() -> None:
    model, params, x = parts("gaussian")
    value, error, size = estimate(model, params, jax.random.key(0), x)
    assert error < 0.02
    assert abs(value - log_marginal("gaussian")) < 5 * error
    assert 1 < size < 5000


def test_monte_carlo_error_is_the_spread_over_keys() -> None:
    """sqrt(Var(w) / K) / p(x) to first order, which is known in closed form."""
    _, params, x = parts("gaussian")
    variance = float(jax.jit(oracles.linear_gaussian_chi_square)(params, x)) / 256
    value, error, size = repeated(4000, 256)
    squares = (value - log_marginal("gaussian")) ** 2
    assert_mean(squares, variance, resolution=0.05)
    assert_mean(error[:300], np.sqrt(variance))
    assert_mean(size[:300], 256 / (1 + 256 * variance))


def test_two_monte_carlo_errors_cover_the_exact_answer_19_times_in_20() -> None:
    value, error, _ = repeated(4000, 256)
    covered = np.abs(value - log_marginal("gaussian")) < 1.96 * error
    assert_mean(covered, 0.95)


def test_with_the_exact_posterior_there_is_no_error() -> None:
    _, params, x = parts("gaussian")
    model = oracles.linear_gaussian(exact_posterior=True)
    value, error, size = estimate(model, params, jax.random.key(0), x, num_samples=50, chunk_size=8)
    np.testing.assert_allclose(value, log_marginal("gaussian"), rtol=1e-5)
    np.testing.assert_allclose(size, 50, rtol=1e-4)
    assert error < 1e-3


def test_memory_does_not_grow_with_the_number_of_samples() -> None:
    model, params, x = parts("gaussian")

    def temporary(num_samples: int, chunk_size: int) -> int:
        lowered = estimate.lower(
            model, params, jax.random.key(0), x, num_samples=num_samples, chunk_size=chunk_size
        )
        return lowered.compile().memory_analysis().temp_size_in_bytes

    few, many = temporary(1000, 100), temporary(1_000_000, 100)
    assert many <= few + 1024
    # The measure sees what it should: with one chunk the samples are all held.
    assert temporary(100_000, 100_000) > 100 * many


def test_a_data_set_is_a_vmap() -> None:
    model, params, x = parts("gaussian")
    xs = x + jnp.arange(3.0)[:, None]
    keys = jax.random.split(jax.random.key(0), 3)
    one = lambda key, x: log_likelihood(model, params, key, x, num_samples=20, chunk_size=8)  # noqa: E731
    batch = jax.jit(jax.vmap(one))(keys, xs)
    for index in range(3):
        single = jax.jit(one)(keys[index], xs[index])
        for ours, exact in zip(batch, single, strict=True):
            np.testing.assert_allclose(ours[index], exact, rtol=1e-4)


def test_log_weights_of_great_size() -> None:
    """A constant in the log-likelihood moves the value and nothing else."""
    plain, params, x = parts("gaussian")

    class Shifted:
        def __init__(self, distribution) -> None:
            self.distribution = distribution

        def log_prob(self, value):
            return self.distribution.log_prob(value) - 4096.0

    model = plain._replace(likelihood=lambda params, z: Shifted(plain.likelihood(params, z)))
    shifted, exact = (
        estimate(m, params, jax.random.key(0), x, num_samples=500) for m in (model, plain)
    )
    np.testing.assert_allclose(shifted.value, exact.value - 4096, rtol=1e-6)
    np.testing.assert_allclose(shifted.monte_carlo_error, exact.monte_carlo_error, rtol=0.02)
    np.testing.assert_allclose(
        shifted.effective_sample_size, exact.effective_sample_size, rtol=0.02
    )


@pytest.mark.parametrize(
    "options", [{"num_samples": 0}, {"num_samples": 2.5}, {"chunk_size": 0}, {"chunk_size": 2.5}]
)
def test_sizes_that_are_refused(options: dict) -> None:
    model, params, x = parts("discrete")
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} must be an integer >= 1"):
        log_likelihood(model, params, jax.random.key(0), x, **options)


def test_a_batch_of_distributions_is_refused() -> None:
    plain, params, x = parts("gaussian")
    model = plain._replace(
        likelihood=lambda params, z: distrax.Normal(params["loading"] @ z, jnp.ones(3))
    )
    with pytest.raises(ValueError, match=r"likelihood.*Independent"):
        log_likelihood(model, params, jax.random.key(0), x)
