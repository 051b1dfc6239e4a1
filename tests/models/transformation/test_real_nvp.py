"""RealNVP: its sizes, its density in the plane, what it learns, its numerics, its errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import multivariate_normal

from genjax_models.interfaces import Network
from genjax_models.learning import maximum_likelihood
from genjax_models.models.transformation import (
    density,
    initialize_from_data,
    logit_transformed,
    real_nvp,
    real_nvp_flow,
)
from genjax_models.networks import mlp
from genjax_models.training import gradient_descent
from tests.flow_oracles import assert_bijection, masses, plane, random_params
from tests.statistics import jit_once, standard_error


def test_the_default_sizes() -> None:
    params = jax.eval_shape(real_nvp(num_dims=64).init, jax.random.key(0))
    kernels = [layer["kernel"].shape for layer in params["network"]["params"].values()]
    assert kernels == [(8, 64, 256), (8, 256, 256), (8, 256, 128)]
    assert {leaf.shape for leaf in jax.tree.leaves(params["actnorm"])} == {(8, 64)}


def test_it_starts_as_the_standard_normal_with_networks_that_differ() -> None:
    model = real_nvp(num_dims=3, num_couplings=2, hidden=(4,))
    params = jit_once(model.init)(jax.random.key(0))
    x = jnp.array([0.3, -1.2, 2.0])
    expected = jax.scipy.stats.norm.logpdf(x).sum()
    np.testing.assert_allclose(jit_once(model.log_prob)(params, x), expected, rtol=1e-6)
    first, second = params["network"]["params"]["Dense_0"]["kernel"]
    assert np.all(first != second)


def test_inverse_and_log_determinant_of_the_whole() -> None:
    """Eight couplings of five dimensions with random parameters."""
    flow = real_nvp_flow(num_dims=5, hidden=(6, 6), activation=jnp.tanh)
    points = np.random.default_rng(0).normal(size=(3, 5))
    assert_bijection(flow.bijector(random_params(flow.init, scale=0.3)), points, num_layers=16)


@pytest.mark.parametrize("options", [{}, {"masks": np.array([[True, False], [False, True]] * 2)}])
def test_its_density_in_the_plane_integrates_to_one(options: dict) -> None:
    model = real_nvp(num_dims=2, num_couplings=4, hidden=(5,), activation=jnp.tanh, **options)
    params = random_params(model.init, seed=3, scale=0.4)
    points, area = plane(-15, 15, 500)
    assert masses(functools.partial(model.log_prob, params), points, area).sum() == pytest.approx(
        1, abs=1e-3
    )


def test_with_the_logit_transform_it_integrates_to_one_over_the_square() -> None:
    model = logit_transformed(real_nvp(num_dims=2, num_couplings=2, hidden=(4,)), alpha=0.05)
    params = random_params(model.init, seed=5, scale=0.3)
    points, area = plane(-1 / 18, 19 / 18, 700)
    mass = masses(functools.partial(model.log_prob, params), points, area)
    assert mass.sum() == pytest.approx(1, abs=3e-3)


COVARIANCE = np.array([[1.0, 0.8, 0.0], [0.8, 1.5, -0.6], [0.0, -0.6, 0.7]])
MEAN = np.array([3.0, -1.0, 0.5])


def test_it_learns_a_gaussian_whose_entropy_is_known() -> None:
    """From a data-dependent start: a KL divergence of some hundredths of a nat is left."""
    flow = real_nvp_flow(num_dims=3, num_couplings=4, hidden=(8,), activation=jnp.tanh)
    truth = multivariate_normal(MEAN, COVARIANCE)
    xs = truth.rvs(3000, random_state=np.random.default_rng(0)).astype(np.float32)
    train, test = jnp.asarray(xs[:2000]), jnp.asarray(xs[2000:])
    objective = maximum_likelihood(density(flow))
    algorithm = gradient_descent(
        objective,
        optax.adam(optax.cosine_decay_schedule(0.02, 300)),
        lambda key: initialize_from_data(flow, flow.init(key), train[:200]),
    )

    @jit_once
    def learn(key):
        init_key, *keys = jax.random.split(key, 301)

        def step(state, step_and_key):
            step, key = step_and_key
            batch = jax.lax.dynamic_slice_in_dim(train, (step % 10) * 200, 200)
            return algorithm.step(state, key, batch)[0], None

        start = algorithm.init(init_key)
        state, _ = jax.lax.scan(step, start, (jnp.arange(300), jnp.stack(keys)))
        log_prob = jax.vmap(density(flow).log_prob, in_axes=(None, 0))
        return log_prob(start.params, test), log_prob(state.params, test)

    before, after = map(np.asarray, learn(jax.random.key(0)))
    exact = truth.logpdf(xs[2000:])
    divergence = exact - after
    assert divergence.mean() > -5 * standard_error(divergence)
    assert divergence.mean() < 0.05
    assert (after - before).mean() > 0.3


def test_nothing_overflows() -> None:
    model = real_nvp(num_dims=4, num_couplings=4, hidden=(5,))
    params = random_params(model.init, scale=1.0)
    evaluate = jit_once(jax.value_and_grad(model.log_prob, argnums=(0, 1)))
    for size in (1e4, -1e4):
        value, slopes = evaluate(params, size * jnp.array([1.0, -0.5, 0.2, 0.0]))
        assert np.isfinite(value)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_bfloat16_parameters() -> None:
    """The density and the samples are in float32, and those of the rounded parameters."""
    model = real_nvp(num_dims=4, num_couplings=4, hidden=(8,))
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), random_params(model.init))
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), rounded)
    x = jnp.array([0.3, -1.0, 0.7, 2.0])
    run = jit_once(lambda params, key: (model.log_prob(params, x), model.sample(params, key)))
    ours, exact = run(rounded, jax.random.key(0)), run(params, jax.random.key(0))
    for one, other in zip(ours, exact, strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, other, rtol=0.03, atol=0.03)


def test_integers_are_as_good_as_floats() -> None:
    model = real_nvp(num_dims=3, num_couplings=2, hidden=(4,))
    params = random_params(model.init)
    log_prob = jit_once(model.log_prob)
    x = np.array([1, 0, 3])
    values = [log_prob(params, x.astype(dtype)) for dtype in (np.uint8, np.int32, np.float32)]
    np.testing.assert_allclose(values, values[-1], rtol=1e-6)


def test_a_network_of_the_users() -> None:
    """One that shifts every dimension by the sum of those that are kept."""
    network = Network(
        lambda key: {}, lambda params, x: jnp.concatenate([jnp.full(3, x.sum()), jnp.zeros(3)])
    )
    flow = real_nvp_flow(num_dims=3, num_couplings=2, network=network)
    params = flow.init(jax.random.key(0))
    z = jnp.array([1.0, 10.0, 100.0])
    # Dimension 1 becomes 10 + (1 + 100); then 0 and 2 become 1 + 111 and 100 + 111.
    np.testing.assert_allclose(flow.bijector(params).forward(z), [112.0, 111.0, 211.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_dims": 1}, "num_dims must be at least 2"),
        ({"num_couplings": 1}, "num_couplings must be at least 2"),
        ({"hidden": (5, 0)}, "hidden must be at least 1"),
        ({"max_log_scale": 0.0}, "max_log_scale"),
        ({"max_log_scale": float("inf")}, "max_log_scale"),
        ({"masks": np.ones((8, 3), bool)}, r"\(8, 4\), got \(8, 3\)"),
        ({"masks": np.ones((2, 4), bool)}, r"\(8, 4\), got \(2, 4\)"),
        ({"masks": np.array([[True, True, False, True]] * 8)}, r"keep \[0, 1, 3\]"),
        ({"masks": np.zeros((8, 4), int)}, "boolean"),
    ],
)
def test_settings_that_are_refused(options: dict, message: str) -> None:
    for factory in (real_nvp, real_nvp_flow):
        with pytest.raises(ValueError, match=message):
            factory(**({"num_dims": 4} | options))


def test_a_network_of_the_wrong_size_is_refused_before_anything_is_compiled() -> None:
    model = real_nvp(num_dims=4, network=mlp(4, (3,), 9))
    with pytest.raises(ValueError, match=r"network must map \[4\] to \[8\]"):
        jax.eval_shape(model.init, jax.random.key(0))
