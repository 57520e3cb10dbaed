"""Own VASP records and Materials Project entries on one corrected hull: who is on it, who is not, and what is said."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core.composition import Composition
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry, ConstantEnergyAdjustment
from pymatgen.io.vasp.inputs import Incar

from dft.config import Preset
from dft.engines.config import GPAWConfig, VaspEngineConfig
from dft.engines.vasp_outputs import read_run
from dft.hull.corrected_hull import HullRow, corrected_ev_per_atom, hull_with_materials_project
from dft.hull.corrections import MP2020
from dft.hull.reference_entries import EntriesError, ReferenceEntry, read_entries
from dft.inputs.kpoints import sampling_of_mesh
from dft.records import DFTRecord, MixedSettingsError
from tests.dft.made_records import MP, MP_INCAR, antiperovskite, body_centred, potcar_titles, record, rock_salt

ASSETS = Path(os.environ.get("HULLWARD_ASSETS", Path(__file__).parents[4] / "shared"))


def own(structure: Structure, ev_per_atom: float, key: str, **changes: Any) -> DFTRecord:
    """As the engine leaves it with the preset mp-relax: INCAR, functional and pseudopotentials in `resolved`."""
    resolved = {
        "incar": MP_INCAR,
        "run_type": "GGA",
        "potcars": potcar_titles(structure),
        **changes.pop("resolved", {}),
    }
    return record(structure, ev_per_atom, key=key, candidate_id=f"c-{key}", resolved=resolved, **changes)


def entry(name: str, structure: Structure, ev_per_atom: float, **parameters: Any) -> ReferenceEntry:
    spec = [{"titel": title, "hash": None} for title in potcar_titles(structure)]
    stated = {"run_type": "GGA", "hubbards": {}, "potcar_spec": spec, **parameters}
    return ReferenceEntry(
        ComputedStructureEntry(structure, ev_per_atom * len(structure), parameters=stated, entry_id=name)
    )


def simple(symbols: list[str], edge_ang: float = 3.5) -> Structure:
    frac = np.random.default_rng(len(symbols)).random((len(symbols), 3))
    return Structure(Lattice.cubic(edge_ang * len(symbols) ** (1 / 3)), symbols, frac)


def lithia() -> list[ReferenceEntry]:
    return [
        entry("mp-135", simple(["Li"]), -1.9),
        entry("mp-12957", simple(["O", "O"], 4.0), -4.95),
        entry("mp-22848", simple(["Cl", "Cl"], 4.0), -1.84),
        entry("mp-22905", rock_salt("Li", "Cl", 5.1), -3.4),
    ]


def by_id(rows: tuple[HullRow, ...]) -> dict[str, HullRow]:
    return {row.id: row for row in rows}


def nickel_oxide() -> DFTRecord:
    """A real VASP run with the Materials Project's settings, as the record that the engine would make of it."""
    folder = ASSETS / "vasp_runs" / "vasp_mp_run1"
    if not folder.is_dir():
        pytest.skip(f"no recorded VASP runs under {ASSETS}: set HULLWARD_ASSETS to the folder that holds vasp_runs/")
    run = read_run(folder)
    incar = Incar.from_str(gzip.decompress((folder / "INCAR.gz").read_bytes()).decode())
    resolved = {
        "incar": json.loads(json.dumps(dict(incar), default=str)),
        "run_type": run.run_type,
        "hubbards_ev": run.hubbards_ev,
        "potcars": list(run.potcars),
        "bandgap_ev": run.bandgap_ev,
    }
    return record(run.structure, run.energy_ev / 2, resolved=resolved, kpoints=run.kpoints)


def test_a_real_oxide_gets_the_published_corrections_of_2020() -> None:
    """Wang et al. 2021, Table 2: oxides -0.687 eV per O, GGA+U of Ni -2.541 eV per Ni."""
    found = nickel_oxide()
    corrected = corrected_ev_per_atom(found)
    assert corrected == pytest.approx(found.energy_ev_per_atom + (-0.687 - 2.541) / 2, abs=1e-6)


def test_materials_project_entries_and_a_real_record_meet_on_one_corrected_hull() -> None:
    entries = [entry("mp-23", simple(["Ni"]), -5.78), entry("mp-12957", simple(["O", "O"]), -4.95)]
    one = nickel_oxide()
    found = hull_with_materials_project({"own": one}, entries)
    row = found.rows[0]
    expected = one.energy_ev_per_atom + (-0.687 - 2.541) / 2 + (5.78 + 4.95) / 2
    assert row.formation_energy_ev_per_atom == pytest.approx(expected)
    assert row.e_above_hull_ev_per_atom == pytest.approx(expected)
    assert (row.kpoint_mesh, row.run_type, row.scheme) == ("3x3x3", "GGA+U", MP2020)
    assert "sparse for a metal" in row.note  # no gap, and 27 k-points


