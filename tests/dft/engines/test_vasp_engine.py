"""The VASP engine from job folder to record: atomate2, jobflow and custodian as they are, VASP by a stand-in.

The stand-in (fake_vasp_std.py) relaxes argon with a Lennard-Jones potential; what a record must say is computed here
with ASE from the same potential.
"""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from ase import units
from ase.calculators.lj import LennardJones
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from monty.json import MontyDecoder
from pymatgen.io.ase import AseAtomsAdaptor

from dft.config import Preset
from dft.inputs.kpoints import sampling_of_mesh
from dft.job_folder import Purpose
from tests.dft.vasp_machine import Machine, argon, error_of, record_of


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def relaxed_by_ase(pressure_gpa: float = 0.0) -> tuple[float, float, float]:
    """Initial energy, final energy (eV), final volume (A^3) of the same crystal in the same potential."""
    atoms = AseAtomsAdaptor.get_atoms(argon())
    atoms.calc = LennardJones(sigma=3.4, epsilon=0.1, rc=8.0, ro=6.0, smooth=True)
    first = float(atoms.get_potential_energy()) - 5.0 * len(atoms)  # the stand-in's energy of an atom
    BFGS(FrechetCellFilter(atoms, scalar_pressure=pressure_gpa * units.GPa), logfile=None).run(fmax=1e-4, steps=500)
    return first, float(atoms.get_potential_energy()) - 5.0 * len(atoms), float(atoms.get_volume())


def test_a_relaxation_gives_the_energy_volume_and_forces_of_its_potential(machine: Machine) -> None:
    folder = machine.folder()
    assert machine.run(folder) == 0
    record = record_of(folder)
    initial_ev, final_ev, volume_ang3 = relaxed_by_ase()
    assert record.energy_ev == pytest.approx(final_ev, abs=2e-3)
    assert record.initial_energy_ev == pytest.approx(initial_ev, abs=1e-6)
    assert record.structure.volume == pytest.approx(volume_ang3, rel=0.01)
    assert record.enthalpy_ev == record.energy_ev
    assert record.is_converged
    assert record.fmax_ev_per_ang < 0.01
    assert record.engine_version == "VASP 6.0.0"
    assert record.initial_structure == argon()
    assert (record.corrections, record.warnings) == ((), ())
    assert record.n_ionic_steps > 3
    assert record.n_electronic_steps == 3 * record.n_ionic_steps
    assert record.wall_time_s > 0
    assert record.resolved["incar"]["ENCUT"] == 500
    assert record.kpoints == sampling_of_mesh((1, 1, 1), record.structure.lattice)
    assert record.resolved["potcars"] == ["PAW_PBE Ar 01Jan2000"]
    assert record.resolved["versions"]["custodian"]
    assert set(record.data) == {"Ar"}
    assert "vasp/0/vasprun.xml.gz" in record.files
    assert "vasp/0/POTCAR.gz" in record.files


def test_a_finished_folder_is_left_alone_and_its_flow_is_the_deterministic_one(machine: Machine) -> None:
    folder = machine.folder()
    assert machine.run(folder) == 0
    before = (folder / "record.json").read_bytes()
    assert machine.run(folder, faults="crash,crash") == 0
    assert (folder / "record.json").read_bytes() == before
    assert machine.n_starts() == 1
    flow = MontyDecoder().decode((folder / "flow.json").read_text())
    assert [job.name for job in flow.jobs] == ["conditional-generation"]


def test_under_pressure_energy_and_enthalpy_are_told_apart(machine: Machine) -> None:
    folder = machine.folder(Preset.DP_CDVAE_10GPA)
    assert machine.run(folder) == 0
    record = record_of(folder)
    initial_ev, final_ev, volume_ang3 = relaxed_by_ase(pressure_gpa=10)
    assert machine.incar(0)["PSTRESS"] == 100
    assert record.pressure_gpa == pytest.approx(10)
    assert record.structure.volume == pytest.approx(volume_ang3, rel=1e-3)
    assert record.energy_ev == pytest.approx(final_ev, abs=2e-3)
    assert record.initial_energy_ev == pytest.approx(initial_ev, abs=1e-6)
    assert record.enthalpy_ev == pytest.approx(final_ev + 10 * units.GPa * volume_ang3, abs=2e-3)
    np.testing.assert_allclose(record.stress_gpa, -10 * np.eye(3), atol=0.1)


