"""Compositions by role, and kinds: signatures without their elements.

Roles are the elements of a crystal ordered by how many of their atoms the primitive cell holds, then by atomic number.
Elements with equal counts may exchange roles.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import Self

import numpy as np
from torch import Tensor

from generative.crystal.wyckoff import Signature, Sites, WyckoffCrystal, space_group

Counts = tuple[int, ...]
"""Atoms of each role in the primitive cell, ascending."""

Kind = tuple[int, tuple[tuple[str, ...], ...]]
"""A signature without its elements: space group, and for each role its Wyckoff letters."""


@lru_cache(maxsize=200_000)
def kind_of(spacegroup: int, letters: tuple[tuple[str, ...], ...]) -> Kind:
    """The kind of these letters by role, the same for all descriptions of a crystal."""
    signature = Signature.of(spacegroup, [(role, letter) for role, held in enumerate(letters) for letter in held])
    by_role: list[list[str]] = [[] for _ in letters]
    for role, letter in signature.sites:
        by_role[role].append(letter)
    return signature.spacegroup, tuple(tuple(held) for held in by_role)


@lru_cache(maxsize=230)
def alphabet(spacegroup: int) -> tuple[str, ...]:
    """The letters of a group's positions, in order."""
    return tuple(space_group(spacegroup).positions)


@dataclass(frozen=True)
class Composition:
    """What a primitive cell holds, by role.

    Attributes:
        elements: atomic numbers, (k,).
        counts: atoms of each.
    """

    elements: tuple[int, ...]
    counts: Counts

    @classmethod
    def of(cls, counts: dict[int, int]) -> Self:
        """Of atoms by atomic number."""
        elements = tuple(sorted(counts, key=lambda z: (counts[z], z)))
        return cls(elements, tuple(counts[z] for z in elements))

    @property
    def exchanges(self) -> list[tuple[int, ...]]:
        """Orders of the elements that leave the counts as they are; the given one first."""
        k = len(self.counts)
        return [o for o in permutations(range(k)) if all(self.counts[a] == self.counts[i] for i, a in enumerate(o))]

    def volume_ang3(self, atomic_volumes: Tensor | np.ndarray) -> float:
        """Of the primitive cell, by volumes of the elements, (Z,)."""
        return sum(float(atomic_volumes[z]) * n for z, n in zip(self.elements, self.counts, strict=True))


def described(spacegroup: int, sites: Sites) -> tuple[Composition, tuple[tuple[str, ...], ...]]:
    """Composition and letters by role of occupied positions."""
    positions = space_group(spacegroup).positions
    counts: Counter[int] = Counter()
    for z, letter in sites:
        counts[z] += positions[letter].multiplicity
    composition = Composition.of(dict(counts))
    return composition, tuple(tuple(sorted(x for z, x in sites if z == e)) for e in composition.elements)


@dataclass(frozen=True)
class Known:
    """A training crystal, with or without numbers.

    Attributes:
        spacegroup: of its signature.
        sites: of its signature.
        identity: by which it is known again; see training_set.identity_of.
        energy_ev_per_atom: its formation energy; NaN where it is not known.
        numbers: its description; None where only its sites are known.
    """

    spacegroup: int
    sites: Sites
    identity: int
    energy_ev_per_atom: float = float("nan")
    numbers: WyckoffCrystal | None = None
