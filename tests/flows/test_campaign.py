"""A campaign on a real server: its budget, its finds and its hulls against what is computed apart from it; kills."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.composition import Composition
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from typer.testing import CliRunner

from configs.campaign import AllocationConfig, CampaignConfig
from configs.schema import DiscoverConfig
from flows.cli import campaign as commands
from generative.crystal.crystals import crystals_of
from tasks.campaign.allocation import Arm, Tally, even, thompson
from tasks.discover.report import render_again
from tasks.discover.run import OtherRunError
from tasks.discover.sample import draw_chunk, sample_chunks
from tests.flows.conftest import Campaign, command_of, prefect_client
from tests.flows.many_systems import made
from tests.flows.test_killed_runs import wait_until

SYSTEMS = ("Al-Ni", "Al-Ti", "Al-Ni-Ti")
TIMED = {"seconds.json", "manifest.json", "report.html", "jobs.sqlite", "settings.json", ".lock", "key"}
"""Hold times, or the folder of the runs."""


class Finished:
    """A campaign that ran to its end."""

    def __init__(self, config: CampaignConfig, environment: dict[str, str]) -> None:
        self.config, self.environment, self.folder = config, environment, config.folder
        self.run(config)

    def run(self, config: CampaignConfig) -> None:
        from flows.campaign import campaign

        with prefect_client(self.environment):
            assert campaign(config) == config.folder

    @property
    def said(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.folder / "campaign.json").read_text())
        return document

    @property
    def finds(self) -> pa.Table:
        return pq.read_table(self.folder / "finds.parquet")

    def candidates(self, system: str) -> pa.Table:
        return pq.read_table(self.folder / "systems" / system.lower() / "candidates.parquet")


@pytest.fixture(scope="module")
def ended(
    campaign: Campaign, prefect_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    """Three systems that overlap, never interrupted; tests leave its folder as it is."""
    return Finished(made(campaign, tmp_path_factory.mktemp("ended") / "runs"), prefect_environment)


def copied(ended: Finished, target: Path) -> CampaignConfig:
    """The campaign once more, elsewhere."""
    shutil.copytree(Path(ended.config.execution.runs_folder), target)
    execution = ended.config.execution.model_copy(update={"runs_folder": str(target)})
    return ended.config.model_copy(update={"execution": execution})


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that a campaign shows, by name, but for those that hold times."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    shown = [file for file in files if file.name not in TIMED]
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in shown}


def test_rounds_spend_the_budget_and_every_relaxation_is_one_candidate(ended: Finished) -> None:
    said = ended.said
    assert [done["relaxations"] for done in said["rounds"]] == [6, 6, 2]
    assert "14 relaxations is spent" in said["ended"]
    relaxed = [
        row["id"]
        for system in SYSTEMS
        for row in ended.candidates(system).to_pylist()
        if row["relax_status"] is not None
    ]
    assert len(relaxed) == len(set(relaxed)) == 14
    assert sum(arm["relaxations"] for arm in said["arms"]) == 14
    assert sum(arm["finds"] for arm in said["arms"]) == len(said["finds"]) == len(ended.finds)


def test_the_shares_of_every_round_follow_from_the_counts_of_those_before(ended: Finished) -> None:
    import numpy as np

    arms = [Arm(system, name) for system in SYSTEMS for name in ("slow", "learner")]
    tallies = dict.fromkeys(arms, Tally())
    found = Counter((row["round"], Arm(row["system"], row["proposer"])) for row in ended.said["finds"])
    for done in ended.said["rounds"]:
        number, n = done["round"], sum(sum(given.values()) for given in done["shares"].values())
        rng = np.random.default_rng((ended.config.seed, number))
        expected = (
            thompson(tallies, n, AllocationConfig(), rng) if number else even(tallies, dict.fromkeys(arms, 1.0), n)
        )
        given = {Arm(s, p): k for s, own in done["shares"].items() for p, k in own.items()}
        assert given == expected
        for arm, k in given.items():
            assert found[number, arm] <= k
            tallies[arm] = Tally(tallies[arm].relaxations + k, tallies[arm].finds + found[number, arm])


@pytest.mark.parametrize("system", SYSTEMS)
def test_candidates_are_those_that_a_run_with_the_systems_settings_draws(ended: Finished, system: str) -> None:
    folder = ended.folder / "systems" / system.lower()
    config = DiscoverConfig.model_validate_json((folder / "settings.json").read_text())
    drawn = {row["index"]: row for n in sample_chunks(config) for row in draw_chunk(config, n).to_pylist()}
    assert len(drawn) == 24 + 12 * len(config.sample.learned)
    for row in ended.candidates(system).to_pylist():
        assert row["id"] == drawn[row["index"]]["id"]
        assert row["frac_coords"] == drawn[row["index"]]["frac_coords"]
    # Each proposer's own are a beginning of its plan, and so are those of what it has learned to be.
    for name in ("slow", "learner", *(one.name for one in config.sample.learned)):
        own = [i for i, row in sorted(drawn.items()) if row["proposed_by"] == f"generator:{name}"]
        looked = [r["index"] for r in ended.candidates(system).to_pylist() if r["proposed_by"] == f"generator:{name}"]
        assert sorted(looked) == own[: len(looked)]


def test_every_candidate_names_the_checkpoint_that_drew_it_and_the_page_says_what_was_learned(ended: Finished) -> None:
    from generative.checkpoints import digest

    learned = ended.said["learned"]
    assert [one["name"] for one in learned] == [f"learner-after-{n}" for n in range(len(learned))]
    found = ended.finds.column("round").to_pylist()
    assert [one["finds"] for one in learned] == [sum(n <= one["after_round"] for n in found) for one in learned]
    for one in learned:
        assert digest(str(ended.folder / "learned" / one["name"])) == one["sha256"]
        assert one["sha256"][:12] in (ended.folder / "report.html").read_text()
    rows = {row["id"]: row for system in SYSTEMS for row in ended.candidates(system).to_pylist()}
    for system in SYSTEMS:
        folder = ended.folder / "systems" / system.lower()
        generators = json.loads((folder / "manifest.json").read_text())["generators"]
        assert {f"generator:{one['name']}": one["sha256"] for one in learned}.items() <= {
            name: said["sha256"] for name, said in generators.items()
        }.items()
        for file in folder.glob("dft/*/lineage.json"):
            lineage = json.loads(file.read_text())
            assert lineage["checkpoint"]["sha256"] == generators[rows[lineage["candidate_id"]]["proposed_by"]]["sha256"]
    assert any("-after-" in row["proposed_by"] for row in rows.values())


def competing(ended: Finished, system: str) -> list[dict[str, Any]]:
    """Relaxed known phases of a system's elements, and what other systems have found of them."""
    elements = set(system.split("-"))
    shared = ended.folder / "systems" / ".references"
    known = {
        row["id"]: row
        for file in sorted(shared.glob("*.parquet"))
        for row in pq.read_table(file).to_pylist()
        if elements.issuperset(str(e) for e in Composition(row["formula"]).elements) and "campaign:" not in row["id"]
    }
    others = [
        row
        for row in ended.finds.to_pylist()
        if row["system"] != system and elements.issuperset(row["chemsys"].split("-"))
    ]
    return [*known.values(), *others]


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_others_found_competes_on_the_hull_at_the_end(ended: Finished, system: str) -> None:
    phases = competing(ended, system)
    entries = [
        PDEntry(c := Composition(phase["formula"]), phase["energy_ev_per_atom"] * c.num_atoms) for phase in phases
    ]
    diagram = PhaseDiagram(entries)
    ranked = [row for row in ended.candidates(system).to_pylist() if row["rank"] is not None]
    assert ranked
    for row in ranked:
        composition = Composition(row["formula"])
        entry = PDEntry(composition, row["energy_ev_per_atom"] * composition.num_atoms)
        expected = diagram.get_e_above_hull(entry, allow_negative=True)
        assert row["e_above_hull_ev_per_atom"] == pytest.approx(expected, abs=1e-9)


