"""The VASP engine and what is not in its job: settings of the machine, edited flows, clocks, the order of atoms."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import atomate2.vasp.files
import numpy as np
import pytest
from ase.calculators.lj import LennardJones
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.io.ase import AseAtomsAdaptor

import dft.inputs.user_settings
from dft.config import Preset
from dft.engines.config import VaspEngineConfig
from dft.job_folder import Purpose, make_job_folder
from storage.digests import json_digest
from tests.dft.vasp_machine import FAKE_VASP, POTCAR, Machine, error_of, record_of


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_second_job_of_an_allocation_is_not_begun_where_the_first_has_used_up_the_time(machine: Machine) -> None:
    folder = machine.folder()
    assert machine.run(folder, HULLWARD_BEGAN=str(time.time() - 3500), HULLWARD_WALLTIME_S="3600") == 1
    error = error_of(folder)
    assert (error["kind"], error["is_retryable"]) == ("not started", True)
    assert error["reason"].startswith("its allocation ")  # so that it is charged to nobody
    assert machine.n_starts() == 0


def test_tags_of_the_machine_that_change_no_number_pass_and_all_others_stop_the_job(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for settings in (dft.inputs.user_settings.SETTINGS, atomate2.vasp.files.SETTINGS):
        monkeypatch.setattr(settings, "VASP_INCAR_UPDATES", {"NCORE": 4, "ENCUT": 300})
    folder = machine.folder()
    assert machine.run(folder) == 1
    error = error_of(folder)
    assert (error["kind"], error["is_retryable"]) == ("settings refused", False)
    assert "sets ENCUT = 300, where preset conditional-generation has ENCUT = 500" in error["reason"]
    assert machine.n_starts() == 0
    for settings in (dft.inputs.user_settings.SETTINGS, atomate2.vasp.files.SETTINGS):
        monkeypatch.setattr(settings, "VASP_INCAR_UPDATES", {"NCORE": 4})
    assert machine.run(folder) == 0
    record = record_of(folder)
    assert machine.incar(0)["NCORE"] == 4
    assert machine.incar(0)["ENCUT"] == 500
    assert record.settings_digest == VaspEngineConfig().settings_digest
    assert len(record.resolved["settings_sha256"]) == 64
    assert "NCORE = 4" in " ".join(record.warnings)


def test_a_flow_whose_settings_were_changed_by_hand_is_refused(machine: Machine) -> None:
    folder = machine.folder()
    assert machine.run(folder, faults="crash") == 1
    text = (folder / "flow.json").read_text()
    assert '"ENCUT": 500' in text
    (folder / "flow.json").write_text(text.replace('"ENCUT": 500', '"ENCUT": 300'))
    assert machine.run(folder) == 1
    assert error_of(folder)["kind"] == "settings refused"
    assert machine.n_starts() == 1


def test_a_vasp_that_ran_with_other_tags_leaves_a_record_of_another_digest(machine: Machine) -> None:
    """As if a script in the place of VASP's command wrote its own INCAR before custodian looked."""
    folder = machine.folder(purpose=Purpose.STATIC, preset=Preset.VDW)
    wrapper = machine.place / "vasp_with_tags"
    wrapper.write_text(
        f"#!/bin/bash\nsed -i 's/ENCUT.*/ENCUT = 300/' INCAR INCAR.orig\nexec {sys.executable} {FAKE_VASP}\n"
    )
    wrapper.chmod(0o755)
    assert machine.run(folder, ATOMATE2_VASP_CMD=str(wrapper)) == 0
    record = record_of(folder)
    assert record.settings["incar"] == {"ENCUT": 300.0}
    assert record.settings_digest == json_digest(record.settings)
    assert record.settings_digest != VaspEngineConfig(preset=Preset.VDW).settings_digest
    assert "INCAR had ENCUT = 300 (expected 550), which is not preset vdw" in record.warnings


def test_a_record_has_its_atoms_in_the_order_of_its_job_whatever_vasp_had(machine: Machine) -> None:
    for symbol in ("Kr", "Xe"):
        for family in ("POT_GGA_PAW_PBE_54", "POT_GGA_PAW_PBE"):
            (machine.place / "psp" / family / symbol).mkdir()
            text = POTCAR.replace("PAW_PBE Ar", f"PAW_PBE {symbol}").replace("=Ar:", f"={symbol}:")
            (machine.place / "psp" / family / symbol / "POTCAR").write_text(text)
    symbols = ["Xe", "Kr", "Xe", "Kr"]
    frac = [[0, 0, 0], [0.5, 0.48, 0.03], [0.5, 0.02, 0.5], [0.02, 0.5, 0.47]]
    crystal = Structure(Lattice.orthorhombic(5.4, 5.5, 5.3), symbols, frac)
    engine = VaspEngineConfig.model_validate({"poll_s": 0.1, "monitor_every": 1})
    folder = make_job_folder(machine.place / "jobs", crystal, engine, candidate_id="c-1", purpose=Purpose.STATIC)
    assert machine.run(folder) == 0
    assert [site.specie.symbol for site in machine.poscar(0)] == ["Xe", "Xe", "Kr", "Kr"]
    record = record_of(folder)
    assert [site.specie.symbol for site in record.structure] == symbols
    np.testing.assert_allclose(record.structure.frac_coords, crystal.frac_coords, atol=1e-6)
    atoms = AseAtomsAdaptor.get_atoms(crystal)
    atoms.calc = LennardJones(sigma=3.4, epsilon=0.1, rc=8.0, ro=6.0, smooth=True)
    np.testing.assert_allclose(record.forces_ev_per_ang, atoms.get_forces(), atol=1e-5)
