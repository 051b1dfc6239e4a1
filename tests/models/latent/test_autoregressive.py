"""The inverse autoregressive posterior: its determinant, its density, its special cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.distributions import DiagonalGaussian
from genjax_models.models.latent import vae
from genjax_models.models.latent.autoregressive import inverse_autoregressive
from genjax_models.networks import mlp
from tests.statistics import assert_mean, jit_once

X = jnp.array([1.0, 0.0, 1.0])


def encoder(num_outputs: int):
    return mlp(3, (5,), num_outputs)


def posterior_of(latent_dim: int, num_flows: int):
    part = inverse_autoregressive(
        encoder, latent_dim, num_flows=num_flows, hidden=(9,), context_dim=4
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: leaf + 0.5 * rng.normal(size=leaf.shape).astype(np.float32),
        part.init(jax.random.key(0)),
    )
    return part, params


@pytest.mark.parametrize("num_flows", [1, 3])
def test_log_determinant_against_autodiff(num_flows: int) -> None:
    part, params = posterior_of(4, num_flows)
    transform = part.distribution(params, X).transform
    start = jnp.array([0.3, -1.2, 0.8, 2.0])
    _, log_det = jit_once(transform)(start)
    jacobian = jit_once(jax.jacobian(lambda z: transform(z)[0]))(start)
    assert float(log_det) == pytest.approx(np.linalg.slogdet(jacobian)[1], abs=1e-4)


def test_a_flow_is_triangular_with_gates_between_zero_and_one_on_its_diagonal() -> None:
    part, params = posterior_of(4, 1)
    transform = part.distribution(params, X).transform
    # The flow ends with a reversal.
    jacobian = np.asarray(jax.jacobian(lambda z: transform(z)[0][::-1])(jnp.zeros(4)))
    assert (jacobian[np.triu_indices(4, 1)] == 0).all()
    assert (np.abs(jacobian[np.tril_indices(4)]) > 0).all()
    assert ((np.diag(jacobian) > 0) & (np.diag(jacobian) < 1)).all()


def test_the_density_of_its_draws_integrates_to_one() -> None:
    """E_q [f(z) / q(z)] is the integral of f, for a Gaussian f: quadrature by importance."""
    part, params = posterior_of(2, 2)

    @jit_once
    def ratios(keys):
        posterior = part.distribution(params, X)
        draws, log_probs = jax.vmap(lambda key: posterior.sample_and_log_prob(seed=key))(keys)
        center = DiagonalGaussian(jnp.mean(draws, axis=0), jnp.log(jnp.std(draws, axis=0) / 2))
        return jnp.exp(jax.vmap(center.log_prob)(draws) - log_probs)

    assert_mean(ratios(jax.random.split(jax.random.key(0), 40_000)), 1.0)


def test_zero_flows_is_the_diagonal_gaussian() -> None:
    part = inverse_autoregressive(encoder, 2, num_flows=0)
    params = part.init(jax.random.key(0))
    loc, log_scale = jnp.split(encoder(4).apply(params, X), 2)
    posterior = part.distribution(params, X)
    np.testing.assert_array_equal(posterior, DiagonalGaussian(loc, log_scale))


def test_a_closed_gate_forgets_and_an_open_one_keeps() -> None:
    """g = 1 leaves z_0 as it is, up to the order; g = 0 replaces it by m."""
    part, params = posterior_of(3, 1)
    gaussian = part.distribution(params, X)
    start = jnp.array([0.3, -1.2, 0.8])
    last = params["flows"]["params"]["MaskedDense_1"]
    for bias, expected, log_det in [(1e4, start[::-1], 0.0), (-1e4, None, -3e4)]:
        gates = last | {"bias": jnp.concatenate([jnp.zeros((1, 3)), jnp.full((1, 3), bias)], 1)}
        flows = {"params": params["flows"]["params"] | {"MaskedDense_1": gates}}
        value, found = part.distribution(params | {"flows": flows}, X).transform(start)
        assert float(found) == pytest.approx(log_det, rel=1e-3, abs=1e-4)
        if expected is not None:
            np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert gaussian.reparameterized


def test_it_goes_into_the_auto_encoder_and_the_context_matters() -> None:
    part, _ = posterior_of(2, 2)
    model = vae(num_dims=3, latent_dim=2, hidden=(4,), posterior=part)
    params = model.init(jax.random.key(0))
    assert set(params["posterior"]) == {"encoder", "flows"}
    outputs = params["posterior"]["encoder"]["params"]["Dense_1"]["kernel"]
    assert outputs.shape == (5, 2 * 2 + 4)

    def log_det(kernel):
        changed = {"params": params["posterior"]["encoder"]["params"]}
        changed["params"] = changed["params"] | {
            "Dense_1": changed["params"]["Dense_1"] | {"kernel": kernel}
        }
        posterior = part.distribution(params["posterior"] | {"encoder": changed}, X)
        return posterior.transform(jnp.ones(2))[1]

    gradient = jit_once(jax.grad(log_det))(outputs)
    assert (np.abs(gradient[:, 4:]).max(axis=0) > 0).all()
    assert (gradient[:, :4] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_flows": -1}, "num_flows must be an integer >= 0, got -1"),
        ({"hidden": (0,)}, "hidden must be at least 1"),
        ({"context_dim": 0}, "context_dim must be at least 1"),
    ],
)
def test_arguments_that_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inverse_autoregressive(encoder, 2, **options)
