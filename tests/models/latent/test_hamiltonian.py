"""The Hamiltonian posterior: the linear-Gaussian model in closed form, exact dynamics, errors."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_models.distributions import DiagonalGaussian, is_reparameterized
from genjax_models.interfaces import LatentVariableModel, Network
from genjax_models.learning import log_weights, variational
from genjax_models.models.latent import hamiltonian_vae
from genjax_models.models.latent.hamiltonian import MarkovChainPosterior
from genjax_models.networks import mlp
from genjax_models.training import gradient_descent
from tests.statistics import assert_mean, jit_once, standard_error

LOADING = np.array([[0.9, 0.7], [0.3, 0.8], [-0.5, -0.2]])
BIAS = np.array([0.1, -0.3, 0.6])
LOG_NOISE = -0.3
X = np.array([0.8, -0.5, 1.1])


def affine(matrix: np.ndarray, offset: np.ndarray) -> Network:
    return Network(
        lambda key: (jnp.asarray(matrix, jnp.float32), jnp.asarray(offset, jnp.float32)),
        lambda params, inputs: params[0] @ inputs + params[1],
    )


def exact_posterior() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of p(z | x), of factor analysis."""
    precision = np.eye(2) + LOADING.T @ LOADING * np.exp(-2 * LOG_NOISE)
    covariance = np.linalg.inv(precision)
    return covariance @ LOADING.T @ (X - BIAS) * np.exp(-2 * LOG_NOISE), covariance


def log_marginal() -> float:
    covariance = LOADING @ LOADING.T + np.exp(2 * LOG_NOISE) * np.eye(3)
    return float(jax.scipy.stats.multivariate_normal.logpdf(X, BIAS, covariance))


def linear_gaussian(
    encoder: np.ndarray | None = None, **settings
) -> tuple[LatentVariableModel, dict]:
    """Factor analysis, with a constant encoder: (m, log s, log M)."""
    outputs = np.array([0.4, -0.1, -0.3, -0.6, 0.5, -0.4]) if encoder is None else encoder
    model = hamiltonian_vae(
        num_dims=3,
        latent_dim=2,
        likelihood="gaussian",
        encoder=affine(np.zeros((6, 3)), outputs),
        decoder=affine(LOADING, BIAS),
        **settings,
    )
    params = model.init(jax.random.key(3))
    params["likelihood"]["observation"]["log_scale"] = jnp.array(LOG_NOISE)
    return model, params


draw_weights = jit_once(log_weights, static_argnums=(0, 4))


@pytest.mark.parametrize(("num_steps", "num_iterations"), [(3, 1), (2, 2)])
def test_importance_weights_have_the_mean_p_x(num_steps: int, num_iterations: int) -> None:
    """Whatever encoder, step size and reverse model: here long steps and a new network."""
    model, params = linear_gaussian(
        num_steps=num_steps, num_iterations=num_iterations, initial_step_size=0.3, hidden=(4,)
    )
    weights = np.exp(draw_weights(model, params, jax.random.key(0), X, 100_000))
    assert_mean(weights, np.exp(log_marginal()), resolution=0.03)


def rotated() -> Callable[[float, int], tuple[LatentVariableModel, dict]]:
    """Decoder turned so that the exact posterior is diagonal; q(z_0) and r are exact."""
    turn = np.linalg.svd(LOADING)[2].T
    precision = np.diag(np.eye(2) + turn.T @ LOADING.T @ LOADING @ turn * np.exp(-2 * LOG_NOISE))
    mean = turn.T @ exact_posterior()[0]
    outputs = np.concatenate([mean, -0.5 * np.log(precision), [0.5, -0.4]])

    def build(step_size: float, num_steps: int) -> tuple[LatentVariableModel, dict]:
        model = hamiltonian_vae(
            num_dims=3,
            latent_dim=2,
            likelihood="gaussian",
            encoder=affine(np.zeros((6, 3)), outputs),
            decoder=affine(LOADING @ turn, BIAS),
            reverse=affine(np.zeros((4, 5)), np.zeros(4)),
            num_steps=num_steps,
            initial_step_size=step_size,
        )
        params = model.init(jax.random.key(0))
        params["likelihood"]["observation"]["log_scale"] = jnp.array(LOG_NOISE)
        return model, params

    return build


def test_exact_dynamics_leave_the_exact_posterior_as_it_is() -> None:
    """Every weight is log p(x) but for the energy's error, which is of second order in the step."""
    build, errors = rotated(), []
    for num_steps in (6, 12):
        model, params = build(1.0 / num_steps, num_steps)
        found = draw_weights(model, params, jax.random.key(0), X, 200)
        errors.append(np.abs(np.asarray(found) - log_marginal()).max())
    np.testing.assert_allclose(errors[0] / errors[1], 4, rtol=0.15)
    assert errors[1] < 0.05
    # The chain has gone somewhere.
    posterior = model.posterior(params, jnp.array(X))

    def both(key):
        start = posterior.initial.sample(seed=jax.random.split(jax.random.clone(key))[0])
        return start, posterior.sample(seed=key)

    start, end = jit_once(jax.vmap(both))(jax.random.split(jax.random.key(1), 1000))
    assert np.abs(start - end).mean() > 0.3
    noise = (end - posterior.initial.loc) / jnp.exp(posterior.initial.log_scale)
    assert_mean(noise, jnp.zeros(2), scale=1.0, resolution=0.05)
    assert_mean(noise**2, jnp.ones(2), resolution=0.1)


