"""Readers of CSV, JSON, Parquet and folders, and what ingest makes of them."""

from __future__ import annotations

import csv
import gzip
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry
from pymatgen.io.cif import CifWriter

from generative.datasets.config import DataConfig, FilesSource, FilterConfig
from generative.datasets.files import portable, source_name
from generative.datasets.ingest import ingest
from generative.datasets.manifest import Dataset, read_dataset
from generative.datasets.sources import SourceError

ASSETS = Path(os.environ.get("HULLWARD_ASSETS", Path(__file__).parents[4] / "shared"))
MP_FILES = ("mp_20_biternary_test", "mp_20_biternary_val", "mpts_52_val", "wbm_val")


def b2(a: str, b: str, length_ang: float = 4.0) -> Structure:
    return Structure(Lattice.cubic(length_ang), [a, b], [[0, 0, 0], [0.5, 0.5, 0.5]])


def cif(structure: Structure) -> str:
    return str(CifWriter(structure))


def write_csv(path: Path, rows: list[dict[str, object]]) -> Path:
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(tmp_path: Path, *paths: Path, elements: tuple[str, ...] | None = None, **settings: object) -> Dataset:
    by_name = {path.name: path for path in paths}
    sources = tuple(FilesSource(path=name, method="PBE") for name in by_name)
    config = DataConfig.model_validate({"sources": sources, **settings})
    ingest(config, elements, tmp_path / "out", lambda name: by_name[name])
    return read_dataset(tmp_path / "out")


def test_columns_of_every_benchmark_file_reach_their_place(tmp_path: Path) -> None:
    text = cif(b2("Cs", "Cl"))
    mp = write_csv(
        tmp_path / "mp.csv.gz",
        [
            {
                "": 5,
                "material_id": "mp-1",
                "formation_energy_per_atom": -2.0,
                "band_gap": 5.1,
                "pretty_formula": "CsCl",
                "e_above_hull": 0.01,
                "elements": "['Cl', 'Cs']",
                "cif": text,
                "spacegroup.number": 225,
            }
        ],
    )
    mpts = write_csv(
        tmp_path / "mpts.csv",
        [{"material_id": "mp-2", "energy_above_hull": 0.2, "formation_energy_per_atom": "", "year": 1997, "cif": text}],
    )
    perov = write_csv(
        tmp_path / "perov.csv",
        [{"": 1, "material_id": 39, "cif": text, "heat_all": -0.1, "heat_ref": 1.4, "dir_gap": 3.0, "ind_gap": 2.5}],
    )
    carbon = write_csv(tmp_path / "carbon.csv", [{"material_id": "C-1", "cif": text, "energy_per_atom": -154.5}])
    wbm = write_csv(tmp_path / "wbm.csv", [{"": 7, "cif": text, "formation_energy_per_atom": -0.1, "band_gap": 0.0}])
    table = read(tmp_path, mp, mpts, perov, carbon, wbm).table
    columns = ["id", "energy_ev_per_atom", "formation_energy_ev_per_atom", "e_above_hull_ev_per_atom", "band_gap_ev"]
    assert [tuple(row.values()) for row in table.select([*columns, "spacegroup"]).to_pylist()] == [
        ("mp:mp-1", None, -2.0, 0.01, 5.1, 225),  # the stated space group is kept, whatever spglib says
        ("mpts:mp-2", None, None, 0.2, None, 221),
        ("perov:39", None, None, -0.1, 2.5, 221),
        ("carbon:C-1", -154.5, None, None, None, 221),
        ("wbm:row-0", None, -0.1, None, 0.0, 221),
    ]
    extra = [None if text is None else json.loads(text) for text in table.column("extra").to_pylist()]
    assert extra == [None, {"year": 1997.0}, {"heat_ref": 1.4, "dir_gap": 3.0}, None, None]
    assert table.column("chemsys").to_pylist() == ["Cl-Cs"] * 5
    assert set(table.column("method").to_pylist()) == {"PBE"}


def test_bad_rows_of_a_csv_are_quarantined_one_by_one(tmp_path: Path) -> None:
    good = cif(b2("Cs", "Cl"))
    rows = [
        {"material_id": "a", "cif": good, "band_gap": 1.0},
        {"material_id": "b", "cif": good, "band_gap": "wide"},
        {"material_id": "a", "cif": good, "band_gap": 2.0},
        {"material_id": "c", "cif": "", "band_gap": 2.0},
        {"material_id": "d", "cif": good, "band_gap": "inf"},
    ]
    path = write_csv(tmp_path / "rows.csv", rows)
    with path.open("a") as file:
        file.write("e,only two cells\n\n")
    with path.open("ab") as file:
        file.write(b"f,\xe9\xff,1.0\n")
    found = read(tmp_path, path)
    assert found.table.column("id").to_pylist() == ["rows:a"]
    reasons = {row["source_id"]: row["reason"] for row in found.rejected.to_pylist()}
    assert reasons["b"] == "band_gap is 'wide': expected a number in eV or nothing"
    assert reasons["a"].startswith("id 'rows:a' was already read: expected unique ids")
    assert "empty: expected a CIF" in reasons["c"]
    assert reasons["d"] == "band_gap is inf: expected a finite number in eV or nothing"
    assert reasons["e"] == "the row has 2 cells: expected 3, one per column of the header"
    assert "byte 0xe9 at position 0 is not UTF-8" in reasons["f"]
    assert found.manifest.sources[0].n_read == 7


