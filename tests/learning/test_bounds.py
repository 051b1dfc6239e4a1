"""Bounds: degenerate cases, limits and the exact expectations of the linear-Gaussian model."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.learning import bounds, log_weights
from tests import oracles
from tests.statistics import assert_mean, standard_error

ALPHAS = [-math.inf, -2.0, -0.5, 0.0, 0.3, 0.5, 0.9, 0.999, 1.0, 1.5, 3.0]


def halfway(log_weights: jax.Array) -> jax.Array:
    """A bound of the user's own."""
    return 0.5 * (jnp.mean(log_weights) + jnp.max(log_weights))


BOUNDS = {
    "elbo": bounds.elbo,
    "iwae": bounds.iwae,
    "halfway": halfway,
    **{f"renyi {alpha}": functools.partial(bounds.renyi, alpha=alpha) for alpha in ALPHAS},
}


@functools.cache
def linear_gaussian_log_weights(num_examples: int, num_samples: int) -> np.ndarray:
    """Independent rows of log weights [num_examples, num_samples] of the diagonal q."""
    params, x = oracles.linear_gaussian_params(), oracles.linear_gaussian_x()
    draw = functools.partial(
        log_weights, oracles.linear_gaussian(), params, x=x, num_samples=num_samples
    )
    keys = jax.random.split(jax.random.key(0), num_examples)
    return np.asarray(jax.jit(jax.vmap(lambda key: draw(key=key)))(keys))


def log_marginal() -> float:
    params, x = oracles.linear_gaussian_params(), oracles.linear_gaussian_x()
    return float(jax.jit(oracles.linear_gaussian_log_marginal)(params, x))


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_with_the_exact_posterior_every_bound_is_log_marginal_for_every_sample(dtype) -> None:
    as_dtype = functools.partial(jax.tree.map, lambda leaf: leaf.astype(dtype))
    params, x = as_dtype((oracles.linear_gaussian_params(), oracles.linear_gaussian_x()))
    model = oracles.linear_gaussian(exact_posterior=True)

    @jax.jit
    @jax.vmap
    def values(key):
        weights = log_weights(model, params, key, x, 7)
        return weights, [bound(weights) for bound in BOUNDS.values()]

    with jax.enable_x64(dtype == jnp.float64):
        weights, estimates = values(jax.random.split(jax.random.key(0), 50))
    assert weights.dtype == dtype
    tolerance = 1e-12 if dtype == jnp.float64 else 3e-6
    np.testing.assert_allclose(weights, log_marginal(), rtol=tolerance)
    for name, value in zip(BOUNDS, estimates, strict=True):
        np.testing.assert_allclose(value, log_marginal(), rtol=tolerance, err_msg=name)


@pytest.mark.parametrize("name", BOUNDS)
def test_with_one_sample_every_bound_is_its_log_weight(name: str) -> None:
    np.testing.assert_allclose(BOUNDS[name](jnp.array([-87.3])), -87.3)


def test_renyi_at_zero_is_iwae_and_at_one_the_elbo() -> None:
    weights = linear_gaussian_log_weights(50, 8)
    for row in weights:
        np.testing.assert_allclose(bounds.renyi(row, 0.0), bounds.iwae(row), rtol=1e-12)
        np.testing.assert_allclose(bounds.renyi(row, 1.0), bounds.elbo(row), rtol=1e-12)
        np.testing.assert_allclose(bounds.renyi(row, -math.inf), row.max(), rtol=1e-12)


@pytest.mark.parametrize("step", [1e-2, 1e-4, 1e-6, -1e-6, -1e-4])
def test_renyi_tends_to_the_elbo(step: float) -> None:
    """At 1 - e it is the ELBO + e Var(log w) / 2 + O(e^2)."""
    row = linear_gaussian_log_weights(50, 8)[0]
    exact = row.mean() + step * row.var() / 2
    np.testing.assert_allclose(bounds.renyi(row, 1 - step), exact, atol=max(step**2, 1e-9))


@pytest.mark.parametrize("alpha", [0.99, 0.9999, 1 - 1e-6])
def test_renyi_near_one_keeps_its_digits_in_float32(alpha: float) -> None:
    row = linear_gaussian_log_weights(50, 8)[0] * 5 - 90
    ours = bounds.renyi(jnp.asarray(row, jnp.float32), alpha)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, bounds.renyi(jnp.asarray(row), alpha), atol=1e-3)


