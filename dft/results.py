"""What the dft room returns: frozen records with the unit in every name. Structures are pymatgen's."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from pymatgen.core.structure import Structure

GPA_PER_EV_ANG3 = 160.21766208
"""1 eV/A^3 in GPa (CODATA 2018)."""


class EnergyScheme(StrEnum):
    """What the total energies are that a potential has learned."""

    RAW = "raw"
    """PBE and PBE+U as the Materials Project computes them, without corrections"""
    MP2020 = "MP2020"
    """the same with the Materials Project's corrections of 2020"""
    OTHER = "other"
    """of other settings, for which the Materials Project's corrections do not hold"""
    UNSTATED = "unstated"

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader of a hull should know, one sentence or none."""
        return _SCHEME_NOTES.get(self, ())


_SCHEME_NOTES = {
    EnergyScheme.OTHER: ("no corrections exist for what this potential learned: oxides and fluorides beside metals "
                         "may be off by 0.1 eV/atom and more",),
    EnergyScheme.UNSTATED: ("this potential does not state whether it learned corrected energies: none are added",),
}  # fmt: skip


class RelaxStatus(StrEnum):
    """How a relaxation ended."""

    CONVERGED = "converged"
    STEP_CAP = "step cap"
    ISOLATED = "isolated"
    """an atom of the final crystal has no neighbour within the potential's cut-off, so it feels no force"""
    EXPLODED = "exploded"
    FAILED = "failed"


@dataclass(frozen=True)
class KeptSymmetry:
    """A crystal that relaxed in its space group, and what became of it when it was released.

    Attributes:
        spacegroup: international number of the group kept; as spglib finds it in the crystal as given.
        energy_ev_per_atom: at the end in the group, eV/atom; None without an end.
        released_energy_ev_per_atom: at the end after the release, eV/atom; None if it was not released, or has none.
        is_minimum: whether no way out of the group led down: False at a saddle point; None if that is not known.
        is_released: whether the released end is the crystal that goes on.
        released_spacegroup: of that end, by spglib at 0.1 A; None without such an end.
        broken_by_ang: how far that end is from having the group, A; None without such an end.
        n_release_steps: optimiser steps after the release.
        note: why is_minimum is not known, one sentence, or empty.
    """

    spacegroup: int
    energy_ev_per_atom: float | None
    released_energy_ev_per_atom: float | None = None
    is_minimum: bool | None = None
    is_released: bool = False
    released_spacegroup: int | None = None
    broken_by_ang: float | None = None
    n_release_steps: int = 0
    note: str = ""


@dataclass(frozen=True)
class Relaxation:
    """One crystal before and after relaxation with a potential.

    Attributes:
        status: how it ended.
        structure: the final crystal; None unless it converged or met the step cap.
        energy_ev_per_atom: potential energy of the final crystal, eV/atom (no PV term); None without a crystal.
        initial_energy_ev_per_atom: the same for the crystal as given; None where it has none, as with an isolated atom.
        fmax_ev_per_ang: largest force on an atom at the end, eV/A.
        max_stress_gpa: largest absolute stress component at the end, external pressure removed, GPa.
        n_steps: optimiser steps taken, those after a release among them.
        reason: one sentence when the status is not converged, else empty.
        kept: of a crystal that relaxed in its space group; None of one that relaxed freely.
    """

    status: RelaxStatus
    structure: Structure | None
    energy_ev_per_atom: float | None
    initial_energy_ev_per_atom: float | None
    fmax_ev_per_ang: float | None
    max_stress_gpa: float | None
    n_steps: int
    reason: str = ""
    kept: KeptSymmetry | None = None


@dataclass(frozen=True)
class SinglePoint:
    """What a potential says of a crystal as it is.

    Attributes:
        energy_ev_per_atom: eV/atom.
        forces_ev_per_ang: (n, 3), eV/A, finite or not as the potential gives them.
        stress_gpa: (3, 3), GPa, positive under tension.
    """

    energy_ev_per_atom: float
    forces_ev_per_ang: np.ndarray
    stress_gpa: np.ndarray


@dataclass(frozen=True)
class NoEnergy:
    """A crystal of which a potential says nothing.

    Attributes:
        reason: one sentence.
        is_isolated: whether the reason is an atom without a neighbour within the potential's cut-off.
    """

    reason: str
    is_isolated: bool = False


@dataclass(frozen=True)
class HullPosition:
    """A crystal's place on a convex hull of competing phases.

    Attributes:
        formation_energy_ev_per_atom: from the elements of the hull, eV/atom; None if an element has no phase.
        e_above_hull_ev_per_atom: distance to the hull of the OTHER phases (negative: below it, a new stable phase).
        decomposition: competing phases with their fractions of atoms, such as '0.60 TaB2 + 0.40 W'; empty if unknown.
        note: one sentence when a value is missing or degraded, else empty.
    """

    formation_energy_ev_per_atom: float | None
    e_above_hull_ev_per_atom: float | None
    decomposition: str
    note: str = ""
