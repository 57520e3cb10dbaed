"""Hullward in Python: the commands' functions on pymatgen's and ASE's crystals, and a run's results as tables.

    import hullward

    run = hullward.discover("Li-Fe-P-O", n_candidates=64)
    run.best(5)

Every function is the command of its name, with the same settings and results. docs/python.md shows what it offers. This
package loads neither torch nor Prefect until a function needs them, and has Prefect send nothing.
"""

from __future__ import annotations

from flows.servers.environment import be_quiet
from hullward.discovery import RunFailedError, discover, plan
from hullward.drawings import Drawing, draw
from hullward.results import Crystals, Evaluation, OnHull
from hullward.run import Run, load_run
from hullward.stages import evaluate, hull, relax, sample, screen

__all__ = [
    "Crystals",
    "Drawing",
    "Evaluation",
    "OnHull",
    "Run",
    "RunFailedError",
    "discover",
    "draw",
    "evaluate",
    "hull",
    "load_run",
    "plan",
    "relax",
    "sample",
    "screen",
]

be_quiet()  # Prefect sends word of its first import, which the first function that needs it would make
