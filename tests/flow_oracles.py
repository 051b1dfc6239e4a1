"""What holds for every bijection and every density of the plane, as checks that a mutant fails."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.statistics import jit_once

EPS = float(np.finfo(np.float32).eps)


def random_params(init: Callable, *, scale: float = 0.5, seed: int = 0) -> Any:
    """Parameters of the shapes that `init` gives, all random: none is zero or symmetric."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(
        lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype), shapes
    )


def assert_bijection(bijector: Any, z: Any, *, num_layers: int = 1) -> None:
    """Fail unless inverse and log-determinants are those of `forward`, at vectors z [N, num_dims].

    The log-determinants of both directions are held against `slogdet` of the Jacobian of
    `jacfwd`, a sum of D logarithms that is right to the D roundings of an elimination.

    The round trips are right to the rounding of each layer, which is relative to the largest
    number there and is then stretched by the layers that follow: by no more than the condition
    number of the whole Jacobian where the layers are alike.
    """
    z = jnp.asarray(z, jnp.float32)

    @jit_once
    @jax.vmap
    def everything(z):
        x, log_det = bijector.forward_and_log_det(z)
        back, inverse_log_det = bijector.inverse_and_log_det(x)
        jacobian = jax.jacfwd(bijector.forward)(z)
        inverse_jacobian = jax.jacfwd(bijector.inverse)(x)
        return x, log_det, back, inverse_log_det, jacobian, inverse_jacobian

    x, log_det, back, inverse_log_det, jacobian, inverse_jacobian = map(np.asarray, everything(z))
    jacobian, inverse_jacobian = np.float64(jacobian), np.float64(inverse_jacobian)
    condition = np.linalg.norm(jacobian, 2, (1, 2)) * np.linalg.norm(inverse_jacobian, 2, (1, 2))
    largest = np.maximum(np.abs(x).max(1), np.abs(z).max(1)) + 1
    tolerance = 4 * EPS * num_layers * condition * largest
    assert (tolerance < 1e-2).all(), f"no power: tolerance {tolerance.max():.2g}"
    distance = np.abs(back - z).max(1)
    assert (distance <= tolerance).all(), f"round trip: {distance} beyond {tolerance}"
    for name, ours, matrix in (
        ("forward", log_det, jacobian),
        ("inverse", inverse_log_det, inverse_jacobian),
    ):
        assert ours.shape == (len(z),), f"{name} log-determinant has shape {ours.shape}"
        sign, exact = np.linalg.slogdet(matrix)
        assert (sign != 0).all(), f"{name}: the Jacobian is singular"
        error = np.abs(ours - exact)
        allowed = 20 * EPS * (num_layers * z.shape[1] + condition)
        assert (error <= allowed).all(), f"{name} log-determinant: {error} beyond {allowed}"


def plane(low: Any, high: Any, num_cells: int) -> tuple[jax.Array, float]:
    """Midpoints [num_cells^2, 2] of the cells of a rectangle, and the area of a cell."""
    low, high = np.broadcast_to(low, 2), np.broadcast_to(high, 2)
    edges = [
        a + (b - a) * (np.arange(num_cells) + 0.5) / num_cells
        for a, b in zip(low, high, strict=True)
    ]
    points = np.stack(np.meshgrid(*edges, indexing="ij"), axis=-1).reshape(-1, 2)
    return jnp.asarray(points, jnp.float32), float(np.prod((high - low) / num_cells))


def masses(log_prob: Callable, points: jax.Array, area: float) -> np.ndarray:
    """Probability of each cell by the midpoint rule, [num_cells^2], in float64."""
    values = jit_once(jax.vmap(log_prob))(points)
    return np.exp(np.asarray(values, np.float64)) * area
