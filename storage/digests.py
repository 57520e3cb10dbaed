"""SHA-256 of files and of what JSON can say: the names of results, jobs and drafts that are made but once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def file_digest(path: Path) -> str:
    """Of a file's bytes, read in pieces. Raises: OSError: if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_digest(text: str) -> str:
    """Of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def json_digest(
    document: Any, *, spaced: bool = False, finite: bool = True, default: Callable[[Any], Any] | None = None
) -> str:
    """Of a document's JSON text, keys sorted: equal for equal content, whatever order it was written in.

    Args:
        document: what JSON can say.
        spaced: with a blank behind commas and colons, as names have it that were given before others.
        finite: refuse NaN and infinities, which JSON does not know.
        default: makes something JSON knows of what it does not.

    Raises: ValueError or TypeError: if it holds something JSON does not know.
    """
    separators = None if spaced else (",", ":")
    text = json.dumps(document, sort_keys=True, allow_nan=not finite, separators=separators, default=default)
    return text_digest(text)
