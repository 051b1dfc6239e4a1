"""The residual network: its equation, its layout, its start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate

from genjax_models.networks import residual_network
from tests.flow_oracles import random_params
from tests.statistics import jit_once


def convolve(image: np.ndarray, layer: dict) -> np.ndarray:
    """A 3x3 convolution with zeros around the image, [height, width, channels]."""
    kernel = np.asarray(layer["kernel"], np.float64)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    outputs = [
        correlate(padded, kernel[..., i], mode="valid")[..., 0] for i in range(kernel.shape[-1])
    ]
    return np.stack(outputs, axis=-1) + np.asarray(layer["bias"], np.float64)


def test_it_is_the_equation_and_the_layout() -> None:
    """Outputs are one block of all pixels and channels after the other."""
    network = residual_network((3, 4, 2), num_features=3, num_blocks=2, num_outputs_per_dim=2)
    params = random_params(network.init, scale=0.3)
    image = np.random.default_rng(0).normal(size=(3, 4, 2))
    outputs = jit_once(network.apply)(params, jnp.asarray(image.reshape(-1), jnp.float32))
    layers = params["params"]
    hidden = convolve(image, layers["Convolution_0"])
    for block in range(2):
        inner = convolve(np.maximum(hidden, 0), layers[f"Convolution_{2 * block + 1}"])
        hidden = hidden + convolve(np.maximum(inner, 0), layers[f"Convolution_{2 * block + 2}"])
    last = convolve(np.maximum(hidden, 0), layers["Convolution_5"])
    expected = np.concatenate([last[..., :2].reshape(-1), last[..., 2:].reshape(-1)])
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


def test_it_may_start_with_outputs_of_zero() -> None:
    for zero_last_layer in (True, False):
        network = residual_network(
            (2, 2, 1), num_features=2, num_blocks=0, zero_last_layer=zero_last_layer
        )
        outputs = network.apply(jit_once(network.init)(jax.random.key(0)), jnp.arange(4.0))
        assert outputs.shape == (4,)
        assert np.all(outputs == 0) == zero_last_layer


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_shape": (4, 4)}, "image_shape"),
        ({"image_shape": (4, 0, 1)}, "image_shape"),
        ({"num_features": 0}, "num_features"),
        ({"num_outputs_per_dim": 0}, "num_outputs_per_dim"),
        ({"num_blocks": -1}, "num_blocks"),
    ],
)
def test_settings_that_are_refused(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        residual_network(**({"image_shape": (2, 2, 1)} | changed))
