"""Factor analysis against dense Gaussians, numerical maximisation and scikit-learn."""

import functools
import re
import warnings
from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy import optimize, stats
from sklearn.datasets import load_digits
from sklearn.decomposition import FactorAnalysis

from genjax_models.distributions import DiagonalGaussian
from genjax_models.interfaces import LatentVariableModel
from genjax_models.learning import log_weights
from genjax_models.models.classical import factor_analysis
from genjax_models.training import expectation_maximization
from tests.statistics import assert_mean, jit_once

NUM_DIMS, LATENT_DIM = 5, 2
CENTER = np.array([0.2, -0.4, 1.0, 0.0, 3.0])
log_prob = factor_analysis.factor_analysis(num_dims=NUM_DIMS, latent_dim=LATENT_DIM).log_prob
sample = factor_analysis.factor_analysis(num_dims=NUM_DIMS, latent_dim=LATENT_DIM).sample
e_step = jit_once(factor_analysis.expected_statistics)
m_step = jit_once(factor_analysis.maximize)
posterior = jit_once(factor_analysis.posterior)
principal_components = jit_once(
    factor_analysis.principal_components, static_argnames=("latent_dim", "min_variance")
)


def make_params(num_dims: int = NUM_DIMS, latent_dim: int = LATENT_DIM, seed: int = 0) -> Any:
    """Parameters without symmetry."""
    rng = np.random.default_rng(seed)
    return {
        "loading": rng.normal(size=(num_dims, latent_dim)),
        "mean": rng.normal(size=num_dims),
        "log_variance": rng.normal(size=num_dims) - 1,
    }


def make_data(num_examples: int = 200, seed: int = 1) -> np.ndarray:
    params, rng = make_params(seed=seed), np.random.default_rng(seed + 1)
    z, noise = rng.normal(size=(num_examples, 2)), rng.normal(size=(num_examples, 5))
    return params["mean"] + z @ params["loading"].T + np.exp(params["log_variance"] / 2) * noise


def covariance_of(params: Any) -> np.ndarray:
    return params["loading"] @ params["loading"].T + np.diag(np.exp(params["log_variance"]))


