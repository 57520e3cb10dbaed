"""The door to numba: whose code is run, and what a division by zero means."""

from __future__ import annotations

import ast
import math
import os
import shutil
import subprocess
import sys
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


@pytest.mark.parametrize("file", KERNELS, ids=lambda file: f"{file.parent.parent.name}-{file.stem}")
def test_a_change_of_any_kernel_gives_the_kept_code_another_folder(file, tmp_path, monkeypatch):
    sources = shutil.copytree(file.parent, tmp_path / "native")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kept"))
    folder_of = native_code.code_folder.__wrapped__
    before = folder_of(sources)
    assert before == folder_of(sources)
    with (sources / file.name).open("a") as changed:
        changed.write("\n")
    assert before != folder_of(sources)


KERNEL = """
from storage.native_code import compiled

@compiled
def half(x):
    return x / 2

half(3.0)
print(sum(half.stats.cache_misses.values()), sum(half.stats.cache_hits.values()))
"""


def test_the_same_sources_in_another_folder_are_not_compiled_again(tmp_path):
    if not native_code.is_installed():
        pytest.skip("numba is not installed")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kept"), "PYTHONPATH": str(ROOT)}
    said = []
    for place, source in (("first", KERNEL), ("second", KERNEL), ("changed", KERNEL.replace("/ 2", "/ 4"))):
        kernel = tmp_path / place / "kernel.py"
        kernel.parent.mkdir()
        kernel.write_text(source)
        done = subprocess.run([sys.executable, kernel], env=environment, capture_output=True, text=True, check=True)
        said.append(done.stdout.split())
    assert said == [["1", "0"], ["0", "1"], ["1", "0"]]  # compiled, found


COMPILES_TWICE = """
import logging, sys
logging.basicConfig(format="%(message)s")
from dft.native import messages
kernel = next(one for one in vars(messages).values() if hasattr(one, "py_func"))
from numba.core import event
made = event.Event("numba:compile", event.EventStatus.START, {"dispatcher": kernel})
event.broadcast(made)
event.broadcast(made)
"""


def test_compiling_is_said_once_with_what_for_and_where_it_is_kept(tmp_path):
    if not native_code.is_installed():
        pytest.skip("numba is not installed")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    said = subprocess.run(
        [sys.executable, "-c", COMPILES_TWICE], env=environment, capture_output=True, text=True, check=True
    ).stderr.splitlines()
    assert len(said) == 1
    assert said[0].startswith("compiling the kernels of potentials: a minute or more, once for this version; kept in ")
    assert str(tmp_path) in said[0]


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
