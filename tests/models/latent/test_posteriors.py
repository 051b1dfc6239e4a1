"""Posteriors: log-determinants against autodiff, densities by quadrature, closed forms, errors."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.distributions import DiagonalGaussian, Pushforward, is_reparameterized
from genjax_models.interfaces import LatentVariableModel, Network
from genjax_models.learning import log_weights, variational
from genjax_models.models.latent import parts, posteriors, vae
from genjax_models.networks import mlp
from tests import oracles
from tests.statistics import assert_mean, jit_once

FLOWS = {
    "planar": posteriors.planar,
    "radial": posteriors.radial,
    "sylvester": functools.partial(posteriors.sylvester, num_reflections=2),
    "sylvester, triangular": functools.partial(posteriors.sylvester, orthogonal="triangular"),
}
NUM_FLOWS = 3


def constant(num_outputs: int) -> Network:
    """A network that is its outputs, whatever x is."""
    return Network(lambda key: jax.random.normal(key, (num_outputs,)), lambda params, x: params)


@functools.cache
def of_outputs(name: str, latent_dim: int) -> tuple[int, Callable[[jax.Array], Pushforward]]:
    """How many outputs the flows want, and the distribution that they make of them."""
    posterior = FLOWS[name](constant, latent_dim, num_flows=NUM_FLOWS)
    (num_outputs,) = jax.eval_shape(posterior.init, jax.random.key(0))["encoder"].shape
    return num_outputs, lambda outputs: posterior.distribution({"encoder": outputs}, None)


def flows(name: str, latent_dim: int, *, scale: float, seed: int = 0) -> Pushforward:
    """From N(0, I), by flows far enough from zero for every constraint to act."""
    num_outputs, make = of_outputs(name, latent_dim)
    outputs = scale * np.random.default_rng(seed).standard_normal(num_outputs)
    outputs[: 2 * latent_dim] = 0
    return make(jnp.asarray(outputs, jnp.float32))


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("latent_dim", [1, 3])
def test_log_determinants_are_those_of_the_jacobian(name: str, latent_dim: int) -> None:
    """For fifty sets of parameters; and all are positive, as those of an invertible map are."""
    num_outputs, make = of_outputs(name, latent_dim)

    @jit_once
    @jax.vmap
    def both(z, outputs):
        transform = make(outputs).transform
        return transform(z)[1], jax.jacfwd(lambda z: transform(z)[0])(z)

    rng = np.random.default_rng(0)
    zs, outputs = rng.normal(size=(50, latent_dim)), 2 * rng.normal(size=(50, num_outputs))
    log_dets, jacobians = both(jnp.float32(zs), jnp.float32(outputs))
    signs, exact = np.linalg.slogdet(np.asarray(jacobians, np.float64))
    np.testing.assert_array_equal(signs, 1)
    np.testing.assert_allclose(log_dets, exact, rtol=2e-3, atol=2e-3)
    assert np.std(exact) > 0.5


@functools.cache
def grid(latent_dim: int) -> tuple[np.ndarray, float]:
    """Points of a box far beyond what N(0, I) reaches, and the volume of each."""
    half, num_points = (30.0, 60_001) if latent_dim == 1 else (16.0, 641)
    axis = np.linspace(-half, half, num_points, dtype=np.float32)
    points = np.stack(np.meshgrid(*[axis] * latent_dim), axis=-1).reshape(-1, latent_dim)
    return points, float(2 * half / (num_points - 1)) ** latent_dim


def mass(distribution: Pushforward, latent_dim: int) -> jax.Array:
    """The integral of a narrow density over the image of the box: 1 where it is covered once."""
    points, volume = grid(latent_dim)
    target = DiagonalGaussian(jnp.full(latent_dim, 0.3), jnp.full(latent_dim, -0.5))

    def density(z):
        moved, log_det = distribution.transform(z)
        return jnp.exp(target.log_prob(moved) + log_det)

    return volume * jnp.sum(jax.vmap(density)(points))


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("latent_dim", [1, 2])
def test_the_flows_cover_the_space_once(name: str, latent_dim: int) -> None:
    """Change of variables: integral of p(f(z)) |det df/dz| dz = 1, for a one-to-one f alone."""
    integrate = jit_once(functools.partial(mass, latent_dim=latent_dim))
    for seed in range(2):
        found = integrate(flows(name, latent_dim, scale=1.5, seed=seed))
        np.testing.assert_allclose(found, 1, atol=2e-3)


def test_a_flow_that_folds_covers_some_of_it_twice() -> None:
    """The check above sees a planar flow without its constraint, w.u = -3."""

    def folding(z):
        return z - 3 * jnp.tanh(z), jnp.log(jnp.abs(jnp.sum(3 * jnp.tanh(z) ** 2 - 2)))

    base = DiagonalGaussian(jnp.zeros(1), jnp.zeros(1))
    found = jit_once(lambda: mass(Pushforward(base, folding), 1))()
    assert found > 1.5


@pytest.mark.parametrize("name", ["planar", "radial", "sylvester"])
def test_flows_with_parameters_of_zero_are_the_diagonal_posterior(name: str) -> None:
    num_outputs, make = of_outputs(name, 3)

    @jit_once
    @jax.value_and_grad
    def difference(outputs):
        value, log_prob = make(outputs).sample_and_log_prob(seed=jax.random.key(5))
        diagonal = DiagonalGaussian(outputs[:3], outputs[3:6])
        other, other_log_prob = diagonal.sample_and_log_prob(seed=jax.random.key(5))
        return jnp.sum(jnp.abs(value - other)) + log_prob - other_log_prob

    found, gradient = difference(jnp.zeros(num_outputs).at[:6].set(0.4))
    assert abs(found) < 1e-5
    # Vectors of length zero have a derivative all the same.
    assert np.isfinite(gradient).all()


def test_zero_flows_are_the_vae() -> None:
    encoder = functools.partial(mlp, 4, (5,))
    plain = vae(num_dims=4, latent_dim=2, encoder=encoder(4))
    params, x = jax.jit(plain.init)(jax.random.key(0)), jnp.array([1.0, 0.0, 1.0, 1.0])
    diagonal = plain.posterior(params, x)
    for family in FLOWS.values():
        found = family(encoder, 2, num_flows=0).distribution(params["posterior"], x)
        assert isinstance(found, DiagonalGaussian)
        jax.tree.map(np.testing.assert_array_equal, found, diagonal)
    model = vae(num_dims=4, latent_dim=2, posterior=posteriors.planar(encoder, 2, num_flows=0))
    losses = [
        jit_once(variational(m, kl="analytic"))(params, jax.random.key(1), x)[0]
        for m in (model, plain)
    ]
    np.testing.assert_array_equal(*losses)


def with_posterior(posterior: parts.Conditional) -> LatentVariableModel:
    """The oracle's linear-Gaussian model with another posterior."""
    model = oracles.linear_gaussian()
    fixed = oracles.linear_gaussian_params()
    return LatentVariableModel(
        posterior.init,
        lambda params: model.prior(fixed),
        lambda params, z: model.likelihood(fixed, z),
        posterior.distribution,
    )


