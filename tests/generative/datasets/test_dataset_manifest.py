"""Fingerprint, writing and reading of datasets; filters and splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from generative.crystal.crystals import Crystal
from generative.datasets.config import FilterConfig
from generative.datasets.filters import apply_filters, chemical_system
from generative.datasets.manifest import (
    DatasetError,
    DatasetWriter,
    Fingerprint,
    Manifest,
    check_dataset,
    fingerprint_of,
    read_dataset,
    utc_now,
)
from generative.datasets.quarantine import rejected_of
from generative.datasets.records import row_of, table_of


def some_table(n: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        numbers = rng.choice([5, 73, 74], size=int(rng.integers(1, 5))).astype(np.int16)
        crystal = Crystal(np.eye(3) * rng.uniform(7, 9), rng.random((len(numbers), 3)), numbers)
        energies = {"e_above_hull_ev_per_atom": None if i % 3 == 0 else float(rng.random())}
        rows.append(row_of(crystal, "made", f"Müller-{i}", "none", {**energies, "spacegroup": 1 + i % 2}))
    return table_of(rows)


def manifest_of(table: pa.Table) -> Manifest:
    return Manifest(
        sources=(),
        filters=FilterConfig(),
        created=utc_now(),
        n_rows=len(table),
        fingerprint_sha256=fingerprint_of(table),
    )


def write_dataset(table: pa.Table, rejected: pa.Table, manifest: Manifest, folder: Path) -> None:
    with DatasetWriter(folder) as writer:
        writer.add(table, rejected)
        writer.finish(manifest)


def test_the_fingerprint_depends_on_content_alone(tmp_path: Path) -> None:
    table = some_table(30)
    expected = fingerprint_of(table)
    pieces = pa.concat_tables([table.slice(i, 7) for i in range(0, 30, 7)])
    assert fingerprint_of(pieces) == expected
    pq.write_table(table, tmp_path / "a.parquet", compression="gzip", row_group_size=4)
    assert fingerprint_of(pq.read_table(tmp_path / "a.parquet")) == expected
    assert fingerprint_of(table.slice(0, 29)) != expected
    assert fingerprint_of(table.take([1, 0, *range(2, 30)])) != expected


@pytest.mark.parametrize("column", some_table(1).column_names)
def test_the_fingerprint_notices_a_change_in_any_column(column: str) -> None:
    table = some_table(5)
    index = table.column_names.index(column)
    values = table.column(column).to_pylist()
    if isinstance(values[4], str):
        values[4] += "x"
    elif isinstance(values[4], list):
        values[4][0] = np.nextafter(values[4][0], 99) if isinstance(values[4][0], float) else values[4][0] + 1
    elif values[4] is None:
        kind = table.schema.field(index).type
        values[4] = "x" if pa.types.is_string(kind) else ["x"] if pa.types.is_list(kind) else 1
    else:
        values[4] = None
    changed = table.set_column(index, table.schema.field(index), pa.array(values, type=table.schema.field(index).type))
    assert fingerprint_of(changed) != fingerprint_of(table)


def test_neither_null_nor_the_border_between_texts_is_lost_in_the_fingerprint() -> None:
    table = some_table(2)
    prints = set()
    for values in (["ab", "c"], ["a", "bc"], ["abc", ""], ["abc", None]):
        prints.add(fingerprint_of(table.set_column(2, table.schema.field(2), pa.array(values, type=pa.string()))))
    assert len(prints) == 4


def test_lists_of_texts_give_one_fingerprint_however_the_rows_are_split() -> None:
    table = some_table(6)
    index = table.column_names.index("other_ids")
    field = table.schema.field(index)

    def with_ids(ids: list[list[str] | None]) -> pa.Table:
        return table.set_column(index, field, pa.array(ids, type=field.type))

    ids = [["a", "bc"], None, [], ["d"], ["a", "bc"], None]
    whole, pieces = with_ids(ids), Fingerprint()
    for start, stop in ((0, 1), (1, 4), (4, 6)):
        pieces.update(whole.slice(start, stop - start))
    assert pieces.hexdigest() == fingerprint_of(whole)
    others = [[["ab", "c"], *ids[1:]], [["abc"], *ids[1:]], [ids[0], [], *ids[2:]], [["a"], ["bc"], *ids[2:]]]
    assert len({fingerprint_of(with_ids(other)) for other in [ids, *others]}) == 5


def test_a_dataset_comes_back_as_it_was_written(tmp_path: Path) -> None:
    table = some_table(12)
    rejected = rejected_of("made", [("bad", "because", b"\xff\xfe")])
    manifest = manifest_of(table)
    write_dataset(table, rejected, manifest, tmp_path)
    found = read_dataset(tmp_path)
    assert found.table.equals(table)
    assert found.rejected.to_pylist() == [
        {"source": "made", "source_id": "bad", "reason": "because", "record": "\\xff\\xfe"}
    ]
    assert found.manifest == manifest == check_dataset(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset.parquet", "manifest.json", "rejected.parquet"]


def test_a_changed_table_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    table = some_table(6)
    write_dataset(table, rejected_of("made", []), manifest_of(table), tmp_path)
    other = some_table(6, seed=1)
    pq.write_table(other, tmp_path / "dataset.parquet")
    for read in (read_dataset, check_dataset):
        with pytest.raises(DatasetError, match=f"{fingerprint_of(other)}.*{fingerprint_of(table)}.*ingest"):
            read(tmp_path)
    pq.write_table(table.slice(0, 5), tmp_path / "dataset.parquet")
    with pytest.raises(DatasetError, match="has 5 rows, its manifest says 6"):
        read_dataset(tmp_path)
    (tmp_path / "dataset.parquet").write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match=r"dataset.parquet is not readable .*ingest the dataset again"):
        read_dataset(tmp_path)


def test_a_folder_without_a_manifest_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"has no manifest.json, expected a finished dataset"):
        read_dataset(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(DatasetError, match="not a dataset manifest"):
        read_dataset(tmp_path)


def test_an_interrupted_writer_leaves_the_earlier_dataset(tmp_path: Path) -> None:
    table = some_table(4)
    write_dataset(table, rejected_of("made", []), manifest_of(table), tmp_path)

    def interrupted() -> None:
        with DatasetWriter(tmp_path) as writer:
            writer.add(some_table(9, seed=2), rejected_of("made", []))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert read_dataset(tmp_path).table.equals(table)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_manifest_cannot_be_edited() -> None:
    manifest = manifest_of(some_table(1))
    with pytest.raises(ValidationError, match="frozen"):
        manifest.n_rows = 3  # type: ignore[misc]


def test_filters_keep_exactly_the_rows_that_pass_row_by_row() -> None:
    table = some_table(80)
    filters = FilterConfig(
        elements=("B", "Ta"),
        n_elements_max=2,
        n_atoms_min=2,
        n_atoms_max=3,
        e_above_hull_max_ev_per_atom=0.7,
        spacegroups=(2,),
    )

    def passes(row: dict[str, object]) -> bool:
        symbols = {{5: "B", 73: "Ta", 74: "W"}[z] for z in row["atomic_numbers"]}  # type: ignore[attr-defined]
        hull = row["e_above_hull_ev_per_atom"]
        in_range = len(symbols) <= 2 and 2 <= len(row["atomic_numbers"]) <= 3  # type: ignore[arg-type]
        return symbols <= {"B", "Ta"} and in_range and hull is not None and hull <= 0.7 and row["spacegroup"] == 2

    expected = [row["id"] for row in table.to_pylist() if passes(row)]
    assert 0 < len(expected) < 80
    assert apply_filters(table, filters).column("id").to_pylist() == expected
    assert apply_filters(table, FilterConfig()).equals(table)
    assert set(chemical_system(table, ["W", "B"]).column("chemsys").to_pylist()) == {"B", "W", "B-W"}
