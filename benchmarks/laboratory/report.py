"""What the laboratory found, as Markdown, CSV and JSON."""

import csv
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

Row = Mapping[str, Any]


def markdown(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """A table with one line a row."""
    columns = list(columns or rows[0])
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(_cell(row.get(column, "")) for column in columns) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def write(folder: Path, name: str, rows: Sequence[Row], settings: Mapping[str, Any]) -> None:
    """NAME.csv and NAME.json in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    text = json.dumps({"settings": settings, "machine": machine(), "rows": rows}, indent=1)
    (folder / f"{name}.json").write_text(text + "\n")


def machine() -> dict[str, Any]:
    """Where it was measured."""
    device = jax.devices()[0]
    return {
        "cores": os.cpu_count(),
        "device": device.device_kind,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return str(value)