def test_a_static_run_moves_nothing(machine: Machine) -> None:
    folder = machine.folder(purpose=Purpose.STATIC)
    assert machine.run(folder) == 0
    record = record_of(folder)
    assert machine.incar(0)["NSW"] == 0
    assert record.n_ionic_steps == 1
    np.testing.assert_allclose(record.structure.cart_coords, argon().cart_coords, atol=1e-6)
    assert record.energy_ev == record.initial_energy_ev == pytest.approx(relaxed_by_ase()[0], abs=1e-6)


def test_the_materials_project_s_two_relaxations_are_one_record(machine: Machine) -> None:
    folder = machine.folder(Preset.MP_RELAX)
    assert machine.run(folder) == 0
    record = record_of(folder)
    assert machine.n_starts() == 2
    assert machine.poscar(1).volume != pytest.approx(
        argon().volume, rel=0.01
    )  # the second begins where the first ended
    assert record.initial_energy_ev == pytest.approx(relaxed_by_ase()[0], abs=1e-6)
    assert {"vasp/0/OUTCAR.gz", "vasp/1/OUTCAR.gz"} <= set(record.files)


def test_unconverged_electronic_steps_are_corrected_as_custodian_prescribes(machine: Machine) -> None:
    folder = machine.folder()
    assert machine.run(folder, faults="unconverged") == 0
    record = record_of(folder)
    assert [machine.incar(start)["ALGO"] for start in range(machine.n_starts())] == ["Fast", "Normal"]
    assert "UnconvergedErrorHandler found Unconverged" in record.corrections[0]
    assert record.is_converged
    assert record.energy_ev == pytest.approx(relaxed_by_ase()[1], abs=2e-3)
    assert record.initial_energy_ev == pytest.approx(relaxed_by_ase()[0], abs=1e-6)


def test_electronic_steps_that_never_converge_are_a_failure_with_what_was_tried(machine: Machine) -> None:
    folder = machine.folder(max_errors=3)
    assert machine.run(folder, faults=",".join(["unconverged"] * 9)) == 1
    error = error_of(folder)
    assert error["kind"] == "electronic steps"
    assert not error["is_retryable"]
    assert '"ALGO": "All"' in error["reason"]
    assert machine.n_starts() == 3


def test_an_error_that_vasp_prints_is_corrected_and_recorded(machine: Machine) -> None:
    folder = machine.folder()
    assert machine.run(folder, faults="zbrent") == 0
    assert "zbrent" in record_of(folder).corrections[0]
    assert machine.n_starts() == 2


def test_forces_that_never_fall_below_the_criterion_leave_a_record_that_says_so(machine: Machine) -> None:
    """EDIFFG -1e-5 in two ionic steps a start: custodian goes on from CONTCAR until it gives up."""
    folder = machine.folder(Preset.DP_CDVAE, max_errors=2)
    assert machine.run(folder, FAKE_VASP_STEPS_MAX="2") == 0
    record = record_of(folder)
    assert not record.is_converged
    assert "forces are above EDIFFG after 4 ionic steps" in record.warnings
    assert len(record.corrections) == 2
    assert record.initial_energy_ev == pytest.approx(relaxed_by_ase()[0], abs=1e-6)


def test_a_crashed_binary_is_a_failure_with_its_last_words_and_the_next_run_succeeds(machine: Machine) -> None:
    folder = machine.folder()
    assert machine.run(folder, faults="crash") == 1
    error = error_of(folder)
    assert error["kind"] == "crashed"
    assert error["is_retryable"]
    assert "SIGSEGV" in error["reason"]
    assert machine.run(folder, faults="crash") == 0
    assert not (folder / "error.json").exists()
    assert record_of(folder).is_converged


def test_a_truncated_vasprun_is_never_taken_for_a_result(machine: Machine) -> None:
    folder = machine.folder()
    assert machine.run(folder, faults="truncated") == 1
    error = error_of(folder)
    assert error["kind"] == "unreadable output"
    assert error["is_retryable"]
    assert machine.run(folder, faults="truncated") == 0
    assert record_of(folder).energy_ev == pytest.approx(relaxed_by_ase()[1], abs=2e-3)


