"""The door to numba: whose code is run, and what a division by zero means."""

from __future__ import annotations

import ast
import math
import shutil
from pathlib import Path

import pytest

from generative.native import door

ROOT = Path(__file__).resolve().parents[3]


# Two functions: numba keeps code by a function's name and arguments, not by its model of errors.
def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator


def _checked_ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator


def test_a_division_by_zero_is_infinite_or_raises_as_the_kernel_says():
    if not door.is_available():
        pytest.skip("numba is refused or not installed")
    assert math.isinf(door.compiled(_ratio)(1.0, 0.0))
    with pytest.raises(ZeroDivisionError):
        door.compiled_raising(_checked_ratio)(1.0, 0.0)


@pytest.mark.parametrize("name", sorted(file.name for file in (ROOT / "generative" / "native").glob("[!_]*.py")))
def test_a_change_of_any_kernel_gives_the_kept_code_another_folder(name, tmp_path, monkeypatch):
    sources = shutil.copytree(ROOT / "generative" / "native", tmp_path / "native")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setattr(door, "__file__", str(sources / "door.py"))
    before = door.code_folder.__wrapped__()
    assert before == door.code_folder.__wrapped__()
    with (sources / name).open("a") as file:
        file.write("\n")
    assert before != door.code_folder.__wrapped__()


def test_nothing_but_the_door_imports_numba():
    importing = [
        str(file.relative_to(ROOT))
        for room in ("flows", "tasks", "configs", "generative", "dft", "storage")
        for file in sorted((ROOT / room).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        if module.split(".")[0] == "numba"
    ]
    assert set(importing) == {"generative/native/door.py"}
