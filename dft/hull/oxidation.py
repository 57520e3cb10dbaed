"""Oxidation states of a crystal's elements, the same for every side of a comparison.

Found as the Materials Project finds those of its own entries (emmet's OxidationStateDoc): by bond valences from the
crystal, else guessed from the reduced formula by how often states occur in the ICSD. Of guesses, the most probable one
is taken in which no element is anion and cation at once, if there is one. Where that list admits no neutral formula
(KClO4: it knows no Cl 7+), a guess of one common state per element is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from pymatgen.analysis.bond_valence import BVAnalyzer
from pymatgen.core.composition import Composition
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure

GUESS_TRIALS_MAX, GUESS_SITES_MAX = 1_000_000, 200_000
"""Sums of states tried for one formula, and states of sites looked up for one element: about a second for each."""

_BVA_FAILURES = (ValueError, KeyError, IndexError, TypeError, AttributeError, ArithmeticError, np.linalg.LinAlgError)
"""What pymatgen raises where it cannot assign valences: unknown elements, lone atoms, no charge balance."""


class StateSource(StrEnum):
    """How oxidation states were found."""

    BOND_VALENCES = "bond valences"
    STATED = "stated by the database"
    GUESS = "guess from the formula"
    COMMON = "guess from the formula, one common state each"
    NONE = "not determined"


@dataclass(frozen=True)
class OxidationStates:
    """Mean oxidation state of each element.

    Attributes:
        states: by symbol; empty where they could not be determined.
        source: how they were found.
    """

    states: dict[str, float]
    source: StateSource

    @property
    def text(self) -> str:
        """'Cl -1, Mg +2'; empty where not determined."""
        return ", ".join(f"{symbol} {state:+.3g}" for symbol, state in sorted(self.states.items()))


def oxidation_states(
    composition: Composition, structure: Structure | None = None, stated: Mapping[str, float] | None = None
) -> OxidationStates:
    """Mean oxidation states, the same for the same crystal whoever computed it.

    Args:
        composition: any multiple of the formula unit.
        structure: the crystal, where there is one; its magnetic moments and decorations play no part.
        stated: by a database; taken only without a crystal, in the place of bond valences.
    """
    if structure is not None and (found := _by_bond_valences(structure)):
        return OxidationStates(found, StateSource.BOND_VALENCES)
    if structure is None and stated and all(isinstance(state, int | float) for state in stated.values()):
        return OxidationStates({str(k): float(v) for k, v in sorted(stated.items())}, StateSource.STATED)
    formula = _reduced(composition)
    if formula is None:
        return OxidationStates({}, StateSource.NONE)
    common = {e.symbol: tuple(e.common_oxidation_states or ()) for e in formula.elements}
    icsd = {e.symbol: tuple(e.icsd_oxidation_states or ()) or common[e.symbol] for e in formula.elements}
    if guesses := _guesses(formula, icsd):
        whole = (guess for guess in guesses if all(_is_of_one_sign(m, icsd[symbol]) for symbol, m in guess.items()))
        return OxidationStates(next(whole, guesses[0]), StateSource.GUESS)
    strongest = max(formula, key=lambda element: element.X).symbol
    for guess in _guesses(formula, common):
        # No compound has its most electronegative element for a cation: CeSiI is no Ce 3+, Si 4-, I 1+.
        if guess[strongest] < 0 and all(state in common[symbol] for symbol, state in guess.items()):
            return OxidationStates(guess, StateSource.COMMON)
    return OxidationStates({}, StateSource.NONE)


def _by_bond_valences(structure: Structure) -> dict[str, float] | None:
    symbols = [site.specie.symbol for site in structure]
    plain = Structure(structure.lattice, symbols, structure.frac_coords)
    try:
        analyzer: Any = BVAnalyzer()  # type: ignore[no-untyped-call]
        valences = analyzer.get_valences(plain)
    except _BVA_FAILURES:
        return None
    found: dict[str, list[float]] = {}
    for symbol, valence in zip(symbols, valences, strict=True):
        found.setdefault(symbol, []).append(float(valence))
    return {symbol: sum(values) / len(values) for symbol, values in sorted(found.items())}


def _reduced(composition: Composition) -> Composition | None:
    """The reduced formula, elements in alphabetical order so that ties fall alike; None for fractional amounts."""
    amounts = composition.element_composition.reduced_composition.get_el_amt_dict()
    if not all(float(n).is_integer() for n in amounts.values()):
        return None
    return Composition({symbol: int(n) for symbol, n in sorted(amounts.items())})


def _guesses(formula: Composition, states: Mapping[str, tuple[int, ...]]) -> list[dict[str, float]]:
    """Neutral assignments, most probable first; none where an element has no states or there are too many to try."""
    trials = 1
    for symbol, n in formula.get_el_amt_dict().items():
        known = states[symbol]
        if not known:
            return []
        span = (max(known) - min(known)) * int(n) + 1
        trials *= span
        combinations = math.comb(int(n) + len(known) - 1, len(known) - 1)
        if trials > GUESS_TRIALS_MAX or combinations * int(n) > GUESS_SITES_MAX:
            return []
    found = formula.oxi_state_guesses(oxi_states_override={k: list(v) for k, v in states.items()}, max_sites=-1)
    return [{symbol: float(state) for symbol, state in guess.items()} for guess in found]


def _is_of_one_sign(mean: float, states: tuple[int, ...]) -> bool:
    """Whether a mean comes about without the same element as anion and cation (SeBr4 as Se 2-, Br 1- and 5+)."""
    signs = ([s for s in states if s < 0], [s for s in states if s > 0])
    return any(min(sign) <= mean <= max(sign) for sign in signs if sign)


def is_nonmetal(symbol: str) -> bool:
    """Whether an element is neither metal nor metalloid."""
    element = Element(symbol)
    return not element.is_metal and not element.is_metalloid
