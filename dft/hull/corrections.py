"""Energies in the Materials Project's scheme of 2020, alike for its entries and for own records.

The scheme (Wang et al., Sci. Rep. 11, 15496 (2021)) adds a fixed energy for each anion and for each transition metal
computed with a Hubbard U. The sums are pymatgen's MaterialsProject2020Compatibility. What that class asks of an entry
is found here by the same functions for every entry: oxidation states (dft/hull/oxidation.py), without which it corrects
the most electronegative element alone, and a Cl beside O loses its correction without a word; and the kind of oxide and
sulfide, which it takes for plain ones where there is no crystal. What cannot be found is a refusal with its reason.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pymatgen.core.composition import Composition
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure
from pymatgen.entries.compatibility import CompatibilityError, MaterialsProject2020Compatibility
from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry
from pymatgen.io.vasp.sets import MPRelaxSet

from dft.hull.oxidation import OxidationStates, StateSource, is_nonmetal, oxidation_states

if TYPE_CHECKING:
    from dft.records import DFTRecord

MP2020 = "PBE / PBE+U with Materials Project 2020 corrections"
"""Method label of a hull in the Materials Project's scheme."""

ANIONS = ("Br", "Cl", "F", "H", "I", "N", "Sb", "Se", "Si", "Te")
"""Elements that the scheme corrects where they are anions, by their oxidation state; O and S go by their bonds."""

ANION_STATE_MAX = -1.0
"""The scheme's bound: a mean state between this and zero is no anion."""

RUN_TYPES = {"GGA": "GGA", "GGA+U": "GGA+U", "PBE": "GGA", "PBE+U": "GGA+U"}
"""Run types that are PBE or PBE+U, by the names in use, and pymatgen's name for them."""

_NO_STATES = OxidationStates({}, StateSource.NONE)


@dataclass(frozen=True)
class Corrected:
    """An energy before and after correction.

    Attributes:
        uncorrected_ev_per_atom: as computed.
        correction_ev_per_atom: to be added; None where the scheme cannot be applied.
        terms: what the correction is made of: kind, eV per atom of the element, atoms.
        states: oxidation states it rests on; empty where they play no part.
        notes: what the reader should know, one sentence each.
        refusal: why the scheme cannot be applied; empty where it can.
    """

    uncorrected_ev_per_atom: float
    correction_ev_per_atom: float | None
    terms: tuple[str, ...] = ()
    states: OxidationStates = _NO_STATES
    notes: tuple[str, ...] = ()
    refusal: str = ""

    @property
    def energy_ev_per_atom(self) -> float | None:
        """The corrected energy; None where the scheme cannot be applied."""
        if self.correction_ev_per_atom is None:
            return None
        return self.uncorrected_ev_per_atom + self.correction_ev_per_atom


def correct(entry: ComputedEntry) -> Corrected:
    """An entry's energy in the scheme; corrections that it carries are left aside.

    Args:
        entry: with `parameters` run_type, hubbards, and potcar_spec or potcar_symbols; with its crystal, or else
            `data` oxide_type and sulfide_type where it holds O or S.

    Returns: The corrected energy, or why there is none.
    """
    composition = entry.composition.element_composition
    uncorrected = float(entry.uncorrected_energy / composition.num_atoms)
    crystal = getattr(entry, "structure", None)
    structure = None if crystal is None else _plain(crystal)
    other_u = other_hubbards(composition, entry.parameters.get("hubbards"))
    if refusal := _run_type_fault(entry) or "; ".join(other_u) or _bonds_fault(entry, composition, structure):
        return Corrected(uncorrected, None, refusal=refusal)
    states, notes = _NO_STATES, list[str]()
    if anions := _correctable(composition):
        states = oxidation_states(composition, structure, entry.data.get("oxidation_states"))
        notes, refusal = _judged(anions, composition, states)
        if refusal:
            return Corrected(uncorrected, None, states=states, refusal=refusal)
    fresh = _fresh(entry, composition, structure, states)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pymatgen's, on oxidation states not guessed: in `notes`
            adjustments = MaterialsProject2020Compatibility(check_potcar_hash=False).get_adjustments(fresh)
    except KeyError as error:
        refusal = f"its parameters have no {error.args[0]}: pseudopotentials cannot be checked"
    except (CompatibilityError, ValueError) as error:
        refusal = str(error)
    if refusal:
        return Corrected(uncorrected, None, states=states, refusal=refusal)
    total = sum(float(one.value) for one in adjustments)
    terms = tuple(
        f"{str(one.name).removeprefix('MP2020 ')} {one.value / one.n_atoms:+.3f} eV x {one.n_atoms:g}"
        for one in adjustments
    )
    return Corrected(uncorrected, total / float(composition.num_atoms), terms, states, tuple(notes))