@pytest.mark.parametrize("name", [*FLOWS, "full covariance"])
def test_importance_weights_have_the_mean_p_x(name: str) -> None:
    """Of the linear-Gaussian model, whatever the posterior."""
    factory = FLOWS.get(name)
    posterior = (
        factory(constant, 2, num_flows=2, amortized=True)
        if factory
        else posteriors.full_covariance(constant, 2)
    )
    model, x = with_posterior(posterior), oracles.linear_gaussian_x()
    params = jax.tree.map(lambda leaf: 0.3 * leaf, model.init(jax.random.key(0)))
    draw = jit_once(log_weights, static_argnums=(0, 4))
    weights = np.exp(draw(model, params, jax.random.key(2), x, 40_000))
    exact = jnp.exp(oracles.linear_gaussian_log_marginal(oracles.linear_gaussian_params(), x))
    assert_mean(weights, exact)


def test_the_full_covariance_reaches_the_exact_posterior() -> None:
    """Then every weight is log p(x), and the analytic KL gives the bound its value."""
    fixed, x = oracles.linear_gaussian_params(), oracles.linear_gaussian_x()
    mean, covariance = oracles.linear_gaussian_posterior(fixed, x)
    factor = np.linalg.cholesky(covariance)
    below = [factor[1, 0] * 2**0.5]
    outputs = jnp.concatenate([mean, jnp.log(jnp.diag(factor)), jnp.array(below)])
    model = with_posterior(posteriors.full_covariance(constant, 2))
    found = log_weights(model, outputs, jax.random.key(0), x, 10)
    exact = oracles.linear_gaussian_log_marginal(fixed, x)
    np.testing.assert_allclose(found, jnp.full(10, exact), rtol=1e-5)


