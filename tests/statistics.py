"""The one helper that stochastic tests go through."""

import functools
from typing import Any

import jax
import numpy as np

jit_once = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""`jax.jit` for what runs once: half the compile time, and many draws are fast enough."""


def standard_error(samples: np.ndarray) -> np.ndarray:
    """Standard error of the mean over the leading axis."""
    samples = np.asarray(samples, np.float64)
    return samples.std(axis=0, ddof=1) / np.sqrt(samples.shape[0])


def assert_mean(
    samples: Any,
    exact: Any,
    *,
    resolution: float = 0.02,
    scale: float | None = None,
    floor: float = 1e-9,
) -> None:
    """Fail unless the mean of `samples` is `exact`, within 5 standard errors of every number.

    A false alarm has probability 6e-7 for each number. Leaves of pytrees are compared one by one.

    Args:
        samples: independent draws, [N, ...].
        exact: what their mean must be, [...].
        resolution: the largest standard error allowed, as a fraction of `scale`: without it a
            test of noise passes. 5 * resolution is the relative bias that is surely found.
        scale: what an error is held against; the largest |exact| of the leaf unless given.
        floor: absolute tolerance, for rounding where there is no variance.
    """
    samples, exact = jax.tree.map(np.asarray, (samples, exact))
    structures = jax.tree.structure(samples), jax.tree.structure(exact)
    assert structures[0] == structures[1], f"structure {structures[0]}, not {structures[1]}"
    for (path, leaf), target in zip(
        jax.tree.leaves_with_path(samples), jax.tree.leaves(exact), strict=True
    ):
        _assert_leaf_mean(
            jax.tree_util.keystr(path),
            leaf,
            target,
            resolution=resolution,
            scale=scale,
            floor=floor,
        )


def _assert_leaf_mean(
    name: str,
    samples: np.ndarray,
    exact: np.ndarray,
    *,
    resolution: float,
    scale: float | None,
    floor: float,
) -> None:
    samples, exact = samples.astype(np.float64), exact.astype(np.float64)
    assert samples.shape[1:] == exact.shape, f"{name} shape {samples.shape[1:]}, not {exact.shape}"
    assert samples.shape[0] >= 100, f"{name} no power: {samples.shape[0]} samples"
    assert np.isfinite(samples).all() and np.isfinite(exact).all(), f"{name} not finite"
    error = standard_error(samples)
    scale = np.abs(exact).max(initial=0.0) if scale is None else scale
    assert (error <= max(resolution * scale, floor)).all(), (
        f"{name} no power: standard error {error.max():.2g} for numbers of size {scale:.2g}"
    )
    deviation = samples.mean(axis=0) - exact
    tolerance = np.maximum(5 * error, floor)
    assert (np.abs(deviation) < tolerance).all(), (
        f"{name} biased: the mean is off by {deviation}, more than 5 standard errors {tolerance}"
    )
