"""Composition validity by SMACT: can the elements' oxidation states balance, cations less electronegative than anions?

Source: smact_validity of CDVAE (arXiv:2110.06197, scripts/eval_utils.py), on SMACT (Davies et al., JOSS 2019).
A composition is valid if it is a single element, or made of metals only (SMACT's list), or if each element can be given
ONE of its known oxidation states such that (1) the charges weighted by the counts sum to zero and (2) every element
with a positive charge has a lower Pauling electronegativity than every element with a negative one; an element without
a tabulated electronegativity fails (2). Mixed valence (Fe3O4) therefore fails, as published, and so do real borides and
nitrides of metals whose states do not balance: the verdict is a column, and a filter only where the user asks for it.

The verdicts are those of the installed `smact.screening.smact_validity` with the same list of oxidation states; only
the search differs. SMACT tries every product of states; here, for every place where the electronegativity can divide
cations from anions, the reachable sums of charge are built up element by element, which is bounded by elements x states
x sums (under a millisecond for six elements, however large the counts).

CDVAE's own verdicts are those of SMACT 2.2.1, which its environment pins, and differ in three things (`CDVAE`): iridium
has -2 in the place of -3; zirconium's electronegativity is 0.33, a slip for 1.33; and an element without one (Pm, Lr,
the light noble gases) lets a composition pass where the script compares it first, because Python refuses the comparison
and the script takes that for a pass. Since SMACT 2.5.4, DP-CDVAE's, Ir and Zr are as in `SMACT14`; since 2.7 an element
without electronegativity fails. DiffCSP's copy of the script, and what descends from it, also calls a composition
invalid if its states have more than 1e7 products (from seven elements on): none of MP-20's or MPTS-52's has so many.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from importlib.metadata import version


class OxidationStates(StrEnum):
    """Which of SMACT's lists of oxidation states is used; part of every verdict."""

    CDVAE = "cdvae"
    """Tables and rule of CDVAE's script with SMACT 2.2.1, behind the composition validity that it published."""
    SMACT14 = "smact14"
    """SMACT's list of 2014 as the installed release has it; that of 2.2.1 but for Ir."""
    ICSD24 = "icsd24"
    """States found in the ICSD of 2024, SMACT's default since version 3; more permissive."""


CDVAE_STATES: Mapping[str, tuple[int, ...]] = {"Ir": (-2, -1, 1, 2, 3, 4, 5, 6, 7, 8)}
"""Where smact/data/oxidation_states.txt of SMACT 2.2.1 differs from SMACT14; 107 elements are the same."""
CDVAE_ELECTRONEGATIVITIES: Mapping[str, float] = {"Zr": 0.33}
"""Where smact/data/element_data.txt of SMACT 2.2.1 differs from today's electronegativities."""


@dataclass(frozen=True)
class SmactVerdict:
    """Whether a composition passes, and by which rule.

    Attributes:
        valid: the verdict.
        rule: the branch that decided and the list of states, such as 'charge balance (smact14)'.
        smact_version: of the installed package, whose tables were used.
    """

    valid: bool
    rule: str
    smact_version: str


