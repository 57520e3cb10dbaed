"""Which numbers of atoms the Wyckoff positions of a space group can hold.

A position without a free coordinate holds one orbit; any other holds as many as one likes. So how many atoms of each
element a cell has decides whether a crystal of that group can have them at all, before anything is known of it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache

from generative.crystal.wyckoff import space_group


def holds(spacegroup: int, counts: Iterable[int]) -> bool:
    """Whether a crystal of this group can have so many atoms of each element in some cell, primitive or not.

    Necessary, not sufficient: a crystal whose atoms all lie on positions without freedom may have more symmetry still.

    Args:
        spacegroup: international number.
        counts: atoms per element; 1 or more. A cell of m primitive cells holds m times theirs.

    Raises: ValueError: if the number is none of 1 to 230.
    """
    atoms = tuple(sorted(counts))
    whole = math.gcd(*atoms)
    return any(primitive_holds(spacegroup, tuple(n // m for n in atoms)) for m in range(1, whole + 1) if whole % m == 0)


@cache
def _multiplicities(spacegroup: int) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    """Of the primitive cell: those with freedom, ascending; those without, each with how many positions have it."""
    positions = space_group(spacegroup).positions.values()
    free = tuple(sorted({p.multiplicity for p in positions if p.free.any()}))
    fixed = Counter(p.multiplicity for p in positions if not p.free.any())
    return free, tuple(sorted(fixed.items()))


@lru_cache(maxsize=100_000)
def primitive_holds(spacegroup: int, counts: tuple[int, ...]) -> bool:
    """The same for the atoms of a primitive cell: elements take their fixed positions one after the other."""
    free, fixed = _multiplicities(spacegroup)
    sums = _sums(free, counts[-1])
    left = {tuple(n for _, n in fixed)}
    for atoms in counts:
        left = {
            tuple(a - b for a, b in zip(there, taken, strict=True))
            for there in left
            for taken, rest in _taken([m for m, _ in fixed], there, atoms)
            if rest in sums
        }
    return bool(left)


def _taken(sizes: Sequence[int], there: Sequence[int], atoms: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """Every choice of fixed positions with at most so many atoms, by multiplicity, and the atoms that are left over."""
    if not sizes:
        yield (), atoms
        return
    for n in range(min(there[0], atoms // sizes[0]) + 1):
        for others, rest in _taken(sizes[1:], there[1:], atoms - n * sizes[0]):
            yield (n, *others), rest


@lru_cache(maxsize=1000)
def _sums(parts: tuple[int, ...], most: int) -> frozenset[int]:
    """0 and every sum of these, each as often as one likes, up to a limit."""
    found = {0}
    for total in range(1, most + 1):
        if any(total - part in found for part in parts):
            found.add(total)
    return frozenset(found)
