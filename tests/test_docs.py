"""The documentation against the program: links, commands, settings, examples and columns that it names exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from configs.campaign import CampaignConfig
from configs.command_line import IngestRequest, elements_of, ingest_settings, run_settings
from configs.document import document
from configs.ingest import IngestConfig, parse_ingest
from configs.overrides import override
from configs.schema import DiscoverConfig, load, parse, read_yaml
from flows.changes import changed
from flows.cli.main import app
from flows.servers.deployments import deployment_names
from generative.training.config import TrainConfig
from tasks.discover.candidates import CANDIDATES, JUDGED, KEPT, POLYMORPHS, Stage

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("README.md")), *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
MODEL_CARD = ROOT / "generative" / "weights" / "hullward-flow" / "MODEL_CARD.md"
COMMANDS: Any = typer.main.get_command(app)


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Anchors as GitHub makes them of headings."""
    headings = re.findall(r"^#+ +(.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", h).lower()).strip().replace(" ", "-") for h in headings}


def command_lines(page: Path) -> Iterator[list[str]]:
    """Words of every command line in a shell block, without its prompt, comment and variables set for it."""
    for block in blocks(page, "bash", "console", "sh"):
        prompted = "\n$ " in "\n" + block  # then lines without a prompt are output
        for line in block.replace("\\\n", " ").splitlines():
            if prompted and not line.startswith("$ "):
                continue
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words.pop(0)
            if words:
                yield words


def hullward_lines() -> Iterator[tuple[str, list[str]]]:
    for page in PAGES:
        for words in command_lines(page):
            if Path(words[0]).name == "hullward":
                yield page.name, words[1:]


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
    assert {words[0] for _, words in hullward_lines()} >= set(COMMANDS.commands) - {"deploy"}


@pytest.mark.parametrize("words", [pytest.param(w, id=f"{page}: {' '.join(w)}") for page, w in hullward_lines()])
def test_a_command_line_is_understood(words: list[str]) -> None:
    if words in (["--help"], ["--version"]):
        return
    command = COMMANDS.commands[words[0]]
    if "--help" in words:
        return
    given = command.make_context(words[0], words[1:]).params
    assignments = list(given.get("settings") or ())
    if words[0] == "discover":
        named = given["config"] or given["elements"] or "quickstart"
        named = "quickstart" if named.endswith(".yaml") else named  # a user's own, which is not there
        run_settings(named, {"name": given["name"], "elements": elements_of(given["elements"])}, assignments)
    elif words[0] == "train":
        parse(TrainConfig, override(shipped(given["config"], "train-flow"), assignments), "docs")
    elif words[0] == "ingest":
        sources = [source for source in given["sources"] if not source.endswith(".yaml")] or ["ingest-aflow"]
        options = {name: given[name] for name in ("method", "potential", "limit", "where", "endpoint", "name")}
        flags = {name: given[name] for name in ("refresh", "merge")}
        asked = IngestRequest(elements=elements_of(given["elements"]), **options, **flags)
        ingest_settings(sources, asked, assignments)


def shipped(config: str, default: str = "quickstart") -> dict[str, Any]:
    """The settings of a shipped file; for a user's own file, which is not there, those of `default`."""
    return read_yaml(default if config.endswith(".yaml") else config)[1]


def test_commands_named_in_the_text_exist() -> None:
    wrong: list[str] = []
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        for name in re.findall(r"`hullward ([a-z][a-z-]*)", prose(page)):
            if name not in COMMANDS.commands:
                wrong.append(f"{page.name}: hullward {name}")
        targets = re.findall(r"`make ([a-z-]+)", prose(page))
        for words in command_lines(page):
            targets += words[1:2] if words[0] == "make" else []
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
    given = [w for page in PAGES for words in command_lines(page) for w in words if w.startswith("changes=[")]
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
