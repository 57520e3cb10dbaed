"""Small JSON files that appear whole or not at all, also on a shared file system; standard library alone."""

from __future__ import annotations

import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ERROR_SCHEMA_VERSION = "1"


def write_json(path: Path, document: Any) -> None:
    """Write or replace a file by one rename, synced to disk before it appears."""
    temporary = _written(path, document)
    os.replace(temporary, path)


def create_json(path: Path, document: Any) -> bool:
    """Write a file unless there is one; True for exactly one of all processes and machines that try.

    The link call is atomic on network file systems too, where O_EXCL was not always.
    """
    temporary = _written(path, document)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None if there is no file, or it holds no JSON object."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


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


def _written(path: Path, document: Any) -> Path:
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(document, file, indent=1, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    return temporary