def posterior_of(params: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By conditioning the joint Gaussian of x and z, with the D x D covariance."""
    gain = np.linalg.solve(covariance_of(params), params["loading"]).T
    latent_dim = params["loading"].shape[1]
    return gain @ (x - params["mean"]), np.eye(latent_dim) - gain @ params["loading"]


def complete_log_likelihood(params: Any, x: Any, mean: Any, covariance: Any) -> Any:
    """E[log p(x, z)] under z ~ N(mean, covariance), one example, written from the definition."""
    residual = x - params["loading"] @ mean - params["mean"]
    spread = jnp.einsum("dk,kl,dl->d", params["loading"], covariance, params["loading"])
    terms = (residual**2 + spread) * jnp.exp(-params["log_variance"]) + params["log_variance"]
    of_x = -0.5 * jnp.sum(terms + jnp.log(2 * jnp.pi))
    of_z = -0.5 * (mean @ mean + jnp.trace(covariance) + mean.size * jnp.log(2 * jnp.pi))
    return of_x + of_z


def surrogate(params: Any, old: Any, xs: np.ndarray) -> Any:
    """Q(params; old), the mean of E[log p(x, z)] under the posterior of the old parameters."""
    means, covariances = zip(*(posterior_of(old, x) for x in xs), strict=True)
    per_example = jax.vmap(complete_log_likelihood, (None, 0, 0, 0))
    return jnp.mean(per_example(params, xs, np.stack(means), np.stack(covariances)))


def mean_log_prob(params: Any, xs: Any) -> Any:
    return jnp.mean(jax.vmap(log_prob, (None, 0))(params, xs))


mean_gradient = jit_once(jax.grad(mean_log_prob))


def assert_close(found: Any, expected: Any, **tolerance: Any) -> None:
    jax.tree.map(
        functools.partial(
            np.testing.assert_allclose, **({"rtol": 1e-9, "atol": 1e-11} | tolerance)
        ),
        found,
        expected,
    )


@pytest.mark.parametrize(("num_dims", "latent_dim"), [(5, 2), (5, 5), (1, 1), (40, 3)])
def test_log_prob_is_that_of_the_dense_gaussian(num_dims: int, latent_dim: int) -> None:
    params = make_params(num_dims, latent_dim)
    model = factor_analysis.factor_analysis(num_dims=num_dims, latent_dim=latent_dim)
    xs = np.random.default_rng(2).normal(size=(4, num_dims)) * 3
    expected = stats.multivariate_normal(params["mean"], covariance_of(params)).logpdf(xs)
    found = jit_once(jax.vmap(model.log_prob, (None, 0)))(params, xs)
    np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_gradient_is_that_of_the_dense_gaussian() -> None:
    def dense(params: Any, x: Any) -> Any:
        noise = jnp.diag(jnp.exp(params["log_variance"]))
        covariance = params["loading"] @ params["loading"].T + noise
        return jax.scipy.stats.multivariate_normal.logpdf(x, params["mean"], covariance)

    params, x = make_params(), make_data()[0]
    found = jit_once(jax.grad(log_prob, (0, 1)))(params, x)
    assert_close(found, jit_once(jax.grad(dense, (0, 1)))(params, x))


def difference_of_forms(params: Any, x: Any) -> Any:
    """log p(x) as the inversion lemma is usually written: two large numbers are subtracted."""
    weighted = params["loading"].T * jnp.exp(-params["log_variance"])
    precision = jnp.eye(weighted.shape[0]) + weighted @ params["loading"]
    residual = x - params["mean"]
    projected = weighted @ residual
    distance = residual**2 @ jnp.exp(-params["log_variance"])
    distance -= projected @ jnp.linalg.solve(precision, projected)
    log_determinant = jnp.linalg.slogdet(precision)[1] + jnp.sum(params["log_variance"])
    return -0.5 * (distance + log_determinant + x.size * jnp.log(2 * jnp.pi))


def test_float32_is_enough_where_the_noise_is_small() -> None:
    """Noise a thousandth of the signal, and x far out: nothing may cancel."""
    params = make_params(60, 4)
    params["log_variance"] -= 2 * np.log(1000)
    x = params["mean"] + params["loading"] @ np.array([3.0, -2.0, 1.0, 4.0])
    x += np.exp(params["log_variance"] / 2) * np.random.default_rng(0).normal(size=60)
    ours = factor_analysis.factor_analysis(num_dims=60, latent_dim=4).log_prob
    both = jit_once(lambda params, x: jnp.stack([ours(params, x), difference_of_forms(params, x)]))
    single = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), (params, x))
    exact = np.asarray(both(*jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), single)))
    np.testing.assert_allclose(exact[0], exact[1], rtol=1e-7)
    with jax.enable_x64(False):
        error = np.abs(np.asarray(both(*single), np.float64) - exact)
    assert error[0] < 0.02 < 1 < error[1]


def test_the_posterior_is_the_conditional_of_the_joint_gaussian() -> None:
    params, x = make_params(), make_data()[0]
    found = posterior(params, x)
    assert_close(tuple(found), posterior_of(params, x))


def test_with_its_posterior_every_log_weight_is_the_log_likelihood() -> None:
    def exact(params: Any, x: Any) -> distrax.Distribution:
        return distrax.MultivariateNormalFullCovariance(*factor_analysis.posterior(params, x))

    model = LatentVariableModel(
        make_params,
        lambda params: DiagonalGaussian(jnp.zeros(LATENT_DIM), jnp.zeros(LATENT_DIM)),
        lambda params, z: DiagonalGaussian(
            params["loading"] @ z + params["mean"], params["log_variance"] / 2
        ),
        exact,
    )
    params, x = make_params(), make_data()[0]
    draw = jit_once(lambda params, key, x: log_weights(model, params, key, x, 20))
    found = draw(params, jax.random.key(0), x)
    np.testing.assert_allclose(found, np.full(20, log_prob(params, x)), rtol=1e-9)


def test_samples_have_the_models_moments() -> None:
    params = make_params()
    xs = jit_once(jax.vmap(sample, (None, 0)))(params, jax.random.split(jax.random.key(0), 20_000))
    centered = np.asarray(xs) - params["mean"]
    outer = centered[:, :, None] * centered[:, None, :]
    assert_mean(xs, params["mean"])
    assert_mean(outer, covariance_of(params))


@pytest.mark.usefixtures("strict_ranks")
@pytest.mark.parametrize("center", [0.0, CENTER])
def test_expected_statistics_are_those_of_every_posterior(center: Any) -> None:
    params, xs = make_params(), make_data(7)
    terms = []
    for x in xs:
        mean, covariance = posterior_of(params, x)
        u = np.append(mean, 1.0)
        latent = np.outer(u, u)
        latent[:-1, :-1] += covariance
        terms.append(
            {"latent": latent, "cross": np.outer(x - center, u), "square": (x - center) ** 2}
        )
    expected = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *terms)
    log_likelihood, found = e_step(params, xs, center=center)
    assert_close(found, expected)
    dense = stats.multivariate_normal(params["mean"], covariance_of(params)).logpdf(xs).mean()
    np.testing.assert_allclose(log_likelihood, dense, rtol=1e-11)


@pytest.mark.parametrize("center", [0.0, CENTER])
def test_the_m_step_is_the_numerical_maximum(center: Any) -> None:
    old, xs = make_params(), make_data(30)
    _, statistics = e_step(old, xs, center=center)
    found = m_step(statistics, old, center=center)
    flat, unravel = ravel_pytree(old)
    value_and_grad = jit_once(jax.value_and_grad(lambda p: -surrogate(unravel(p), old, xs)))
    result = optimize.minimize(
        lambda p: jax.tree.map(np.asarray, value_and_grad(p)), flat, jac=True, tol=1e-10
    )
    assert_close(found, unravel(result.x), rtol=1e-6, atol=1e-7)
    found_flat = np.asarray(ravel_pytree(found)[0])
    np.testing.assert_allclose(value_and_grad(found_flat)[1], np.zeros_like(flat), atol=1e-11)


@pytest.mark.usefixtures("strict_ranks")
@pytest.mark.parametrize("center", [0.0, CENTER])
def test_the_m_step_inverts_the_models_own_statistics(center: Any) -> None:
    params = make_params()
    statistics = factor_analysis.model_statistics(params, center=center)
    assert_close(m_step(statistics, params, center=center), params)


def test_the_models_own_statistics_are_those_of_its_samples() -> None:
    def of_one(params: Any, key: Any) -> Any:
        x = sample(params, key)
        return factor_analysis.expected_statistics(params, x[None], center=CENTER)[1]

    params, keys = make_params(), jax.random.split(jax.random.key(0), 20_000)
    found = jit_once(jax.vmap(of_one, (None, 0)))(params, keys)
    expected = factor_analysis.model_statistics(params, center=CENTER)
    # The corner of "latent", E[1], has no variance.
    assert_mean(found, jax.tree.map(np.asarray, expected))


def em(start: Any, xs: Any, num_steps: int, statistics: Any = None) -> tuple[Any, np.ndarray]:
    """The parameters after some steps, and the log-likelihood before each."""
    algorithm = expectation_maximization(
        statistics or factor_analysis.expected_statistics,
        factor_analysis.maximize,
        lambda key: start,
    )

    def run(state: Any, batch: Any) -> Any:
        step = lambda state, _: algorithm.step(state, jax.random.key(0), batch)  # noqa: E731
        return jax.lax.scan(step, state, None, length=num_steps)

    state, metrics = jax.jit(run)(algorithm.init(jax.random.key(0)), jnp.asarray(xs))
    return state.params, np.asarray(metrics["log_likelihood"])


@functools.cache
def converged() -> Any:
    with jax.enable_x64(True):
        return em(jax.tree.map(jnp.asarray, make_params(seed=3)), make_data(), 3000)


@pytest.mark.parametrize("seed", range(4))
def test_em_never_lowers_the_likelihood(seed: int) -> None:
    model = factor_analysis.factor_analysis(num_dims=NUM_DIMS, latent_dim=LATENT_DIM)
    rises = np.diff(em(model.init(jax.random.key(seed)), make_data(), 60)[1])
    assert rises.min() > -1e-12
    assert rises[0] > 0.1


def without_covariance(params: Any, batch: Any) -> Any:
    """The E-step of a mistake: the posterior's mean stands for the whole of it."""
    log_likelihood, statistics = factor_analysis.expected_statistics(params, batch)
    covariance = factor_analysis.posterior(params, batch[0]).covariance
    latent = statistics["latent"].at[:-1, :-1].add(-covariance)
    return log_likelihood, statistics | {"latent": latent}


def test_em_ends_where_the_gradient_is_zero() -> None:
    params, _ = converged()
    assert_close(mean_gradient(params, make_data()), jax.tree.map(np.zeros_like, params), atol=1e-7)


def test_em_with_a_wrong_e_step_is_found() -> None:
    start = jax.tree.map(jnp.asarray, make_params(seed=3))
    params, log_likelihoods = em(start, make_data(), 60, without_covariance)
    assert log_likelihoods[-1] < converged()[1][-1] - 1e-3
    gradient = mean_gradient(params, make_data())
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) > 1e-2


