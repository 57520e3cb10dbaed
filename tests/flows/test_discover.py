"""The whole flow on a real server: counts, ranks, hull and lineage against what is computed apart from it; reruns."""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core.composition import Composition
from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifParser
from pymatgen.io.vasp.inputs import Incar, Poscar

from dft.config import StoreConfig
from dft.stores import open_job_store
from generative.checkpoints import load
from generative.crystal.crystals import crystals_of
from generative.datasets.manifest import fingerprint_of
from generative.requests import Request
from generative.sampling import sample_chunk
from tasks.discover.candidates import Stage
from tasks.discover.finished import finished_run
from tasks.discover.known import choose_references
from tasks.discover.report import gather, render_again
from tasks.discover.run import RunFolder, update_manifest
from tasks.files import FileRef
from tasks.report.run.markdown import markdown_report

PATIENCE_S = 240  # busy cores; alone it takes a tenth


def rows_of(run: Any) -> list[dict[str, Any]]:
    return pq.read_table(run.folder / "candidates.parquet").to_pylist()


def relaxed_of(run: Any) -> dict[str, Structure]:
    table = pq.read_table(run.folder / "candidates.parquet")
    crystals = zip(table.column("id").to_pylist(), crystals_of(table, "relaxed_"), strict=True)
    return {name: crystal.to_structure() for name, crystal in crystals if crystal is not None}


