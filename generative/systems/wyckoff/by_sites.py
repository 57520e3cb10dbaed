"""Stored kinds with the numbers of inequivalent sites that are asked for, whatever atoms these stand for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from generative.systems.wyckoff.kinds import Composition, Counts
from generative.systems.wyckoff.library import Library


def kinds_with_sites(library: Library, group: int, sites: Mapping[int, int]) -> dict[Composition, list[int]]:
    """Kinds of a space group with so many sites of each element, by what their primitive cells then hold.

    Args:
        library: of the kinds.
        group: international number; of an enantiomorphic pair the lower one.
        sites: inequivalent sites by atomic number.

    Returns: rows of the kinds, ascending. A kind whose roles the elements can share in several ways stands at several
        compositions.
    """
    found: dict[Composition, list[int]] = defaultdict(list)
    wanted = sorted(sites.values())
    for row in (library.kind_group == group).nonzero()[:, 0].tolist():
        if sorted(library.n_sites[row]) == wanted:
            for elements in _assignments(sites, library.n_sites[row], library.counts[row]):
                found[Composition(elements, library.counts[row])].append(row)
    return found


def _assignments(
    sites: Mapping[int, int], n_sites: tuple[int, ...], counts: Counts, begun: tuple[int, ...] = ()
) -> Iterator[tuple[int, ...]]:
    """Elements by role, such that each has its number of sites; ascending where counts are equal, as roles are."""
    role = len(begun)
    if role == len(counts):
        yield begun
        return
    above = begun[-1] if role and counts[role] == counts[role - 1] else 0
    for z in sorted(sites):
        if z > above and z not in begun and sites[z] == n_sites[role]:
            yield from _assignments(sites, n_sites, counts, (*begun, z))
