"""A judge on a whole run: its hull against pymatgen's of its own energies, final ranks, nothing computed twice."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from statistics import pstdev
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core.composition import Composition

from dft.potentials.calibration import Calibration, Curve
from dft.potentials.registry import REGISTRY
from dft.potentials.relaxation import relax
from flows.cli.results import run_summary
from generative.crystal.crystals import crystals_of
from tasks.discover.candidates import CANDIDATES, JUDGED
from tasks.loading import potential
from tests.flows.judges import PLACES
from tests.flows.test_killed_runs import wait_until

N_BEST, STEPS = 3, 2


@pytest.fixture(scope="module")
def known_judges() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, place in PLACES.items():
            patch.setitem(REGISTRY.places, name, place)
        yield


def judge_config(finished: Any, runs: Path, name: str = "tiny", **judge: Any) -> Any:
    """The finished run's settings below `runs`, with a judge."""
    stated = finished.config.model_dump()
    stated["name"] = name
    stated["execution"]["runs_folder"] = str(runs)
    stated["judge"] = {"potential": "Steeper", "n_best": N_BEST, "steps_max": STEPS, "chunk_size": 4, **judge}
    return type(finished.config).model_validate(stated)


def judged_run(finished: Any, discover: Any, runs: Path, **judge: Any) -> Any:
    """The finished run's folder once more, with a judge."""
    if not runs.is_dir():
        shutil.copytree(finished.folder.parent, runs)
    return discover(judge_config(finished, runs, **judge))


