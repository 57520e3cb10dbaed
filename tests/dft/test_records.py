"""Records of calculations: through JSON and back, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from dft.campaign.collection import hull_records
from dft.records import DFTRecord, MixedSettingsError, RecordError, check_comparable, enthalpy_ev
from dft.structures import structure_digest
from storage.digests import json_digest

EV_PER_ANG3_IN_PA = 1.602176634e-19 / 1e-30


def record(**changes: Any) -> DFTRecord:
    rng = np.random.default_rng(0)
    rock_salt = Structure.from_spacegroup(225, Lattice.cubic(4.2 + 1e-9), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    cell = rock_salt.get_primitive_structure()
    cell.add_site_property("magmom", [0.25, -1.0])
    settings = {"name": "gpaw", "cutoff_ev": 800.0}
    values: dict[str, Any] = {
        "key": "0" * 24,
        "engine": "gpaw",
        "engine_version": "22.8.0",
        "settings": settings,
        "settings_digest": json_digest(settings),
        "candidate_id": "abc",
        "purpose": "relaxation",
        "structure": cell,
        "initial_structure": cell.copy().scale_lattice(20.0),
        "energy_ev": -11.9 - 1e-13,
        "pressure_gpa": 10.0,
        "enthalpy_ev": enthalpy_ev(-11.9 - 1e-13, 10.0, float(cell.volume)),
        "forces_ev_per_ang": rng.normal(size=(2, 3)),
        "stress_gpa": rng.normal(size=(3, 3)),
        "n_ionic_steps": 7,
        "n_electronic_steps": 98,
        "is_converged": True,
        "wall_time_s": 12.5,
        "warnings": ("One.", "Two."),
        "files": {"gpaw.txt": "f" * 64},
        "corrections": ("mixing 0.05 to 0.02",),
        "lineage": {"dataset": "x"},
        "data": {"Mg": "a" * 64},
        "resolved": {"mesh": [5, 5, 5]},
        "magmoms": (0.25, -1.0),
    }
    return DFTRecord(**{**values, **changes})


def test_a_record_comes_back_from_json_to_the_last_bit() -> None:
    one = record()
    again = DFTRecord.from_json(one.to_json())
    assert again.to_json() == one.to_json()
    assert again.energy_ev == one.energy_ev
    assert (again.forces_ev_per_ang == one.forces_ev_per_ang).all()
    assert (again.stress_gpa == one.stress_gpa).all()
    assert structure_digest(again.structure) == structure_digest(one.structure)
    assert again.structure.site_properties["magmom"] == [0.25, -1.0]
    assert (again.warnings, again.corrections, again.magmoms) == (one.warnings, one.corrections, one.magmoms)


def test_a_record_in_a_job_store_may_carry_keys_of_the_stores_own() -> None:
    assert DFTRecord.from_document({**record().as_document(), "_id": 7}).key == "0" * 24


def test_the_enthalpy_is_energy_plus_pv_in_si_units() -> None:
    volume_ang3 = 18.0
    pv_ev = 10e9 * volume_ang3 / EV_PER_ANG3_IN_PA
    assert enthalpy_ev(-3.0, 10.0, volume_ang3) == pytest.approx(-3.0 + pv_ev, rel=1e-7)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"forces_ev_per_ang": np.zeros((3, 3))}, r"expected \(2, 3\)"),
        ({"energy_ev": float("nan")}, "not finite"),
        ({"stress_gpa": np.full((3, 3), np.inf)}, "not finite"),
        ({"enthalpy_ev": -11.9}, "plus PV"),
        ({"settings": {"name": "gpaw", "cutoff_ev": 400.0}}, "was changed"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecordError, match=said):
        replace(record(), **changes)


def test_a_truncated_record_is_refused_wherever_it_is_cut() -> None:
    text = record().to_json()
    for end in range(0, len(text), 97):
        with pytest.raises(RecordError):
            DFTRecord.from_json(text[:end])


def test_a_record_of_a_later_version_or_without_a_field_is_refused_by_name() -> None:
    document = record().as_document()
    with pytest.raises(RecordError, match="schema_version is '2'"):
        DFTRecord.from_document({**document, "schema_version": "2"})
    del document["stress_gpa"]
    with pytest.raises(RecordError, match="lacks stress_gpa"):
        DFTRecord.from_document(document)


def test_records_of_other_settings_have_another_method() -> None:
    other = {"name": "gpaw", "cutoff_ev": 400.0}
    assert replace(record(), settings=other, settings_digest=json_digest(other)).method != record().method


def test_records_that_ran_with_other_cutoffs_or_spins_under_one_digest_share_no_hull() -> None:
    """As records made under updates of the user's do, from before updates were refused."""
    incar = {"ENCUT": 500.0, "ISPIN": 2, "GGA": "Pe", "ALGO": "Fast", "NCORE": 4, "MAGMOM": [0.6, 0.6]}
    vasp = {"engine": "vasp", "settings": {"name": "vasp"}, "settings_digest": json_digest({"name": "vasp"})}
    common = record(**vasp, resolved={"incar": incar})
    alike = record(**vasp, resolved={"incar": {**incar, "ALGO": "All", "NCORE": 8, "ENCUT": 500, "MAGMOM": [5.0, 0.6]}})
    check_comparable([common, alike])
    for changes in ({"ENCUT": 300.0}, {"ISPIN": 1}, {"METAGGA": "R2scan"}, {"GGA": "Ps"}):
        other = record(**vasp, resolved={"incar": {**incar, **changes}})
        assert other.settings_digest == common.settings_digest
        with pytest.raises(MixedSettingsError, match=f"{next(iter(changes))} in INCAR: "):
            check_comparable([common, other])
        assert list(hull_records({"a": common, "b": other, "c": alike})) == ["a", "c"]
