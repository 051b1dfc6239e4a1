"""Binary factor analysis against integrals over a fine grid of the latent space."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy import optimize, stats
from scipy.special import expit, log_expit, logsumexp

from genjax_models.evaluation import log_likelihood
from genjax_models.learning import importance_samples
from genjax_models.models.classical import binary_factor_analysis as bfa
from genjax_models.training import expectation_maximization
from tests.statistics import assert_mean, jit_once

NUM_DIMS = 5
STATES = np.array(list(itertools.product([0.0, 1.0], repeat=NUM_DIMS)))


def over_examples(function: Any) -> Any:
    return jit_once(jax.vmap(function, (None, 0)))


NUM_UPDATES = 40
bounds = over_examples(functools.partial(bfa.bound, num_updates=NUM_UPDATES))
posteriors = over_examples(functools.partial(bfa.posterior, num_updates=NUM_UPDATES))
evidence = over_examples(bfa.quadrature_log_prob)


def make_params(latent_dim: int, scale: float = 1.0, seed: int = 0) -> Any:
    """Parameters without symmetry."""
    rng = np.random.default_rng(seed)
    loading = scale * rng.normal(size=(NUM_DIMS, latent_dim))
    return {"loading": loading, "bias": rng.normal(size=NUM_DIMS)}


def grid_joint(params: Any, xs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points z [P, L] of a grid, and log p(x, z) + log of the cell at each, [N, P]."""
    latent_dim = params["loading"].shape[1]
    axis = np.linspace(-9, 9, 4001 if latent_dim == 1 else 181)
    z = np.array(list(itertools.product(axis, repeat=latent_dim)))
    logits = z @ params["loading"].T + params["bias"]
    log_joint = xs @ log_expit(logits).T + (1 - xs) @ log_expit(-logits).T
    cell = latent_dim * np.log(axis[1] - axis[0])
    return z, log_joint + stats.norm.logpdf(z).sum(axis=1) + cell


def grid_log_prob(params: Any, xs: np.ndarray) -> np.ndarray:
    return logsumexp(grid_joint(params, xs)[1], axis=1)


@pytest.mark.parametrize("latent_dim", [1, 2])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_quadrature_is_the_integral_and_sums_to_one(latent_dim: int, scale: float) -> None:
    params = make_params(latent_dim, scale)
    found = evidence(params, STATES)
    tolerance = 1e-6 if scale == 1.0 else 2e-3
    np.testing.assert_allclose(found, grid_log_prob(params, STATES), atol=tolerance)
    np.testing.assert_allclose(np.exp(found).sum(), 1, rtol=tolerance)


def test_the_gradient_of_the_quadrature_is_that_of_the_integral() -> None:
    params, x = jax.tree.map(jnp.asarray, make_params(1)), STATES[11]
    found = jit_once(jax.grad(bfa.quadrature_log_prob))(params, x)
    for name, leaf in params.items():
        for index in np.ndindex(leaf.shape):
            step = np.zeros(leaf.shape)
            step[index] = 1e-4
            up, down = (
                grid_log_prob(params | {name: leaf + sign * step}, x[None])[0] for sign in (1, -1)
            )
            assert found[name][index] == pytest.approx((up - down) / 2e-4, abs=1e-5)


@pytest.mark.parametrize("latent_dim", [1, 2])
@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_bound_is_below_the_evidence_and_below_the_elbo(latent_dim: int, scale: float) -> None:
    params = make_params(latent_dim, scale)
    gap = grid_log_prob(params, STATES) - bounds(params, STATES)
    assert gap.min() > 0
    # The gap is of the fourth order in the weights.
    assert scale > 0.3 or gap.max() < 0.01
    # Between the two lies the ELBO of the same q: E_q[log p(x, z) - log q(z)] on the grid.
    z, log_joint = grid_joint(params, STATES)
    cell = latent_dim * np.log(np.ptp(z[:2, -1]))
    q = posteriors(params, STATES)
    tril = np.asarray(jax.vmap(lambda q: q.scale_tril)(q))
    for n in range(0, len(STATES), 7):
        density = stats.multivariate_normal(q.loc[n], tril[n] @ tril[n].T)
        log_q = np.atleast_1d(density.logpdf(z)) + cell
        elbo = np.sum(np.exp(log_q) * (log_joint[n] - log_q))
        assert float(bounds(params, STATES)[n]) < elbo < grid_log_prob(params, STATES)[n]


