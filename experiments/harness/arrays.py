"""Arrays of examples: the user's own files, what their values are, and a split that never moves."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

SPLITS = ("train", "validation", "test")


class Split(NamedTuple):
    """One part of a data set: `x` [N, num_dims], and `labels` int32 [N] where there are any."""

    x: np.ndarray
    labels: np.ndarray | None


class Source(NamedTuple):
    """Examples as they were found, before any protocol.

    Attributes:
      train: to learn from.
      validation: to choose settings by.
      test: to measure on.
      split: in words, how the three were made.
      example_shape: the shape of one example before it was made flat.
      num_levels: 2 for binary values, None for real ones, otherwise that of the grey levels.
    """

    train: Split
    validation: Split
    test: Split
    split: str
    example_shape: tuple[int, ...]
    num_levels: int | None


def read_file(path: Path) -> Source:
    """Reads the user's own examples; which files and values it takes, `data.load` says.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged, holds other arrays than it may, or they are empty, of wrong
        shape or range, or not finite.
    """
    arrays = _load(path)
    keys = set(arrays)
    if set(SPLITS) <= keys <= {*SPLITS, *(f"{split}_labels" for split in SPLITS)}:
        examples = {split: (arrays[split], arrays.get(f"{split}_labels")) for split in SPLITS}
    elif keys == {"x", "labels"}:
        examples = {"x": (arrays["x"], arrays["labels"])}
    elif len(keys) == 1:
        examples = {key: (x, None) for key, x in arrays.items()}
    else:
        raise ValueError(
            f"{path} must hold one array; or x and labels; or train, validation and test, each "
            f"with its ..._labels if it has any; got {', '.join(sorted(keys)) or 'nothing'}"
        )
    xs = [_check_examples(f"{key} of {path}", x) for key, (x, _) in examples.items()]
    labels = [_check_labels(f"{key} of {path}", x, y) for key, (x, y) in examples.items()]
    shapes = {x.shape[1:] for x in xs}
    if len(shapes) > 1:
        raise ValueError(f"all examples of {path} must have one shape, got {sorted(shapes)}")
    xs, num_levels = _as_levels(path, xs)
    splits = [Split(x.reshape(len(x), -1), y) for x, y in zip(xs, labels, strict=True)]
    words = "the file's own"
    if len(splits) == 1:
        if len(xs[0]) < 10:
            raise ValueError(f"{path} must hold at least 10 examples to split, got {len(xs[0])}")
        *splits, words = split_examples(*splits[0])
    train, validation, test = splits
    return Source(train, validation, test, words, shapes.pop(), num_levels)


def split_examples(x: np.ndarray, labels: np.ndarray | None) -> tuple[Split, Split, Split, str]:
    """Splits examples 80/10/10, stratified where they have labels, the same way for everyone.

    Returns:
      Train, validation and test examples, each in their old order, and the split in words.
    """
    # The raw bits of a generator never change between numpy's releases; its methods may.
    at_random = np.random.PCG64(0).random_raw(len(x))
    order = np.argsort(at_random) if labels is None else np.lexsort((at_random, labels))
    part = np.zeros(len(x), int)
    # Every tenth in order of label holds a tenth of each label.
    part[order[0::10]], part[order[5::10]] = 1, 2
    train, validation, test = (
        Split(x[part == i], None if labels is None else labels[part == i]) for i in range(3)
    )
    words = f"{'random' if labels is None else 'stratified'} 80/10/10, seed 0"
    return train, validation, test, words


def _load(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        with open(path, "rb") as file:  # np.load leaves a damaged file open
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"array": loaded}
            return {key: loaded[key] for key in loaded.files}
    except Exception as error:  # a damaged file fails in many ways
        raise ValueError(f"cannot read {path}: {error}") from error


def _check_examples(name: str, x: np.ndarray) -> np.ndarray:
    """Returns the examples, float32 where they were floats."""
    if x.ndim < 2 or x.size == 0:
        raise ValueError(
            f"{name} must have shape [N, ...] and at least one example of one dimension, "
            f"got shape {x.shape}"
        )
    if x.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold numbers or booleans, got {x.dtype}")
    if x.dtype.kind != "f":
        return x
    with np.errstate(over="ignore"):
        values = x.astype(np.float32)
    if not np.isfinite(values).all():
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise ValueError(f"{name} must be finite in float32, got {x[first]} at {first}")
    return values


def _check_labels(name: str, x: np.ndarray, labels: np.ndarray | None) -> np.ndarray | None:
    if labels is None:
        return None
    if labels.shape != x.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels for {name} must be integers of shape {x.shape[:1]}, "
            f"got {labels.dtype} of shape {labels.shape}"
        )
    return labels.astype(np.int32)


def _as_levels(path: Path, xs: list[np.ndarray]) -> tuple[list[np.ndarray], int | None]:
    """Returns the arrays as small unsigned integers and the number of levels, or real and None."""
    low, high = min(x.min() for x in xs), max(x.max() for x in xs)
    if low >= 0 and high <= 1:
        if all(((x == 0) | (x == 1)).all() for x in xs):
            return [x.astype(np.uint8) for x in xs], 2
        levels = [np.rint(x * 255) for x in xs]
        if all((np.abs(x * 255 - level) < 1e-3).all() for x, level in zip(xs, levels, strict=True)):
            return [level.astype(np.uint8) for level in levels], 256
    if any(x.dtype.kind == "f" for x in xs):
        return [x.astype(np.float32) for x in xs], None
    if low < 0 or high > 65535:
        raise ValueError(
            f"integers in {path} are grey levels and must lie in 0..65535, got {low}..{high}; "
            "for real values save floats"
        )
    num_levels = 256 if all(x.dtype == np.uint8 for x in xs) else int(high) + 1
    return [x.astype(np.min_scalar_type(num_levels - 1)) for x in xs], num_levels
