"""Packages from outside this tree: installed into a folder, and programs that see them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def install(folder: Path, name: str, modules: Mapping[str, str], entry_points: str) -> Path:
    """A package as pip would leave it: its modules, and what it says of itself, with entry points.

    Args:
        folder: goes to a program's path; made if it is not there.
        name: of the package.
        modules: file name -> source.
        entry_points: the text of entry_points.txt.
    """
    package, about = folder / name, folder / f"{name}-1.0.dist-info"
    for made in (package, about):
        made.mkdir(parents=True)
    for file, source in {"__init__.py": "", **modules}.items():
        (package / file).write_text(source)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(entry_points)
    return folder


def run(code: str, folder: Path, *arguments: str) -> str:
    """What a program prints that sees this project and the packages in the folder; it has to succeed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