def test_the_analytic_kl_of_the_full_covariance_is_the_mean_of_the_draws() -> None:
    encoder = functools.partial(mlp, 4, (5,))
    model = vae(num_dims=4, latent_dim=2, posterior=posteriors.full_covariance(encoder, 2))
    params, x = model.init(jax.random.key(0)), jnp.array([1.0, 0.0, 1.0, 1.0])
    options = {"num_samples": 10_000}
    found = [
        jit_once(variational(model, kl=kl, **options))(params, jax.random.key(1), x)[1]
        for kl in ("monte_carlo", "analytic")
    ]
    np.testing.assert_allclose(
        found[0]["kl_divergence"], found[1]["kl_divergence"], rtol=0.05, atol=0
    )
    assert found[1]["kl_divergence"] > 0.1


def test_shared_flows_are_parameters() -> None:
    """Of their own, which x does not move."""
    encoder = functools.partial(mlp, 4, (5,))

    def of_two(amortized):
        posterior = posteriors.planar(encoder, 2, num_flows=3, amortized=amortized)
        params = jax.jit(posterior.init)(jax.random.key(0))
        xs = jnp.stack([jnp.zeros(4), jnp.ones(4)])
        make = jax.jit(jax.vmap(lambda x: posterior.distribution(params, x)))
        return set(params), make(xs).transform.args[0]

    names, shared = of_two(False)
    assert names == {"encoder", "flows"}
    np.testing.assert_array_equal(shared[0], shared[1])
    names, amortized = of_two(True)
    assert names == {"encoder"}
    assert np.all(amortized[0] != amortized[1])


