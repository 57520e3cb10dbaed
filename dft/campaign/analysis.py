"""What DFT made of each candidate: relaxed by DFT against pre-relaxed with a potential against generated.

Differences are end minus start. Energies are compared only where one engine with one set of settings computed both: the
energy of a start is that of the first ionic step of the run that began with it, or of a static run. An energy of the
potential is never taken for one of DFT. dV is in percent of the start's volume per atom too.

The two published tables this fills, with the tolerances of both, ltol 0.3, stol 0.5, angle 10 degrees:
    dp-cdvae             DP-CDVAE (Pakornchote et al., Sci. Rep. 2024), Table III: match rate, mean rms, and root mean
                         squares of dV (A^3/atom) and dE (eV/atom) between generated and relaxed; 10 GPa
    condition-cdvae-plus ConditionCDVAE+ (Gao et al.), Table 3: rate of convergence, mean number of ionic steps, mean
                         drop of energy (eV per cell) of the DFT relaxation
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pymatgen.core.structure import Structure

from dft.hull.convex_hull import enthalpy_ev_per_atom
from dft.potentials.ground_state import GroundState, GroundStateSummary, MatchTolerances, compare, summarise
from dft.records import DFTRecord, check_comparable
from dft.structures import is_same_crystal


class TableProtocol(StrEnum):
    """Published tables of generated crystals under DFT."""

    DP_CDVAE = "dp-cdvae"
    CONDITION_CDVAE_PLUS = "condition-cdvae-plus"


TOLERANCES: dict[TableProtocol, MatchTolerances] = {
    TableProtocol.DP_CDVAE: MatchTolerances(0.3, 0.5, 10.0),
    TableProtocol.CONDITION_CDVAE_PLUS: MatchTolerances(0.3, 0.5, 10.0),
}


@dataclass(frozen=True)
class Change:
    """One crystal against what became of it.

    Attributes:
        state: match, rms, dV (A^3/atom), dE (eV/atom, without PV), tolerances; see dft.potentials.ground_state.
        dv_percent: change of the volume per atom, percent of the start's.
        dh_ev_per_atom: change of the enthalpy at the record's pressure, eV/atom: what a relaxation lowers; None where
            dE is.
    """

    state: GroundState
    dv_percent: float | None
    dh_ev_per_atom: float | None


@dataclass(frozen=True)
class CandidateAnalysis:
    """One candidate's way through generation, potential and DFT.

    Attributes:
        candidate_id: of the candidate.
        formula: reduced.
        n_atoms: in the cell of the DFT run.
        method: engine and settings of the DFT energies.
        is_converged: whether DFT met its criterion.
        n_ionic_steps: of the DFT relaxation.
        energy_drop_ev_per_cell: energy of the DFT run's start minus that of its end, eV per cell; None if not known.
        from_generated: generated to relaxed by DFT; None without a generated crystal.
        from_pre_relaxed: pre-relaxed to relaxed by DFT; None without a pre-relaxed one.
        pre_relaxation: generated to pre-relaxed, energies by DFT where static runs know them; None without both.
    """

    candidate_id: str
    formula: str
    n_atoms: int
    method: str
    is_converged: bool
    n_ionic_steps: int
    energy_drop_ev_per_cell: float | None
    from_generated: Change | None
    from_pre_relaxed: Change | None
    pre_relaxation: Change | None


@dataclass(frozen=True)
class ChangeSummary:
    """Many changes of one kind.

    Attributes:
        states: counts, medians, means and root mean squares; see dft.potentials.ground_state.
        dv_percent_mean: of the signed change of volume.
        dv_percent_median: the same.
        de_mean_ev_per_atom: of the signed change of energy.
        dh_median_ev_per_atom: of the signed change of enthalpy.
    """

    states: GroundStateSummary
    dv_percent_mean: float | None
    dv_percent_median: float | None
    de_mean_ev_per_atom: float | None
    dh_median_ev_per_atom: float | None


@dataclass(frozen=True)
class AnalysisSummary:
    """A campaign's candidates under DFT; None where no candidate has the value.

    Attributes:
        n_candidates: all that were submitted, failures included.
        n_failed: those without a record.
        n_converged: those whose relaxation met its criterion.
        convergence_rate: n_converged / n_candidates.
        n_ionic_steps_mean: over the converged.
        n_ionic_steps_median: the same.
        energy_drop_mean_ev_per_cell: over the converged whose start has an energy.
        from_generated, from_pre_relaxed, pre_relaxation: over the converged; None if none has the crystals.
        method: of all energies; empty without candidates.
    """

    n_candidates: int
    n_failed: int
    n_converged: int
    convergence_rate: float | None
    n_ionic_steps_mean: float | None
    n_ionic_steps_median: float | None
    energy_drop_mean_ev_per_cell: float | None
    from_generated: ChangeSummary | None
    from_pre_relaxed: ChangeSummary | None
    pre_relaxation: ChangeSummary | None
    method: str


@dataclass(frozen=True)
class _End:
    """An end of a relaxation as dft.potentials.ground_state.compare reads it."""

    structure: Structure
    energy_ev_per_atom: float | None
    initial_energy_ev_per_atom: float | None
    n_steps: int


def analyse(
    record: DFTRecord,
    *,
    generated: Structure | None = None,
    pre_relaxed: Structure | None = None,
    statics: Sequence[DFTRecord] = (),
    protocol: TableProtocol = TableProtocol.DP_CDVAE,
) -> CandidateAnalysis:
    """What became of one candidate.

    Args:
        record: its DFT relaxation.
        generated: the crystal as generated.
        pre_relaxed: the same after relaxation with a potential.
        statics: static runs with the record's own settings, of any of these crystals.
        protocol: whose tolerances the matching takes.

    Raises:
        MixedSettingsError: if a static run has other settings than the record.
    """
    check_comparable([record, *statics])
    tolerances = TOLERANCES[protocol]
    begun = record.initial_energy_ev
    return CandidateAnalysis(
        candidate_id=record.candidate_id,
        formula=str(record.structure.composition.reduced_formula),
        n_atoms=len(record.structure),
        method=record.method,
        is_converged=record.is_converged,
        n_ionic_steps=record.n_ionic_steps,
        energy_drop_ev_per_cell=None if begun is None else begun - record.energy_ev,
        from_generated=_change(generated, record.structure, record, statics, tolerances),
        from_pre_relaxed=_change(pre_relaxed, record.structure, record, statics, tolerances),
        pre_relaxation=_change(generated, pre_relaxed, record, statics, tolerances),
    )


def _change(
    start: Structure | None,
    end: Structure | None,
    record: DFTRecord,
    statics: Sequence[DFTRecord],
    tolerances: MatchTolerances,
) -> Change | None:
    if start is None or end is None:
        return None
    before, after = _energy_at(start, record, statics), _energy_at(end, record, statics)
    state = compare(start, _End(end, after, before, record.n_ionic_steps), tolerances)
    volume_before, volume_after = start.volume / len(start), end.volume / len(end)
    dh = None
    if before is not None and after is not None:
        pressure = record.pressure_gpa
        dh = enthalpy_ev_per_atom(after, volume_after, pressure) - enthalpy_ev_per_atom(before, volume_before, pressure)
    return Change(state, 100.0 * (volume_after / volume_before - 1.0), dh)


def _energy_at(structure: Structure, record: DFTRecord, statics: Sequence[DFTRecord]) -> float | None:
    """Energy of a crystal as the record's engine has it, eV/atom; None if it was not computed."""
    if is_same_crystal(structure, record.structure):
        return record.energy_ev_per_atom
    if record.initial_energy_ev is not None and is_same_crystal(structure, record.initial_structure):
        return record.initial_energy_ev / len(structure)
    for static in statics:
        if is_same_crystal(structure, static.initial_structure):
            return static.energy_ev_per_atom
    return None


