"""A run whose candidates two generators draw: who drew what, from the table through the report to the lineage."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from configs.schema import DiscoverConfig
from flows.cli.main import app
from flows.cli.results import run_summary
from generative import checkpoints
from generative.crystal.crystals import Crystal
from generative.systems.baselines.substitution import PrototypeSubstitution
from tasks.discover.known import ingest_known
from tasks.discover.report import render_again
from tasks.discover.run import open_run
from tasks.discover.sample import chunks_of, sample_chunk_file
from tasks.loading import identify
from tasks.optimade.export import export
from tests.flows.conftest import Campaign, Discover, Run, known_phases
from tests.flows.test_stage_code import run_and_compare

FLOW, TEMPLATES = "generator:generator", "generator:templates"
"""The campaign's own checkpoint is a folder called generator."""


@pytest.fixture(scope="session")
def templates(campaign: Campaign) -> Path:
    """A second generator: the known phases with their elements replaced."""
    crystals = [Crystal.from_structure(structure) for structure in known_phases().values()]
    system = PrototypeSubstitution.of(crystals, [None] * len(crystals))
    checkpoints.save(campaign.folder / "templates", system, {"settings": {}})
    return campaign.folder / "templates"


def shared(campaign: Campaign, templates: Path, runs: Path, n: int = 8) -> DiscoverConfig:
    listed = [
        {"checkpoint": str(campaign.checkpoint), "share": 3, "sampler": {"n_steps": 5}},
        {"checkpoint": str(templates), "share": 1},
    ]
    sample = {"generators": listed, "n_candidates": n, "chunk_size": 4}
    # Of these the templates have one to replace elements in, so that they do not fail.
    conditions = {"policy": "given", "formulas": ("Al2NiTi", "AlNiTi2"), "n_atoms_min": 4, "n_atoms_max": 4}
    config = campaign.config(runs, conditions=conditions)
    return DiscoverConfig.model_validate({**config.model_dump(), "sample": sample})


