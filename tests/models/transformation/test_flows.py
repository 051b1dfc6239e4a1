"""Flows: composition, the density they give, the data-dependent start, the scan over layers."""

import functools

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from genjax_models.models.transformation import (
    Flow,
    chain,
    density,
    initialize_from_data,
    real_nvp_flow,
)
from genjax_models.models.transformation.couplings import (
    actnorm,
    affine_coupling,
    alternating_masks,
    coupling_stack,
)
from genjax_models.models.transformation.flows import Stack, fixed
from genjax_models.networks import mlp
from tests.flow_oracles import assert_bijection, masses, plane, random_params
from tests.statistics import assert_mean, jit_once


@functools.cache
def planar() -> Flow:
    """A flow of the plane with kinks, since its networks have rectifiers."""
    return real_nvp_flow(num_dims=2, num_couplings=3, hidden=(4,))


@functools.cache
def planar_params():
    return random_params(planar().init)


@functools.cache
def grid_of_the_plane() -> tuple[np.ndarray, np.ndarray]:
    points, area = plane(-12, 12, 500)
    model = density(planar())
    log_prob = functools.partial(model.log_prob, planar_params())
    return np.asarray(points), masses(log_prob, points, area)


def test_the_density_integrates_to_one() -> None:
    _, mass = grid_of_the_plane()
    assert mass.sum() == pytest.approx(1, abs=1e-3)
    assert mass.max() < 1e-2  # Of one cell: the grid is fine enough.


@pytest.mark.parametrize("mistake", ["no log-determinant", "sign", "no base density"])
def test_the_integral_rejects(mistake: str) -> None:
    points, area = plane(-12, 12, 500)
    bijector = planar().bijector(planar_params())

    def log_prob(x):
        z, log_det = bijector.inverse_and_log_det(x)
        base = 0 if mistake == "no base density" else jax.scipy.stats.norm.logpdf(z).sum()
        return base + {"no log-determinant": 0, "sign": -log_det}.get(mistake, log_det)

    assert abs(masses(log_prob, points, area).sum() - 1) > 0.05


def test_samples_are_of_the_density() -> None:
    """Moments, and the shares of the quadrants around a point off the centre, by quadrature."""
    points, mass = grid_of_the_plane()

    def features(x):
        first, second = x[..., 0] > 0.3, x[..., 1] > -0.2
        quadrants = [first & second, first & ~second, ~first & second]
        moments = [x[..., 0], x[..., 1], x[..., 0] ** 2, x[..., 1] ** 2, x[..., 0] * x[..., 1]]
        return np.stack([*quadrants, *moments], axis=-1).astype(np.float64)

    model = density(planar())
    draw = jit_once(jax.vmap(functools.partial(model.sample, planar_params())))
    samples = np.asarray(draw(jax.random.split(jax.random.key(0), 40_000)))
    assert_mean(features(samples), mass @ features(points), floor=1e-3)
    # The oracle has power: twice the density's width is found.
    with pytest.raises(AssertionError, match="biased"):
        assert_mean(features(2 * samples), mass @ features(points), floor=1e-3, resolution=0.1)


def test_the_density_is_that_of_distrax() -> None:
    bijector = planar().bijector(planar_params())
    base = distrax.Independent(distrax.Normal(jnp.zeros(2), jnp.ones(2)), 1)
    theirs = distrax.Transformed(base, bijector)
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(20, 2)), jnp.float32)
    ours = jax.vmap(functools.partial(density(planar()).log_prob, planar_params()))
    np.testing.assert_allclose(jit_once(ours)(xs), jit_once(theirs.log_prob)(xs), rtol=1e-5)


def linear(seed: int) -> Flow:
    """x = A z, with A a random triangular matrix, as distrax has it."""
    rng = np.random.default_rng(seed)
    matrix = np.tril(rng.normal(size=(3, 3)), -1) + np.diag(rng.uniform(0.5, 2, 3))
    if seed % 2:
        matrix = matrix.T
    bijector = distrax.TriangularLinear(jnp.asarray(matrix, jnp.float32), is_lower=not seed % 2)
    return fixed(bijector, 3)


