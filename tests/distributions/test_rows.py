"""The matrix product with its own batching rule against the one of jax, in every transformation."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.distributions.rows import rows_dot_general


def product(rows: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.sin(rows_dot_general(rows, kernel))


def exact_product(rows: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.sin(rows @ kernel)


def gradient(argument: int, function: Callable) -> Callable:
    return jax.grad(lambda *arguments: jnp.sum(function(*arguments) ** 2), argument)


def tangents(function: Callable) -> Callable:
    return lambda rows, kernel: jax.jvp(function, (rows, kernel), (jnp.cos(rows), kernel**2))


# Each takes rows [4, 5, 3] and kernels [5, 3, 2] of which it uses what it needs.
TRANSFORMATIONS = {
    "vector": lambda f, rows, kernels: f(rows[0, 0], kernels[0]),
    "matrix": lambda f, rows, kernels: f(rows[0], kernels[0]),
    "more axes": lambda f, rows, kernels: f(rows, kernels[0]),
    "vmap": lambda f, rows, kernels: jax.vmap(f, (0, None))(rows[0], kernels[0]),
    "vmap of axis 1": lambda f, rows, kernels: jax.vmap(f, (1, None))(rows, kernels[0]),
    "vmap to axis 1": lambda f, rows, kernels: jax.vmap(f, (0, None), 1)(rows, kernels[0]),
    "vmap twice": lambda f, rows, kernels: jax.vmap(jax.vmap(f, (0, None)), (1, None))(
        rows, kernels[0]
    ),
    "vmap of kernels": lambda f, rows, kernels: jax.vmap(f, (None, 0))(rows[0], kernels),
    "vmap of both": lambda f, rows, kernels: jax.vmap(f)(rows[0], kernels),
    "vmap of both in turn": lambda f, rows, kernels: jax.vmap(jax.vmap(f, (0, None)), (None, 0))(
        rows[0], kernels
    ),
    "ensemble of batches": lambda f, rows, kernels: jax.vmap(jax.vmap(f, (0, None)), (1, 0))(
        rows, kernels
    ),
    "jvp": lambda f, rows, kernels: tangents(f)(rows[0], kernels[0]),
    "jvp of vmap": lambda f, rows, kernels: tangents(jax.vmap(f, (0, None)))(rows, kernels[0]),
    "vmap of jvp": lambda f, rows, kernels: jax.vmap(tangents(f), (0, None))(rows, kernels[0]),
    "gradient of rows": lambda f, rows, kernels: gradient(0, f)(rows[0], kernels[0]),
    "gradient of kernel": lambda f, rows, kernels: gradient(1, f)(rows[0], kernels[0]),
    "gradient of vmap": lambda f, rows, kernels: gradient(
        1, jax.vmap(jax.vmap(f, (0, None)), (0, None))
    )(rows, kernels[0]),
    "vmap of gradient": lambda f, rows, kernels: jax.vmap(gradient(1, f), (0, None))(
        rows, kernels[0]
    ),
    "vmap of gradient of kernels": lambda f, rows, kernels: jax.vmap(gradient(1, f), (None, 0))(
        rows[0], kernels
    ),
    "hessian": lambda f, rows, kernels: jax.hessian(
        lambda kernel: jnp.sum(jax.vmap(f, (0, None))(rows[0], kernel))
    )(kernels[0]),
    "checkpoint": lambda f, rows, kernels: gradient(1, jax.checkpoint(f))(rows, kernels[0]),
    "scan": lambda f, rows, kernels: gradient(
        1, lambda rows, kernel: jax.lax.map(lambda row: f(row, kernel), rows)
    )(rows[0], kernels[0]),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_every_transformation_gives_what_the_plain_product_gives(name: str) -> None:
    rng = np.random.default_rng(0)
    rows, kernels = (
        jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((4, 5, 3), (5, 3, 2))
    )
    ours, exact = (
        jax.jit(TRANSFORMATIONS[name], static_argnums=0)(function, rows, kernels)
        for function in (product, exact_product)
    )
    for first, second in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_dtypes_are_those_of_the_plain_product(dtype) -> None:
    with jax.enable_x64(True):
        rows, kernel = jnp.ones((2, 3), dtype), jnp.ones((3, 4), dtype)
        for function in (rows_dot_general, gradient(0, product), gradient(1, product)):
            assert jax.eval_shape(function, rows, kernel).dtype == dtype


def test_a_batch_becomes_rows_of_one_product() -> None:
    """What the rule is for: two axes of vmap, and still products of matrices, back and forth."""
    rows, kernel = jnp.ones((4, 5, 3)), jnp.ones((3, 2))
    batched = jax.vmap(jax.vmap(product, (0, None)), (0, None))
    text = jax.jit(gradient(1, batched)).lower(rows, kernel).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) == 2
    assert all("20x" in line and "batching_dims" not in line for line in products)


def test_the_device_of_the_result_is_that_of_its_inputs() -> None:
    """Eagerly too."""
    rows = jnp.ones((2, 3))
    assert rows_dot_general(rows, jnp.ones((3, 1))).devices() == rows.devices()
