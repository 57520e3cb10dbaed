"""`python -m dft.run_job`: a record or a reason, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from dft.config import RelaxConfig
from dft.engines.config import PotentialEngineConfig
from dft.job_folder import Purpose, make_job_folder, read_record
from dft.potentials.loading import load_potential
from dft.potentials.relaxation import relax
from dft.run_job import run_folder

ROOT = Path(__file__).resolve().parents[2]
CHGNET = PotentialEngineConfig(potential="CHGNet", fmax_ev_per_ang=0.02)


def silicon(a_ang: float = 5.3) -> Structure:
    return Structure.from_spacegroup(227, Lattice.cubic(a_ang), ["Si"], [[0, 0, 0]]).get_primitive_structure()


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    """A job folder run as a queue runs it."""
    command = [sys.executable, "-m", "dft.run_job", str(folder)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def error_of(folder: Path) -> dict[str, Any]:
    document = json.loads((folder / "error.json").read_text())
    assert set(document) == {"schema_version", "key", "kind", "reason", "is_retryable", "when"}
    assert document["key"] == folder.name
    return dict(document)


def test_a_relaxation_leaves_the_record_that_the_potential_itself_gives_and_is_not_done_twice(tmp_path: Path) -> None:
    folder = make_job_folder(tmp_path, silicon(), CHGNET, candidate_id="c1", lineage={"seed": 1})
    done = run(folder)
    assert done.returncode == 0, done.stderr
    record = read_record(folder)
    assert record is not None
    potential = load_potential("CHGNet", fallback=None, search=[])
    (expected,) = relax([silicon()], potential, RelaxConfig(potential="CHGNet", fallback=None, fmax_ev_per_ang=0.02))
    assert expected.energy_ev_per_atom is not None
    assert record.energy_ev == pytest.approx(2 * expected.energy_ev_per_atom, abs=1e-5)
    assert record.is_converged
    assert record.n_ionic_steps == expected.n_steps + 1
    assert record.fmax_ev_per_ang < 0.02
    assert abs(record.stress_gpa).max() < 2.0
    assert record.data == {"potential": potential.fingerprint}
    assert (record.candidate_id, record.lineage) == ("c1", {"seed": 1})
    before = (folder / "record.json").stat().st_mtime_ns
    assert run(folder).returncode == 0
    assert (folder / "record.json").stat().st_mtime_ns == before
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "job.json", "record.json"]


def test_a_held_pressure_shows_in_the_stress_and_the_enthalpy(tmp_path: Path) -> None:
    pressed = CHGNET.model_copy(update={"pressure_gpa": 10.0})
    folder = make_job_folder(tmp_path, silicon(), pressed, candidate_id="c1")
    assert run_folder(folder)
    record = read_record(folder)
    assert record is not None
    np.testing.assert_allclose(record.stress_gpa, -10.0 * np.eye(3), atol=0.5)
    assert record.structure.volume < silicon(5.43).volume
    pv_ev = 10e9 * record.structure.volume * 1e-30 / 1.602176634e-19
    assert record.enthalpy_ev - record.energy_ev == pytest.approx(pv_ev, rel=1e-6)


def test_a_static_job_leaves_the_crystal_as_it_is(tmp_path: Path) -> None:
    folder = make_job_folder(tmp_path, silicon(), CHGNET, candidate_id="c1", purpose=Purpose.STATIC)
    assert run_folder(folder)
    record = read_record(folder)
    assert record is not None
    assert record.structure == silicon()
    assert record.n_ionic_steps == 1


def test_an_unconverged_relaxation_is_a_record_that_says_so(tmp_path: Path) -> None:
    few = CHGNET.model_copy(update={"max_steps": 1})
    folder = make_job_folder(tmp_path, silicon(), few, candidate_id="c1")
    assert run_folder(folder)
    record = read_record(folder)
    assert record is not None
    assert not record.is_converged
    assert any("after 1 steps" in warning for warning in record.warnings)


@pytest.mark.parametrize(
    ("engine", "kind", "said"),
    [
        (PotentialEngineConfig(potential="no-such-potential"), "engine missing", "was not found"),
        (CHGNET, "no data", "knows no"),
    ],
)
def test_a_job_that_cannot_be_done_leaves_its_reason(
    engine: PotentialEngineConfig, kind: str, said: str, tmp_path: Path
) -> None:
    unknown_to_chgnet = Structure(Lattice.cubic(5.0), ["Rn"], [[0, 0, 0]])
    folder = make_job_folder(tmp_path, unknown_to_chgnet, engine, candidate_id="c1")
    assert not run_folder(folder)
    error = error_of(folder)
    assert (error["kind"], error["is_retryable"]) == (kind, False)
    assert said in error["reason"]


def test_a_folder_without_a_job_gets_an_error_and_a_stale_one_does_not_survive_success(tmp_path: Path) -> None:
    folder = make_job_folder(tmp_path, silicon(), CHGNET, candidate_id="c1", purpose=Purpose.STATIC)
    whole = (folder / "job.json").read_text()
    (folder / "job.json").write_text("{")
    assert not run_folder(folder)
    assert error_of(folder)["kind"] == "invalid job"
    (folder / "job.json").write_text(whole)
    assert run_folder(folder)
    assert not (folder / "error.json").exists()


def test_a_record_that_cannot_be_read_is_kept_aside_and_computed_again(tmp_path: Path) -> None:
    folder = make_job_folder(tmp_path, silicon(), CHGNET, candidate_id="c1", purpose=Purpose.STATIC)
    (folder / "record.json").write_text('{"schema_version": "1", "energy_ev": -1')
    assert run_folder(folder)
    assert read_record(folder) is not None
    assert (folder / "record.json.unreadable").read_text().startswith('{"schema_version"')


def test_a_signal_ends_the_job_with_a_reason_and_running_again_finishes_it(tmp_path: Path) -> None:
    folder = make_job_folder(tmp_path, silicon(), CHGNET, candidate_id="c1")
    command = [sys.executable, "-m", "dft.run_job", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not (folder / ".reserve").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 1
    assert (error_of(folder)["kind"], error_of(folder)["is_retryable"]) == ("stopped", True)
    assert run_folder(folder)
    assert read_record(folder) is not None


def test_a_folder_at_work_is_left_to_the_process_that_works(tmp_path: Path) -> None:
    import fcntl

    folder = make_job_folder(tmp_path, silicon(), CHGNET, candidate_id="c1")
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run(folder)
    assert done.returncode == 1
    assert "another process" in done.stderr
    assert not (folder / "error.json").exists()


def test_a_full_disk_is_a_reason_and_room_made_later_is_enough(small_disk: Path) -> None:
    folder = make_job_folder(small_disk, silicon(), CHGNET, candidate_id="c1", purpose=Purpose.STATIC)
    filler = small_disk / "filler"
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    filler.write_bytes(b"\0" * (free - 32 * 1024))  # less than the reserve
    assert not run_folder(folder)
    error = error_of(folder)
    assert (error["kind"], error["is_retryable"]) == ("disk full", True)
    assert "make room" in error["reason"]
    filler.unlink()
    assert run_folder(folder)
    assert read_record(folder) is not None
