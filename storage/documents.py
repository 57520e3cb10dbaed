"""JSON documents with a checksum over what they say; standard library alone.

The checksum is an entry of the document, over its other entries in a form that neither their order nor white space
changes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.atomic import writing
from storage.checksums import DamagedFileError
from storage.digests import json_digest

ENTRY = "checksum"


def text_of(document: Mapping[str, Any], indent: int = 2, *, sort_keys: bool = False) -> str:
    """The JSON text of a document with its checksum; what JSON does not know is written as `str` says it."""
    plain = json.loads(json.dumps(dict(document), default=str))
    return json.dumps({**plain, ENTRY: _checksum(plain)}, indent=indent, sort_keys=sort_keys) + "\n"


def document_of(text: str) -> dict[str, Any]:
    """The document in a JSON text, without its checksum; one that has none is of an earlier version, and let through.

    Raises: ValueError: if the text is no JSON object, or the checksum does not fit it.
    """
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError(f"a {type(document).__name__}, expected a JSON object")
    stated = document.pop(ENTRY, None)
    if stated is not None and stated != _checksum(document):
        raise ValueError("its checksum does not fit its content")
    return document


def write_document(
    path: Path, document: Mapping[str, Any], indent: int = 2, *, sort_keys: bool = False, synced: bool = False
) -> None:
    """Write a document that appears whole or not at all.

    Args:
        path: of the file.
        document: what JSON can say.
        indent: of the text.
        sort_keys: else entries keep their order.
        synced: on disk before it appears, so that a power cut leaves the old one or the new one.

    Raises: DiskFullError: if there is no room.
    """
    write_json_text(path, text_of(document, indent, sort_keys=sort_keys), synced=synced)


def write_json_text(path: Path, text: str, *, synced: bool = False, new: bool = False) -> None:
    """Write a text that appears whole or not at all; see write_document, and storage.atomic.writing for `new`."""
    with writing(path, new=new) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        if synced:
            file.flush()
            os.fsync(file.fileno())


def read_document(path: Path, remedy: str) -> dict[str, Any]:
    """The document in a file.

    Args:
        path: of the file.
        remedy: what to do about a damaged one, as the end of a sentence.

    Raises:
        FileNotFoundError: if there is none.
        DamagedFileError: if it does not hold what was written.
    """
    try:
        return document_of(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        said = " ".join(str(error).split())[:200]
        raise DamagedFileError(f"{path} is damaged ({said}): {remedy}") from None


def _checksum(plain: Mapping[str, Any]) -> str:
    return f"sha256:{json_digest(plain, finite=False)}"
