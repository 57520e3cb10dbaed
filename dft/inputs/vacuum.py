"""Vacuum in the cells of crystals that VASP is to relax; see storage.vacuum."""

from __future__ import annotations

from pymatgen.core.structure import Structure

from storage import vacuum
from storage.vacuum import VACUUM_ANG, Vacuum

__all__ = ["VACUUM_ANG", "Vacuum", "find_vacuum"]


def find_vacuum(structure: Structure, above_ang: float = VACUUM_ANG) -> tuple[Vacuum, ...]:
    """Empty slabs wider than a threshold, the widest first; see storage.vacuum.find_vacuum.

    Args:
        structure: at least one atom.
        above_ang: the threshold, A.
    """
    return vacuum.find_vacuum(structure.lattice.matrix, structure.frac_coords, above_ang)
