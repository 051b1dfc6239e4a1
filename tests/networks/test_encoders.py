"""The recurrent and the attention encoder against numpy, what permutes them, and their errors."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.learning import variational
from genjax_models.models.latent import parts, vae
from genjax_models.networks import attention_encoder, recurrent_encoder
from genjax_models.networks.attention import to_patches
from tests.statistics import jit_once

X = np.random.default_rng(0).normal(size=24).astype(np.float32)


def perturbed(network, seed: int = 0) -> Any:
    """Parameters in float64 in which nothing is zero."""
    rng = np.random.default_rng(seed)
    params = jit_once(network.init)(jax.random.key(seed))["params"]
    return jax.tree.map(lambda leaf: np.asarray(leaf + 0.3 * rng.normal(size=leaf.shape)), params)


def apply(network, params: Any, x: np.ndarray) -> np.ndarray:
    single = jax.tree.map(jnp.float32, {"params": params})
    return np.asarray(jit_once(network.apply)(single, jnp.float32(x)))


def dense(x: np.ndarray, layer: dict) -> np.ndarray:
    return x @ layer["kernel"] + layer.get("bias", 0.0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


# --- recurrent


def gru(params: Any, rows: np.ndarray) -> np.ndarray:
    """The equations of the docstring, one row after the other."""
    cell, state = params["GRUCell_0"], np.zeros(5)
    for row in rows:
        reset = sigmoid(dense(row, cell["ir"]) + dense(state, cell["hr"]))
        update = sigmoid(dense(row, cell["iz"]) + dense(state, cell["hz"]))
        new = np.tanh(dense(row, cell["in"]) + reset * dense(state, cell["hn"]))
        state = (1 - update) * new + update * state
    return dense(state, params["Dense_0"])


@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 2), (8, 3)])
def test_the_recurrent_encoder_is_its_recurrence(shape: tuple[int, ...]) -> None:
    network = recurrent_encoder(shape, 3, num_units=5)
    params = perturbed(network)
    rows = X.astype(np.float64).reshape(shape[0], -1)
    found = apply(network, params, X)
    np.testing.assert_allclose(found, gru(params, rows), rtol=1e-4, atol=1e-5)
    # The order of the steps matters, and the oracle would tell.
    assert np.abs(found - gru(params, rows[::-1])).max() > 1e-2


# --- attention


def norm(x: np.ndarray, layer: dict) -> np.ndarray:
    scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return scaled * layer["scale"] + layer["bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def attention(tokens: np.ndarray, layer: dict) -> np.ndarray:
    """softmax(Q K' / sqrt(d)) V of each head, one query at a time."""
    num_heads, head_size = layer["query"]["kernel"].shape[1:]
    outputs = np.zeros((len(tokens), layer["out"]["kernel"].shape[-1]))
    for head in range(num_heads):
        query, key, value = (
            tokens @ layer[n]["kernel"][:, head] for n in ("query", "key", "value")
        )
        for index in range(len(tokens)):
            scores = np.exp(key @ query[index] / np.sqrt(head_size))
            outputs[index] += (scores / scores.sum()) @ value @ layer["out"]["kernel"][head]
    return outputs


def transformer(params: Any, patches: np.ndarray) -> np.ndarray:
    tokens = dense(patches, params["Dense_0"]) + params.get("positions", 0.0)
    blocks = params["ScanAttentionBlock_0"]
    for index in range(2):
        block = jax.tree.map(lambda leaf, index=index: leaf[index], blocks)
        mixed = attention(
            norm(tokens, block["LayerNorm_0"]), block["MultiHeadDotProductAttention_0"]
        )
        tokens = tokens + mixed
        hidden = gelu(dense(norm(tokens, block["LayerNorm_1"]), block["Dense_0"]))
        tokens = tokens + dense(hidden, block["Dense_1"])
    return dense(norm(tokens, params["LayerNorm_0"]).mean(axis=0), params["Dense_1"])


@pytest.mark.parametrize(
    ("shape", "patch"), [((4, 6), None), ((4, 6), (2, 3)), ((4, 3, 2), (2, 1))]
)
def test_the_attention_encoder_is_its_formula(shape, patch) -> None:
    network = attention_encoder(shape, 3, patch_shape=patch, num_features=6, num_heads=2)
    params = perturbed(network)
    height, width = patch or (1, shape[1])
    image = X.astype(np.float64).reshape(*shape[:2], -1)
    patches = np.stack(
        [
            image[top : top + height, left : left + width].ravel()
            for top in range(0, shape[0], height)
            for left in range(0, shape[1], width)
        ]
    )
    exact = transformer(params, patches)
    found = apply(network, params, X)
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-4)
    # Other patches in the same order are something else.
    assert np.abs(found - transformer(params, patches[::-1])).max() > 1e-2


def test_patches_are_rows_by_default() -> None:
    image = jnp.arange(24.0).reshape(4, 3, 2)
    np.testing.assert_array_equal(to_patches(image, (1, 3)), image.reshape(4, 6))


@pytest.mark.parametrize("positions", [False, True])
def test_without_positions_the_order_of_the_rows_does_not_matter(positions: bool) -> None:
    network = attention_encoder((4, 6), 3, num_features=4, num_heads=2, positions=positions)
    params = perturbed(network)
    x = X.reshape(4, 6)
    difference = apply(network, params, X) - apply(network, params, x[[2, 0, 3, 1]].ravel())
    assert (np.abs(difference).max() < 1e-5) != positions


# --- both


ENCODERS = {
    "recurrent": functools.partial(recurrent_encoder, (4, 6), num_units=5),
    "attention": functools.partial(attention_encoder, (4, 6), num_features=4, num_heads=2),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_they_encode_for_a_variational_auto_encoder(name: str) -> None:
    """As a `NetworkFactory`; every parameter learns."""
    factory: parts.NetworkFactory = ENCODERS[name]
    model = vae(num_dims=24, latent_dim=2, hidden=(3,), likelihood="gaussian", encoder=factory(4))

    @jit_once
    def gradient(key):
        init_key, key = jax.random.split(key)
        params = model.init(init_key)
        return jax.grad(variational(model), has_aux=True)(params, key, jnp.asarray(X))[0]

    for path, leaf in jax.tree.leaves_with_path(gradient(jax.random.key(0))):
        assert np.isfinite(leaf).all() and np.any(leaf != 0), path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: recurrent_encoder((8,), 2), r"example_shape must be \(num_steps, .*got \(8,\)"),
        (lambda: recurrent_encoder((0, 8), 2), r"example_shape must be .*got \(0, 8\)"),
        (lambda: recurrent_encoder((8, 8), 0), "num_outputs must be at least 1, got 0"),
        (lambda: recurrent_encoder((8, 8), 2, num_units=0), "num_units must be at least 1, got 0"),
        (lambda: attention_encoder((8,), 2), r"example_shape must be \(height.*got \(8,\)"),
        (lambda: attention_encoder((8, 8), 0), "num_outputs must be at least 1, got 0"),
        (lambda: attention_encoder((8, 8), 2, num_blocks=0), "num_blocks must be at least 1"),
        (
            lambda: attention_encoder((8, 8), 2, num_features=6),
            "num_heads must divide num_features, 6, got 4",
        ),
        (
            lambda: attention_encoder((8, 6), 2, patch_shape=(2, 4)),
            r"patch_shape must be .* divide 8 x 6, got \(2, 4\)",
        ),
        (lambda: attention_encoder((8, 8), 2, patch_shape=(2,)), r"patch_shape must .*got \(2,\)"),
    ],
)
def test_bad_sizes_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