def check(counts: Mapping[str, int], states: OxidationStates = OxidationStates.SMACT14) -> SmactVerdict:
    """SMACT verdict on a composition, cached per reduced formula.

    Args:
        counts: atoms per element symbol, each at least 1; any multiple of the formula unit.
        states: list of oxidation states.

    Raises: ValueError: if counts is empty or holds a count that is not a positive whole number.
    """
    if not counts or any(n != int(n) or n < 1 for n in counts.values()):
        raise ValueError(f"counts is {dict(counts)}: expected a positive whole number of atoms for each element")
    divisor = math.gcd(*(int(n) for n in counts.values()))
    return _verdict(tuple(sorted((symbol, int(n) // divisor) for symbol, n in counts.items())), states)


@lru_cache(maxsize=65536)
def _verdict(counts: tuple[tuple[str, int], ...], states: OxidationStates) -> SmactVerdict:
    import smact  # 0.4 s of tables: read when the first verdict is asked for

    release = _smact_version()
    if len(counts) == 1:
        return SmactVerdict(True, "single element", release)
    if all(symbol in smact.metals for symbol, _ in counts):
        return SmactVerdict(True, "metals only", release)
    known = [_element(symbol, states) for symbol, _ in counts]
    rule = f"charge balance ({states.value})"
    without = any(electronegativity is None for _, electronegativity in known)
    if any(not charges for charges, _ in known) or (without and states is not OxidationStates.CDVAE):
        return SmactVerdict(False, f"{rule}: no data for an element", release)
    if without:
        by_number = sorted(counts, key=lambda pair: int(smact.Element(pair[0]).number))
        elements = [(*_element(symbol, states), n) for symbol, n in by_number]
        return SmactVerdict(_balances_as_cdvae(elements), rule, release)
    charges_of = [charges for charges, _ in known]
    electronegativities = [float(x) for _, x in known if x is not None]
    return SmactVerdict(_balances(charges_of, electronegativities, [n for _, n in counts]), rule, release)


@lru_cache(maxsize=1)
def _smact_version() -> str:
    return version("smact")  # reads the package's metadata from disk, 0.4 ms


@lru_cache(maxsize=512)
def _element(symbol: str, states: OxidationStates) -> tuple[tuple[int, ...], float | None]:
    """(oxidation states, Pauling electronegativity) of an element; empty and None where SMACT has none."""
    import smact

    try:
        element = smact.Element(symbol)
    except KeyError:
        return (), None
    if states is OxidationStates.ICSD24:
        return tuple(element.oxidation_states_icsd24 or ()), element.pauling_eneg
    charges = tuple(element.oxidation_states_smact14 or ())
    if states is OxidationStates.SMACT14:
        return charges, element.pauling_eneg
    return CDVAE_STATES.get(symbol, charges), CDVAE_ELECTRONEGATIVITIES.get(symbol, element.pauling_eneg)


def _balances(charges_of: list[tuple[int, ...]], electronegativities: list[float], counts: list[int]) -> bool:
    """True if one state per element balances, with every cation below every anion in electronegativity.

    In such an assignment the cation of highest electronegativity is a divide: at or below it no element is an anion,
    above it none is a cation. So it is found at one of the divides tried here, and what is found satisfies the rule.
    """
    for divide in sorted(set(electronegativities)):
        sums = {0}
        for charges, electronegativity, n in zip(charges_of, electronegativities, counts, strict=True):
            sign = 1 if electronegativity <= divide else -1
            allowed = [n * charge for charge in charges if sign * charge >= 0]
            sums = {total + charge for total in sums for charge in allowed}
        if 0 in sums:
            return True
    return False


def _balances_as_cdvae(elements: list[tuple[tuple[int, ...], float | None, int]]) -> bool:
    """The same where an element has no electronegativity, as CDVAE's script decides it.

    Whether states pass depends on their signs alone, so every set of signs that passes is asked for a sum of zero.

    Args:
        elements: states, electronegativity and count, in the order of the atomic numbers, which matters here.
    """
    signs_of = [sorted({(charge > 0) - (charge < 0) for charge in charges}) for charges, _, _ in elements]
    electronegativities = [electronegativity for _, electronegativity, _ in elements]
    for signs in itertools.product(*signs_of):
        if not _passes_pair_by_pair(signs, electronegativities):
            continue
        sums = {0}
        for sign, (charges, _, n) in zip(signs, elements, strict=True):
            allowed = [n * charge for charge in charges if (charge > 0) - (charge < 0) == sign]
            sums = {total + charge for total in sums for charge in allowed}
        if 0 in sums:
            return True
    return False


def _passes_pair_by_pair(signs: tuple[int, ...], electronegativities: list[float | None]) -> bool:
    """SMACT 2.2.1's eneg_states_test within CDVAE's `except TypeError`: the first pair that decides, decides."""
    for (sign, one), (other_sign, other) in itertools.combinations(zip(signs, electronegativities, strict=True), 2):
        if one is None or other is None:
            return sign * other_sign < 0  # the comparison raises and counts as a pass; without it the test fails
        if sign * other_sign < 0 and (one >= other if sign > 0 else one <= other):
            return False
    return True