@functools.cache
def digits() -> np.ndarray:
    """The 53 pixels whose standard deviation exceeds 0.02; three of the others are constant."""
    xs = load_digits().data / 16
    xs = xs[:, xs.std(axis=0) > 0.02]
    assert xs.shape == (1797, 53)
    return xs


def test_em_agrees_with_scikit_learn_on_the_digits() -> None:
    xs = digits()
    with warnings.catch_warnings(action="error"):
        theirs = FactorAnalysis(4, svd_method="lapack", tol=1e-8).fit(xs)
    start = principal_components(jnp.asarray(xs), latent_dim=4)
    params, log_likelihoods = em(start, xs, 200)
    np.testing.assert_allclose(log_likelihoods[-1], theirs.score(xs), atol=1e-8)
    assert np.diff(log_likelihoods).min() > -1e-12
    # The loadings up to rotation, the noise and the mean; scikit-learn stops at a tolerance.
    assert_close(
        (params["loading"] @ params["loading"].T, jnp.exp(params["log_variance"]), params["mean"]),
        (theirs.components_.T @ theirs.components_, theirs.noise_variance_, theirs.mean_),
        atol=1e-6,
    )


@pytest.mark.usefixtures("strict_ranks")
def test_principal_components_are_those_of_tipping_and_bishop() -> None:
    xs = make_data()
    params = principal_components(jnp.asarray(xs), latent_dim=2)
    covariance = np.cov(xs.T, bias=True)
    eigenvalues, vectors = np.linalg.eigh(covariance)
    signal = (vectors[:, 3:] * (eigenvalues[3:] - eigenvalues[:3].mean())) @ vectors[:, 3:].T
    assert_close(params["loading"] @ params["loading"].T, signal)
    assert_close(np.diag(covariance_of(params)), np.diag(covariance))
    assert_close(params["mean"], xs.mean(axis=0))


