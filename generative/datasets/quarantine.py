"""Rows of the quarantine: what could not become a crystal, with the reason, in bounded UTF-8 whatever came."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from generative.crystal.crystals import Crystal
from generative.datasets.limits import MAX_NAME_CHARACTERS, MAX_REASON_CHARACTERS, MAX_RECORD_CHARACTERS
from generative.datasets.table import REJECTED_SCHEMA
from generative.datasets.texts import cut, plain_text, shown


def rejected_of(source: str, refusals: Iterable[tuple[str, str, Any]]) -> pa.Table:
    """(source_id, reason, record) triples as a table in REJECTED_SCHEMA; all are cut to the limits of their columns."""
    rows = [
        {
            "source": source,
            "source_id": cut(plain_text(source_id), MAX_NAME_CHARACTERS),
            "reason": cut(plain_text(reason), MAX_REASON_CHARACTERS),
            "record": record_text(record),
        }
        for source_id, reason, record in refusals
    ]
    return pa.Table.from_pylist(rows, schema=REJECTED_SCHEMA)


def record_text(record: Any) -> str:
    """A record as text that Parquet can hold, cut to MAX_RECORD_CHARACTERS; foreign bytes become escapes."""
    if isinstance(record, bytes):
        return record[:MAX_RECORD_CHARACTERS].decode("utf-8", "backslashreplace")[:MAX_RECORD_CHARACTERS]
    if isinstance(record, Crystal):
        arrays = (record.lattice_ang.ravel()[:9], record.frac.ravel()[:1000], record.atomic_numbers[:1000])
        names = ("lattice_ang", "frac_coords", "atomic_numbers")
        record = {name: array.tolist() for name, array in zip(names, arrays, strict=True)}
    text = record[:MAX_RECORD_CHARACTERS] if isinstance(record, str) else shown(record)
    return plain_text(text)[:MAX_RECORD_CHARACTERS]
