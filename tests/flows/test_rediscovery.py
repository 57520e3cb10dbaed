"""`hullward benchmark rediscovery` and its flow: what is written and shown, and what a second call leaves alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from flows.cli import benchmark as benchmark_commands
from tests.flows.conftest import prefect_client
from tests.tasks.rediscovery.made_benchmark import made, settings

runner = CliRunner()
app = typer.Typer()
benchmark_commands.register(app)


@app.callback()
def root() -> None:
    """Makes `benchmark` a command beside others, as it is in the whole application."""


@pytest.mark.slow
def test_the_flow_writes_page_document_and_table_and_goes_on_from_what_is_done(
    prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    from flows.rediscovery import rediscovery

    alone: dict[str, Any] = {"proposers": [{"name": "a", "baseline": "prototype-substitution"}], "portfolio": {}}
    config = made(tmp_path, n_systems=1, **alone)
    with prefect_client(prefect_environment):
        folder = rediscovery(config)
        first = json.loads((folder / "rediscovery.json").read_text())
        relaxed = {file: file.stat().st_mtime_ns for file in folder.rglob("relax/*.parquet")}
        further = [*alone["proposers"], {"name": "b", "baseline": "random-symmetric"}]
        rediscovery(made(tmp_path, n_systems=1, proposers=further, portfolio={"a": 1, "b": 1}))
    assert folder == Path(config.execution.runs_folder) / "rediscovery" / "made"
    assert relaxed == {file: file.stat().st_mtime_ns for file in relaxed}
    second = json.loads((folder / "rediscovery.json").read_text())
    assert list(first["campaigns"]) == ["a"]
    assert list(second["campaigns"]) == ["a", "b", "portfolio"]
    assert second["campaigns"]["a"] == first["campaigns"]["a"]
    assert (folder / "rediscovery.html").is_file()
    assert (folder / "found.parquet").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "n_system=3"], "did you mean 'n_systems'"),
        (["--set", "budgets=[8,4]"], "ascending"),
        (["--name", "My Benchmark"], "'My Benchmark'"),
    ],
)
def test_a_wrong_setting_is_one_sentence_and_nothing_is_computed(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "made.yaml"
    file.write_text(yaml.safe_dump(settings(tmp_path)))
    done = runner.invoke(app, ["benchmark", "rediscovery", str(file), *arguments])
    assert done.exit_code == 2
    assert said in done.stderr
    assert not (tmp_path / "runs").exists()
