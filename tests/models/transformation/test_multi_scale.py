"""Squeeze, split and the multi-scale flow against written-out pixels and their Jacobians."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.models.transformation import Flow, density, initialize_from_data
from genjax_models.models.transformation.multi_scale import (
    SplitChannels,
    Squeeze,
    multi_scale_flow,
    split,
)
from genjax_models.models.transformation.real_nvp import real_nvp_flow
from tests.flow_oracles import assert_bijection, random_params
from tests.statistics import jit_once


@functools.cache
def tiny() -> Flow:
    """Images of 4x2 pixels with three channels, and two scales: three stacks of couplings."""
    return multi_scale_flow(
        image_shape=(4, 2, 3), num_scales=2, num_couplings=2, num_features=2, num_blocks=0
    )


@functools.cache
def start() -> Any:
    return jit_once(tiny().init)(jax.random.key(0))


def test_squeeze_makes_channels_of_blocks() -> None:
    """Every pixel of the half image holds the pixels of a 2x2 block, each with its channels."""
    height, width, channels = 4, 6, 2
    image = np.arange(height * width * channels).reshape(height, width, channels)
    squeezed = Squeeze((height, width, channels)).inverse(jnp.asarray(image.reshape(-1)))
    squeezed = np.asarray(squeezed).reshape(height // 2, width // 2, 4 * channels)
    for row, column in np.ndindex(height // 2, width // 2):
        block = image[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        np.testing.assert_array_equal(squeezed[row, column], block.reshape(-1))


def test_squeeze_and_split_against_their_jacobians() -> None:
    rng = np.random.default_rng(0)
    assert_bijection(Squeeze((2, 4, 1)), rng.normal(size=(2, 8)))
    inner = real_nvp_flow(num_dims=4, num_couplings=2, hidden=(3,))
    halves = split((1, 2, 4), inner)
    bijector = halves.bijector(random_params(inner.init))
    assert_bijection(bijector, rng.normal(size=(2, 8)), num_layers=2)


def test_a_split_leaves_the_second_half_of_the_channels_alone() -> None:
    inner = real_nvp_flow(num_dims=4, num_couplings=2, hidden=(3,))
    params = random_params(inner.init)
    image = np.random.default_rng(1).normal(size=(2, 1, 4)).astype(np.float32)
    bijector = split((2, 1, 4), inner).bijector(params)
    z, log_det = jit_once(bijector.inverse_and_log_det)(jnp.asarray(image.reshape(-1)))
    np.testing.assert_array_equal(z[4:], image[..., 2:].reshape(-1))
    invert = jit_once(inner.bijector(params).inverse_and_log_det)
    expected = invert(jnp.asarray(image[..., :2].reshape(-1)))
    np.testing.assert_allclose(z[:4], expected[0], rtol=1e-5)
    np.testing.assert_allclose(log_det, expected[1], rtol=1e-5)


def test_the_whole_against_its_jacobian() -> None:
    points = np.random.default_rng(2).normal(size=(2, 24))
    bijector = tiny().bijector(random_params(tiny().init, scale=0.2))
    assert_bijection(bijector, points, num_layers=6)


def test_every_dimension_depends_on_many_others() -> None:
    """The Jacobian of random parameters is not sparse, as it would be were a stack left out."""
    bijector = tiny().bijector(random_params(tiny().init, scale=0.5))
    jacobian = jit_once(jax.jacfwd(bijector.inverse))(jnp.linspace(-1, 1, 24))
    assert (np.abs(jacobian) > 1e-6).mean() > 0.5


def test_the_start_standardises_the_channels_of_every_scale() -> None:
    """The networks start at zero, so that every scale sees the standardised data."""
    xs = np.random.default_rng(3).normal(size=(40, 4, 2, 3)) * [0.1, 3, 1] + [5, -2, 0]
    xs = jnp.asarray(xs.reshape(40, 24), jnp.float32)

    @jit_once
    def run(params, xs):
        started = initialize_from_data(tiny(), params, xs)
        zs = jax.vmap(tiny().bijector(started).inverse)(xs)
        return started, zs, tiny().normalize(params, xs)[1]

    params, zs, normalized = run(start(), xs)
    assert jax.tree.structure(params) == jax.tree.structure(start())
    np.testing.assert_allclose(normalized, zs, atol=1e-5)
    # [2 pixels, 6 channels of the last scale], then [2 pixels, 6 channels of the split].
    for part in (zs[:, :12], zs[:, 12:]):
        values = np.asarray(part, np.float64).reshape(-1, 6)
        np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-4)
        np.testing.assert_allclose(values.std(axis=0), 1, rtol=1e-4)


def test_it_starts_as_the_standard_normal() -> None:
    x = jnp.linspace(-2, 1, 24)
    expected = jax.scipy.stats.norm.logpdf(x).sum()
    np.testing.assert_allclose(jit_once(density(tiny()).log_prob)(start(), x), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_shape": (8,)}, "image_shape"),
        ({"image_shape": (0, 8)}, "image_shape"),
        ({"num_scales": 0}, "num_scales must be at least 1"),
        ({"image_shape": (6, 8), "num_scales": 3}, "cannot be halved 2 times"),
        ({"image_shape": (8, 8), "num_scales": 4}, "more than one pixel.*num_scales=4"),
        ({"num_couplings": 1}, "num_couplings"),
        ({"num_features": 0}, "num_features"),
        ({"num_blocks": -1}, "num_blocks"),
        ({"max_log_scale": -1.0}, "max_log_scale"),
    ],
)
def test_settings_that_are_refused(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        multi_scale_flow(**({"image_shape": (8, 8)} | changed))


def test_parts_that_are_refused() -> None:
    with pytest.raises(ValueError, match="must be even"):
        Squeeze((3, 4, 1))
    with pytest.raises(ValueError, match="must be even"):
        SplitChannels((2, 2, 3), Squeeze((2, 2, 1)))
