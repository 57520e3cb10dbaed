"""A benchmark of seconds: intermetallics of Al, Ni and Ti are hidden, those of other elements are templates."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifWriter

from configs.rediscovery import RediscoveryConfig
from tests.flows.conftest import known_phases

HIDDEN = frozenset({"AlNi", "AlNi3", "TiNi", "TiAl", "Ti3Al"})
"""As pymatgen writes them."""

CORNER, CENTRE, FACE = [0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.0, 0.5, 0.5]


def templates() -> dict[str, Structure]:
    """Prototypes of elements that are not looked for, and NiAl, which must not become one."""
    return {
        "FeCo": Structure(Lattice.cubic(2.85), ["Fe", "Co"], [CORNER, CENTRE]),
        "CuAu": Structure(Lattice.tetragonal(2.80, 3.67), ["Cu", "Au"], [CORNER, CENTRE]),
        "Cu3Au": Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.75), ["Au", "Cu"], [CORNER, FACE]),
        "AlNi": known_phases()["AlNi"],
    }


def write(path: Path, structures: Mapping[str, Structure], above_hull: Mapping[str, float] | None = None) -> Path:
    """A CSV in the layout of the CDVAE benchmark; ids are 'mp-NAME'."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["material_id", "cif", *(["e_above_hull"] if above_hull else [])])
        for name, structure in structures.items():
            height = [above_hull[name]] if above_hull else []
            rows.writerow([f"mp-{name}", str(CifWriter(structure)), *height])
    return path


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """Settings of the benchmark; its files appear in the folder."""
    phases = known_phases()
    compounds = {name: structure for name, structure in phases.items() if len(structure.composition) > 1}
    above = {name: 0.02 if name == "AlNi2Ti" else 0.0 for name in compounds}
    known = write(folder / "known.csv", phases)
    return {
        "name": "made",
        "reference": str(write(folder / "reference.csv", compounds, above)),
        "n_systems": 3,
        "n_elements": [2, 3],
        "n_atoms_max": 4,
        "budgets": [1, 2, 4],
        "proposers": [
            {"name": "substitution", "baseline": "prototype-substitution"},
            {"name": "random-symmetric", "baseline": "random-symmetric"},
        ],
        "portfolio": {"substitution": 1, "random-symmetric": 2},
        "known": [{"kind": "files", "path": str(known), "method": "as stored"}],
        "templates": [{"kind": "files", "path": str(write(folder / "templates.csv", templates()))}],
        "conditions": {"formula_atoms_max": 4, "n_atoms_min": 2, "n_atoms_max": 4},
        "sample": {"n_candidates": 12, "chunk_size": 6},
        "relax": {"potential": "CHGNet", "fallback": None, "max_steps": 8, "chunk_size": 4},
        "execution": {"runs_folder": str(folder / "runs"), "torch_threads": 1, "device": "cpu"},
        **changes,
    }


def made(folder: Path, **changes: Any) -> RediscoveryConfig:
    """The settings, read."""
    return RediscoveryConfig.model_validate(settings(folder, **changes))