def test_a_csv_cut_off_keeps_its_whole_rows_and_quarantines_the_rest(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [{"material_id": f"m{i}", "cif": cif(b2("Cs", "Cl", 4 + rng.random()))} for i in range(400)]
    path = write_csv(tmp_path / "cut.csv.gz", rows)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = read(tmp_path, path)
    assert 50 < len(found.table) < 390
    assert found.table.column("source_id").to_pylist() == [f"m{i}" for i in range(len(found.table))]
    (rejected,) = found.rejected.to_pylist()
    assert "expected a complete CSV file" in rejected["reason"]


@pytest.mark.parametrize("content", [b"", "material_id,cif\n1,x\n".encode("utf-16")])
def test_an_empty_or_foreign_csv_is_one_quarantined_row(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.csv").write_bytes(content)
    found = read(tmp_path, tmp_path / "bad.csv")
    assert len(found.table) == 0
    assert len(found.rejected) == 1


def test_a_source_that_cannot_be_read_at_all_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"has the columns \['a', 'b'\], expected one named 'cif'"):
        read(tmp_path, tmp_path / "table.csv")
    with pytest.raises(SourceError, match=r"notes.txt: a file of unknown kind, expected a .cif"):
        read(tmp_path, tmp_path / "notes.txt")
    with pytest.raises(SourceError, match="empty: a folder without any crystal"):
        read(tmp_path, tmp_path / "empty")
    with pytest.raises(SourceError, match="gone.csv: no such file or folder"):
        read(tmp_path, tmp_path / "gone.csv")
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert list((tmp_path / "out").iterdir()) == []


def test_json_of_structures_and_of_entries_is_read(tmp_path: Path) -> None:
    salt, alloy = b2("Cs", "Cl"), b2("Cu", "Zn", 3.0)
    entry = ComputedStructureEntry(alloy, -8.0, correction=-0.5, entry_id="mp-9", data={"e_above_hull": 0.03})
    broken = alloy.as_dict()
    broken["sites"][0]["species"][0]["element"] = "Qq"
    (tmp_path / "list.json").write_text(json.dumps([salt.as_dict(), entry.as_dict(), broken, 3, {"energy": 1}]))
    with gzip.open(tmp_path / "dict.json.gz", "wt") as file:
        json.dump({"first": salt.as_dict(), "second": {"structure": alloy.as_dict(), "band_gap": 0.0}}, file)
    (tmp_path / "cut.json").write_text(json.dumps([salt.as_dict()])[:100])
    found = read(tmp_path, tmp_path / "list.json", tmp_path / "dict.json.gz", tmp_path / "cut.json")
    rows = found.table.to_pylist()
    assert [row["id"] for row in rows] == ["list:row-0", "list:mp-9", "dict:first", "dict:second"]
    assert rows[1]["energy_ev_per_atom"] == pytest.approx(entry.energy / 2)
    assert rows[1]["e_above_hull_ev_per_atom"] == 0.03
    assert rows[3]["band_gap_ev"] == 0.0
    reasons = [row["reason"] for row in found.rejected.to_pylist()]
    assert [reason.split(":")[0] for reason in reasons][:3] == [
        "'Qq' is not a chemical element",
        "the entry is a int",
        "the entry has the keys ['energy']",
    ]
    assert reasons[3].startswith("not JSON")


def test_json_imports_no_class_that_a_file_names(tmp_path: Path) -> None:
    evil = {"@module": "subprocess", "@class": "Popen", "args": ["touch", str(tmp_path / "owned")]}
    (tmp_path / "evil.json").write_text(json.dumps([evil]))
    assert len(read(tmp_path, tmp_path / "evil.json").rejected) == 1
    assert not (tmp_path / "owned").exists()


def test_our_own_table_read_back_is_the_same_table(tmp_path: Path) -> None:
    rows = [{"material_id": i, "cif": cif(b2(a, "Cl")), "band_gap": i} for i, a in enumerate(("Cs", "Rb", "K"))]
    first = read(tmp_path, write_csv(tmp_path / "salts.csv", rows))
    pq.write_table(first.table, tmp_path / "again.parquet")
    os.rename(tmp_path / "out", tmp_path / "folder")
    assert read(tmp_path, tmp_path / "again.parquet").table.equals(first.table)
    second = read(tmp_path, tmp_path / "folder")
    assert second.manifest.fingerprint_sha256 == first.manifest.fingerprint_sha256
    assert second.manifest.sources[0].database_version == f"fingerprint:{first.manifest.fingerprint_sha256}"
    plain = pa.table({"cif": [row["cif"] for row in rows], "material_id": ["x", "y", "z"]})
    pq.write_table(plain, tmp_path / "plain.parquet")
    assert read(tmp_path, tmp_path / "plain.parquet").table.column("id").to_pylist() == [
        "plain:x",
        "plain:y",
        "plain:z",
    ]


def test_a_chemical_system_and_filters_are_counted_not_quarantined(tmp_path: Path) -> None:
    pairs = [("Cs", "Cl"), ("Rb", "Cl"), ("Cs", "Cs"), ("Cs", "Br")]
    rows = [
        {"material_id": "-".join(pair), "cif": cif(b2(*pair, 5.0)), "e_above_hull": hull}
        for pair, hull in zip(pairs, (0.0, 0.0, 0.3, 0.0), strict=True)
    ]
    rows.append({"material_id": "malformed but elsewhere", "cif": cif(b2("K", "F"))[:-20], "e_above_hull": ""})
    path = write_csv(tmp_path / "salts.csv", rows)
    within = read(tmp_path, path, elements=("Cl", "Cs"))
    assert within.table.column("source_id").to_pylist() == ["Cs-Cl", "Cs-Cs"]
    assert within.table.column("n_atoms").to_pylist() == [2, 1]  # the Cs-Cs cell is body-centred: primitive, one atom
    assert (within.manifest.sources[0].n_filtered, within.manifest.sources[0].n_rejected) == (3, 0)
    assert within.manifest.elements == ("Cl", "Cs")
    stable = read(tmp_path, path, filters=FilterConfig(e_above_hull_max_ev_per_atom=0.1, elements=("Cs", "Cl", "Br")))
    assert stable.table.column("source_id").to_pylist() == ["Cs-Cl", "Cs-Br"]
    with pytest.raises(SourceError, match="share no element"):
        read(tmp_path, path, elements=("Ta",), filters=FilterConfig(elements=("Cs",)))


def test_worker_processes_give_the_same_table_and_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    rows = [{"material_id": f"m{i}", "cif": cif(b2("Cs", "Cl", 4 + rng.random()))} for i in range(300)]
    rows[280]["cif"] = "garbage"
    path = write_csv(tmp_path / "many.csv", rows)
    alone = read(tmp_path, path)
    together = read(tmp_path, path, workers=2)
    assert alone.table.equals(together.table)
    assert alone.rejected.equals(together.rejected)


def test_a_name_used_twice_is_numbered_and_a_limit_stops_the_reading(tmp_path: Path) -> None:
    rows = [{"material_id": i, "cif": cif(b2("Cs", "Cl"))} for i in range(3)]
    path = write_csv(tmp_path / "x.csv", rows)
    seen: list[tuple[str, int]] = []
    config = DataConfig(sources=(FilesSource(path="a/x.csv", limit=2), FilesSource(path="b/x.csv", limit=1)))
    manifest = ingest(config, None, tmp_path / "out", lambda _: path, progress=lambda *call: seen.append(call))
    assert [(s.source, s.n_kept, s.query) for s in manifest.sources] == [
        ("x", 2, "a/x.csv (first 2 records)"),
        ("x-2", 1, "b/x.csv (first 1 records)"),
    ]
    assert seen == [("x", 2, None), ("x-2", 1, None)]


def test_a_manifest_holds_no_path_of_the_machine() -> None:
    assert portable("assets:data/mp.csv.gz") == "assets:data/mp.csv.gz"
    assert portable("data/mp.csv") == "data/mp.csv"
    assert portable(str(Path.home() / "secret" / "mp.csv")) == "mp.csv"
    assert portable("C:\\Users\\me\\mp.csv") == "mp.csv"
    assert source_name(Path("data/mp_20.v2.csv.gz")) == "mp_20.v2"


def test_the_benchmark_files_hold_nine_crystals_of_tantalum_tungsten_boron(tmp_path: Path) -> None:
    paths = [ASSETS / "data" / f"{name}.csv.gz" for name in MP_FILES]
    if not all(path.is_file() for path in paths):
        pytest.skip("the benchmark files are not there: set HULLWARD_ASSETS to the folder that holds data/")
    found = read(tmp_path, *paths, elements=("Ta", "W", "B"))
    # Counted independently, by the element symbols in the site lists of all 29,258 CIFs.
    assert sorted(found.table.column("formula").to_pylist()) == sorted(
        ["TaW", "BW2", "Ta2B", "Ta5B6", "BW", "BW", "Ta", "Ta", "B2W"]
    )
    assert len(found.rejected) == 0
    assert sum(s.n_read for s in found.manifest.sources) == 29_258
