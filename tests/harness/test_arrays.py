"""The user's own files: every layout and kind of value, every refusal, and the fixed split."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from experiments.harness import arrays

RNG = np.random.default_rng(0)


def npz(path: Path, **content: np.ndarray) -> Path:
    np.savez(path / "mine.npz", **content)
    return path / "mine.npz"


def npy(path: Path, x: np.ndarray) -> Path:
    np.save(path / "mine.npy", x)
    return path / "mine.npy"


# ---- the split


def test_the_split_puts_each_example_into_one_part_and_a_tenth_of_each_label_into_test():
    labels = np.repeat([3, 1, 7], [200, 57, 13]).astype(np.int32)
    ids = np.arange(270)[:, None]
    *splits, words = arrays.split_examples(ids, labels)
    assert words == "stratified 80/10/10, seed 0"
    assert sorted(np.concatenate([split.x[:, 0] for split in splits])) == list(range(270))
    for split in splits:
        assert (labels[split.x[:, 0]] == split.labels).all()
    for label, count in ((3, 200), (1, 57), (7, 13)):
        for split in splits[1:]:
            assert abs((split.labels == label).sum() - count / 10) < 1


def test_the_split_of_unlabelled_examples_is_random():
    n = 10_000
    *splits, words = arrays.split_examples(np.arange(n)[:, None], None)
    assert words == "random 80/10/10, seed 0"
    assert [len(split.x) for split in splits] == [8000, 1000, 1000]
    # The mean of m of n numbers drawn without replacement, within 5 standard errors.
    for m, split in zip((8000, 1000, 1000), splits, strict=True):
        error = np.sqrt((n**2 - 1) / 12 / m * (n - m) / (n - 1))
        assert abs(split.x.mean() - (n - 1) / 2) < 5 * error


def test_the_split_never_moves():
    known = ((np.arange(1000) % 7, "8efa98ba100ec933"), (None, "e2dac60aae62534e"))
    for labels, digest in known:
        splits = arrays.split_examples(np.arange(1000)[:, None], labels)[:3]
        indices = np.concatenate([split.x for split in splits]).astype("<i8")
        assert hashlib.sha256(indices.tobytes()).hexdigest()[:16] == digest


# ---- layouts


def test_single_arrays_are_split_and_made_flat(tmp_path):
    x = RNG.normal(size=(40, 2, 3)).astype(np.float32)
    for path in (npy(tmp_path, x), npz(tmp_path, anything=x)):
        source = arrays.read_file(path)
        assert source.example_shape == (2, 3)
        assert source.split.startswith("random")
        rows = np.concatenate([split.x for split in source[:3]])
        assert {row.tobytes() for row in rows} == {row.tobytes() for row in x}
        assert rows.shape == (40, 6)
        assert source.train.labels is None


def test_labels_stay_with_their_examples(tmp_path):
    labels = np.arange(50, dtype=np.uint8) % 5
    x = np.stack([labels * 10.5, labels + 0.25], 1)
    source = arrays.read_file(npz(tmp_path, x=x, labels=labels))
    assert source.split.startswith("stratified")
    for split in source[:3]:
        assert split.labels.dtype == np.int32
        np.testing.assert_array_equal(split.x[:, 1], split.labels + 0.25)
    assert [len(split.x) for split in source[:3]] == [40, 5, 5]


def test_the_files_own_split_is_kept(tmp_path):
    parts = {name: RNG.normal(size=(n, 4)) for name, n in (("train", 5), ("test", 2))}
    y = np.array([7, 8])
    path = npz(tmp_path, **parts, validation=parts["test"] + 1, test_labels=y)
    source = arrays.read_file(path)
    np.testing.assert_array_equal(source.train.x, parts["train"].astype(np.float32))
    np.testing.assert_array_equal(source.test.x, parts["test"].astype(np.float32))
    np.testing.assert_array_equal(source.test.labels, y)
    assert source.train.labels is None
    assert source.split == "the file's own"


# ---- kinds of values


@pytest.mark.parametrize(
    ("x", "num_levels", "stored"),
    [
        (RNG.random((20, 4)) < 0.5, 2, np.uint8),
        (RNG.integers(0, 2, (20, 4)), 2, np.uint8),
        (RNG.integers(0, 2, (20, 4)).astype(np.float64), 2, np.uint8),
        (np.arange(80).reshape(20, 4).astype(np.uint8), 256, np.uint8),
        (np.arange(80).reshape(20, 4), 80, np.uint8),
        (np.arange(80).reshape(20, 4) * 13, 1028, np.uint16),
        ((np.arange(80).reshape(20, 4) / 255).astype(np.float32), 256, np.uint8),
        (np.arange(80).reshape(20, 4) / 79, None, np.float32),
        (RNG.normal(size=(20, 4)), None, np.float32),
        (np.arange(80.0).reshape(20, 4), None, np.float32),
    ],
)
def test_kinds_of_values(tmp_path, x, num_levels, stored):
    source = arrays.read_file(npz(tmp_path, train=x, validation=x[:3], test=x[3:6]))
    assert source.num_levels == num_levels
    scale = 255 if num_levels == 256 and x.dtype.kind == "f" else 1
    for split, expected in zip(source[:3], (x, x[:3], x[3:6]), strict=True):
        assert split.x.dtype == stored
        np.testing.assert_allclose(split.x, expected * scale, rtol=1e-6)


def test_the_kind_is_that_of_all_three_parts(tmp_path):
    binary = np.eye(4, dtype=np.uint8)
    for test, num_levels in (
        (binary * 9, 256),
        (binary * np.int64(300), 301),
        (binary * 0.3, None),
    ):
        source = arrays.read_file(npz(tmp_path, train=binary, validation=binary, test=test))
        assert source.num_levels == num_levels
        np.testing.assert_array_equal(source.train.x, binary)
        np.testing.assert_array_equal(source.test.x, test.astype(source.test.x.dtype))


# ---- refusals


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((0, 4)), r"at least one example.*\(0, 4\)"),
        (np.zeros((20, 0)), r"at least one example.*\(20, 0\)"),
        (np.zeros(20), r"shape \[N, \.\.\.\].*\(20,\)"),
        (np.float32(3.0), r"shape \[N, \.\.\.\].*\(\)"),
        (np.zeros((9, 4)), "at least 10 examples to split, got 9"),
        (np.array([["a"] * 4] * 20), "numbers or booleans, got <U1"),
        (np.zeros((20, 4), complex), "numbers or booleans, got complex128"),
        (np.where(np.arange(80).reshape(20, 4) == 41, np.nan, 0.5), r"finite.*nan at \(10, 1\)"),
        (np.where(np.arange(80).reshape(20, 4) == 41, -np.inf, 0), r"finite.*-inf at \(10, 1\)"),
        (np.full((20, 4), 1e39), "finite in float32, got 1e[+]39"),
        (np.arange(80).reshape(20, 4) - 1, r"0\.\.65535, got -1\.\.78"),
        (np.full((20, 4), 70000), r"0\.\.65535, got 70000\.\.70000"),
        (np.array([[None] * 4] * 20, object), "cannot read"),
    ],
)
def test_bad_arrays_are_refused_by_name(tmp_path, x, message):
    path = tmp_path / "mine.npy"
    np.save(path, x, allow_pickle=True)
    with pytest.raises(ValueError, match=message) as error:
        arrays.read_file(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": 20, "labels": 20}, "got images, labels"),
        ({"train": 20, "test": 20}, "got test, train"),
        ({"train": 20, "validation": 5, "test": 5, "extra": 5}, "got extra, test"),
        ({}, "got nothing"),
    ],
)
def test_an_ambiguous_archive_is_refused_with_what_it_holds(tmp_path, content, message):
    path = npz(tmp_path, **{key: np.zeros((n, 2)) for key, n in content.items()})
    with pytest.raises(ValueError, match=message):
        arrays.read_file(path)


@pytest.mark.parametrize(
    "labels", [np.zeros(19, int), np.zeros((20, 1), int), np.zeros(20), np.array(["a"] * 20)]
)
def test_bad_labels_are_refused(tmp_path, labels):
    with pytest.raises(ValueError, match=r"labels for x of .* integers of shape \(20,\)"):
        arrays.read_file(npz(tmp_path, x=np.zeros((20, 2)), labels=labels))


def test_parts_of_different_shape_are_refused(tmp_path):
    parts = {"train": np.zeros((5, 4)), "validation": np.zeros((5, 4)), "test": np.zeros((5, 3))}
    with pytest.raises(ValueError, match=r"one shape, got \[\(3,\), \(4,\)\]"):
        arrays.read_file(npz(tmp_path, **parts))


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*absent\.npy"):
        arrays.read_file(tmp_path / "absent.npy")
    for path in (npy(tmp_path, np.zeros((20, 4))), npz(tmp_path, x=np.zeros((20, 4)))):
        for damaged in (b"", b"not an array", path.read_bytes()[:-50]):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=f"cannot read {path}"):
                arrays.read_file(path)
