"""Energies of one level of theory alone share an order or a hull. Truth: pymatgen's own corrections and entries."""

from __future__ import annotations

import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.entries.compatibility import MaterialsProject2020Compatibility
from pymatgen.entries.computed_entries import ComputedStructureEntry

from generative.datasets.config import DataConfig, FilesSource
from generative.datasets.ingest import ingest
from generative.datasets.levels import MP2020, MP_MIXED, MP_R2SCAN, functional_of, level_of
from generative.datasets.manifest import Dataset, read_dataset

CASES = Path(__file__).parents[2] / "data" / "cases" / "json"


def crystal(*symbols: str) -> Structure:
    frac = np.arange(len(symbols))[:, None] / len(symbols) + np.zeros(3)
    return Structure(Lattice.cubic(6.0), list(symbols), frac)


def read(tmp_path: Path, items: Any, method: str = "unknown", name: str = "x.json") -> Dataset:
    path = tmp_path / name
    path.write_text(items if isinstance(items, str) else json.dumps(items))
    return read_path(tmp_path, path, method)


def read_path(tmp_path: Path, path: Path, method: str = "unknown") -> Dataset:
    config = DataConfig(sources=(FilesSource(path=path.name, method=method),))
    ingest(config, None, tmp_path / "out", lambda _: path)
    return read_dataset(tmp_path / "out")


def levels(found: Dataset) -> dict[str, str]:
    rows = found.table.to_pylist()
    return {row["source_id"]: level_of(row["method"], row["run_type"]) for row in rows}


def entry(name: str, structure: Structure, energy: float, run_type: str | None, **rest: Any) -> ComputedStructureEntry:
    parameters = rest.pop("parameters", {}) | ({} if run_type is None else {"run_type": run_type})
    return ComputedStructureEntry(structure, energy, entry_id=name, parameters=parameters, **rest)


def test_entries_of_two_run_types_are_two_levels_and_keep_their_run_type(tmp_path: Path) -> None:
    found = read_path(tmp_path, CASES / "entries_mixed_runtypes.json", method="PBE (my group)")
    rows = {row["source_id"]: row for row in found.table.to_pylist()}
    assert {name: row["run_type"] for name, row in rows.items()} == {"mp-1-GGA+U": "GGA+U", "mp-1-R2SCAN": "R2SCAN"}
    assert rows["mp-1-GGA+U"]["method"] == "PBE (my group), GGA+U, corrected by 'corr'"
    assert rows["mp-1-R2SCAN"]["method"] == "PBE (my group), r2SCAN"
    assert len(set(levels(found).values())) == 2
    assert found.manifest.methods == {row["method"]: 1 for row in rows.values()}


