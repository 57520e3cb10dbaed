"""Stored crystals, found by what a composition may look like: shelves of one pattern of counts.

Roles are the elements of a crystal ordered by how many of their atoms the primitive cell holds, then by atomic number.
Elements with equal counts may exchange roles: a stored crystal stands on its shelf once for each such exchange, since
which of Ti and Al takes which site is part of what is to be chosen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import permutations
from typing import Self

import numpy as np
import torch
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


def described(spacegroup: int, sites: Sites) -> tuple[Composition, tuple[tuple[str, ...], ...]]:
    """Composition and letters by role of occupied positions."""
    positions = space_group(spacegroup).positions
    counts: Counter[int] = Counter()
    for z, letter in sites:
        counts[z] += positions[letter].multiplicity
    composition = Composition.of(dict(counts))
    return composition, tuple(tuple(sorted(x for z, x in sites if z == e)) for e in composition.elements)


@dataclass(frozen=True)
class Shelf:
    """Stored crystals of one pattern of counts, T entries with exchanges counted.

    Attributes:
        elements: by role, (T, k).
        kind: index into `kinds`, (T,).
        row: of the stored crystal, (T,).
        kinds: what signatures there are.
    """

    elements: Tensor
    kind: Tensor
    row: Tensor
    kinds: tuple[Kind, ...]

    @cached_property
    def index_of(self) -> dict[Kind, int]:
        """Place of each kind in `kinds`."""
        return {kind: i for i, kind in enumerate(self.kinds)}


class Library:
    """All stored crystals by pattern of counts; a shelf is put up when it is first asked for."""

    def __init__(self, signatures: Sequence[tuple[int, Sites]]) -> None:
        """Args: signatures: space group and sites of each stored crystal, in order."""
        self._entries: dict[Counts, list[tuple[int, Composition, int, tuple[tuple[str, ...], ...]]]] = {}
        for row, (spacegroup, sites) in enumerate(signatures):
            composition, letters = described(spacegroup, sites)
            self._entries.setdefault(composition.counts, []).append((row, composition, spacegroup, letters))
        self._shelves: dict[Counts, Shelf] = {}

    def __iter__(self) -> Iterator[Counts]:
        """Patterns that are stored."""
        return iter(self._entries)

    def shelf(self, counts: Counts) -> Shelf | None:
        """The crystals of this pattern; None where there is none."""
        if counts not in self._entries:
            return None
        if counts not in self._shelves:
            kinds: dict[Kind, int] = {}
            elements, kind, rows = [], [], []
            for row, composition, spacegroup, letters in self._entries[counts]:
                for order in composition.exchanges:
                    found = kind_of(spacegroup, tuple(letters[i] for i in order))
                    elements.append([composition.elements[i] for i in order])
                    kind.append(kinds.setdefault(found, len(kinds)))
                    rows.append(row)
            self._shelves[counts] = Shelf(torch.tensor(elements), torch.tensor(kind), torch.tensor(rows), tuple(kinds))
        return self._shelves[counts]


def with_elements(template: WyckoffCrystal, new_of: dict[int, int], scale: float) -> WyckoffCrystal:
    """The crystal with its elements exchanged, its edges times `scale`."""
    order = sorted(
        range(len(template.signature.sites)),
        key=lambda i: (new_of[template.signature.sites[i][0]], template.signature.sites[i][1], i),
    )
    sites = tuple((new_of[template.signature.sites[i][0]], template.signature.sites[i][1]) for i in order)
    cell = template.cell * np.array([scale, scale, scale, 1, 1, 1])
    return WyckoffCrystal(Signature(template.signature.spacegroup, sites), cell, template.xyz[order])
