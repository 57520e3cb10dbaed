"""A SHA-256 checksum inside a file, over all its other bytes.

It is a record of 40 bytes, eight that mark it and the 32 of the checksum. In a Parquet file it stands before the
footer, where readers, who find everything by the offsets that the footer states, do not look; in any other file at the
end. So it covers page headers, statistics and footer, which Parquet's own page checksums do not, goes with the file
where that is copied, and does not survive when another program writes the table anew.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

MARK = b"\x89HWsum\r\n"
SIZE = len(MARK) + hashlib.sha256().digest_size
PARQUET = b"PAR1"
TAIL = 8
"""Bytes at the end of a Parquet file: the length of the footer, and PARQUET."""

PIECE = 1 << 20
SEARCHED = 1 << 22
"""Where a mark is looked for that is not in its place, bytes from the end."""


class DamagedFileError(ValueError):
    """A file that does not hold what was written; the message names it."""


class Checksum(StrEnum):
    """What a file's checksum says of its content."""

    RIGHT = "right"
    WRONG = "wrong"
    NONE = "none"


@dataclass(frozen=True)
class Inspected:
    """A file read through once.

    Attributes:
        sha256: of all its bytes, the record included.
        size: bytes.
        checksum: whether it has one, and it is right.
    """

    sha256: str
    size: int
    checksum: Checksum


def add_checksum(path: Path) -> Inspected:
    """Put a checksum into a file that has none, in place; do it before the file gets its name."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        offset = _offset(file, size, 0)
        covered = _digest(file, 0, offset)
        behind = _read(file, offset, size - offset)
        whole = covered.copy()
        covered.update(behind)
        record = MARK + covered.digest()
        file.seek(offset)
        file.write(record + behind)
        whole.update(record + behind)
    return Inspected(whole.hexdigest(), size + SIZE, Checksum.RIGHT)


def inspect(path: Path) -> Inspected:
    """Digest of a file, and what its checksum says, in one reading.

    Raises: OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        offset = _offset(file, size, SIZE)
        record = _read(file, offset, SIZE) if offset >= 0 else b""
        if not record.startswith(MARK):
            return Inspected(_digest(file, 0, size).hexdigest(), size, _without(file, size))
        covered = _digest(file, 0, offset)
        whole = covered.copy()
        for running, begin in ((whole, offset), (covered, offset + SIZE)):
            running.update(_read(file, begin, size - begin))
    state = Checksum.RIGHT if covered.digest() == record[len(MARK) :] else Checksum.WRONG
    return Inspected(whole.hexdigest(), size, state)


def check(path: Path, remedy: str) -> Inspected:
    """A file whose checksum is not wrong; one without any (of an earlier version, or not ours) is let through.

    Args:
        path: of the file.
        remedy: what to do about a damaged one, as the end of a sentence.

    Raises:
        DamagedFileError: if its bytes are not those that were written.
        OSError: if it cannot be read.
    """
    found = inspect(path)
    if found.checksum is Checksum.WRONG:
        raise DamagedFileError(f"{path} is damaged (its checksum does not fit its content): {remedy}")
    return found


def _offset(file: BinaryIO, size: int, record: int) -> int:
    """Where the record stands, or is to be put if `record`, its size, is 0; negative: the file is too short for one."""
    tail = _read(file, max(0, size - TAIL), TAIL)
    footer = TAIL + int.from_bytes(tail[:4], "little") if tail[4:] == PARQUET else 0
    return size - footer - record


def _without(file: BinaryIO, size: int) -> Checksum:
    """NONE, or WRONG where there is a mark that the end of the file, being damaged, does not lead to."""
    begin = max(0, size - SEARCHED)
    return Checksum.WRONG if MARK in _read(file, begin, size - begin) else Checksum.NONE


def _digest(file: BinaryIO, begin: int, end: int) -> hashlib._Hash:
    running = hashlib.sha256()
    file.seek(begin)
    while begin < end:
        piece = file.read(min(PIECE, end - begin))
        if not piece:
            break
        running.update(piece)
        begin += len(piece)
    return running


def _read(file: BinaryIO, begin: int, size: int) -> bytes:
    file.seek(begin)
    return file.read(size)
