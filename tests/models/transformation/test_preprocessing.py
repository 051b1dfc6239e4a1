"""The logit transform and dequantisation, each by quadrature or in closed form."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from genjax_models.distributions import is_reparameterized
from genjax_models.evaluation import log_likelihood
from genjax_models.interfaces import DensityModel
from genjax_models.learning import bounds, importance_samples, log_weights, variational
from genjax_models.models.latent import reconstruct, sample
from genjax_models.models.transformation import (
    LogitTransform,
    dequantize,
    dequantized,
    logit_transformed,
)
from genjax_models.models.transformation.preprocessing import Quantized, UniformBin
from tests.statistics import assert_mean, jit_once, standard_error

LOC, SCALE = np.array([0.7, -0.4]), np.array([1.3, 0.6])
FLOAT = np.finfo(np.float32)


def gaussian(num_dims: int = 1) -> DensityModel:
    """Independent Gaussians, off the centre, as a density over u."""
    loc, scale = jnp.asarray(LOC[:num_dims]), jnp.asarray(SCALE[:num_dims])
    return DensityModel(
        lambda key: {"loc": loc, "scale": scale},
        lambda params, u: jax.scipy.stats.norm.logpdf(u, params["loc"], params["scale"]).sum(),
        lambda params, key: (
            params["loc"] + params["scale"] * jax.random.normal(key, (num_dims,), jnp.float32)
        ),
    )


PARAMS = gaussian().init(None)


def cumulative(y: np.ndarray, alpha: float, dim: int = 0) -> np.ndarray:
    """P(Y < y) in closed form, where the logit of Y is Gaussian."""
    s = np.clip(alpha + (1 - 2 * alpha) * np.asarray(y, np.float64), 0, 1)
    with np.errstate(divide="ignore"):
        return norm.cdf((np.log(s) - np.log1p(-s) - LOC[dim]) / SCALE[dim])


def probabilities(num_levels: int, alpha: float, dim: int = 0) -> np.ndarray:
    """P(x = k / (L - 1)) in closed form, [L]: the outermost levels have the tails."""
    edges = cumulative(np.arange(1, num_levels) / num_levels, alpha, dim)
    return np.diff(np.concatenate([[0], edges, [1]]))


def quadrature(low: float, high: float, count: int = 20_000) -> tuple[np.ndarray, float]:
    """Midpoints, as vectors of one dimension, and their distance."""
    points = low + (high - low) * (np.arange(count) + 0.5) / count
    return points[:, None].astype(np.float32), (high - low) / count


def test_the_logit_transform_and_its_derivative() -> None:
    alphas, u = (0.0, 0.05, 0.3), np.array([-7.0, -1.0, 0.0, 0.3, 5.0])

    def both_ways(transform, u):
        y, log_det = transform.forward_and_log_det(u)
        back, inverse_log_det = transform.inverse_and_log_det(y)
        slopes = jax.grad(transform.forward)(u), jax.grad(transform.inverse)(y)
        return y, log_det, back, inverse_log_det, jnp.log(jnp.array(slopes))

    @jit_once
    @jax.vmap
    def everything(u):
        return [both_ways(LogitTransform(alpha), u) for alpha in alphas]

    sigma = 1 / (1 + np.exp(-u))
    # The rounding of y is that of a + (1 - 2 a) y, which the logit stretches by 1 / s (1 - s).
    tolerance = 2 * FLOAT.eps / (sigma * (1 - sigma)) + 1e-5
    for alpha, found in zip(alphas, everything(jnp.asarray(u, jnp.float32)), strict=True):
        y, log_det, back, inverse_log_det, slopes = found
        np.testing.assert_allclose(y, (sigma - alpha) / (1 - 2 * alpha), rtol=1e-4)
        np.testing.assert_allclose(log_det, slopes[:, 0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(inverse_log_det, slopes[:, 1], rtol=1e-4)
        assert (np.abs(back - u) < tolerance).all()
        assert (np.abs(inverse_log_det + log_det) < tolerance).all()


@pytest.mark.parametrize("alpha", [0.0, 0.05])
def test_the_change_of_variables_by_quadrature(alpha: float) -> None:
    """The density integrates to the closed form on every part of its support, and so to one."""
    model = logit_transformed(gaussian(), alpha=alpha)
    margin = alpha / (1 - 2 * alpha)
    log_prob = jit_once(jax.vmap(functools.partial(model.log_prob, PARAMS)))
    for low, high in [(-margin, 0.2), (0.2, 0.9), (0.9, 1 + margin)]:
        points, width = quadrature(low, high)
        integral = np.exp(np.float64(log_prob(points))).sum() * width
        exact = cumulative(high, alpha) - cumulative(low, alpha)
        np.testing.assert_allclose(integral, exact, atol=1e-4)


@pytest.mark.parametrize("mistake", ["no log-determinant", "sign", "no 1 - 2 alpha"])
def test_the_quadrature_rejects(mistake: str) -> None:
    transform = LogitTransform(0.05)
    points, width = quadrature(-1 / 18, 19 / 18)
    u, log_det = transform.inverse_and_log_det(points[:, 0])
    wrong = {"no log-determinant": 0 * log_det, "sign": -log_det}
    log_det = wrong.get(mistake, log_det - math.log(0.9))
    integral = np.sum(norm.pdf(u, LOC[0], SCALE[0]) * np.exp(np.float64(log_det))) * width
    assert abs(integral - 1) > 0.05


@pytest.mark.parametrize("alpha", [0.0, 0.05])
def test_samples_are_of_the_transformed_density(alpha: float) -> None:
    model = logit_transformed(gaussian(2), alpha=alpha)
    draw = jit_once(jax.vmap(functools.partial(model.sample, gaussian(2).init(None))))
    samples = np.asarray(draw(jax.random.split(jax.random.key(0), 20_000)))
    shares = samples[:, :, None] < np.array([0.1, 0.4, 0.8])
    exact = np.stack([cumulative([0.1, 0.4, 0.8], alpha, dim) for dim in (0, 1)])
    assert_mean(shares, exact)


def values_and_slopes(alpha: float, us: list[float], ys: list[float]) -> tuple:
    """log p(y), with gradients, at what u becomes and at y."""
    model = logit_transformed(gaussian(), alpha=alpha)

    @jit_once
    def run(us, ys):
        of_us, log_dets = LogitTransform(alpha).forward_and_log_det(us)
        evaluate = jax.vmap(jax.value_and_grad(model.log_prob, argnums=(0, 1)), (None, 0))
        return evaluate(PARAMS, jnp.concatenate([of_us, ys])[:, None]), log_dets

    return run(jnp.array(us), jnp.array(ys))


def is_finite(tree) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("alpha", [0.0, 1e-6, 0.05])
def test_nothing_overflows(alpha: float) -> None:
    found = values_and_slopes(alpha, [-1e4, -90.0, -17.0, 17.0, 1e4], [0.0, 1.0])
    assert is_finite(found)


@pytest.mark.parametrize("alpha", [0.0, 0.05])
def test_the_density_is_zero_outside_of_its_support(alpha: float) -> None:
    margin = alpha / (1 - 2 * alpha)
    outside = [-margin - 0.01, 1.01 + margin, -50.0, 1e4]
    (values, slopes), _ = values_and_slopes(alpha, [0.0], outside)
    assert np.isfinite(values[0]) and (values[1:] == -np.inf).all()
    assert is_finite(slopes)


@pytest.mark.parametrize("alpha", [-0.1, 0.5, 2.0, float("nan")])
def test_alphas_that_are_refused(alpha: float) -> None:
    for make in (LogitTransform, lambda alpha: logit_transformed(gaussian(), alpha=alpha)):
        with pytest.raises(ValueError, match=r"alpha must be in \[0, 1/2\)"):
            make(alpha)


@pytest.mark.parametrize("alpha", [0.0, 0.05])
@pytest.mark.parametrize("num_levels", [2, 5])
def test_the_probabilities_are_the_integrals_over_the_bins(alpha: float, num_levels: int) -> None:
    """P(x) by quadrature of p(y) P(x | y) over y: the closed form, and one in sum."""
    model = dequantized(logit_transformed(gaussian(), alpha=alpha), num_levels=num_levels)
    margin = alpha / (1 - 2 * alpha)
    points, width = quadrature(-margin, 1 + margin)
    levels = np.arange(num_levels, dtype=np.float32) / (num_levels - 1)

    @jit_once
    @jax.vmap
    def joint(y):
        likelihood = jax.vmap(lambda x: model.likelihood(PARAMS, y).log_prob(x[None]))(levels)
        return likelihood + model.prior(PARAMS).log_prob(y)

    by_quadrature = np.exp(np.float64(joint(points))).sum(axis=0) * width
    exact = probabilities(num_levels, alpha)
    np.testing.assert_allclose(by_quadrature, exact, atol=2e-4)
    assert by_quadrature.sum() == pytest.approx(1, abs=2e-4)


@functools.cache
def two_pixels():
    """Three levels in two dimensions, without a mass outside of [0, 1]."""
    return dequantized(logit_transformed(gaussian(2), alpha=0.0), num_levels=3)


X = jnp.array([1.0, 0.5])
EXACT = math.log(probabilities(3, 0.0, 0)[2] * probabilities(3, 0.0, 1)[1])


@functools.cache
def weights_of_two_pixels() -> np.ndarray:
    draw = jit_once(log_weights, static_argnums=(0, 4))
    params = gaussian(2).init(None)
    return np.asarray(draw(two_pixels(), params, jax.random.key(0), X, 40_000))


def test_the_weights_average_to_the_probability() -> None:
    assert_mean(np.exp(weights_of_two_pixels()), math.exp(EXACT))
    with pytest.raises(AssertionError, match="biased"):  # D log L for one dimension only
        assert_mean(np.exp(weights_of_two_pixels()) * 3, math.exp(EXACT))


def test_the_bounds_are_below_the_probability_and_tighten() -> None:
    weights = weights_of_two_pixels()
    two, fifty = (jax.vmap(bounds.iwae)(weights.reshape(-1, k)) for k in (2, 50))
    assert weights.mean() + 0.02 < two.mean() < EXACT - 5 * standard_error(two)
    # What is left of the gap for K = 50 is var(w) / (2 K mean(w)^2).
    variance = np.exp(weights - EXACT).var()
    assert_mean(fifty, EXACT - variance / 100, floor=1e-3)
    # The ELBO by quadrature over both bins.
    gap = 0.0
    for dim, (low, high) in enumerate([(2 / 3, 1), (1 / 3, 2 / 3)]):
        y = low + (high - low) * (np.arange(100_000) + 0.5) / 100_000
        u = np.log(y) - np.log1p(-y)
        log_density = norm.logpdf(u, LOC[dim], SCALE[dim]) - np.log(y) - np.log1p(-y)
        gap += log_density.mean() - math.log(3)
    assert_mean(weights, gap)


def test_the_mass_beyond_the_ends_is_missing_from_the_bounds_alone() -> None:
    """With alpha > 0 the level 0 has the tail below 0, which no draw of the posterior reaches."""
    model = dequantized(logit_transformed(gaussian(), alpha=0.05), num_levels=3)
    draw = jit_once(log_weights, static_argnums=(0, 4))
    weights = draw(model, PARAMS, jax.random.key(0), jnp.array([0.0]), 40_000)
    inside = cumulative(1 / 3, 0.05) - cumulative(0.0, 0.05)
    assert_mean(np.exp(weights), inside)
    assert inside < 0.99 * probabilities(3, 0.05)[0]


def test_the_log_likelihood_and_the_objective_are_those_of_the_library() -> None:
    params = gaussian(2).init(None)
    estimate = jit_once(
        lambda key: log_likelihood(two_pixels(), params, key, X, num_samples=5000, chunk_size=500)
    )(jax.random.key(1))
    assert abs(estimate.value - EXACT) < 5 * estimate.monte_carlo_error < 0.1
    objective = variational(two_pixels())
    (loss, metrics), slope = jit_once(jax.value_and_grad(objective, has_aux=True))(
        params, jax.random.key(2), X
    )
    assert metrics["log_likelihood"] == 0 and loss == -metrics["bound"]
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(slope))


def histogram() -> DensityModel:
    """A density that is constant in every bin of three levels, in two dimensions."""
    mass = jnp.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])

    def log_prob(params, y):
        levels = jnp.clip(jnp.floor(y * 3), 0, 2).astype(int)
        return jnp.sum(jnp.log(3 * mass[jnp.arange(2), levels]))

    return DensityModel(lambda key: {}, log_prob, lambda params, key: jax.random.uniform(key, (2,)))


def test_where_the_density_is_constant_in_a_bin_every_weight_is_exact() -> None:
    model = dequantized(histogram(), num_levels=3)
    draw = jit_once(log_weights, static_argnums=(0, 4))
    for x, exact in [([1.0, 0.5], 0.3 * 0.1), ([0.0, 1.0], 0.2 * 0.3), ([0.5, 0.0], 0.5 * 0.6)]:
        weights = draw(model, {}, jax.random.key(0), jnp.array(x), 500)
        np.testing.assert_allclose(weights, math.log(exact), rtol=1e-5)


@pytest.mark.parametrize("num_levels", [2, 3, 17, 256])
def test_every_draw_is_in_its_bin_whatever_the_rounding(num_levels: int) -> None:
    """At the least and the greatest noise that float32 gives: P(x | z) = 1, never 0."""
    x = np.arange(num_levels, dtype=np.float32) / np.float32(num_levels - 1)
    noise = np.array([0, 1 - FLOAT.epsneg, 0.5], np.float32)[:, None]
    ys = (np.round(x * (num_levels - 1)) + noise) / np.float32(num_levels)

    @jit_once
    def run(ys, key):
        def log_probs(y):
            return Quantized(y, num_levels).log_prob(x), UniformBin(x, num_levels).log_prob(y)

        keys = jax.random.split(key, 1000)
        samples = jax.vmap(lambda key: dequantize(key, x, num_levels=num_levels))(keys)
        return jax.vmap(log_probs)(ys), samples, jax.vmap(log_probs)(samples)

    edges, samples, inside = run(ys, jax.random.key(0))
    for of_levels, of_values in (edges, inside):
        assert (of_levels == 0).all()
        np.testing.assert_allclose(of_values, num_levels * math.log(num_levels), rtol=1e-6)
    assert_mean(samples, (np.arange(num_levels) + 0.5) / num_levels)


def test_values_outside_of_the_bin_have_no_probability() -> None:
    x = jnp.array([0.5, 1.0])
    assert UniformBin(x, 3).log_prob(jnp.array([0.5, 0.6])) == -np.inf
    assert UniformBin(x, 3).log_prob(jnp.array([0.5, 1.1])) == -np.inf
    assert Quantized(jnp.array([0.5, 0.6]), 3).log_prob(x) == -np.inf
    # Beyond the ends are the outermost levels.
    assert Quantized(jnp.array([-0.3, 1.7]), 3).log_prob(jnp.array([0.0, 1.0])) == 0
    np.testing.assert_array_equal(Quantized(jnp.array([-0.3, 1.7]), 3).mean(), [0, 1])
    # What is no level has no probability, rather than that of the next one.
    assert Quantized(jnp.array([0.5, 0.7]), 3).log_prob(jnp.array([0.5, 0.8])) == -np.inf


def test_the_parts_are_distributions() -> None:
    model, params = two_pixels(), gaussian(2).init(None)
    posterior = model.posterior(params, X)
    assert is_reparameterized(posterior)
    assert not is_reparameterized(model.likelihood(params, X))
    assert not is_reparameterized(model.prior(params))
    np.testing.assert_allclose(posterior.mean(), [5 / 6, 1 / 2], rtol=1e-6)
    parts = (posterior, model.likelihood(params, X), model.prior(params))

    @jit_once
    def run(key):
        again = jax.random.clone(key)
        found = []
        for distribution in parts:
            value, log_prob = distribution.sample_and_log_prob(seed=jax.random.clone(key))
            same = distribution.sample(seed=jax.random.clone(again))
            found.append((value, same, log_prob, distribution.log_prob(value)))
        return found

    for value, same, log_prob, of_value in run(jax.random.key(3)):
        np.testing.assert_array_equal(value, same)
        np.testing.assert_allclose(log_prob, of_value, rtol=1e-4)
    for distribution in (posterior, model.likelihood(params, X)):
        with pytest.raises(ValueError, match="shape of one event"):
            distribution.log_prob(jnp.zeros((3, 2)))


def test_the_distributions_cross_jit_and_vmap() -> None:
    model, params = two_pixels(), gaussian(2).init(None)
    xs = jnp.array([[1.0, 0.5], [0.0, 0.0]])
    made = jax.jit(jax.vmap(lambda x: (model.posterior(params, x), model.likelihood(params, x))))(
        xs
    )
    posterior, likelihood = jax.vmap(lambda pair: (pair[0].mean(), pair[1].mean()))(made)
    np.testing.assert_allclose(posterior, (2 * xs + 0.5) / 3, rtol=1e-6)
    np.testing.assert_allclose(likelihood, xs, rtol=1e-6)
    prior = jax.jit(model.prior)(params)
    expected = model.prior(params).log_prob(jnp.array([0.2, 0.7]))
    np.testing.assert_allclose(
        jax.jit(lambda d, y: d.log_prob(y))(prior, jnp.array([0.2, 0.7])), expected, rtol=1e-6
    )


def test_samples_have_the_probabilities_of_the_levels() -> None:
    model, params = two_pixels(), gaussian(2).init(None)
    draw = jit_once(jax.vmap(lambda key: sample(model, params, key)))
    samples = np.asarray(draw(jax.random.split(jax.random.key(4), 20_000)))
    shares = samples[:, :, None] == np.array([0, 0.5, 1], np.float32)
    assert_mean(shares, np.stack([probabilities(3, 0.0, dim) for dim in (0, 1)]))


def test_a_reconstruction_is_the_example() -> None:
    model, params = two_pixels(), gaussian(2).init(None)

    @jit_once
    def run(key):
        parts = importance_samples(model, params, key, X, 3)
        return reconstruct(model, params, jax.random.clone(key), X), parts

    reconstruction, parts = run(jax.random.key(0))
    np.testing.assert_array_equal(reconstruction, X)
    np.testing.assert_array_equal(parts.log_likelihood, 0)
    np.testing.assert_allclose(parts.log_posterior, 2 * math.log(3), rtol=1e-6)


def test_a_single_level_is_refused() -> None:
    with pytest.raises(ValueError, match="num_levels must be at least 2, got 1"):
        dequantized(gaussian(), num_levels=1)
