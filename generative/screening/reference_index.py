"""Known crystals on disk: reduced once, opened in milliseconds, read through memory maps.

A folder of flat little-endian arrays and index.json, which names them with their sizes and digests, the fingerprint of
the table they come from (generative.datasets.manifest) and the versions that decide a reduced cell. It holds reduced
cells only and does not depend on tolerances. References are found by a 64-bit digest of their reduced formula, sorted;
the formula itself is compared afterwards.

    lattices    <f8 (m, 3, 3)  reduced cell, rows, angstrom      frac     <f8 (total, 3)   its coordinates
    numbers     u1  (total)    atomic numbers                    starts   <i8 (m + 1)      first atom of each
    formulas    <u8 (m)        formula digests, ascending        rows     <i8 (m)          reference of each digest
    ids         u1             names, UTF-8, end to end          id_ends  <i8 (m)          where each name ends
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from generative.crystal.crystals import Crystal, crystals_of
from generative.screening.pair_fits import Kind, kind_of, stack_cells
from generative.screening.reduction import ReducedCell, reduce_crystals
from generative.screening.references import FormulaKey, Shelf, formula_key

FORMAT = 1
INDEX_FILE = "index.json"
ROWS_AT_ONCE = 2048

ARRAYS = {
    "lattices": "<f8",
    "frac": "<f8",
    "numbers": "u1",
    "starts": "<i8",
    "formulas": "<u8",
    "rows": "<i8",
    "ids": "u1",
    "id_ends": "<i8",
}


class ReferenceIndexError(ValueError):
    """An index folder that is missing, damaged, or built from other data or by other software."""


def build_index(path: Path, folder: Path, workers: int = 1) -> dict[str, Any]:
    """Reduce the crystals of a dataset table and write them as an index folder.

    Args:
        path: Parquet file in DATASET_SCHEMA.
        folder: to create; replaced as a whole if it holds an index already.
        workers: threads for the reduction.

    Returns:
        What index.json says: fingerprint, n_references, n_atoms, left_out (row to reason), files.

    Raises:
        ReferenceIndexError: if the folder exists and is no index, or the table is not readable.
    """
    from generative.datasets.manifest import Fingerprint
    from generative.datasets.table import DATASET_SCHEMA, batches_of

    if folder.exists() and not (folder / INDEX_FILE).is_file():
        raise ReferenceIndexError(f"{folder} exists and is no reference index: name a new folder, or remove it first")
    fingerprint = Fingerprint()

    def rows() -> Iterator[tuple[str, Crystal | None]]:
        with pq.ParquetFile(path) as file:
            for batch in batches_of(file, ROWS_AT_ONCE):
                table = pa.Table.from_batches([batch]).select(DATASET_SCHEMA.names).cast(DATASET_SCHEMA)
                fingerprint.update(table)
                yield from zip(table.column("id").to_pylist(), crystals_of(table), strict=True)

    draft = folder.with_name(folder.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        about = _write(rows(), draft, workers)
    except (OSError, KeyError, pa.ArrowException) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise ReferenceIndexError(
            f"{path}: not readable as a dataset table ({type(error).__name__}: {error})"
        ) from None
    about = {"format": FORMAT, **_software(), "fingerprint": fingerprint.hexdigest(), **about}
    (draft / INDEX_FILE).write_text(json.dumps(about, indent=1) + "\n")
    if folder.exists():
        shutil.rmtree(folder)
    draft.rename(folder)
    return about


def _software() -> dict[str, str]:
    """What decides a reduced cell besides the crystal."""
    return {"pymatgen": version("pymatgen")}


def _write(named: Iterable[tuple[str, Crystal | None]], folder: Path, workers: int) -> dict[str, Any]:
    """Write the arrays; rows without a crystal, and those that cannot be reduced, are left out and counted."""
    left_out: dict[str, str] = {}
    formulas: list[int] = []
    starts, id_ends = [0], []
    row = id_end = 0
    iterator = iter(named)
    with (
        (folder / "lattices.bin").open("wb") as lattices,
        (folder / "frac.bin").open("wb") as frac,
        (folder / "numbers.bin").open("wb") as numbers,
        (folder / "ids.bin").open("wb") as ids,
    ):
        while batch := list(islice(iterator, ROWS_AT_ONCE)):
            present = [crystal for _, crystal in batch if crystal is not None]
            cells = iter(reduce_crystals(present, workers))
            for name, crystal in batch:
                cell = ReducedCell(None, "the row holds no crystal") if crystal is None else next(cells)
                if cell.crystal is None:
                    left_out[str(row)] = cell.fault
                else:
                    lattices.write(np.ascontiguousarray(cell.crystal.lattice_ang, "<f8").tobytes())
                    frac.write(np.ascontiguousarray(cell.crystal.frac, "<f8").tobytes())
                    numbers.write(np.asarray(cell.crystal.atomic_numbers).astype("u1").tobytes())
                    ids.write(name.encode())
                    id_end += len(name.encode())
                    id_ends.append(id_end)
                    starts.append(starts[-1] + len(cell.crystal.atomic_numbers))
                    formulas.append(_digest(formula_key(cell.crystal)))
                row += 1
    order = np.argsort(np.array(formulas, dtype="<u8"), kind="stable")  # stable: references keep their order
    _array(folder, "formulas", np.array(formulas, dtype="<u8")[order])
    _array(folder, "rows", order)
    _array(folder, "starts", np.array(starts))
    _array(folder, "id_ends", np.array(id_ends))
    files = {name: {"bytes": _path(folder, name).stat().st_size, "sha256": _sha256(folder, name)} for name in ARRAYS}
    return {"n_references": len(id_ends), "n_atoms": starts[-1], "left_out": left_out, "files": files}


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.bin"


def _array(folder: Path, name: str, values: np.ndarray) -> None:
    _path(folder, name).write_bytes(np.ascontiguousarray(values, dtype=ARRAYS[name]).tobytes())


def _sha256(folder: Path, name: str) -> str:
    with _path(folder, name).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(key: FormulaKey) -> int:
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little")


def open_index(folder: Path, fingerprint: str | None = None, verify: bool = True) -> ReferenceIndex:
    """The references of an index folder.

    Args:
        folder: as build_index wrote it.
        fingerprint: of the table that it must come from; None accepts any.
        verify: read every file once and compare its digest (about a second per gigabyte); else sizes only.

    Raises:
        ReferenceIndexError: if it is missing, damaged, of another table, or built by another pymatgen or format.
    """
    again = "build the index again"
    try:
        about = json.loads((folder / INDEX_FILE).read_text())
        found = {"format": about["format"], "pymatgen": about["pymatgen"]}
        files, table = about["files"], about["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReferenceIndexError(
            f"{folder}: no readable {INDEX_FILE} ({type(error).__name__}: {error}): {again}"
        ) from None
    expected = {"format": FORMAT, **_software()}
    if found != expected:
        raise ReferenceIndexError(f"{folder} was built by {found}, this is {expected}: {again}")
    if fingerprint is not None and table != fingerprint:
        raise ReferenceIndexError(f"{folder} was built from the table {table}, expected {fingerprint}: {again}")
    for name in ARRAYS:
        size = _path(folder, name).stat().st_size if _path(folder, name).is_file() else -1
        if name not in files or size != files[name]["bytes"]:
            raise ReferenceIndexError(
                f"{_path(folder, name)} has {size} bytes (-1: missing), not those written: {again}"
            )
        if verify and _sha256(folder, name) != files[name]["sha256"]:
            raise ReferenceIndexError(f"{_path(folder, name)} does not hold what was written: {again}")
    return ReferenceIndex(folder, about)


class ReferenceIndex:
    """Known crystals of an index folder, as find_known searches them; holds nothing but maps and what was asked for.

    Args:
        folder: checked by open_index.
        about: its index.json.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self._folder = folder
        self._about = about
        maps = {name: self._map(name, kind) for name, kind in ARRAYS.items()}
        self._lattices, self._frac = maps["lattices"].reshape(-1, 3, 3), maps["frac"].reshape(-1, 3)
        self._numbers, self._starts = maps["numbers"], maps["starts"]
        self._formulas, self._rows = maps["formulas"], maps["rows"]
        self._ids, self._id_ends = maps["ids"], maps["id_ends"]
        self._shelves: dict[FormulaKey, dict[Kind, Shelf]] = {}
        self._lock = threading.Lock()

    def _map(self, name: str, kind: str) -> np.ndarray:
        path = _path(self._folder, name)
        return np.memmap(path, kind, mode="r") if path.stat().st_size else np.zeros(0, kind)

    def __getstate__(self) -> dict[str, Any]:
        """The folder: another process maps it anew."""
        return {"folder": self._folder, "about": self._about}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"], state["about"])  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._id_ends)

    @property
    def fingerprint(self) -> str:
        """Of the table it was built from."""
        return str(self._about["fingerprint"])

    @property
    def left_out(self) -> dict[int, str]:
        """Reason for each row of the table, by number, that is not in the index."""
        return {int(row): reason for row, reason in self._about["left_out"].items()}

    def with_formula(self, key: FormulaKey) -> Sequence[int]:
        """Indices of the references of this reduced formula, in order."""
        digest = np.uint64(_digest(key))
        lo, hi = np.searchsorted(self._formulas, digest), np.searchsorted(self._formulas, digest, side="right")
        rows = [int(row) for row in self._rows[lo:hi]]
        # Two formulas may share a digest, though hardly ever.
        return [row for row in rows if formula_key(self.crystal_of(row)) == key]

    def id_of(self, index: int) -> str:
        """The reference's name."""
        start = int(self._id_ends[index - 1]) if index else 0
        return bytes(self._ids[start : int(self._id_ends[index])]).decode()

    def crystal_of(self, index: int) -> Crystal:
        """The reference's reduced cell; the cell it was given in is not kept."""
        atoms = slice(int(self._starts[index]), int(self._starts[index + 1]))
        numbers = self._numbers[atoms].astype(np.int16)
        return Crystal(np.array(self._lattices[index]), np.array(self._frac[atoms]), numbers)

    def reduced(self, index: int) -> ReducedCell:
        """The reference's primitive Niggli cell."""
        return ReducedCell(self.crystal_of(index), "", is_final=True)

    def shelves(self, key: FormulaKey, workers: int = 1) -> dict[Kind, Shelf]:
        """The references of a formula by kind; `workers` has no part in it, since nothing is left to reduce."""
        with self._lock:
            if key not in self._shelves:
                by_kind: dict[Kind, list[tuple[int, Crystal]]] = defaultdict(list)
                for index in self.with_formula(key):
                    crystal = self.crystal_of(index)
                    by_kind[kind_of(crystal)].append((index, crystal))
                self._shelves[key] = {
                    kind: Shelf(np.array([i for i, _ in named]), stack_cells([crystal for _, crystal in named]))
                    for kind, named in by_kind.items()
                }
            return self._shelves[key]
