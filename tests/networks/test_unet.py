"""The networks of a diffusion: their formulas, what depends on what, images of any shape."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.networks import time_mlp, unet
from genjax_models.networks.time_mlp import fourier_features, sinusoidal_embedding
from genjax_models.networks.unet import _from_patches, _to_patches
from tests.statistics import jit_once

SHAPES = [(8, 8), (28, 28), (7, 5, 3), (1, 1), (6, 1, 2)]
NETWORKS = {
    "time_mlp": lambda: time_mlp(16, num_units=8, num_blocks=1, frequencies=(1.5,)),
    "unet": lambda: unet((4, 4), features=(8, 8), patch_size=2, frequencies=(1.5,)),
}


def test_the_embedding_is_waves_from_one_step_to_ten_thousand() -> None:
    time, size = 0.37, 8
    exact = [np.sin(1000 * time * 10_000 ** (-i / 3)) for i in range(4)]
    exact += [np.cos(1000 * time * 10_000 ** (-i / 3)) for i in range(4)]
    np.testing.assert_allclose(sinusoidal_embedding(jnp.float32(time), size), exact, atol=1e-4)


def test_times_one_step_of_a_thousand_apart_are_told_apart() -> None:
    times = jnp.arange(1, 1001) / 1000
    features = jax.vmap(lambda time: sinusoidal_embedding(time, 64))(times)
    distances = np.linalg.norm(np.diff(features, axis=0), axis=1)
    assert distances.min() > 0.5


def test_fourier_features_turn_once_a_level() -> None:
    """At (L - 1) / 2 cycles per unit the waves are the same at all of the L levels in [-1, 1]."""
    levels = jnp.linspace(-1, 1, 17)
    features = fourier_features(levels[:, None], (8.0, 4.0))
    assert features.shape == (17, 5)
    exact = [[x, 0, 1, 0, (-1) ** index] for index, x in enumerate(np.asarray(levels))]
    np.testing.assert_allclose(features, exact, atol=2e-5)
    between = fourier_features(levels[:1] + 1 / 32, (8.0,))
    np.testing.assert_allclose(between, [-1 + 1 / 32, 1, 0], atol=1e-5)


def test_time_mlp_is_its_formula() -> None:
    network = time_mlp(3, num_units=4, num_blocks=1, num_time_features=6)
    params = network.init(jax.random.key(0))
    layers = jax.tree.map(lambda leaf: np.asarray(leaf + 0.1, np.float64), params["params"])

    def dense(x, layer):
        return x @ layer["kernel"] + layer["bias"]

    def silu(x):
        return x / (1 + np.exp(-x))

    def norm(x, layer):
        return (x - x.mean()) / np.sqrt(x.var() + 1e-6) * layer["scale"] + layer["bias"]

    x, time = np.array([0.3, -1.2, 0.8]), 0.4
    embedding = np.asarray(sinusoidal_embedding(jnp.float32(time), 6), np.float64)
    inner = layers["TimeEmbedding_0"]
    embedding = silu(dense(silu(dense(embedding, inner["Dense_0"])), inner["Dense_1"]))
    hidden = dense(x, layers["Dense_0"])
    shift, scale = np.split(dense(embedding, layers["Dense_1"]), 2)
    block = silu(norm(hidden, layers["LayerNorm_0"]) * (1 + scale) + shift)
    block = dense(silu(dense(block, layers["Dense_2"])), layers["Dense_3"])
    hidden = hidden + block
    exact = dense(silu(norm(hidden, layers["LayerNorm_1"])), layers["Dense_4"])
    found = network.apply({"params": layers}, jnp.float32(x), jnp.float32(time))
    np.testing.assert_allclose(found, exact, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_unet_maps_images_of_any_shape(shape: tuple[int, ...]) -> None:
    levels = 1 if max(shape[:2]) == 1 else 2
    network = unet(shape, features=(4, 6)[:levels], attention=False)
    size = int(np.prod(shape))

    def run(key):
        return network.apply(network.init(key), jnp.zeros(size), jnp.zeros(()))

    assert jax.eval_shape(run, jax.random.key(0)).shape == (size,)


def test_its_default_is_that_of_the_documentation() -> None:
    params = jax.eval_shape(unet((28, 28)).init, jax.random.key(0))["params"]
    kernels = {
        name: layer["kernel"].shape for name, layer in params.items() if name.startswith("Conv")
    }
    assert kernels == {
        "Conv_0": (3, 3, 1, 32),  # in
        "Conv_1": (3, 3, 32, 64),  # down
        "Conv_2": (3, 3, 64, 64),
        "Conv_3": (3, 3, 64, 64),  # up
        "Conv_4": (3, 3, 64, 64),
        "Conv_5": (3, 3, 32, 1),  # out
    }
    # One block a resolution down, two in the middle, two a resolution up.
    assert sum(name.startswith("ResidualBlock") for name in params) == 3 + 2 + 6
    assert params["Attention_0"]["Dense_0"]["kernel"].shape == (64, 192)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_patches_fold_squares_and_unfold_them(size: int) -> None:
    image = jnp.arange(6 * 12 * 2.0).reshape(6, 12, 2)
    patches = _to_patches(image, size)
    assert patches.shape == (6 // size, 12 // size, 2 * size**2)
    for row, column in itertools.product(range(6 // size), range(12 // size)):
        square = image[row * size : (row + 1) * size, column * size : (column + 1) * size]
        np.testing.assert_array_equal(patches[row, column], square.ravel())
    np.testing.assert_array_equal(_from_patches(patches, size), image)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_depends_on_what(name: str) -> None:
    """Every output sees every input and the time, at first by little; every parameter learns."""
    network = NETWORKS[name]()
    params = network.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (16,))
    # The example itself, each of its values changed, and another time.
    xs = jnp.concatenate([x[None], x + jnp.eye(16), x[None]])
    times = jnp.array([0.3] * 17 + [0.9])

    @jit_once
    def run(params):
        def loss(params):
            outputs = jax.vmap(network.apply, (None, 0, 0))(params, xs, times)
            return jnp.sum(outputs**2), outputs

        return jax.grad(loss, has_aux=True)(params)

    gradient, outputs = run(params)
    assert outputs.shape == (18, 16)
    assert (outputs[1:] != outputs[0]).all()
    assert np.abs(outputs).max() < 0.5
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.isfinite(leaf).all() and np.any(leaf != 0), path
    alone = jit_once(network.apply)(params, xs[3], times[3])
    np.testing.assert_allclose(outputs[3], alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: time_mlp(0), "num_dims must be at least 1, got 0"),
        (lambda: time_mlp(2, num_units=0), "num_units must be at least 1, got 0"),
        (lambda: time_mlp(2, num_blocks=0), "num_blocks must be at least 1, got 0"),
        (lambda: time_mlp(2, num_time_features=5), "num_features must be an even number >= 4"),
        (lambda: unet((4,)), r"image_shape must be .* got \(4,\)"),
        (lambda: unet((4, 0)), r"image_shape must be .* got \(4, 0\)"),
        (lambda: unet((4, 4), features=()), r"features must be channels >= 1.* got \(\)"),
        (lambda: unet((4, 4), features=(4, 0)), r"features must be channels >= 1.* got \(4, 0\)"),
        (lambda: unet((4, 4), num_blocks=0), "num_blocks must be at least 1, got 0"),
        (lambda: unet((4, 4), features=(4,) * 4), "features has 4 resolutions, more than"),
        (lambda: unet((4, 3), patch_size=2), "patch_size must divide height and width, 4 x 3"),
        (lambda: unet((4, 4), patch_size=0), "patch_size must divide .*got 0"),
    ],
)
def test_bad_sizes_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
