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
x sums (under a millisecond for six elements, however large the counts). One difference from CDVAE is SMACT's own: since
version 2.7 an element without electronegativity (Pm, Lr) fails instead of passing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from importlib.metadata import version


class OxidationStates(StrEnum):
    """Which of SMACT's lists of oxidation states is used; part of every verdict."""

    SMACT14 = "smact14"
    """SMACT's list of 2014, the one in CDVAE and in the papers that quote its composition validity."""
    ICSD24 = "icsd24"
    """States found in the ICSD of 2024, SMACT's default since version 3; more permissive."""


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
    if any(not charges or electronegativity is None for charges, electronegativity in known):
        return SmactVerdict(False, f"{rule}: no data for an element", release)
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
    charges = element.oxidation_states_smact14 if states is OxidationStates.SMACT14 else element.oxidation_states_icsd24
    return tuple(charges or ()), element.pauling_eneg


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
