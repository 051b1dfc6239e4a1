"""The laboratory's pictures."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_COLOURS = ("#b23a48", "#e08e45", "#d4b483", "#2a6f97", "#3c896d")


def variance_against_k(
    path: Path,
    ks: np.ndarray,
    curves: Mapping[str, Mapping[str, np.ndarray]],
    points: Sequence[Mapping[str, Any]],
) -> None:
    """Exact lines and measured points: a row of axes a parameter, a column a cost."""
    plt = _pyplot()
    parameters = ("mean", "scale")
    figure, axes = plt.subplots(
        2, len(curves), figsize=(11, 6), sharex=True, layout="constrained", squeeze=False
    )
    for column, (cost, lines) in enumerate(curves.items()):
        for row, parameter in enumerate(parameters):
            panel = axes[row, column]
            for (name, values), colour in zip(lines.items(), _COLOURS, strict=True):
                panel.plot(ks, np.maximum(values[:, row], 1e-12), color=colour, label=name)
                here = [
                    p
                    for p in points
                    if (p["cost"], p["derivative in"], p["estimator"]) == (cost, parameter, name)
                ]
                panel.errorbar(
                    [p["k"] for p in here],
                    [p["measured"] for p in here],
                    [2 * p["standard error"] for p in here],
                    fmt="o",
                    markersize=3,
                    color=colour,
                )
            panel.set_yscale("log")
            panel.set_ylim(bottom=1e-3)
            panel.set_title(f"{cost}: derivative in the {parameter}", fontsize=9)
    for panel in axes[-1]:
        panel.set_xlabel("k")
    axes[0, 0].set_ylabel("variance of one sample")
    axes[1, 0].set_ylabel("variance of one sample")
    axes[0, 0].legend(fontsize=7)
    _save(figure, path)


def variance_by_step(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Variance with its error bar against the step of the common trajectory."""
    plt = _pyplot()
    figure, panel = plt.subplots(figsize=(7, 4.5), layout="constrained")
    names = list(dict.fromkeys(row["estimator"] for row in rows))
    colours = plt.colormaps["tab20"].colors
    for index, name in enumerate(names):
        here = [row for row in rows if row["estimator"] == name]
        panel.errorbar(
            [row["step"] + 1 for row in here],
            [row["variance"] for row in here],
            [2 * row["standard error"] for row in here],
            marker="o",
            markersize=3,
            color=colours[index % 20],
            label=name,
        )
    panel.set(xscale="log", yscale="log", xlabel="step of the trajectory + 1", title=title)
    panel.set_ylabel("variance of the gradient")
    panel.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, path)


def ratio_against_samples(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The signal-to-noise ratio with its error bar against K, a line an estimator."""
    plt = _pyplot()
    figure, panel = plt.subplots(figsize=(5, 4), layout="constrained")
    for name in dict.fromkeys(row["estimator"] for row in rows):
        here = [row for row in rows if row["estimator"] == name]
        panel.errorbar(
            [row["K"] for row in here],
            [row["signal to noise"] for row in here],
            [2 * row["standard error"] for row in here],
            marker="o",
            markersize=3,
            label=name,
        )
    panel.set(xscale="log", yscale="log", xlabel="K", ylabel="signal to noise")
    panel.legend(fontsize=8)
    _save(figure, path)


def bars(path: Path, rows: Sequence[Mapping[str, Any]], label: Callable[[Any], str]) -> None:
    """A bar of the variance for each row, with its error bar."""
    plt = _pyplot()
    figure, panel = plt.subplots(figsize=(7, 0.3 * len(rows) + 1), layout="constrained")
    places = range(len(rows))
    panel.barh(
        places,
        [row["variance"] for row in rows],
        xerr=[2 * row["standard error"] for row in rows],
        color="#9db4c0",
        ecolor="black",
    )
    panel.set_yticks(places, [label(row) for row in rows], fontsize=7)
    panel.invert_yaxis()
    panel.set(xscale="log", xlabel="variance of the gradient")
    _save(figure, path)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")  # Pictures go to files; there may be no screen.
    import matplotlib.pyplot as plt

    return plt


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    _pyplot().close(figure)
