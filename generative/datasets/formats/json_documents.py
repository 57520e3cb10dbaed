"""JSON texts to the items of which records are made: whole documents, or one text per line.

Nothing is interpreted but which values are the items: those of a list, of a dictionary by id, of a pandas table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from generative.datasets.formats.columns import ROW_NAME, repeated_names
from generative.datasets.formats.tolerant_json import parsed, too_many_values
from generative.datasets.limits import MAX_FILE_BYTES
from generative.datasets.sources import SourceError
from generative.datasets.texts import listed


class RepeatedKeyError(ValueError):
    """An object of the file has a key twice, of which JSON readers keep the last without a word."""


def decoded_json(content: bytes) -> tuple[str, str]:
    """The text, foreign bytes as surrogates, and a sentence on the first of these; empty if there is none."""
    try:
        return content.decode("utf-8-sig"), ""
    except UnicodeDecodeError as error:
        reason = f"byte {content[error.start]:#04x} at position {error.start} is not UTF-8: expected UTF-8 JSON"
        return content.decode("utf-8-sig", "surrogateescape"), reason


class BadLine(str):
    """A line that is no JSON, and why, in place of what it should hold."""


def document_of(text: str) -> Any:
    """The document, or the list of the lines' if it is one per line, as the text shows."""
    try:
        return parsed(text, _object)[0]
    except json.JSONDecodeError as error:
        if error.msg != "Extra data" or not text.lstrip().startswith("{"):
            raise
    return [line_of(line) for line in text.split("\n") if line.strip()]


def line_of(line: str | bytes) -> Any:
    """The value of one line, or why there is none as a BadLine."""
    if isinstance(line, bytes):
        if reason := too_many_values(line, MAX_FILE_BYTES):
            return BadLine(f"the line {reason}")
        line, _ = decoded_json(line)
    try:
        return parsed(line, _object)[0]
    except (json.JSONDecodeError, RepeatedKeyError) as error:
        return BadLine(f"not JSON ({error}): expected a complete JSON text on each line")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RepeatedKeyError(f"the key {twice!r} stands twice in one object: expected each once, so rename one")
    return found


def items_of(document: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """The records and a name for each, used where it states none."""
    if isinstance(document, dict) and isinstance(document.get("entries"), (list, dict)):
        document = document["entries"]
    if isinstance(document, dict) and not _is_crystal(document) and isinstance(rows := document.get("data"), list):
        columns = document.get("columns")
        document = rows if columns is None else _table(columns, rows, path)
    if isinstance(document, dict) and _is_crystal(document):
        document = [document]
    if isinstance(document, dict):
        keys = [key for key in document if not key.startswith("@")]
        are_places = keys == [str(i) for i in range(len(keys))]  # as pandas numbers rows
        yield from ((f"{ROW_NAME}{key}" if are_places else key, document[key]) for key in keys)
    elif isinstance(document, list):
        yield from ((f"{ROW_NAME}{i}", item) for i, item in enumerate(document))
    else:
        raise SourceError(f"{path.name}: holds a JSON {type(document).__name__}, expected a list or dictionary")


def _is_crystal(document: Mapping[str, Any]) -> bool:
    return {"lattice", "sites"} <= document.keys() or "structure" in document


def _table(columns: Any, rows: Sequence[Any], path: Path) -> list[Any]:
    """Rows of pandas' orient='split', as of the matbench files, as dictionaries."""
    names = [str(name) for name in columns] if isinstance(columns, list) else []
    if same := repeated_names(names):
        raise SourceError(
            f"{path.name}: has the column {listed(same)[0]!r} {len(same)} times: expected each column once"
        )
    return [
        dict(zip(names, row, strict=True)) if isinstance(row, list) and len(row) == len(names) else row for row in rows
    ]