@pytest.fixture(scope="module")
def judged(known_judges: None, finished: Any, discover: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return judged_run(finished, discover, tmp_path_factory.mktemp("judged") / "runs", phases_within_ev_per_atom=1.0)


def said_by(run: Any, task: str) -> list[str]:
    return [message for name, message in run.log.said if name.startswith(task)]


def table_of_run(run: Any) -> pa.Table:
    return pq.read_table(run.folder / "candidates.parquet")


def test_the_judges_hull_is_pymatgens_of_its_own_energies(judged: Any) -> None:
    """Everything again apart from the stage: first relaxations from the run's files, a few steps, a phase diagram."""
    by_judge = judged.config.relaxed_by("Steeper")
    loaded = potential(by_judge.relax, by_judge.execution)
    files = sorted((judged.folder.parent / ".references").glob("*.parquet"))
    phases = pa.concat_tables([pq.read_table(file) for file in files])
    structures = [c.to_structure() for c in crystals_of(phases, "relaxed_") if c is not None]
    entries = []
    for structure, done in zip(structures, relax(structures, loaded, by_judge.relax), strict=True):
        entries.append(PDEntry(structure.composition, done.energy_ev_per_atom * len(structure)))
    diagram = PhaseDiagram(entries)
    table = table_of_run(judged)
    rows = table.to_pylist()
    best = [row for row in rows if row["judge_method"]]
    assert len(best) == N_BEST
    for row, crystal in zip(rows, crystals_of(table, "relaxed_"), strict=True):
        if row["judge_method"] is None:
            continue
        (done,) = relax([crystal.to_structure()], loaded, by_judge.relax)
        entry = PDEntry(Composition(row["formula"]), done.energy_ev_per_atom * Composition(row["formula"]).num_atoms)
        above = diagram.get_e_above_hull(entry, allow_negative=True)
        assert row["judge_e_above_hull_ev_per_atom"] == pytest.approx(above, abs=1e-5)
        formation = diagram.get_form_energy_per_atom(entry)
        assert row["judge_formation_energy_ev_per_atom"] == pytest.approx(formation, abs=1e-5)
        assert row["opinion_change_ev_per_atom"] == pytest.approx(above - row["e_above_hull_ev_per_atom"], abs=1e-5)
        assert row["judge_relax_steps"] == STEPS
        assert row["near_hull_probability"] is row["opinions_agree"] is None  # nothing is known of its errors


def test_judged_candidates_come_first_by_the_judge_and_the_others_keep_their_order(judged: Any, finished: Any) -> None:
    rows = table_of_run(judged).to_pylist()
    ranked = [row for row in rows if row["rank"] is not None]
    assert [row["rank"] for row in ranked] == list(range(1, len(ranked) + 1))
    best, others = ranked[:N_BEST], ranked[N_BEST:]
    heights = [row["judge_e_above_hull_ev_per_atom"] for row in best]
    assert heights == sorted(heights)
    assert sorted(row["first_rank"] for row in best) == list(range(1, N_BEST + 1))
    assert [row["first_rank"] for row in others] == list(range(N_BEST + 1, len(ranked) + 1))
    assert {row["judge_method"] for row in others} == {None}
    first = {row["id"]: row for row in table_of_run(finished).to_pylist()}
    names = {field.name for field in CANDIDATES} - {"rank"}
    for row in rows:
        assert {name: row[name] for name in names} == {name: first[row["id"]][name] for name in names}
        assert row["first_rank"] == first[row["id"]]["rank"]


def test_report_listing_and_manifest_show_both_opinions(judged: Any) -> None:
    page = (judged.folder / "report.html").read_text(encoding="utf-8")
    assert "Second opinion by Steeper on 3 of the best" in page
    assert "was not measured" in page
    section = page[page.index('<section id="opinions">') :].split("</section>")[0]
    for row in table_of_run(judged).to_pylist()[:N_BEST]:
        assert f'data-column="judge" data-value="{row["judge_e_above_hull_ev_per_atom"]!r}"' in page
        assert f"<td>{row['first_rank']}</td>" in section
    summary = run_summary(judged.folder, as_json=True)
    assert set(summary["candidates"][0]) >= {field.name for field in JUDGED}


def test_a_rerun_computes_nothing_and_without_a_judge_the_table_is_that_of_before(
    judged: Any, finished: Any, discover: Any
) -> None:
    runs = judged.folder.parent
    before = (judged.folder / "candidates.parquet").read_bytes()
    again = judged_run(finished, discover, runs, phases_within_ev_per_atom=1.0)
    assert said_by(again, "judge")
    assert all("unchanged, skipped" in said for said in said_by(again, "judge") if "second opinions by" not in said)
    assert (again.folder / "candidates.parquet").read_bytes() == before
    off = judged_run(finished, discover, runs, potential=None)
    assert not said_by(off, "judge")
    assert (off.folder / "candidates.parquet").read_bytes() == (finished.folder / "candidates.parquet").read_bytes()
    page = (off.folder / "report.html").read_text(encoding="utf-8")
    assert "by the judge" not in page
    assert "Second opinion" not in page
    judged_run(finished, discover, runs, phases_within_ev_per_atom=1.0)
    assert (again.folder / "candidates.parquet").read_bytes() == before


def test_another_run_beside_it_takes_the_judges_word_and_computes_nothing_again(
    judged: Any, finished: Any, discover: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_is_left(*_: Any) -> None:
        raise AssertionError("a crystal is judged a second time")

    monkeypatch.setattr("tasks.discover.judge.relax_table", none_is_left)
    config = judge_config(finished, judged.folder.parent, name="beside", phases_within_ev_per_atom=1.0)
    beside = discover(config)
    assert not any("skipped" in said for said in said_by(beside, "judge"))
    assert (beside.folder / "candidates.parquet").read_bytes() == (judged.folder / "candidates.parquet").read_bytes()


def test_an_element_that_the_judge_does_not_know_costs_its_candidates_their_judgement_and_no_more(
    known_judges: None, finished: Any, discover: Any, tmp_path: Path
) -> None:
    run = judged_run(finished, discover, tmp_path / "runs", potential="Without nickel", n_best=100)
    rows = [row for row in table_of_run(run).to_pylist() if row["rank"] is not None]
    with_nickel = [row for row in rows if "Ni" in row["formula"]]
    assert with_nickel
    for row in with_nickel:
        assert row["judge_e_above_hull_ev_per_atom"] is None
        assert "Ni" in row["judge_note"]
    judged_rows = [row for row in rows if row["judge_e_above_hull_ev_per_atom"] is not None]
    assert [row["id"] for row in rows] == [row["id"] for row in (*judged_rows, *with_nickel)]
    behind = [row["first_rank"] for row in with_nickel]
    assert behind == sorted(behind)
    assert "it cannot judge" in (run.folder / "report.html").read_text(encoding="utf-8")


CURVE = Curve((0.0, 1.0), (0.9, 0.1))


def calibrations(first: float, judge: float) -> Any:
    """What is known of each potential by its fingerprint: the judge's starts with sevens."""

    def of(fingerprint: str) -> Calibration:
        mae = judge if fingerprint == "7" * 64 else first
        return Calibration("m", fingerprint, 500, "made up for a test.", mae, mae, {0.1: CURVE})

    return of


@pytest.mark.parametrize("judge_mae", [1e-6, 10.0])
def test_opinions_differ_beyond_both_errors_and_the_probability_is_the_measured_curves(
    judge_mae: float, known_judges: None, finished: Any, discover: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dft.potentials.calibration.calibration_of", calibrations(1e-6, judge_mae))
    run = judged_run(finished, discover, tmp_path / "runs")
    for row in table_of_run(run).to_pylist()[:N_BEST]:
        assert row["opinions_agree"] is (abs(row["opinion_change_ev_per_atom"]) <= (1e-12 + judge_mae**2) ** 0.5)
        height = min(1.0, max(0.0, row["judge_e_above_hull_ev_per_atom"]))
        assert row["near_hull_probability"] == pytest.approx(0.9 - 0.8 * height)
        assert row["probability_source"] == "m against DFT, 500 crystals: made up for a test."
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert (">opinions differ</span>" in page) is (judge_mae < 1)
    assert "(m against DFT, 500 crystals: made up for a test)" in page


def test_a_committee_adds_its_spread_and_changes_no_judgement(judged: Any, finished: Any, discover: Any) -> None:
    runs = judged.folder.parent
    alone = {row["id"]: row for row in table_of_run(judged).to_pylist()}
    run = judged_run(finished, discover, runs, phases_within_ev_per_atom=1.0, committee=["CHGNet"])
    rows = table_of_run(run).to_pylist()[:N_BEST]
    by_chgnet = judged_run(finished, discover, runs, phases_within_ev_per_atom=1.0, potential="CHGNet")
    heights = {row["id"]: row["judge_e_above_hull_ev_per_atom"] for row in table_of_run(by_chgnet).to_pylist()}
    for row in rows:
        own = alone[row["id"]]["judge_e_above_hull_ev_per_atom"]
        assert row["judge_e_above_hull_ev_per_atom"] == own
        assert row["committee_spread_ev_per_atom"] == pytest.approx(pstdev([own, heights[row["id"]]]), abs=1e-9)
    judged_run(finished, discover, runs, phases_within_ev_per_atom=1.0)


def test_phonons_are_the_judges_where_that_is_asked_for(
    known_judges: None, finished: Any, discover: Any, tmp_path: Path
) -> None:
    shutil.copytree(finished.folder.parent, tmp_path / "runs")
    stated = judge_config(finished, tmp_path / "runs", n_best=1).model_dump()
    few = {"n_best": 1, "relax_max_steps": 1, "supercell_height_ang": 3, "mesh_length_ang": 5}
    stated["phonons"] = {**few, "potential": "judge"}
    run = discover(type(finished.config).model_validate(stated))
    (row,) = pq.read_table(run.folder / "phonons.parquet").to_pylist()
    assert row["method"] == "Steeper"
    assert "phonons were computed with Steeper" in (run.folder / "report.html").read_text(encoding="utf-8")
    stated["judge"]["potential"] = None
    with pytest.raises(ValueError, match="judge.potential is null"):
        type(finished.config).model_validate(stated)


@pytest.mark.slow
def test_a_run_killed_among_its_judgements_goes_on_from_the_chunk_it_was_at(
    finished: Any, discover: Any, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(finished.folder.parent, runs)
    config = judge_config(finished, runs, potential="CHGNet", chunk_size=1, phases_within_ev_per_atom=1.0)
    with discover.running(config, tmp_path) as process:
        wait_until(lambda: any(runs.glob("tiny/judge/0/*.parquet")), process, tmp_path / "log")
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    done = {file: file.stat().st_mtime_ns for file in runs.glob("tiny/judge/0/*.parquet")}
    assert done
    again = discover(config)
    assert {file: file.stat().st_mtime_ns for file in done} == done
    assert len(list(runs.glob("tiny/judge/0/*.parquet"))) > len(done)
    fresh = judged_run(
        finished, discover, tmp_path / "fresh", potential="CHGNet", chunk_size=1, phases_within_ev_per_atom=1.0
    )
    assert (again.folder / "candidates.parquet").read_bytes() == (fresh.folder / "candidates.parquet").read_bytes()
