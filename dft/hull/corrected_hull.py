"""The hull of own VASP records and the Materials Project's entries, all in its scheme of 2020, as a table.

Both sides go through dft/hull/corrections.py. What cannot (another functional or U, states that cannot be found) is a
row with its reason, and where nothing else stands for its material, the phases it could have competed with say that it
is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dft.hull.convex_hull import CompetingHull, Phase
from dft.hull.corrections import MP2020, Corrected, correct, entry_of_record
from dft.hull.dft_hull import place_among_others
from dft.hull.kpoint_notes import kpoint_notes
from dft.hull.mp_settings import differences_from_materials_project
from dft.hull.reference_entries import ReferenceEntry
from dft.job_folder import Purpose
from dft.records import DFTRecord, MixedSettingsError
from dft.results import HullPosition

STATED_TOLERANCE_EV_PER_ATOM = 1e-3
"""A database's own correction that differs by more is said to."""


@dataclass(frozen=True)
class HullRow:
    """One phase of the table.

    Attributes:
        id: candidate id of an own record, the database's id of an entry.
        key: of an own record's job; empty for an entry.
        role: 'candidate', 'own reference' or 'database'.
        formula: reduced.
        scheme: of the corrected energies.
        run_type: kind of calculation, as pymatgen names it.
        uncorrected_ev_per_atom: as computed.
        correction_ev_per_atom: of the scheme; None where it cannot be applied.
        corrected_ev_per_atom: the sum; what the hull compares.
        correction_terms: what the correction is made of.
        oxidation_states: mean ones that decided; empty where they play no part or are not known.
        oxidation_states_from: how they were found.
        stated_correction_ev_per_atom: that of the database itself; None for own records, or where it states none.
        formation_energy_ev_per_atom: from the elements of the hull.
        e_above_hull_ev_per_atom: an own record's above the hull of all others, so below zero where it breaks it; an
            entry's above the hull of all.
        decomposition: phases of the hull at this composition.
        kpoint_mesh: of an own record, such as '5x5x5'.
        kpoint_density_ang3: k-points per A^-3 of the reciprocal cell; None where not known.
        left_out: why the phase spans no hull; empty where it does.
        note: what the reader should know.
    """

    id: str
    key: str
    role: str
    formula: str
    scheme: str
    run_type: str
    uncorrected_ev_per_atom: float
    correction_ev_per_atom: float | None
    corrected_ev_per_atom: float | None
    correction_terms: str
    oxidation_states: str
    oxidation_states_from: str
    stated_correction_ev_per_atom: float | None
    formation_energy_ev_per_atom: float | None
    e_above_hull_ev_per_atom: float | None
    decomposition: str
    kpoint_mesh: str
    kpoint_density_ang3: float | None
    left_out: str
    note: str


@dataclass(frozen=True)
class CorrectedHull:
    """A hull in the Materials Project's scheme.

    Attributes:
        rows: own records first, best first, then entries by height, then what was left out.
        hull: of all phases that have a corrected energy.
        notes: on the hull as a whole.
    """

    rows: tuple[HullRow, ...]
    hull: CompetingHull
    notes: tuple[str, ...] = ()


def corrected_record(record: DFTRecord) -> Corrected:
    """A record's energy in the Materials Project's scheme; a refusal where it did not converge.

    Raises: MixedSettingsError: with what differs, if it was not computed with the Materials Project's settings.
    """
    uncorrected = record.energy_ev_per_atom
    if not record.is_converged:
        return Corrected(uncorrected, None, refusal="its relaxation did not converge")
    apart, notes = differences_from_materials_project(record)
    if apart:
        raise MixedSettingsError(
            f"record {record.key} is of engine {record.engine}, preset {record.settings.get('preset')}, "
            f"{record.pressure_gpa} GPa (settings {record.settings_digest[:12]}) and differs from the Materials "
            f"Project's settings, ours / theirs: {'; '.join(apart)}; expected VASP with preset mp-relax at no "
            "pressure, since corrections and entries hold for no other energies"
        )
    found = correct(entry_of_record(record))
    return Corrected(**{**vars(found), "notes": (*found.notes, *notes)})


