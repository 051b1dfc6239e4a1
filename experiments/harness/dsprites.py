"""dSprites: white shapes on black, rendered from known factors of variation.

In DATA_DIR/dsprites is one of two files:

- dsprites_downsampled.npz: 46080 of the images, every 4th orientation and every 2nd position;
- dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz: all 737280.

Either holds `imgs` [N, height, width] of zeros and ones and `latents_classes` [N, num_factors].

Source: Matthey et al. 2017 (dSprites: disentanglement testing sprites dataset).
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.harness.arrays import SPLITS, Source, Split, split_examples

_FILES = ("dsprites_downsampled.npz", "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz")
_NAMES = ("colour", "shape", "scale", "orientation", "x", "y")


class Factors(NamedTuple):
    """What the images were rendered from, for the examples of each split in their order.

    Attributes:
        names: of the factors that vary.
        train: [N, num_factors], int32 from 0.
        validation: likewise.
        test: likewise.
    """

    names: tuple[str, ...]
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def read(data_dir: str | Path | None) -> tuple[Source, Factors]:
    """The images, labelled by shape and split 80/10/10, with their factors.

    Args:
        data_dir: the folder that has the folder `dsprites`; by default $TFDS_DATA_DIR or
            ~/tensorflow_datasets.

    Returns:
        The images, and the factors of the same splits.

    Raises:
        FileNotFoundError: neither file is there.
        ValueError: the file is damaged, or holds something else.
    """
    path = _find(data_dir)
    images, classes = _read(path)
    varies = (classes != classes[:1]).any(axis=0)
    names = tuple(np.array(_NAMES[-classes.shape[1] :])[varies].tolist())
    factors = classes[:, varies].astype(np.int32)
    labels = factors[:, names.index("shape")] if "shape" in names else None
    # The splits of the rows' numbers are those of everything in the rows.
    *rows, words = split_examples(np.arange(len(images))[:, None], labels)
    parts = [part.x[:, 0] for part in rows]
    splits = {
        name: Split(images[part].reshape(len(part), -1), None if labels is None else labels[part])
        for name, part in zip(SPLITS, parts, strict=True)
    }
    source = Source(**splits, split=words, example_shape=images.shape[1:], num_levels=2)
    return source, Factors(names, *(factors[part] for part in parts))


def _find(data_dir: str | Path | None) -> Path:
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    paths = [root / "dsprites" / name for name in _FILES]
    for path in paths:
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"no dSprites in {root}: neither {' nor '.join(map(str, paths))}. --data-dir is the folder"
        " that has the folder dsprites; the repository google-deepmind/dsprites-dataset on GitHub"
        " has the file"
    )


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        # The entry "metadata" is a pickle, which is not loaded.
        with np.load(path, allow_pickle=False) as file:
            images, classes = file["imgs"], file["latents_classes"]
    except Exception as error:  # a damaged file fails in many ways
        raise ValueError(f"cannot read {path}: {error}") from error
    fits = images.ndim == 3 and classes.ndim == 2 and len(images) == len(classes) >= 10
    if not fits or classes.shape[1] > len(_NAMES) or classes.dtype.kind not in "iu":
        raise ValueError(
            f"{path} must hold imgs [N, height, width] and integers latents_classes"
            f" [N, 5 or 6], got {images.shape} and {classes.dtype} {classes.shape}"
        )
    if images.max() > 1 or images.min() < 0:
        raise ValueError(f"imgs of {path} must be zeros and ones, got up to {images.max()}")
    return images.astype(np.uint8), classes