def test_records_of_other_settings_are_never_corrected_and_what_differs_is_named() -> None:
    nio, settings = rock_salt("Ni", "O", 4.2), VaspEngineConfig.model_validate({}).settings()
    with pytest.raises(MixedSettingsError, match="preset conditional-generation, 0.0 GPa") as caught:
        corrected_ev_per_atom(own(nio, -5.0, "a", settings=settings, resolved={"incar": {"ENCUT": 500, "IVDW": 11}}))
    for said in ("family: PBE_54 / PBE", "U of Ni: 0 / 6.2 eV", "ENCUT: is 500", "IVDW: is 11", "preset mp-relax"):
        assert said in str(caught.value)
    with pytest.raises(MixedSettingsError, match="engine gpaw, preset None.* engine: gpaw / vasp"):
        corrected_ev_per_atom(record(nio, -5.0, GPAWConfig().settings()))
    with pytest.raises(MixedSettingsError, match="pressure: 10 / 0 GPa"):
        corrected_ev_per_atom(own(nio, -5.0, "a", pressure_gpa=10.0))
    with pytest.raises(MixedSettingsError, match="functional: PBEsol / GGA or GGA"):
        corrected_ev_per_atom(own(nio, -5.0, "a", resolved={"run_type": "PBEsol"}))
    with pytest.raises(MixedSettingsError, match="pseudopotentials: Ni, O_s / Ni_pv, O"):
        corrected_ev_per_atom(own(nio, -5.0, "a", resolved={"potcars": ["PAW_PBE Ni 1", "PAW_PBE O_s 1"]}))
    with pytest.raises(MixedSettingsError, match="pseudopotentials: not in the record"):
        corrected_ev_per_atom(own(nio, -5.0, "a", resolved={"potcars": []}))
    assert corrected_ev_per_atom(own(nio, -5.0, "a", is_converged=False)) is None


def test_a_record_with_another_preset_but_the_materials_project_s_numbers_is_taken() -> None:
    """Settings are judged by what was written: a higher cut-off and a tighter EDIFF are no difference."""
    settings = VaspEngineConfig(preset=Preset.DP_CDVAE, potcar_functional="PBE").settings()
    tight = {"ENCUT": 800, "EDIFF": 1e-6, "ISMEAR": 0, "SIGMA": 0.05, "PREC": "Accurate", "ISPIN": 2, "GGA": "PE"}
    lithium_chloride = rock_salt("Li", "Cl", 5.1)
    found = corrected_ev_per_atom(own(lithium_chloride, -3.4, "a", settings=settings, resolved={"incar": tight}))
    assert found == pytest.approx(-3.4 - 0.614 / 2)


def test_a_metal_may_be_smeared_as_a_metal_and_an_insulator_may_not() -> None:
    metal = own(
        simple(["Li"]), -1.9, "a", resolved={"incar": {**MP_INCAR, "ISMEAR": 2, "SIGMA": 0.2}, "bandgap_ev": 0.0}
    )
    assert corrected_ev_per_atom(metal) == pytest.approx(-1.9)
    for gap_ev in (1.0, None):
        resolved = {**metal.resolved, "bandgap_ev": gap_ev}
        with pytest.raises(MixedSettingsError, match="ISMEAR: is 2"):
            corrected_ev_per_atom(own(simple(["Li"]), -1.9, "a", resolved=resolved))


def test_the_table_is_pymatgen_s_hull_of_energies_corrected_by_hand() -> None:
    """LiCl and a made-up Li3ClO: -0.614 eV per Cl, -0.687 per O, on both sides."""
    records = {
        "a": own(antiperovskite(), -4.0, "a"),
        "b": own(rock_salt("Li", "Cl", 5.2), -3.3, "b", purpose="reference"),
    }
    records["a"] = own(antiperovskite(), -4.0, "a", purpose="relaxation")
    rows = by_id(hull_with_materials_project(records, lithia()).rows)
    entries = {
        "Li": PDEntry(Composition("Li"), -1.9),
        "O": PDEntry(Composition("O2"), -9.9),
        "Cl": PDEntry(Composition("Cl2"), -3.68),
        "LiCl": PDEntry(Composition("LiCl"), -6.8 - 0.614),
        "own LiCl": PDEntry(Composition("LiCl"), -6.6 - 0.614),
        "own": PDEntry(Composition("Li3ClO"), -20 - 0.614 - 0.687),
    }
    others = PhaseDiagram([one for name, one in entries.items() if name != "own"])
    above = others.get_decomp_and_e_above_hull(entries["own"], allow_negative=True)[1]
    assert rows["c-a"].e_above_hull_ev_per_atom == pytest.approx(above)
    whole = PhaseDiagram(list(entries.values()))
    assert rows["mp-22905"].e_above_hull_ev_per_atom == pytest.approx(whole.get_e_above_hull(entries["LiCl"]))
    assert rows["c-b"].e_above_hull_ev_per_atom == pytest.approx(0.1)
    assert (rows["c-a"].role, rows["c-b"].role, rows["mp-135"].role) == ("candidate", "own reference", "database")
    assert rows["c-a"].oxidation_states == "Cl -1, Li +1, O -2"
    assert rows["c-a"].correction_terms == "anion correction (oxide) -0.687 eV x 1; anion correction (Cl) -0.614 eV x 1"
    assert {row.scheme for row in rows.values()} == {MP2020}
    assert list(rows)[:2] == ["c-a", "c-b"]


