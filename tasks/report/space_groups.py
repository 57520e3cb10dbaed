"""Symbols of space groups by their numbers."""

from __future__ import annotations

from pymatgen.symmetry.groups import SpaceGroup, sg_symbol_from_int_number

_SHORT = {long: short for short, long in SpaceGroup.abbrev_sg_mapping.items()}


def short_symbol(number: int) -> str:
    """Short Hermann-Mauguin symbol of the standard setting, such as 'C2/m' of 12."""
    full = sg_symbol_from_int_number(number)
    return str(_SHORT.get(full, full))
