"""Prepared data sets: found offline, decoded once, and never read from a damaged cache."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.harness import data, tfds

ROOT = Path(__file__).resolve().parents[2]


def prepared(root: Path, version: str = "3.0.1", kind: str = "array_record") -> Path:
    """What TFDS leaves behind, with nothing inside."""
    folder = root / "mnist" / version
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    (folder / f"mnist-test.{kind}-00000-of-00001").write_bytes(b"")
    return folder


@pytest.fixture
def decoded(monkeypatch):
    """Replaces the decoder; lists what it was asked to decode."""
    asked = []

    def decode(folder, split):
        asked.append((folder, split))
        x = np.full((5, 784), len(asked), np.uint8)
        return {"x": x, "labels": np.arange(5, dtype=np.int32)}

    monkeypatch.setattr(tfds, "_decode", decode)
    return asked


# ---- where things are


def test_the_default_folder_is_that_of_tfds(tmp_path, monkeypatch):
    from tensorflow_datasets.core import constants

    monkeypatch.setenv("HOME", str(tmp_path))
    for value in (None, str(tmp_path / "elsewhere")):
        if value is None:
            monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
        else:
            monkeypatch.setenv("TFDS_DATA_DIR", value)
        with pytest.raises(FileNotFoundError) as error:
            tfds.read_split("mnist", "test")
        assert f"no prepared mnist in {constants.get_default_data_dir()}. " in str(error.value)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "home/.cache/genjax_models"),
        ({"XDG_CACHE_HOME": "xdg"}, "xdg/genjax_models"),
        ({"XDG_CACHE_HOME": "xdg", "GENJAX_MODELS_CACHE": "own"}, "own"),
    ],
)
def test_the_default_cache(tmp_path, monkeypatch, decoded, variables, expected):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_CACHE_HOME", "GENJAX_MODELS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in variables.items():
        monkeypatch.setenv(name, str(tmp_path / folder))
    prepared(tmp_path / "tfds")
    tfds.read_split("mnist", "test", data_dir=tmp_path / "tfds")
    assert [path.suffix for path in (tmp_path / expected).iterdir()] == [".npz"]


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "binarized_mnist"])
def test_a_missing_data_set_is_an_error_at_once_that_says_what_to_do(tmp_path, name):
    start = time.monotonic()
    with pytest.raises(FileNotFoundError) as error:
        data.load(name, likelihood="bernoulli", data_dir=tmp_path)
    assert time.monotonic() - start < 1
    command = "_train.amat" if name == "binarized_mnist" else f"tfds.builder('{name}', data_dir="
    assert command in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_other_formats_are_refused(tmp_path, decoded):
    folder = prepared(tmp_path, kind="tfrecord")
    with pytest.raises(FileNotFoundError, match=f"{folder} holds no array_record files"):
        tfds.read_split("mnist", "test", data_dir=tmp_path)


def test_the_newest_complete_version_is_read(tmp_path, decoded):
    for version in ("3.0.9", "3.0.10", "3.0.11.incompleteA1B2", "incomplete.A1B2_3.0.12"):
        prepared(tmp_path, version)
    tfds.read_split("mnist", "test", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert decoded == [(tmp_path / "mnist" / "3.0.10", "test")]


def test_unreadable_records_are_named(tmp_path):
    folder = prepared(tmp_path)
    with pytest.raises(ValueError, match=f"cannot read split 'test' of {folder}"):
        tfds.read_split("mnist", "test", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


# ---- the cache


def test_images_are_decoded_once(tmp_path, decoded):
    prepared(tmp_path / "tfds")
    folders = {"data_dir": tmp_path / "tfds", "cache_dir": tmp_path / "cache"}
    x, labels = tfds.read_split("mnist", "test", **folders)
    again, labels_again = tfds.read_split("mnist", "test", **folders)
    assert len(decoded) == 1
    np.testing.assert_array_equal(x, again)
    np.testing.assert_array_equal(labels, labels_again)
    assert (again.dtype, labels_again.dtype) == (np.uint8, np.int32)


def test_two_sources_never_share_an_entry(tmp_path, decoded):
    def first_pixel(root: Path) -> int:
        x, _ = tfds.read_split("mnist", "test", data_dir=root, cache_dir=tmp_path / "cache")
        return int(x[0, 0])

    folders = prepared(tmp_path / "one"), prepared(tmp_path / "two")
    for path in (path for folder in folders for path in folder.iterdir()):
        os.utime(path, ns=(0, 0))  # alike in all but the path
    assert [first_pixel(tmp_path / name) for name in ("one", "two", "one", "two")] == [1, 2, 1, 2]
    os.utime(folders[1] / "mnist-test.array_record-00000-of-00001", ns=(1, 1))  # prepared again
    assert [first_pixel(tmp_path / name) for name in ("one", "two")] == [1, 3]


def test_no_flipped_bit_gets_through(tmp_path):
    arrays = {"x": np.arange(256, dtype=np.uint8)[:, None], "labels": np.arange(3, dtype=np.int32)}
    path = tmp_path / "entry.npz"
    tfds._save(path, arrays)
    sound = path.read_bytes()
    caught = 0
    for position in range(0, len(sound), 3):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            loaded = tfds._load(path)
        except tfds.CacheError as error:
            assert f"{path} is corrupt" in str(error)
            caught += 1
        else:  # a bit that says nothing of the arrays, such as the archive's dates
            assert loaded.keys() == arrays.keys()
            for name, array in arrays.items():
                np.testing.assert_array_equal(loaded[name], array, strict=True)
    assert caught > 0.6 * len(sound) / 3


def test_a_corrupt_entry_is_an_error_and_never_decoded_again(tmp_path, decoded):
    prepared(tmp_path / "tfds")
    folders = {"data_dir": tmp_path / "tfds", "cache_dir": tmp_path / "cache"}
    tfds.read_split("mnist", "test", **folders)
    (path,) = (tmp_path / "cache").iterdir()
    sound = path.read_bytes()
    for damaged in (b"", sound[:100], sound[:-1], sound.replace(b"\x01" * 784, b"\x02" * 784)):
        path.write_bytes(damaged)
        with pytest.raises(tfds.CacheError, match=f"{path} is corrupt.*delete it"):
            tfds.read_split("mnist", "test", **folders)
    assert len(decoded) == 1


def test_arrays_that_are_not_those_written_are_refused(tmp_path):
    path = tmp_path / "entry.npz"
    tfds._save(path, {"x": np.zeros((3, 2), np.uint8)})
    with np.load(path) as file:
        digest = file["sha256"]
    for x in (np.ones((3, 2), np.uint8), np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.int8)):
        np.savez(path, x=x, sha256=digest)
        with pytest.raises(tfds.CacheError, match="SHA-256 differs"):
            tfds._load(path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_no_file(tmp_path, decoded, monkeypatch, error):
    def interrupted(file, **arrays):
        file.write(b"half")
        raise error

    prepared(tmp_path / "tfds")
    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(np, "savez", interrupted)
        tfds.read_split("mnist", "test", data_dir=tmp_path / "tfds", cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


# ---- Larochelle's files


@pytest.fixture
def amat(tmp_path, monkeypatch):
    """Three tiny files in Larochelle's format, and the images in them."""
    images, checksums = {}, {}
    for i, (split, (name, _)) in enumerate(tfds._AMAT.items()):
        x = (np.random.default_rng(i).random((20 + i, 784)) < 0.3).astype(np.uint8)
        text = "".join(" ".join(map(str, row)) + "\n" for row in x.tolist())
        (tmp_path / name).write_text(text)
        images[split], checksums[split] = x, (name, hashlib.sha256(text.encode()).hexdigest())
    monkeypatch.setattr(tfds, "_AMAT", checksums)
    return images


