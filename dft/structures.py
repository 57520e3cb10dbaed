"""What of a crystal decides a calculation: lattice, species, positions, magnetic moments; and a digest of these."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from pymatgen.core.structure import Structure

from dft.stored_classes import ForeignClassError, check_classes, in_crystal
from storage.digests import json_digest

SAME_SITE_ANG = 1e-3
"""Files of DFT codes print eight digits of fractional coordinates or more."""


class StructureError(ValueError):
    """A crystal that no DFT code can take."""


def read_structure(document: Any) -> Structure:
    """The crystal of a dictionary as `Structure.as_dict()` gives it, whoever wrote it.

    pymatgen builds whatever class a site's properties name; here only those of a crystal's own parts are built.

    Raises:
        StructureError: if it names another class.
        KeyError, TypeError, ValueError, AttributeError: if it is no such dictionary.
    """
    try:
        check_classes(document, "the crystal", in_crystal)
    except ForeignClassError as error:
        raise StructureError(str(error)) from error
    return Structure.from_dict(document)


def plain_structure(structure: Structure, name: str) -> Structure:
    """Lattice, species, positions and the sites' `magmom` alone; charges, labels and other properties are left out.

    Args:
        structure: the crystal.
        name: what to call it in an error.

    Raises:
        StructureError: if it is disordered, empty, flat or not finite.
    """
    if not structure.is_ordered:
        raise StructureError(
            f"candidate {name} ({structure.formula}) is disordered: expected one element per site; order it first, "
            "DFT knows no partial occupancy"
        )
    volume_ang3 = float(structure.volume) if len(structure) else 0.0
    if not (np.isfinite(volume_ang3) and volume_ang3 > 0 and np.isfinite(structure.frac_coords).all()):
        raise StructureError(
            f"candidate {name} has {len(structure)} sites in {volume_ang3} A^3: expected at least one site, a positive "
            "volume and finite coordinates"
        )
    magmoms = structure.site_properties.get("magmom")
    return Structure(
        structure.lattice,
        structure.species,
        structure.frac_coords,
        site_properties={"magmom": list(magmoms)} if magmoms and None not in magmoms else None,
    )


def grouped_order(structure: Structure) -> list[int]:
    """Places of the atoms such that equal elements stand together, by rising electronegativity as pymatgen sorts them.

    Atoms of one element keep their order. An element without an electronegativity (He, Ne, Ar) comes last: pymatgen
    compares its NaN with nothing, and may leave such an element in several blocks.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "No Pauling electronegativity for He"
        rank = {element: (math.inf if math.isnan(element.X) else element.X) for element in structure.elements}
    species: list[Any] = list(structure.species)
    return sorted(range(len(species)), key=lambda site: (rank[species[site]], species[site].symbol))


def reordered(structure: Structure, order: list[int]) -> Structure:
    """The same crystal with its atoms, and all that is known of each of them, in another order."""
    return Structure.from_sites([structure[site] for site in order])


def ungrouped_order(structure: Structure) -> list[int]:
    """Where each atom of a crystal stands in its grouped form; `reordered` by it undoes `grouped`."""
    order = grouped_order(structure)
    return sorted(range(len(order)), key=order.__getitem__)


def grouped(structure: Structure) -> Structure:
    """The same crystal with equal elements together: one block in POSCAR, and one pseudopotential, for each element."""
    order = grouped_order(structure)
    return structure if order == list(range(len(order))) else reordered(structure, order)


def structure_digest(structure: Structure) -> str:
    """SHA-256 over lattice, species, fractional coordinates and magnetic moments, to the last bit of each number."""
    magmoms = structure.site_properties.get("magmom")
    return json_digest(
        {
            "lattice_ang": structure.lattice.matrix.tolist(),
            "species": [str(specie) for specie in structure.species],
            "frac_coords": structure.frac_coords.tolist(),
            "magmoms": None if magmoms is None else [_plain_moment(moment) for moment in magmoms],
        }
    )


def _plain_moment(moment: Any) -> Any:
    """A collinear moment as a number, a vector as a list."""
    values = np.asarray(getattr(moment, "moment", moment), dtype=float)
    return values.tolist()


def is_same_crystal(first: Structure, second: Structure) -> bool:
    """Whether two cells hold the same atoms in the same order at the same places, to a thousandth of an angstrom."""
    if len(first) != len(second) or first.species != second.species:
        return False
    if not np.allclose(first.lattice.matrix, second.lattice.matrix, rtol=0, atol=SAME_SITE_ANG):
        return False
    apart = first.frac_coords - second.frac_coords
    apart_ang = np.linalg.norm((apart - np.rint(apart)) @ first.lattice.matrix, axis=1)
    return bool((apart_ang < SAME_SITE_ANG).all())
