"""The survey, from small files of the same form and from the real ones."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from experiments import harness
from experiments.harness import nltcs


def write_survey(folder: Path, sizes: tuple[int, int, int] = (6, 4, 5)) -> list[np.ndarray]:
    """Random answers in the folder `nltcs`, the last file not packed; gives them back."""
    rng = np.random.default_rng(0)
    (folder / "nltcs").mkdir(exist_ok=True)
    splits = []
    for name, size in zip(("train", "valid", "test"), sizes, strict=True):
        trait = rng.normal(size=(size, 1))
        x = (rng.uniform(size=(size, 16)) < 1 / (1 + np.exp(1 - 2 * trait))).astype(np.uint8)
        text = "".join(",".join(map(str, row)) + "\n" for row in x).encode()
        path = folder / "nltcs" / f"nltcs.{name}.data"
        if name == "test":
            path.write_bytes(text)
        else:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(text))
        splits.append(x)
    return splits


def test_it_is_a_data_set_like_any_other(tmp_path):
    splits = write_survey(tmp_path)
    dataset = harness.load("nltcs", likelihood="bernoulli", data_dir=tmp_path)
    assert (dataset.protocol, dataset.example_shape, dataset.num_levels) == ("static", (16,), 2)
    for name, x in zip(("train", "validation", "test"), splits, strict=True):
        split = getattr(dataset, name)
        assert split.x.dtype == np.uint8 and split.labels is None
        np.testing.assert_array_equal(split.x, x)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold one person a line, got nothing"),
        (b"0,1" * 5, "line 1 of .*nltcs.test.data must be 16 zeros and ones"),
        (b"0," * 15 + b"2\n", "must be 16 zeros and ones .* got '0,0"),
        (b"0," * 15 + b"1\n\n" + b"0," * 15 + b"1\n", "line 2 of .* got ''"),
        (b"\xff\xfe", "cannot read .*nltcs.test.data"),
    ],
)
def test_what_is_damaged_is_named(tmp_path, content, message):
    write_survey(tmp_path)
    (tmp_path / "nltcs" / "nltcs.test.data").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        nltcs.read(tmp_path)


def test_what_is_missing_or_cut_short_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no NLTCS in .* has the folder nltcs"):
        nltcs.read(tmp_path)
    write_survey(tmp_path)
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
