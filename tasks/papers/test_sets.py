"""Files of crystals made ready for a reproduction: checked, kept as a dataset or as a table in the trainings' cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from configs.paths import resolve
from generative.crystal.crystals import Crystal, crystals_of, structure_columns
from generative.datasets.config import DataConfig, FilesSource, FilterConfig
from generative.datasets.ingest import ingest
from generative.datasets.manifest import is_whole, read_dataset
from storage.atomic import write_text
from tasks.files import key_of, keyed, refuse_to_compute
from tasks.papers.results import locked


@dataclass(frozen=True)
class CrystalSet:
    """Crystals of a file, checked and in the cells in which the systems are trained (primitive, Niggli-reduced).

    Attributes:
        ids: as the file states them.
        crystals: those with at most the data set's number of atoms.
        values: of a property, (n,); NaN where the file states none.
    """

    ids: tuple[str, ...]
    crystals: tuple[Crystal, ...]
    values: np.ndarray

    def taken(self, rows: Sequence[int]) -> CrystalSet:
        """Some of the rows, in this order."""
        ids, crystals = tuple(self.ids[i] for i in rows), tuple(self.crystals[i] for i in rows)
        return CrystalSet(ids, crystals, self.values[list(rows)])

    def drawn(self, n: int | None, seed: int) -> list[int]:
        """Rows of `n` of them at random, or of all, in random order: more begin with the same as fewer."""
        return [int(i) for i in np.random.default_rng(seed).permutation(len(self.ids))[:n]]


@lru_cache(maxsize=32)
def digest_of_file(path: str) -> str:
    """Digest of a file of crystals, whatever its name."""
    from generative.datasets.files import Files

    return Files(FilesSource(path=path), resolve(path)).database_version() or ""


def ingested(files: Sequence[str], target: Path, max_atoms: int, workers: int) -> tuple[pa.Table, str]:
    """Checked crystals of files with all that is stated of them, and the dataset's digest; ingested once.

    Args: files, folders or datasets; folder that the dataset is kept in; most atoms of a cell; processes.
    """
    data = DataConfig(
        sources=tuple(FilesSource(path=path) for path in files),
        filters=FilterConfig(n_atoms_max=max_atoms),
        workers=workers,
    )
    asked = data.model_dump_json(exclude={"workers"})
    marker = target.with_suffix(".json")
    with locked(target.parent):
        if not marker.is_file() or marker.read_bytes() != asked.encode() or not is_whole(target):
            refuse_to_compute(target)
            ingest(data, None, target, resolve)
            write_text(marker, asked)
    dataset = read_dataset(target)
    return dataset.table, dataset.manifest.fingerprint_sha256


def made_ready(file: str, kept_as: Path, max_atoms: int, property_name: str) -> CrystalSet:
    """The crystals of a file.

    Args:
        file: that ingest reads.
        kept_as: Parquet file of what was read.
        max_atoms: most atoms of a primitive cell.
        property_name: a column of the file.

    Raises: tasks.discover.own_files.OwnFileError: if not one can be read.
    """
    key = key_of(
        "reproduce-test", _table, file=digest_of_file(file), n_atoms_max=max_atoms, property_name=property_name
    )
    with locked(kept_as.parent):
        table = keyed(kept_as, key, lambda: _table(file, max_atoms, property_name)).read()
    crystals = tuple(crystal for crystal in crystals_of(table) if crystal is not None)
    values = np.array([np.nan if v is None else v for v in table.column("value").to_pylist()], dtype=float)
    return CrystalSet(tuple(table.column("id").to_pylist()), crystals, values)


def _table(file: str, max_atoms: int, property_name: str) -> pa.Table:
    from generative.crystal.crystals import reduced
    from generative.training.data import TrainingError, property_values
    from tasks.discover.own_files import read_crystals

    table, _ = read_crystals([file])
    try:
        values = property_values(table, property_name)
    except TrainingError:  # a test file may state no property: the regressor is then not tried on it
        values = [None] * len(table)
    rows = zip(table.column("source_id").to_pylist(), crystals_of(table), values, strict=True)
    kept = [(str(n), reduced(c), v) for n, c, v in rows if c is not None and len(c.atomic_numbers) <= max_atoms]
    stated = pa.array([value for *_, value in kept], pa.float64())
    columns = structure_columns([crystal for _, crystal, _ in kept])
    return pa.table({"id": [name for name, *_ in kept], "value": stated, **columns})
