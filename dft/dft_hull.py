"""The hull at the level of DFT: which phases to compute, those computed already, and the hull of their energies.

Competing phases are jobs as candidates' are, in folders named by engine settings, crystal and purpose
(dft/job_folder.py). So a phase is computed once with given settings: the folder that holds its record is the cache,
shared by every chemical system that the phase belongs to.

Energies of a hull come from one engine with one set of settings and data, or from the Materials Project's scheme: its
own uncorrected entries and records of the preset mp-relax, all corrected together by MaterialsProject2020Compatibility
(Wang et al., Sci. Rep. 11, 15496 (2021)). Anything else is refused with what differs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymatgen.core.structure import Structure
from pymatgen.entries.compatibility import CompatibilityError, MaterialsProject2020Compatibility
from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry

from dft.config import Preset
from dft.engines.config import EngineConfig
from dft.hull import CompetingHull, Phase
from dft.job_folder import Purpose, make_job_folder, read_record
from dft.records import DFTRecord, MixedSettingsError, check_comparable

MP2020 = "PBE / PBE+U with Materials Project 2020 corrections"
"""Method label of a hull in the Materials Project's scheme."""


class ReferencesError(ValueError):
    """A chemical system whose competing phases do not suffice for a hull."""


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
) -> tuple[ReferencePhase, ...]:
    """The competing phases of a chemical system that are worth computing, most important first.

    First the lowest phase of each element, without which nothing has a formation energy; then the rest by rising energy
    above the hull, those of unknown energy last.

    Args:
        table: phases of any systems; those with other elements are left out.
        elements: symbols of the chemical system.
        most: so many at most, but never fewer than one for each element.
        within_ev_per_atom: leave out compounds thought to lie higher; None takes all.

    Raises:
        ReferencesError: if an element has no elemental phase in the table, or two phases share an id.
    """
    system = set(elements)
    inside = sorted((phase for phase in table if set(phase.elements) <= system), key=_height)
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
        if phase.id not in first_ids and (within_ev_per_atom is None or _height(phase)[0] <= within_ev_per_atom)
    ]
    return tuple([*firsts, *rest][: max(most, len(firsts))])


def _height(phase: ReferencePhase) -> tuple[float, str]:
    height = phase.e_above_hull_ev_per_atom
    return (float("inf") if height is None else height, phase.id)


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


def hull_of_records(records: Mapping[str, DFTRecord], elements: Sequence[str]) -> CompetingHull:
    """The hull of DFT records; its `place` expects enthalpies per atom of records with the same settings.

    Raises: MixedSettingsError: if the records were not computed alike.
    """
    return CompetingHull(record_phases(records), elements)


def hull_with_materials_project(
    records: Mapping[str, DFTRecord], entries: Sequence[ComputedEntry], elements: Sequence[str]
) -> CompetingHull:
    """The hull of Materials Project entries and own records, all corrected by its scheme of 2020.

    Args:
        records: by id, of the VASP preset mp-relax, converged.
        entries: of the Materials Project, GGA or GGA+U, with the parameters it delivers (run_type, hubbards,
            potcar_spec); corrections they carry are replaced.
        elements: symbols of the chemical system; entries with others are left out.

    Returns: A hull of corrected energies; of a record it takes `corrected_ev_per_atom`.

    Raises:
        MixedSettingsError: if a record is not of mp-relax, or the scheme does not take an entry.
    """
    system = set(elements)
    phases = [
        Phase(name, record.structure.composition, corrected_ev_per_atom(record), MP2020)
        for name, record in sorted(records.items())
    ]
    for entry in entries:
        if {element.symbol for element in entry.composition.element_composition} <= system:
            phases.append(Phase(str(entry.entry_id), entry.composition, _corrected(entry, str(entry.entry_id)), MP2020))
    return CompetingHull(phases, elements)


def corrected_ev_per_atom(record: DFTRecord) -> float | None:
    """A record's energy with the Materials Project's corrections of 2020, eV/atom; None if it did not converge.

    Raises: MixedSettingsError: if the settings are not the Materials Project's.
    """
    preset = record.settings.get("preset")
    if record.engine != "vasp" or preset != Preset.MP_RELAX.value or record.pressure_gpa:
        raise MixedSettingsError(
            f"record {record.key} is of engine {record.engine}, preset {preset}, {record.pressure_gpa} GPa (settings "
            f"{record.settings_digest[:12]}): expected VASP with preset {Preset.MP_RELAX.value} at no pressure, the "
            "only energies that the Materials Project's corrections hold for; compute the competing phases with the "
            "same settings instead"
        )
    if not record.is_converged:
        return None
    hubbards = record.resolved.get("hubbards_ev") or {}
    parameters: dict[str, Any] = {
        "run_type": "GGA+U" if hubbards else "GGA",
        "is_hubbard": bool(hubbards),
        "hubbards": hubbards,
        "potcar_spec": [{"titel": title, "hash": None} for title in record.resolved.get("potcars", ())],
    }
    plain = Structure(record.structure.lattice, record.structure.species, record.structure.frac_coords)
    entry = ComputedStructureEntry(plain, record.energy_ev, parameters=parameters, entry_id=record.key)
    return _corrected(entry, record.key)


def _corrected(entry: ComputedEntry, name: str) -> float:
    scheme = MaterialsProject2020Compatibility(check_potcar_hash=False)
    fresh = copy.deepcopy(entry)
    fresh.energy_adjustments = []
    try:
        adjustments = scheme.get_adjustments(fresh)
    except CompatibilityError as error:
        raise MixedSettingsError(
            f"the Materials Project's scheme of 2020 does not take {name} ({entry.composition.reduced_formula}): "
            f"{error}; leave it out, or compute it with preset mp-relax"
        ) from error
    fresh.energy_adjustments = adjustments
    return float(fresh.energy_per_atom)
