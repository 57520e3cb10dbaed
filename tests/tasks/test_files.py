"""Files that travel between tasks: some rows of a table are those of the whole table, and a changed file is refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from generative.crystal.crystals import STRUCTURE_FIELDS
from storage.checksums import DamagedFileError
from tasks.files import FileRef, write_table


@pytest.fixture
def table() -> pa.Table:
    """Rows with nulls and with lists of several lengths, as crystals have them."""
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 9, 100).tolist()
    columns = {
        "id": pa.array([f"c{i}" for i in range(100)]),
        "rejected_by": pa.array([None if i % 3 else "known" for i in range(100)], pa.string()),
    }
    for field, per_atom in zip(STRUCTURE_FIELDS, (None, 3, 1), strict=True):
        values = [rng.integers(1, 50, 9 if per_atom is None else per_atom * n).tolist() for n in sizes]
        columns[field.name] = pa.array(values, type=field.type)
    return pa.table(columns)


@pytest.mark.parametrize("rows_per_group", [None, 1, 7, 64, 100])
def test_some_rows_are_those_of_the_whole_table_however_it_is_cut_into_groups(
    rows_per_group: int | None, table: pa.Table, tmp_path: Path
) -> None:
    ref = write_table(table, tmp_path / "table.parquet", "key", rows_per_group)
    assert pq.ParquetFile(ref.path).num_row_groups == (1 if rows_per_group is None else -(-100 // rows_per_group))
    rng = np.random.default_rng(5)
    for n in (0, 1, 5, 40, 100):
        numbers = np.sort(rng.choice(100, n, replace=False))
        assert ref.read_rows(numbers).to_pylist() == table.take(pa.array(numbers, pa.int64())).to_pylist()
    assert ref.read_columns("rejected_by", "no such").to_pydict() == table.select(["rejected_by"]).to_pydict()


def test_rows_of_a_file_that_has_changed_since_are_refused(table: pa.Table, tmp_path: Path) -> None:
    ref = write_table(table, tmp_path / "table.parquet")
    assert len(ref.read_rows(np.arange(3))) == 3
    content = bytearray(ref.path.read_bytes())
    content[100] ^= 1
    before = ref.path.stat()
    ref.path.write_bytes(content)
    os.utime(ref.path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    for reading in (lambda: ref.read_rows(np.arange(3)), lambda: ref.read_columns("id"), ref.read):
        with pytest.raises(DamagedFileError, match="damaged or was changed"):
            reading()
    ref.path.unlink()
    with pytest.raises(DamagedFileError, match="found no file"):
        ref.read_rows(np.arange(3))


def test_other_groups_of_a_file_are_not_read(table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[int]] = []

    class Watched(pq.ParquetFile):  # type: ignore[misc]
        def read_row_groups(self, row_groups: list[int], *args: object, **kwargs: object) -> pa.Table:
            read.append(list(row_groups))
            return super().read_row_groups(row_groups, *args, **kwargs)

    ref: FileRef = write_table(table, tmp_path / "table.parquet", "key", 10)
    monkeypatch.setattr(pq, "ParquetFile", Watched)
    ref.read_rows(np.array([12, 15, 83]))
    assert read == [[1, 8]]
