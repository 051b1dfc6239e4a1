"""Learned priors against quadrature, autodiff and their own draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.distributions import DiagonalGaussian
from genjax_models.models.latent import priors
from tests.statistics import assert_mean, jit_once

FLOW = priors.autoregressive_flow(2, num_flows=2, hidden=(6,))


def params_of(prior, size: float = 0.7) -> dict:
    """Far from the start, where the flow is the identity."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: leaf + size * rng.normal(size=leaf.shape).astype(np.float32),
        prior.init(jax.random.key(0)),
    )


def test_the_density_of_the_flow_integrates_to_one_and_its_draws_have_it() -> None:
    """By quadrature: the mass, and the moments, the products of both dimensions among them."""
    params = params_of(FLOW, 0.2)
    side = np.linspace(-14, 14, 561, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)

    @jit_once
    def run(keys):
        distribution = FLOW.distribution(params)
        draws = jax.vmap(lambda key: distribution.sample(seed=key))(keys)
        return jax.vmap(distribution.log_prob)(grid), draws

    log_prob, draws = run(jax.random.split(jax.random.key(1), 40_000))
    mass = np.exp(log_prob, dtype=np.float64) * (side[1] - side[0]) ** 2
    assert mass.sum() == pytest.approx(1, abs=1e-4)

    def features(z: np.ndarray) -> np.ndarray:
        z = np.asarray(z, np.float64)
        return np.stack([*np.tanh(z.T), np.cos(z[:, 0] - z[:, 1]), np.sin(z[:, 0] * z[:, 1])], -1)

    assert_mean(features(draws), mass @ features(grid), scale=1)


def test_log_determinant_of_the_flow_against_autodiff() -> None:
    prior = priors.autoregressive_flow(4, num_flows=3, hidden=(7,))
    distribution = prior.distribution(params_of(prior))
    z = jnp.array([0.3, -1.2, 0.8, 2.0])
    noise, log_det = jit_once(distribution.transform)(z)
    jacobian = jit_once(jax.jacobian(lambda z: distribution.transform(z)[0]))(z)
    assert float(log_det) == pytest.approx(np.linalg.slogdet(jacobian)[1], abs=1e-4)
    np.testing.assert_allclose(jit_once(distribution.inverse)(noise), z, atol=1e-4)
    exact = DiagonalGaussian(jnp.zeros(4), jnp.zeros(4)).log_prob(noise) + log_det
    assert float(distribution.log_prob(z)) == pytest.approx(float(exact), rel=1e-5)


def test_draws_are_differentiable_in_the_parameters() -> None:
    """Through the scan over dimensions: against differences."""
    params, direction = params_of(FLOW), params_of(FLOW)
    draw = lambda params: FLOW.distribution(params).sample(seed=jax.random.key(2))  # noqa: E731
    with jax.debug_key_reuse(False):
        _, tangent = jit_once(lambda p, d: jax.jvp(draw, (p,), (d,)))(params, direction)
        step = 1e-3
        shifted = [
            draw(jax.tree.map(lambda p, d, s=sign: p + s * step * d, params, direction))
            for sign in (-1, 1)
        ]
    np.testing.assert_allclose(
        tangent, (shifted[1] - shifted[0]) / (2 * step), rtol=0.02, atol=0.01
    )
    assert FLOW.distribution(params).reparameterized


@pytest.mark.parametrize("num_flows", [0, 2])
def test_the_flow_starts_at_the_standard_normal(num_flows: int) -> None:
    prior = priors.autoregressive_flow(3, num_flows=num_flows)
    distribution = prior.distribution(prior.init(jax.random.key(0)))
    z = jnp.array([0.3, -1.2, 0.8])
    exact = DiagonalGaussian(jnp.zeros(3), jnp.zeros(3)).log_prob(z)
    np.testing.assert_allclose(distribution.log_prob(z), exact, rtol=1e-6)


def test_the_mixture_starts_with_the_moments_of_the_standard_normal() -> None:
    prior = priors.gaussian_mixture(2, 500)
    mixture = prior.distribution(prior.init(jax.random.key(0)))
    variance = np.var(mixture.loc, axis=0) + np.exp(2 * np.asarray(mixture.log_scale)).mean(axis=0)
    np.testing.assert_allclose(mixture.mean(), np.zeros(2), atol=0.12)
    np.testing.assert_allclose(variance, np.ones(2), atol=0.12)


def test_one_component_at_the_origin_is_the_standard_normal() -> None:
    prior = priors.gaussian_mixture(3, 1)
    params = jax.tree.map(jnp.zeros_like, prior.init(jax.random.key(0)))
    z = jnp.array([0.3, -1.2, 0.8])
    exact = DiagonalGaussian(jnp.zeros(3), jnp.zeros(3)).log_prob(z)
    np.testing.assert_allclose(prior.distribution(params).log_prob(z), exact, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: priors.gaussian_mixture(0, 3), "latent_dim must be at least 1, got 0"),
        (lambda: priors.gaussian_mixture(2, 0), "num_components must be at least 1, got 0"),
        (lambda: priors.autoregressive_flow(0), "latent_dim must be at least 1, got 0"),
        (lambda: priors.autoregressive_flow(2, num_flows=-1), "num_flows must be an integer >= 0"),
        (lambda: priors.autoregressive_flow(2, hidden=(0,)), "hidden must be at least 1"),
    ],
)
def test_arguments_that_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
