"""Files of compressed data: whole, or known not to be."""

import hashlib
import os
import struct

import numpy as np
import pytest

from experiments.harness import archive

WORDS = np.array([0, 1, 2**32 - 1, 0], np.uint32)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "images.bits"
    size = archive.write(path, {"num_examples": 3, "name": "é"}, WORDS)
    assert size == path.stat().st_size
    return path


def test_what_is_written_is_read(path):
    header, words = archive.read(path)
    assert header == {"num_examples": 3, "name": "é", "num_words": 4}
    assert words.dtype == np.uint32
    np.testing.assert_array_equal(words, WORDS)


def test_every_changed_bit_is_found(path):
    content = path.read_bytes()
    for index in range(len(content)):
        changed = bytearray(content)
        changed[index] ^= 1 << (index % 8)
        path.write_bytes(bytes(changed))
        with pytest.raises(archive.ArchiveError, match=r"images\.bits is (no file|damaged)"):
            archive.read(path)


def test_every_other_length_is_found(path):
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(archive.ArchiveError, match="is damaged or cut short"):
            archive.read(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(archive.ArchiveError, match="is damaged"):
        archive.read(path)


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        struct.pack("<I", 9) + b"not JSON!",
        struct.pack("<I", 2) + b"[]",
        struct.pack("<I", 2) + b"{}",
        struct.pack("<I", 19) + b'{"num_words":1e999}',
        struct.pack("<I", 17) + b'{"num_words":0.5}',
        struct.pack("<I", 17) + b'{"num_words":0.5}' + b"12",
        struct.pack("<I", 200_000) + b"[" * 200_000,
    ],
)
def test_what_is_whole_but_foreign_is_named(path, rest):
    content = b"BITSBAK1" + rest
    path.write_bytes(content + hashlib.sha256(content).digest())
    with pytest.raises(archive.ArchiveError, match=r"images\.bits is no file of compressed"):
        archive.read(path)


def test_a_write_that_fails_leaves_the_old_file(path, monkeypatch):
    def fail(*arguments):
        raise OSError("no space left on device")

    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="no space"):
            archive.write(path, {}, WORDS[:1])
    assert path.read_bytes() == before


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*nothing\.bits"):
        archive.read(tmp_path / "nothing.bits")
