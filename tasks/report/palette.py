"""A colour for every element, kept apart within one chemical system, and the sizes atoms are drawn at.

Colours are Jmol's, from the table pymatgen ships. Jmol paints Al and Ti, or Ta and W, almost alike; within one chemical
system the heavier of two look-alikes takes VESTA's colour, or one of a few reserve hues.
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Sequence

import yaml
from pymatgen.analysis.molecule_structure_comparator import CovalentRadius
from pymatgen.core.periodic_table import Element

RGB = tuple[int, int, int]

UNKNOWN_COLOUR: RGB = (200, 80, 160)
"""For elements past Mt, which no table colours."""

RESERVE_COLOURS: tuple[RGB, ...] = (
    (219, 139, 62),
    (86, 165, 104),
    (165, 108, 193),
    (62, 142, 208),
    (199, 92, 92),
    (205, 184, 75),
)
"""Hues for look-alikes, tried in this order."""

LOOK_ALIKE = 110.0
"""Below this red-mean distance small spheres are hard to tell apart; Jmol's Al and Ti are 75 apart, Ta and W 101."""

FALLBACK_RADIUS_ANG = 1.6
"""Covalent radius for the elements past Cm, which the table of Cordero et al. leaves out."""


@functools.cache
def _table(scheme: str) -> dict[str, RGB]:
    text = (importlib.resources.files("pymatgen.vis") / "ElementColorSchemes.yaml").read_text(encoding="utf-8")
    return {symbol: (rgb[0], rgb[1], rgb[2]) for symbol, rgb in yaml.safe_load(text)[scheme].items()}


def _distance(a: RGB, b: RGB) -> float:
    """Red-mean distance: RGB weighted about as the eye does; black to white is 765."""
    mean_red = (a[0] + b[0]) / 2
    red, green, blue = (a[i] - b[i] for i in range(3))
    return float(
        ((2 + mean_red / 256) * red * red + 4 * green * green + (2 + (255 - mean_red) / 256) * blue * blue) ** 0.5
    )


def element_colours(symbols: Sequence[str]) -> dict[str, RGB]:
    """Colours of these elements, no two alike (sRGB, 0-255), the same for the same set in any order.

    Raises: ValueError: if a symbol is not an element.
    """
    chosen: dict[str, RGB] = {}
    for symbol in sorted(set(symbols), key=lambda s: Element(s).Z):
        choices = [_table("Jmol").get(symbol, UNKNOWN_COLOUR), _table("VESTA").get(symbol, UNKNOWN_COLOUR)]
        choices += RESERVE_COLOURS

        def clearance(colour: RGB) -> float:
            return min((_distance(colour, other) for other in chosen.values()), default=999.0)

        chosen[symbol] = next((c for c in choices if clearance(c) >= LOOK_ALIKE), max(choices, key=clearance))
    return chosen


def covalent_radius_ang(symbol: str) -> float:
    """Covalent radius, angstrom (Cordero et al. 2008, as pymatgen ships it)."""
    return float(CovalentRadius.radius.get(symbol, FALLBACK_RADIUS_ANG))


def drawn_radius_ang(symbol: str) -> float:
    """Radius an atom is drawn at, angstrom: small enough to see bonds, large enough to tell sizes apart."""
    return 0.20 + 0.26 * covalent_radius_ang(symbol)
