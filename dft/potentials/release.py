"""A crystal that relaxed in its space group is released: nudged, relaxed freely, and judged by where it goes.

In the group no force leads out of it, so a relaxation that keeps it ends at a saddle point as readily as at a minimum.
The nudge moves every atom, and strains the cell, at random; what is unstable grows and what is stable comes back.
Of the two ends the released one goes on only if it is lower by more than the tolerance. A saddle point is no phase, and
the hull compares the lowest that is known; but ends that differ by less differ by what the criterion of convergence
leaves, and there the symmetric one says more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from dft.config import RelaxConfig
from dft.potentials.ground_state import symmetry
from dft.potentials.symmetry import SpaceGroup, broken_by_ang
from dft.results import GPA_PER_EV_ANG3, KeptSymmetry, Relaxation

STRAIN_PER_ANG = 0.1
"""Strain of the nudge, rms, per angstrom of displacement: 0.1 A strain a cell by 1 %, whatever its size."""
SEED = 0


@dataclass(frozen=True)
class HeldCrystal:
    """Where a crystal has come to in its group."""

    group: SpaceGroup
    end: Relaxation


def nudged(structure: Structure, displacement_ang: float) -> Structure:
    """The crystal with atoms moved and the cell strained at random, the same for the same number of atoms."""
    rng = np.random.default_rng((SEED, len(structure)))
    strain = STRAIN_PER_ANG * displacement_ang * rng.normal(size=(3, 3))
    rows = structure.lattice.matrix @ (np.eye(3) + (strain + strain.T) / 2)
    moves = displacement_ang / np.sqrt(3) * rng.normal(size=(len(structure), 3))
    moves -= moves.mean(axis=0)
    cart = structure.frac_coords @ rows + moves
    return Structure(Lattice(rows), structure.species, cart, coords_are_cartesian=True)


def in_the_group(group: SpaceGroup, end: Relaxation) -> Relaxation:
    """A crystal that has come to an end in its group and is not released, with what is known of it."""
    note = f"it was not released: in its group it ended as '{end.status}'"
    return replace(end, kept=KeptSymmetry(group.number, end.energy_ev_per_atom, note=note))


def judged(held: HeldCrystal, released: Relaxation, config: RelaxConfig) -> Relaxation:
    """The end that goes on, with the verdict.

    Args:
        held: the end in the group, converged.
        released: the end after the release.
        config: pressure and tolerances.
    """
    end, group = held.end, held.group
    n_steps = end.n_steps + released.n_steps
    kept = KeptSymmetry(
        group.number,
        end.energy_ev_per_atom,
        released.energy_ev_per_atom,
        n_release_steps=released.n_steps,
    )
    if released.structure is None or end.structure is None:
        note = f"released, it ended as '{released.status}': {released.reason}"
        return replace(end, n_steps=n_steps, kept=replace(kept, note=note))
    fall = _enthalpy_ev_per_atom(end, config) - _enthalpy_ev_per_atom(released, config)
    is_lower = fall > config.release_tolerance_ev_per_atom
    broken = broken_by_ang(group, end.structure, released.structure)
    number, _ = symmetry(released.structure) or (None, "")
    kept = replace(kept, is_minimum=True, is_released=is_lower, released_spacegroup=number, broken_by_ang=broken)
    if is_lower:
        kept = replace(kept, is_minimum=broken <= config.symprec_ang)
        initial = end.initial_energy_ev_per_atom
        return replace(released, initial_energy_ev_per_atom=initial, n_steps=n_steps, kept=kept)
    if released.reason:
        kept = replace(kept, is_minimum=None, note=f"released, it was not at an end: {released.reason}")
    return replace(end, n_steps=n_steps, kept=kept)


def _enthalpy_ev_per_atom(end: Relaxation, config: RelaxConfig) -> float:
    if end.structure is None or end.energy_ev_per_atom is None:
        raise ValueError(f"a relaxation that ended as '{end.status}' has no enthalpy")
    volume = end.structure.volume / len(end.structure)
    return end.energy_ev_per_atom + config.pressure_gpa / GPA_PER_EV_ANG3 * volume
