"""A matrix product for which `vmap` adds rows, not axes."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from genjax_models.interfaces import Array

# vmap over examples and over K samples turns `x @ kernel` into a product of a three-dimensional
# array, and the gradient of the kernel into a contraction over two axes, for which XLA's CPU
# compiler transposes a copy of all activations (15 % of a step with K = 50, docs/decisions.md).
# The axes that vmap adds are merged into the rows instead, here and in every derivative.
_rows_times_kernel = Primitive("rows_times_kernel")


def rows_dot_general(rows: Array, kernel: Array, *_: Any, **__: Any) -> Array:
    """[..., num_inputs] times [num_inputs, num_outputs], as `dot_general` of a `linen.Dense`."""
    flat = _rows_times_kernel.bind(rows.reshape(-1, rows.shape[-1]), kernel)
    return flat.reshape(*rows.shape[:-1], kernel.shape[1])


def _matmul(rows: Array, kernel: Array) -> Array:
    return rows @ kernel


def _abstract(rows: Any, kernel: Any) -> Any:
    dtype = jnp.result_type(rows, kernel)
    return jax.core.ShapedArray((rows.shape[0], kernel.shape[1]), dtype)


def _batch(arguments: tuple[Array, Array], axes: tuple[Any, Any]) -> tuple[Array, int]:
    (rows, kernel), (rows_axis, kernel_axis) = arguments, axes
    if kernel_axis is not None:
        return jax.vmap(_matmul, in_axes=axes)(rows, kernel), 0
    return rows_dot_general(jnp.moveaxis(rows, rows_axis, 0), kernel), 0


_rows_times_kernel.def_impl(jax.jit(_matmul))
_rows_times_kernel.def_abstract_eval(_abstract)
mlir.register_lowering(_rows_times_kernel, mlir.lower_fun(_matmul, multiple_results=False))
batching.primitive_batchers[_rows_times_kernel] = _batch
ad.defbilinear(
    _rows_times_kernel,
    lambda cotangent, rows, kernel: _rows_times_kernel.bind(cotangent, kernel.T),
    lambda cotangent, rows, kernel: rows.T @ cotangent,
)