def test_the_bound_is_the_formula_term_by_term() -> None:
    params, x = make_params(2), STATES[13]
    q = bfa.posterior(params, x)
    covariance = np.asarray(q.scale_tril @ q.scale_tril.T)
    mean = params["loading"] @ q.loc + params["bias"]
    variance = np.einsum("di,ij,dj->d", params["loading"], covariance, params["loading"])
    xi = np.sqrt(mean**2 + variance)
    terms = (x - 0.5) * mean - np.log(2 * np.cosh(xi / 2))
    kl = 0.5 * (np.trace(covariance) + q.loc @ q.loc - 2 - np.linalg.slogdet(covariance)[1])
    assert float(bfa.bound(params, x)) == pytest.approx(float(terms.sum() - kl), rel=1e-12)


def test_the_bound_is_one_of_grey_answers_too() -> None:
    """x log sigmoid(a) + (1 - x) log sigmoid(-a): below the quadrature of the same."""
    params, x = jax.tree.map(jnp.asarray, make_params(2, 2.0)), jnp.linspace(0, 1, NUM_DIMS)
    exact = bfa.quadrature_log_prob(params, x)
    assert exact - 0.5 < bfa.bound(params, x) < exact


def test_the_posterior_is_the_highest_of_all_gaussians() -> None:
    """No other mean or scale gives a higher bound, and each step raises it."""
    params, x = jax.tree.map(jnp.asarray, make_params(2, 2.0)), jnp.asarray(STATES[6])
    q = bfa.posterior(params, x, num_updates=200)
    value_and_grad = jit_once(jax.value_and_grad(lambda q: bfa._bound(params, x, q)[0]))
    for leaf in value_and_grad(q)[1]:
        np.testing.assert_allclose(leaf, np.zeros(leaf.shape), atol=1e-9)
    values = [float(bfa.bound(params, x, num_updates=n)) for n in (1, 2, 3, 5, 10)]
    assert np.diff(values).min() > 0 and values[-1] < value_and_grad(q)[0]


@pytest.mark.parametrize("latent_dim", [1, 2, 3])
def test_the_factor_is_that_of_the_inverse(latent_dim: int) -> None:
    root = np.random.default_rng(0).normal(size=(latent_dim, 5))
    precision = np.eye(latent_dim) + root @ root.T
    found = np.asarray(bfa._inverse_factor(jnp.asarray(precision)))
    np.testing.assert_allclose(found, np.linalg.cholesky(np.linalg.inv(precision)), atol=1e-12)


@pytest.mark.parametrize("bias", [1.7, 0.0])
def test_without_weights_all_are_independent(bias: float) -> None:
    params = {"loading": jnp.zeros((NUM_DIMS, 2)), "bias": bias * jnp.linspace(-1, 2, NUM_DIMS)}
    on = expit(np.asarray(params["bias"]))
    exact = np.where(STATES == 1, np.log(on), np.log1p(-on)).sum(axis=1)
    np.testing.assert_allclose(bounds(params, STATES), exact, rtol=1e-12)
    np.testing.assert_allclose(evidence(params, STATES), exact, rtol=1e-12)
    q = bfa.posterior(params, STATES[3])
    np.testing.assert_allclose(q.loc, 0, atol=1e-15)
    np.testing.assert_allclose(q.scale_tril, np.eye(2), atol=1e-15)
    gradient = jit_once(jax.grad(bfa.bound))(params, jnp.asarray(STATES[3]))
    np.testing.assert_allclose(gradient["bias"], STATES[3] - on, atol=1e-12)
    assert np.isfinite(gradient["loading"]).all()


def test_the_posterior_of_small_weights_has_the_exact_moments() -> None:
    params = make_params(2, 0.3)
    z, log_joint = grid_joint(params, STATES)
    weights = np.exp(log_joint - logsumexp(log_joint, axis=1, keepdims=True))
    mean = weights @ z
    second = np.einsum("np,pi,pj->nij", weights, z, z)
    covariance = second - np.einsum("ni,nj->nij", mean, mean)
    q = posteriors(params, STATES)
    tril = np.asarray(jax.vmap(lambda q: q.scale_tril)(q))
    np.testing.assert_allclose(q.loc, mean, atol=0.01)
    np.testing.assert_allclose(np.einsum("nij,nkj->nik", tril, tril), covariance, atol=0.01)
    # The prior alone would be off by more.
    assert np.abs(mean).max() > 0.3 and np.abs(covariance - np.eye(2)).max() > 0.05


