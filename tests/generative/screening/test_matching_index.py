"""An index on disk finds what the same references in memory find; truth for cells and names is the table itself."""

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from generative.config import ELEMENTS
from generative.crystal.crystals import Crystal, structure_columns
from generative.datasets.manifest import fingerprint_of
from generative.datasets.table import DATASET_SCHEMA
from generative.screening.matching import ReferenceSet, Tolerances, find_known, formula_key
from generative.screening.reduction import reduce_with_pymatgen
from generative.screening.reference_index import ReferenceIndexError, build_index, open_index
from tests.servers.real import real_records

TOLERANCES = Tolerances.of(0.2, 0.3, 5.0)


def table_of(crystals: list[Crystal | None]) -> pa.Table:
    columns = {field.name: pa.nulls(len(crystals), field.type) for field in DATASET_SCHEMA}
    columns |= {"id": pa.array([f"real:crystal-é{i}" for i in range(len(crystals))])}
    columns |= structure_columns(crystals)
    return pa.table({name: columns[name] for name in DATASET_SCHEMA.names}, schema=DATASET_SCHEMA)


@pytest.fixture(scope="module")
def crystals() -> list[Crystal]:
    return [Crystal.from_structure(record.structure) for record in real_records()[:120]]


@pytest.fixture
def written(tmp_path: Path, crystals: list[Crystal]) -> tuple[Path, Path, pa.Table]:
    """(table path, index folder, table): 120 crystals, some twice, a row without one, and one without volume."""
    flat = Crystal(np.zeros((3, 3)), crystals[0].frac, crystals[0].atomic_numbers)
    table = table_of([None, *crystals, flat, *crystals[:20]])
    pq.write_table(table, tmp_path / "table.parquet", row_group_size=50)
    build_index(tmp_path / "table.parquet", tmp_path / "index")
    return tmp_path / "table.parquet", tmp_path / "index", table


def test_an_index_finds_what_the_references_in_memory_find(
    written: tuple[Path, Path, pa.Table], crystals: list[Crystal]
) -> None:
    index, memory = open_index(written[1]), ReferenceSet.from_table(written[2])
    rng = np.random.default_rng(3)
    shaken = [
        Crystal(c.lattice_ang * 1.03, np.mod(c.frac + 0.01 * rng.normal(size=c.frac.shape), 1), c.atomic_numbers)
        for c in crystals[:40]
    ]
    strange = Crystal(4 * np.eye(3), np.zeros((1, 3)), np.array([92], dtype=np.int16))
    expected = find_known([*shaken, strange], memory, TOLERANCES)
    for opened in (index, pickle.loads(pickle.dumps(index))):
        found = find_known([*shaken, strange], opened, TOLERANCES, workers=2)
        for a, b in zip(found.matches, expected.matches, strict=True):
            assert (a is None) == (b is None)
            assert a is None or b is None or (a.reference_id, a.rms) == (b.reference_id, pytest.approx(b.rms, abs=1e-9))
        assert sum(match is not None for match in found.matches) >= 35
        assert found.matches[-1] is None


def test_an_index_holds_the_cells_pymatgen_reduces_to_and_the_names(
    written: tuple[Path, Path, pa.Table], crystals: list[Crystal]
) -> None:
    index = open_index(written[1], fingerprint_of(written[2]))
    assert len(index) == 140
    assert set(index.left_out) == {0, 121}
    assert "no crystal" in index.left_out[0]
    assert "no volume" in index.left_out[121]
    for place in (0, 7, 119, 120, 139):
        given = crystals[place % 120]
        truth = reduce_with_pymatgen(given).crystal
        cell = index.crystal_of(place)
        assert truth is not None
        np.testing.assert_allclose(cell.lattice_ang, truth.lattice_ang, atol=1e-9)
        assert [ELEMENTS[z - 1] for z in cell.atomic_numbers] == [ELEMENTS[z - 1] for z in truth.atomic_numbers]
        row = place + 1 if place < 120 else place + 2
        assert index.id_of(place) == f"real:crystal-é{row}"
        same = [i for i in range(140) if formula_key(crystals[i % 120]) == formula_key(given)]
        assert index.with_formula(formula_key(given)) == same


def test_a_damaged_or_stale_index_is_refused_with_the_remedy(written: tuple[Path, Path, pa.Table]) -> None:
    folder = written[1]
    with pytest.raises(ReferenceIndexError, match="built from the table .* expected other: build the index again"):
        open_index(folder, "other")
    content = (folder / "frac.bin").read_bytes()
    (folder / "frac.bin").write_bytes(content[:-8] + b"\x00" * 8)
    with pytest.raises(ReferenceIndexError, match=r"frac\.bin does not hold what was written: build the index again"):
        open_index(folder)
    (folder / "frac.bin").write_bytes(content[:-8])
    with pytest.raises(ReferenceIndexError, match=r"frac\.bin has \d+ bytes"):
        open_index(folder, verify=False)
    (folder / "frac.bin").write_bytes(content)
    about = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**about, "pymatgen": "1999.1.1"}))
    with pytest.raises(ReferenceIndexError, match=r"1999\.1\.1.*build the index again"):
        open_index(folder)
    (folder / "index.json").write_text("{")
    with pytest.raises(ReferenceIndexError, match=r"no readable index\.json"):
        open_index(folder)


def test_an_index_is_rebuilt_in_place_and_never_written_over_another_folder(
    written: tuple[Path, Path, pa.Table], tmp_path: Path
) -> None:
    path, folder, _ = written
    before = (folder / "lattices.bin").read_bytes()
    assert build_index(path, folder, workers=2)["n_references"] == 140
    assert (folder / "lattices.bin").read_bytes() == before
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("words")
    with pytest.raises(ReferenceIndexError, match="is no reference index"):
        build_index(path, mine)
    assert (mine / "thesis.tex").read_text() == "words"
    (tmp_path / "broken.parquet").write_text("no table")
    with pytest.raises(ReferenceIndexError, match="not readable as a dataset table"):
        build_index(tmp_path / "broken.parquet", tmp_path / "new")
    assert not list(tmp_path.glob("new*"))


def test_an_index_of_no_crystals_knows_none(tmp_path: Path, crystals: list[Crystal]) -> None:
    pq.write_table(table_of([None]), tmp_path / "table.parquet")
    build_index(tmp_path / "table.parquet", tmp_path / "index")
    assert find_known(crystals[:2], open_index(tmp_path / "index"), TOLERANCES).matches == [None, None]
