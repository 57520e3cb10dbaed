"""From a raw record to a row of the table, or to a row of the quarantine with one sentence that says why.

A source hands over `RawRecord`s; `interpret` parses, checks and describes them in batches, in worker processes if
asked, and accounts for every one.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from itertools import islice
from multiprocessing import get_context
from typing import Any

import numpy as np
import pyarrow as pa
from pymatgen.core.composition import Composition

from generative.config import ELEMENTS
from generative.crystal.crystals import Crystal, structure_columns
from generative.datasets.checks import RecordError, checked, primitive, spacegroup_of
from generative.datasets.cif.reading import elements_of_cif, read_cif
from generative.datasets.formats.parsing import decoded, parse_structure_dict
from generative.datasets.formats.poscar import parse_poscar
from generative.datasets.levels import method_of
from generative.datasets.limits import (
    MAX_DIFFERENCE_EV_PER_ATOM,
    MAX_ENERGY_EV_PER_ATOM,
    MAX_EXTRA_CHARACTERS,
    MAX_NAME_CHARACTERS,
    MAX_RECORD_ATOMS,
)
from generative.datasets.origins import Origin
from generative.datasets.quarantine import rejected_of
from generative.datasets.sources import SourceBatch
from generative.datasets.table import DATASET_SCHEMA
from generative.datasets.texts import cut, fault_of, is_whole, plain_text

BATCH_SIZE = 256
"""Records held at once, per worker: bounds memory, and amortises the cost of a message to a worker process."""

_NULLS = frozenset({"", "nan", "none", "null", "na", "n/a"})

_UNITS = {
    "energy_ev_per_atom": "eV/atom",
    "formation_energy_ev_per_atom": "eV/atom",
    "e_above_hull_ev_per_atom": "eV/atom",
    "band_gap_ev": "eV",
}
_LARGEST = dict.fromkeys(_UNITS, MAX_DIFFERENCE_EV_PER_ATOM) | {"energy_ev_per_atom": MAX_ENERGY_EV_PER_ATOM}
_TEXTS = {"source_id": MAX_NAME_CHARACTERS, "source": MAX_NAME_CHARACTERS, "method": MAX_NAME_CHARACTERS} | {
    "run_type": MAX_NAME_CHARACTERS,
    "last_modified": MAX_NAME_CHARACTERS,
    "other_energies": MAX_EXTRA_CHARACTERS,
    "extra": MAX_EXTRA_CHARACTERS,
}
"""Columns of foreign text, with the most characters each may have."""


class Form(StrEnum):
    """In which form a record's crystal came."""

    CIF = "cif"
    POSCAR = "poscar"
    STRUCTURE = "structure"
    CRYSTAL = "crystal"
    REFUSED = "refused"


@dataclass(frozen=True)
class RawRecord:
    """One record as the source gave it, not yet parsed.

    Attributes:
        source_id: the source's own id, row number or file name.
        form: what `content` is: text of a CIF or POSCAR (str, or bytes not yet decoded), a pymatgen Structure
            dictionary, a Crystal, or, for a record already refused, its text.
        content: the crystal, or whatever could be read of it.
        properties: table column -> (the source's own name of the value, the value as it came). Columns: the four
            energies and the band gap of DATASET_SCHEMA, and 'spacegroup'.
        elements: the elements if the source states them apart from the structure, else None.
        source: overrides the reading source's name (rows of our own Parquet keep theirs).
        method: overrides the reading source's level of theory.
        reason: why the record was refused before parsing, for form REFUSED.
        run_type: calculation behind the energies, as the source states it.
        correction: scheme that corrected the energies, or names of corrections; see generative.datasets.levels.
        last_modified: when the source last changed the record, as it states it.
        extra: further fields of the record under the source's own names; kept as JSON.
        other_ids: ids of the same crystal elsewhere, in a record that was merged before.
        other_energies: what those ids state, JSON as in the table.
        origin: overrides the reading source's origin.
    """

    source_id: str
    form: Form
    content: Any
    properties: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    elements: frozenset[str] | None = None
    source: str | None = None
    method: str | None = None
    reason: str = ""
    run_type: str | None = None
    correction: str | None = None
    last_modified: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    other_ids: tuple[str, ...] = ()
    other_energies: str | None = None
    origin: Origin | None = None


Row = dict[str, Any]


def formula_of(atomic_numbers: Sequence[int] | np.ndarray) -> str:
    """Reduced formula of these atoms in electronegativity order (pymatgen), such as 'Ta2B'."""
    counts = Counter(ELEMENTS[int(z) - 1] for z in atomic_numbers)
    return _reduced_formula(tuple(sorted(counts.items())))


@lru_cache(maxsize=65536)
def _reduced_formula(counts: tuple[tuple[str, int], ...]) -> str:
    return str(Composition(dict(counts)).reduced_formula)


