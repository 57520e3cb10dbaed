"""What a report is made from: frozen records of plain numbers with units in their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pymatgen.core.structure import Structure

from dft.results import KeptSymmetry
from generative.datasets.origins import Origin


@dataclass(frozen=True)
class StageYield:
    """How many crystals entered and left one stage.

    Attributes:
        stage: the stage's name, such as 'screen'.
        n_in: crystals that entered.
        n_out: crystals that left it alive.
        seconds: wall time, s; None if not measured or if the stage was skipped.
        note: one sentence, such as what was reused; may be empty.
    """

    stage: str
    n_in: int
    n_out: int
    seconds: float | None = None
    note: str = ""


@dataclass(frozen=True)
class ProposerYield:
    """How many of one proposer's candidates are left after each step.

    Attributes:
        proposer: a generator's name, or that of the prototypes.
        n_drawn: candidates of it; prototypes: offered.
        n_valid: after the steps of validity and composition.
        n_new: of these, in no database.
        n_unique: of these, like no candidate before.
        n_relaxed: of these, relaxed.
        n_ranked: of these, still new and unique.
        n_near_hull: of these, at most NEAR_HULL_EV_PER_ATOM above the hull.
        n_on_hull: on or below it.
    """

    proposer: str
    n_drawn: int
    n_valid: int
    n_new: int
    n_unique: int
    n_relaxed: int
    n_ranked: int
    n_near_hull: int
    n_on_hull: int


@dataclass(frozen=True)
class Rejection:
    """One class of reasons for which a stage turned crystals away, and how many."""

    stage: str
    reason: str
    count: int


@dataclass(frozen=True)
class JudgedPhase:
    """A competing phase by the judge's own energies, eV/atom; as HullPhase."""

    formation_energy_ev_per_atom: float | None
    e_above_hull_ev_per_atom: float


@dataclass(frozen=True, kw_only=True)
class HullPhase:
    """A competing phase on or above the convex hull.

    Attributes:
        id: its id in the data source.
        formula: reduced formula.
        fractions: element symbol to atomic fraction, adding to 1.
        formation_energy_ev_per_atom: from the elements, eV/atom.
        e_above_hull_ev_per_atom: distance to the hull of all competing phases, eV/atom, >= 0.
        stable: whether it is a vertex of that hull.
        origin: where it comes from (generative.datasets.origins).
        same_as: of a prototype, id of the known crystal that it is; None of the others.
        judged: what the judge says of it; None where it was not judged.
    """

    id: str
    formula: str
    fractions: Mapping[str, float]
    formation_energy_ev_per_atom: float
    e_above_hull_ev_per_atom: float
    stable: bool
    origin: str = Origin.UNSTATED.value
    same_as: str | None = None
    judged: JudgedPhase | None = None


@dataclass(frozen=True, kw_only=True)
class HullData:
    """The convex hull the candidates were held against.

    Attributes:
        elements: the chemical system, in the order of the axes.
        phases: competing phases; candidates are not among them.
        level_of_theory: where the energies come from, such as 'CHGNet 0.3.0'; empty means the run's potential.
    """

    elements: tuple[str, ...]
    phases: tuple[HullPhase, ...]
    level_of_theory: str = ""