def test_renyi_tends_to_the_largest_log_weight() -> None:
    row = linear_gaussian_log_weights(50, 8)[0]
    np.testing.assert_allclose(bounds.renyi(row, -1e6), row.max(), atol=1e-4)


def test_renyi_falls_with_alpha() -> None:
    rows = linear_gaussian_log_weights(50, 8)
    values = np.array([jax.vmap(lambda row: bounds.renyi(row, a))(rows) for a in ALPHAS])  # noqa: B023
    assert (np.diff(values, axis=0) < 0).all()


def test_expectation_of_the_elbo_is_log_marginal_minus_kl() -> None:
    params, x = oracles.linear_gaussian_params(), oracles.linear_gaussian_x()
    exact = log_marginal() - jax.jit(oracles.linear_gaussian_kl)(params, x)
    assert_mean(jax.vmap(bounds.elbo)(linear_gaussian_log_weights(2000, 64)), exact)


@pytest.mark.parametrize(
    "name", ["elbo", "iwae", "halfway", "renyi 0.5", "renyi -2.0", "renyi 1.5"]
)
def test_expectations_for_two_samples_are_those_of_quadrature(name: str) -> None:
    params, x = oracles.linear_gaussian_params(), oracles.linear_gaussian_x()
    exact = jax.jit(oracles.linear_gaussian_expectation, static_argnums=(0, 3))(
        BOUNDS[name], params, x, 2
    )
    pairs = linear_gaussian_log_weights(2000, 64).reshape(-1, 2)
    # The maximum has a kink, which quadrature sees to three digits.
    kink = 2e-3 if name == "halfway" else 1e-9
    assert_mean(jax.jit(jax.vmap(BOUNDS[name]))(pairs), exact, resolution=0.005, floor=kink)


def test_iwae_rises_with_the_number_of_samples_towards_log_marginal() -> None:
    weights = linear_gaussian_log_weights(2000, 64)
    values = {
        k: np.asarray(jax.vmap(bounds.iwae)(weights.reshape(-1, k))).reshape(2000, -1).mean(axis=1)
        for k in (1, 4, 16, 64)
    }
    np.testing.assert_allclose(values[1], weights.mean(axis=1))
    for fewer, more in ((1, 4), (4, 16), (16, 64)):
        rise = values[more] - values[fewer]
        assert rise.mean() > 5 * standard_error(rise)
    assert values[64].mean() < log_marginal() + 5 * standard_error(values[64])


def test_gap_of_iwae_is_the_variance_of_the_weights_over_2k() -> None:
    """log p(x) - E[IWAE] = Var(w / p(x)) / 2K + O(1 / K^2)."""
    params, x = oracles.linear_gaussian_params(), oracles.linear_gaussian_x()
    exact = jax.jit(oracles.linear_gaussian_chi_square)(params, x) / (2 * 64)
    weights = linear_gaussian_log_weights(2000, 64)
    # The mean weight has expectation p(x): subtracting it takes away most of the noise.
    noise = np.exp(weights - log_marginal()).mean(axis=1) - 1
    gap = log_marginal() - np.asarray(jax.vmap(bounds.iwae)(weights)) + noise
    assert_mean(gap, exact, resolution=0.05)


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_do_not_overflow(name: str) -> None:
    weights = jnp.array([-1e4, -1.2e4, 300.0, -90.0], jnp.float32)
    value, gradient = jax.value_and_grad(BOUNDS[name])(weights)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    # Adding a constant to the log weights adds it to the bound, and so to the gradient's sum.
    np.testing.assert_allclose(gradient.sum(), 1, rtol=1e-4)


def test_gradient_of_iwae_is_the_normalised_weights() -> None:
    row = linear_gaussian_log_weights(50, 8)[0]
    np.testing.assert_allclose(
        jax.grad(bounds.iwae)(jnp.asarray(row)), np.exp(row) / np.exp(row).sum(), rtol=1e-10
    )


@pytest.mark.parametrize(
    "bound", [bounds.elbo, bounds.iwae, functools.partial(bounds.renyi, alpha=0.5)]
)
@pytest.mark.parametrize("shape", [(), (0,), (3, 4)])
def test_other_shapes_are_refused(bound, shape) -> None:
    with pytest.raises(ValueError, match=r"log_weights must have shape \[K\]"):
        bound(jnp.zeros(shape))


@pytest.mark.parametrize("alpha", [math.nan, math.inf])
def test_orders_without_a_bound_are_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        bounds.renyi(jnp.zeros(3), alpha)