def row_of(
    crystal: Crystal,
    source: str,
    source_id: str,
    method: str,
    values: Mapping[str, float | int | None],
    stated: RawRecord | None = None,
    origin: Origin = Origin.UNSTATED,
) -> Row:
    """A row of DATASET_SCHEMA for a checked crystal; the crystal itself stands under the key 'crystal'.

    Args:
        crystal: as `checked` returns it.
        source: name of the source.
        source_id: the source's own id.
        method: level of theory.
        values: energies, band gap and 'spacegroup' by column name; a space group not given is found by spglib.
        stated: the record it came from, for what is taken over as it stands (run type, dates, further fields).
        origin: of the crystal, where the record states none.
    """
    crystal = primitive(crystal)
    counts = Counter(ELEMENTS[z - 1] for z in crystal.atomic_numbers)
    spacegroup = values.get("spacegroup")
    return {
        "id": f"{source}:{source_id}",
        "source": source,
        "source_id": source_id,
        "origin": ((stated.origin if stated is not None else None) or origin).value,
        "formula": formula_of(crystal.atomic_numbers),
        "chemsys": "-".join(sorted(counts)),
        "n_elements": len(counts),
        "n_atoms": len(crystal.atomic_numbers),
        "spacegroup": spacegroup_of(crystal) if spacegroup is None else spacegroup,
        **{column: values.get(column) for column in _UNITS},
        "method": method,
        "run_type": None if stated is None else stated.run_type,
        "last_modified": None if stated is None else stated.last_modified,
        "other_ids": list(stated.other_ids) if stated is not None and stated.other_ids else None,
        "other_energies": None if stated is None else stated.other_energies,
        "extra": None if stated is None or not stated.extra else json_text(stated.extra),
        "crystal": crystal,
    }


def json_text(value: Any) -> str:
    """A value as JSON text, the same for the same content: keys sorted, no spaces, foreign types as their text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def checked_texts(row: Row) -> Row:
    """The row, if a table can hold its texts.

    Raises:
        RecordError: if one is no text, too long, or holds half a character.
    """
    for column, most in _TEXTS.items():
        text = row[column]
        if text is None:
            continue
        if not isinstance(text, str):
            raise RecordError(f"{column} is a {type(text).__name__}: expected text")
        if len(text) > most:
            raise RecordError(f"{column} has {len(text)} characters: expected at most {most}")
        if not text.isascii() and not is_whole(text):
            raise RecordError(f"{column} is {cut(plain_text(text), 80)!r}: expected text in UTF-8")
    for one in row["other_ids"] or ():
        if not isinstance(one, str) or len(one) > MAX_NAME_CHARACTERS or not is_whole(one):
            raise RecordError(f"other_ids hold {cut(plain_text(str(one)), 80)!r}: expected ids in UTF-8")
    return row


def table_of(rows: Iterable[Row]) -> pa.Table:
    """Rows as made by `row_of`, as a table in DATASET_SCHEMA."""
    rows = list(rows)
    columns = structure_columns([row["crystal"] for row in rows])
    for column in DATASET_SCHEMA:
        if column.name not in columns:
            columns[column.name] = pa.array([row[column.name] for row in rows], type=column.type)
    return pa.table([columns[name] for name in DATASET_SCHEMA.names], schema=DATASET_SCHEMA)


def number(value: Any, name: str, unit: str) -> float | None:
    """A property as a float; None if the source left it empty.

    Raises:
        RecordError: if it is neither a finite number nor empty.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in _NULLS):
        return None
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        raise RecordError(f"{name} is {_beginning(value)!r}: expected a number in {unit} or nothing") from None
    if math.isnan(result):
        return None
    if math.isinf(result):
        raise RecordError(f"{name} is {result}: expected a finite number in {unit} or nothing")
    return result


def _beginning(value: Any) -> str:
    if isinstance(value, int):  # Python writes no number of thousands of digits
        return f"a whole number of {value.bit_length()} bits"
    return str(value)[:80]


def _values(properties: Mapping[str, tuple[str, Any]]) -> dict[str, float | int | None]:
    values: dict[str, float | int | None] = {}
    for column, (name, value) in properties.items():
        if column == "spacegroup":
            found = number(value, name, "international space-group number")
            if found is not None and (found != int(found) or not 1 <= found <= 230):
                raise RecordError(f"{name} is {value!r}: expected an international space-group number from 1 to 230")
            values[column] = None if found is None else int(found)
        else:
            found = number(value, name, _UNITS[column])
            if found is not None and abs(found) > (most := _LARGEST[column]):
                raise RecordError(f"{name} is {found:.4g} {_UNITS[column]}: expected between {-most:g} and {most:g}")
            values[column] = found
    return values