@pytest.fixture(scope="module")
def run(campaign: Campaign, templates: Path, discover: Discover, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return discover(shared(campaign, templates, tmp_path_factory.mktemp("shared")))


def rows_of(run: Run) -> list[dict[str, Any]]:
    return pq.read_table(run.folder / "candidates.parquet").to_pylist()


def test_every_candidate_says_which_generator_drew_it(run: Run) -> None:
    drawn = sorted((row for row in rows_of(run) if row["index"] is not None), key=lambda row: row["index"])
    assert [row["index"] for row in drawn] == list(range(8))
    assert Counter(row["proposed_by"] for row in drawn) == {FLOW: 6, TEMPLATES: 2}
    assert all((row["rank"] is not None) or row["reason"] for row in drawn)


def test_yields_by_proposer_are_in_manifest_report_and_summary(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((run.folder / "manifest.json").read_text())
    rows = rows_of(run)
    yields = {entry["proposer"]: entry for entry in manifest["yields_by_proposer"]}
    for label, proposer in (("generator", FLOW), ("templates", TEMPLATES)):
        own = [row for row in rows if row["proposed_by"] == proposer]
        assert yields[label]["n_drawn"] == len(own)
        assert yields[label]["n_ranked"] == sum(row["rank"] is not None for row in own)
        assert yields[label]["n_valid"] == sum(row["rejected_by"] not in ("validity", "composition") for row in own)
    page = (run.folder / "report.html").read_text()
    cells = f"<td>templates</td><td>2</td><td>{yields['templates']['n_valid']} of 2</td>"
    assert cells in page
    summary = run_summary(run.folder, as_json=False)
    assert summary["yields_by_proposer"] == manifest["yields_by_proposer"]
    assert re.search(rf"templates +2 +{yields['templates']['n_valid']} of 2 ", capsys.readouterr().out)
    render_again(run.folder)
    assert cells in (run.folder / "report.html").read_text()


def test_checkpoint_and_place_in_the_plan_are_in_the_lineage_of_each(
    run: Run, campaign: Campaign, templates: Path
) -> None:
    digests = {FLOW: checkpoints.digest(str(campaign.checkpoint)), TEMPLATES: checkpoints.digest(str(templates))}
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert {name: said["sha256"] for name, said in manifest["generators"].items()} == digests
    rows = {row["id"]: row for row in rows_of(run)}
    places = {name: [] for name in digests}
    for row in sorted(rows.values(), key=lambda row: row["index"] or 0):
        if row["proposed_by"] in places:
            places[row["proposed_by"]].append(row["index"])
    found = [json.loads(file.read_text()) for file in (run.folder / "dft").glob("*/lineage.json")]
    assert found
    for lineage in found:
        who = lineage["proposed_by"]
        if who in digests:
            assert lineage["checkpoint"]["sha256"] == digests[who]
            assert lineage["place_in_plan"] == places[who].index(lineage["index"])
    for file in (run.folder / "cifs").glob("*.cif"):
        text = file.read_text()
        (name,) = {i for i in rows if i in file.name}
        for who, digest in digests.items():
            assert (digest in text) == (rows[name]["proposed_by"] == who)


def test_an_export_names_the_checkpoint_of_each_candidate(
    run: Run, campaign: Campaign, templates: Path, tmp_path: Path
) -> None:
    exported = export(run.folder, tmp_path / "all.jsonl")
    entries = [json.loads(line) for line in exported.file.read_text().splitlines()]
    said = [entry["attributes"] for entry in entries if entry.get("type") == "structures"]
    digests = {FLOW: checkpoints.digest(str(campaign.checkpoint)), TEMPLATES: checkpoints.digest(str(templates))}
    assert {one["_hullward_proposed_by"] for one in said} == set(digests)
    for one in said:
        assert one["_hullward_checkpoint_sha256"] == digests[one["_hullward_proposed_by"]]


def test_a_longer_run_draws_only_what_is_new(run: Run, campaign: Campaign, templates: Path, discover: Discover) -> None:
    before = {row["id"] for row in rows_of(run) if row["index"] is not None}
    longer = discover(shared(campaign, templates, run.folder.parent, n=10))
    after = [row for row in rows_of(longer) if row["index"] is not None]
    assert len(after) == 10
    assert before == {row["id"] for row in after if row["index"] < 8}
    assert any("sample" in task and "unchanged, skipped" in said for task, said in longer.log.said)


def test_a_generator_that_cannot_draw_stops_the_run_before_anything_is_computed(
    campaign: Campaign, templates: Path, discover: Discover, tmp_path: Path
) -> None:
    config = shared(campaign, templates, tmp_path)
    wrong = config.sample.generators[1].model_copy(update={"sampler": {"n_steps": 5}})
    sample = config.sample.model_copy(update={"generators": (config.sample.generators[0], wrong)})
    with pytest.raises(ValueError, match="sample.generators.1.sampler.n_steps is no setting of prototype-substitution"):
        discover(config.model_copy(update={"sample": sample}))
    assert not (tmp_path / "tiny" / "dataset").exists()


def test_every_function_that_draws_a_chunk_lies_in_the_code_of_its_key(
    campaign: Campaign, templates: Path, tmp_path: Path
) -> None:
    config = shared(campaign, templates, tmp_path)
    kinds: Sequence[Any] = [chunk.generator.kind for chunk in chunks_of(config.sample)]
    assert [kind.name for kind in kinds] == ["crystal-flow", "prototype-substitution", "crystal-flow"]
    with open_run(config) as folder:
        known = ingest_known(config, folder.path, identify(config.relax, config.execution))
        for chunk, kind in enumerate(kinds):
            run_and_compare(sample_chunk_file, config, folder.path, known, chunk, further=(kind,))


def test_a_command_draws_equal_shares_from_every_checkpoint_that_it_is_given(
    campaign: Campaign, templates: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mixed.parquet"
    asked = ["sample", "--formula", "Al2NiTi", "-n", "6", "--out", str(out)]
    named = [part for folder in (campaign.checkpoint, templates) for part in ("--checkpoint", str(folder))]
    faster = ["--set", "sample.generators.0.sampler={n_steps: 5}", "--set", "sample.chunk_size=4"]
    assert CliRunner().invoke(app, [*asked, *named, *faster]).exit_code == 0
    drawn = pq.read_table(out).to_pylist()
    assert [row["proposed_by"] for row in drawn] == [FLOW, TEMPLATES] * 3

    entries = [{"checkpoint": str(folder)} for folder in (campaign.checkpoint, templates)]
    written = ["--set", f"sample.generators={json.dumps(entries)}"]
    assert CliRunner().invoke(app, [*asked, *written, *faster]).exit_code == 0
    assert pq.read_table(out).to_pylist() == drawn