def summarise_candidates(analyses: Sequence[CandidateAnalysis], n_failed: int = 0) -> AnalysisSummary:
    """Rates, means and medians over a campaign's candidates.

    Args:
        analyses: of all candidates that have a record, converged or not.
        n_failed: candidates that were submitted and have none.

    Raises:
        ValueError: if the energies are of several methods, or n_failed is negative.
    """
    methods = sorted({one.method for one in analyses})
    if len(methods) > 1:
        raise ValueError(
            f"candidates of {len(methods)} methods share no summary: {', '.join(methods)}; make one for each"
        )
    if n_failed < 0:
        raise ValueError(f"n_failed is {n_failed}: expected a count of candidates without a record")
    converged = [one for one in analyses if one.is_converged]
    n_candidates = len(analyses) + n_failed
    steps = [float(one.n_ionic_steps) for one in converged]
    drops = [one.energy_drop_ev_per_cell for one in converged if one.energy_drop_ev_per_cell is not None]
    return AnalysisSummary(
        n_candidates=n_candidates,
        n_failed=n_failed,
        n_converged=len(converged),
        convergence_rate=len(converged) / n_candidates if n_candidates else None,
        n_ionic_steps_mean=_mean(steps),
        n_ionic_steps_median=statistics.median(steps) if steps else None,
        energy_drop_mean_ev_per_cell=_mean(drops),
        from_generated=_summary(converged, lambda one: one.from_generated),
        from_pre_relaxed=_summary(converged, lambda one: one.from_pre_relaxed),
        pre_relaxation=_summary(converged, lambda one: one.pre_relaxation),
        method=methods[0] if methods else "",
    )


def _summary(
    analyses: Sequence[CandidateAnalysis], change_of: Callable[[CandidateAnalysis], Change | None]
) -> ChangeSummary | None:
    changes = [change for one in analyses if (change := change_of(one)) is not None]
    if not changes:
        return None
    percents = [change.dv_percent for change in changes if change.dv_percent is not None]
    energies = [change.state.de_ev_per_atom for change in changes if change.state.de_ev_per_atom is not None]
    enthalpies = [change.dh_ev_per_atom for change in changes if change.dh_ev_per_atom is not None]
    return ChangeSummary(
        states=summarise([change.state for change in changes]),
        dv_percent_mean=_mean(percents),
        dv_percent_median=statistics.median(percents) if percents else None,
        de_mean_ev_per_atom=_mean(energies),
        dh_median_ev_per_atom=statistics.median(enthalpies) if enthalpies else None,
    )


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