def test_as_many_factors_as_dimensions_leave_the_least_noise() -> None:
    xs = make_data()
    params = principal_components(jnp.asarray(xs), latent_dim=5, min_variance=1e-4)
    assert_close(params["log_variance"], np.full(5, np.log(1e-4)))
    assert_close(params["loading"] @ params["loading"].T, np.cov(xs.T, bias=True))


def test_a_constant_dimension_is_left_the_least_noise() -> None:
    """Without a floor its density grows without bound."""
    xs = make_data()
    xs[:, 1] = 0.7
    start = factor_analysis.factor_analysis(num_dims=5, latent_dim=2).init(jax.random.key(0))
    params, log_likelihoods = em(start, xs, 100)
    assert_close(params["log_variance"][1], np.log(1e-6))
    assert np.abs(params["loading"][1]).max() < 1e-3
    assert np.isfinite(log_likelihoods).all() and np.diff(log_likelihoods).min() > -1e-9


def test_a_center_keeps_float32_exact_far_from_zero() -> None:
    xs = make_data().astype(np.float32) + np.float32(1000)
    with jax.enable_x64(False):
        start = principal_components(jnp.asarray(xs), latent_dim=2)

        def variance(center: Any) -> np.ndarray:
            _, statistics = e_step(start, xs, center=center)
            return np.exp(m_step(statistics, start, center=center)["log_variance"])

        near, far = variance(xs.mean(axis=0)), variance(0.0)
    _, statistics = e_step(start, xs.astype(np.float64), center=1000.0)
    exact = np.exp(m_step(statistics, start, center=1000.0)["log_variance"])
    np.testing.assert_allclose(near, exact, rtol=1e-3)
    assert np.abs(far / exact - 1).max() > 0.1