def content(folder: Path) -> dict[str, str]:
    """Digest of every file below, by name."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def copied(run: Any, target: Path) -> Path:
    """The run with the folder it lies in, once more; a rerun there finds everything done."""
    shutil.copytree(run.folder.parent, target)
    return target


def test_every_candidate_is_ranked_or_says_what_turned_it_away(finished: Any) -> None:
    rows = rows_of(finished)
    assert len(rows) == finished.config.sample.n_candidates
    assert sorted(row["index"] for row in rows) == list(range(len(rows)))
    ranked = [row for row in rows if row["rank"] is not None]
    rejected = [row for row in rows if row["rank"] is None]
    assert ranked
    assert rejected
    assert all(row["rejected_by"] is None and row["reason"] is None for row in ranked)
    assert all(row["rejected_by"] in {stage.value for stage in Stage} and row["reason"] for row in rejected)
    yields = json.loads((finished.folder / "manifest.json").read_text())["yields"]
    assert yields[0]["n_in"] == len(rows)
    assert [step["n_in"] for step in yields[1:]] == [step["n_out"] for step in yields[:-1]]
    assert yields[-2]["n_out"] == len(ranked)


def test_ranks_follow_the_energy_above_the_hull(finished: Any) -> None:
    ranked = [row for row in rows_of(finished) if row["rank"] is not None]
    assert [row["rank"] for row in ranked] == list(range(1, len(ranked) + 1))
    above = [row["e_above_hull_ev_per_atom"] for row in ranked]
    assert above == sorted(above)


def test_hull_values_are_those_of_pymatgens_diagram_of_the_competing_phases(finished: Any) -> None:
    files = sorted((finished.folder.parent / ".references").glob("*.parquet"))
    phases = pa.concat_tables([pq.read_table(file) for file in files]).to_pylist()
    assert len(phases) == 9
    entries = []
    for phase in phases:
        composition = Composition(phase["formula"])
        entries.append(PDEntry(composition, phase["energy_ev_per_atom"] * composition.num_atoms))
    diagram = PhaseDiagram(entries)
    ranked = [row for row in rows_of(finished) if row["rank"] is not None]
    for row in ranked:
        composition = relaxed_of(finished)[row["id"]].composition
        entry = PDEntry(composition, row["energy_ev_per_atom"] * composition.num_atoms)
        assert row["e_above_hull_ev_per_atom"] == pytest.approx(
            diagram.get_e_above_hull(entry, allow_negative=True), abs=1e-9
        )
        assert row["formation_energy_ev_per_atom"] == pytest.approx(diagram.get_form_energy_per_atom(entry), abs=1e-9)


def test_phases_that_a_run_left_out_of_its_hull_are_in_its_report(finished: Any, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "runs") / finished.folder.name
    dataset = FileRef.of(run / "dataset" / "dataset.parquet")
    few = finished.config.model_copy(update={"hull": finished.config.hull.model_copy(update={"references_max": 4})})
    choose_references(few, run, dataset)
    page = render_again(run).read_text(encoding="utf-8")
    said = "5 of 9 competing phases were left out of the hull (hull.references_max 4); 5 of them have no stated energy"
    assert said in page
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["competing_phases"]["note"].startswith(said)
    config, identity, candidates, competing = finished_run(run)
    report = gather(config, run, identity, candidates, competing, [], manifest["stage_seconds"])
    assert said in markdown_report(report)


def test_an_id_follows_from_checkpoint_condition_settings_seed_and_place(finished: Any, campaign: Any) -> None:
    files = [campaign.checkpoint / name for name in ("model.json", "model.safetensors")]
    checkpoint = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()
    # Settings that every id has held since the first version; the run changes one of them.
    sampler = {"chunk_size": 4, "n_steps": 5, "velocity_slope": 5.0, "churn": 0.1, "guidance": 1.0}
    rows = rows_of(finished)
    for row in rows:
        asked = json.loads(row["condition"])
        condition = Request.of(dict(asked["formula_counts"]), asked["spacegroup"])
        word = json.dumps([checkpoint, condition.digest, sampler, finished.config.seed, row["index"]], sort_keys=True)
        assert row["id"] == hashlib.sha256(word.encode()).hexdigest()[:16]
        assert Composition(dict(asked["formula_counts"])).reduced_formula == Composition(row["formula"]).reduced_formula
    assert len({row["id"] for row in rows}) == len(rows)


def test_a_candidate_can_be_drawn_again_from_what_its_row_says(finished: Any, campaign: Any) -> None:
    size = finished.config.sample.chunk_size
    table = pq.read_table(finished.folder / "sample" / "00001.parquet")
    asked = [json.loads(text) for text in table.column("condition").to_pylist()]
    conditions = [Request.of(dict(one["formula_counts"])) for one in asked]
    drawn = sample_chunk(load(str(campaign.checkpoint)), conditions, finished.config.sample, finished.config.seed, 1)
    for stored, again in zip(crystals_of(table), drawn, strict=True):
        assert stored is not None
        np.testing.assert_array_equal(stored.lattice_ang, again.crystal.lattice_ang)
        np.testing.assert_array_equal(stored.frac, again.crystal.frac)
    assert [again.index for again in drawn] == list(range(size, 2 * size))


def test_the_best_have_vasp_inputs_whose_lineage_leads_back_to_checkpoint_and_data(
    finished: Any, campaign: Any
) -> None:
    best = rows_of(finished)[: finished.config.inputs.top_n]
    folders = sorted(folder.name for folder in (finished.folder / "dft").iterdir())
    assert folders == sorted(row["id"] for row in best)
    known = pq.read_table(finished.folder / "dataset" / "dataset.parquet")
    for row in best:
        folder = finished.folder / "dft" / row["id"]
        assert Incar.from_file(folder / "INCAR")["ENCUT"] == 500
        relaxed = relaxed_of(finished)[row["id"]]
        written = Poscar.from_file(folder / "POSCAR").structure
        assert written.composition == relaxed.composition
        assert written.volume == pytest.approx(relaxed.volume, rel=1e-6)
        lineage = json.loads((folder / "lineage.json").read_text())
        weights = [campaign.checkpoint / name for name in ("model.json", "model.safetensors")]
        digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in weights)).hexdigest()
        assert lineage["candidate_id"] == row["id"]
        assert (lineage["seed"], lineage["index"]) == (finished.config.seed, row["index"])
        assert lineage["condition"] == json.loads(row["condition"])
        assert lineage["checkpoint"]["sha256"] == digest
        assert lineage["training"]["data_fingerprint_sha256"] == campaign.fingerprint
        assert lineage["known_crystals"]["fingerprint_sha256"] == fingerprint_of(known)
        for name, sha256 in lineage["inputs"]["sha256"].items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256


def test_the_job_store_has_a_document_for_every_folder_of_inputs(finished: Any) -> None:
    best = {row["id"] for row in rows_of(finished)[: finished.config.inputs.top_n]}
    with open_job_store(StoreConfig(), finished.folder) as store:
        documents = list(store.query({"name": "vasp inputs"}))
    assert {document["output"]["candidate_id"] for document in documents} == best
    assert len(documents) == len(best)
    assert {document["output"]["folder"] for document in documents} == {f"dft/{name}" for name in best}


def test_cifs_hold_the_structures_of_the_table(finished: Any) -> None:
    relaxed = relaxed_of(finished)
    ranked = [row for row in rows_of(finished) if row["rank"] is not None]
    plain = [file for file in (finished.folder / "cifs").glob("*.cif") if "symmetrised" not in file.name]
    assert len(plain) == len(ranked)
    for row in ranked:
        (file,) = (f for f in plain if f.stem.endswith(row["id"]))
        assert file.name.startswith(f"{row['rank']:04d}-")
        (read,) = CifParser(str(file)).parse_structures(primitive=False)
        expected = relaxed[row["id"]]
        assert read.composition == expected.composition
        np.testing.assert_allclose(read.lattice.parameters, expected.lattice.parameters, atol=1e-6)
        for site in expected:  # a CIF lists the sites in another order
            assert sum(site.specie == other.specie and site.distance(other) < 1e-5 for other in read) == 1


def test_the_report_loads_nothing_from_elsewhere(finished: Any) -> None:
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    # Inside the scripts of plotly there are addresses as text; what a browser would load stands in the page's own tags.
    tags = re.sub(r"(?s)(<script\b[^>]*>).*?</script>", r"\1</script>", page)
    loaded = re.findall(
        r"""<(?:script|link|img|iframe|source|object|embed)\b[^>]*?(?:src|href|data)=["']([^"']*)""", tags
    )
    assert all(address.startswith(("data:", "#")) for address in loaded), loaded
    assert not re.search(r"""@import|url\(["']?(?:https?:)?//""", tags)
    for row in rows_of(finished):
        assert (row["id"] in page) == (row["rank"] is not None)