def test_other_functionals_are_left_out_by_name_and_missed_only_where_nothing_stands_for_them() -> None:
    lithium_chloride = rock_salt("Li", "Cl", 5.1)
    entries = [
        *lithia(),
        entry("mp-22905-R2SCAN", lithium_chloride, -9.0, run_type="R2SCAN"),
        entry("mp-1-R2SCAN", simple(["Li", "Cl", "Cl", "Cl"]), -9.0, run_type="R2SCAN"),
        entry("mp-135-GGA+U", simple(["Li"]), -9.0, run_type="GGA+U", hubbards={"Li": 2.0}),
    ]
    found = hull_with_materials_project({"a": own(lithium_chloride, -3.3, "a")}, entries)
    rows = by_id(found.rows)
    for name in ("mp-22905-R2SCAN", "mp-1-R2SCAN"):
        assert rows[name].left_out.startswith("run type R2SCAN")
        assert rows[name].e_above_hull_ev_per_atom is None
    assert rows["mp-135-GGA+U"].left_out == "U of Li: 2 / 0 eV"
    assert rows["c-a"].e_above_hull_ev_per_atom == pytest.approx(0.1)
    assert rows["c-a"].note == "1 competing phase(s) without an energy left out of the hull: LiCl3"


def test_a_correction_other_than_the_database_s_own_is_said_in_its_row() -> None:
    lithium_chloride = rock_salt("Li", "Cl", 5.1)
    stated = [ReferenceEntry(entry("mp-a", lithium_chloride, -3.4).entry, correction) for correction in (-0.307, -0.2)]
    stated[1].entry.entry_id = "mp-b"
    rows = by_id(hull_with_materials_project({"a": own(lithium_chloride, -3.3, "a")}, [*lithia(), *stated]).rows)
    assert rows["mp-a"].note == ""
    assert rows["mp-b"].note == "the database corrects by -0.200 eV/atom, the scheme with our states by -0.307"
    assert rows["mp-22905"].note == ""  # it states none


def test_phases_of_one_formula_that_are_corrected_otherwise_say_so() -> None:
    peroxide, edges = body_centred("Ba", 3.81, 6.84, 0.3911), rock_salt("Ba", "O", 5.6).lattice
    oxide = Structure(edges, ["Ba", "O", "O"], [[0] * 3, [0.25] * 3, [0.75] * 3])  # fluorite: no O-O bond
    entries = [
        entry("mp-1", simple(["Ba"]), -1.9),
        entry("mp-2", simple(["O", "O"], 4.0), -4.95),
        entry("mp-3", peroxide, -5),
    ]
    rows = by_id(hull_with_materials_project({"a": own(oxide, -5.0, "a")}, entries).rows)
    assert "mp-3, of the same formula, is corrected by -0.310 eV/atom" in rows["c-a"].note
    assert "c-a, of the same formula, is corrected by -0.458 eV/atom" in rows["mp-3"].note


def test_a_candidate_whose_states_cannot_be_found_has_no_energy_and_says_why() -> None:
    odd = simple(["Li", "Li", "Li", "Cl", "Cl", "O", "O", "O", "O"], 9.0)
    found = hull_with_materials_project(
        {"a": own(odd, -4.0, "a"), "b": own(rock_salt("Li", "Cl", 5.1), -3.4, "b")}, lithia()
    )
    row = by_id(found.rows)["c-a"]
    assert "whether Cl is an anion beside O decides" in row.left_out
    assert (row.corrected_ev_per_atom, row.e_above_hull_ev_per_atom) == (None, None)
    with pytest.raises(MixedSettingsError, match="cannot be corrected: oxidation states could not be determined"):
        corrected_ev_per_atom(own(odd, -4.0, "a"))


