"""The likelihood table: every result.json beside the published number, one column a protocol.

`python -m benchmarks.likelihoods` reads the results that the repository keeps (docs/results) and
writes docs/likelihoods.md with its picture; `python -m benchmarks.likelihoods runs/*` prints the
same of one's own runs.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import published

KEPT = Path("docs/results")
PAGE = Path("docs/likelihoods.md")
PICTURE = Path("docs/images/likelihoods.png")

_TITLES = {
    ("binarized_mnist", "static"): "MNIST, static binarisation",
    ("mnist", "dynamic"): "MNIST, dynamic binarisation",
    ("digits", "dynamic"): "Digits, dynamic binarisation",
    ("digits", "static"): "Digits, binarised once",
    ("nltcs", "static"): "NLTCS, a survey of 16 questions",
    ("mnist", "grey"): "MNIST, 256 grey levels",
    ("digits", "grey"): "Digits, 17 grey levels",
}
# A result stands in a table by the first of these that it has.
_QUANTITIES = ("test_bits_per_dim", "test_log_likelihood", "test_bound")
_RELATIONS = {"exact": "", "upper": "≤ ", "lower": "≥ "}


class Row(NamedTuple):
    """One line of a table; values are negative log-likelihoods or bits: lower is better."""

    model: str
    value: float
    standard_error: float
    monte_carlo_error: float
    bound: str
    unit: str
    estimator: str
    published: published.Published | None
    command: str
    seconds: float
    device: str

    @property
    def gap(self) -> float | None:
        """Ours minus the published value."""
        return None if self.published is None else self.value - self.published.value


class Column(NamedTuple):
    """What may be compared: one data set under one protocol, one unit."""

    data: str
    protocol: str
    unit: str

    @property
    def title(self) -> str:
        """In words."""
        name = _TITLES.get((self.data, self.protocol), f"{self.data}, {self.protocol}")
        return f"{name}: {self.unit}"


def read(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The results in files, or in result.json files anywhere in folders.

    Raises:
        ValueError: a file is not a result, or there is none at all.
    """
    files: list[Path] = []
    for path in paths:
        files += sorted(path.rglob("*.json")) if path.is_dir() else [path]
    results = []
    for file in files:
        if file.name in ("config.json", "manifest.json") or "checkpoints" in file.parts:
            continue
        try:
            result = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} is not a result: {error}") from None
        missing = {"experiment", "model", "data", "metrics", "settings"} - set(result)
        if missing:
            raise ValueError(f"{file} is not a result: it has no {', '.join(sorted(missing))}")
        results.append(result)
    if not results:
        raise ValueError(f"no result.json in {', '.join(map(str, paths)) or 'nothing'}")
    return results


def rows(result: Mapping[str, Any]) -> dict[Column, list[Row]]:
    """The lines of one result: one for each of its estimators of the test likelihood."""
    found = defaultdict(list)
    quantity = next(
        (q for q in _QUANTITIES if any(name.startswith(q) for name in result["metrics"])), None
    )
    for name, metric in result["metrics"].items():
        if quantity is None or not name.startswith(quantity):
            continue
        column = Column(result["data"]["name"], result["data"]["protocol"], metric["unit"])
        found[column].append(_row(result, metric))
    return dict(found)


def _row(result: Mapping[str, Any], metric: Mapping[str, Any]) -> Row:
    in_nats = metric["unit"] == "nats"
    turned = {"lower": "upper", "upper": "lower", "exact": "exact"}
    num_samples = metric["num_samples"]
    return Row(
        model=result["model"],
        value=-metric["value"] if in_nats else metric["value"],
        standard_error=metric["standard_error"],
        monte_carlo_error=metric["monte_carlo_error"],
        bound=turned[metric["bound"]] if in_nats else metric["bound"],
        unit=metric["unit"],
        estimator=metric["estimator"] + (f", K={num_samples}" if num_samples else ""),
        published=published.find(result),
        command=result["command"],
        seconds=sum(result["seconds"].values()),
        device=result["device"],
    )


def table(results: Sequence[Mapping[str, Any]], column: Column) -> list[Row]:
    """The rows of one column, best first.

    Raises:
        ValueError: a result is of another data set, another protocol or another unit: the two
            numbers cannot be compared.
    """
    found, test_sizes = [], set()
    for result in results:
        lines = rows(result)
        if column not in lines:
            got = " and ".join(sorted(other.title for other in lines)) or "no test likelihood"
            raise ValueError(
                f"{result['model']} cannot stand under {column.title!r}: it was measured on {got}"
            )
        test_sizes.add(result["data"]["num_examples"]["test"])
        found += lines[column]
    if len(test_sizes) > 1:
        raise ValueError(f"{column.title}: test sets of different sizes, {sorted(test_sizes)}")
    return sorted(found, key=lambda row: row.value)


