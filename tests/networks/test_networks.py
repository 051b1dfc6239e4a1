"""The networks against formulas written out, and the layout of images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from genjax_models.networks import (
    convolutional_decoder,
    convolutional_encoder,
    from_flax,
    mlp,
)

SHAPES = [(8, 8), (28, 28), (7, 5, 3), (1, 1), (3, 1, 2)]


def with_channels(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if len(shape) == 3 else (*shape, 1)


def test_mlp_is_affine_maps_and_tanh() -> None:
    network = mlp(5, (4, 3), 2)
    layers = network.init(jax.random.key(0))["params"]
    layers = jax.tree.map(lambda leaf: leaf + 0.1, layers)
    x = hidden = np.linspace(-1, 1, 5, dtype=np.float32)
    for index in range(3):
        layer = layers[f"Dense_{index}"]
        hidden = hidden @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        hidden = np.tanh(hidden) if index < 2 else hidden
    np.testing.assert_allclose(network.apply({"params": layers}, x), hidden, rtol=1e-5)


def test_mlp_starts_glorot_uniform_with_zero_biases() -> None:
    layer = mlp(300, (), 200).init(jax.random.key(0))["params"]["Dense_0"]
    limit = np.sqrt(6 / 500)
    assert not layer["bias"].any()
    assert 0.99 * limit < np.abs(layer["kernel"]).max() <= limit
    np.testing.assert_allclose(layer["kernel"].std(), limit / np.sqrt(3), rtol=0.01)


def test_another_activation() -> None:
    network = mlp(3, (4,), 2, activation=jnp.abs)
    params = network.init(jax.random.key(0))
    x = jnp.array([1.0, -2.0, 0.5])
    # Without biases the absolute value is even in x, as tanh is not.
    np.testing.assert_allclose(network.apply(params, x), network.apply(params, -x), rtol=1e-6)


def test_from_flax_takes_any_module() -> None:
    network = from_flax(linen.Sequential([linen.Dense(4), linen.relu, linen.LayerNorm()]), (3,))
    params = network.init(jax.random.key(0))
    assert network.apply(params, jnp.ones(3)).shape == (4,)


@pytest.mark.parametrize("shape", SHAPES)
def test_convolutional_pair_maps_images_of_any_shape(shape: tuple[int, ...]) -> None:
    size = int(np.prod(shape))
    encoder = convolutional_encoder(shape, 6)
    decoder = convolutional_decoder(3, shape, num_outputs_per_dim=2)

    def outputs(key):
        first, second = jax.random.split(key)
        code = encoder.apply(encoder.init(first), jnp.ones(size))
        return code, decoder.apply(decoder.init(second), jnp.ones(3))

    code, image = jax.eval_shape(outputs, jax.random.key(0))
    assert code.shape == (6,)
    assert image.shape == (2 * size,)


def test_decoder_gives_one_block_of_pixels_after_the_other() -> None:
    """With a last layer that is its bias alone, every pixel shows its channel's bias."""
    decoder = convolutional_decoder(3, (7, 5, 3), num_outputs_per_dim=2, features=(4, 2))
    params = jax.tree.map(jnp.zeros_like, decoder.init(jax.random.key(0)))
    params["params"]["ConvTranspose_1"]["bias"] = jnp.arange(6.0)
    blocks = jax.jit(decoder.apply)(params, jnp.ones(3)).reshape(2, 7, 5, 3)
    np.testing.assert_array_equal(
        blocks, np.broadcast_to(np.arange(6.0).reshape(2, 1, 1, 3), blocks.shape)
    )


def test_decoder_lays_pixels_out_as_the_image() -> None:
    """The cell in row r and column c of the first layer paints pixels around (2r, 2c) only."""
    decoder = convolutional_decoder(1, (7, 5), features=(1,))
    params = jax.tree.map(jnp.ones_like, decoder.init(jax.random.key(0)))
    params["params"]["ConvTranspose_0"]["bias"] = jnp.zeros(1)
    apply = jax.jit(decoder.apply)
    for row, column in ((0, 0), (3, 0), (0, 2), (2, 1)):
        # The dense layer has 4 rows and 3 columns of cells.
        cell = jnp.zeros((4, 3)).at[row, column].set(1.0)
        params["params"]["Dense_0"] = {"kernel": cell.reshape(1, 12), "bias": jnp.zeros(12)}
        painted = np.argwhere(apply(params, jnp.ones(1)).reshape(7, 5))
        assert len(painted)
        assert (np.abs(painted - [2 * row, 2 * column]) <= 2).all()


def test_encoder_reads_pixels_in_the_layout_of_the_image() -> None:
    """Each cell of the first layer sees only the pixels around it, in all channels."""
    encoder = convolutional_encoder((7, 5, 3), 4 * 3, features=(1,))
    params = jax.tree.map(jnp.ones_like, encoder.init(jax.random.key(0)))
    params["params"]["Dense_0"] = {"kernel": jnp.eye(12), "bias": jnp.zeros(12)}
    jacobian = jax.jit(jax.jacobian(encoder.apply, 1))(params, jnp.ones(105))
    jacobian = np.asarray(jacobian).reshape(4, 3, 7, 5, 3)
    for row, column in np.ndindex(4, 3):
        pixels = np.argwhere(jacobian[row, column].all(axis=-1))
        np.testing.assert_array_equal(pixels, np.argwhere(jacobian[row, column].any(axis=-1)))
        assert len(pixels)
        assert (np.abs(pixels - [2 * row, 2 * column]) <= 1).all()


@pytest.mark.parametrize("shape", [(8,), (2, 2, 2, 2), ()])
def test_shapes_that_are_no_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="image_shape must be"):
        convolutional_encoder(shape, 4)
    with pytest.raises(ValueError, match="image_shape must be"):
        convolutional_decoder(4, shape)


def test_a_decoder_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="features"):
        convolutional_decoder(4, (8, 8), features=())


def test_a_batch_is_refused_by_name() -> None:
    """Dense layers would take it, as one example with more axes."""
    network = mlp(3, (4,), 2)
    params = network.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"one example of shape \(3,\), got \(5, 3\): vmap"):
        network.apply(params, jnp.zeros((5, 3)))
