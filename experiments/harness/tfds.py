"""Images that TFDS has prepared, decoded once and kept as arrays; no TensorFlow, no network.

    DATA_DIR/NAME/VERSION/                        what TFDS prepared, as array_record
    CACHE_DIR/NAME-VERSION-SPLIT-FINGERPRINT.npz  the arrays decoded from it, with their SHA-256

The fingerprint covers path, size and time of the prepared files: two sources never share an entry.
"""

import hashlib
import os
import re
import sys
import uuid
from pathlib import Path

import numpy as np

# Larochelle's binarised MNIST, and the SHA-256 that TFDS has for it.
_AMAT = {
    "train": (
        "binarized_mnist_train.amat",
        "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    ),
    "validation": (
        "binarized_mnist_valid.amat",
        "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    ),
    "test": (
        "binarized_mnist_test.amat",
        "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
    ),
}


class CacheError(RuntimeError):
    """A decoded array on disk is not what was written there."""


def read_split(
    name: str,
    split: str,
    *,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads one split of a prepared image data set; only the first time does it decode images.

    `binarized_mnist` is also read from Larochelle's three .amat files where they lie in `data_dir`:
    the address from which TFDS would download them is dead.

    Args:
      name: the data set's name in TFDS.
      split: the split's name in TFDS.
      data_dir: where TFDS keeps its data sets; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.
      cache_dir: where decoded arrays are kept; by default $GENJAX_MODELS_CACHE, or genjax_models in
        the user's cache folder.

    Returns:
      The images, uint8 [N, num_dims], and their labels, int32 [N], or None where there are none.

    Raises:
      CacheError: the decoded arrays on disk are corrupt (the message names the file).
      FileNotFoundError: the data set is not in `data_dir` (the message says how to get it there).
      ValueError: the prepared files cannot be read (the message names them).
    """
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    folder = _prepared_folder(root / name)
    if folder is None:
        if name == "binarized_mnist":
            amat, sha256 = _AMAT[split]
            if (root / amat).is_file():
                return _read_amat(root / amat, sha256), None
        raise FileNotFoundError(f"no prepared {name} in {root}. {_how_to_prepare(name, root)}")
    if not any(folder.glob(f"{name}-{split}.array_record*")):
        # TFDS reads its other formats with TensorFlow only.
        raise FileNotFoundError(
            f"{folder} holds no array_record files of split {split!r}: delete it. "
            + _how_to_prepare(name, root)
        )
    cache = Path(cache_dir).expanduser() if cache_dir else _default_cache_dir()
    path = cache / f"{name}-{folder.name}-{split}-{_fingerprint(folder)}.npz"
    if path.exists():
        arrays = _load(path)
    else:
        print(f"Decoding {name} {split}, once: kept in {path}", file=sys.stderr)
        arrays = _decode(folder, split)
        _save(path, arrays)
    return arrays["x"], arrays.get("labels")


def _default_cache_dir() -> Path:
    own = os.environ.get("GENJAX_MODELS_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "genjax_models"


def _prepared_folder(folder: Path) -> Path | None:
    """Returns the folder of the newest complete version; TFDS names others "incomplete..."."""
    versions = (path.parent for path in folder.glob("*/dataset_info.json"))
    complete = [path for path in versions if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    return max(complete, key=lambda path: [int(n) for n in path.name.split(".")], default=None)


def _how_to_prepare(name: str, root: Path) -> str:
    if name == "binarized_mnist":
        files = ", ".join(file for file, _ in _AMAT.values())
        return (
            f"The address from which TFDS would download it is dead: put {files} into {root} "
            "(the repository riannevdberg/sylvester-flows on GitHub has them in data/MNIST_static)"
        )
    return (
        "Where there is a network, prepare it once (this needs TensorFlow, reading does not):\n"
        "  pip install tensorflow\n"
        f'  python -c "import tensorflow_datasets as tfds; tfds.builder({name!r}, '
        f"data_dir={str(root)!r}, file_format='array_record').download_and_prepare()\""
    )


def _read_amat(path: Path, sha256: str) -> np.ndarray:
    text = path.read_bytes()
    found = hashlib.sha256(text).hexdigest()
    if found != sha256:
        raise ValueError(f"{path} is not Larochelle's file: its SHA-256 is {found}, not {sha256}")
    # 784 digits a line, each followed by one blank or the line's end.
    images = (np.frombuffer(text, np.uint8)[::2] - ord("0")).reshape(-1, 784)
    # The test file is sorted by class: a part of it must not be a part of the classes.
    return images[np.argsort(np.random.PCG64(0).random_raw(len(images)))]


def _fingerprint(folder: Path) -> str:
    files = [(path, path.stat()) for path in sorted(folder.resolve().iterdir())]
    facts = "\n".join(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in files)
    return hashlib.sha256(facts.encode()).hexdigest()[:12]


def _decode(folder: Path, split: str) -> dict[str, np.ndarray]:
    import tensorflow_datasets as tfds

    images, labels = [], []
    try:
        source = tfds.data_source(
            f"{folder.parent.name}:{folder.name}",
            split=split,
            data_dir=str(folder.parents[1]),
            download=False,
        )
        for start in range(0, len(source), 1000):
            stop = min(start + 1000, len(source))
            for record in source.__getitems__(list(range(start, stop))):
                images.append(record["image"].reshape(-1))
                labels.append(record.get("label"))
        arrays = {"x": np.stack(images)}
    except Exception as error:  # TFDS, array_record and the image decoder each have their own
        raise ValueError(f"cannot read split {split!r} of {folder}: {error}") from error
    if labels[0] is not None:
        arrays["labels"] = np.array(labels, np.int32)
    return arrays


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes the file as a whole or not at all, whoever else writes it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            np.savez(file, allow_pickle=False, sha256=np.array(_digest(arrays)), **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file:  # np.load leaves a damaged file open
            loaded = np.load(file, allow_pickle=False)
            arrays = {name: loaded[name] for name in loaded.files}
        sha256 = str(arrays.pop("sha256"))
        sound = _digest(arrays) == sha256
    except Exception as error:  # a damaged zip file fails in many ways
        raise CacheError(f"{path} is corrupt ({error}): delete it to decode it again") from error
    if not sound:
        raise CacheError(f"{path} is corrupt (SHA-256 differs): delete it to decode it again")
    return arrays
