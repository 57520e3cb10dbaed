"""Phonons of a run's best candidates: what the table, the report and the manifest say of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pymatgen.core.structure import Structure
from scipy import constants

from dft.config import RelaxConfig
from dft.potentials.loading import LoadedPotential
from dft.potentials.relaxation import relax, single_points
from flows.cli.console import RANKED
from flows.cli.console import with_phonons as phonon_columns
from generative.crystal.crystals import crystals_of
from tasks.loading import potential
from tests.flows.test_killed_runs import wait_until

SMALL: dict[str, Any] = {"supercell_height_ang": 1.0, "relax_max_steps": 3, "mesh_length_ang": 0.1}
"""One cell at its Gamma point, hardly relaxed: its modes are those of no minimum, which is what is to be told."""

N_BEST = 5

THZ = np.sqrt(constants.e / constants.atomic_mass) * 1e10 / (2 * np.pi) * 1e-12
"""Frequency of a spring of 1 eV/A^2 on a mass of 1 u."""


def lowest_thz_by_hand(crystal: Structure, loaded: LoadedPotential, displacement_ang: float = 0.02) -> float:
    """Lowest frequency at Gamma: every atom moved along every axis, both ways; eigenvalues of the Hessian.

    The crystal as a whole is kept in place, so that the lowest of a stable one is zero.
    """
    moved = []
    for atom in range(len(crystal)):
        for axis in range(3):
            for sign in (1, -1):
                cart = crystal.cart_coords
                cart[atom, axis] += sign * displacement_ang
                moved.append(Structure(crystal.lattice, crystal.species, cart, coords_are_cartesian=True))
    forces = np.array([p.forces_ev_per_ang.ravel() for p in single_points(moved, loaded) if p is not None])
    hessian = (forces[1::2] - forces[::2]) / (2 * displacement_ang)
    root = np.sqrt(np.repeat([float(site.specie.atomic_mass) for site in crystal], 3))
    shift = np.linalg.qr(np.tile(np.eye(3), (len(crystal), 1)) * root[:, None])[0]
    inner = np.eye(len(root)) - shift @ shift.T
    square = np.linalg.eigvalsh(inner @ ((hessian + hessian.T) / 2 / np.outer(root, root)) @ inner)[0]
    return float(np.sign(square) * np.sqrt(abs(square)) * THZ)


def phonon_config(finished: Any, runs: Path, **changes: Any) -> Any:
    """The finished run's settings below `runs`, with phonons of its best candidates."""
    stated = finished.config.model_dump()
    stated["execution"]["runs_folder"] = str(runs)
    stated["phonons"] = {**SMALL, "n_best": N_BEST, **changes}
    return type(finished.config).model_validate(stated)


def with_phonons(finished: Any, discover: Any, runs: Path, **changes: Any) -> Any:
    """The finished run's folder once more, with phonons of its best candidates."""
    if not runs.is_dir():
        shutil.copytree(finished.folder.parent, runs)
    return discover(phonon_config(finished, runs, **changes))


