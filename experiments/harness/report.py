"""What a run prints: the progress bar and the table of results."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.harness.mesh import is_main_process


@contextmanager
def progress_bar(
    num_steps: int, start: int, *, unit: str = "step", enabled: bool = True
) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """A progress bar with the running bound; yields `show(step, record)`."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn(unit),
        MofNCompleteColumn(),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, disable=not (enabled and is_main_process())) as progress:
        task = progress.add_task("compiling", total=num_steps, completed=start)

        def show(step: int, record: dict[str, float]) -> None:
            name = "bound" if "bound" in record else "loss"
            description = f"{name} {record[name]:.2f} nats" if record else ""
            progress.update(task, completed=step, description=description)

        yield show


def print_result(result: dict[str, Any], folder: Path) -> None:
    """The table that a run ends with, and where its folder is."""
    if not is_main_process():
        return
    from rich.console import Console
    from rich.table import Table

    data = result["data"]
    table = Table(title=f"{result['model']} on {data['name']} ({data['protocol']})")
    in_nats = all(metric["unit"] == "nats" for metric in result["metrics"].values())
    table.add_column("nats per example" if in_nats else "")
    for column in ("value", "standard error", "Monte Carlo error"):
        table.add_column(column, justify="right")
    table.add_column("estimator")
    for name, metric in result["metrics"].items():
        unit = "" if in_nats else f", {metric['unit']}"
        table.add_row(name.replace("_", " ") + unit, *_cells(metric))
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in result["seconds"].items())
    console = Console()
    console.print(table)
    console.print(f"{result['steps']} steps; {seconds}; {result['device']}")
    console.print(f"run folder: {folder}", soft_wrap=True)


def _cells(metric: dict[str, Any]) -> tuple[str, ...]:
    relation = {"lower": "≥", "exact": "=", "upper": "≤", None: "≈"}[metric["bound"]]
    # Nats are of the order of a hundred, other units of the order of one.
    digits = 2 if metric["unit"] == "nats" else 3

    def number(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    num_samples = metric["num_samples"]
    value = number(metric["value"], digits)
    return (
        f"{relation} {value}" if value else "",
        number(metric["standard_error"], digits),
        number(metric["monte_carlo_error"], digits + 1),
        metric["estimator"] if num_samples is None else f"{metric['estimator']}, K={num_samples}",
    )