def tables(results: Sequence[Mapping[str, Any]]) -> dict[Column, list[Row]]:
    """Every result in its column."""
    by_column = defaultdict(list)
    for result in results:
        for column in rows(result):
            by_column[column].append(result)
    order = [*_TITLES]

    def place(column: Column) -> tuple[int, str]:
        key = (column.data, column.protocol)
        return (order.index(key) if key in order else len(order), column.title)

    return {column: table(by_column[column], column) for column in sorted(by_column, key=place)}


def markdown(found: Mapping[Column, Sequence[Row]]) -> str:
    """The tables as Markdown."""
    parts = []
    for column, lines in found.items():
        unit = "NLL" if column.unit == "nats" else "bits/dim"
        parts.append(
            f"## {column.title}\n\n"
            f"| model | test {unit} | standard error | Monte Carlo error | how measured | published"
            " | source | gap | seconds | device |\n"
            "|---|---|---|---|---|---|---|---|---|---|\n" + "\n".join(map(_markdown_row, lines))
        )
        commands = dict.fromkeys((row.model, row.command) for row in lines)
        listed = "\n".join(f"{command}  # {model}" for model, command in commands)
        parts.append(f"```\n{listed}\n```")
    return "\n\n".join(parts) + "\n"


def _markdown_row(row: Row) -> str:
    digits = 2 if row.unit == "nats" else 3
    reference, source, gap = "", "", ""
    if row.published is not None:
        sure = "" if row.published.certainty == "read in the source" else ", *remembered*"
        if row.published.certainty == "read in another paper":
            sure = ", as cited"
        reference = f"{row.published.value:.2f} ({row.published.estimator})"
        source, gap = row.published.source + sure, f"{row.gap:+.2f}"
    cells = (
        row.model,
        f"{_RELATIONS[row.bound]}{row.value:.{digits}f}",
        f"{row.standard_error:.{digits}f}",
        f"{row.monte_carlo_error:.{digits + 1}f}" if row.monte_carlo_error else "0",
        row.estimator,
        reference,
        source,
        gap,
        f"{row.seconds:,.0f}",
        row.device,
    )
    return f"| {' | '.join(cells)} |"


def draw(found: Mapping[Column, Sequence[Row]], path: Path) -> None:
    """A bar for each model with its error bar, and a tick where the published value is.

    Columns of a single row are left out: there is nothing to compare.
    """
    import matplotlib

    matplotlib.use("Agg")  # Pictures go to files; there may be no screen.
    import matplotlib.pyplot as plt

    drawn = {column: lines for column, lines in found.items() if len(lines) > 1} or dict(found)
    heights = [len(lines) + 1.5 for lines in drawn.values()]
    figure, all_axes = plt.subplots(
        len(drawn),
        1,
        figsize=(8, 0.28 * sum(heights) + 0.5),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    for axes, (column, lines) in zip(all_axes[:, 0], drawn.items(), strict=True):
        _draw_column(axes, column, lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_column(axes: Any, column: Column, lines: Sequence[Row]) -> None:
    values = [row.value for row in lines]
    errors = [row.standard_error for row in lines]
    references = [row.published.value if row.published else math.nan for row in lines]
    known = [*values, *(value for value in references if value == value)]
    spread = max(known) - min(known)
    # The bars begin a little below the best value: what matters is how far they are apart.
    low, high = min(known) - 0.3 * spread - 2 * max(errors), max(known) + 0.2 * spread
    places = range(len(lines))
    widths = [value - low for value in values]
    axes.barh(places, widths, left=low, xerr=errors, height=0.6, color="#9db4c0", ecolor="black")
    axes.plot(references, places, "|", color="#b23a48", markersize=13, markeredgewidth=2.5)
    # The first words of how it was measured; the table has the rest.
    labels = [f"{row.model} ({row.estimator.split(',')[0]})" for row in lines]
    axes.set_yticks(places, labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(low, high + 3 * max(errors))
    axes.set_title(f"{column.title}, test set", fontsize=8, loc="left")
    axes.tick_params(axis="x", labelsize=7)


def main() -> None:
    """Prints the tables, or writes the page and the picture of the results that are kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, help="result files, or folders of runs")
    parser.add_argument("--picture", type=Path, help="draw to this file")
    arguments = parser.parse_args()
    try:
        found = tables(read(arguments.paths or [KEPT]))
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    text = markdown(found)
    print(text)
    if not arguments.paths:
        PAGE.write_text(_HEAD + text)
        draw(found, PICTURE)
    elif arguments.picture:
        draw(found, arguments.picture)


_HEAD = """# The likelihood table

Written by `python -m benchmarks.likelihoods` from the results in `docs/results/`. Lower is better.
≤ marks an estimate that is an upper bound of the negative log-likelihood in expectation, ≥ a lower
one. The standard error is over test examples, the Monte Carlo error that of the estimator. The gap
is ours minus published; numbers of different protocols stand in different tables and cannot be
compared. "Remembered": the published number was not checked against the paper.

![The table as a picture](images/likelihoods.png)

"""

if __name__ == "__main__":
    main()
