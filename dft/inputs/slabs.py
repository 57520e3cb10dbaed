"""What inputs of a slab have beside those of its preset: a cell that is held, no k-points across its vacuum, a dipole.

Cells with vacuum are held whole (ISIF 2) by every preset: VASP can hold one axis and free two by LATTICE_CONSTRAINTS,
but only in newer versions; an older one ignores the tag and does away with the vacuum. The papers' other presets are
taken to the letter otherwise; `vdw`, whose paper is on bilayers, has one division of its mesh across the vacuum and,
where the two faces differ, the correction of Neugebauer and Scheffler for the field between images (LDIPOL).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import spglib
from pymatgen.core.structure import Structure
from pymatgen.io.vasp.inputs import Kpoints

from dft.config import Preset
from dft.inputs.vacuum import find_vacuum
from storage.vacuum import slab_of

SYMPREC_ANG = 0.01

MESH_DENSITY_ANG3 = 64
"""The Materials Project's, of presets whose papers name no mesh: k-points per A^-3 of the reciprocal cell."""

CELL_HELD: dict[str, Any] = {"ISIF": 2}
"""Atoms move and the cell does not."""


@dataclass(frozen=True)
class SlabSettings:
    """What a slab's inputs have of their own.

    Attributes:
        incar: tags beside the preset's.
        mesh: one with a single division across the vacuum; None leaves the preset's.
        is_polar: whether its faces differ, so that a dipole is corrected.
    """

    incar: Mapping[str, Any]
    mesh: Kpoints | None = None
    is_polar: bool = False


def slab_settings(structure: Structure, preset: Preset, *, is_static: bool = False) -> SlabSettings | None:
    """What the inputs of a crystal have since it has vacuum; None for one without.

    Args:
        structure: as it is written.
        preset: whose inputs.
        is_static: nothing moves, so nothing is held.
    """
    found = find_vacuum(structure)
    if not found:
        return None
    held = {} if is_static else CELL_HELD
    slab = slab_of(structure.lattice.matrix, structure.frac_coords)
    if preset is not Preset.VDW or slab is None or (axis := slab.vacuum.axis) is None:
        return SlabSettings(held)
    mesh = _mesh(structure, axis)
    if not is_polar(structure, axis):
        return SlabSettings(held, mesh)
    centre = np.full(3, 0.5)
    middle_ang = 0.5 * (slab.heights_ang.max() + slab.heights_ang.min()) - slab.heights_ang[0]
    period_ang = slab.thickness_ang + slab.vacuum.width_ang
    centre[axis] = (structure.frac_coords[0, axis] + middle_ang / period_ang) % 1.0
    dipole = {"LDIPOL": True, "IDIPOL": axis + 1, "DIPOL": [round(float(x), 6) for x in centre]}
    return SlabSettings({**held, **dipole}, mesh, True)


def _mesh(structure: Structure, axis: int) -> Kpoints:
    """As the preset's density makes it, but for one division across the vacuum."""
    mesh = Kpoints.automatic_density_by_vol(structure, MESH_DENSITY_ANG3, force_gamma=True)
    divisions = [int(n) for n in mesh.kpts[0]]
    divisions[axis] = 1
    return Kpoints(mesh.comment, mesh.num_kpts, mesh.style, kpts=[(divisions[0], divisions[1], divisions[2])])


def is_polar(structure: Structure, axis: int) -> bool:
    """Whether no operation of the crystal exchanges the two directions of this axis, so that its faces may differ."""
    cell: Any = (structure.lattice.matrix, structure.frac_coords, [site.specie.Z for site in structure])
    try:
        operations = spglib.get_symmetry(cell, symprec=SYMPREC_ANG)
    except spglib.SpglibError:
        operations = None
    return operations is None or not any(rotation[axis, axis] == -1 for rotation in operations["rotations"])
