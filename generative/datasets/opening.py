"""Files of many records: opening them, and a record that is refused before it is parsed."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import IO, Any, cast

from generative.datasets.records import Form, RawRecord

UNREADABLE = (OSError, EOFError, zlib.error)
"""What reading raises on a gzip file that is cut off or of another kind."""


def opened(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked if its name ends in .gz."""
    return cast(IO[bytes], gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb"))


def refused(source_id: str, reason: str, content: Any) -> RawRecord:
    """A record of which no crystal can be made, with one sentence that says why."""
    return RawRecord(source_id, Form.REFUSED, content, reason=reason)
