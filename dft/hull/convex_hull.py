"""Convex hull of competing phases: energy above hull, formation energy, decomposition, and the hull's own vertices.

All energies of one hull carry one method label: energies of different potentials, functionals or correction schemes
never share a hull. Compositions are counted in fractions of atoms, energies in eV/atom. The hull itself, its facets
and every energy above it are pymatgen's (PhaseDiagram); here is what a campaign needs around it: missing data that
costs one candidate and not the run, and a diagram kept per chemical subsystem.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core.composition import Composition

from dft.results import GPA_PER_EV_ANG3 as GPA_PER_EV_ANG3
from dft.results import HullPosition


def enthalpy_ev_per_atom(energy_ev_per_atom: float, volume_ang3_per_atom: float, pressure_gpa: float) -> float:
    """H = E + P V per atom, eV: what a hull at a pressure compares; the energy itself at none."""
    return energy_ev_per_atom + pressure_gpa / GPA_PER_EV_ANG3 * volume_ang3_per_atom


@dataclass(frozen=True)
class Phase:
    """One competing phase.

    Attributes:
        id: unique among the phases of a hull.
        composition: any multiple of the formula unit; oxidation states are ignored.
        energy_ev_per_atom: total or formation energy, the same kind for all phases; None (or NaN) if it is not known.
        method: level of theory, such as 'M3GNet-MP-2021.2.8-PES' or 'PBE, Materials Project'.
        reason: why it has no energy, one sentence; empty if it has one, or if that is not known.
    """

    id: str
    composition: Composition
    energy_ev_per_atom: float | None
    method: str
    reason: str = ""

    @property
    def elements(self) -> tuple[str, ...]:
        """Element symbols, sorted."""
        return _elements_of(self.composition)

    @property
    def formula(self) -> str:
        """Reduced formula, such as 'TaB2'."""
        return str(self.composition.element_composition.reduced_formula)


@dataclass(frozen=True)
class HullGeometry:
    """A hull as plain arrays, ready to plot. P phases, d elements, S simplices.

    Attributes:
        elements: the d axes, in the order of the columns of `fractions`.
        ids: id of each phase.
        formulas: reduced formula of each phase.
        fractions: composition in fractions of atoms, (P, d), rows sum to one.
        formation_energy_ev_per_atom: (P,).
        e_above_hull_ev_per_atom: (P,), zero on the hull.
        is_stable: (P,), whether the phase is a vertex of the hull.
        simplices: rows of indices into the phases, (S, d): line segments of a binary hull, triangles of a ternary one.
    """

    elements: tuple[str, ...]
    ids: tuple[str, ...]
    formulas: tuple[str, ...]
    fractions: np.ndarray
    formation_energy_ev_per_atom: np.ndarray
    e_above_hull_ev_per_atom: np.ndarray
    is_stable: np.ndarray
    simplices: np.ndarray


class CompetingHull:
    """The competing phases of a chemical system and the hull they span.

    An element without an elemental phase, or a phase without an energy, degrades only the candidates that contain it.
    """

    def __init__(self, phases: Sequence[Phase], elements: Sequence[str]) -> None:
        """Sort the phases out; diagrams are built when first needed.

        Args:
            phases: competing phases, in any order; those with elements outside `elements` are left out.
            elements: symbols of the chemical system.

        Raises:
            ValueError: if the phases carry more than one method label, or two share an id.
        """
        self.elements: tuple[str, ...] = tuple(sorted(set(elements)))
        inside = sorted(
            (phase for phase in phases if set(phase.elements) <= set(self.elements)), key=lambda p: (p.formula, p.id)
        )
        self.method: str | None = _one_method(inside)
        _refuse_repeated_ids(inside)
        self.phases: tuple[Phase, ...] = tuple(phase for phase in inside if _is_known(phase.energy_ev_per_atom))
        self.phases_without_energy: tuple[Phase, ...] = tuple(
            phase for phase in inside if not _is_known(phase.energy_ev_per_atom)
        )
        elemental = {phase.elements[0] for phase in self.phases if len(phase.elements) == 1}
        self.missing_elements: tuple[str, ...] = tuple(e for e in self.elements if e not in elemental)
        self._diagrams: dict[tuple[str, ...], PhaseDiagram] = {}
        self._gap_notes: dict[tuple[str, ...], str] = {}
        self._phase_of_id: dict[str, Phase] = {phase.id: phase for phase in inside}

    def without(self, phase_id: str) -> CompetingHull:
        """The hull of all the other phases.

        Raises:
            KeyError: if no phase has this id.
        """
        if phase_id not in self._phase_of_id:
            raise KeyError(f"no phase {phase_id!r} among the {len(self._phase_of_id)} competing phases")
        return CompetingHull([p for name, p in self._phase_of_id.items() if name != phase_id], self.elements)

    def place(self, composition: Composition, energy_ev_per_atom: float | None, method: str) -> HullPosition:
        """A crystal's place relative to the hull of the competing phases, of which it is not one.

        The energy above hull is the energy of the crystal minus that of the hull at its composition, both per atom.
        It is positive above, and negative where the crystal would be a new stable phase that breaks the hull. A crystal
        that is itself among the phases is measured against its own entry: at best zero.

        Args:
            composition: of the crystal, any multiple of the formula unit.
            energy_ev_per_atom: of the crystal, of the same kind as the phases' energies; None if it is not known.
            method: level of theory of that energy; must be the phases'.

        Returns: Its position; values that cannot be had are None, with the reason in `note`.

        Raises:
            ValueError: if `method` is not the phases' method.
        """
        if self.method is not None and method != self.method:
            raise ValueError(
                f"the candidate's energy comes from {method!r} but the competing phases' from {self.method!r}: energies"
                " of different methods share no hull, so evaluate both with the same one"
            )
        elements = _elements_of(composition)
        missing = [element for element in elements if element not in self.elements or element in self.missing_elements]
        if missing:
            why = self._lost_elements(missing)
            note = f"no elemental phase of {', '.join(missing)} among the competing phases{why}"
            return HullPosition(None, None, "", note)
        if energy_ev_per_atom is None or not math.isfinite(energy_ev_per_atom):
            return HullPosition(None, None, "", f"the energy is {energy_ev_per_atom}, not a finite number of eV/atom")
        diagram = self._diagram(elements)
        plain = composition.element_composition
        entry = PDEntry(plain, energy_ev_per_atom * plain.num_atoms)
        parts, above_hull = diagram.get_decomp_and_e_above_hull(entry, allow_negative=True, on_error="ignore")
        if parts is None or above_hull is None:
            note = f"pymatgen finds no facet of the hull that holds {plain.reduced_formula}"
            return HullPosition(float(diagram.get_form_energy_per_atom(entry)), None, "", note)
        return HullPosition(
            formation_energy_ev_per_atom=float(diagram.get_form_energy_per_atom(entry)),
            e_above_hull_ev_per_atom=float(above_hull),
            decomposition=_decomposition_text(parts),
            note=self._gaps(elements),
        )

    def decomposes_into(self, composition: Composition) -> tuple[str, ...]:
        """Ids of the phases that span the hull at a composition, sorted; none where an element has no phase."""
        elements = _elements_of(composition)
        if not set(elements) <= set(self.elements) - set(self.missing_elements):
            return ()
        parts = self._diagram(elements).get_decomposition(composition.element_composition)
        return tuple(sorted(str(entry.attribute) for entry in parts if isinstance(entry, PDEntry)))

    def phases_above_hull(self) -> dict[str, float | None]:
        """Energy of every phase above the hull they span together, eV/atom, by id; None where data is missing.

        Zero for the phases on the hull, so never negative.
        """
        above: dict[str, float | None] = {}
        for phase_id, phase in sorted(self._phase_of_id.items()):
            if not _is_known(phase.energy_ev_per_atom) or set(phase.elements) & set(self.missing_elements):
                above[phase_id] = None
            else:
                above_hull = self._diagram(phase.elements).get_e_above_hull(_entry(phase), on_error="ignore")
                above[phase_id] = None if above_hull is None else float(above_hull)
        return above

    def geometry(self, elements: Sequence[str] | None = None) -> HullGeometry:
        """The hull of a chemical (sub)system as plain arrays: phases, formation energies, facets.

        Args:
            elements: at least two symbols; all of the system that have an elemental phase by default.

        Raises:
            ValueError: if fewer than two elements are left, or one of those asked for has no elemental phase.
        """
        known = tuple(e for e in self.elements if e not in self.missing_elements)
        axes = known if elements is None else tuple(sorted(set(elements)))
        if lacking := [element for element in axes if element not in known]:
            raise ValueError(
                f"no elemental phase of {', '.join(lacking)}: a hull needs one for each element; known are "
                f"{', '.join(known) or 'none'}"
            )
        if len(axes) < 2:
            raise ValueError(f"a hull over {list(axes)} has no extent: expected at least two elements with data")
        diagram = self._diagram(axes)
        phases = [phase for phase in self.phases if set(phase.elements) <= set(axes)]
        row_of_id = {phase.id: row for row, phase in enumerate(phases)}
        stable_ids = _stable_ids(diagram)
        entries = [_entry(phase) for phase in phases]
        simplices = [[row_of_id[diagram.qhull_entries[v].attribute] for v in facet] for facet in diagram.facets]
        return HullGeometry(
            elements=axes,
            ids=tuple(phase.id for phase in phases),
            formulas=tuple(phase.formula for phase in phases),
            fractions=np.array(
                [[entry.composition.get_atomic_fraction(element) for element in axes] for entry in entries], dtype=float
            ),
            formation_energy_ev_per_atom=np.array([diagram.get_form_energy_per_atom(entry) for entry in entries]),
            e_above_hull_ev_per_atom=np.array([diagram.get_e_above_hull(entry) for entry in entries]),
            is_stable=np.array([phase.id in stable_ids for phase in phases]),
            simplices=np.array(sorted(sorted(simplex) for simplex in simplices), dtype=int).reshape(-1, len(axes)),
        )

    def _diagram(self, elements: tuple[str, ...]) -> PhaseDiagram:
        """The diagram of a chemical subsystem, built once; every element must have an elemental phase."""
        if elements not in self._diagrams:
            inside = [_entry(phase) for phase in self.phases if set(phase.elements) <= set(elements)]
            self._diagrams[elements] = PhaseDiagram(inside)
        return self._diagrams[elements]

    def _lost_elements(self, missing: Sequence[str]) -> str:
        """Of elements without a phase on the hull, the first phase that there is, and why it has no energy."""
        for phase in self.phases_without_energy:
            if phase.elements in {(element,) for element in missing}:
                return f": {phase.id} has no energy{f' ({phase.reason})' if phase.reason else ''}"
        return ""

    def _gaps(self, elements: tuple[str, ...]) -> str:
        """One sentence on what the hull of these elements lacks; empty if nothing. Found once for all candidates."""
        if elements not in self._gap_notes:
            self._gap_notes[elements] = self._gap_note(elements)
        return self._gap_notes[elements]

    def _gap_note(self, elements: tuple[str, ...]) -> str:
        lost = [phase for phase in self.phases_without_energy if set(phase.elements) <= set(elements)]
        if lost:
            named = ", ".join(phase.formula for phase in lost[:3]) + (", ..." if len(lost) > 3 else "")
            why = next((f" ({phase.formula}: {phase.reason})" for phase in lost if phase.reason), "")
            return f"{len(lost)} competing phase(s) without an energy left out of the hull: {named}{why}"
        compounds = [p for p in self.phases if len(p.elements) > 1 and set(p.elements) <= set(elements)]
        if len(elements) > 1 and not compounds:
            return f"no compound of {'-'.join(elements)} among the competing phases: the hull is that of the elements"
        return ""


def hull_from_formation_energies(
    compositions: Mapping[str, Composition],
    formation_energies_ev_per_atom: Mapping[str, float | None],
    method: str,
    elements: Sequence[str] | None = None,
) -> CompetingHull:
    """The hull spanned by formation energies, such as a dataset's DFT values, with every element at zero.

    Args:
        compositions: by phase id.
        formation_energies_ev_per_atom: by phase id, eV/atom from the elements; None or NaN if not known.
        method: level of theory of all of them.
        elements: of the chemical system; those of the compositions by default.

    Returns: A hull whose energies are formation energies: its `place` expects one too.

    Raises:
        ValueError: if an id has a composition but no formation energy, or the reverse.
    """
    if unpaired := sorted(set(compositions) ^ set(formation_energies_ev_per_atom)):
        raise ValueError(
            f"{len(unpaired)} id(s) such as {unpaired[0]!r} have only one of composition and formation energy: "
            "expected both for each (None where the energy is unknown)"
        )
    phases = [
        Phase(phase_id, composition, formation_energies_ev_per_atom[phase_id], method)
        for phase_id, composition in sorted(compositions.items())
    ]
    symbols = sorted({e for phase in phases for e in phase.elements}) if elements is None else sorted(set(elements))
    phases += [Phase(f"element:{symbol}", Composition(symbol), 0.0, method) for symbol in symbols]
    return CompetingHull(phases, symbols)


def _elements_of(composition: Composition) -> tuple[str, ...]:
    return tuple(sorted(element.symbol for element in composition.element_composition))


def _entry(phase: Phase) -> PDEntry:
    plain = phase.composition.element_composition
    return PDEntry(plain, float(phase.energy_ev_per_atom or 0.0) * plain.num_atoms, attribute=phase.id)


def _stable_ids(diagram: PhaseDiagram) -> set[object]:
    return {entry.attribute for entry in diagram.stable_entries if isinstance(entry, PDEntry)}


def _is_known(energy_ev_per_atom: float | None) -> bool:
    return energy_ev_per_atom is not None and math.isfinite(energy_ev_per_atom)


def _one_method(phases: Sequence[Phase]) -> str | None:
    methods = sorted({phase.method for phase in phases})
    if len(methods) > 1:
        raise ValueError(
            f"competing phases come from {len(methods)} methods, {', '.join(map(repr, methods))}: expected one, since "
            "energies of different methods share no hull; evaluate all phases with the same one"
        )
    return methods[0] if methods else None


def _refuse_repeated_ids(phases: Sequence[Phase]) -> None:
    seen: set[str] = set()
    for phase in phases:
        if phase.id in seen:
            raise ValueError(f"two competing phases share the id {phase.id!r}: expected one id per phase")
        seen.add(phase.id)


def _decomposition_text(parts: Mapping[Any, float]) -> str:
    """'0.60 TaB2 + 0.40 W': fractions of atoms, largest first."""
    terms = sorted(((-float(amount), entry.composition.reduced_formula) for entry, amount in parts.items()))
    return " + ".join(f"{-amount:.2f} {formula}" for amount, formula in terms)