def corrected_ev_per_atom(record: DFTRecord) -> float | None:
    """A record's energy with the Materials Project's corrections of 2020, eV/atom; None if it did not converge.

    Raises: MixedSettingsError: if the settings are not the Materials Project's, or the scheme cannot be applied.
    """
    found = corrected_record(record)
    if record.is_converged and found.refusal:
        raise MixedSettingsError(
            f"record {record.key} ({record.structure.composition.reduced_formula}) cannot be corrected: {found.refusal}"
        )
    return found.energy_ev_per_atom


@dataclass(frozen=True)
class _Member:
    """A phase on its way into the table."""

    phase: Phase
    corrected: Corrected
    record: DFTRecord | None = None
    reference: ReferenceEntry | None = None


def hull_with_materials_project(
    records: Mapping[str, DFTRecord], references: Sequence[ReferenceEntry], elements: Sequence[str] | None = None
) -> CorrectedHull:
    """The hull of relaxed own records and entries of the Materials Project, corrected by its scheme of 2020.

    Args:
        records: by key; relaxations, computed with the Materials Project's settings.
        references: entries; those with other elements are left aside.
        elements: symbols of the chemical system; those of the records by default.

    Raises:
        MixedSettingsError: if no record was computed with the Materials Project's settings, with what differs; or two
            were with other pseudopotentials of one name.
    """
    records = {key: one for key, one in sorted(records.items()) if one.purpose != Purpose.STATIC}
    held = {e.symbol for one in records.values() for e in one.structure.composition.element_composition}
    system = sorted(held if elements is None else set(elements))
    own = [_own(key, record) for key, record in records.items()]
    if own and all(member.corrected.refusal.startswith(_OTHER_SETTINGS) for member in own):
        corrected_record(next(iter(records.values())))  # raises, and says what differs
    entries = [_of_database(one) for one in references if set(_symbols(one)) <= set(system)]
    taken = {member.reference.material for member in entries if member.reference and not member.corrected.refusal}
    phases = [
        member.phase
        for member in (*own, *entries)
        if not member.corrected.refusal or member.reference is None or member.reference.material not in taken
    ]
    hull = CompetingHull(phases, system)
    used = {member.phase.id: member.record for member in own if member.record and not member.corrected.refusal}
    _refuse_other_data(used.values())
    said = kpoint_notes(used)
    apart = _corrected_otherwise([*own, *entries])
    rows = [
        _row(member, _place(member, phases, hull), [one.get(member.phase.id, "") for one in (apart, said.of_record)])
        for member in (*own, *entries)
    ]
    return CorrectedHull(tuple(sorted(rows, key=_order)), hull, said.of_hull)


_OTHER_SETTINGS = "other settings than the Materials Project's, ours / theirs: "


def _own(key: str, record: DFTRecord) -> _Member:
    try:
        corrected = corrected_record(record)
    except MixedSettingsError:
        apart, _ = differences_from_materials_project(record)
        corrected = Corrected(record.energy_ev_per_atom, None, refusal=_OTHER_SETTINGS + "; ".join(apart))
    return _Member(Phase(key, record.structure.composition, corrected.energy_ev_per_atom, MP2020), corrected, record)


def _refuse_other_data(records: Iterable[DFTRecord]) -> None:
    """Titles tell no edition of a pseudopotential from another; digests of its data do, among own records."""
    first: dict[str, DFTRecord] = {}
    for record in records:
        for symbol, digest in record.data.items():
            there = first.setdefault(symbol, record)
            if there.data[symbol] != digest:
                raise MixedSettingsError(
                    f"records {there.key} and {record.key} were computed with other data of {symbol} "
                    f"({there.data[symbol][:12]} / {digest[:12]}): their energies share no hull; compute both with one "
                    "pseudopotential library"
                )


