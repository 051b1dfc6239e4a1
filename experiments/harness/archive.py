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
    start = len(_MAGIC) + _LENGTH.size
    if content[: len(_MAGIC)] != _MAGIC[: len(content)]:
        raise ArchiveError(f"{path} is no file of compressed images")
    if len(content) < start + _DIGEST_SIZE:
        raise ArchiveError(f"{path} is cut short: it has {len(content)} bytes")
    (length,) = _LENGTH.unpack(content[len(_MAGIC) : start])
    try:
        header = json.loads(content[start : start + length])
        size = start + length + 4 * int(header["num_words"]) + _DIGEST_SIZE
    except (ValueError, TypeError, KeyError) as error:
        raise ArchiveError(f"{path} is damaged: its header cannot be read ({error})") from None
    if len(content) != size:
        how = "cut short" if len(content) < size else "too long"
        raise ArchiveError(
            f"{path} is {how}: it has {len(content)} bytes, and {size} by its header"
        )
    body, digest = content[:-_DIGEST_SIZE], content[-_DIGEST_SIZE:]
    if hashlib.sha256(body).digest() != digest:
        raise ArchiveError(f"{path} is damaged: its SHA-256 is not the one that it ends with")
    return header, np.frombuffer(body[start + length :], "<u4").astype(np.uint32)
