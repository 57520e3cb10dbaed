"""Small JSON files that appear whole or not at all, also on a shared file system; standard library alone.

Those of a job and its result have a checksum. Those that other programs read, or that a few words of a controller are,
have none: one that is damaged there is as good as one that was never written.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.checksums import DamagedFileError
from storage.documents import read_document, write_document, write_json_text

ERROR_SCHEMA_VERSION = "1"


def write_json(path: Path, document: Any, *, checksum: bool = False) -> None:
    """Write or replace a file by one rename, synced to disk before it appears.

    Raises: DiskFullError: if there is no room.
    """
    if checksum:
        write_document(path, document, indent=1, sort_keys=True, synced=True)
    else:
        write_json_text(path, _text(document), synced=True)


def create_json(path: Path, document: Any) -> bool:
    """Write a file unless there is one; True for exactly one of all processes and machines that try.

    Raises: DiskFullError: if there is no room.
    """
    try:
        write_json_text(path, _text(document), synced=True, new=True)
    except FileExistsError:
        return False
    return True


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None if there is no file, or it does not hold the JSON object that was written."""
    try:
        return read_document(path, "it counts as missing")
    except (OSError, DamagedFileError):
        return None


def write_error(folder: Path, key: str, kind: str, reason: str, *, is_retryable: bool) -> None:
    """Leave error.json in a job folder: the reason why it has no record.

    Args:
        folder: of the job.
        key: of the job.
        kind: one or two words to count failures by.
        reason: one sentence or more: what was found, what was expected, the remedy.
        is_retryable: whether another attempt at the same could help.
    """
    document = {
        "schema_version": ERROR_SCHEMA_VERSION,
        "key": key,
        "kind": kind,
        "reason": reason,
        "is_retryable": is_retryable,
        "when": now(),
    }
    write_json(folder / "error.json", document)


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _text(document: Any) -> str:
    return json.dumps(document, indent=1, sort_keys=True) + "\n"