def _of_database(one: ReferenceEntry) -> _Member:
    corrected = correct(one.entry)
    phase = Phase(f"database:{one.id}", one.entry.composition, corrected.energy_ev_per_atom, MP2020)
    return _Member(phase, corrected, reference=one)


def _symbols(one: ReferenceEntry) -> list[str]:
    return [element.symbol for element in one.entry.composition.element_composition]


def _place(member: _Member, phases: Sequence[Phase], hull: CompetingHull) -> HullPosition:
    if member.corrected.refusal:
        return HullPosition(None, None, "", "")
    if member.record is not None:
        return place_among_others(member.phase, phases)
    return hull.place(member.phase.composition, member.phase.energy_ev_per_atom, MP2020)


def _corrected_otherwise(members: Sequence[_Member]) -> dict[str, str]:
    """Phases of one formula whose corrections differ per atom, their anions judged otherwise; a note each."""
    of_formula: dict[str, list[_Member]] = {}
    for member in members:
        if not member.corrected.refusal:
            of_formula.setdefault(member.phase.formula, []).append(member)
    notes = {}
    for alike in of_formula.values():
        for member in alike:
            ours = member.corrected.correction_ev_per_atom or 0.0
            theirs = {_name(other): (other.corrected.correction_ev_per_atom or 0.0) - ours for other in alike}
            name, largest = max(theirs.items(), key=lambda pair: (abs(pair[1]), pair[0]))
            if abs(largest) > STATED_TOLERANCE_EV_PER_ATOM:
                notes[member.phase.id] = f"{name}, of the same formula, is corrected by {ours + largest:+.3f} eV/atom"
    return notes


def _name(member: _Member) -> str:
    return member.record.candidate_id if member.record else member.reference.id if member.reference else ""


def _row(member: _Member, position: HullPosition, further: Sequence[str]) -> HullRow:
    corrected, record, reference = member.corrected, member.record, member.reference
    kpoints = None if record is None else record.kpoints
    role = "database" if record is None else "own reference" if record.purpose == Purpose.REFERENCE else "candidate"
    run_type = reference.run_type if reference else str(record and record.resolved.get("run_type") or "")
    notes = [*corrected.notes, position.note, _off_the_stated(corrected, reference), *further]
    return HullRow(
        id=_name(member),
        key="" if record is None else record.key,
        role=role,
        formula=member.phase.formula,
        scheme=MP2020,
        run_type=run_type,
        uncorrected_ev_per_atom=corrected.uncorrected_ev_per_atom,
        correction_ev_per_atom=corrected.correction_ev_per_atom,
        corrected_ev_per_atom=corrected.energy_ev_per_atom,
        correction_terms="; ".join(corrected.terms),
        oxidation_states=corrected.states.text,
        oxidation_states_from=corrected.states.source.value if corrected.states.states else "",
        stated_correction_ev_per_atom=reference.stated_correction_ev_per_atom if reference else None,
        formation_energy_ev_per_atom=position.formation_energy_ev_per_atom,
        e_above_hull_ev_per_atom=position.e_above_hull_ev_per_atom,
        decomposition=position.decomposition,
        kpoint_mesh="" if kpoints is None or kpoints.mesh is None else "x".join(map(str, kpoints.mesh)),
        kpoint_density_ang3=None if kpoints is None else kpoints.density_ang3,
        left_out=corrected.refusal,
        note="; ".join(note for note in notes if note),
    )


def _off_the_stated(corrected: Corrected, reference: ReferenceEntry | None) -> str:
    ours = corrected.correction_ev_per_atom
    stated = None if reference is None else reference.stated_correction_ev_per_atom
    if ours is None or stated is None or abs(ours - stated) <= STATED_TOLERANCE_EV_PER_ATOM:
        return ""
    return f"the database corrects by {stated:+.3f} eV/atom, the scheme with our states by {ours:+.3f}"


def _order(row: HullRow) -> tuple[bool, bool, float, str, str]:
    height = row.e_above_hull_ev_per_atom
    return (row.role == "database", bool(row.left_out), float("inf") if height is None else height, row.formula, row.id)
