"""What others install: the wheel, tried without the checkout, and the files that say what it asks for and is."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("hullward", "flows", "tasks", "generative", "dft", "configs", "storage")


@dataclass(frozen=True)
class Wheel:
    """A built wheel and the folder that pip has installed it into."""

    file: Path
    installed: Path

    def program(self, *words: str, cwd: Path) -> str:
        """What Python prints for these words, of our rooms the installed ones first; it has to succeed."""
        environment = {**os.environ, "PYTHONPATH": str(self.installed), "HULLWARD_ASSETS": str(cwd)}
        done = subprocess.run(
            [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (file,) = (folder / "dist").glob("hullward-*.whl")
    install = ["install", "--no-deps", "--no-index", "--no-compile", "--quiet", "--target", str(folder / "installed")]
    subprocess.run([sys.executable, "-m", "pip", *install, str(file)], check=True, capture_output=True)
    return Wheel(file, folder / "installed")


def files_of_the_rooms() -> set[str]:
    found = {path for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file()}
    return {path.relative_to(ROOT).as_posix() for path in found if "__pycache__" not in path.parts}


def test_every_file_of_the_rooms_is_in_the_wheel_and_in_its_record(wheel: Wheel) -> None:
    with zipfile.ZipFile(wheel.file) as archive:
        (record,) = [name for name in archive.namelist() if name.endswith(".dist-info/RECORD")]
        rows = list(csv.reader(io.StringIO(archive.read(record).decode())))
    recorded = {name for name, *_ in rows if ".dist-info/" not in name}
    assert recorded == files_of_the_rooms()
    assert {f"{room}/py.typed" for room in ROOMS} <= recorded
    for kind in ("configs/presets/quickstart.yaml", "tasks/report/report.css", "generative/weights/hullward-wyckoff"):
        assert any(name.startswith(kind) for name in recorded)


def test_the_installed_command_says_its_version_and_reads_every_preset_and_asset(wheel: Wheel, tmp_path: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert (
        wheel.program(str(wheel.installed / "bin" / "hullward"), "--version", cwd=tmp_path) == f"hullward {version}\n"
    )
    code = """
import importlib.resources, json, sys
from configs.paths import resolve
from configs.schema import CONFIG_FOLDER, read_yaml
presets = sorted(file.stem for file in CONFIG_FOLDER.glob("*.yaml"))
settings = [read_yaml(name)[1] for name in presets]
page = importlib.resources.files("tasks.report")
lengths = [len((page / name).read_text()) for name in ("report.css", "report.js", "crystals.js")]
files = [importlib.import_module(room).__file__ for room in sys.argv[1:]]
print(json.dumps([presets, all(settings), lengths, files, resolve("package:al-n-ti-reported").is_dir()]))
"""
    presets, all_read, lengths, files, is_there = json.loads(wheel.program("-c", code, *ROOMS, cwd=tmp_path))
    assert presets == sorted(file.stem for file in (ROOT / "configs" / "presets").glob("*.yaml"))
    assert all_read
    assert min(lengths) > 100
    assert files == [str(wheel.installed / room / "__init__.py") for room in ROOMS]
    assert is_there


def test_the_installed_generator_draws_from_an_empty_folder(wheel: Wheel, tmp_path: Path) -> None:
    sample = ["sample", "--formula", "TaB2", "--number", "2", "--out", "drawn.parquet"]
    wheel.program("-m", "flows.cli", *sample, cwd=tmp_path)
    assert len(pd.read_parquet(tmp_path / "drawn.parquet")) == 2


CONDA_NAMES = {
    "torch": "pytorch",
    "torch-geometric": "pytorch_geometric",
    "huggingface-hub": "huggingface_hub",
    "matplotlib": "matplotlib-base",
}
OF_EXTRAS = {"greenlet"}
"""What an extra of a dependency brings on PyPI, and conda has to be asked for."""


def test_the_recipe_for_conda_asks_for_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    recipe = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    asked = {
        name: SpecifierSet(bounds) for name, _, bounds in (r.partition(" ") for r in recipe["requirements"]["run"])
    }
    wanted = {CONDA_NAMES.get(one.name, one.name): one.specifier for one in map(Requirement, project["dependencies"])}
    assert {name: bounds for name, bounds in asked.items() if name not in OF_EXTRAS} == {
        **wanted,
        "python": SpecifierSet(project["requires-python"]),
    }
    assert recipe["context"]["version"] == project["version"]
    (entry,) = recipe["build"]["python"]["entry_points"]
    assert entry == f"hullward = {project['scripts']['hullward']}"


def test_the_citation_and_the_changelog_are_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == project["version"]
    assert f"\n## [{project['version']}] - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
