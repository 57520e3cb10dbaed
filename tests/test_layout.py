"""The rooms: who may import whom, where they lie, what their modules may be called."""

from __future__ import annotations

import ast
import functools
import importlib.machinery
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("hullward", "flows", "tasks", "configs", "generative", "dft", "storage")
FORBIDDEN = {
    "generative": {"hullward", "dft", "prefect", "prefect_dask", "tasks", "flows", "configs"},
    "dft": {"hullward", "generative", "prefect", "prefect_dask", "tasks", "flows", "configs"},
    "configs": {"hullward", "prefect", "prefect_dask", "tasks", "flows", "torch"},
    "storage": {"hullward", "generative", "dft", "prefect", "prefect_dask", "tasks", "flows", "configs", "torch"},
    "tasks": {"hullward", "flows"},
    "flows": {"hullward"},
    "hullward": {"prefect", "prefect_dask", "torch"},
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


@pytest.mark.parametrize(
    "module", ["flows.discover", "flows.dft_jobs", "flows.train", "flows.rediscovery", "flows.campaign"]
)
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


MOST_LINES_OF_A_BODY = {"flows": 72, "tests": 65}
"""Docstring aside; elsewhere OF_A_BODY. `flows` holds the longest: its figure of a whole run is one function."""
OF_A_BODY = 70


@pytest.mark.parametrize("room", [*ROOMS, "tests"])
def test_functions_stay_short_enough_to_read(room: str) -> None:
    most = MOST_LINES_OF_A_BODY.get(room, OF_A_BODY)
    long = []
    for file, tree in modules(room):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                n_lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
                long += [f"{file.relative_to(ROOT)}: {node.name} has {n_lines} lines"] * (n_lines > most)
    assert not long


def _name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _needed(node: ast.AST, *, bodies: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports under a node that run: not those for type checkers, those inside functions with `bodies` alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for otherwise in child.orelse:
                yield from _needed(otherwise, bodies=bodies)
        elif bodies or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _needed(child, bodies=bodies)


@functools.cache
def import_graph(*, bodies: bool) -> dict[str, set[str]]:
    """The modules of the rooms that each of them imports, packages' own files left out: they hold a docstring."""
    trees = {_name_of(file): tree for room in ROOMS for file, tree in modules(room)}
    graph: dict[str, set[str]] = {}
    for name, tree in trees.items():
        found: set[str] = set()
        for node in _needed(tree, bodies=bodies):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            else:
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= full & set(trees) or {node.module or ""}
        graph[name] = found & set(trees) - {name}
    return graph


def reached(start: str, graph: Mapping[str, set[str]]) -> set[str]:
    found, waiting = set(), [start]
    while waiting:
        if (module := waiting.pop()) not in found:
            found.add(module)
            waiting += graph[module]
    return found


def test_no_modules_import_each_other_in_a_circle() -> None:
    # Inside bodies too: a circle that waits for a call is a circle all the same, and of two ideas that are one.
    graph = import_graph(bodies=True)
    circles = {tuple(sorted(reached(name, graph) & _reaching(name, graph))) for name in graph}
    assert not {circle for circle in circles if len(circle) > 1}


def _reaching(name: str, graph: Mapping[str, set[str]]) -> set[str]:
    turned: dict[str, set[str]] = {module: set() for module in graph}
    for module, needed in graph.items():
        for one in needed:
            turned[one].add(module)
    return reached(name, turned)


@pytest.mark.parametrize(
    ("start", "at_import", "in_all"),
    [
        (
            "flows.discover",
            51,
            232,
        ),  # with queues, formats, odds of compositions, judge, report and jobs
        ("generative.checkpoints", 22, 22),  # systems are loaded by their names
        ("configs.schema", 13, 16),
        ("storage.documents", 4, 4),
    ],
)
def test_what_is_imported_stays_within_a_few_modules(start: str, at_import: int, in_all: int) -> None:
    assert len(reached(start, import_graph(bodies=False))) <= at_import
    assert len(reached(start, import_graph(bodies=True))) <= in_all


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("generative.checkpoints", ("lightning", "pymatgen", "scipy", "torch_geometric", "matgl")),
        ("configs.schema", ("torch", "pymatgen", "numpy", "pyarrow", "prefect")),
        ("flows.discover", ("torch", "pymatgen", "scipy", "matgl")),
        ("flows.cli.main", ("torch", "prefect", "pydantic", "numpy", "pyarrow", "pymatgen")),
        ("storage.documents", ("numpy", "pyarrow", "pydantic", "torch")),
        ("hullward", ("torch", "prefect", "pydantic", "numpy", "pyarrow", "pymatgen", "pandas", "typer")),
    ],
)
def test_a_door_opens_without_what_only_its_rooms_need(module: str, absent: tuple[str, ...]) -> None:
    systems = "[m for m in sys.modules if m.startswith('generative.systems.') and m.count('.') > 2]"
    code = f"import sys, {module}; print([m for m in {absent!r} if m in sys.modules] + {systems})"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