def test_importance_samples_give_the_evidence() -> None:
    """And all generic code works on the model: the bound of the library is the ELBO."""
    model = bfa.binary_factor_analysis(num_dims=NUM_DIMS, latent_dim=2)
    params, x = jax.tree.map(jnp.asarray, make_params(2)), jnp.asarray(STATES[9])
    draw = jit_once(lambda key: importance_samples(model, params, key, x, 20_000).log_weights)
    weights = np.asarray(draw(jax.random.key(0)))
    exact = grid_log_prob(params, STATES[9][None])[0]
    assert_mean(np.exp(weights - exact), 1.0)
    assert float(bfa.bound(params, x)) < weights.mean() < exact
    found = jit_once(lambda key: log_likelihood(model, params, key, x))(jax.random.key(1))
    assert abs(float(found.value) - exact) < 5 * float(found.monte_carlo_error)


@pytest.mark.usefixtures("strict_ranks")
def test_the_e_step_is_the_mean_over_posteriors() -> None:
    params, xs = make_params(2), STATES[[3, 9, 30]]
    value, found = jit_once(bfa.expected_statistics)(params, xs)
    precision, signal = np.zeros((NUM_DIMS, 3, 3)), np.zeros((NUM_DIMS, 3))
    q = over_examples(bfa.posterior)(params, xs)
    tril = np.asarray(jax.vmap(lambda q: q.scale_tril)(q))
    for n, x in enumerate(xs):
        u = np.append(q.loc[n], 1)
        second = np.outer(u, u)
        second[:2, :2] += tril[n] @ tril[n].T
        for d in range(NUM_DIMS):
            row = np.append(params["loading"][d], params["bias"][d])
            xi = np.sqrt(row @ second @ row)
            precision[d] += np.tanh(xi / 2) / (2 * xi) * second / 3
            signal[d] += (x[d] - 0.5) * u / 3
    np.testing.assert_allclose(found["precision"], precision, rtol=1e-9)
    np.testing.assert_allclose(found["signal"], signal, rtol=1e-9, atol=1e-12)
    exact = over_examples(bfa.bound)(params, xs).mean()
    assert float(value) == pytest.approx(float(exact), rel=1e-12)


def em(start: Any, xs: np.ndarray, num_steps: int, decay: float = 0.0) -> tuple[Any, np.ndarray]:
    """The parameters after some steps, and what EM maximises before each.

    Each state of the data is looked at once: means over a batch are means over states.
    """
    states, counts = np.unique(xs, axis=0, return_counts=True)

    def e_step(params: Any, weights: Any) -> Any:
        of_state = functools.partial(bfa.expected_statistics, num_updates=30)
        of_each = jax.vmap(lambda x: of_state(params, x[None]))(jnp.asarray(states))
        return jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, 1), of_each)

    algorithm = expectation_maximization(
        e_step, functools.partial(bfa.maximize, decay=decay), lambda key: start
    )

    def run(state: Any, weights: Any) -> Any:
        def step(state: Any, _: Any) -> Any:
            moved, metrics = algorithm.step(state, jax.random.key(0), weights)
            norm = sum(jnp.sum(jnp.square(leaf)) for leaf in state.params.values())
            return moved, metrics["log_likelihood"] - decay * norm / 2

        return jax.lax.scan(step, state, None, length=num_steps)

    weights = jnp.asarray(counts / len(xs))
    state, values = jit_once(run)(algorithm.init(jax.random.key(0)), weights)
    return state.params, np.asarray(values)


def sampled(params: Any, num_examples: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(num_examples, params["loading"].shape[1]))
    on = expit(z @ params["loading"].T + params["bias"])
    return (rng.uniform(size=on.shape) < on).astype(float)


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_em_never_lowers_the_bound_and_ends_where_its_gradient_is_zero(decay: float) -> None:
    xs = sampled(make_params(2, 1.5), 200)
    start = jax.tree.map(jnp.asarray, make_params(2, 0.5, seed=3))
    params, values = em(start, xs, 600 if decay else 60, decay)
    assert np.diff(values).min() > -1e-11
    assert values[-1] - values[0] > 0.1
    if not decay:
        return

    def objective(params: Any) -> Any:
        of_each = jax.vmap(functools.partial(bfa.bound, num_updates=200), (None, 0))
        norm = sum(jnp.sum(jnp.square(leaf)) for leaf in params.values())
        return jnp.mean(of_each(params, xs)) - decay * norm / 2

    for leaf in jit_once(jax.grad(objective))(params).values():
        np.testing.assert_allclose(leaf, np.zeros(leaf.shape), atol=1e-5)