def entry_of_record(record: DFTRecord) -> ComputedStructureEntry:
    """A VASP record as pymatgen's entry: uncorrected energy, crystal, and the parameters that the scheme reads."""
    hubbards = record.resolved.get("hubbards_ev") or {}
    stated = record.resolved.get("run_type")
    parameters: dict[str, Any] = {
        "run_type": RUN_TYPES.get(stated, stated) if stated else "GGA+U" if any(hubbards.values()) else "GGA",
        "is_hubbard": any(hubbards.values()),
        "hubbards": hubbards,
        "potcar_spec": [{"titel": title, "hash": None} for title in record.resolved.get("potcars", ())],
    }
    return ComputedStructureEntry(
        _plain(record.structure), record.energy_ev, parameters=parameters, entry_id=record.key
    )


def mp_hubbards(composition: Composition) -> dict[str, float]:
    """U of each element that the Materials Project gives one in such a compound, eV; of oxides and fluorides alone."""
    elements = sorted(composition.element_composition, key=lambda element: element.X)
    table = MPRelaxSet.CONFIG["INCAR"]["LDAUU"]
    expected = table.get(elements[-1].symbol, {}) if len(elements) > 1 else {}
    return {e.symbol: float(expected[e.symbol]) for e in elements if expected.get(e.symbol)}


def other_hubbards(composition: Composition, hubbards: Mapping[str, float] | None) -> list[str]:
    """Where U differs from the Materials Project's: 'U of Fe: 0 / 5.3 eV'; of elements too, unlike pymatgen's check."""
    elements = sorted(composition.element_composition, key=lambda element: element.X)
    expected = mp_hubbards(composition)
    pairs = ((e.symbol, float((hubbards or {}).get(e.symbol, 0)), expected.get(e.symbol, 0.0)) for e in elements)
    return [f"U of {symbol}: {ours:g} / {theirs:g} eV" for symbol, ours, theirs in pairs if ours != theirs]


def _plain(structure: Structure) -> Structure:
    """Lattice, elements and positions alone: decorations of a database must not tell its crystals from ours."""
    symbols = [site.specie.symbol for site in structure]
    return Structure(structure.lattice, symbols, structure.frac_coords)


def _run_type_fault(entry: ComputedEntry) -> str:
    run_type = entry.parameters.get("run_type")
    if run_type in RUN_TYPES:
        return ""
    return f"run type {run_type}: expected GGA or GGA+U, which alone the scheme corrects and mixes"


def _bonds_fault(entry: ComputedEntry, composition: Composition, structure: Structure | None) -> str:
    """What a missing crystal leaves undecided: oxide or peroxide, sulfide or sulfate."""
    if structure is not None or len(composition) == 1:
        return ""
    if "O" in composition and not entry.data.get("oxide_type"):
        return "no crystal and no oxide_type: oxide, peroxide and superoxide have other corrections"
    oxidizers = [e.symbol for e in composition if e.X > Element("S").X and is_nonmetal(e.symbol)]
    if "S" in composition and oxidizers and not entry.data.get("sulfide_type"):
        return f"no crystal and no sulfide_type: S beside {', '.join(oxidizers)} may or may not be an anion"
    return ""


def _correctable(composition: Composition) -> list[str]:
    """Elements of a compound that the scheme corrects where they are anions."""
    return [] if len(composition) == 1 else [symbol for symbol in ANIONS if symbol in composition]


def _judged(anions: list[str], composition: Composition, states: OxidationStates) -> tuple[list[str], str]:
    """Notes on elements whose states decide, and a refusal where they would have to and are not known."""
    strongest = max(composition, key=lambda element: element.X).symbol
    notes = []
    for anion in anions:
        state = states.states.get(anion)
        if state is not None:
            if ANION_STATE_MAX < state < -ANION_STATE_MAX:
                notes.append(f"{anion} at {state:+.3g} on average lies above the scheme's bound of -1: not corrected")
            continue
        if anion == strongest:
            notes.append(f"oxidation states not determined: {anion} is corrected as the most electronegative element")
            continue
        above = [e.symbol for e in composition if e.X > Element(anion).X]
        if rivals := [symbol for symbol in above if is_nonmetal(symbol)]:
            return [], (
                f"oxidation states could not be determined: whether {anion} is an anion beside {', '.join(rivals)} "
                f"decides on its correction"
            )
        notes.append(
            f"oxidation states not determined: {anion} beside {', '.join(above)} counts as no anion, as in any alloy"
        )
    return notes, ""


def _fresh(
    entry: ComputedEntry, composition: Composition, structure: Structure | None, states: OxidationStates
) -> ComputedEntry:
    """The entry as the scheme is to see it: no earlier corrections, our states, its own bonds if it has a crystal."""
    data: dict[str, Any] = {"oxidation_states": dict(states.states)}
    parameters = {**entry.parameters, "run_type": RUN_TYPES[entry.parameters["run_type"]]}
    kept: dict[str, Any] = {"parameters": parameters, "entry_id": entry.entry_id}
    if structure is not None:
        return ComputedStructureEntry(structure, entry.uncorrected_energy, data=data, **kept)
    data |= {name: entry.data[name] for name in ("oxide_type", "sulfide_type") if entry.data.get(name)}
    return ComputedEntry(composition, entry.uncorrected_energy, data=data, **kept)