def test_a_system_has_found_what_competes_in_another_and_is_known_there_from_the_next_round_on(
    ended: Finished,
) -> None:
    of_others = {
        system: {f"campaign:{row['id']}" for row in competing(ended, system) if row.get("system") not in (None, system)}
        for system in SYSTEMS
    }
    assert any(of_others.values())
    for system, names in of_others.items():
        known = ended.folder / "systems" / system.lower() / "known.parquet"
        held = set(pq.read_table(known).column("id").to_pylist()) if known.is_file() else set()
        assert {name for name in held if name.startswith("campaign:")} == names
        for number in range(1, 3):
            file = ended.folder / "systems" / system.lower() / "rounds" / f"{number:05d}" / "known.parquet"
            before = {f"campaign:{row['id']}" for row in ended.finds.to_pylist() if row["round"] < number} & names
            if (file.parent / "looked-at.parquet").is_file():
                held = set(pq.read_table(file).column("id").to_pylist()) if file.is_file() else set()
                assert {name for name in held if name.startswith("campaign:")} == before


def test_no_crystal_is_found_twice(ended: Finished) -> None:
    crystals = [c.to_structure() for c in crystals_of(ended.finds, "relaxed_") if c is not None]
    assert len(StructureMatcher().group_structures(crystals)) == len(crystals) == len(ended.finds)