@dataclass(frozen=True, kw_only=True)
class SecondOpinion:
    """What the judge says of a candidate.

    Attributes:
        method: the judge.
        first_rank: rank before it, by the potential that relaxed all.
        e_above_hull_ev_per_atom: on the hull of its own energies; None where it has none.
        formation_energy_ev_per_atom: from the elements, by its own energies; None where it has none.
        decomposition: competing phases it would decompose into by the judge; may be empty.
        change_ev_per_atom: energy above hull, judge less first opinion; None without both.
        agree: whether they differ by no more than their errors as measured; None where these are not known.
        probability: that DFT puts it within NEAR_HULL_EV_PER_ATOM of the hull; None where that was not measured.
        source: what the probability was measured on; may be empty.
        spread_ev_per_atom: standard deviation over judge and committee; None without a committee.
        hull_note: what the judge's hull lacks; may be empty.
        note: why it has no judgement, or what weakens it; may be empty.
    """

    method: str
    first_rank: int
    e_above_hull_ev_per_atom: float | None
    formation_energy_ev_per_atom: float | None = None
    decomposition: str = ""
    change_ev_per_atom: float | None = None
    agree: bool | None = None
    probability: float | None = None
    source: str = ""
    spread_ev_per_atom: float | None = None
    hull_note: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ReportCandidate:
    """One ranked candidate as the report shows it.

    Attributes:
        rank: 1 is the best.
        id: the candidate's id, the same everywhere.
        formula: reduced formula.
        structure: relaxed crystal.
        spacegroup_number: found by spglib at the run's tolerance; None if it found none.
        spacegroup_symbol: its short Hermann-Mauguin symbol, or empty.
        e_above_hull_ev_per_atom: distance to the hull of the competing phases; negative lies below it.
        formation_energy_ev_per_atom: from the elements, with the run's potential.
        decomposition: competing phases it would decompose into; empty if unknown.
        delta_e_ev_per_atom: relaxed minus generated energy, with the run's potential; None if not known.
        delta_v_ang3_per_atom: relaxed minus generated volume; None if not known.
        rms: root-mean-square displacement between generated and relaxed crystal as StructureMatcher normalises it
            (in units of the cube root of the volume per atom, no unit); None when the two do not match.
        relax_status: how the relaxation ended, such as 'converged'.
        relax_steps: optimiser steps.
        known_match: id of the database's crystal it matches; None if new.
        proposed_by: 'generator', of several 'generator:NAME', or 'prototype' for a decorated prototype that lies on
            the hull.
        prototype_match: id of the decorated prototype it is like; None if it is like none.
        smact_valid: charge neutrality by SMACT; None if not asked.
        cif_path: path of its CIF, relative to the run folder.
        inputs_path: path of its VASP inputs, relative to the run folder; None if none were written.
        page_path: path of its own page, relative to the run folder; empty if it has none.
        hull_note: why a hull value is missing or degraded; may be empty.
        lowest_phonon_thz: lowest phonon frequency, negative for an imaginary one; None where none were computed.
        dynamically_stable: whether no phonon is imaginary; None where none were computed.
        phonon_note: why there are no phonons, or what weakens them; may be empty.
        kept: what its relaxation in its space group found; None where it relaxed freely.
        opinion: what the judge says; None where it was not judged.
    """

    rank: int
    id: str
    formula: str
    structure: Structure
    spacegroup_number: int | None = None
    spacegroup_symbol: str = ""
    e_above_hull_ev_per_atom: float | None = None
    formation_energy_ev_per_atom: float | None = None
    decomposition: str = ""
    delta_e_ev_per_atom: float | None = None
    delta_v_ang3_per_atom: float | None = None
    rms: float | None = None
    relax_status: str = ""
    relax_steps: int = 0
    known_match: str | None = None
    proposed_by: str = "generator"
    prototype_match: str | None = None
    smact_valid: bool | None = None
    cif_path: str = ""
    inputs_path: str | None = None
    page_path: str = ""
    hull_note: str = ""
    lowest_phonon_thz: float | None = None
    dynamically_stable: bool | None = None
    phonon_note: str = ""
    kept: KeptSymmetry | None = None
    opinion: SecondOpinion | None = None

    @property
    def fractions(self) -> dict[str, float]:
        """Element symbol to atomic fraction."""
        composition = self.structure.composition.get_el_amt_dict()
        total = sum(composition.values())
        return {symbol: amount / total for symbol, amount in composition.items()}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Counts over the ranked candidates of a run.

    Attributes:
        n_candidates: ranked candidates.
        n_prototypes: of them, stable prototypes that were offered beside the generated ones.
        n_new: of them, those that match no crystal of a database.
        n_on_hull: on or below the hull of the competing phases.
        n_near_hull: at most NEAR_HULL_EV_PER_ATOM above it (those on it included).
        n_with_hull: those with an energy above hull at all.
        n_converged: relaxations that converged.
        n_kept: those that relaxed in their space groups.
        n_saddle_points: of these, saddle points of their groups.
    """

    n_candidates: int
    n_prototypes: int
    n_new: int
    n_on_hull: int
    n_near_hull: int
    n_with_hull: int
    n_converged: int
    n_kept: int = 0
    n_saddle_points: int = 0


@dataclass(frozen=True)
class AskedFigure:
    """How often one thing that was asked for is there, over the candidates that were relaxed.

    Attributes:
        what: such as 'space group'.
        n: relaxed candidates of which it was asked.
        n_generated: of these, crystals that had it as they were generated.
        n_relaxed: that had it after relaxation.
    """

    what: str
    n: int
    n_generated: int
    n_relaxed: int


@dataclass(frozen=True)
class FormulaBest:
    """The best-ranked candidate of a formula.

    Attributes:
        formula: reduced.
        n_ranked: ranked candidates of it.
        rank: of the best.
        spacegroup_symbol: of the best, relaxed.
        e_above_hull_ev_per_atom: of the best; None where there is no hull.
    """

    formula: str
    n_ranked: int
    rank: int
    spacegroup_symbol: str
    e_above_hull_ev_per_atom: float | None


@dataclass(frozen=True)
class PhononFigure:
    """Phonons of a ranked candidate.

    Attributes:
        rank: of the candidate.
        formula: reduced.
        spacegroup_symbol: of the relaxed crystal.
        lowest_thz: lowest frequency, negative for an imaginary one; None where there are no phonons.
        n_imaginary: imaginary modes at the q-points looked at.
        q_point: of the lowest imaginary mode; empty without one.
        supercell: such as '4 x 4 x 2'.
        notes: why there are none, or what the reader must know; may be empty.
        method: the potential.
    """

    rank: int
    formula: str
    spacegroup_symbol: str
    lowest_thz: float | None
    n_imaginary: int | None
    q_point: str
    supercell: str
    notes: str
    method: str = ""


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """Everything a report needs.

    Attributes:
        run_name: name of the run.
        elements: the chemical system.
        potential_method: the potential all energies come from, such as 'CHGNet 0.3.0'.
        judges: methods of the judge and its committee; empty without one.
        notes: sentences the reader must see first (a fallback potential, a thin hull).
        settings: the run's settings as JSON.
        provenance: dataset fingerprint, checkpoint digest, versions, seed, hardware; nested dicts allowed.
        yields: one entry per stage, in order.
        proposers: the same by proposer, where several generators drew; else empty.
        rejected: why crystals were turned away.
        candidates: ranked; the report sorts them by rank again. Of many, the best.
        counts: over all ranked candidates; None if `candidates` are all.
        listing_path: path of the CSV file that lists all, relative to the run folder; empty if `candidates` are all.
        asked: how often what was asked for is there.
        best_of_formulas: the best candidate of every formula.
        phonons: of the best candidates, by rank; empty where none were asked for.
        hull: the competing phases.
        tolerances: the matching and symmetry tolerances every verdict rests on.
        run_folder: path of the run folder, shown as text; may be empty.
    """

    run_name: str
    elements: tuple[str, ...]
    potential_method: str
    judges: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    yields: tuple[StageYield, ...] = ()
    proposers: tuple[ProposerYield, ...] = ()
    rejected: tuple[Rejection, ...] = ()
    candidates: tuple[ReportCandidate, ...] = ()
    counts: Counts | None = None
    listing_path: str = ""
    asked: tuple[AskedFigure, ...] = ()
    best_of_formulas: tuple[FormulaBest, ...] = ()
    phonons: tuple[PhononFigure, ...] = ()
    hull: HullData
    tolerances: Mapping[str, Any] = field(default_factory=dict)
    run_folder: str = ""

    @property
    def ranked(self) -> list[ReportCandidate]:
        """Candidates by rank, ties by id."""
        return sorted(self.candidates, key=lambda c: (c.rank, c.id))

    @property
    def n_ranked(self) -> int:
        """Ranked candidates, those that are not listed included."""
        return len(self.candidates) if self.counts is None else self.counts.n_candidates

    @property
    def n_left_out(self) -> int:
        """Ranked candidates beyond those that are listed."""
        return self.n_ranked - len(self.candidates)

    @property
    def system(self) -> str:
        """The chemical system with hyphens, in the order given."""
        return "-".join(self.elements)
