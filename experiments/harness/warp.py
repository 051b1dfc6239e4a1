"""The picture of a flow of the plane: what becomes of a grid and of noise, and the density."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.pictures import pyplot
from genjax_models.interfaces import Array

_EXTENT = 3.0
_NUM_LINES = 25
_POINTS_PER_LINE = 401
_NUM_CELLS = 300


def save_warp(
    path: Path,
    forward: Callable[[Array], Array],
    log_prob: Callable[[Array], Array],
    noise: np.ndarray,
    data: np.ndarray,
) -> None:
    """Noise on a grid, both after the flow, and its density beside the data.

    Points have the colour of the noise that they came from, by its angle.

    Args:
        path: the PNG file.
        forward: from noise z [2] to x [2].
        log_prob: log p(x), [] of [2].
        noise: standard normal, [N, 2].
        data: [N, 2]; the picture shows where they are.
    """
    forward = jax.jit(jax.vmap(forward))
    lines = _grid_lines()
    warped = np.asarray(forward(jnp.asarray(lines.reshape(-1, 2), jnp.float32)))
    samples = np.asarray(forward(jnp.asarray(noise, jnp.float32)))
    low, high = _frame(data)
    colours = np.arctan2(noise[:, 1], noise[:, 0])

    plt = pyplot()
    figure, all_axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    panels = (("noise", lines, noise), ("through the flow", warped.reshape(lines.shape), samples))
    for axes, (title, curves, points) in zip(all_axes, panels, strict=False):
        axes.plot(*curves.transpose(2, 1, 0), color="black", linewidth=0.4, alpha=0.6)
        axes.scatter(*points.T, c=colours, s=4, cmap="hsv", linewidths=0)
        axes.set_title(title)
    all_axes[0].set(xlim=(-_EXTENT, _EXTENT), ylim=(-_EXTENT, _EXTENT))
    axes = all_axes[2]
    axes.imshow(
        _density(log_prob, low, high),
        extent=(low[0], high[0], low[1], high[1]),
        origin="lower",
        cmap="magma",
    )
    axes.scatter(*data.T, s=1, color="white", alpha=0.3, linewidths=0)
    axes.set_title("density, and data")
    for axes in all_axes[1:]:
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    for axes in all_axes:
        axes.set_aspect("equal")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _grid_lines() -> np.ndarray:
    """Vertical, then horizontal lines, [2 * _NUM_LINES, _POINTS_PER_LINE, 2]."""
    positions = np.linspace(-_EXTENT, _EXTENT, _NUM_LINES)
    along = np.linspace(-_EXTENT, _EXTENT, _POINTS_PER_LINE)
    vertical = np.stack(np.meshgrid(positions, along, indexing="ij"), axis=-1)
    return np.concatenate([vertical, vertical[..., ::-1]])


def _frame(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lower left and the upper right corner of a rectangle around the data."""
    low, high = data.min(axis=0), data.max(axis=0)
    margin = 0.15 * (high - low).max()
    return low - margin, high + margin


def _density(log_prob: Callable[[Array], Array], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """p(x) on a grid, [second dimension, first dimension]."""
    first, second = (
        low[i] + (high[i] - low[i]) * (np.arange(_NUM_CELLS) + 0.5) / _NUM_CELLS for i in (0, 1)
    )
    points = np.stack(np.meshgrid(first, second), axis=-1).reshape(-1, 2)
    values = jax.jit(jax.vmap(log_prob))(jnp.asarray(points, jnp.float32))
    return np.exp(np.asarray(values)).reshape(_NUM_CELLS, _NUM_CELLS)