def test_binarised_mnist_is_read_from_larochelles_files(tmp_path, amat):
    dataset = data.load("binarized_mnist", likelihood="bernoulli", data_dir=tmp_path)
    assert (dataset.protocol, dataset.num_levels, dataset.example_shape) == ("static", 2, (28, 28))
    assert dataset.describe()["num_examples"] == {"train": 20, "validation": 21, "test": 22}
    for split, x in amat.items():
        found = getattr(dataset, split).x
        assert found.dtype == np.uint8
        assert sorted(row.tobytes() for row in found) == sorted(row.tobytes() for row in x)
        assert (found != x).any()  # no longer in order of class


def test_another_file_than_larochelles_is_refused(tmp_path, amat):
    path = tmp_path / "binarized_mnist_test.amat"
    path.write_text(path.read_text().replace("0", "1", 1))
    with pytest.raises(ValueError, match=f"{path} is not Larochelle's file"):
        data.load("binarized_mnist", likelihood="bernoulli", data_dir=tmp_path)


# ---- the real ones


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory):
    """Both test sets of MNIST, decoded in a process of its own that must not import TensorFlow."""
    folders = {
        "data_dir": str(shared_data / "tfds"),
        "cache_dir": str(tmp_path_factory.mktemp("cache")),
    }
    code = f"""
import sys
from experiments.harness import tfds

for name in ("mnist", "binarized_mnist"):
    tfds.read_split(name, "test", **{folders!r})
sys.exit("tensorflow" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
    return {name: tfds.read_split(name, "test", **folders) for name in ("mnist", "binarized_mnist")}


def test_real_mnist(real):
    x, labels = real["mnist"]
    assert (x.shape, x.dtype, x.min(), x.max()) == ((10_000, 784), np.uint8, 0, 255)
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(labels).tolist() == counts


def test_real_binarised_mnist_is_a_draw_from_real_mnist(real):
    binary, labels = real["binarized_mnist"]
    assert labels is None
    assert (binary.shape, binary.dtype) == ((10_000, 784), np.uint8)
    assert set(np.unique(binary)) == {0, 1}
    p = real["mnist"][0] / 255
    error = np.sqrt((p * (1 - p)).sum(0))
    assert (np.abs(binary.sum(0, dtype=int) - p.sum(0)) <= 5 * error + 1e-9).all()
