"""One row per crystal out of a table of several sources: copies are dropped and listed on the row that stays.

Two rows are the same crystal if generative.screening.matching says so and their sources differ; rows of one source are
never merged with each other, because a database knows best what it holds twice. As in matching, the earlier row is the
first argument of StructureMatcher.fit, a row belongs to the first row kept so far that it fits, and a fault counts as
different. So a kept row may stand for several rows of one other source, and what it stands for depends on the order of
the rows alone.

A row that stays is of the strongest origin among its copies: reported if one source says so. It keeps its own
energies: those of the dropped rows may be of another level of theory, so they are listed
beside it, each with its method, and never averaged.

Memory: three integers per row, the crystals of CRYSTAL_ATOMS_AT_ONCE atoms, and, when written, the names and energies
of the dropped rows; some 0.3 GB for a million rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from generative.crystal.crystals import STRUCTURE_FIELDS, Crystal, crystals_of
from generative.datasets.origins import strongest
from generative.datasets.table import DATASET_SCHEMA, batches_of
from generative.screening.matching import ReferenceSet, Tolerances, fit_reduced
from generative.screening.pair_fits import Judge
from storage.progress import Progress

CRYSTAL_ATOMS_AT_ONCE = 1_000_000
"""Atoms whose crystals are held while their formulas are compared, 26 MB; each such lot costs one pass over the file.
Only a single formula may exceed it."""

BATCH_ROWS = 4096
"""Rows read at once."""

STATED = (
    "method",
    "run_type",
    "energy_ev_per_atom",
    "formation_energy_ev_per_atom",
    "e_above_hull_ev_per_atom",
    "band_gap_ev",
)
"""What is listed of a dropped row beside its id, where it is not null."""


@dataclass(frozen=True)
class Copies:
    """Which rows of a table are copies of an earlier row.

    Attributes:
        original: for each row the index of the row that stands for it, (n_rows,); its own index if it stays.
        n_dropped: copies by source, sources in table order.
        n_compared: rows whose formula occurs in two sources or more; no other is looked at.
        n_pairs: pairs of one formula and two sources, each row up to its first hit.
        n_fits: pairs given to the matcher; the others differ in their primitive number of atoms.
        failures: reason for each row (by index) that the matcher could not handle; such a row, or pair, counts as
            different.
        tolerances: of the matcher.
    """

    original: np.ndarray
    n_dropped: Mapping[str, int]
    n_compared: int
    n_pairs: int
    n_fits: int
    failures: Mapping[int, str]
    tolerances: Tolerances


def find_copies(path: Path, tolerances: Tolerances, progress: Progress | None = None) -> Copies:
    """The copies in a Parquet file in DATASET_SCHEMA.

    Cost: 2 ms to reduce a crystal, 1 ms per fit; a row that has no namesake in another source costs next to nothing.

    Args:
        path: rows in the order of their sources; the first source is the one whose rows stay.
        tolerances: of the matcher.
        progress: called after each formula.
    """
    with pq.ParquetFile(path) as file:
        formula, _ = _codes(file, "formula")
        source, names = _codes(file, "source")
        n_atoms = file.read(["n_atoms"]).column(0).to_numpy()
        search = _Search(source, tolerances)
        order = _shared(formula, source)
        done = 0
        for lot in _lots(order, formula, n_atoms):
            rows = np.sort(lot)
            table = _taken(file, rows, [field.name for field in STRUCTURE_FIELDS])
            for same_formula in _runs(lot, formula):
                crystals = crystals_of(table.take(np.searchsorted(rows, same_formula)))
                search.look_through(same_formula, crystals)
                done += len(same_formula)
                if progress is not None:
                    progress(done, len(order))
    dropped = search.original != np.arange(len(source))
    counts = np.bincount(source[dropped], minlength=len(names))
    return Copies(
        original=search.original,
        n_dropped={name: int(n) for name, n in zip(names, counts, strict=True)},
        n_compared=len(order),
        n_pairs=search.n_pairs,
        n_fits=search.n_fits,
        failures=search.failures,
        tolerances=tolerances,
    )


def merged(path: Path, copies: Copies) -> Iterator[pa.Table]:
    """The rows that stay, in table order, with what was dropped in `other_ids` and `other_energies`.

    An id is listed once, at its first place; what its own row states stands before what another row listed of it.

    Args:
        path: the file that `copies` was found in.
        copies: as `find_copies` returned it.

    Raises:
        ValueError: if the file has another number of rows.
    """
    with pq.ParquetFile(path) as file:
        if file.metadata.num_rows != len(copies.original):
            raise ValueError(
                f"the table has {file.metadata.num_rows} rows, its copies were found among {len(copies.original)}: "
                "expected the same file, so find the copies again"
            )
        dropped = np.flatnonzero(copies.original != np.arange(len(copies.original)))
        dropped = dropped[np.argsort(copies.original[dropped], kind="stable")]  # by kept row, then in table order
        in_file_order = np.argsort(dropped)
        others = _taken(file, dropped[in_file_order], ["id", "origin", *STATED, "other_ids", "other_energies"])
        others = others.take(np.argsort(in_file_order))
        start = 0
        for batch in batches_of(file, BATCH_ROWS):
            original = copies.original[start : start + len(batch)]
            kept = np.flatnonzero(original == np.arange(start, start + len(batch)))
            first, last = np.searchsorted(copies.original[dropped], [start, start + len(batch)])
            rows = pa.Table.from_batches([batch]).select(DATASET_SCHEMA.names).take(kept)
            if last > first:
                stands_for = np.searchsorted(kept + start, copies.original[dropped[first:last]])
                rows = _with_others(rows, stands_for, others.slice(first, last - first))
            if len(rows):
                yield rows.cast(DATASET_SCHEMA)
            start += len(batch)


class _Search:
    """Formula by formula, which row is a copy of which."""

    def __init__(self, source: np.ndarray, tolerances: Tolerances) -> None:
        self.original = np.arange(len(source))
        self.n_pairs = 0
        self.n_fits = 0
        self.failures: dict[int, str] = {}
        self._source = source
        self._judge = Judge(tolerances)
        self._dimensions = tolerances.dimensions

    def look_through(self, rows: np.ndarray, crystals: Sequence[Crystal | None]) -> None:
        """Settle the rows of one formula, given in table order with their crystals."""
        there = [(int(row), crystal) for row, crystal in zip(rows, crystals, strict=True) if crystal is not None]
        given = ReferenceSet([str(row) for row, _ in there], [crystal for _, crystal in there])
        reduced = given.comparable(self._dimensions)
        source = self._source[[row for row, _ in there]]
        kept: list[int] = []
        for index, (row, _) in enumerate(there):
            hit = next((one for one in kept if source[one] != source[index] and self._same(reduced, one, index)), None)
            if hit is None:
                kept.append(index)
            else:
                self.original[row] = there[hit][0]

    def _same(self, crystals: ReferenceSet, first: int, second: int) -> bool:
        """Whether two crystals of one formula are the same; counts, and notes what went wrong."""
        self.n_pairs += 1
        pair = [crystals.reduced(first), crystals.reduced(second)]
        for index, reduced in zip((first, second), pair, strict=True):
            if reduced.crystal is None:
                self.failures.setdefault(int(crystals.id_of(index)), reduced.fault)
        if pair[0].crystal is None or pair[1].crystal is None:
            return False
        if len(pair[0].crystal.atomic_numbers) != len(pair[1].crystal.atomic_numbers):
            return False
        self.n_fits += 1
        same, fault = fit_reduced(
            self._judge, crystals.crystal_of(first), pair[0], crystals.crystal_of(second), pair[1]
        )
        if fault:
            self.failures.setdefault(int(crystals.id_of(second)), f"compared with row {crystals.id_of(first)}: {fault}")
        return same


def _codes(file: pq.ParquetFile, column: str) -> tuple[np.ndarray, list[str]]:
    """A column of text as one number per row, and the texts in the order of their first row."""
    encoded = file.read([column]).column(0).combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def _shared(formula: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Rows whose formula occurs in several sources, formula by formula, each in table order."""
    if not len(formula):
        return np.zeros(0, dtype=np.int64)
    n_sources = int(source.max()) + 1
    in_sources = np.bincount(np.unique(formula * n_sources + source) // n_sources)
    rows = np.flatnonzero(in_sources[formula] > 1)
    return rows[np.argsort(formula[rows], kind="stable")]


def _lots(order: np.ndarray, formula: np.ndarray, n_atoms: np.ndarray) -> Iterator[np.ndarray]:
    """Pieces of `order`, whole formulas each, of up to CRYSTAL_ATOMS_AT_ONCE atoms where that is possible."""
    lot: list[np.ndarray] = []
    total = 0
    for run in _runs(order, formula):
        atoms = int(n_atoms[run].sum(dtype=np.int64))
        if lot and total + atoms > CRYSTAL_ATOMS_AT_ONCE:
            yield np.concatenate(lot)
            lot, total = [], 0
        lot.append(run)
        total += atoms
    if lot:
        yield np.concatenate(lot)


def _runs(rows: np.ndarray, formula: np.ndarray) -> Iterator[np.ndarray]:
    """Pieces of one formula each, of rows that stand formula by formula."""
    changes = np.flatnonzero(np.diff(formula[rows])) + 1
    for start, stop in zip([0, *changes], [*changes, len(rows)], strict=True):
        if stop > start:
            yield rows[start:stop]


def _taken(file: pq.ParquetFile, rows: np.ndarray, columns: Sequence[str]) -> pa.Table:
    """These rows (ascending) of the file in memory; one pass, a batch at a time."""
    pieces: list[pa.RecordBatch] = []
    start = 0
    for batch in batches_of(file, BATCH_ROWS, columns):
        first, last = np.searchsorted(rows, [start, start + len(batch)])
        if last > first:
            pieces.append(batch.take(pa.array(rows[first:last] - start)))
        start += len(batch)
    schema = pa.schema([file.schema_arrow.field(name) for name in columns])
    return pa.Table.from_batches([piece.select(list(columns)) for piece in pieces], schema).combine_chunks()


def _with_others(rows: pa.Table, stands_for: np.ndarray, others: pa.Table) -> pa.Table:
    """The rows, each with the dropped rows it stands for.

    Args:
        rows: that stay.
        stands_for: for each dropped row the position in `rows`, ascending, (n_dropped,).
        others: the dropped rows.
    """
    ids = rows.column("other_ids").to_pylist()
    energies = rows.column("other_energies").to_pylist()
    origins = rows.column("origin").to_pylist()
    dropped = others.to_pylist()
    positions, starts = np.unique(stands_for, return_index=True)
    for position, start, stop in zip(positions, starts, [*starts[1:], len(dropped)], strict=True):
        listed = {entry["id"]: entry for entry in _listed(ids[position], energies[position])}
        for row in dropped[start:stop]:
            listed[row["id"]] = {"id": row["id"]} | {name: row[name] for name in STATED if row[name] is not None}
            for entry in _listed(row["other_ids"], row["other_energies"]):
                listed.setdefault(entry["id"], entry)
        listed.pop(rows.column("id")[int(position)].as_py(), None)
        ids[position] = list(listed)
        energies[position] = json.dumps(list(listed.values()))
        origins[position] = strongest([origins[position], *(row["origin"] for row in dropped[start:stop])]).value
    for name, values in (("origin", origins), ("other_ids", ids), ("other_energies", energies)):
        field = DATASET_SCHEMA.field(name)
        rows = rows.set_column(rows.schema.get_field_index(name), field, pa.array(values, type=field.type))
    return rows


def _listed(ids: Sequence[str] | None, energies: str | None) -> list[dict[str, Any]]:
    """What a row already lists, one entry per id."""
    stated = {entry["id"]: entry for entry in json.loads(energies or "[]")}
    return [stated.get(one, {"id": one}) for one in ids or ()]
