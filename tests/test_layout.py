"""The rooms: who may import whom, where they lie, what their modules may be called."""

from __future__ import annotations

import ast
import importlib.machinery
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("flows", "tasks", "configs", "generative", "dft", "storage")
FORBIDDEN = {
    "generative": {"dft", "prefect", "prefect_dask", "tasks", "flows", "configs"},
    "dft": {"generative", "prefect", "prefect_dask", "tasks", "flows", "configs"},
    "configs": {"prefect", "prefect_dask", "tasks", "flows", "torch"},
    "storage": {"generative", "dft", "prefect", "prefect_dask", "tasks", "flows", "configs", "torch"},
    "tasks": {"flows"},
    "flows": set(),
}


def modules(room: str) -> Iterator[tuple[Path, ast.Module]]:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files, f"{room} holds no module"
    for file in files:
        yield file, ast.parse(file.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every module named in an import anywhere in a file, and the import's level (0 is absolute)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file, tree in modules(room)
        for name, _ in imported(tree)
        if name.split(".")[0] in FORBIDDEN[room]
    ]
    assert not wrong


@pytest.mark.parametrize("room", ROOMS)
def test_every_import_is_absolute(room: str) -> None:
    assert not [file for file, tree in modules(room) for _, level in imported(tree) if level]


@pytest.mark.parametrize("room", ROOMS)
def test_no_module_is_named_for_being_a_leftover(room: str) -> None:
    stems = {file.stem for file, _ in modules(room)} | {p.name for p in (ROOT / room).rglob("*") if p.is_dir()}
    assert not stems & {"utils", "util", "common", "helpers", "misc"}


def test_every_package_is_the_one_of_this_folder() -> None:
    code = f"import json; print(json.dumps({{n: __import__(n).__file__ for n in {ROOMS!r}}}))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    for room, file in json.loads(found.stdout).items():
        assert Path(file).resolve() == ROOT / room / "__init__.py"


def test_flow_files_shadow_no_module_that_something_else_imports() -> None:
    # Prefect puts a flow file's own folder at the head of sys.path, so `import train` would find flows/train.py.
    elsewhere = [p for p in sys.path if p and Path(p).resolve() not in {ROOT, ROOT / "flows"}]
    for file in sorted((ROOT / "flows").glob("*.py")):
        if file.stem != "__init__":
            assert importlib.machinery.PathFinder.find_spec(file.stem, elsewhere) is None, file
            assert file.stem not in sys.builtin_module_names


@pytest.mark.parametrize("module", ["flows.discover", "flows.dft_jobs", "flows.train"])
def test_a_flow_is_imported_without_loading_torch(module: str) -> None:
    heavy = ("torch", "matgl", "chgnet", "lightning")
    code = f"import sys; import {module}; print([m for m in {heavy!r} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "CI": "1"},
    )
    assert found.stdout.strip() == "[]"


def test_files_stay_short_enough_to_read() -> None:
    long = [
        (str(file.relative_to(ROOT)), n)
        for room in ROOMS
        for file, _ in modules(room)
        if (n := len(file.read_text(encoding="utf-8").splitlines())) > 400
    ]
    assert not long