def test_fits_recover_the_weights() -> None:
    """Up to sign: by likelihood within five standard errors, by the bound a little too small."""
    true = {
        "loading": np.array([[1.2], [-0.8], [0.6], [1.0], [-1.4]]),
        "bias": np.array([0.3, -0.5, 1.0, -1.2, 0.1]),
    }
    num_examples = 20_000
    xs = sampled(true, num_examples)
    states, counts = np.unique(xs, axis=0, return_counts=True)
    weights = counts / num_examples
    start = jax.tree.map(jnp.asarray, make_params(1, 0.5, seed=4))
    flat, unravel = ravel_pytree(start)
    log_probs = jax.vmap(bfa.quadrature_log_prob, (None, 0))
    mean = jit_once(jax.value_and_grad(lambda flat: -weights @ log_probs(unravel(flat), states)))
    fit = optimize.minimize(lambda flat: jax.tree.map(np.asarray, mean(flat)), flat, jac=True)
    scores = over_examples(jax.grad(bfa.quadrature_log_prob))(true, states)
    rows = np.concatenate([scores["bias"], scores["loading"][..., 0]], axis=1)
    information = np.einsum("n,ni,nj->ij", counts.astype(float), rows, rows)
    errors = np.sqrt(np.diag(np.linalg.inv(information)))
    assert errors.max() < 0.06

    def flattened(params: Any) -> np.ndarray:
        sign = np.sign(params["loading"][0, 0])
        return np.concatenate([params["bias"], sign * params["loading"][:, 0]])

    exact = flattened(true)
    assert (np.abs(flattened(unravel(fit.x)) - exact) < 5 * errors).all()
    params, _ = em(start, xs, 400)
    found = flattened(params)
    assert (found[NUM_DIMS:] / exact[NUM_DIMS:] > 0.65).all()
    assert (found[NUM_DIMS:] / exact[NUM_DIMS:] < 1).all()
    # What the bound costs is next to nothing of the likelihood.
    assert (
        0
        < grid_log_prob(unravel(fit.x), states) @ weights
        - (grid_log_prob(params, states) @ weights)
        < 0.01
    )


def test_large_weights_and_biases_overflow_nothing() -> None:
    rng = np.random.default_rng(0)
    with jax.enable_x64(False):
        params = {
            "loading": jnp.float32(1e4 * rng.normal(size=(30, 2))),
            "bias": jnp.float32(1e4 * rng.normal(size=30)),
        }
        x = jnp.float32(rng.uniform(size=30) < 0.5)
        for function in (bfa.bound, bfa.quadrature_log_prob):
            value, gradient = jit_once(jax.value_and_grad(function))(params, x)
            assert np.isfinite(value) and value < 0
            assert all(np.isfinite(leaf).all() for leaf in gradient.values())


def test_bad_input_is_refused() -> None:
    for name in ("num_dims", "latent_dim", "num_updates"):
        for size, wanted in ((0, "at least 1"), (1.5, "an integer")):
            with pytest.raises(ValueError, match=f"{name} must be {wanted}.*, got {size}"):
                bfa.binary_factor_analysis(**{"num_dims": 3, name: size})
    with pytest.raises(ValueError, match="latent_dim must be at most num_dims, 3, got 4"):
        bfa.binary_factor_analysis(num_dims=3, latent_dim=4)
    params = make_params(2)
    with pytest.raises(ValueError, match="shape of one event"):
        bfa.bound(params, STATES)
    for function in (bfa.posterior, bfa.bound, bfa.quadrature_log_prob):
        with pytest.raises(ValueError, match="num_updates must be at least 1, got -5"):
            function(params, STATES[0], num_updates=-5)
    for num_points in (0, 201):
        with pytest.raises(ValueError, match=rf"num_points must be in 1\.\.200, got {num_points}"):
            bfa.quadrature_log_prob(params, STATES[0], num_points=num_points)
    with pytest.raises(ValueError, match="quadrature is for 1 or 2 factors, got 3"):
        bfa.quadrature_log_prob(make_params(3), STATES[0])
    for shape in [(0, NUM_DIMS), (3, 4), (NUM_DIMS,)]:
        with pytest.raises(ValueError, match=r"batch must be \[N, 5\] with N >= 1, got"):
            bfa.expected_statistics(params, np.zeros(shape))
    statistics = {"precision": np.ones((NUM_DIMS, 3, 3)), "signal": np.ones((NUM_DIMS, 3))}
    for decay in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"decay must be finite and not negative, got {decay}"):
            bfa.maximize(statistics, params, decay=decay)
