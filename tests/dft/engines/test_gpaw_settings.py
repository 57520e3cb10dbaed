"""GPAW's settings and its faults, without GPAW: a script in its place crashes, fills the disk, leaves half a result."""

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
from ase import Atoms
from ase.calculators.calculator import kptdensity2monkhorstpack
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from dft.engines.config import GPAWConfig, Spin
from dft.engines.gpaw_engine import mesh, resolve
from dft.engines.programs import run_program
from dft.inputs.kpoints import sampling_of_mesh
from dft.job_folder import make_job_folder, read_record
from dft.run_job import run_folder


def diamond(a_ang: float = 3.5) -> Structure:
    return Structure.from_spacegroup(227, Lattice.cubic(a_ang), ["C"], [[0, 0, 0]]).get_primitive_structure()


def test_the_mesh_is_that_of_ase_at_the_same_density() -> None:
    rng = np.random.default_rng(7)
    for _ in range(50):
        cell = rng.normal(size=(3, 3)) * 3 + 4 * np.eye(3)
        density = float(rng.uniform(0.5, 6))
        expected = kptdensity2monkhorstpack(Atoms(cell=cell, pbc=True), density, even=False)
        assert mesh(Lattice(cell), density) == list(expected)


def test_spin_follows_the_crystal_its_elements_and_the_settings() -> None:
    iron = Structure(Lattice.cubic(2.87), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    antiferromagnetic = iron.copy(site_properties={"magmom": [2.0, -2.0]})
    assert resolve(iron, GPAWConfig())["initial_magmoms"] == [3.0, 3.0]
    assert resolve(antiferromagnetic, GPAWConfig())["initial_magmoms"] == [2.0, -2.0]
    assert resolve(iron, GPAWConfig(spin=Spin.OFF))["initial_magmoms"] is None
    assert not resolve(diamond(), GPAWConfig())["is_spin_polarised"]
    assert resolve(diamond(), GPAWConfig(spin=Spin.ON))["initial_magmoms"] == [0.6, 0.6]


def test_how_it_is_run_does_not_enter_the_digest_and_what_is_computed_does() -> None:
    one = GPAWConfig()
    assert GPAWConfig(processes=8, mpi_command="srun", command=("x",)).settings_digest == one.settings_digest
    for change in ({"cutoff_ev": 700.0}, {"kpoint_density_ang": 3.0}, {"pressure_gpa": 1.0}, {"smearing_ev": 0.1}):
        assert GPAWConfig(**change).settings_digest != one.settings_digest


def test_a_campaign_takes_the_cut_off_that_its_elements_need_together() -> None:
    assert GPAWConfig.for_elements(["Ti", "B"]).cutoff_ev < GPAWConfig.for_elements(["Ti", "O"]).cutoff_ev == 800
    assert GPAWConfig.for_elements(["Ti", "O"], cutoff_ev=900.0).cutoff_ev == 900


@pytest.mark.parametrize(
    ("crystal", "config", "said"),
    [
        (
            Structure(Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
            GPAWConfig(cutoff_ev=500),
            "too low for O",
        ),
        (Structure(Lattice.cubic(4.2), ["C", "C"], [[0, 0, 0], [0.99, 0, 0]]), GPAWConfig(), "0.04 A apart"),
        (Structure(Lattice.orthorhombic(4, 4, 0.3), ["C"], [[0, 0, 0]]), GPAWConfig(), "0.30 A apart"),
    ],
)
def test_a_crystal_that_would_give_nonsense_is_refused(
    crystal: Structure, config: GPAWConfig, said: str, tmp_path: Path, error_of: Callable[..., dict[str, Any]]
) -> None:
    error = error_of(make_job_folder(tmp_path, crystal, config, candidate_id="c"))
    assert (error["kind"], error["is_retryable"]) == ("structure refused", False)
    assert said in error["reason"]


def stand_in(folder: Path, code: str) -> GPAWConfig:
    """Settings under which this Python code runs in the place of GPAW's Python."""
    script = folder / "stand_in.py"
    script.write_text(f"import json, os, sys\n{code}\n")
    return GPAWConfig(command=(sys.executable, str(script)))


@pytest.mark.parametrize(
    ("code", "kind", "is_retryable", "said"),
    [
        ("print('Segmentation something'); os._exit(139)", "crashed", True, "exit status 139"),
        ("os.kill(os.getpid(), 9)", "crashed", True, "signal 9"),
        ("sys.exit('OSError: [Errno 28] No space left on device')", "disk full", True, "make room"),
        ("import nothing_called_gpaw", "crashed", True, "nothing_called_gpaw"),
        ("sys.exit(\"No module named 'gpaw'\")", "engine missing", False, "has no GPAW"),
        ("open('gpaw_result.json', 'w').write('{\"status\": \"done\"')", "crashed", True, "exit status 0"),
        ("open('gpaw_result.json', 'w').write('{\"status\": \"done\"}')", "unreadable output", True, "KeyError"),
        (
            "json.dump({'status': 'electronic steps', 'reason': 'no luck'}, open('gpaw_result.json', 'w'))",
            "electronic steps",
            False,
            "no luck",
        ),
    ],
)
def test_every_way_to_fail_is_told_apart(
    code: str,
    kind: str,
    is_retryable: bool,
    said: str,
    tmp_path: Path,
    error_of: Callable[..., dict[str, Any]],
) -> None:
    error = error_of(make_job_folder(tmp_path, diamond(), stand_in(tmp_path, code), candidate_id="c"))
    assert (error["kind"], error["is_retryable"]) == (kind, is_retryable)
    assert said in error["reason"]


def test_a_program_that_is_not_there_is_named(tmp_path: Path, error_of: Callable[..., dict[str, Any]]) -> None:
    config = GPAWConfig(command=("no-such-gpaw", "python"))
    error = error_of(make_job_folder(tmp_path, diamond(), config, candidate_id="c"))
    assert (error["kind"], error["is_retryable"]) == ("engine missing", False)
    assert "no-such-gpaw cannot be started" in error["reason"]


@pytest.mark.parametrize("mpi", ["", "mpirun-of-mine -np 3"])
def test_the_mpi_command_of_the_job_script_is_put_before(
    mpi: str, tmp_path: Path, error_of: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if mpi:
        monkeypatch.setenv("HULLWARD_MPI_COMMAND", mpi)
    config = GPAWConfig(command=("no-such-gpaw",))
    error = error_of(make_job_folder(tmp_path, diamond(), config, candidate_id="c"))
    assert error["reason"].startswith("mpirun-of-mine" if mpi else "no-such-gpaw")


def test_a_record_has_the_density_of_its_mesh_in_the_relaxed_cell(tmp_path: Path) -> None:
    code = """
asked = json.load(open('gpaw_input.json'))
cell = [[0.97 * x for x in row] for row in asked['cell_ang']]
n = len(asked['symbols'])
step = {'cell_ang': cell, 'cart_ang': [[0.9 * i] * 3 for i in range(n)], 'magmoms': None, 'energy_ev': -1.0,
        'forces_ev_per_ang': [[0.0] * 3] * n, 'stress_gpa': [[0.0] * 3] * 3, 'corrections': []}
open('gpaw_steps.jsonl', 'w').write(json.dumps(step))
json.dump({'status': 'done', 'step': step, 'versions': {'gpaw': '1', 'ase': '1', 'libxc': '1'}, 'is_converged': True,
           'n_ionic_steps': 1, 'n_electronic_steps': 1, 'seconds': 1.0, 'data': {}}, open('gpaw_result.json', 'w'))
"""
    folder = make_job_folder(tmp_path, diamond(), stand_in(tmp_path, code), candidate_id="c")
    assert run_folder(folder)
    record = read_record(folder)
    assert record is not None
    assert record.kpoints == sampling_of_mesh(mesh(diamond().lattice, 3.5), record.structure.lattice)
    assert record.structure.volume == pytest.approx(0.97**3 * diamond().volume)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_calculation_outlives_the_job_that_started_it(number: signal.Signals, tmp_path: Path) -> None:
    config = stand_in(tmp_path, "open('pid', 'w').write(str(os.getpid())); import time; time.sleep(600)")
    folder = make_job_folder(tmp_path, diamond(), config, candidate_id="c")
    root = Path(__file__).resolve().parents[3]
    with subprocess.Popen([sys.executable, "-m", "dft.run_job", str(folder)], cwd=root) as process:
        deadline = time.monotonic() + 60
        while not ((folder / "pid").exists() and (folder / "pid").read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        calculation = int((folder / "pid").read_text())
        assert is_alive(calculation)
        os.kill(process.pid, number)
        process.wait(30)
    deadline = time.monotonic() + 10
    while is_alive(calculation) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(calculation)
    is_told = number is signal.SIGTERM
    assert (folder / "error.json").exists() is is_told
    if is_told:
        assert json.loads((folder / "error.json").read_text())["kind"] == "stopped"


def test_a_program_is_given_its_folder_its_variables_and_a_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import os; print(os.getcwd(), os.environ['ASKED'])"]
    assert run_program(command, tmp_path, "log", {"ASKED": "yes"}) == 0
    assert run_program([sys.executable, "-c", "raise SystemExit(7)"], tmp_path, "log", {}) == 7
    assert (tmp_path / "log").read_text() == f"{tmp_path} yes\n"