def test_one_record_of_other_settings_costs_itself_and_nothing_but_such_records_is_an_error() -> None:
    lithium_chloride = rock_salt("Li", "Cl", 5.1)
    low = own(
        lithium_chloride,
        -9.0,
        "low",
        resolved={"incar": {**MP_INCAR, "ENCUT": 400}},
    )
    rows = by_id(hull_with_materials_project({"low": low, "b": own(lithium_chloride, -3.4, "b")}, lithia()).rows)
    assert "ENCUT: is 400" in rows["c-low"].left_out
    assert rows["c-b"].e_above_hull_ev_per_atom == pytest.approx(0.0)
    with pytest.raises(MixedSettingsError, match="ENCUT: is 400"):
        hull_with_materials_project({"low": low}, lithia())


def test_own_records_of_two_pseudopotentials_with_one_title_share_no_hull() -> None:
    salt = rock_salt("Li", "Cl", 5.1)
    records = {name: own(salt, -3.4, name, data={"Li": "11", "Cl": cl}) for name, cl in (("a", "22"), ("b", "33"))}
    with pytest.raises(MixedSettingsError, match="records a and b .*other data of Cl .*22 / 33"):
        hull_with_materials_project(records, lithia())
    records["b"] = own(salt, -3.4, "b", data={"Li": "11"})
    assert len(hull_with_materials_project(records, lithia()).rows) == 5  # both, Li, Cl2, LiCl


def test_own_records_of_unlike_k_points_say_so_on_the_corrected_hull_too() -> None:
    small, large = simple(["Li"], 2.5), simple(["Li"] * 8, 3.0)
    records = {
        name: own(cell, -1.9, name, kpoints=sampling_of_mesh((5, 5, 5), cell.lattice))
        for name, cell in (("small", small), ("large", large))
    }
    found = hull_with_materials_project(records, lithia())
    assert "unlike density" in found.notes[0]
    assert "sparser than those of Li c-large" in by_id(found.rows)["c-small"].note


def written(path: Path, document: Any) -> Path:
    text = json.dumps(document)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def adjusted(one: ReferenceEntry, correction_ev: float) -> dict[str, Any]:
    made = one.entry.copy()
    made.energy_adjustments = [ConstantEnergyAdjustment(correction_ev, name="MP2020 anion correction (Cl)")]
    found = made.as_dict()
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("form", ["list", "by id", "below entries", "gzipped", "one"])
def test_entries_are_read_in_every_form_that_pymatgen_s_users_write(tmp_path: Path, form: str) -> None:
    one = lithia()[3]
    document = adjusted(one, -0.614)
    documents = {"by id": {"mp-22905": document}, "below entries": {"entries": [document]}, "one": document}
    name = "e.json.gz" if form == "gzipped" else "e.json"
    (found,), refused = read_entries([written(tmp_path / name, documents.get(form, [document]))])
    assert refused == []
    assert found.entry.uncorrected_energy == pytest.approx(-6.8)
    assert found.entry.energy == pytest.approx(-6.8)  # what the database adds is kept apart
    assert found.stated_correction_ev_per_atom == pytest.approx(-0.307)
    assert found.entry.parameters == one.entry.parameters
    assert (found.id, found.run_type, found.material) == ("mp-22905", "GGA", "mp-22905")


def test_a_record_that_is_no_entry_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    good = lithia()[0].entry.as_dict()
    other = {**good, "energy": -99.0}
    cut = {key: value for key, value in good.items() if key != "energy"}
    wrong = {**lithia()[3].entry.as_dict(), "composition": {"Li": 2.0, "Cl": 1.0}, "entry_id": "x"}
    gibbs = {**good, "@class": "GibbsComputedStructureEntry"}
    file = written(tmp_path / "e.json", [good, good, other, cut, wrong, gibbs, 7])
    found, refused = read_entries([file])
    assert [one.id for one in found] == ["mp-135"]
    assert [text.split(":")[0] for text in refused] == [f"e.json, entry {n}" for n in (3, 4, 5, 6, 7)]
    assert "another entry with another energy" in refused[0]
    assert "Li2 Cl1, its crystal Li1 Cl1" in refused[2]
    assert "is a GibbsComputedStructureEntry" in refused[3]


@pytest.mark.parametrize("text", ["", "id,cif\n1,data_x\n", "[]", "3", '[{"energy": 1}]', "{}"])
def test_a_file_without_entries_is_refused_with_what_was_expected(tmp_path: Path, text: str) -> None:
    file = tmp_path / "table.csv"
    file.write_text(text)
    with pytest.raises(EntriesError, match="expected JSON of ComputedStructureEntry dicts"):
        read_entries([file])


def test_an_entry_without_a_crystal_is_an_entry_too(tmp_path: Path) -> None:
    bare = ComputedEntry(Composition("LiCl"), -6.8, parameters={"run_type": "GGA"}, entry_id="a-GGA")
    (found,), _ = read_entries([written(tmp_path / "e.json", [bare.as_dict()])])
    assert type(found.entry) is ComputedEntry
    assert found.material == "a"
    assert found.stated_correction_ev_per_atom is None
    assert MP["preset"] == Preset.MP_RELAX.value
