"""A crystal in OPTIMADE's words: the standard structure properties of specification 1.2, as plain JSON values.

All crystals here are ordered and periodic in three directions, so every property has one possible value but the order
of sites, which is that of the crystal. What is not certain (symmetry operations, spaced Hermann-Mauguin symbols) is
left out; the specification allows that.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import count
from string import ascii_lowercase, ascii_uppercase
from typing import Any

from generative.config import ELEMENTS
from generative.crystals import Crystal


def _joined(counts: Iterator[tuple[str, int]]) -> str:
    return "".join(f"{symbol}{n if n > 1 else ''}" for symbol, n in counts)


def _anonymous_symbols() -> Iterator[str]:
    """A, B, ... Z, Aa, Ba, ... Za, Ab, ... as the specification orders them."""
    yield from ascii_uppercase
    for place in count():
        yield from (letter + ascii_lowercase[place] for letter in ascii_uppercase)


def reduced_formula(counts: Mapping[str, int]) -> str:
    """Elements in alphabetic order, proportions without a common divisor: 'B2Ta'."""
    divisor = math.gcd(*counts.values())
    return _joined((symbol, counts[symbol] // divisor) for symbol in sorted(counts))


def anonymous_formula(counts: Mapping[str, int]) -> str:
    """Proportions alone, the largest first: 'A2B'."""
    divisor = math.gcd(*counts.values())
    proportions = sorted((n // divisor for n in counts.values()), reverse=True)
    return _joined(zip(_anonymous_symbols(), proportions, strict=False))


def hill_formula(counts: Mapping[str, int]) -> str:
    """The whole cell in Hill's order: carbon, then hydrogen, then the rest by alphabet; without carbon by alphabet."""
    order = sorted(counts)
    if "C" in counts:
        first = [symbol for symbol in ("C", "H") if symbol in counts]
        order = first + [symbol for symbol in order if symbol not in first]
    return _joined((symbol, counts[symbol]) for symbol in order)


def structure_attributes(crystal: Crystal, formula: str, spacegroup: int | None) -> dict[str, Any]:
    """The standard properties of a crystal.

    Args:
        crystal: sites keep their order; lengths stay in angstrom.
        formula: how the crystal is named to a reader (chemical_formula_descriptive).
        spacegroup: international number, 1 to 230; None if unknown.
    """
    symbols = [ELEMENTS[z - 1] for z in crystal.atomic_numbers]
    counts = Counter(symbols)
    elements = sorted(counts)
    return {
        "elements": elements,
        "nelements": len(elements),
        "elements_ratios": [counts[symbol] / len(symbols) for symbol in elements],
        "chemical_formula_descriptive": formula,
        "chemical_formula_reduced": reduced_formula(counts),
        "chemical_formula_hill": hill_formula(counts),
        "chemical_formula_anonymous": anonymous_formula(counts),
        "dimension_types": [1, 1, 1],
        "nperiodic_dimensions": 3,
        "lattice_vectors": crystal.lattice_ang.tolist(),
        "space_group_it_number": spacegroup,
        "cartesian_site_positions": (crystal.frac @ crystal.lattice_ang).tolist(),
        "nsites": len(symbols),
        "species": [{"name": symbol, "chemical_symbols": [symbol], "concentration": [1.0]} for symbol in elements],
        "species_at_sites": symbols,
        "structure_features": [],
    }
