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


# The bounds that are made of the others, against what they are in numpy.

WEIGHTS = np.array([-3.0, -0.4, -1.7, 0.6, -2.2, -0.9])


def log_mean(weights: np.ndarray) -> float:
    return float(np.log(np.mean(weights)))


def thermodynamic_mean(beta: float) -> float:
    powers = np.exp(beta * WEIGHTS)
    return float(np.sum(powers / powers.sum() * WEIGHTS))


def test_values_against_numpy() -> None:
    w = np.exp(WEIGHTS)
    f = thermodynamic_mean
    betas = (0.0, 0.2, 0.5, 1.0)
    left = 0.2 * f(0.0) + 0.3 * f(0.2) + 0.5 * f(0.5)
    right = 0.2 * f(0.2) + 0.3 * f(0.5) + 0.5 * f(1.0)
    without = [log_mean(np.delete(w, k)) for k in range(6)]
    for ours, exact in (
        (bounds.vr_max(WEIGHTS), 0.6),
        (bounds.cubo(WEIGHTS), 0.5 * log_mean(w**2)),
        (bounds.cubo(WEIGHTS, 3.5), log_mean(w**3.5) / 3.5),
        (bounds.cubo(WEIGHTS, 1), log_mean(w)),
        (bounds.tvo(WEIGHTS, betas), left),
        (bounds.tvo(WEIGHTS, betas, "right"), right),
        (bounds.tvo(WEIGHTS, betas, "trapezoid"), 0.5 * (left + right)),
        (bounds.tvo(WEIGHTS, (0, 1)), WEIGHTS.mean()),
        (bounds.jackknife(WEIGHTS, 0), log_mean(w)),
        (bounds.jackknife(WEIGHTS), 6 * log_mean(w) - 5 * np.mean(without)),
        (bounds.miwae(WEIGHTS, 2), 0.5 * (log_mean(w[:3]) + log_mean(w[3:]))),
        (bounds.miwae(WEIGHTS, 1), log_mean(w)),
        (bounds.miwae(WEIGHTS, 6), WEIGHTS.mean()),
        (bounds.ciwae(WEIGHTS, 0.3), 0.3 * WEIGHTS.mean() + 0.7 * log_mean(w)),
        (bounds.piwae(2)(WEIGHTS), log_mean(w)),
        (bounds.piwae(2).posterior(WEIGHTS), bounds.miwae(WEIGHTS, 2)),
    ):
        np.testing.assert_allclose(ours, exact, rtol=1e-12)


def test_tvo_encloses_log_marginal_and_tends_to_it() -> None:
    """With every z once and q uniform the tempered means are exact: log p(x) = log mean w."""
    exact = log_mean(np.exp(WEIGHTS))
    gaps = []
    for num in (4, 8, 64):
        betas = np.linspace(0, 1, num + 1)
        low, high = (bounds.tvo(WEIGHTS, betas, rule) for rule in ("left", "right"))
        assert low < exact < high
        gaps.append(high - low)
        np.testing.assert_allclose(bounds.tvo(WEIGHTS, betas, "trapezoid"), exact, atol=1 / num**2)
    np.testing.assert_allclose(gaps[0] / np.array(gaps), [1, 2, 16])


def test_cubo_rises_with_its_order_from_log_marginal() -> None:
    values = [float(bounds.cubo(WEIGHTS, order)) for order in (1, 1.5, 2, 4)]
    np.testing.assert_allclose(values[0], log_mean(np.exp(WEIGHTS)))
    assert (np.diff(values) > 0.01).all()
    np.testing.assert_allclose(bounds.cubo(WEIGHTS, 3), bounds.renyi(WEIGHTS, -2.0))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_bias_of_the_jackknife_falls_by_one_more_power_of_k(order: int) -> None:
    """For weights of 1.6 (one in four) and 0.8, by enumeration of how many of K are the larger."""

    def bias(num_samples: int) -> float:
        counts = np.arange(num_samples + 1)
        rows = np.log(np.where(np.arange(num_samples) < counts[:, None], 1.6, 0.8))
        values = jax.jit(jax.vmap(functools.partial(bounds.jackknife, order=order)))(rows)
        chances = [math.comb(num_samples, c) * 3.0 ** (num_samples - c) for c in counts]
        return float(np.dot(chances, values)) / 4.0**num_samples

    few, many = abs(bias(8)), abs(bias(16))
    np.testing.assert_allclose(math.log2(few / many), order + 1, atol=0.4)


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        (functools.partial(bounds.cubo, order=0.5), "order must be a finite number >= 1, got 0.5"),
        (functools.partial(bounds.cubo, order=math.inf), "order must be a finite number >= 1"),
        (functools.partial(bounds.tvo, betas=(0, 0.5)), "betas must rise from 0 to 1"),
        (functools.partial(bounds.tvo, betas=(0, 0.7, 0.7, 1)), "betas must rise from 0 to 1"),
        (functools.partial(bounds.tvo, betas=(1,)), "betas must rise from 0 to 1"),
        (functools.partial(bounds.tvo, betas=(0, 1), rule="mid"), "rule must be one of .*'mid'"),
        (functools.partial(bounds.jackknife, order=6), r"from 0 to num_samples - 1 = 5, got 6"),
        (functools.partial(bounds.jackknife, order=-1), "order must be an integer from 0"),
        (functools.partial(bounds.jackknife, order=1.0), "order must be an integer from 0"),
        (functools.partial(bounds.miwae, num_groups=4), "num_groups must divide num_samples, 6"),
        (functools.partial(bounds.miwae, num_groups=0), "num_groups must divide num_samples, 6"),
        (functools.partial(bounds.ciwae, weight=1.2), "weight must be from 0 to 1, got 1.2"),
        (functools.partial(bounds.ciwae, weight=math.nan), "weight must be from 0 to 1, got nan"),
    ],
)
def test_settings_of_bounds_that_are_refused(bound, message) -> None:
    with pytest.raises(ValueError, match=message):
        bound(jnp.asarray(WEIGHTS))


def test_a_jackknife_of_too_many_subsets_is_refused() -> None:
    with pytest.raises(ValueError, match="302621 subsets, more than 20000"):
        bounds.jackknife(jnp.zeros(123), 3)


def test_bounds_of_narrow_floats_are_those_of_wide_ones() -> None:
    """A jackknife multiplies by K what bfloat16 would round; a common shift is no loss."""
    narrow = jax.random.normal(jax.random.key(0), (300,), jnp.float32).astype(jnp.bfloat16)
    shifted = narrow.astype(jnp.float32) - 1e4
    for bound in (bounds.elbo, bounds.iwae, bounds.jackknife, bounds.vr_max):
        found = bound(narrow), bound(shifted)
        assert found[0].dtype == jnp.float32
        with jax.enable_x64(True):
            exact = [bound(jnp.asarray(np.asarray(w), jnp.float64)) for w in (narrow, shifted)]
        np.testing.assert_allclose(found[0], exact[0], atol=1e-4)
        np.testing.assert_allclose(found[1], exact[1], atol=2e-3)
