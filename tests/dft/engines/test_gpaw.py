"""Real DFT with GPAW: against experiment, the Materials Project, and itself. Run by `make test-dft`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from dft.engines import gpaw_convergence
from dft.engines.config import GPAWConfig
from dft.engines.gpaw_engine import DRIVER
from dft.job_folder import Purpose, make_job_folder
from dft.records import DFTRecord

pytestmark = [pytest.mark.dft_real, pytest.mark.usefixtures("gpaw")]

ROOT = Path(__file__).resolve().parents[3]
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
EV_PER_ANG3_IN_GPA = 1.602176634e-19 / 1e-30 / 1e9
QUICK = GPAWConfig(cutoff_ev=500, kpoint_density_ang=1.5)

DIAMOND_ANG = 3.567
"""Experiment, room temperature."""
TIB2_EV_PER_ATOM = -1.0557
"""Formation energy of mp-1145 in the MP-20 files: PBE, no correction applies to a boride."""


def diamond(a_ang: float = 3.5, shift: float = 0.0) -> Structure:
    cell = Structure.from_spacegroup(227, Lattice.cubic(a_ang), ["C"], [[0, 0, 0]]).get_primitive_structure()
    cell.translate_sites([0], [shift, 0, 0])
    return cell


def test_diamond_has_the_lattice_constant_of_experiment_within_one_percent(
    tmp_path: Path, record_of: Callable[..., DFTRecord]
) -> None:
    config = GPAWConfig.for_elements(["C"], kpoint_density_ang=2.5)
    record = record_of(make_job_folder(tmp_path, diamond(), config, candidate_id="c1", lineage={"seed": 1}))
    a_ang = (4 * record.structure.volume) ** (1 / 3)
    assert a_ang == pytest.approx(DIAMOND_ANG, rel=0.01)
    assert record.is_converged
    assert record.fmax_ev_per_ang < 0.02
    assert abs(record.stress_gpa).max() < 2.0
    assert record.engine_version.startswith("GPAW ")
    assert (record.candidate_id, record.lineage) == ("c1", {"seed": 1})
    assert set(record.data) == {"C"}
    assert len(record.data["C"]) == 64
    assert record.n_ionic_steps > 1
    assert record.n_electronic_steps is not None
    assert record.n_electronic_steps > record.n_ionic_steps
    assert {"gpaw_input.json", "gpaw_steps.jsonl", "gpaw.0.txt"} <= set(record.files)


def test_the_stress_is_the_slope_of_the_energy_with_volume(tmp_path: Path, record_of: Callable[..., DFTRecord]) -> None:
    a_ang, strain = 5.3, 0.01
    records = []
    for factor in (1 - strain, 1.0, 1 + strain):
        cell = Structure.from_spacegroup(227, Lattice.cubic(a_ang * factor), ["Si"], [[0, 0, 0]])
        folder = make_job_folder(
            tmp_path, cell.get_primitive_structure(), QUICK, candidate_id="si", purpose=Purpose.STATIC
        )
        records.append(record_of(folder))
    below, middle, above = records
    slope = (above.energy_ev - below.energy_ev) / (above.structure.volume - below.structure.volume)
    # 0.5 GPa: the third-order term of the finite difference, and the grid that changes with the cell
    assert np.trace(middle.stress_gpa) / 3 == pytest.approx(slope * EV_PER_ANG3_IN_GPA, abs=0.5)


def test_a_held_pressure_is_reached(tmp_path: Path, record_of: Callable[..., DFTRecord]) -> None:
    config = QUICK.model_copy(update={"pressure_gpa": 50.0})
    record = record_of(make_job_folder(tmp_path, diamond(), config, candidate_id="c"))
    np.testing.assert_allclose(record.stress_gpa, -50.0 * np.eye(3), atol=1.0)
    pv_ev = 50.0 / EV_PER_ANG3_IN_GPA * record.structure.volume
    assert record.enthalpy_ev == pytest.approx(record.energy_ev + pv_ev, rel=1e-6)
    # Murnaghan with experiment's bulk modulus of 442 GPa and its slope 4 gives V / V0 of 0.908
    assert 4 * record.structure.volume / DIAMOND_ANG**3 == pytest.approx((1 + 4 * 50 / 442) ** (-1 / 4), abs=0.02)


def test_titanium_diboride_forms_with_the_energy_of_the_materials_project(
    tmp_path: Path, record_of: Callable[..., DFTRecord]
) -> None:
    config = GPAWConfig.for_elements(["Ti", "B"], kpoint_density_ang=2.0)
    crystals = {
        "TiB2": Structure(
            Lattice.hexagonal(3.030, 3.230), ["Ti", "B", "B"], [[0, 0, 0], [1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]]
        ),
        "Ti": Structure(Lattice.hexagonal(2.951, 4.684), ["Ti", "Ti"], [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]),
        # alpha boron, Will and Kiefer (2001)
        "B": Structure.from_spacegroup(
            166,
            Lattice.hexagonal(4.918, 12.580),
            ["B", "B"],
            [[0.1189, 0.8811, 0.8912], [0.1969, 0.8031, 0.0243]],
        ).get_primitive_structure(),
    }
    assert len(crystals["B"]) == 12
    energy = {}
    for name, crystal in crystals.items():
        # as measured: relaxing them changes the formation energy by less than a tenth of the tolerance
        folder = make_job_folder(tmp_path, crystal, config, candidate_id=name, purpose=Purpose.STATIC)
        energy[name] = record_of(folder).energy_ev_per_atom
    formation = energy["TiB2"] - (energy["Ti"] + 2 * energy["B"]) / 3
    assert formation == pytest.approx(TIB2_EV_PER_ATOM, abs=0.1)


def test_iron_is_magnetic(tmp_path: Path, record_of: Callable[..., DFTRecord]) -> None:
    iron = Structure(
        Lattice([[-1.435, 1.435, 1.435], [1.435, -1.435, 1.435], [1.435, 1.435, -1.435]]), ["Fe"], [[0, 0, 0]]
    )
    config = GPAWConfig(cutoff_ev=400, kpoint_density_ang=2.5, smearing_ev=0.1)
    record = record_of(make_job_folder(tmp_path, iron, config, candidate_id="fe", purpose=Purpose.STATIC))
    assert record.magmoms is not None
    assert record.magmoms[0] == pytest.approx(2.22, abs=0.3)  # experiment; the mesh and the smearing are coarse
    assert record.structure.site_properties["magmom"] == list(record.magmoms)


def test_an_element_without_data_is_refused_by_name(tmp_path: Path, error_of: Callable[..., dict[str, Any]]) -> None:
    crystal = Structure(Lattice.cubic(4.0), ["La", "C", "Tc"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]])
    error = error_of(make_job_folder(tmp_path, crystal, QUICK, candidate_id="c"))
    assert (error["kind"], error["is_retryable"]) == ("no data", False)
    assert "PAW data for La, Tc" in error["reason"]


def test_electrons_that_do_not_converge_are_a_reason_after_every_mixing_was_tried(
    tmp_path: Path, error_of: Callable[..., dict[str, Any]]
) -> None:
    config = QUICK.model_copy(update={"electronic_steps_max": 10})
    folder = make_job_folder(tmp_path, diamond(shift=0.05), config, candidate_id="c")
    error = error_of(folder)
    assert (error["kind"], error["is_retryable"]) == ("electronic steps", False)
    assert "within 10 electronic steps with any of 2 mixings" in error["reason"]
    assert "iter: 10" in error["reason"]
    assert {"gpaw.0.txt", "gpaw.1.txt"} <= {path.name for path in folder.iterdir()}


def test_a_gentler_mixing_gets_a_calculation_through_and_is_written_down(
    tmp_path: Path, record_of: Callable[..., DFTRecord]
) -> None:
    folder = make_job_folder(tmp_path, diamond(), QUICK, candidate_id="c", purpose=Purpose.STATIC)
    expected = record_of(folder).energy_ev
    asked = json.loads((folder / "gpaw_input.json").read_text())
    place = tmp_path / "by hand"
    place.mkdir()
    hopeless = {"beta": 1e-6, "nmaxold": 1, "weight": 1.0}
    asked |= {"mixings": [hopeless, None], "electronic_steps_max": 30}
    (place / "gpaw_input.json").write_text(json.dumps(asked))
    subprocess.run(["gpaw", "python", str(DRIVER)], cwd=place, check=True)
    result = json.loads((place / "gpaw_result.json").read_text())
    assert result["status"] == "done"
    assert result["step"]["energy_ev"] == pytest.approx(expected, abs=1e-3)
    (correction,) = result["step"]["corrections"]
    assert "within 30 electronic steps" in correction


OFF_SITE = diamond(3.45, shift=0.03)


def wait_for_steps(folder: Path, n_steps: int) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        file = folder / "gpaw_steps.jsonl"
        if file.exists() and len(file.read_text().splitlines()) >= n_steps + 1:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {n_steps} steps after 300 s in {folder}")


@pytest.fixture(scope="module")
def uninterrupted(
    gpaw: str, tmp_path_factory: pytest.TempPathFactory, record_of: Callable[..., DFTRecord]
) -> DFTRecord:
    """The relaxation that the tests below kill, left to its end."""
    return record_of(make_job_folder(tmp_path_factory.mktemp("whole"), OFF_SITE, QUICK, candidate_id="c"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_calculation_that_is_killed_goes_on_where_it_was(
    number: signal.Signals, tmp_path: Path, record_of: Callable[..., DFTRecord], uninterrupted: DFTRecord
) -> None:
    whole = uninterrupted
    folder = make_job_folder(tmp_path, OFF_SITE, QUICK, candidate_id="c")
    command = [sys.executable, "-m", "dft.run_job", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL) as process:
        wait_for_steps(folder, 2)
        os.killpg(process.pid, number)
        process.wait(60)
    known = (folder / "gpaw_steps.jsonl").read_bytes()
    assert not (folder / "record.json").exists()
    with (folder / "gpaw_steps.jsonl").open("ab") as steps:
        steps.write(b'{"cell_ang": [[0, 1.7')  # as if it had been writing
    record = record_of(folder)
    assert (folder / "gpaw_steps.jsonl").read_bytes().startswith(known)
    assert record.n_ionic_steps == whole.n_ionic_steps
    assert record.energy_ev == pytest.approx(whole.energy_ev, abs=1e-3)
    np.testing.assert_allclose(record.structure.lattice.matrix, whole.structure.lattice.matrix, atol=2e-3)
    assert record.is_converged


def test_a_full_disk_in_the_middle_is_a_reason_and_room_made_later_is_enough(
    small_disk: Path, record_of: Callable[..., DFTRecord], error_of: Callable[..., dict[str, Any]]
) -> None:
    folder = make_job_folder(small_disk, diamond(), QUICK, candidate_id="c", purpose=Purpose.STATIC)
    filler = small_disk / "filler"
    space = os.statvfs(small_disk)
    filler.write_bytes(b"\0" * (space.f_bavail * space.f_frsize - 80 * 1024))  # 64 kB of them are the reserve
    error = error_of(folder)
    assert (error["kind"], error["is_retryable"]) == ("disk full", True)
    filler.unlink()
    assert record_of(folder).is_converged


def test_two_processes_give_the_energy_of_one(tmp_path: Path, record_of: Callable[..., DFTRecord]) -> None:
    energies = []
    for processes in (1, 2):
        config = QUICK.model_copy(update={"processes": processes, "mpi_command": None})
        if processes == 2:
            config = config.model_copy(update={"mpi_command": "mpirun --oversubscribe -np 2"})
        folder = make_job_folder(tmp_path / str(processes), diamond(), config, candidate_id="c", purpose=Purpose.STATIC)
        record = record_of(folder, **AS_ROOT)
        energies.append(record.energy_ev)
    log = (tmp_path / "2" / record.key / "gpaw.0.txt").read_text()
    assert "Cores:      2" in log or "Total number of cores used: 2" in log
    assert energies[1] == pytest.approx(energies[0], abs=1e-3)


def test_the_convergence_table_says_how_far_each_cut_off_is_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    diamond().to(filename=str(tmp_path / "C.cif"))
    arguments = [str(tmp_path / "jobs"), str(tmp_path / "C.cif"), "--cutoffs", "300,500", "--densities", "1,1.5"]
    assert gpaw_convergence.main([*arguments, "--at-cutoff", "300", "--at-density", "1"]) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| C ")]
    assert [row[2].strip() for row in rows] == ["300", "500", "1", "1.5"]
    assert float(rows[0][3]) > 100  # meV/atom: 300 eV is far too low for carbon
    assert float(rows[1][3]) == float(rows[3][3]) == 0
