"""A file of compressed data that knows when it is not whole.

    magic          8 bytes
    header length  4 bytes, little-endian
    header         JSON; its "num_words" is the length of the payload
    payload        words of 32 bits, little-endian
    SHA-256        32 bytes, of everything before

A file is replaced as a whole, and read only if it is what was written.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.harness.checkpoints import write_atomically

_MAGIC = b"BITSBAK1"
_LENGTH = struct.Struct("<I")
_DIGEST_SIZE = hashlib.sha256().digest_size


class ArchiveError(ValueError):
    """A file is damaged, cut short, or no archive."""


def write(path: Path, header: Mapping[str, Any], words: np.ndarray) -> int:
    """Write a file, all of it or nothing.

    Args:
        path: the file.
        header: what JSON can hold.
        words: uint32, [num_words].

    Returns:
        The size of the file in bytes.
    """
    text = json.dumps(dict(header) | {"num_words": len(words)}, separators=(",", ":")).encode()
    content = _MAGIC + _LENGTH.pack(len(text)) + text + words.astype("<u4").tobytes()
    content += hashlib.sha256(content).digest()
    write_atomically(path, content)
    return len(content)


def read(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """Read a file that `write` wrote.

    Args:
        path: the file.

    Returns:
        The header, and the words as uint32.

    Raises:
        FileNotFoundError: there is no such file.
        ArchiveError: the file is not what was written; the message says how.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    content = path.read_bytes()
    body, digest = content[:-_DIGEST_SIZE], content[-_DIGEST_SIZE:]
    if content[: len(_MAGIC)] != _MAGIC[: len(content)]:
        raise foreign(path, "it begins with other bytes")
    if hashlib.sha256(body).digest() != digest:
        raise ArchiveError(
            f"{path} is damaged or cut short: its SHA-256 is not the one that it ends with"
        )
    # What follows was written so: it can only be foreign.
    start = len(_MAGIC) + _LENGTH.size
    try:
        (length,) = _LENGTH.unpack(body[len(_MAGIC) : start])
        header = json.loads(body[start : start + length])
        words = np.frombuffer(body[start + length :], "<u4").astype(np.uint32)
    except (struct.error, ValueError, RecursionError) as error:
        raise foreign(path, error) from None
    num_words = header.get("num_words") if isinstance(header, dict) else None
    if type(num_words) is not int or num_words != len(words):
        raise foreign(path, f"its header is not that of {len(words)} words")
    return header, words


def foreign(path: Path, reason: object) -> ArchiveError:
    """The error of a file that is whole, but not what is looked for."""
    return ArchiveError(f"{path} is no file of compressed images: {reason}")
