"""Records of calculations that nobody ran, for tests of what is made of records."""

from __future__ import annotations

from typing import Any

import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.io.vasp.sets import MPRelaxSet

from dft.config import Preset
from dft.engines.config import VaspEngineConfig
from dft.records import DFTRecord, enthalpy_ev
from storage.digests import json_digest

MP = VaspEngineConfig.model_validate({"preset": Preset.MP_RELAX}).settings()


def rock_salt(cation: str, anion: str, a_ang: float) -> Structure:
    """The primitive cell, written out: pymatgen takes a second for a space group's operations."""
    half = a_ang / 2
    return Structure([[0, half, half], [half, 0, half], [half, half, 0]], [cation, anion], [[0] * 3, [0.5] * 3])


def antiperovskite() -> Structure:
    """Li3ClO."""
    sites = [[0.5, 0.5, 0.5], [0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return Structure(Lattice.cubic(3.9), ["O", "Cl", "Li", "Li", "Li"], sites)


def body_centred(cation: str, a_ang: float, c_ang: float, z: float) -> Structure:
    """A peroxide or superoxide of the calcium carbide type, I4/mmm: pairs of O along c."""
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0, 0, z], [0, 0, -z], [0.5, 0.5, 0.5 + z], [0.5, 0.5, 0.5 - z]]
    return Structure(Lattice.tetragonal(a_ang, c_ang), [cation] * 2 + ["O"] * 4, sites)


def potcar_titles(structure: Structure) -> list[str]:
    """Titles with the symbols that the Materials Project takes for these elements."""
    return [f"PAW_PBE {MPRelaxSet.CONFIG['POTCAR'][element.symbol]} 01Jan2000" for element in structure.composition]


MP_INCAR = {"ENCUT": 520, "PREC": "Accurate", "ISPIN": 2, "EDIFF": 5e-5, "ISMEAR": -5, "SIGMA": 0.05, "LASPH": True}
"""What of MPRelaxSet's INCAR decides the numbers of a crystal without U."""


def record(structure: Structure, ev_per_atom: float, settings: dict[str, Any] = MP, **changes: Any) -> DFTRecord:
    """A converged record of a crystal at rest; `changes` are its fields."""
    energy, pressure = ev_per_atom * len(structure), changes.pop("pressure_gpa", 0.0)
    values: dict[str, Any] = {
        "key": "0" * 24,
        "engine": settings["name"],
        "engine_version": "1",
        "settings": settings,
        "settings_digest": json_digest(settings),
        "candidate_id": "c-1",
        "purpose": "reference",
        "structure": structure,
        "initial_structure": structure,
        "energy_ev": energy,
        "pressure_gpa": pressure,
        "enthalpy_ev": enthalpy_ev(energy, pressure, float(structure.volume)),
        "forces_ev_per_ang": np.zeros((len(structure), 3)),
        "stress_gpa": np.zeros((3, 3)),
        "n_ionic_steps": 3,
        "n_electronic_steps": 30,
        "is_converged": True,
        "wall_time_s": 1.0,
    }
    return DFTRecord(**{**values, **changes})