def test_a_full_disk_is_named_as_such(machine: Machine) -> None:
    folder = machine.folder()
    assert machine.run(folder, faults="full-disk") == 1
    error = error_of(folder)
    assert error["kind"] == "disk full"
    assert error["is_retryable"]
    assert machine.run(folder, faults="full-disk") == 0


def wait_for_steps(place: Path, n: int, process: subprocess.Popen[str]) -> None:
    for _ in range(600):
        assert process.poll() is None, process.communicate()
        if (place / "OSZICAR").exists() and (place / "OSZICAR").read_text().count("F=") >= n:
            return
        time.sleep(0.1)
    raise AssertionError("the stand-in took no steps in a minute")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_ends_its_vasp_and_goes_on_from_contcar(machine: Machine, how: signal.Signals) -> None:
    folder = machine.folder()
    process = machine.start(folder, FAKE_VASP_STEP_S="0.4")
    wait_for_steps(folder / "vasp" / "0", 4, process)
    process.send_signal(how)
    process.communicate(timeout=30)
    assert not (folder / "record.json").exists()
    if how == signal.SIGTERM:
        assert error_of(folder)["kind"] == "stopped"
        assert not at_work_in(folder)
    assert machine.run(folder) == 0
    assert not at_work_in(folder)
    record = record_of(folder)
    assert machine.poscar(1).volume != pytest.approx(argon().volume, rel=1e-3)
    assert "1 attempt(s) ended before they were done" in " ".join(record.warnings)
    assert record.initial_energy_ev == pytest.approx(relaxed_by_ase()[0], abs=1e-6)
    assert record.energy_ev == pytest.approx(relaxed_by_ase()[1], abs=2e-3)
    assert record.wall_time_s > 1.0  # the killed attempt counts
    assert any(name.startswith("vasp/0.killed-1/") for name in record.files)


def at_work_in(folder: Path) -> list[int]:
    found = []
    for process in psutil.process_iter(["cwd"]):
        cwd = process.info["cwd"]
        if cwd and Path(cwd).is_relative_to(folder):
            found.append(process.pid)
    return found


def test_before_the_time_limit_vasp_is_asked_to_end_and_the_next_run_goes_on(machine: Machine) -> None:
    folder = machine.folder(wall_time_s=60, wall_time_margin_s=57)
    process = machine.start(folder, FAKE_VASP_STEP_S="0.5")
    process.communicate(timeout=120)
    assert process.returncode == 1
    error = error_of(folder)
    assert error["kind"] == "stopped"
    assert error["is_retryable"]
    assert machine.folder(wall_time_s=600) == folder  # the limit changes no number, so this is the same job
    assert machine.run(folder) == 0
    record = record_of(folder)
    assert record.is_converged
    assert machine.poscar(1).volume != pytest.approx(argon().volume, rel=1e-3)
    assert record.energy_ev == pytest.approx(relaxed_by_ase()[1], abs=2e-3)


def test_a_missing_program_and_missing_pseudopotentials_are_told_apart(machine: Machine) -> None:
    folder = machine.folder(command="vasp_of_another_machine")
    assert machine.run(folder) == 1
    assert error_of(folder)["kind"] == "engine missing"
    assert "vasp_of_another_machine" in error_of(folder)["reason"]
    (machine.place / "psp" / "POT_GGA_PAW_PBE_54" / "Ar" / "POTCAR").unlink()
    folder = machine.folder()
    assert machine.run(folder) == 1
    assert error_of(folder)["kind"] == "no data"
    assert not error_of(folder)["is_retryable"]


def test_a_flow_of_another_job_is_refused(machine: Machine) -> None:
    folder = machine.folder()
    other = machine.folder(purpose=Purpose.STATIC)
    assert machine.run(other) == 0
    (folder / "flow.json").write_bytes((other / "flow.json").read_bytes())
    assert machine.run(folder) == 1
    assert error_of(folder)["kind"] == "invalid job"
    (folder / "flow.json").write_text("{}")
    assert machine.run(folder) == 1
    assert "remove it" in error_of(folder)["reason"]
