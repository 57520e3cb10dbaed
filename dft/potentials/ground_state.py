"""Generated crystals against what they relax to: match, rms, volume and energy change, steps, symmetry.

Differences are relaxed minus generated, per atom: a good generator gives small ones, and an energy difference that is
not negative means that the relaxation did not go downhill. Matching verdicts are pymatgen's StructureMatcher, with its
tolerances carried in every result.

Source: the ground-state test of DP-CDVAE (Pakornchote et al., Sci. Rep. 2024, Table III), which takes root mean squares
over crystals; ours are `dv_rms_ang3_per_atom` and `de_rms_ev_per_atom`, and medians beside them, since a few crystals
that relax far away decide a root mean square.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.structure import Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError

from dft.results import RelaxStatus


class RelaxationLike(Protocol):
    """What compare() reads of a relaxation: dft.results.Relaxation has it, and so can a record of a DFT run."""

    @property
    def structure(self) -> Structure | None:
        """The relaxed crystal; None if there is none."""

    @property
    def energy_ev_per_atom(self) -> float | None:
        """Energy of the relaxed crystal, eV/atom."""

    @property
    def initial_energy_ev_per_atom(self) -> float | None:
        """Energy of the generated crystal with the same method, eV/atom."""

    @property
    def n_steps(self) -> int:
        """Steps of the relaxation."""


@dataclass(frozen=True)
class MatchTolerances:
    """StructureMatcher's tolerances; the defaults are those of the CDVAE benchmark and of DP-CDVAE.

    Attributes:
        ltol: relative length tolerance.
        stol: site tolerance, in units of (volume / atom)^(1/3).
        angle_tol_deg: angle tolerance, degrees.
    """

    ltol: float = 0.3
    stol: float = 0.5
    angle_tol_deg: float = 10.0

    def __post_init__(self) -> None:
        for field, value in (("ltol", self.ltol), ("stol", self.stol), ("angle_tol_deg", self.angle_tol_deg)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{field} is {value}: expected a finite tolerance above zero")


@dataclass(frozen=True)
class GroundState:
    """One generated crystal against its relaxed self.

    Attributes:
        match: whether StructureMatcher takes both for the same structure, volumes rescaled to be equal.
        rms: root mean square displacement of matched sites, in units of (volume / atom)^(1/3); None without a match.
        dv_ang3_per_atom: volume, relaxed minus generated, A^3/atom; None without a relaxed crystal.
        de_ev_per_atom: energy, relaxed minus generated, eV/atom; None if either is not known.
        n_steps: steps of the relaxation.
        tolerances: of the match.
        note: one sentence when something is missing, else empty.
        is_isolated: whether the relaxation ended with an atom that the potential does not see, and so says nothing.
    """

    match: bool
    rms: float | None
    dv_ang3_per_atom: float | None
    de_ev_per_atom: float | None
    n_steps: int
    tolerances: MatchTolerances
    note: str = ""
    is_isolated: bool = False


@dataclass(frozen=True)
class GroundStateSummary:
    """Many generated crystals against their relaxed selves; None where no crystal has the value.

    Attributes:
        n_crystals: all of them.
        n_relaxed: those with a relaxed crystal.
        n_matched: those whose relaxed crystal matches.
        n_isolated: those whose relaxation ended isolated; they are in no other figure.
        match_rate: n_matched / (n_crystals - n_isolated), in [0, 1]: a crystal that failed to relax counts as no match.
        rms_mean: over the matched.
        rms_median: over the matched.
        dv_median_ang3_per_atom: of the signed volume change.
        dv_rms_ang3_per_atom: root mean square of the volume change.
        de_median_ev_per_atom: of the signed energy change.
        de_rms_ev_per_atom: root mean square of the energy change.
        n_steps_median: over the relaxed.
        tolerances: of the matches.
    """

    n_crystals: int
    n_relaxed: int
    n_matched: int
    n_isolated: int
    match_rate: float | None
    rms_mean: float | None
    rms_median: float | None
    dv_median_ang3_per_atom: float | None
    dv_rms_ang3_per_atom: float | None
    de_median_ev_per_atom: float | None
    de_rms_ev_per_atom: float | None
    n_steps_median: float | None
    tolerances: MatchTolerances | None


def compare(generated: Structure, relaxed: RelaxationLike, tolerances: MatchTolerances | None = None) -> GroundState:
    """A generated crystal against what it relaxed to.

    Args:
        generated: the crystal as it entered the relaxation.
        relaxed: its relaxation, by a potential or DFT.
        tolerances: of the match; the benchmark's by default.

    Returns: The comparison; what cannot be had is None, with the reason in `note`.
    """
    used = tolerances or MatchTolerances()
    de = None
    if _is_known(relaxed.energy_ev_per_atom) and _is_known(relaxed.initial_energy_ev_per_atom):
        de = float(relaxed.energy_ev_per_atom or 0.0) - float(relaxed.initial_energy_ev_per_atom or 0.0)
    if getattr(relaxed, "status", None) is RelaxStatus.ISOLATED:
        note = "an atom of the relaxed crystal has no neighbour within the potential's cut-off"
        return GroundState(False, None, None, None, relaxed.n_steps, used, note, is_isolated=True)
    if relaxed.structure is None:
        return GroundState(False, None, None, de, relaxed.n_steps, used, "no relaxed crystal to compare with")
    dv = relaxed.structure.volume / len(relaxed.structure) - generated.volume / len(generated)
    note = "" if de is not None else "an energy, before or after relaxation, is missing"
    try:
        rms = _rms(generated, relaxed.structure, used)
    except (ValueError, ArithmeticError, IndexError) as error:  # what pymatgen and numpy raise on degenerate cells
        rms = None
        note = f"pymatgen could not compare the crystals ({type(error).__name__}: {error})"
    return GroundState(rms is not None, rms, float(dv), de, relaxed.n_steps, used, note)


def summarise(results: Sequence[GroundState]) -> GroundStateSummary:
    """Counts, medians and root mean squares over many comparisons.

    Raises:
        ValueError: if the comparisons were made with different tolerances.
    """
    used = list(dict.fromkeys(result.tolerances for result in results))
    if len(used) > 1:
        raise ValueError(
            f"comparisons made with {len(used)} different tolerances share no summary: {used[0]}, {used[1]}"
        )
    relaxed = [result for result in results if result.dv_ang3_per_atom is not None]
    rms = [result.rms for result in results if result.rms is not None]
    dv = [result.dv_ang3_per_atom for result in results if result.dv_ang3_per_atom is not None]
    de = [result.de_ev_per_atom for result in results if result.de_ev_per_atom is not None]
    n_matched = sum(result.match for result in results)
    n_isolated = sum(result.is_isolated for result in results)
    n_compared = len(results) - n_isolated
    return GroundStateSummary(
        n_crystals=len(results),
        n_relaxed=len(relaxed),
        n_matched=n_matched,
        n_isolated=n_isolated,
        match_rate=n_matched / n_compared if n_compared else None,
        rms_mean=statistics.fmean(rms) if rms else None,
        rms_median=_median(rms),
        dv_median_ang3_per_atom=_median(dv),
        dv_rms_ang3_per_atom=_root_mean_square(dv),
        de_median_ev_per_atom=_median(de),
        de_rms_ev_per_atom=_root_mean_square(de),
        n_steps_median=_median([float(result.n_steps) for result in relaxed]),
        tolerances=used[0] if used else None,
    )


def symmetry(structure: Structure, symprec_ang: float = 0.1) -> tuple[int, str] | None:
    """Space group of a crystal by spglib: international number and symbol.

    Args:
        structure: ordered.
        symprec_ang: how far an atom may lie from its symmetric place, A. A tenth suits relaxed crystals, which carry
            the optimiser's leftover forces; 0.01 suits tabulated ones.

    Returns: Such as (225, 'Fm-3m'); None where spglib finds no group, as for overlapping atoms.
    """
    if not _is_finite(structure):  # on which spglib ends the process with a segmentation fault
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # spglib's, on its own change of error handling
            # By distances alone: within pymatgen's angle tolerance of 5 degrees a cube drawn out along its diagonal by
            # 4 % is still one.
            analyzer = SpacegroupAnalyzer(structure, symprec=symprec_ang, angle_tolerance=-1)
            return int(analyzer.get_space_group_number()), str(analyzer.get_space_group_symbol())
    except (SymmetryUndeterminedError, ValueError, TypeError):  # spglib hands on None for what it gives up on
        return None


def _rms(first: Structure, second: Structure, tolerances: MatchTolerances) -> float | None:
    if not (_is_finite(first) and _is_finite(second)):
        raise ValueError("a lattice or position is not finite")
    matcher: Any = StructureMatcher(ltol=tolerances.ltol, stol=tolerances.stol, angle_tol=tolerances.angle_tol_deg)
    found = matcher.get_rms_dist(first, second)
    return None if found is None else float(found[0])


def _is_finite(structure: Structure) -> bool:
    arrays = (structure.lattice.matrix, structure.frac_coords)
    return len(structure) > 0 and all(bool(np.isfinite(array).all()) for array in arrays)


def _is_known(energy_ev_per_atom: float | None) -> bool:
    return energy_ev_per_atom is not None and math.isfinite(energy_ev_per_atom)


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _root_mean_square(values: Sequence[float]) -> float | None:
    return math.sqrt(statistics.fmean(value * value for value in values)) if values else None