def test_the_log_probability_is_that_of_the_whole_draw() -> None:
    """Written out for two steps of an affine chain with noise: an exact determinant beside it."""

    def step(theta, key, z):
        noise = DiagonalGaussian(jnp.zeros(2), jnp.array([0.1, -0.3]))
        v, log_prob = noise.sample_and_log_prob(seed=key)
        return theta * z + v, log_prob - 0.5

    initial = DiagonalGaussian(jnp.array([0.3, -0.7]), jnp.array([0.2, 0.4]))
    thetas = jnp.array([0.5, -2.0])
    chain = MarkovChainPosterior(initial, step, thetas)
    assert is_reparameterized(chain) and not hasattr(chain, "log_prob")
    value, log_prob = chain.sample_and_log_prob(seed=jax.random.key(4))
    initial_key, steps_key = jax.random.split(jax.random.key(4))
    z, expected = initial.sample_and_log_prob(seed=initial_key)
    for i, key in enumerate(jax.random.split(steps_key, 2)):
        z, change = step(thetas[i], key, z)
        expected += change
    np.testing.assert_allclose(value, z, rtol=1e-6)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-6)
    np.testing.assert_array_equal(value, chain.sample(seed=jax.random.key(4)))


def test_training_improves_on_no_dynamics_at_all() -> None:
    """Of a fixed linear-Gaussian model: the bound rises, above the best of diagonal Gaussians."""
    model, params = linear_gaussian(num_steps=3, initial_step_size=0.1, hidden=(8,))
    fixed = {name: params[name] for name in ("prior", "likelihood")}
    covariance = exact_posterior()[1]
    # The best diagonal Gaussian has the precisions of the exact posterior.
    precision = np.linalg.inv(covariance)
    gap = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    free = model._replace(
        init=lambda key: params["posterior"],
        prior=lambda own: model.prior(fixed),
        likelihood=lambda own, z: model.likelihood(fixed, z),
        posterior=lambda own, x: model.posterior({**fixed, "posterior": own}, x),
    )
    objective = variational(free, num_samples=4)
    algorithm = gradient_descent(objective, optax.adam(0.03), free.init)

    @jit_once
    def train(key):
        init_key, steps_key, bound_key = jax.random.split(key, 3)
        batch = jnp.tile(jnp.asarray(X, jnp.float32), (8, 1))
        step = lambda state, key: (algorithm.step(state, key, batch)[0], None)  # noqa: E731
        state, _ = jax.lax.scan(step, algorithm.init(init_key), jax.random.split(steps_key, 300))
        return log_weights(free, state.params, bound_key, batch[0], 5000)

    bounds = np.asarray(train(jax.random.key(0)))
    best_diagonal = log_marginal() - gap
    error = standard_error(bounds)
    assert bounds.mean() < log_marginal() + 5 * error
    assert bounds.mean() > best_diagonal + 5 * error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"num_iterations": 0}, "num_iterations"),
        ({"latent_dim": 0}, "latent_dim"),
        ({"num_dims": -1}, "num_dims"),
        ({"hidden": (4, 0)}, "hidden"),
        ({"initial_step_size": 0.0}, "initial_step_size"),
        ({"initial_step_size": float("inf")}, "initial_step_size"),
    ],
)
def test_settings_that_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hamiltonian_vae(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": mlp(6, (5,), 4)}, r"encoder must map \[6\] to \[6\].*\(4,\)"),
        ({"decoder": mlp(2, (5,), 7)}, r"decoder must map \[2\] to \[6\].*\(7,\)"),
        ({"reverse": mlp(8, (5,), 3)}, r"reverse must map \[8\] to \[4\].*\(3,\)"),
    ],
)
def test_networks_of_the_wrong_shape_are_refused(options: dict, message: str) -> None:
    model = hamiltonian_vae(num_dims=6, latent_dim=2, **options)
    with pytest.raises(ValueError, match=message):
        model.init(jax.random.key(0))


def test_estimators_that_need_a_density_say_so() -> None:
    model, params = linear_gaussian(hidden=(3,))
    shapes = jax.eval_shape(lambda: params)
    key, x = jax.eval_shape(jax.random.key, 0), jax.ShapeDtypeStruct((3,), jnp.float32)
    with pytest.raises(TypeError, match="log_prob of the posterior"):
        jax.eval_shape(
            functools.partial(variational(model, estimator="rloo", num_samples=2)), shapes, key, x
        )
