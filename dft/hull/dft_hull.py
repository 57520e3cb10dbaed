"""The hull at the level of DFT: which phases to compute, those computed already, and the hull of their energies.

Competing phases are jobs as candidates' are, in folders named by engine settings, crystal and purpose
(dft/job_folder.py). So a phase is computed once with given settings: the folder that holds its record is the cache,
shared by every chemical system that the phase belongs to.

Energies of a hull come from one engine with one set of settings and data; anything else is refused with what differs.
The other kind of hull, with the Materials Project's entries in its scheme, is dft/hull/corrected_hull.py's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pymatgen.core.structure import Structure

from dft.engines.config import EngineConfig
from dft.hull.convex_hull import CompetingHull, Phase
from dft.job_folder import Purpose, make_job_folder, read_record
from dft.records import DFTRecord, check_comparable
from dft.results import HullPosition


class ReferencesError(ValueError):
    """A chemical system whose competing phases do not suffice for a hull."""


HEIGHT_DIGITS = 9
"""Heights above a hull are compared to so many digits, eV/atom: beyond them they are noise of the arithmetic."""


@dataclass(frozen=True)
class ReferencePhase:
    """A competing phase that may be computed.

    Attributes:
        id: of the phase, unique in a table.
        structure: its crystal.
        e_above_hull_ev_per_atom: how far above the hull it is thought to lie, by its database or a potential, eV/atom:
            decides what is computed first; None if not known.
    """

    id: str
    structure: Structure
    e_above_hull_ev_per_atom: float | None = None

    @property
    def elements(self) -> tuple[str, ...]:
        """Element symbols, sorted."""
        return tuple(sorted(element.symbol for element in self.structure.composition.element_composition))

    @property
    def formula(self) -> str:
        """Reduced formula."""
        return str(self.structure.composition.reduced_formula)


@dataclass(frozen=True)
class References:
    """The competing phases of a chemical system, as far as they are computed.

    Attributes:
        folders: job folder of every phase, by id, in the order in which they are to be computed.
        records: those that are there, by id.
    """

    folders: dict[str, Path]
    records: dict[str, DFTRecord]

    @property
    def missing(self) -> dict[str, Path]:
        """Folders of the jobs that are still to be run."""
        return {name: folder for name, folder in self.folders.items() if name not in self.records}


def choose_references(
    table: Sequence[ReferencePhase],
    elements: Sequence[str],
    *,
    most: int,
    within_ev_per_atom: float | None = None,
    wanted_formulas: Collection[str] = (),
) -> tuple[ReferencePhase, ...]:
    """The competing phases of a chemical system that are worth computing, most important first.

    First the lowest phase of each element, without which nothing has a formation energy; then the rest by rising energy
    above the hull, those of unknown energy last. Of phases equally high, as all on the hull are, those of wanted
    formulas come first: what the candidates would decompose into.

    Args:
        table: phases of any systems; those with other elements are left out.
        elements: symbols of the chemical system.
        most: so many at most, but never fewer than one for each element.
        within_ev_per_atom: leave out compounds thought to lie higher; None takes all.
        wanted_formulas: reduced formulas.

    Raises:
        ReferencesError: if an element has no elemental phase in the table, or two phases share an id.
    """
    system = set(elements)

    def order(phase: ReferencePhase) -> tuple[float, bool, str]:
        height = _height(phase)
        return round(height, HEIGHT_DIGITS), phase.formula not in wanted_formulas, phase.id

    inside = sorted((phase for phase in table if set(phase.elements) <= system), key=order)
    ids = [phase.id for phase in inside]
    if repeated := sorted({name for name in ids if ids.count(name) > 1}):
        raise ReferencesError(f"two competing phases share the id {repeated[0]!r}: expected one id for each phase")
    lowest: dict[str, ReferencePhase] = {}
    for phase in inside:
        if len(phase.elements) == 1:
            lowest.setdefault(phase.elements[0], phase)
    if lacking := sorted(system - set(lowest)):
        raise ReferencesError(
            f"no elemental phase of {', '.join(lacking)} among {len(inside)} competing phases of "
            f"{'-'.join(sorted(system))}: add one to the table, since a formation energy is counted from the elements"
        )
    firsts = [lowest[element] for element in sorted(system)]
    first_ids = {phase.id for phase in firsts}
    rest = [
        phase
        for phase in inside
        if phase.id not in first_ids and (within_ev_per_atom is None or _height(phase) <= within_ev_per_atom)
    ]
    return tuple([*firsts, *rest][: max(most, len(firsts))])


def _height(phase: ReferencePhase) -> float:
    height = phase.e_above_hull_ev_per_atom
    return float("inf") if height is None else height


def left_out_note(table: Sequence[ReferencePhase], chosen: Sequence[ReferencePhase], most: int) -> str:
    """A sentence on phases of the hull that are not computed, so that the hull of DFT may lie too high; or empty.

    Args:
        table: phases of the chemical system.
        chosen: of them, those that are computed.
        most: the limit that left the others out.
    """
    taken = {phase.id for phase in chosen}
    on_hull = [phase for phase in table if round(_height(phase), HEIGHT_DIGITS) <= 0 and phase.id not in taken]
    if not on_hull:
        return ""
    named = ", ".join(sorted({phase.formula for phase in on_hull})[:5]) + (", ..." if len(on_hull) > 5 else "")
    return (
        f"{len(on_hull)} phases on the potential's hull are not computed (dft.references_max {most}): {named}; without "
        "them the hull of DFT may lie too high and candidates look too stable"
    )


def references(phases: Sequence[ReferencePhase], engine: EngineConfig, root: Path) -> References:
    """The jobs of competing phases: folders made where there are none, results taken where there are.

    Args:
        phases: to be computed, such as from choose_references.
        engine: settings, the candidates' own.
        root: holds the job folders; share it between campaigns, and no phase is computed twice.

    Raises:
        StructureError: if a phase is disordered or not finite.
        RecordError: if a result is there and cannot be read.
    """
    folders = {
        phase.id: make_job_folder(
            root,
            phase.structure,
            engine,
            candidate_id=phase.id,
            purpose=Purpose.REFERENCE,
            lineage={"reference": phase.id},
        )
        for phase in phases
    }
    records = {name: record for name, folder in folders.items() if (record := read_record(folder)) is not None}
    return References(folders, records)


def record_phases(records: Mapping[str, DFTRecord]) -> list[Phase]:
    """Records as phases of a hull: enthalpies, and no energy where the calculation did not converge.

    Args:
        records: relaxed competing phases, candidates, or both, by id; of one engine, one set of settings and data.

    Raises:
        MixedSettingsError: with what differs, if they are not.
    """
    check_comparable(records.values())
    return [
        Phase(
            name,
            record.structure.composition,
            record.enthalpy_ev_per_atom if record.is_converged else None,
            record.method,
        )
        for name, record in sorted(records.items())
    ]


def place_among_others(own: Phase, phases: Sequence[Phase]) -> HullPosition:
    """A phase's place on the hull of all others, which it may break. The only one of an element spans the hull itself.

    Args:
        own: one of the phases.
        phases: all of them, with one method.
    """
    elements = sorted({symbol for phase in phases for symbol in phase.elements})
    others = [phase for phase in phases if phase.id != own.id]
    position = CompetingHull(others, elements).place(own.composition, own.energy_ev_per_atom, own.method)
    if len(own.elements) == 1 and position.e_above_hull_ev_per_atom is None:
        position = CompetingHull(phases, elements).place(own.composition, own.energy_ev_per_atom, own.method)
    return position
