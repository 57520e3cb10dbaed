"""The door to numba: whose code is run, and what a division by zero means."""

from __future__ import annotations

import ast
import math
import shutil
from pathlib import Path

import pytest

from storage import native_code

ROOT = Path(__file__).resolve().parents[2]


# Two functions: numba keeps code by a function's name and arguments, not by its model of errors.
def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator


def _checked_ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator


def test_a_division_by_zero_is_infinite_or_raises_as_the_kernel_says():
    if not native_code.is_installed():
        pytest.skip("numba is not installed")
    assert math.isinf(native_code.compiled(_ratio)(1.0, 0.0))
    with pytest.raises(ZeroDivisionError):
        native_code.compiled_raising(_checked_ratio)(1.0, 0.0)


FOLDERS = [ROOT / "generative" / "native", ROOT / "dft" / "native"]
KERNELS = [file for folder in FOLDERS for file in sorted(folder.glob("[!_]*.py"))]


@pytest.mark.parametrize(
    "file", [file for folder in KERNELS for file in sorted(folder.glob("[!_]*.py"))], ids=lambda file: file.stem
)
def test_a_change_of_any_kernel_gives_the_kept_code_another_folder(file, tmp_path, monkeypatch):
    sources = shutil.copytree(file.parent, tmp_path / "native")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kept"))
    folder_of = native_code.code_folder.__wrapped__
    before = folder_of(sources)
    assert before == folder_of(sources)
    with (sources / file.name).open("a") as changed:
        changed.write("\n")
    assert before != folder_of(sources)


def test_nothing_but_the_door_imports_numba():
    importing = [
        str(file.relative_to(ROOT))
        for room in ("hullward", "flows", "tasks", "configs", "generative", "dft", "storage")
        for file in sorted((ROOT / room).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        if module.split(".")[0] == "numba"
    ]
    assert set(importing) == {"storage/native_code.py"}