def test_energies_that_the_scheme_of_2020_brought_to_one_scale_share_a_level_and_no_others_do(tmp_path: Path) -> None:
    hubbard = {"is_hubbard": True, "hubbards": {"Fe": 5.3, "O": 0.0}}
    symbols = {"potcar_symbols": ["PBE Fe_pv", "PBE O"]}
    oxide, metal, alloy = crystal("Fe", "Fe", "O", "O", "O"), crystal("Fe"), crystal("Fe", "Al")
    raw = [
        entry("oxide +U", oxide, -30.0, "GGA+U", parameters=hubbard | symbols),
        entry("magnesia", crystal("Mg", "O"), -12.0, "GGA", parameters={"potcar_symbols": ["PBE Mg_pv", "PBE O"]}),
        entry("metal", metal, -8.0, "GGA", parameters={"potcar_symbols": ["PBE Fe_pv"]}),
        entry("alloy", alloy, -13.0, "GGA", parameters={"potcar_symbols": ["PBE Fe_pv", "PBE Al"]}),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = MaterialsProject2020Compatibility(check_potcar=False).process_entries(
            raw, inplace=False, on_error="raise"
        )
    assert [len(one.energy_adjustments) for one in done] == [
        2,
        1,
        0,
        0,
    ]  # so the scheme leaves the last two as they are
    bare = [
        entry("bare oxide", oxide, -30.0, "GGA+U", parameters=hubbard),
        entry("bare magnesia", crystal("Mg", "O"), -12.0, "GGA"),
        entry("scan", metal, -20.0, "r2SCAN"),
    ]
    found = read(tmp_path, [one.as_dict() for one in (*done, *bare)])
    assert levels(found) == {
        **dict.fromkeys(["oxide +U", "magnesia", "metal", "alloy"], MP2020),
        "bare oxide": "GGA+U",
        "bare magnesia": "GGA",
        "scan": "r2SCAN",
    }
    energies = dict(zip(*(found.table.column(c).to_pylist() for c in ("source_id", "energy_ev_per_atom")), strict=True))
    assert energies == pytest.approx({one.entry_id: one.energy_per_atom for one in (*done, *bare)})
    # Without a corrected entry beside them nobody says that elements and alloys are meant to be of that scheme.
    alone = read(tmp_path, [one.as_dict() for one in done[2:]])
    assert set(levels(alone).values()) == {"GGA"}


def test_random_entries_are_of_one_level_only_if_functional_and_corrections_agree(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    spellings = {"GGA": ["GGA", "PBE", "pbe"], "GGA+U": ["GGA+U", "PBE+U", "PBE_U"], "r2SCAN": ["R2SCAN", "r2SCAN"]}
    truth, items = {}, []
    for number in range(60):
        functional = str(rng.choice([*spellings, "HSE06"]))
        correction = float(rng.choice([0.0, -1.5]))
        made = entry(str(number), crystal("Na", "Cl"), float(rng.normal()), None, correction=correction).as_dict()
        said = str(rng.choice(spellings.get(functional, [functional])))
        place = rng.choice(["parameters", "data", "item"])
        (made if place == "item" else made[place])["run_type"] = said
        truth[str(number)] = (functional, correction)
        items.append(made)
    found = levels(read(tmp_path, items, method="my group"))
    for one, other in itertools.combinations(truth, 2):
        assert (found[one] == found[other]) == (truth[one] == truth[other])


def document(**fields: Any) -> dict[str, Any]:
    thermo = {"energy_per_atom": -4.0, "formation_energy_per_atom": -2.0, "energy_above_hull": 0.1}
    return {"material_id": "mp-1", "structure": crystal("Na", "Cl").as_dict(), "theoretical": True, **thermo, **fields}


def test_documents_of_the_materials_project_state_their_scheme(tmp_path: Path) -> None:
    stated = {
        "a": ({"thermo_type": "GGA_GGA+U", "energy_type": "GGA"}, MP2020),
        "b": ({"thermo_type": "GGA_GGA+U", "energy_type": "GGA+U"}, MP2020),
        "c": ({"thermo_type": "R2SCAN", "energy_type": "r2SCAN"}, MP_R2SCAN),
        "d": ({"thermo_type": "GGA_GGA+U_R2SCAN", "energy_type": "r2SCAN"}, MP_MIXED),
        "e": ({"thermo_type": "GGA_GGA+U_R2SCAN", "energy_type": "GGA"}, MP_MIXED),
        "f": ({"run_type": "GGA+U"}, "GGA+U"),
        "g": ({"calc_types": {"mp-7": "GGA Structure Optimization", "mp-8": "GGA Static"}}, "GGA"),
        "h": ({"calc_types": {"mp-7": "GGA Structure Optimization", "mp-8": "r2SCAN Static"}}, "unknown"),
        "i": ({}, "unknown"),
        "j": ({"thermo_type": "UNKNOWN"}, "unknown, corrected by 'thermo_type UNKNOWN'"),
    }
    found = read(tmp_path, [document(**fields, material_id=name) for name, (fields, _) in stated.items()])
    assert levels(found) == {name: level for name, (_, level) in stated.items()}
    row = found.table.to_pylist()[0]
    assert (row["energy_ev_per_atom"], row["e_above_hull_ev_per_atom"]) == (-4.0, 0.1)
    assert json.loads(row["extra"])["theoretical"] is True


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (document(thermo_type="GGA_GGA+U", energy_type="r2SCAN"), "energy_type is 'r2SCAN': expected GGA or GGA+U"),
        (document(run_type="GGA", energy_type="GGA+U"), "run_type is 'GGA' and energy_type is 'GGA+U'"),
        (document(data={"run_type": "SCAN"}, run_type="GGA"), "run_type is stated as"),
        (document(e_above_hull=0.3), "e_above_hull is 0.3 and energy_above_hull is 0.1"),
        ({"energy": -1.0, "composition": {"Na": 1}, "entry_id": "x"}, "has an energy but no crystal"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, item: dict[str, Any], reason: str) -> None:
    (row,) = read(tmp_path, [item]).rejected.to_pylist()
    assert reason in row["reason"]


def test_an_entrys_energy_is_that_of_its_own_composition_and_corrections(tmp_path: Path) -> None:
    salt = crystal("Na", "Na", "Cl", "Cl")
    whole = entry("whole", salt, -16.0, "GGA", correction=-2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unit = whole.normalize()  # energy of one formula unit beside the cell of two
    normalized = unit.as_dict() | {"entry_id": "unit", "composition": {"Na": 1.0, "Cl": 1.0}}
    unsummed = {key: value for key, value in whole.as_dict().items() if key != "correction"} | {"entry_id": "unsummed"}
    wrong = whole.as_dict() | {"entry_id": "wrong", "correction": -3.0}
    other = whole.as_dict() | {"entry_id": "other", "composition": {"K": 2.0, "Cl": 2.0}}
    found = read(tmp_path, [whole.as_dict(), normalized, unsummed, wrong, other])
    energies = dict(zip(*(found.table.column(c).to_pylist() for c in ("source_id", "energy_ev_per_atom")), strict=True))
    assert energies == {"whole": -4.5, "unit": -4.5, "unsummed": -4.5}
    reasons = {row["source_id"]: row["reason"] for row in found.rejected.to_pylist()}
    assert "correction is -3 eV and the energy_adjustments sum to -2 eV" in reasons["wrong"]
    assert "expected the elements of the crystal (Cl, Na)" in reasons["other"]


def test_a_hubbard_u_makes_another_level_even_where_the_run_type_does_not_say_so(tmp_path: Path) -> None:
    items = [
        entry(name, crystal("Fe", "O"), -9.0, "GGA", parameters={"hubbards": {"Fe": u}}).as_dict()
        for name, u in (("plain", 0.0), ("with U", 5.3))
    ]
    assert levels(read(tmp_path, items)) == {"plain": "GGA", "with U": "GGA+U"}


def test_all_shapes_of_json_hold_the_same_crystals(tmp_path: Path) -> None:
    documents = [document(material_id=f"mp-{i}", run_type="PBE") for i in range(3)]
    lines = "\n".join(map(json.dumps, documents))
    names = list(documents[0])
    shapes: dict[str, Any] = {
        "list.json": documents,
        "entries.json": {"entries": documents},
        "reply.json": {"data": documents, "meta": {"total_doc": 3}},
        "by_id.json": {d["material_id"]: d for d in documents},
        "by_row.json": {str(i): d for i, d in enumerate(documents)},
        "split.json": {"columns": names, "index": [0, 1, 2], "data": [[d[n] for n in names] for d in documents]},
        "lines.json": lines,
        "lines.jsonl": lines + "\n",
    }
    expected = None
    for name, content in shapes.items():
        rows = read(tmp_path, content, name=name).table.drop_columns(["id", "source"])
        expected = rows if expected is None else expected
        assert rows.equals(expected), name
    broken = read(tmp_path, lines.replace("}\n", "\n", 1), name="broken.jsonl")
    assert (len(broken.table), len(broken.rejected)) == (2, 1)


def test_a_key_that_stands_twice_is_refused_not_overwritten(tmp_path: Path) -> None:
    one = json.dumps(document())
    for text in (f'{{"a": {one}, "a": {one}}}', one.replace('"material_id"', '"energy_per_atom": -9, "material_id"')):
        (row,) = read(tmp_path, text).rejected.to_pylist()
        assert "stands twice in one object" in row["reason"]


def test_level_of_is_settled_by_method_and_run_type_alone() -> None:
    assert level_of(MP2020, "GGA") == level_of(MP2020, "GGA+U") == MP2020
    assert level_of("PBE/PBE+U (AFLOW)", "PAW_PBE") != level_of("PBE/PBE+U (AFLOW)", "PAW_PBE+U")
    assert level_of(None, None) == level_of("", "") == level_of("unknown", " ") == "unknown"
    assert level_of("unknown", "PBE") == "GGA" == level_of("GGA", "PBE")
    assert level_of("x", None) == "x"
    said = level_of("my group", "R2SCAN")
    assert level_of(said, "r2SCAN") == said == "my group, r2SCAN"
    assert [functional_of(text) for text in ("pbe_u", "PBE +U", "PS", "", None, "optB88")] == [
        "GGA+U",
        "GGA+U",
        "PBEsol",
        None,
        None,
        "optB88",
    ]
