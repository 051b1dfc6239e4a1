"""The pictures of a run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_NUM_COLUMNS = 10


def save_grid(
    path: Path, examples: np.ndarray, example_shape: Sequence[int], *, num_columns: int
) -> None:
    """A grid of examples as one picture, black on white.

    Args:
        path: the PNG file.
        examples: [N, num_dims], values in [0, 1]; others are scaled to it over the whole grid.
        example_shape: (height, width), (height, width, 1 or 3), or (num_dims,), drawn as one row
            of pixels.
        num_columns: examples in a row.
    """
    plt = pyplot()
    tiles = as_tiles(np.asarray(examples, np.float32), tuple(example_shape))
    num_rows = -(-len(tiles) // num_columns)
    height, width, channels = tiles.shape[1:]
    sheet = np.zeros((num_rows * (height + 1) + 1, num_columns * (width + 1) + 1, channels))
    for index, tile in enumerate(tiles):
        row, column = divmod(index, num_columns)
        top, left = row * (height + 1) + 1, column * (width + 1) + 1
        sheet[top : top + height, left : left + width] = tile
    figure = plt.figure(figsize=(6, 6 * sheet.shape[0] / sheet.shape[1]))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.imshow(sheet.squeeze(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def save_reconstructions(
    path: Path, originals: np.ndarray, reconstructions: np.ndarray, example_shape: Sequence[int]
) -> None:
    """Rows of originals, each above the row of their reconstructions."""
    num_columns = min(_NUM_COLUMNS, len(originals))
    num_rows = len(originals) // num_columns
    pairs = np.stack([originals, reconstructions])[:, : num_rows * num_columns]
    rows = pairs.reshape(2, num_rows, num_columns, -1).swapaxes(0, 1)
    save_grid(path, rows.reshape(-1, pairs.shape[-1]), example_shape, num_columns=num_columns)


def save_curves(
    path: Path,
    records: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    *,
    ylabel: str = "nats per example",
) -> None:
    """Learning curves.

    Args:
        path: the PNG file.
        records: of the run, each with "step".
        names: the metrics to draw, and what to call each.
        ylabel: what they are.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    draw_curves(axes, records, names, ylabel=ylabel)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_curves(
    axes: Any, records: Sequence[Mapping[str, Any]], names: Mapping[str, str], *, ylabel: str
) -> None:
    """The same on axes that are there.

    Args:
        axes: of matplotlib.
        records: of the run, each with "step".
        names: the metrics to draw, and what to call each.
        ylabel: what they are.
    """
    drawn: list[float] = []
    for name, label in names.items():
        points = [(record["step"], record[name]) for record in records if name in record]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, linewidth=1)
            drawn.extend(value for _, value in points[len(points) // 20 :])
    if drawn:
        # The first steps are far below all others and would flatten the rest of the curve.
        margin = 0.05 * (max(drawn) - min(drawn)) or 1.0
        axes.set_ylim(min(drawn) - margin, max(drawn) + margin)
    axes.set_xlabel("step")
    axes.set_ylabel(ylabel)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)


def save_points(path: Path, sets: Mapping[str, np.ndarray]) -> None:
    """Sets of points [N, 2] of the plane side by side, on common axes.

    Args:
        path: the PNG file.
        sets: the points by what to call them.
    """
    plt = pyplot()
    figure, all_axes = plt.subplots(
        1,
        len(sets),
        figsize=(3.5 * len(sets), 3.5),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axes, (name, points) in zip(all_axes[0], sets.items(), strict=True):
        axes.scatter(*np.asarray(points).T, s=3, alpha=0.5, linewidths=0, color="black")
        axes.set_title(name)
        axes.set_aspect("equal")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def save_manifold(
    path: Path,
    decode: Callable[[np.ndarray], np.ndarray],
    example_shape: Sequence[int],
    *,
    size: int = 20,
) -> None:
    """The decoder's means over a grid of the quantiles of a two-dimensional standard normal prior.

    Args:
        path: the PNG file.
        decode: from z [N, 2] to E[x | z] [N, num_dims].
        example_shape: of one example.
        size: points along each side.
    """
    from jax.scipy.stats import norm

    quantiles = np.asarray(norm.ppf((np.arange(size) + 0.5) / size))
    # Rows run from the top down, so that the second coordinate grows upwards.
    second, first = np.meshgrid(quantiles[::-1], quantiles, indexing="ij")
    z = np.stack([first.ravel(), second.ravel()], axis=-1).astype(np.float32)
    save_grid(path, decode(z), example_shape, num_columns=size)


def save_embedding(path: Path, means: np.ndarray, labels: np.ndarray | None) -> None:
    """Posterior means [N, 2] as points, coloured by label where there are labels."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
    if labels is None:
        axes.scatter(*means.T, s=8)
    else:
        classes = np.unique(labels)
        colours = plt.get_cmap("tab10" if len(classes) <= 10 else "turbo", len(classes))
        for index, label in enumerate(classes):
            axes.scatter(*means[labels == label].T, s=8, color=colours(index), label=str(label))
        axes.legend(frameon=False, markerscale=2, bbox_to_anchor=(1, 1), loc="upper left")
    axes.set_xlabel("first latent dimension")
    axes.set_ylabel("second latent dimension")
    axes.set_aspect("equal")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def as_tiles(examples: np.ndarray, example_shape: tuple[int, ...]) -> np.ndarray:
    """Examples as [N, height, width, channels] in [0, 1]."""
    low, high = min(examples.min(), 0.0), max(examples.max(), 1.0)
    is_image = len(example_shape) in (2, 3) and example_shape[2:] in ((), (1,), (3,))
    if not is_image:
        example_shape = (1, examples.shape[1])
    height, width, *channels = example_shape
    shape = (len(examples), height, width, channels[0] if channels else 1)
    return ((examples - low) / (high - low)).reshape(shape)


def pyplot() -> Any:
    """matplotlib.pyplot, drawing to files."""
    import matplotlib

    matplotlib.use("Agg")  # Pictures go to files; there may be no screen.
    import matplotlib.pyplot as plt

    return plt
