"""A signature with numbers: a crystal of given elements."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from generative.crystal.crystals import Crystal
from generative.crystal.species import element_properties
from generative.crystal.wyckoff import Signature, WyckoffCrystal
from generative.systems.wyckoff.kinds import Composition, Kind
from generative.systems.wyckoff.library import Library, with_elements
from generative.systems.wyckoff.packing import contact, packed, radii_ang
from storage.digests import json_digest

FAMILIES = (2, 15, 74, 142, 194, 230)
"""Last space group of each crystal family."""

SHAPES = 64
"""Cells of structure types that a packing may begin with."""


class Builder:
    """Gives structure types and packings the elements of a composition."""

    def __init__(self, library: Library, atomic_volumes: np.ndarray) -> None:
        """Args: library: of which types and cell shapes are taken; atomic_volumes: angstrom^3, (Z,)."""
        self.library, self.atomic_volumes = library, atomic_volumes
        self._groups = library.group_of(library.type_kind.long()).numpy()

    def of_type(self, composition: Composition, structure_type: int) -> Crystal:
        """The mean of a structure type with the elements of a composition in its roles."""
        scale = composition.volume_ang3(self.atomic_volumes) ** (1 / 3)
        element_of = dict(enumerate(composition.elements))
        return with_elements(self.library.numbers(structure_type), element_of, scale).crystal()

    def of_packing(self, composition: Composition, kind: Kind, number: int) -> Crystal:
        """A packing of a kind; another one for another number, and always the same for the same."""
        group, by_role = kind
        sites = sorted((composition.elements[role], letter) for role, held in enumerate(by_role) for letter in held)
        signature = Signature(group, tuple(sites))
        elements = [z for z, _ in sites]
        seed = int(json_digest([str(signature), number])[:15], 16)
        found: WyckoffCrystal = packed(
            signature,
            self._shapes(group),
            composition.volume_ang3(self.atomic_volumes),
            contact(radii_ang(self.atomic_volumes, elements), _electronegativity()[elements].tolist()),
            torch.Generator().manual_seed(seed),
        )
        return found.crystal()

    def _shapes(self, group: int) -> np.ndarray:
        """Cells of types with the group, else with any of its crystal family, else plain ones, (n, 6)."""
        family = next(last for last in FAMILIES if group <= last)
        first = next((last for last in reversed(FAMILIES) if last < group), 0)
        for those in (self._groups == group, (self._groups > first) & (self._groups <= family)):
            if those.any():
                chosen = np.flatnonzero(those)
                cells: np.ndarray = self.library.type_cell[chosen[:: -(-len(chosen) // SHAPES)]].double().numpy()
                return cells
        angles = [90.0, 90.0, 120.0 if 142 < group <= 194 else 90.0]
        return np.array([[1.0, 1.0, 1.0, *angles]])


@lru_cache(maxsize=1)
def _electronegativity() -> np.ndarray:
    """Pauling's, by atomic number, (Z,)."""
    values: np.ndarray = element_properties(raw=True)[:, 1].numpy()
    return values
