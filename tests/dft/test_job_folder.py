"""Job folders: one per calculation, the same for the same question, and honest about damage."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from dft.engines.config import PotentialEngineConfig
from dft.job_folder import JobFolderError, Purpose, make_job_folder, read_job
from dft.structures import StructureError

ENGINE = PotentialEngineConfig(potential="CHGNet")


def silicon(a_ang: float = 5.43) -> Structure:
    return Structure.from_spacegroup(227, Lattice.cubic(a_ang), ["Si"], [[0, 0, 0]]).get_primitive_structure()


def test_a_job_is_read_back_as_it_was_made(tmp_path: Path) -> None:
    crystal = silicon()
    folder = make_job_folder(
        tmp_path, crystal, ENGINE, candidate_id="c1", purpose=Purpose.REFERENCE, lineage={"seed": 3}
    )
    job = read_job(folder)
    assert folder == tmp_path / job.key
    assert len(job.key) == 24
    assert (job.engine, job.candidate_id, job.purpose, job.lineage) == (ENGINE, "c1", Purpose.REFERENCE, {"seed": 3})
    assert (job.structure.lattice.matrix == crystal.lattice.matrix).all()
    assert (job.structure.frac_coords == crystal.frac_coords).all()


def test_the_same_question_has_the_same_folder_in_another_process(tmp_path: Path) -> None:
    folder = make_job_folder(tmp_path / "a", silicon(), ENGINE, candidate_id="c1")
    (tmp_path / "crystal.json").write_text(json.dumps(silicon().as_dict()))
    code = (
        "import json, sys; from pathlib import Path; from pymatgen.core.structure import Structure\n"
        "from dft.engines.config import PotentialEngineConfig; from dft.job_folder import make_job_folder\n"
        "crystal = Structure.from_dict(json.loads(Path(sys.argv[1]).read_text()))\n"
        "engine = PotentialEngineConfig(potential='CHGNet')\n"
        "print(make_job_folder(Path(sys.argv[2]), crystal, engine, candidate_id='c2').name)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "crystal.json"), str(tmp_path / "b")]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert found.stdout.strip() == folder.name


def test_anything_that_changes_a_number_changes_the_folder(tmp_path: Path) -> None:
    def key(crystal: Structure, engine: PotentialEngineConfig = ENGINE, purpose: Purpose = Purpose.RELAXATION) -> str:
        return make_job_folder(tmp_path, crystal, engine, candidate_id="c", purpose=purpose).name

    magnetic = silicon()
    magnetic.add_site_property("magmom", [1.0, -1.0])
    keys = [
        key(silicon()),
        key(silicon(5.4300001)),
        key(magnetic),
        key(silicon(), purpose=Purpose.STATIC),
        key(silicon(), PotentialEngineConfig(potential="CHGNet", pressure_gpa=10)),
        key(silicon(), PotentialEngineConfig(potential="CHGNet", fmax_ev_per_ang=0.01)),
    ]
    assert len(set(keys)) == len(keys)


def test_what_changes_no_number_is_taken_over_until_there_is_a_result(tmp_path: Path) -> None:
    folder = make_job_folder(tmp_path, silicon(), ENGINE, candidate_id="c1")
    moved = PotentialEngineConfig(potential="CHGNet", folders=("elsewhere",))
    assert make_job_folder(tmp_path, silicon(), moved, candidate_id="c2") == folder
    assert read_job(folder).engine == moved
    assert read_job(folder).candidate_id == "c1"
    (folder / "record.json").write_text("{}")
    make_job_folder(tmp_path, silicon(), ENGINE, candidate_id="c2")
    assert read_job(folder).engine == moved


def test_a_damaged_job_is_named_and_made_again(tmp_path: Path) -> None:
    folder = make_job_folder(tmp_path, silicon(), ENGINE, candidate_id="c1")
    text = (folder / "job.json").read_text()
    (folder / "job.json").write_text(text[: len(text) // 2])
    with pytest.raises(JobFolderError, match=r"job\.json is damaged .*: submit the same jobs again"):
        read_job(folder)
    changed = text.replace('"fmax_ev_per_ang": 0.05', '"fmax_ev_per_ang": 0.06')
    (folder / "job.json").write_text(changed)
    with pytest.raises(JobFolderError, match=r"job\.json is damaged .*checksum"):
        read_job(folder)
    document = json.loads(changed)
    del document["checksum"]  # as an earlier version wrote it
    (folder / "job.json").write_text(json.dumps(document))
    with pytest.raises(JobFolderError, match="was changed"):
        read_job(folder)
    assert make_job_folder(tmp_path, silicon(), ENGINE, candidate_id="c1") == folder
    assert (folder / "job.json").read_text() == text


def test_a_crystal_that_no_code_can_take_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    disordered = Structure(Lattice.cubic(3.0), [{"Ni": 0.5, "Al": 0.5}], [[0, 0, 0]])
    with pytest.raises(StructureError, match="disordered"):
        make_job_folder(tmp_path, disordered, ENGINE, candidate_id="c1")
    with pytest.raises(JobFolderError, match="not plain JSON"):
        make_job_folder(tmp_path, silicon(), ENGINE, candidate_id="c1", lineage={"energy": float("nan")})
    assert list(tmp_path.iterdir()) == []
