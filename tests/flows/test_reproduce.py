"""`hullward reproduce`: the whole chain at a tiny size, killed and continued, and what is said of what is missing."""

from __future__ import annotations

import csv
import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from typer.testing import CliRunner

from configs.reproduction import ReproductionConfig
from flows.cli import reproduce as reproduce_commands
from tasks.papers.results import ReproductionError
from tests.flows.conftest import ROOT, Discover, RunLog, prefect_client

runner = CliRunner()
app = typer.Typer()
reproduce_commands.register(app)


@app.callback()
def root() -> None:
    """Makes `reproduce` a command beside others, as it is in the whole application."""


def perovskites() -> list[Structure]:
    frac = [[0.0, 0, 0], [0.5, 0.5, 0.5], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    pairs = [("Sr", "Ti"), ("Ba", "Ti"), ("Ca", "Zr"), ("La", "Al"), ("K", "Nb"), ("Na", "Ta")]
    return [
        Structure(Lattice.cubic(a), [one, two, "O", "O", "O"], frac) for one, two in pairs for a in (3.8, 3.95, 4.1)
    ]


def carbons() -> list[Structure]:
    rng = np.random.default_rng(0)
    made = []
    for a_ang in np.linspace(3.3, 3.9, 9):
        diamond = Structure.from_spacegroup("Fd-3m", Lattice.cubic(a_ang), ["C"], [[0.125] * 3])
        cell = diamond.get_primitive_structure() * [2, 1, 1]
        cell.apply_strain(rng.uniform(-0.05, 0.05, 3))
        made += [cell, cell.copy().perturb(0.08, seed=int(1000 * a_ang)) or cell]
    return made


def write_csv(path: Path, structures: list[Structure], first: int) -> None:
    with path.open("w", newline="") as text:
        rows = csv.writer(text)
        rows.writerow(["material_id", "cif", "energy_per_atom"])
        for number, structure in enumerate(structures, first):
            rows.writerow([f"c{number}", structure.to(fmt="cif"), -float(structure.density)])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, structures in (("perov", perovskites()), ("carbon", carbons())):
        write_csv(folder / f"{name}_train.csv", structures[:14], 0)
        write_csv(folder / f"{name}_test.csv", structures[14:], 14)
    return folder


def settings(data: Path, runs: Path, **changes: Any) -> dict[str, Any]:
    """Three steps, four noise levels, four crystals."""
    training = {
        "max_steps": 3, "batch_crystals": 4, "optimiser": "adam", "split": "crystal", "validation_fraction": 0.4,
        "precision": "32", "warmup_steps": 0,
    }  # fmt: skip
    entries = [
        {
            "name": name,
            "train": str(data / f"{short}_train.csv"),
            "test": str(data / f"{short}_test.csv"),
            "property_name": "energy_per_atom",
            "n_reconstruct": 3,
            "n_generate": 4,
        }
        for name, short in (("perov-5", "perov"), ("carbon-24", "carbon"))
    ]
    return {
        "name": "tiny",
        "size": "tiny",
        "systems": ["cdvae", "dp-cdvae-na-gine"],
        "datasets": entries,
        "training": training,
        "regressor": training,
        "sample": {"chunk_size": 3, "sampler": {"level_stride": 25, "steps_per_level": 2, "stride": 333}},
        "n_drawn": None,
        "ground_state": {
            "systems": ["cdvae"],
            "n": 2,
            "relax": {"potential": "CHGNet", "fallback": None, "max_steps": 3, "pressure_gpa": 10.0},
        },
        "execution": {"runs_folder": str(runs), "torch_threads": 1, "device": "cpu"},
        **changes,
    }


def run(config: ReproductionConfig, environment: dict[str, str], **parameters: Any) -> tuple[Path, list[str]]:
    """The flow in this process; its folder and what the tasks have said."""
    from flows.reproduce import reproduce

    log = RunLog()
    loggers = [logging.getLogger(f"prefect.{kind}") for kind in ("flow_runs", "task_runs")]
    for logger in loggers:
        logger.addHandler(log)
    try:
        with prefect_client(environment):
            return reproduce(config, **parameters), [message for _, message in log.said]
    finally:
        for logger in loggers:
            logger.removeHandler(log)


def test_a_killed_reproduction_goes_on_and_a_finished_one_computes_nothing(
    data: Path, discover: Discover, tmp_path: Path
) -> None:
    stated = settings(data, tmp_path / "runs")
    file, folder = tmp_path / "tiny.yaml", tmp_path / "runs" / "reproductions" / "tiny"
    file.write_text(yaml.safe_dump(stated))
    command = [sys.executable, "-m", "flows.cli", "reproduce", str(file)]
    environment = {**discover.environment, "PYTHONPATH": str(ROOT)}
    trained = folder / "perov-5" / "cdvae" / "train" / "result.json"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(1200):
            if trained.is_file() or process.poll() is not None:
                break
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    assert trained.is_file(), (tmp_path / "log").read_text()
    before = trained.read_bytes()

    config = ReproductionConfig.model_validate(stated)
    page = tmp_path / "page.md"
    page.write_text("# Page\n<!-- reproduce: results begin -->\n<!-- reproduce: results end -->\n")
    found, said = run(config, discover.environment, document=str(page))
    assert (found, trained.read_bytes()) == (folder, before)
    assert "train-perov-5-cdvae: unchanged, skipped" in " ".join(said)
    document = json.loads((folder / "reproduction.json").read_text())
    assert document["missing"] == []
    stages = [(r["place"]["stage"], r["place"]["dataset"]) for r in document["results"]]
    assert stages.count(("train", "perov-5")) == 2
    assert stages.count(("reconstruct", "carbon-24")) == 3  # one by Langevin dynamics, two by diffusion
    assert stages.count(("ground-state", "carbon-24")) == 1
    assert stages.count(("ceiling", "perov-5")) == 1
    calls = {r["place"]["reverse"]: r["budget"]["network_calls"] for r in document["results"] if r["budget"].get("n")}
    assert calls == {"langevin": 4, "eq7": 3, "eq6": 3}
    assert "### Table 2: Generation, carbon-24" in page.read_text()
    assert "Tables 1 and S1" in (folder / "reproduction.html").read_text()

    tables = (folder / "reproduction.md").read_bytes()
    _, said = run(config, discover.environment)
    assert not [message for message in said if ": done" in message]
    assert (folder / "reproduction.md").read_bytes() == tables

    elsewhere = tmp_path / "elsewhere"
    for result in folder.rglob("result.json"):  # without models, crystals and data
        copy = elsewhere / "reproductions" / "tiny" / result.relative_to(folder)
        copy.parent.mkdir(parents=True)
        copy.write_bytes(result.read_bytes())
    moved = ReproductionConfig.model_validate(settings(data, elsewhere, stages=[]))
    found, _ = run(moved, discover.environment)
    assert (found / "reproduction.md").read_bytes() == tables


def test_a_stage_that_fails_is_named_with_its_reason_and_the_others_are_made(
    data: Path, discover: Discover, tmp_path: Path
) -> None:
    stated = settings(data, tmp_path / "runs", systems=["cdvae"], stages=["train", "regressor", "generate"])
    stated["datasets"] = [{**stated["datasets"][0], "property_name": "heat_of_nothing"}]
    with pytest.raises(ReproductionError, match="regressor-perov-5: property is 'heat_of_nothing'"):
        run(ReproductionConfig.model_validate(stated), discover.environment)
    document = json.loads((tmp_path / "runs" / "reproductions" / "tiny" / "reproduction.json").read_text())
    assert [r["place"]["stage"] for r in document["results"]] == ["train", "generate"]
    missing = {m["stage"]: m["why"] for m in document["missing"]}
    assert set(missing) == {"regressor", "ceiling", "reconstruct", "ground-state"}
    assert "heat_of_nothing" in missing["regressor"]
    assert missing["reconstruct"] == "the stage was not run"
    assert missing["ground-state"] == "the data set is not among those chosen"
    (energy,) = [f for r in document["results"] for f in r["figures"] if f["name"] == "W energy"]
    assert energy["value"] is None


def test_without_any_stage_the_tables_say_that_nothing_is_trained(data: Path, tmp_path: Path) -> None:
    from tasks.papers.stages import paper_of

    config = ReproductionConfig.model_validate(settings(data, tmp_path / "runs", stages=[]))
    found = paper_of(config).collect()
    assert not found.results
    reasons = {key.stage: why for key, why in found.missing.items()}
    assert reasons["train"] == "the stage was not run"
    assert "dp-cdvae-na-gine on carbon-24 is not trained: run the stage train" in reasons["generate"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "no such settings file"),
        (["--systems", "cdave"], "'cdvae'"),
        (["--datasets", "mp-20"], "hold perov-5, carbon-24"),
        (["--stages", "training"], "'train'"),
        (["--data", "."], "holds none of perov_5"),
        (["--set", "training.max_step=3"], "max_steps"),
    ],
)
def test_a_mistake_is_one_sentence_and_an_exit_code(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = runner.invoke(app, ["reproduce", *arguments])
    assert done.exit_code == 2
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_flow_is_imported_without_loading_torch() -> None:
    code = "import sys; import flows.reproduce; print([m for m in ('torch', 'matgl', 'lightning') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