def test_flow_posteriors_cross_jit_and_vmap() -> None:
    posterior = posteriors.sylvester(functools.partial(mlp, 4, (5,)), 2, num_flows=2)
    params = jax.jit(posterior.init)(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (3, 4))
    batch = jax.jit(jax.vmap(lambda x: posterior.distribution(params, x)))(xs)
    assert is_reparameterized(batch)
    use = lambda q: q.sample_and_log_prob(seed=jax.random.key(2))  # noqa: E731
    draws, log_probs = jax.jit(jax.vmap(use))(batch)

    @jax.jit
    def one(x):
        distribution = posterior.distribution(params, x)
        return use(distribution), distribution.sample(seed=jax.random.key(2))

    for i, x in enumerate(xs):
        (value, log_prob), sample = one(x)
        np.testing.assert_allclose(draws[i], value, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(log_probs[i], log_prob, rtol=1e-5)
        np.testing.assert_allclose(value, sample, rtol=1e-6)


def test_what_has_no_density_says_so() -> None:
    encoder = functools.partial(mlp, 4, (5,))
    model = vae(num_dims=4, latent_dim=2, posterior=posteriors.planar(encoder, 2))
    params = jax.eval_shape(model.init, jax.random.key(0))
    x, key = jax.ShapeDtypeStruct((4,), jnp.float32), jax.eval_shape(jax.random.key, 0)
    with pytest.raises(TypeError, match="log_prob of the posterior"):
        jax.eval_shape(variational(model, estimator="rloo", num_samples=2), params, key, x)
    with pytest.raises(TypeError, match="closed form"):
        jax.eval_shape(variational(model, kl="analytic"), params, key, x)


def test_reflections_are_the_product_of_matrices() -> None:
    vectors = jax.random.normal(jax.random.key(0), (3, 4))
    z = jnp.arange(4.0)
    product = np.eye(4)
    for v in np.asarray(vectors):
        product = product @ (np.eye(4) - 2 * np.outer(v, v) / (v @ v))
    np.testing.assert_allclose(posteriors.reflect(vectors, z), product @ z, rtol=1e-4)
    backwards = posteriors.reflect(vectors, z, reverse=True)
    np.testing.assert_allclose(backwards, product.T @ z, rtol=1e-4, atol=1e-5)


def test_bfloat16_parameters() -> None:
    posterior = posteriors.planar(constant, 3)
    outputs = posterior.init(jax.random.key(0))["encoder"].astype(jnp.bfloat16)
    draw = posterior.distribution({"encoder": outputs}, None)
    value, log_prob = draw.sample_and_log_prob(seed=jax.random.key(0))
    assert (value.dtype, log_prob.dtype) == (jnp.bfloat16, jnp.float32)


@pytest.mark.parametrize("name", FLOWS)
def test_extreme_parameters_stay_finite(name: str) -> None:
    draw = jit_once(lambda q: q.sample_and_log_prob(seed=jax.random.key(0)))
    for scale in (-1e4, -100.0, 100.0, 1e4):
        for seed in range(3):
            value, log_prob = draw(flows(name, 3, scale=scale, seed=seed))
            assert np.isfinite(value).all() and np.isfinite(log_prob)


def test_a_radial_flow_is_finite_at_its_centre_whatever_its_parameters() -> None:
    _, make = of_outputs("radial", 2)
    for a, b in [(-200.0, 0.3), (0.2, -200.0), (-200.0, -200.0)]:
        flow = jnp.array([1.0, -2.0, a, b])
        centre = flow[:2]

        def moved(flow, centre=centre):
            value, log_det = make(jnp.concatenate([jnp.zeros(4), flow, jnp.zeros(8)])).transform(
                centre
            )
            return jnp.sum(value) + log_det

        assert np.isfinite(moved(flow))
        assert np.isfinite(jax.grad(moved)(flow)).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: posteriors.planar(constant, 2, num_flows=-1), "num_flows must be .* >= 0, got -1"),
        (lambda: posteriors.radial(constant, 2, num_flows=1.5), "num_flows"),
        (lambda: posteriors.planar(constant, 0), "latent_dim"),
        (lambda: posteriors.radial(constant, -2), "latent_dim"),
        (lambda: posteriors.sylvester(constant, 0), "latent_dim"),
        (lambda: posteriors.sylvester(constant, 2, num_reflections=0), "num_reflections"),
        (lambda: posteriors.sylvester(constant, 2, orthogonal="qr"), "got 'qr'"),
        (lambda: posteriors.full_covariance(constant, 0), "latent_dim"),
    ],
)
def test_settings_that_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", [*FLOWS, "full covariance"])
def test_a_network_of_the_wrong_shape_is_refused(name: str) -> None:
    wrong = lambda num_outputs: mlp(4, (5,), num_outputs + 1)  # noqa: E731
    factory = FLOWS.get(name, posteriors.full_covariance)
    posterior = factory(wrong, 2)
    params = jax.eval_shape(posterior.init, jax.random.key(0))
    with pytest.raises(ValueError, match=r"must have outputs \[\d+\]"):
        jax.eval_shape(posterior.distribution, params, jnp.zeros(4))
