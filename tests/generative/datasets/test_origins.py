"""Origins: what a record states, what several sources make of it, and which rows are known at all."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from generative.datasets.config import AflowSource, DataConfig, FilesSource
from generative.datasets.databases.aflow_entries import entry_record
from generative.datasets.databases.database import Record
from generative.datasets.ingest import ingest
from generative.datasets.manifest import read_dataset
from generative.datasets.origins import (
    DATABASE_ORIGINS,
    Origin,
    origin_counts,
    origins_of,
    split_by_origin,
    stated_origin,
    strongest,
)

ROCK_SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.24), ["Ti", "N"], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.mark.parametrize(
    ("fields", "origin"),
    [
        ({"theoretical": False}, Origin.REPORTED),
        ({"theoretical": True}, Origin.HYPOTHETICAL),
        ({"theoretical": "False"}, Origin.REPORTED),
        ({"theoretical": "true"}, Origin.HYPOTHETICAL),
        ({"theoretical": 1.0}, Origin.HYPOTHETICAL),
        ({"theoretical": "0.0"}, Origin.REPORTED),
        ({"theoretical": None}, None),
        ({"theoretical": float("nan")}, None),
        ({"theoretical": "perhaps"}, None),
        ({"origin": "hypothetical", "theoretical": False}, Origin.HYPOTHETICAL),
        ({"origin": "Prototype"}, Origin.PROTOTYPE),
        ({"origin": "a paper"}, None),
        ({}, None),
    ],
)
def test_a_records_own_words_say_where_it_comes_from(fields: dict[str, object], origin: Origin | None) -> None:
    assert stated_origin(fields) is origin


def test_the_origin_that_says_most_wins_in_any_order() -> None:
    order = [*DATABASE_ORIGINS, Origin.PROTOTYPE]
    for n in range(1, len(order) + 1):
        for some in itertools.product(order, repeat=n):
            assert strongest(some) is min(some, key=order.index)
    assert strongest([None, Origin.PROTOTYPE]) is Origin.UNSTATED


@pytest.mark.parametrize(("catalog", "origin"), [("ICSD", "reported"), (["LIB2"], "hypothetical"), (None, None)])
def test_aflows_catalogs_say_it(catalog: object, origin: str | None) -> None:
    assert AflowSource().catalogs is None
    assert entry_record(Record("aflow:1", None, {"catalog": catalog})).origin == origin


def write_json(path: Path, **fields: object) -> str:
    path.write_text(json.dumps([{"material_id": "one", "structure": ROCK_SALT.as_dict(), **fields}]))
    return str(path)


def test_files_say_it_by_record_else_by_setting_and_our_own_tables_keep_it(tmp_path: Path) -> None:
    paths = {
        "said": write_json(tmp_path / "said.json", theoretical=True),
        "set": write_json(tmp_path / "set.json"),
        "neither": write_json(tmp_path / "neither.json"),
    }
    sources = (
        FilesSource(path=paths["said"], origin="reported"),
        FilesSource(path=paths["set"], origin="reported"),
        FilesSource(path=paths["neither"]),
    )
    expected = {"said": "hypothetical", "set": "reported", "neither": "unstated"}
    ingest(DataConfig(sources=sources), None, tmp_path / "first", Path)
    again = FilesSource(path=str(tmp_path / "first"), origin="hypothetical")
    ingest(DataConfig(sources=(again,)), None, tmp_path / "second", Path)
    for folder in ("first", "second"):
        table = read_dataset(tmp_path / folder).table
        found = dict(zip(table.column("source").to_pylist(), table.column("origin").to_pylist(), strict=True))
        assert found == expected, folder


def test_of_merged_copies_the_strongest_origin_stays_with_the_row_that_stays(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    origins = ["reported", "hypothetical", "unstated"]
    for trial in range(6):
        drawn = rng.choice(origins, size=3).tolist()
        sources = tuple(
            FilesSource(path=write_json(tmp_path / f"{trial}-{i}.json"), origin=origin)
            for i, origin in enumerate(drawn)
        )
        ingest(DataConfig(sources=sources, merge=True), None, tmp_path / str(trial), Path)
        table = read_dataset(tmp_path / str(trial)).table
        assert table.column("origin").to_pylist() == [min(drawn, key=origins.index)]
        assert table.column("source").to_pylist() == [f"{trial}-0"]


def test_a_table_from_before_origins_were_kept_tells_prototypes_by_their_source() -> None:
    old = pa.table({"id": ["a", "b"], "source": ["prototypes", "mp"]})
    assert origins_of(old) == ["prototype", "unstated"]
    databases, prototypes = split_by_origin(old)
    assert (databases.column("id").to_pylist(), prototypes.column("id").to_pylist()) == (["b"], ["a"])
    assert origins_of(pa.table({"id": ["c"]})) == ["unstated"]
    assert origin_counts(old) == "1 in a database, origin not stated; 1 decorated from a prototype, in no database"