def test_a_rerun_computes_nothing_and_a_larger_budget_goes_on_from_what_is_done(
    ended: Finished, prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    config = copied(ended, tmp_path / "runs")
    before = contents(config.folder)
    computed = [f for f in config.folder.rglob("rounds/**/*.parquet")]
    times = {file: file.stat().st_mtime_ns for file in computed}
    again = Finished(config, prefect_environment)
    assert contents(again.folder) == before
    assert {file: file.stat().st_mtime_ns for file in computed} == times
    budget = config.budget.model_copy(update={"relaxations": 18})
    more = Finished(config.model_copy(update={"budget": budget}), prefect_environment)
    relaxations = [done["relaxations"] for done in more.said["rounds"]]
    assert sum(relaxations) == 18
    assert len(relaxations) in (3, 4)  # one more where a proposer had too few candidates left for its share
    assert more.said["rounds"][:2] == ended.said["rounds"][:2]
    first_rounds = [file for file in computed if re.search(r"rounds/0000[01]/", file.as_posix())]
    assert {file: file.stat().st_mtime_ns for file in first_rounds} == {file: times[file] for file in first_rounds}


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"seed": 1}, "seed is 0 there, 1 here"), ({"systems": ["Al-Ni"]}, "systems is"), ({"budget": 3}, "per_round is")],
)
def test_a_campaign_with_other_settings_is_refused_where_one_lies(
    changes: dict[str, Any], said: str, ended: Finished, campaign: Campaign, prefect_environment: dict[str, str]
) -> None:
    changed = {"budget": {"per_round": 3}} if "budget" in changes else changes
    other = made(campaign, Path(ended.config.execution.runs_folder), **changed)
    before = contents(ended.folder)
    with pytest.raises(OtherRunError, match=re.escape(said)):
        Finished(other, prefect_environment)
    assert contents(ended.folder) == before


