"""Job documents as files: JSON lines, compressed where the name ends in .gz; out of one store and into another.

The first line says what the file is. Each further line is one document with the table that it belongs to: `jobs`, or
the name of an additional store such as `data`. Values are MongoDB extended JSON, so that dates and numbers come back as
they were.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, cast

from bson import json_util
from jobflow.core.store import JobStore
from maggma.core import Store

from storage.atomic import writing

FORMAT, SCHEMA_VERSION = "hullward job documents", "1"
JOBS = "jobs"
BATCH = 200
"""Documents written in one transaction."""


class StoreFileError(ValueError):
    """A file that holds no job documents, or a document that cannot be taken."""


@dataclass(frozen=True)
class Imported:
    """What an import has done.

    Attributes:
        n_documents: taken, by table.
        refused: lines that were not, each one sentence with its number.
    """

    n_documents: dict[str, int]
    refused: tuple[str, ...]


def export_documents(
    store: JobStore, file: Path, criteria: dict[str, Any] | None = None, progress: Callable[[int], None] | None = None
) -> dict[str, int]:
    """Write the documents of a store to a file that appears whole or not at all.

    Args:
        store: connected.
        file: ends in .jsonl or .jsonl.gz; one that is there is replaced.
        criteria: a query that chooses job documents; large outputs of the chosen jobs go along. None takes everything.
        progress: called with the number of documents written so far.

    Returns: Number of documents by table.
    """
    counts: dict[str, int] = {}
    with writing(file) as temporary, _opened(temporary, "wt", is_compressed=file.suffix == ".gz") as out:
        out.write(json.dumps({"format": FORMAT, "schema_version": SCHEMA_VERSION}) + "\n")
        uuids = [doc["uuid"] for doc in store.docs_store.query(criteria, ["uuid"])] if criteria else None
        for table, part, chosen in _parts(store, criteria, uuids):
            counts[table] = 0
            for document in part.query(chosen):
                document.pop("_id", None)
                out.write(json_util.dumps({"table": table, "document": document}) + "\n")
                counts[table] += 1
                if progress is not None:
                    progress(sum(counts.values()))
    return counts


def import_documents(store: JobStore, file: Path, progress: Callable[[int], None] | None = None) -> Imported:
    """Take the documents of a file into a store; a document that is there already is replaced. Done twice, the same.

    Args:
        store: connected.
        file: as `export_documents` writes it.
        progress: called with the number of lines read so far.

    Returns: What was taken, and which lines were not and why. The lines around a broken one are taken.

    Raises: StoreFileError: if the file is not one of job documents, or of a later version.
    """
    counts: dict[str, int] = {}
    refused: list[str] = []
    waiting: dict[str, list[dict[str, Any]]] = {}
    parts = _tables(store)
    keys = {name: ["uuid", "index"] if name == JOBS else ["blob_uuid"] for name in parts}

    def flush(table: str) -> None:
        parts[table].update(waiting.pop(table), key=keys[table])

    for number, line in _lines(file):
        try:
            table, document = _document(line, keys)
        except (ValueError, KeyError, TypeError) as error:
            refused.append(f"line {number}: {' '.join(str(error).split()) or type(error).__name__}")
            continue
        waiting.setdefault(table, []).append(document)
        counts[table] = counts.get(table, 0) + 1
        if len(waiting[table]) >= BATCH:
            flush(table)
        if progress is not None:
            progress(number)
    for table in list(waiting):
        flush(table)
    return Imported(counts, tuple(refused))


def _parts(
    store: JobStore, criteria: dict[str, Any] | None, uuids: list[str] | None
) -> Iterator[tuple[str, Store, dict[str, Any] | None]]:
    for name, part in _tables(store).items():
        chosen = None if uuids is None else {"job_uuid": {"$in": uuids}}
        yield name, part, criteria if name == JOBS else chosen


def _tables(store: JobStore) -> dict[str, Store]:
    """The job documents and the additional stores, by name."""
    additional: dict[str, Store] = vars(store)["additional_stores"]
    return {JOBS: store.docs_store, **dict(sorted(additional.items()))}


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines after the first, which must say what the file is."""
    try:
        with _opened(file, "rt", is_compressed=_is_gzip(file)) as text:
            head = text.readline()
            try:
                stated = json.loads(head)
                kind, version = stated["format"], stated["schema_version"]
            except (ValueError, KeyError, TypeError):
                kind, version = None, None
            if (kind, version) != (FORMAT, SCHEMA_VERSION):
                raise StoreFileError(
                    f"{file} begins with {head[:60].strip()!r}: expected a file of job documents, version "
                    f"{SCHEMA_VERSION}, as `hullward dft export` writes it"
                )
            for number, line in enumerate(text, start=2):
                if line.strip():
                    yield number, line
    except (EOFError, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise StoreFileError(f"{file} is damaged ({error}): what came before was taken; copy it again") from error


def _document(line: str, keys: dict[str, list[str]]) -> tuple[str, dict[str, Any]]:
    stated = json_util.loads(line)
    table, document = stated["table"], stated["document"]
    if table not in keys:
        raise StoreFileError(f"table {table!r} is unknown: expected one of {', '.join(keys)}")
    if missing := [field for field in keys[table] if field not in document]:
        raise StoreFileError(f"a document of {table!r} lacks {missing[0]!r}, by which it is known")
    return str(table), dict(document)


def _is_gzip(file: Path) -> bool:
    with file.open("rb") as raw:
        return raw.read(2) == b"\x1f\x8b"


def _opened(file: Path, mode: str, *, is_compressed: bool) -> TextIO:
    if is_compressed:
        return cast(TextIO, gzip.open(file, mode, encoding="utf-8"))
    return cast(TextIO, file.open(mode, encoding="utf-8"))