def test_a_chain_applies_its_last_flow_to_the_noise() -> None:
    first, second = linear(0), linear(1)
    matrices = [np.asarray(flow.bijector({}).matrix, np.float64) for flow in (first, second)]
    flow = chain(first, second)
    z = np.array([0.3, -1.2, 0.8])

    @jit_once
    def run(z):
        x, log_det = flow.bijector(({}, {})).forward_and_log_det(z)
        return x, log_det, density(flow).log_prob(({}, {}), x)

    x, log_det, log_prob = run(jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(x, matrices[0] @ matrices[1] @ z, rtol=1e-5)
    exact = np.linalg.slogdet(matrices[0] @ matrices[1])[1]
    np.testing.assert_allclose(log_det, exact, rtol=1e-4)
    # The density is the Gaussian of covariance A A'.
    covariance = matrices[0] @ matrices[1] @ matrices[1].T @ matrices[0].T
    exact = multivariate_normal.logpdf(x, np.zeros(3), covariance)
    np.testing.assert_allclose(log_prob, exact, rtol=1e-4)


def test_a_stack_is_the_chain_of_its_layers() -> None:
    """In both directions; the first layer is next to the noise."""
    rng = np.random.default_rng(4)
    params = {
        "log_scale": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32),
        "shift": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32),
    }
    layer = lambda params: actnorm(params, 2)  # noqa: E731
    stack = Stack(layer, params)
    layers = [layer(jax.tree.map(lambda leaf, i=i: leaf[i], params)) for i in range(3)]
    unrolled = distrax.Chain(layers[::-1])
    z = jnp.array([0.7, -0.4])
    for name in ("forward_and_log_det", "inverse_and_log_det"):
        ours, theirs = jit_once(getattr(stack, name))(z), jit_once(getattr(unrolled, name))(z)
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5)
    assert_bijection(stack, np.random.default_rng(0).normal(size=(2, 2)), num_layers=3)


def test_more_layers_are_no_larger_program() -> None:
    sizes = []
    for num_couplings in (4, 40):
        model = density(real_nvp_flow(num_dims=2, num_couplings=num_couplings, hidden=(3,)))
        params = jax.eval_shape(model.init, jax.random.key(0))
        jaxpr = jax.make_jaxpr(jax.grad(model.log_prob))(params, jnp.zeros(2))
        sizes.append(str(jaxpr).count("\n"))
    assert sizes[0] == sizes[1]


def test_the_start_standardises_every_activation() -> None:
    """On the examples given, with networks that are not zero, layer by layer in a plain loop."""
    network = mlp(3, (4,), 6)
    masks = alternating_masks(3, 3)
    flow = coupling_stack(masks, network, max_log_scale=1.0)
    before = random_params(flow.init, scale=1.0)
    xs = np.random.default_rng(5).normal(size=(200, 3)) @ np.array(
        [[2, 1, 0], [0, 0.1, 3], [1] * 3]
    )
    xs = jnp.asarray(xs + np.array([5, -3, 0]), jnp.float32)
    params, zs = jit_once(flow.normalize)(before, xs)
    jax.tree.map(np.testing.assert_array_equal, params["network"], before["network"])
    activations = xs

    @jit_once
    def unstack(mask, layer, activations):
        normalized = actnorm(layer["actnorm"], 3).inverse(activations)
        coupling = affine_coupling(mask, network, layer["network"], max_log_scale=1.0)
        return normalized, coupling.inverse(normalized)

    for i in reversed(range(3)):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], params)
        normalized, activations = unstack(masks[i], layer, activations)
        np.testing.assert_allclose(np.mean(normalized, axis=0), 0, atol=2e-5)
        np.testing.assert_allclose(np.std(normalized, axis=0), 1, rtol=1e-4)
    np.testing.assert_allclose(zs, activations, atol=1e-4)


def test_the_start_goes_through_a_chain() -> None:
    shifted = fixed(distrax.Block(distrax.ScalarAffine(jnp.array([3.0, -1.0]), 2.0), 1), 2)
    flow = chain(shifted, planar())
    before = jit_once(flow.init)(jax.random.key(0))
    xs = jnp.asarray(np.random.default_rng(6).normal(size=(50, 2)) * 3 + 4, jnp.float32)

    @jit_once
    def run(before, xs):
        params = initialize_from_data(flow, before, xs)
        return params, jax.vmap(flow.bijector(params).inverse)(xs), flow.normalize(before, xs)[1]

    params, zs, normalized = run(before, xs)
    assert jax.tree.structure(params) == jax.tree.structure(before)
    np.testing.assert_allclose(normalized, zs, atol=1e-5)
    # The networks start at zero, so that what is left is the standardisation.
    np.testing.assert_allclose(np.mean(zs, axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(zs, axis=0), 1, rtol=1e-5)


@pytest.mark.parametrize("shape", [(50,), (50, 3), (1, 2), (5, 10, 2)])
def test_examples_of_the_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"xs must have shape \[N >= 2, 2\]"):
        initialize_from_data(planar(), planar_params(), jnp.zeros(shape))


@pytest.mark.parametrize("shape", [(3,), (1,), (), (4, 2)])
def test_one_example_of_the_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"x must have shape \[2\]"):
        density(planar()).log_prob(planar_params(), jnp.zeros(shape))


def test_chains_that_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        chain()
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        chain(planar(), linear(0))
