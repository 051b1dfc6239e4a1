"""The survey, from small files of the same form and from the real ones."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from experiments import harness
from experiments.harness import nltcs


@pytest.fixture
def splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Random answers of few people in the folder `nltcs`, the last file not packed."""
    monkeypatch.setattr(nltcs, "SIZES", {"train": 6, "valid": 4, "test": 5})
    rng = np.random.default_rng(0)
    (tmp_path / "nltcs").mkdir()
    splits = []
    for name, size in nltcs.SIZES.items():
        trait = rng.normal(size=(size, 1))
        x = (rng.uniform(size=(size, 16)) < 1 / (1 + np.exp(1 - 2 * trait))).astype(np.uint8)
        text = "".join(",".join(map(str, row)) + "\n" for row in x).encode()
        path = tmp_path / "nltcs" / f"nltcs.{name}.data"
        if name == "test":
            path.write_bytes(text)
        else:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(text))
        splits.append(x)
    return splits


def test_it_is_a_data_set_like_any_other(splits, tmp_path):
    dataset = harness.load("nltcs", likelihood="bernoulli", data_dir=tmp_path)
    assert (dataset.protocol, dataset.example_shape, dataset.num_levels) == ("static", (16,), 2)
    for name, x in zip(("train", "validation", "test"), splits, strict=True):
        split = getattr(dataset, name)
        assert split.x.dtype == np.uint8 and split.labels is None
        np.testing.assert_array_equal(split.x, x)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "nltcs.test.data must hold 5 people, one a line, got 0"),
        (b"0,1,0,1,0,1,0,1,0,1,0,1,0,1,0,1\n" * 4, "must hold 5 people, one a line, got 4"),
        (b"0,1" * 5, "line 1 of .*nltcs.test.data must be 16 zeros and ones"),
        (b"0," * 15 + b"2\n", "must be 16 zeros and ones .* got '0,0"),
        (b"0," * 15 + b"1\n\n" + b"0," * 15 + b"1\n", "line 2 of .* got ''"),
        (b"\xff\xfe", "cannot read .*nltcs.test.data"),
    ],
)
@pytest.mark.usefixtures("splits")
def test_what_is_damaged_is_named(tmp_path, content, message):
    (tmp_path / "nltcs" / "nltcs.test.data").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        nltcs.read(tmp_path)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no NLTCS in .* has the folder nltcs"):
        nltcs.read(tmp_path)


@pytest.mark.usefixtures("splits")
def test_a_packed_file_that_is_cut_short_is_named(tmp_path):
    path = tmp_path / "nltcs" / "nltcs.train.data.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"cannot read .*nltcs.train.data.gz"):
        nltcs.read(tmp_path)


def test_the_real_files(shared_data):
    if not (shared_data / "raw" / "nltcs").is_dir():
        pytest.skip(f"no nltcs in {shared_data}")
    source = nltcs.read(shared_data / "raw")
    assert [len(s.x) for s in (source.train, source.validation, source.test)] == [16181, 2157, 3236]
    # Whoever cannot do one thing can often not do another: all questions agree.
    assert np.corrcoef(source.train.x.T).min() > 0