def test_the_commands_show_what_the_files_say(ended: Finished, tmp_path: Path) -> None:
    runner, app = CliRunner(), typer.Typer()
    commands.register(app)
    app.callback()(lambda: None)
    shown = runner.invoke(app, ["campaign", "status", str(ended.folder)])
    assert shown.exit_code == 0, shown.output
    assert "3 chemical systems, 14 of 14 relaxations" in shown.output.replace("\n", " ")
    for row in ended.said["finds"][:3]:
        assert row["formula"] in shown.output
    told = json.loads(runner.invoke(app, ["campaign", "status", str(ended.folder), "--json"]).stdout)
    assert told["finds"] == ended.said["finds"]

    page = ended.folder / "report.html"
    text = page.read_text()
    assert runner.invoke(app, ["campaign", "report", str(ended.folder)]).exit_code == 0
    assert page.read_text() == text
    links = re.findall(r'<a href="([^"]+)"', text)
    assert {f"systems/{s.lower()}/report.html" for s in SYSTEMS} <= set(links)
    assert [link for link in links if not (ended.folder / link).is_file()] == []

    # A system is a run like any other.
    system = ended.folder / "systems" / "al-ni"
    assert render_again(system) == system / "report.html"

    out = tmp_path / "all.jsonl"
    done = runner.invoke(app, ["campaign", "export", str(ended.folder), str(out), "--json"])
    assert done.exit_code == 0, done.output
    ranked = sum(row["rank"] is not None for system in SYSTEMS for row in ended.candidates(system).to_pylist())
    assert json.loads(done.stdout)["n_structures"] == ranked
    nothing = runner.invoke(app, ["campaign", "status", str(tmp_path)])
    assert nothing.exit_code == 1
    assert "holds no campaign" in nothing.stderr


def test_a_system_without_a_crystal_of_an_element_stops_the_campaign_before_it_relaxes(
    campaign: Campaign, prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="no crystal of Ta alone is known, without which nothing in Al-Ta"):
        Finished(made(campaign, tmp_path, systems=["Al-Ni", "Ta-Al"]), prefect_environment)
    assert not list(tmp_path.rglob("rounds/*/relax"))


@pytest.mark.slow
def test_a_campaign_killed_twice_ends_with_the_bytes_of_one_that_was_not(
    ended: Finished, campaign: Campaign, prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    config = made(campaign, tmp_path / "runs")
    for pattern in ("systems/*/rounds/00001/relax/*.parquet", "systems/al-ti/cifs/*"):
        with command_of(["campaign", "run"], config, tmp_path, prefect_environment) as process:
            wait_until(lambda p=pattern: any(True for _ in config.folder.glob(p)), process, tmp_path / "log")  # type: ignore[misc]
            os.killpg(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        assert not (config.folder / "candidates.parquet").exists()
    again = Finished(config, prefect_environment)
    expected, found = contents(ended.folder), contents(again.folder)
    assert set(found) == set(expected)
    assert [name for name in found if found[name] != expected[name]] == []


@pytest.mark.slow
def test_a_repeated_campaign_works_on_the_systems_alone_whose_known_crystals_have_changed(
    campaign: Campaign, prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    known = tmp_path / "known"
    shutil.copytree(campaign.folder / "cifs", known)
    config = made(
        campaign,
        tmp_path / "runs",
        systems=["Al-Ni", "Al-Ti"],
        proposers=[{"checkpoint": str(campaign.checkpoint), "name": "slow", "sampler": {"n_steps": 5}}],
        budget={"relaxations": 4, "per_round": 2},
        data={"sources": [{"kind": "files", "path": str(known), "method": "as stored"}]},
        allocation={"repeat": True},
        learning={"every_rounds": None},
    )
    first = Finished(config, prefect_environment)
    before, shares = contents(first.folder), [done["shares"] for done in first.said["rounds"]]
    same = Finished(config, prefect_environment)
    assert contents(same.folder) == before

    crystal = Structure(Lattice.cubic(3.2), ["Al", "Ti"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    crystal.to(str(known / "AlTi-cubic.cif"))
    again = Finished(config, prefect_environment)
    after = contents(again.folder)
    assert [done["shares"] for done in again.said["rounds"]] == shares

    def of(system: str, files: dict[str, bytes]) -> dict[str, bytes]:
        # The lineage of VASP inputs, and a candidate's page, name the files of known crystals as they are now.
        own = {name: held for name, held in files.items() if name.startswith(f"systems/{system}/")}
        return {name: held for name, held in own.items() if "/dft/" not in name and "/candidates/" not in name}

    assert of("al-ni", after) == of("al-ni", before)
    assert of("al-ti", after) != of("al-ti", before)
    phases = pq.read_table(again.folder / "systems" / "al-ti" / "phases.parquet").column("id").to_pylist()
    assert any("AlTi-cubic" in name for name in phases)