def stated_elements(record: RawRecord) -> frozenset[str] | None:
    """The record's elements as far as they can be told without parsing its structure; None if they cannot."""
    if record.elements is not None:
        return record.elements
    if record.form is Form.CIF and isinstance(record.content, str):
        return elements_of_cif(record.content)
    if record.form is Form.CRYSTAL:
        return frozenset(ELEMENTS[z - 1] for z in record.content.atomic_numbers if 1 <= z <= len(ELEMENTS))
    return None


def parse_record(record: RawRecord) -> Crystal:
    """The crystal of a record, whatever its form, not yet checked.

    Raises:
        RecordError: if there is none in it.
    """
    return _read(record)[0]


def _read(record: RawRecord) -> tuple[Crystal, tuple[str, ...]]:
    """The crystal of a record, and what a user should know of how it was read."""
    match record.form:
        case Form.CIF:
            found = read_cif(decoded(record.content), MAX_RECORD_ATOMS)
            return found.crystal, found.notes
        case Form.POSCAR:
            return parse_poscar(decoded(record.content)), ()
        case Form.STRUCTURE:
            return parse_structure_dict(record.content), ()
        case Form.CRYSTAL:
            return record.content, ()
        case Form.REFUSED:
            raise RecordError(record.reason)


def interpret_batch(
    records: list[RawRecord],
    source: str,
    method: str,
    elements: tuple[str, ...] | None,
    origin: Origin = Origin.UNSTATED,
) -> tuple[list[Row], list[tuple[str, str, Any]], int]:
    """Rows, refusals and the number of records outside the chemical system. Runs in a worker process too."""
    rows: list[Row] = []
    refusals: list[tuple[str, str, Any]] = []
    n_filtered = 0
    allowed = None if elements is None else frozenset(elements)
    for record in records:
        try:
            stated = None if allowed is None else stated_elements(record)
            if allowed is not None and stated is not None and not stated <= allowed:
                n_filtered += 1
                continue
            parsed, notes = _read(record)
            crystal = checked(parsed)
            if notes:
                record = replace(record, extra={**record.extra, "reading_notes": list(notes)})
            present = {ELEMENTS[z - 1] for z in crystal.atomic_numbers}
            if allowed is not None and not present <= allowed:
                n_filtered += 1
                continue
            values = _values(record.properties)
            label = record.method or method_of(method, record.run_type, record.correction)
            row = row_of(crystal, record.source or source, record.source_id, label, values, record, origin)
            rows.append(checked_texts(row))
        except RecordError as error:
            refusals.append((record.source_id, str(error), record.content))
        except Exception as error:  # of a foreign record anything can be raised; the others are none the worse for it
            refusals.append((record.source_id, fault_of(error), record.content))
    return rows, refusals, n_filtered


def interpret(
    records: Iterator[RawRecord],
    source: str,
    method: str,
    elements: tuple[str, ...] | None,
    workers: int = 1,
    origin: Origin = Origin.UNSTATED,
) -> Iterator[SourceBatch]:
    """Raw records as batches of the table, in their order; at most 2 * workers batches are in memory.

    Args:
        records: read lazily.
        source: name of the source.
        method: level of theory of records that state none.
        elements: leave out records with any other element, unparsed where their elements are stated.
        workers: processes that parse; 1 parses here.
        origin: of records that state none.
    """

    def finished(batch: list[RawRecord], result: tuple[list[Row], list[tuple[str, str, Any]], int]) -> SourceBatch:
        rows, refusals, n_filtered = result
        return SourceBatch(table_of(rows), rejected_of(source, refusals), len(batch), n_filtered)

    # spglib's C code prints a line for each failed attempt; the outcome is in the column. Worker processes inherit it.
    os.environ.setdefault("SPGLIB_WARNING", "OFF")
    batches = iter(lambda: list(islice(records, BATCH_SIZE)), [])
    if workers == 1:
        for batch in batches:
            yield finished(batch, interpret_batch(batch, source, method, elements, origin))
        return
    # spawn: the caller may be a thread of a process that holds locks (torch, Prefect), which a fork would copy held.
    with ProcessPoolExecutor(min(workers, os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
        waiting: deque[tuple[list[RawRecord], Future[tuple[list[Row], list[tuple[str, str, Any]], int]]]] = deque()

        def oldest() -> SourceBatch:
            done, future = waiting.popleft()
            try:
                return finished(done, future.result())
            except BrokenProcessPool:
                raise
            except Exception:  # what cannot be sent to another process (nesting, odd types) is read here
                return finished(done, interpret_batch(done, source, method, elements, origin))

        for batch in batches:
            waiting.append((batch, pool.submit(interpret_batch, batch, source, method, elements, origin)))
            if len(waiting) >= 2 * workers:
                yield oldest()
        while waiting:
            yield oldest()
