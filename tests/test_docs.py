"""The documentation against the program: links, commands, settings, examples and columns that it names exist."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
import yaml
from prefect.cli._app import _app as prefect_cli
from typer.testing import CliRunner

from configs.campaign import CampaignConfig
from configs.command_line import run_settings
from configs.document import document
from configs.ingest import IngestConfig, parse_ingest
from configs.schema import CONFIG_FOLDER, DiscoverConfig, load, parse
from flows.changes import changed
from flows.cli.main import COMMANDS as REGISTERED
from flows.cli.main import app
from flows.servers import optimade_server
from flows.servers.deployments import deployment_names
from generative.training.config import TrainConfig
from tasks.discover.candidates import CANDIDATES, JUDGED, KEPT, POLYMORPHS, Stage
from tests.follow_docs import FOLLOWED, NOT_FOLLOWED, PROGRAMS, PROGRAMS_NOT_FOLLOWED, reasons
from tests.pages import PAGES, ROOT, Line, blocks, lines, lines_of, prose

MODEL_CARD = ROOT / "generative" / "weights" / "hullward-flow" / "MODEL_CARD.md"
COMMANDS: Any = typer.main.get_command(app)


def anchors(page: Path) -> set[str]:
    """Anchors as GitHub makes them of headings."""
    headings = re.findall(r"^#+ +(.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", h).lower()).strip().replace(" ", "-") for h in headings}


def test_links_lead_somewhere() -> None:
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if re.match(r"\w+:", target):
                continue
            path, _, anchor = target.partition("#")
            place = (page.parent / path).resolve() if path else page
            if not place.exists() or (anchor and anchor not in anchors(place)):
                broken.append(f"{page.name}: {target}")
    assert not broken


def test_there_are_commands_to_check() -> None:
    assert {line.words[1] for line in lines("hullward")} >= set(COMMANDS.commands) - {"deploy"}


OWN_FILES = {
    "my-system.yaml": "quickstart",
    "nb-mo-b.yaml": "ternary",
    "my-cluster.yaml": "ternary",
    "my-campaign.yaml": "campaign-small",
    "my-benchmark.yaml": "rediscovery-small",
    "my-training.yaml": "train-flow",
    "ta-w-b.yaml": "ingest-aflow",
}
"""Files that a user of the pages has written, each with the shipped settings of the same kind."""


BEGINS = 77
"""Exit code of a command that has taken its options and settings, and would begin its work."""


def begins_work(as_json: bool) -> None:
    raise typer.Exit(BEGINS)


@pytest.fixture
def a_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, shipped in OWN_FILES.items():
        shutil.copyfile(CONFIG_FOLDER / f"{shipped}.yaml", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for part in ("train", "val", "test"):
        (tmp_path / "cdvae" / "data" / "perov_5").mkdir(parents=True, exist_ok=True)
        (tmp_path / "cdvae" / "data" / "perov_5" / f"{part}.csv").touch()
    for module in REGISTERED:
        monkeypatch.setattr(module, "answer", begins_work)
    monkeypatch.setattr(optimade_server, "serve_optimade", lambda origin, port, everything: begins_work(False))
    return tmp_path


@pytest.mark.parametrize("line", [pytest.param(line, id=f"{line.page}: {line.text}") for line in lines("hullward")])
def test_a_command_takes_its_options_and_settings(line: Line, a_users_folder: Path) -> None:
    """Every command of the pages as it stands, up to where its work begins."""
    words = list(line.words[1:])
    if {"--help", "--version"} & set(words):
        assert CliRunner().invoke(app, words).exit_code == 0
        return
    done = CliRunner().invoke(app, words)
    assert done.exit_code == BEGINS, done.output
    if words[0] == "dft":  # it reads its settings beside the run, as part of its work
        given = COMMANDS.commands["dft"].commands[words[1]].make_context(words[1], words[2:]).params
        run_settings(given.get("config") or "ternary", {}, given.get("settings"))


def test_every_command_is_followed_or_it_is_said_why_not() -> None:
    """Once: what is executed has no reason not to be, and no entry is left of a command that is gone."""
    texts = {line.text for line in lines()}
    executed = {step.line for step in FOLLOWED}
    assert not executed - texts
    assert not [text for text in texts - executed if not reasons(text)]
    assert not [
        pattern for pattern in NOT_FOLLOWED if not any(re.fullmatch(pattern, text) for text in texts - executed)
    ]
    files = re.findall(r"tests/[a-z_/.]+\b", " ".join([*NOT_FOLLOWED.values(), *PROGRAMS_NOT_FOLLOWED.values()]))
    assert not [file for file in files if not (ROOT / file).exists()]


def test_every_program_is_followed_or_it_is_said_why_not() -> None:
    there = {(page.name, number) for page in PAGES for number in range(len(blocks(page, "python")))}
    assert there >= PROGRAMS
    assert {page for page, _ in there - PROGRAMS} == set(PROGRAMS_NOT_FOLLOWED)


@pytest.mark.parametrize("line", [pytest.param(line, id=f"{line.page}: {line.text}") for line in lines("prefect")])
def test_prefect_understands_a_command(line: Line) -> None:
    command, *_ = prefect_cli.parse_args(list(line.words[1:]), exit_on_error=False, print_error=False)
    assert callable(command)


def makes() -> list[Line]:
    return [line for line in lines() if line.program == "make"]


def test_variables_given_to_make_are_read_by_it() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    given = {word.partition("=")[0] for line in makes() for word in line.words[1:] if "=" in word}
    assert given
    assert not [name for name in given if f"$({name})" not in makefile]


@functools.cache
def help_of(*module: str) -> str:
    asked = [sys.executable, "-m", *module, "--help"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_modules_that_are_run_are_there_and_know_the_options() -> None:
    wrong = []
    for line in lines():
        if not line.program.startswith("python") or line.words[1] != "-m":
            continue
        module, *words = line.words[2:]
        options = [word for word in words if re.match("--?[a-z]", word)]
        if not options:
            wrong += [] if importlib.util.find_spec(module) else [f"{line.text}: no module {module}"]
            continue
        said = help_of(module, *words[:1] * (module == "pip"))
        wrong += [f"{line.text}: {word}" for word in options if not re.search(rf"(^|\W){word}\b", said)]
    assert not wrong


def test_commands_named_in_the_text_exist() -> None:
    wrong: list[str] = []
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        for name in re.findall(r"`hullward ([a-z][a-z-]*)", prose(page)):
            if name not in COMMANDS.commands:
                wrong.append(f"{page.name}: hullward {name}")
        targets = re.findall(r"`make ([a-z-]+)", prose(page))
        targets += [word for line in lines_of(page) if line.program == "make" for word in line.words[1:2]]
        wrong += [f"{page.name}: make {t}" for t in targets if f"\n{t}:" not in makefile and "=" not in t]
    assert not wrong


def test_deployments_that_are_named_exist() -> None:
    known = set(deployment_names(ROOT / "prefect.yaml"))
    form = r"\b(?:discover|campaign|train|ingest|benchmark|dft)/[a-z-]+\b(?![./])"
    named = {name for page in PAGES for name in re.findall(form, page.read_text())}
    assert named <= known


def test_settings_md_is_what_the_models_say() -> None:
    written = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == document(), "run: python -m configs.document > docs/settings.md"


@pytest.mark.parametrize(
    "text", [pytest.param(t, id=f"{page.name}-{i}") for page in PAGES for i, t in enumerate(blocks(page, "yaml"))]
)
def test_settings_in_examples_are_accepted(text: str) -> None:
    settings = yaml.safe_load(text)
    if {"rule", "systems"} & set(settings):
        parse(CampaignConfig, settings, "docs")
        return
    if set(settings) <= set(IngestConfig.model_fields):
        parse_ingest(settings, "docs")
        return
    is_training = set(settings) <= set(TrainConfig.model_fields) and not {"elements", "sample"} & set(settings)
    parse(TrainConfig if is_training else DiscoverConfig, settings, "docs")


def test_parameters_given_to_a_deployment_are_accepted() -> None:
    given = [word for line in lines("prefect") for word in line.words if word.startswith("changes=[")]
    assert len(given) >= 2
    for word in given:
        changed(load(DiscoverConfig, "ternary"), yaml.safe_load(word.removeprefix("changes=")))


def test_settings_named_in_the_text_exist() -> None:
    known = set(re.findall(r"^\| `([a-z_.]+)`", (ROOT / "docs" / "settings.md").read_text(), re.M))
    sections = {name.split(".")[0] for name in known if "." in name}
    wrong = []
    for page in PAGES:
        for name in re.findall(rf"`((?:{'|'.join(sections)})\.[a-z_.]+)(?=[`:=\s])", prose(page)):
            is_section = any(k.startswith(name + ".") for k in known)
            if not (name in known or is_section or ".sources." in name or name.endswith((".py", ".parquet"))):
                wrong.append(f"{page.name}: {name}")
    assert not wrong


def test_every_column_and_every_stage_is_explained() -> None:
    text = (ROOT / "docs" / "numbers.md").read_text(encoding="utf-8")
    assert not [field.name for field in (*CANDIDATES, *KEPT, *JUDGED, *POLYMORPHS) if f"`{field.name}`" not in text]
    assert not [stage.value for stage in Stage if f"`{stage.value}`" not in text]


def examples() -> list[tuple[str, str]]:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", text, re.M | re.S)


@pytest.mark.parametrize(("code", "output"), examples(), ids=["generator", "source", "potential"])
def test_the_examples_of_the_architecture_run_as_they_stand(code: str, output: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == output


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_python_in_the_pages_compiles(page: Path) -> None:
    for code in blocks(page, "python"):
        compile(code, page.name, "exec")


@pytest.mark.parametrize("name", ["README.md", "docs/generator.md", "generative/weights/hullward-flow/MODEL_CARD.md"])
def test_the_shipped_generators_match_rate_stands_beside_the_baselines(name: str) -> None:
    table = (ROOT / "docs" / "baselines.md").read_text(encoding="utf-8")
    (found,) = re.findall(r"^\| all \| ([\d.]+) ± [\d.]+ % ", table, re.M)
    (card,) = re.findall(r"^\| match rate \| (\d+)\.\d % \|", MODEL_CARD.read_text(encoding="utf-8"), re.M)
    paragraphs = (ROOT / name).read_text(encoding="utf-8").split("\n\n")
    stated = "\n".join(p for p in paragraphs if re.search(rf"\b{found}\b", p) and "prototypes" in p)
    assert re.search(r"binar\w+ and ternar\w+", stated)
    assert "20 atoms" in " ".join(stated.split())
    assert "baselines.md" in stated
    assert name.endswith("MODEL_CARD.md") or f"{card} %" in stated