@pytest.fixture(scope="module")
def with_modes(finished: Any, discover: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return with_phonons(finished, discover, tmp_path_factory.mktemp("with_modes") / "runs")


def said_by(run: Any, task: str) -> list[str]:
    return [message for name, message in run.log.said if name.startswith(task)]


def test_the_best_candidates_have_the_frequencies_of_their_hessians_and_say_whether_one_is_imaginary(
    with_modes: Any,
) -> None:
    table = pq.read_table(with_modes.folder / "candidates.parquet")
    rows, details = table.to_pylist(), pq.read_table(with_modes.folder / "phonons.parquet").to_pylist()
    loaded = potential(with_modes.config.relax, with_modes.config.execution)
    assert [row["id"] for row in details] == [row["id"] for row in rows[:N_BEST]]
    compared = []
    for row, detail, crystal in zip(rows[:N_BEST], details, crystals_of(table, "relaxed_")[:N_BEST], strict=True):
        assert crystal is not None
        settings = RelaxConfig(fmax_ev_per_ang=0.005, max_steps=SMALL["relax_max_steps"])
        at_rest = relax([crystal.to_structure()], loaded, settings)[0].structure
        assert at_rest is not None
        if min(at_rest.distance_matrix[np.triu_indices(len(at_rest), 1)]) > 1:  # nearer atoms are no springs
            expected = lowest_thz_by_hand(at_rest, loaded)
            assert row["lowest_phonon_thz"] == pytest.approx(expected, abs=0.15)  # both step through float32 forces
            compared.append(row["dynamically_stable"])
        assert row["dynamically_stable"] == (row["lowest_phonon_thz"] >= -0.1)
        assert "after 3 steps" in row["phonon_note"]
        assert (detail["lowest_thz"], detail["method"]) == (row["lowest_phonon_thz"], loaded.method)
        assert (detail["n_imaginary"] == 0) == row["dynamically_stable"]
    assert set(compared) == {True, False}
    for row in rows[N_BEST:]:
        assert (row["lowest_phonon_thz"], row["dynamically_stable"], row["phonon_note"]) == (None, None, None)


def test_the_phonons_change_nothing_else_in_the_table(with_modes: Any, finished: Any) -> None:
    names = ("lowest_phonon_thz", "dynamically_stable", "phonon_note")
    with_them, without = (pq.read_table(run.folder / "candidates.parquet") for run in (with_modes, finished))
    assert with_them.drop_columns(list(names)).equals(without.drop_columns(list(names)))
    assert all(without.column(name).null_count == len(without) for name in names)


def test_the_terminal_shows_phonons_where_there_are_any(with_modes: Any, finished: Any) -> None:
    with_them, without = (
        pq.read_table(run.folder / "candidates.parquet").to_pylist() for run in (with_modes, finished)
    )
    assert list(phonon_columns(with_them, RANKED)) == [*RANKED, "lowest_phonon_thz"]
    assert phonon_columns(without, RANKED) == RANKED


def test_report_and_manifest_say_which_candidates_are_saddle_points(with_modes: Any) -> None:
    rows = pq.read_table(with_modes.folder / "phonons.parquet").to_pylist()
    unstable = sum(bool(row["n_imaginary"]) for row in rows)
    page = (with_modes.folder / "report.html").read_text(encoding="utf-8")
    section = page[page.index('<section id="phonons">') :].split("</section>")[0]
    assert f"{unstable} of {N_BEST} candidates whose phonons were computed" in section
    assert section.count("saddle point") == unstable
    table = page[page.index('<section id="all">') :].split("</section>")[0]
    assert table.count("saddle point") == unstable
    for row in rows:
        assert f'data-column="phonon" data-value="{row["lowest_thz"]!r}"' in table
    stated = json.loads((with_modes.folder / "manifest.json").read_text())["phonons"]
    assert [figure["rank"] for figure in stated] == list(range(1, N_BEST + 1))
    assert stated[0]["lowest_thz"] == rows[0]["lowest_thz"]


def test_phonons_are_computed_once_and_only_where_they_are_asked_for(
    with_modes: Any, finished: Any, discover: Any
) -> None:
    runs = with_modes.folder.parent
    before = (with_modes.folder / "candidates.parquet").read_bytes()
    again = with_phonons(finished, discover, runs)
    assert len(said_by(again, "phonons")) == N_BEST
    assert all("unchanged, skipped" in message for message in said_by(again, "phonons"))
    assert "skipped" in said_by(again, "candidates")[0]
    assert (again.folder / "candidates.parquet").read_bytes() == before
    off = with_phonons(finished, discover, runs, n_best=0)
    assert not said_by(off, "phonons")
    assert 'data-column="phonon"' not in (off.folder / "report.html").read_text(encoding="utf-8")
    assert not (off.folder / "phonons.parquet").exists()
    assert (off.folder / "candidates.parquet").read_bytes() == (finished.folder / "candidates.parquet").read_bytes()
    once_more = with_phonons(finished, discover, runs)
    assert all("unchanged, skipped" in message for message in said_by(once_more, "phonons"))
    assert (once_more.folder / "candidates.parquet").read_bytes() == before


@pytest.mark.slow
def test_a_run_killed_among_the_phonons_goes_on_from_the_candidate_it_was_at(
    with_modes: Any, finished: Any, discover: Any, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(finished.folder.parent, runs)
    config = phonon_config(finished, runs)
    with discover.running(config, tmp_path) as process:
        wait_until(lambda: any(runs.glob("tiny/phonons/*.parquet")), process, tmp_path / "log")
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    done = {file: file.stat().st_mtime_ns for file in runs.glob("tiny/phonons/*.parquet")}
    assert 0 < len(done) < N_BEST
    again = discover(config)
    assert {file: file.stat().st_mtime_ns for file in done} == done
    skipped = [message for message in said_by(again, "phonons") if "unchanged, skipped" in message]
    assert len(skipped) == len(done)
    assert (again.folder / "candidates.parquet").read_bytes() == (with_modes.folder / "candidates.parquet").read_bytes()


def test_a_candidate_without_phonons_keeps_its_rank_and_a_sentence(
    finished: Any, discover: Any, tmp_path: Path
) -> None:
    run = with_phonons(finished, discover, tmp_path / "runs", n_best=1, supercell_atoms_max=1)
    best = pq.read_table(run.folder / "candidates.parquet").to_pylist()[0]
    assert best["rank"] == 1
    assert (best["lowest_phonon_thz"], best["dynamically_stable"]) == (None, None)
    assert "more than supercell_atoms_max 1" in best["phonon_note"]
    assert "more than supercell_atoms_max 1" in (run.folder / "report.html").read_text(encoding="utf-8")
    assert (run.folder / "dft" / best["id"]).is_dir()


def test_a_pressure_of_the_phonons_apart_from_that_of_the_run_is_refused(campaign: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"phonons.pressure_gpa"):
        campaign.config(tmp_path, phonons={"pressure_gpa": 10})
    assert campaign.config(tmp_path, relax={"pressure_gpa": 10}).phonons.at(10).pressure_gpa == 10
