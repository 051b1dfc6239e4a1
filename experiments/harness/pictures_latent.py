"""Pictures of what a latent space is used for."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.harness.pictures import as_tiles, pyplot, save_grid


def save_scores(
    path: Path, xs: Sequence[float], scores: Mapping[str, np.ndarray], *, xlabel: str
) -> None:
    """Scores over a setting: the mean over runs as a line, every run as a point.

    Args:
        path: the PNG file.
        xs: values of the setting, positive, drawn on a logarithmic axis.
        scores: [len(xs), num_runs] for each name.
        xlabel: the setting's name.
    """
    plt = pyplot()
    figure, all_axes = plt.subplots(
        1, len(scores), figsize=(2.6 * len(scores), 3), layout="constrained", squeeze=False
    )
    for axes, (name, values) in zip(all_axes[0], scores.items(), strict=True):
        axes.plot(xs, np.mean(values, axis=1), color="black", linewidth=1)
        for run in np.asarray(values).T:
            axes.plot(xs, run, ".", color="black", alpha=0.4, markersize=5)
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(xs), [f"{x:g}" for x in xs])
        axes.set_title(name)
        axes.set_xlabel(xlabel)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def save_rows(path: Path, rows: np.ndarray, example_shape: Sequence[int]) -> None:
    """Rows of examples [num_rows, num_columns, num_dims] as one picture."""
    flat = np.asarray(rows).reshape(-1, rows.shape[-1])
    save_grid(path, flat, example_shape, num_columns=rows.shape[1])


def save_embeddings(
    path: Path, embeddings: Mapping[str, np.ndarray], labels: np.ndarray | None
) -> None:
    """Points of two or three dimensions [N, 2 or 3] side by side, coloured by label.

    Args:
        path: the PNG file.
        embeddings: the points by what to call them.
        labels: [N], or None.
    """
    plt = pyplot()
    figure = plt.figure(figsize=(4.5 * len(embeddings) + 0.8, 4.3), layout="constrained")
    classes = [None] if labels is None else list(np.unique(labels))
    colours = plt.get_cmap("tab10" if len(classes) <= 10 else "turbo", len(classes))
    for column, (name, points) in enumerate(embeddings.items()):
        in_space = points.shape[1] == 3
        axes = figure.add_subplot(
            1, len(embeddings), column + 1, projection="3d" if in_space else None
        )
        for index, label in enumerate(classes):
            chosen = points if label is None else points[labels == label]
            axes.scatter(*chosen.T, s=8, color=colours(index), label=str(label))
        axes.set_title(name)
        if not in_space:
            axes.set_aspect("equal", adjustable="datalim")
    if labels is not None:
        handles, names = axes.get_legend_handles_labels()
        figure.legend(handles, names, frameon=False, markerscale=2, loc="outside right center")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def save_labelled_rows(
    path: Path, rows: Mapping[str, np.ndarray], example_shape: Sequence[int]
) -> None:
    """Rows of examples, each with its name to the left.

    Args:
        path: the PNG file.
        rows: [num_columns, num_dims] for each name, values in [0, 1].
        example_shape: of one example.
    """
    plt = pyplot()
    num_columns = len(next(iter(rows.values())))
    figure, all_axes = plt.subplots(
        len(rows), 1, figsize=(0.75 * num_columns + 2.2, 0.78 * len(rows)), layout="constrained"
    )
    for axes, (name, examples) in zip(np.atleast_1d(all_axes), rows.items(), strict=True):
        tiles = as_tiles(np.clip(np.asarray(examples, np.float32), 0, 1), tuple(example_shape))
        tiles = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 0)))
        axes.imshow(np.concatenate(list(tiles), axis=1), cmap="gray_r", vmin=0, vmax=1)
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.set_xticks([])
        axes.set_yticks([])
    # Names may be longer than the margin that the layout leaves.
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)
