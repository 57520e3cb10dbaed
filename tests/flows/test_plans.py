"""Plans: what they tell is what a run does, what is done is found done, and nothing is written."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import hullward
from configs.kinds import settings_named
from configs.schema import CONFIG_FOLDER, ConfigError
from dft.config import RelaxConfig
from dft.potentials.registry import POTENTIALS
from flows.cli.main import app
from generative.requests import Request
from tasks.discover.run import OtherRunError
from tasks.plans.discover import plan_run
from tasks.plans.rates import rates
from tasks.plans.record import Plan
from tests.flows.test_cli import rock_salt

runner = CliRunner()


def done(plan: Plan) -> dict[str, tuple[int, int]]:
    """Of the stages that are kept in parts: parts that are there, and all."""
    return {stage.name: (stage.n_done, stage.n_parts) for stage in plan.stages if stage.n_parts}


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_a_plan_tells_the_formulas_that_are_drawn_and_finds_all_done_afterwards(finished: Any, tmp_path: Path) -> None:
    new = plan_run(finished.config.model_copy(update={"name": "new"}))
    before = files(finished.folder.parent)
    again = plan_run(finished.config)
    assert files(finished.folder.parent) == before

    drawn: Counter[tuple[str, int]] = Counter()
    for row in pq.read_table(finished.folder / "screened.parquet", columns=["condition"]).to_pylist():
        request = Request.from_json(row["condition"])
        drawn[request.reduced_formula, request.n_atoms] += 1
    for plan in (new, again):
        assert {(one["formula"], one["n_atoms"]): one["n"] for one in plan.details["asked"]} == drawn
        assert plan.details["known"]["n_crystals"] == len(pq.read_table(finished.folder / "dataset/dataset.parquet"))
    assert {name: n for name, (n, _) in done(new).items() if n} == {}
    assert {name for name, (n, parts) in done(again).items() if n == parts} == set(done(again))
    assert set(done(again)) == {"ingest", "sample", "screen", "relax", "competing", "rank"}
    assert new.seconds is not None
    assert again.seconds is not None
    assert again.seconds < new.seconds
    assert "done, reused" in str(again)
    assert "done, reused" not in str(new)


def test_a_plan_tells_which_parts_of_an_interrupted_run_are_left(finished: Any, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(finished.folder.parent, runs)
    execution = finished.config.execution.model_copy(update={"runs_folder": str(runs)})
    config = finished.config.model_copy(update={"execution": execution})
    (runs / "tiny/screen/00001.parquet").unlink()
    found = done(plan_run(config))
    assert (found["ingest"], found["sample"], found["screen"]) == ((1, 1), (2, 2), (1, 2))
    assert found["relax"][0] == 0  # which survive is known only when all have been screened
    assert found["competing"][0] == found["competing"][1] > 0
    with pytest.raises(OtherRunError):
        plan_run(config.model_copy(update={"seed": 7}))


def test_a_plan_names_what_is_missing(campaign: Any, tmp_path: Path) -> None:
    config = campaign.config(tmp_path / "runs", elements=("Al", "Ni", "Cu"), relax={"potential": "no-such-potential"})
    plan = plan_run(config)
    assert plan.details["known"]["elements_missing"] == ["Cu"]
    assert plan.details["known"]["systems_missing"] == ["Al-Cu", "Cu-Ni", "Al-Cu-Ni"]
    assert (plan.potentials[0].asked, plan.potentials[0].is_here) == ("no-such-potential", False)
    assert any("relaxation would stop" in sentence for sentence in plan.warnings)
    assert any("without a crystal of Cu alone" in sentence for sentence in plan.warnings)
    other = plan_run(campaign.config(tmp_path / "runs", relax={"potential": "no-such-potential", "fallback": "CHGNet"}))
    assert (other.potentials[0].used, other.potentials[0].is_here) == ("CHGNet", True)
    absent = plan_run(campaign.config(tmp_path / "runs", data={"sources": [{"kind": "files", "path": "absent.csv"}]}))
    assert any("absent.csv" in sentence for sentence in absent.warnings)
    assert not (tmp_path / "runs").exists()


def test_the_command_the_option_and_the_function_tell_the_same(
    campaign: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "tiny.yaml"
    file.write_text(campaign.config(Path("runs")).model_dump_json())
    changes = ["--set", "sample.n_candidates=6", "--json"]
    said = [json.loads(runner.invoke(app, ["plan", str(file), *changes]).stdout)]
    said.append(json.loads(runner.invoke(app, ["discover", str(file), "--dry-run", *changes]).stdout))
    said.append(json.loads(json.dumps(hullward.plan(file, n_candidates=6).as_dict(), default=str)))
    assert said[0] == said[1] == said[2]
    assert said[0]["n_candidates"] == sum(one["n"] for one in said[0]["asked"]) == 6
    assert files(tmp_path) == {file}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["sample", "--formula", "TaB2", "--out", "new"], "TaB2 16 times"),
        (["train", "train-wyckoff", "--out", "new"], "kind    wyckoff"),
        (["campaign", "run", "campaign-small"], "36 relaxations in 3 rounds"),
        (["reproduce", "reproduce-unet"], "0 of them there"),
        (["ingest", "prototypes", "--elements", "Ta-B"], "relaxed here"),
        (["modify", "TiN.cif", "--potential", "CHGNet"], "64 of each"),
        (["plan", "campaign-small", "train-wyckoff"], "train wyckoff"),
    ],
)
def test_every_command_that_costs_can_be_asked_for_its_plan(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    crystal = tmp_path / "TiN.cif"
    rock_salt(4.25).to(str(crystal))
    shown = runner.invoke(app, words if words[0] == "plan" else [*words, "--dry-run"])
    assert shown.exit_code == 0, shown.stderr
    assert told in shown.stdout
    assert "nothing is computed or written" in shown.stdout
    assert files(tmp_path) == {crystal}


def test_shipped_settings_are_told_apart_by_what_they_hold() -> None:
    begin = {"campaign": "CampaignConfig", "ingest": "IngestConfig", "train": "TrainConfig", "reproduce": "Reproduc"}
    no_plan = ("benchmark", "judges", "rediscovery")
    for file in sorted(CONFIG_FOLDER.glob("*.yaml")):
        head = file.stem.partition("-")[0]
        if head in no_plan:
            with pytest.raises(ConfigError, match="the settings of none of"):
                settings_named(file.stem)
        else:
            assert begin.get(head, "DiscoverConfig") in type(settings_named(file.stem)).__name__


def test_every_registered_potential_has_a_rate_and_time_grows_with_the_work() -> None:
    relax = RelaxConfig()
    for name in POTENTIALS:
        one = rates().relaxation_s(name, relax, [8.0], "candidate")
        two = rates().relaxation_s(f"{name}+D3", relax, [8.0, 8.0], "candidate")
        assert one is not None
        assert two == pytest.approx(2 * one)
    assert rates().relaxation_s("somebody-else's", relax, [8.0], "candidate") is None
    few = rates().relaxation_s("CHGNet", relax.model_copy(update={"max_steps": 3}), [8.0], "candidate")
    assert few is not None
    assert few < (rates().relaxation_s("CHGNet", relax, [8.0], "candidate") or 0)