def test_the_e_step_holds_no_outer_product_of_each_example() -> None:
    """Nothing in its trace has three axes, as a vmapped function of one example has."""
    params = jax.tree.map(jnp.asarray, make_params(30, 20))

    def naive(params: Any, xs: Any) -> Any:
        one = lambda x: factor_analysis.expected_statistics(params, x[None])  # noqa: E731
        return jax.tree.map(lambda leaf: leaf.mean(axis=0), jax.vmap(one)(xs))

    ours, theirs = (
        str(jax.make_jaxpr(function)(params, jnp.ones((40, 30))))
        for function in (factor_analysis.expected_statistics, naive)
    )
    assert "f64[40,20]" in ours
    assert not re.search(r"f64\[\d+,\d+,\d+", ours)
    assert "f64[40,30,21]" in theirs


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_dims": 0, "latent_dim": 1}, "num_dims must be at least 1, got 0"),
        ({"num_dims": 3, "latent_dim": 0}, "latent_dim must be at least 1, got 0"),
        ({"num_dims": 3, "latent_dim": 4}, "latent_dim must be at most num_dims, 3, got 4"),
    ],
)
def test_bad_sizes_are_refused(sizes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        factor_analysis.factor_analysis(**sizes)


def test_bad_arrays_are_refused() -> None:
    params = make_params()
    with pytest.raises(ValueError, match="shape of one event"):
        log_prob(params, np.zeros((2, NUM_DIMS)))
    with pytest.raises(ValueError, match="shape of one event"):
        factor_analysis.posterior(params, np.zeros(1))
    for shape in [(0, NUM_DIMS), (3, 4), (NUM_DIMS,)]:
        with pytest.raises(ValueError, match=r"batch must be \[N, 5\] with N >= 1, got"):
            factor_analysis.expected_statistics(params, np.zeros(shape))
    for shape in [(1, 3), (3,)]:
        with pytest.raises(ValueError, match=r"xs must be \[N, D\] with N >= 2, got"):
            factor_analysis.principal_components(jnp.zeros(shape), latent_dim=1)
    with pytest.raises(ValueError, match="latent_dim must be at most num_dims, 3, got 4"):
        factor_analysis.principal_components(jnp.zeros((9, 3)), latent_dim=4)
