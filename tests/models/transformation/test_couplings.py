"""Masks, couplings and actnorm: each bijection against its Jacobian, and mutants that fail."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.interfaces import Network
from genjax_models.models.transformation.couplings import (
    actnorm,
    actnorm_from_data,
    affine_coupling,
    alternating_masks,
    channel_masks,
    check_masks,
    checkerboard_masks,
    coupling_stack,
)
from genjax_models.networks import mlp
from tests.flow_oracles import assert_bijection, random_params
from tests.statistics import jit_once

MASK = np.array([True, False, False, True])
NETWORK = mlp(4, (5,), 8)
POINTS = np.random.default_rng(1).normal(size=(3, 4))


def coupling(network: Network = NETWORK, scale: float = 1.0) -> distrax.Bijector:
    params = random_params(network.init, scale=scale)
    return affine_coupling(jnp.asarray(MASK), network, params, max_log_scale=1.5)


def norm_params(num_channels: int) -> dict:
    rng = np.random.default_rng(2)
    return {"log_scale": jnp.array(rng.normal(size=num_channels), jnp.float32)} | {
        "shift": jnp.array(rng.normal(size=num_channels), jnp.float32)
    }


def test_a_coupling_is_the_equation_of_the_paper() -> None:
    params = random_params(NETWORK.init, scale=1.0)
    z = jnp.asarray(POINTS[0], jnp.float32)
    outputs = jit_once(NETWORK.apply)(params, jnp.where(MASK, z, 0))
    shift, raw = np.split(np.asarray(outputs, np.float64), 2)
    log_scale = 1.5 * np.tanh(raw / 1.5)
    x, log_det = jit_once(coupling().forward_and_log_det)(z)
    expected = np.where(MASK, z, z * np.exp(log_scale) + shift)
    np.testing.assert_allclose(x, expected, rtol=1e-5)
    np.testing.assert_array_equal(x[MASK], z[MASK])
    np.testing.assert_allclose(log_det, log_scale[~MASK].sum(), rtol=1e-5)


def test_coupling_and_actnorm_against_their_jacobians() -> None:
    assert_bijection(coupling(), POINTS)
    for num_channels in (4, 2, 1):
        assert_bijection(actnorm(norm_params(num_channels), 4), POINTS)


def test_the_channels_of_an_actnorm_are_the_last_axis() -> None:
    """[2 pixels, 3 channels], flattened."""
    params = norm_params(3)
    z = np.arange(6.0)
    x = actnorm(params, 6).forward(jnp.asarray(z, jnp.float32))
    expected = z.reshape(2, 3) * np.exp(params["log_scale"]) + params["shift"]
    np.testing.assert_allclose(x, expected.reshape(-1), rtol=1e-5)


class Mutant(distrax.Bijector):
    """Another bijector with one thing wrong."""

    def __init__(self, right: distrax.Bijector, mistake: str) -> None:
        super().__init__(event_ndims_in=1)
        self._right, self._mistake = right, mistake

    def forward_and_log_det(self, x):
        y, log_det = self._right.forward_and_log_det(x)
        wrong = {"no log-determinant": 0 * log_det, "a part of it": 0.99 * log_det}
        return y, wrong.get(self._mistake, log_det)

    def inverse_and_log_det(self, y):
        x, log_det = self._right.inverse_and_log_det(y)
        log_det = -log_det if self._mistake == "sign" else log_det
        return (x * 1.0001 if self._mistake == "round trip" else x), log_det


@pytest.mark.parametrize("mistake", ["no log-determinant", "a part of it", "sign", "round trip"])
def test_the_oracle_rejects(mistake: str) -> None:
    with pytest.raises(AssertionError, match=r"round trip:|log-determinant:"):
        assert_bijection(Mutant(coupling(), mistake), POINTS)


def test_log_scales_are_bounded_whatever_the_network_gives() -> None:
    huge = Network(lambda key: {}, lambda params, x: jnp.array([0.0] * 4 + [1e4, -1e4, 1e30, -1e4]))
    one = affine_coupling(jnp.asarray(MASK), huge, {}, max_log_scale=1.5)
    x = one.forward(jnp.ones(4))
    np.testing.assert_allclose(x, [1, np.exp(-1.5), np.exp(1.5), 1], rtol=1e-6)
    slope = jax.grad(lambda z: one.inverse_and_log_det(z)[1])(jnp.ones(4))
    assert np.isfinite(slope).all()


def test_a_batch_of_vectors_is_what_distrax_means_by_it() -> None:
    batch = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)
    flow = coupling_stack(alternating_masks(3, 4), NETWORK)
    bijector = flow.bijector(random_params(flow.init))
    for method in (bijector.forward_and_log_det, bijector.inverse_and_log_det):
        values, log_dets = jit_once(method)(batch)
        assert log_dets.shape == (2, 3)
        one, log_det = jit_once(method)(batch[1, 2])
        np.testing.assert_allclose(values[1, 2], one, rtol=1e-5)
        np.testing.assert_allclose(log_dets[1, 2], log_det, rtol=1e-4)


def test_actnorm_from_data_standardises_every_channel() -> None:
    rng = np.random.default_rng(3)
    xs = rng.normal(size=(500, 2, 3)) * [0.01, 5, 1] + [3, -200, 0]
    xs[..., 2] = 7.1  # A channel that does not vary keeps its scale.

    @jit_once
    def run(xs):
        params = actnorm_from_data(xs, 3)
        return params, actnorm(params, 6).inverse(xs)

    params, zs = run(jnp.asarray(xs.reshape(500, 6), jnp.float32))
    values = np.asarray(zs, np.float64).reshape(-1, 3)
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(values.std(axis=0)[:2], 1, rtol=1e-3)
    np.testing.assert_allclose(values[:, 2], 0, atol=1e-5)
    assert params["log_scale"][2] == 0


def test_alternating_masks_keep_even_and_odd_dimensions_in_turn() -> None:
    even = [True, False, True]
    odd = [False, True, False]
    np.testing.assert_array_equal(alternating_masks(3, 3), [even, odd, even])


def test_checkerboard_masks_are_a_checkerboard_in_every_channel() -> None:
    masks = checkerboard_masks(2, (2, 3, 2)).reshape(2, 2, 3, 2)
    white = [[True, False, True], [False, True, False]]
    for channel in (0, 1):
        np.testing.assert_array_equal(masks[0, ..., channel], white)
        np.testing.assert_array_equal(masks[1, ..., channel], np.logical_not(white))


def test_channel_masks_keep_half_of_the_channels_of_every_pixel() -> None:
    masks = channel_masks(2, (2, 1, 4)).reshape(2, 2, 4)
    for pixel in (0, 1):
        np.testing.assert_array_equal(masks[0, pixel], [True, True, False, False])
        np.testing.assert_array_equal(masks[1, pixel], [False, False, True, True])


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([[1, 0], [0, 1]], "boolean"),
        ([True, False], r"\[num_couplings >= 1, num_dims >= 2\].*\(2,\)"),
        (np.ones((0, 3), bool), "num_couplings >= 1"),
        ([[True], [False]], "num_dims >= 2"),
        ([[True, False, True], [True, True, False]], r"every dimension transformed.*keep \[0\]"),
        ([[True, False, False]], r"keep \[0\]"),
        ([[True, False], [False, True], [True, True]], "coupling 2 of masks transforms no dim"),
        ([[True, False], [False, False]], "coupling 1 of masks keeps no dimension"),
    ],
)
def test_masks_that_are_refused(masks, message: str) -> None:
    for check in (check_masks, lambda masks: coupling_stack(masks, mlp(2, (3,), 4))):
        with pytest.raises(ValueError, match=message):
            check(np.asarray(masks))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: alternating_masks(1, 3), "num_couplings must be at least 2.*got 1"),
        (lambda: alternating_masks(2, 1), "num_dims must be at least 2.*got 1"),
        (lambda: checkerboard_masks(2, (1, 1, 8)), "pixels in image_shape.*got 1"),
        (lambda: channel_masks(2, (4, 4, 1)), "channels in image_shape.*got 1"),
        (lambda: coupling_stack(alternating_masks(2, 4), NETWORK, num_channels=3), "num_channels"),
        (lambda: coupling_stack(alternating_masks(2, 4), NETWORK, num_channels=0), "num_channels"),
        (lambda: coupling_stack(alternating_masks(2, 4), NETWORK, max_log_scale=0.0), "max_log_sc"),
    ],
)
def test_sizes_that_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("outputs", [4, 7])
def test_a_network_of_the_wrong_size_is_refused(outputs: int) -> None:
    flow = coupling_stack(alternating_masks(2, 4), mlp(4, (3,), outputs))
    with pytest.raises(ValueError, match=rf"network must map \[4\] to \[8\].*\({outputs},\)"):
        jax.eval_shape(flow.init, jax.random.key(0))