def test_a_run_made_when_ranking_was_called_hull_is_rendered_with_its_time(finished: Any, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "runs") / finished.folder.name
    seconds = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["stage_seconds"]
    old = {("hull" if stage == "rank" else stage): 1.0 for stage in seconds} | {"hull": 4321.0}
    update_manifest(RunFolder(run), stage_seconds=old)
    render_again(run)
    assert json.loads((run / "manifest.json").read_text(encoding="utf-8"))["stage_seconds"]["rank"] == 4321.0
    assert "1 h 12 min" in (run / "report.html").read_text(encoding="utf-8")


def test_a_report_of_more_candidates_than_it_lists_leads_to_all_of_them(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(finished, tmp_path / "runs") / finished.folder.name
    ranked = [row for row in rows_of(finished) if row["rank"] is not None]
    assert len(ranked) > 3
    monkeypatch.setattr("tasks.report.run.ranked_rows.MOST_LISTED", 2)
    monkeypatch.setattr("tasks.report.run.cif_files.MOST_IN_ONE_FOLDER", 3)
    monkeypatch.setattr("tasks.report.run.cif_files.PER_FOLDER", 3)
    page = render_again(run).read_text(encoding="utf-8")
    assert [row["id"] in page for row in ranked] == [True] * 2 + [False] * (len(ranked) - 2)
    assert f"all {len(ranked)} are in" in page
    plain = [file for file in (run / "cifs").rglob("*.cif") if "symmetrised" not in file.name]
    assert len(plain) == len(ranked)
    assert {file.parent.name for file in plain} >= {"0001-0003", "0004-0006"}
    assert not list((run / "cifs").glob("*.cif"))
    tags = re.sub(r"(?s)(<script\b[^>]*>).*?</script>", r"\1</script>", page)
    links = [unquote(link) for link in re.findall(r'href="([^"#]+)"', tags)]
    assert {"candidates.csv", "candidates.parquet"} <= set(links)
    assert [link for link in links if not (run / link).exists()] == []
    lines = (run / "candidates.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + len(ranked)
    monkeypatch.undo()
    render_again(run)
    assert not (run / "candidates.csv").exists()
    assert content(run / "cifs") == content(finished.folder / "cifs")


def test_notes_on_the_inputs_are_in_lineage_and_report(finished: Any) -> None:
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    files = list((finished.folder / "dft").glob("*/lineage.json"))
    notes = [note for file in files for note in json.loads(file.read_text(encoding="utf-8"))["inputs"]["notes"]]
    assert notes
    assert all(html.escape(note.removesuffix(".")) in page for note in notes)


def test_a_rerun_computes_nothing_and_changes_nothing(finished: Any, discover: Any, tmp_path: Path) -> None:
    runs = copied(finished, tmp_path / "runs")
    kept = [runs / ".references", *(runs / "tiny" / part for part in ("sample", "screen", "relax", "dataset", "dft"))]
    files = [file for folder in kept for file in folder.rglob("*") if file.is_file()]
    before = {file: file.stat().st_mtime_ns for file in [*files, runs / "tiny" / "candidates.parquet"]}
    execution = finished.config.execution.model_copy(update={"runs_folder": str(runs)})
    again = discover(finished.config.model_copy(update={"execution": execution}))
    assert again.log.computed() == set()
    assert again.log.skipped() == {"ingest", "references", "sample", "screen", "unique", "relax", "rank"}
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert content(again.folder / "cifs") == content(finished.folder / "cifs")
    with open_job_store(StoreConfig(), again.folder) as store:
        assert store.count({}) == finished.config.inputs.top_n


def test_one_seed_gives_one_table_wherever_and_another_seed_another(
    finished: Any, campaign: Any, discover: Any, tmp_path: Path
) -> None:
    same = discover(campaign.config(tmp_path / "same"))
    assert same.log.skipped() == set()
    expected = (finished.folder / "candidates.parquet").read_bytes()
    assert (same.folder / "candidates.parquet").read_bytes() == expected
    shutil.copytree(finished.folder.parent / ".references", tmp_path / "other" / ".references")
    other = discover(campaign.config(tmp_path / "other", seed=1, inputs={"top_n": 0}))
    assert (other.folder / "candidates.parquet").read_bytes() != expected
    assert not {row["id"] for row in rows_of(other)} & {row["id"] for row in rows_of(finished)}
    assert not (other.folder / "dft").exists()


@pytest.mark.slow
@pytest.mark.parametrize("task_runner", ["processes", "dask"])
def test_other_task_runners_give_the_table_of_threads(
    task_runner: str, finished: Any, campaign: Any, discover: Any, tmp_path: Path
) -> None:
    execution = {"task_runner": task_runner, "max_workers": 2}
    with discover.running(campaign.config(tmp_path / "runs", execution=execution), tmp_path) as process:
        assert process.wait(PATIENCE_S) == 0, (tmp_path / "log").read_text(errors="replace")[-2000:]
    expected = (finished.folder / "candidates.parquet").read_bytes()
    assert (tmp_path / "runs" / "tiny" / "candidates.parquet").read_bytes() == expected


def test_another_force_criterion_relaxes_anew_but_draws_nothing(
    finished: Any, campaign: Any, discover: Any, tmp_path: Path
) -> None:
    runs = copied(finished, tmp_path / "runs")
    drawn = content(runs / "tiny" / "sample")
    stale = {file.name for file in (runs / "tiny" / "cifs").iterdir()}
    again = discover(campaign.config(runs, relax={"fmax_ev_per_ang": 0.5}))
    assert again.log.computed() == {"relax", "rank"}
    assert again.log.skipped() == {"ingest", "references", "sample", "screen", "unique"}
    assert content(runs / "tiny" / "sample") == drawn
    assert content(again.folder) != content(finished.folder)
    ranked = [row for row in rows_of(again) if row["rank"] is not None]
    expected = {f"{row['rank']:04d}-{row['formula']}-{row['id']}.cif" for row in ranked}
    found = {file.name for file in (again.folder / "cifs").iterdir() if "symmetrised" not in file.name}
    assert found == expected, f"left of the run before: {sorted(stale & found - expected)}"


def test_a_chunk_that_was_cut_off_is_computed_again_and_nothing_else(
    finished: Any, discover: Any, tmp_path: Path
) -> None:
    runs = copied(finished, tmp_path / "runs")
    cut = runs / "tiny" / "sample" / "00000.parquet"
    cut.write_bytes(cut.read_bytes()[:-100])
    execution = finished.config.execution.model_copy(update={"runs_folder": str(runs)})
    again = discover(finished.config.model_copy(update={"execution": execution}))
    assert [said for task, said in again.log.said if task == "sample"] == [
        "chunk 0: 4 candidates",
        "chunk 1: 4 candidates, unchanged, skipped",
    ]
    assert again.log.computed() == {"sample"}
    assert content(runs / "tiny" / "sample") == content(finished.folder / "sample")
    assert (again.folder / "candidates.parquet").read_bytes() == (finished.folder / "candidates.parquet").read_bytes()


def test_a_run_without_survivors_ends_with_its_reasons(
    finished: Any, campaign: Any, discover: Any, tmp_path: Path
) -> None:
    runs = copied(finished, tmp_path / "runs")
    none = discover(campaign.config(runs, screen={"min_distance_ang": 4.0}))
    rows = rows_of(none)
    assert {row["rejected_by"] for row in rows} == {"validity"}
    assert all("expected at least 4 A" in row["reason"] for row in rows)
    assert "4 A" in (none.folder / "report.html").read_text(encoding="utf-8")


def test_a_system_of_which_nothing_is_known_degrades_candidate_by_candidate(
    finished: Any, campaign: Any, discover: Any, tmp_path: Path
) -> None:
    runs = copied(finished, tmp_path / "runs")
    source = {"kind": "files", "path": str(campaign.folder / "known"), "method": "as stored"}
    data = {"sources": [source], "filters": {"spacegroups": [2]}}
    alone = discover(campaign.config(runs, data=data, inputs={"top_n": 1}))
    ranked = [row for row in rows_of(alone) if row["rank"] is not None]
    assert len(ranked) >= len([row for row in rows_of(finished) if row["rank"] is not None])
    assert {row["e_above_hull_ev_per_atom"] for row in ranked} == {None}
    assert {row["hull_note"] for row in ranked} == {"no elemental phase of Al, Ni, Ti among the competing phases"}
