"""Attempts at one job of a VASP flow: their folders, what they got to, and their processes.

`<i>/` is the attempt at job i that is under way or done, `<i>.killed-<n>/` are earlier ones that did not end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
from pymatgen.core.structure import Structure

from dft.engines.vasp_outputs import last_structure

TERMINATE_S = 5.0


def killed(place: Path) -> list[Path]:
    """Folders of attempts that did not end, oldest first."""
    folders = place.parent.glob(f"{place.name}.killed-*")
    return sorted(folders, key=lambda folder: int(folder.name.rpartition("-")[2]))


def put_aside(place: Path) -> tuple[list[Path], Structure | None]:
    """Rename what a killed attempt left; all such folders, and the last whole crystal in them."""
    if place.exists():
        os.replace(place, place.with_name(f"{place.name}.killed-{len(killed(place)) + 1}"))
    earlier = killed(place)
    structures = (last_structure(folder) for folder in reversed(earlier))
    return earlier, next((structure for structure in structures if structure is not None), None)


def _processes(place: Path) -> Iterator[psutil.Process]:
    """Processes at work in a folder: VASP of an attempt whose custodian is gone."""
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and Path(process.cwd()) == place.resolve():
                yield process
        except (psutil.Error, OSError):  # ended meanwhile, or another user's
            continue


def end_processes(place: Path) -> None:
    """End what still computes in a folder; custodian starts VASP in a session of its own, which outlives its parent."""
    if not place.exists():
        return
    found = list(_processes(place))
    for process in found:
        _signal(process, "terminate")
    _, alive = psutil.wait_procs(found, timeout=TERMINATE_S)
    for process in alive:
        _signal(process, "kill")
    psutil.wait_procs(alive, timeout=TERMINATE_S)


def _signal(process: psutil.Process, name: str) -> None:
    try:
        getattr(process, name)()
    except psutil.NoSuchProcess:
        return


def lasted_s(folder: Path) -> float:
    """How long a killed attempt ran, by the times of its files."""
    times = [path.stat().st_mtime for path in folder.iterdir()]
    return max(times) - min(times) if times else 0.0
