"""A crystal in OPTIMADE's words: the standard structure properties of specification 1.2, as plain JSON values.

All crystals here are ordered and periodic in three directions, so every property has one possible value but the order
of sites, which is that of the crystal. What needs more than the crystal (Hill's formula: which unit is the chemically
relevant one) or is not certain (symmetry operations, spaced Hermann-Mauguin symbols) is left out, as the specification
wants it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from string import ascii_uppercase
from typing import Any

from generative.config import ELEMENTS
from generative.crystal.crystals import Crystal


def _joined(counts: Iterable[tuple[str, int]]) -> str:
    return "".join(f"{symbol}{n if n > 1 else ''}" for symbol, n in counts)


def reduced_formula(counts: Mapping[str, int]) -> str:
    """Elements in alphabetic order, proportions without a common divisor: 'B2Ta'."""
    divisor = math.gcd(*counts.values())
    return _joined((symbol, counts[symbol] // divisor) for symbol in sorted(counts))


def anonymous_formula(counts: Mapping[str, int]) -> str | None:
    """Proportions alone, the largest first: 'A2B'.

    None beyond 26 elements: what follows Z, the specification and its reference implementation write differently.
    """
    if len(counts) > len(ascii_uppercase):
        return None
    divisor = math.gcd(*counts.values())
    proportions = sorted((n // divisor for n in counts.values()), reverse=True)
    return _joined(zip(ascii_uppercase, proportions, strict=False))


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
    # In the order of sites: pymatgen's OptimadeRester takes a list of species as long as that of sites for the latter.
    species = [{"name": symbol, "chemical_symbols": [symbol], "concentration": [1.0]} for symbol in counts]
    return {
        "elements": elements,
        "nelements": len(elements),
        "elements_ratios": [counts[symbol] / len(symbols) for symbol in elements],
        "chemical_formula_descriptive": formula,
        "chemical_formula_reduced": reduced_formula(counts),
        "chemical_formula_anonymous": anonymous_formula(counts),
        "dimension_types": [1, 1, 1],
        "nperiodic_dimensions": 3,
        "lattice_vectors": crystal.lattice_ang.tolist(),
        "space_group_it_number": spacegroup,
        "cartesian_site_positions": (crystal.frac @ crystal.lattice_ang).tolist(),
        "nsites": len(symbols),
        "species": species,
        "species_at_sites": symbols,
        "structure_features": [],
    }
