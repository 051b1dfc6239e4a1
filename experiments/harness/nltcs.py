"""NLTCS: what people answered to 16 yes-or-no questions of the National Long Term Care Survey.

In DATA_DIR/nltcs are nltcs.train.data, nltcs.valid.data and nltcs.test.data, each as it is or with
.gz: one person a line, 16 zeros and ones with commas between them.

Source: Lowd & Davis 2010 (Learning Markov network structure with decision trees), whose split of
16181, 2157 and 3236 people this is; UCLA-StarAI/Density-Estimation-Datasets on GitHub has it.
"""

import gzip
import os
from pathlib import Path

import numpy as np

from experiments.harness.arrays import Source, Split

_NUM_DIMS = 16
SIZES = {"train": 16181, "valid": 2157, "test": 3236}
"""People in each of the files."""


def read(data_dir: str | Path | None) -> Source:
    """The answers, in the split that papers use.

    Args:
        data_dir: the folder that has the folder `nltcs`; by default $TFDS_DATA_DIR or
            ~/tensorflow_datasets.

    Returns:
        The answers, uint8 [N, 16], without labels.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or holds something else.
    """
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    splits = (Split(_read(_find(root, name), size), None) for name, size in SIZES.items())
    train, validation, test = splits
    words = "Lowd & Davis's 16181/2157/3236"
    return Source(train, validation, test, words, (_NUM_DIMS,), num_levels=2)


def _find(root: Path, name: str) -> Path:
    plain = root / "nltcs" / f"nltcs.{name}.data"
    packed = plain.with_name(f"{plain.name}.gz")
    for path in (packed, plain):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"no NLTCS in {root}: neither {packed} nor {plain}. --data-dir is the folder that has the"
        " folder nltcs; the repository UCLA-StarAI/Density-Estimation-Datasets on GitHub has the"
        " files"
    )


def _read(path: Path, size: int) -> np.ndarray:
    try:
        raw = path.read_bytes()
        lines = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("ascii").splitlines()
    except Exception as error:  # a damaged file fails in many ways
        raise ValueError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(lines, start=1):
        answers = line.split(",")
        if len(answers) != _NUM_DIMS or not set(answers) <= {"0", "1"}:
            raise ValueError(
                f"line {number} of {path} must be {_NUM_DIMS} zeros and ones with commas between"
                f" them, got {line[:80]!r}"
            )
    if len(lines) != size:
        raise ValueError(f"{path} must hold {size} people, one a line, got {len(lines)}")
    return np.array([line.split(",") for line in lines]).astype(np.uint8)
