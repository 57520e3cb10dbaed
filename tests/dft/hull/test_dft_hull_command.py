"""`hullward dft hull`: a campaign's records with a database's entries, on the terminal, as JSON and as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry
from typer.testing import CliRunner

from dft.campaign.campaign import Wanted, plan_campaign
from dft.campaign.config import DftConfig
from dft.config import StoreConfig
from dft.hull.corrections import MP2020
from dft.inputs.kpoints import sampling_of_mesh
from dft.job_folder import read_job, write_record
from flows.cli.main import app
from tasks.dft.campaign import look
from tasks.report.dft.artifacts import hull_markdown
from tests.dft.made_records import MP_INCAR, antiperovskite, potcar_titles, record, rock_salt

ENERGIES = {"relaxation": -4.0, "reference": -3.3}


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    """A candidate and a competing phase, done with mp-relax."""
    dft = DftConfig.model_validate({"engine": {"name": "vasp", "preset": "mp-relax"}})
    wanted = [
        Wanted("c-1", antiperovskite(), "relaxation"),
        Wanted("licl", rock_salt("Li", "Cl", 5.2), "reference"),
        Wanted("c-2", rock_salt("Li", "Cl", 4.0), "relaxation"),
    ]
    made = plan_campaign(tmp_path / "run", "salts", tmp_path / ".dft", dft, StoreConfig(), wanted).write()
    for key in made.keys[:2]:  # the third has no result yet
        job = read_job(made.root / key)
        done = record(
            job.structure,
            ENERGIES[job.purpose],
            job.engine.settings(),
            key=key,
            candidate_id=job.candidate_id,
            purpose=job.purpose.value,
            resolved={"incar": MP_INCAR, "run_type": "GGA", "potcars": potcar_titles(job.structure)},
        )
        write_record(made.root / key, done)
    return made.folder


@pytest.fixture
def entries(tmp_path: Path) -> Path:
    """The elements, LiCl, and an r2SCAN calculation of it."""
    molecule = [[0, 0, 0], [0.3, 0, 0]]
    crystals = {
        "mp-135": (Structure(Lattice.cubic(3.4), ["Li", "Li"], [[0] * 3, [0.5] * 3]), -1.9, "GGA"),
        "mp-12957": (Structure(Lattice.cubic(4), ["O", "O"], molecule), -4.95, "GGA"),
        "mp-22848": (Structure(Lattice.cubic(6), ["Cl", "Cl"], molecule), -1.84, "GGA"),
        "mp-22905-GGA": (rock_salt("Li", "Cl", 5.1), -3.4, "GGA"),
        "mp-22905-R2SCAN": (rock_salt("Li", "Cl", 5.1), -9.0, "R2SCAN"),
        "mp-2": (Structure(Lattice.cubic(3), ["Fe"], [[0] * 3]), -8.0, "GGA"),
    }
    documents = []
    for name, (structure, ev_per_atom, run_type) in crystals.items():
        parameters = {"run_type": run_type, "potcar_symbols": potcar_titles(structure), "hubbards": {}}
        made = ComputedStructureEntry(structure, ev_per_atom * len(structure), parameters=parameters, entry_id=name)
        documents.append(made.as_dict())
    file = tmp_path / "mp.json"
    file.write_text(json.dumps(documents))
    return file


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["dft", "hull", *words])


def test_the_command_names_the_scheme_in_every_row_and_keeps_all_in_a_file(campaign: Path, entries: Path) -> None:
    done = run(str(campaign), "--reference", str(entries), "--json")
    assert done.exit_code == 0, done.stderr
    answered = json.loads(done.stdout)
    rows = {row["id"]: row for row in answered["rows"]}
    assert list(rows)[:2] == ["c-1", "licl"]
    assert {row["scheme"] for row in rows.values()} == {MP2020} == {answered["scheme"]}
    # By hand: Li3ClO beside LiCl, Li and O2 at the table's -0.614 eV per Cl and -0.687 per O.
    lithium_chloride_ev = -6.8 - 0.614
    above = (-20 - 0.614 - 0.687 - (lithium_chloride_ev + 2 * -1.9 + -4.95)) / 5
    assert rows["c-1"]["e_above_hull_ev_per_atom"] == pytest.approx(above)
    assert rows["licl"]["e_above_hull_ev_per_atom"] == pytest.approx(0.1)
    assert rows["mp-22905-R2SCAN"]["left_out"].startswith("run type R2SCAN")
    assert "mp-2" not in rows
    assert answered["notes"][0] == "6 entries of the database: 4 on the hull, 1 left out, 1 of other chemical systems"
    assert answered["notes"][1].startswith("left out: mp-22905-R2SCAN (1): run type R2SCAN")
    kept = pq.read_table(answered["file"]).to_pylist()
    assert kept == answered["rows"]


def test_the_terminal_shows_own_phases_and_the_reasons(campaign: Path, entries: Path) -> None:
    done = run(str(campaign), "--reference", str(entries))
    assert done.exit_code == 0, done.stderr
    assert f"salts: {MP2020}" in done.stdout
    assert "Cl -1, Li +1, O -2" in done.stdout
    assert "own reference" in done.stdout
    assert "mp-135" not in done.stdout  # the database's phases are in the file
    assert "left out: mp-22905-R2SCAN (1)" in done.stderr


def test_what_cannot_be_a_hull_is_one_sentence(campaign: Path, entries: Path, tmp_path: Path) -> None:
    table = tmp_path / "known.csv"
    table.write_text("id,cif\n")
    refused = run(str(campaign), "--reference", str(table))
    assert refused.exit_code == 1
    assert "a table of crystals names neither functional nor U nor pseudopotentials" in refused.stderr
    dft = DftConfig.model_validate({"engine": {"name": "vasp", "preset": "mp-relax"}})
    wanted = [Wanted("c-1", antiperovskite(), "relaxation")]
    empty = plan_campaign(tmp_path / "new", "new", tmp_path / "new" / ".dft", dft, StoreConfig(), wanted).write()
    unfinished = run(str(empty.folder), "--reference", str(entries))
    assert unfinished.exit_code == 1
    assert "campaign new has no finished relaxation yet" in unfinished.stderr


def test_a_campaign_with_one_fixed_mesh_says_so_in_its_rows_and_notes(tmp_path: Path) -> None:
    """`hullward dft status` of the preset dp-cdvae: 5x5x5 in a cell of one atom, and in one of 27."""
    dft = DftConfig.model_validate({"engine": {"name": "vasp", "preset": "dp-cdvae"}})
    small = Structure(Lattice.cubic(2.5), ["Li"], [[0, 0, 0]])
    wanted = [Wanted("small", small, "relaxation"), Wanted("large", small * (3, 3, 3), "relaxation")]
    made = plan_campaign(tmp_path / "run", "fixed", tmp_path / ".dft", dft, StoreConfig(), wanted).write()
    for key in made.keys:
        job = read_job(made.root / key)
        kpoints = sampling_of_mesh((5, 5, 5), job.structure.lattice)
        settings = job.engine.settings()
        write_record(
            made.root / key,
            record(job.structure, -1.9, settings, key=key, candidate_id=job.candidate_id, kpoints=kpoints),
        )
    progress = look(made)
    assert [note.split(",")[0] for note in progress.notes] == [
        "k-points of unlike density share this hull",
        "metals with fewer k-points than 43 per A^-3 of the reciprocal cell: 1",
    ]
    rows = {row["id"]: row for row in progress.rows}
    assert rows["small"]["kpoint_mesh"] == [5, 5, 5]
    assert rows["large"]["kpoint_density_ang3"] == pytest.approx(27 * rows["small"]["kpoint_density_ang3"])
    assert "sparser than those of Li large" in rows["small"]["hull_note"]
    assert rows["large"]["hull_note"] == ""
    assert "sparser than those of Li large" in hull_markdown(progress)


def test_records_of_another_engine_are_refused_with_what_differs(entries: Path, tmp_path: Path) -> None:
    dft = DftConfig.model_validate({"engine": {"name": "gpaw"}})
    wanted = [Wanted("c-1", antiperovskite(), "relaxation")]
    made = plan_campaign(tmp_path / "run", "gpaw", tmp_path / ".dft", dft, StoreConfig(), wanted).write()
    (key,) = made.keys
    job = read_job(made.root / key)
    write_record(made.root / key, record(job.structure, -4.0, job.engine.settings(), key=key, purpose="relaxation"))
    done = run(str(made.folder), "--reference", str(entries))
    assert done.exit_code == 1
    assert "engine: gpaw / vasp" in done.stderr
    assert not (made.folder / "dft-hull.parquet").exists()
