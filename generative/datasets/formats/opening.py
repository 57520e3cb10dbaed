"""Files of many records, opened with a bound on what they unpack to; records that are refused before being parsed."""

from __future__ import annotations

import gzip
import io
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from generative.datasets.checks import RecordError
from generative.datasets.limits import FREE_BYTES, MAX_BLANK_LINES, MAX_EXPANSION
from generative.datasets.records import Form, RawRecord
from generative.datasets.texts import fault_of

READ_BYTES = 1 << 20


class ExpansionError(OSError):
    """A file that unpacks to far more than tables of crystals do."""


class LongLineError(OSError):
    """A line that is longer than any of its kind of file."""


UNREADABLE = (OSError, EOFError, zlib.error)
"""What reading raises on a gzip file that is cut off, of another kind, or a bomb."""


class Expansion:
    """What has come out of a file so far, held against its size."""

    def __init__(self, n_packed_bytes: int) -> None:
        self._most = max(FREE_BYTES, MAX_EXPANSION * n_packed_bytes)
        self._n_packed, self._n_bytes = n_packed_bytes, 0

    def add(self, n_bytes: int) -> None:
        """Count bytes that came out.

        Raises:
            ExpansionError: if they are now more than MAX_EXPANSION times the file.
        """
        self._n_bytes += n_bytes
        if self._n_bytes > self._most:
            raise ExpansionError(
                f"its {self._n_packed} bytes unpack to over {self._n_bytes}: expected at most {MAX_EXPANSION} times as "
                "many; unpack the file yourself if it is meant"
            )


class _Unpacked(io.RawIOBase):
    """A gzip file's content, a bounded piece at a time."""

    def __init__(self, path: Path) -> None:
        self._file = gzip.open(path, "rb")  # noqa: SIM115, closed by close
        self._expansion = Expansion(path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._file.read(len(buffer))
        self._expansion.add(len(piece))
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        self._file.close()
        super().close()


def opened(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked if its name ends in .gz.

    Raises:
        OSError: if it is no regular file; ExpansionError, while reading, if it unpacks to too much.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for, a device has no end
        raise OSError("no regular file")
    if path.name.lower().endswith(".gz"):
        return cast(IO[bytes], io.BufferedReader(_Unpacked(path), READ_BYTES))
    return path.open("rb")


def bounded_lines(raw: IO[bytes], n_bytes_max: int) -> Iterator[bytes]:
    """The lines of a file of bytes, with their ends.

    Raises:
        LongLineError: if one is longer, before more than that of it is in memory, or if nothing but blank lines comes.
    """
    return _bounded(raw.readline, n_bytes_max, "bytes")


def lines_of(text: io.TextIOBase, n_characters_max: int) -> Iterator[str]:
    """The lines of a text; see `bounded_lines`."""
    return _bounded(text.readline, n_characters_max, "characters")


Line = TypeVar("Line", str, bytes)


def _bounded(readline: Callable[[int], Line], most: int, unit: str) -> Iterator[Line]:
    n_blank = 0
    while line := readline(most + 1):
        if len(line) > 2:
            n_blank = 0
            if len(line) > most:
                raise LongLineError(f"a line has more than {most} {unit}: expected shorter ones")
        elif not line.strip() and (n_blank := n_blank + 1) > MAX_BLANK_LINES:
            raise LongLineError(f"more than {MAX_BLANK_LINES} blank lines follow each other: expected records")
        yield line


def refused(source_id: str, reason: str, content: Any) -> RawRecord:
    """A record of which no crystal can be made, with one sentence that says why."""
    return RawRecord(source_id, Form.REFUSED, content, reason=reason)


def made(make: Callable[[], RawRecord], fallback_id: str, content: Any) -> RawRecord:
    """The record, or a refused one if anything is raised on the way: a foreign record can hold whatever JSON can.

    Args:
        make: gives it.
        fallback_id: its id if it is refused.
        content: what it is made from.
    """
    try:
        return make()
    except RecordError as error:
        return refused(fallback_id, str(error), content)
    except Exception as error:
        return refused(fallback_id, fault_of(error), content)
