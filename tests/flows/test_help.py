"""What the command line says of itself: examples that work, settings that fit, completions, a first line at once."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from configs.campaign import CampaignConfig
from configs.evaluation import BenchmarkConfig, EvaluateConfig
from configs.ingest import IngestConfig
from configs.judges import JudgesConfig
from configs.modification import ModifyConfig
from configs.overrides import override
from configs.rediscovery import RediscoveryConfig
from configs.schema import DiscoverConfig, parse, read_yaml
from configs.unet_reproduction import UNetReproductionConfig
from dft.potentials.registry import POTENTIALS
from flows.cli.completion import PRESETS, SHELLS, VARIABLE, potentials, presets
from flows.cli.examples import EXAMPLES, _commands
from flows.cli.main import app
from generative.config import SampleConfig
from generative.training.config import TrainConfig
from storage.settings import RoomConfig
from tasks.discover.sample import RunGenerator

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = dict(_commands(app, ""))
MODELS: dict[str, tuple[type[RoomConfig], str]] = {
    "campaign run": (CampaignConfig, "campaign-small"),
    "ingest": (IngestConfig, "ingest-aflow"),
    "modify": (ModifyConfig, ""),
    "train": (TrainConfig, "train-flow"),
    "evaluate": (EvaluateConfig, ""),
    "reproduce": (UNetReproductionConfig, "reproduce-unet"),
    "benchmark rediscovery": (RediscoveryConfig, "rediscovery-small"),
    "benchmark generators": (BenchmarkConfig, "benchmark-generators"),
    "benchmark judges": (JudgesConfig, "judges"),
}
"""Whose settings --set changes, where these are not a run's, and settings that it may be given with."""

CHEAP = ("sample", "screen", "relax", "hull", "inputs", "ingest", "baseline")
runner = CliRunner()


def test_every_example_is_one_that_its_command_takes() -> None:
    root = typer.main.get_command(app)
    for example in EXAMPLES:
        words, command = shlex.split(example), root
        while words and words[0] in (getattr(command, "commands", None) or {}):
            command = command.commands[words.pop(0)]
        with command.make_context("hullward", words):
            pass
    told = {name: next(e for e in EXAMPLES if f"{e} ".startswith(f"{name} ")) for name in COMMANDS}
    assert len(told) == len(COMMANDS) == len(EXAMPLES)
    assert all(command.epilog == f"Example: hullward {told[name]}" for name, command in COMMANDS.items())


@pytest.mark.slow
def test_examples_that_need_nothing_but_the_package_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for example in EXAMPLES:
        if example.split()[0] in CHEAP:
            done = runner.invoke(app, shlex.split(example))
            assert done.exit_code == 0, f"{example}: {done.output}"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_of_a_setting_is_a_setting_of_its_command(command: str) -> None:
    shown = runner.invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"}).stdout
    assert re.search(r"Example: hullward \w", shown), shown
    if "--set" not in shown or command == "baseline":
        return
    (assignment,) = re.findall(r"One setting, such as (\S+);", shown)
    if assignment.startswith("sample.sampler."):
        alone = SampleConfig.model_validate(override({}, [assignment.removeprefix("sample.")]))
        assert RunGenerator("generator", alone).sampler
        return
    model, preset = MODELS.get(command, (DiscoverConfig, ""))
    required = {ModifyConfig: {"crystals": ["x"]}, EvaluateConfig: {"samples": "x", "reference": "y"}}
    stated = read_yaml(preset)[1] if preset else required.get(model, {})
    before = parse(model, stated, "settings")
    assert parse(model, override(stated, [assignment]), "settings") != before


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_commands_and_names_of_settings(shell: str) -> None:
    script = runner.invoke(app, ["--completion", shell]).stdout
    assert VARIABLE in script
    assert "hullward" in script

    def asked(line: str) -> str:
        words = line.split(" ")
        told = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_TYPER_COMPLETE_ARGS": line}
        told["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
        code = "import sys; sys.argv = ['hullward']; from flows.cli.main import app; app(prog_name='hullward')"
        environment = {**os.environ, **told, VARIABLE: f"complete_{shell}", "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        return done.stdout

    assert "discover" in asked("hullward dis")
    found = asked("hullward train train-f")
    assert "train-flow-start" in found
    assert "train-unet" not in found
    assert runner.invoke(app, ["--completion", "tcsh"]).exit_code == 2


def test_completions_are_the_shipped_settings_of_the_command_and_the_registered_potentials() -> None:
    assert presets("campaign")("") == ["campaign-borides", "campaign-small"]
    kinds = ("campaign", "ingest", "train", "reproduce", "benchmark", "judges", "rediscovery")
    listed = sorted([*presets()(""), *(name for head in kinds for name in presets(head)(""))])
    assert listed == sorted(file.stem for file in PRESETS.glob("*.yaml"))
    assert presets()("ter") == ["ternary"]
    assert potentials("") == list(POTENTIALS)
    assert potentials("seven") == ["SevenNet-0", "SevenNet-l3i5"]


FIRST_LINES = {
    "discover quickstart": "128 candidates of Al-Ti-N into runs/quickstart",
    "campaign run campaign-small": "36 relaxations into runs/campaigns/small",
    "benchmark rediscovery": "8 chemical systems, their stable crystals hidden, into runs/rediscovery/small",
    "evaluate a.csv --reference b.csv": "a.csv judged by cdvae, into runs/evaluations/a",
    "sample --elements Ta-W-B --out s": "16 crystals into s",
    "relax a.cif b.cif --out r": "a.cif, b.cif relaxed into r",
    "dft submit runs/quickstart": "DFT jobs of runs/quickstart",
}


def test_prefect_sends_nothing_where_the_package_is_imported(tmp_path: Path) -> None:
    code = "import hullward, prefect; from prefect._internal import analytics; print(analytics.is_telemetry_enabled())"
    no_ci = {name: value for name, value in os.environ.items() if name not in ("DO_NOT_TRACK", "CI")}
    environment = {**no_ci, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path)}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"


def test_a_long_command_says_its_first_line_before_anything_heavy_is_loaded_and_prefect_sends_nothing(
    tmp_path: Path,
) -> None:
    code = (
        "import os, shlex, sys\n"
        "import flows.cli.console as console\n"
        "say = console.begin\n"
        "def stop(*said):\n"
        "    say(*said)\n"
        "    heavy = [m for m in ('torch', 'prefect', 'pymatgen', 'pyarrow', 'rich.progress') if m in sys.modules]\n"
        "    sys.exit(f'{heavy} {os.environ[\"DO_NOT_TRACK\"]}')\n"
        "console.begin = stop\n"
        "from flows.cli.main import app\n"
        "for line in sys.argv[1:]:\n"
        "    try: app(shlex.split(line))\n"
        "    except SystemExit as end: sys.stderr.write(f'{end}\\n')\n"
    )
    arguments = [sys.executable, "-c", code, *FIRST_LINES]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("DO_NOT_TRACK", None)
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stderr.splitlines() == [line for said in FIRST_LINES.values() for line in (f"{said}; loading", "[] 1")]
