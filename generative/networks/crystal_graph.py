"""A crystal as a graph: each atom with its twelve nearest neighbours, periodic images told apart.

Conventions: lattice vectors are rows, angstrom; an edge e runs from atom `source[e]` to the image `image[e]` of atom
`target[e]`; its length is |r[target] + image @ cell - r[source]|.

"The twelve nearest" is no function of a crystal where the twelfth and the thirteenth are equally far, as in bcc metals
or rock salt: which of them is taken then depends on rounding and on the order of atoms. Here all atoms of that last
shell are edges, and share the places that are left: each counts `places / atoms of the shell`, which is the mean over
all ways to choose. So the graph is the same in any orientation, origin, order of atoms and supercell.

Source: CGCNN (arXiv:1710.10324), whose code takes the twelve nearest within 8 A in the order of the search.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from generative.crystal.crystals import Crystal

N_NEIGHBOURS = 12
CUTOFF_ANG = 8.0
"""Both as in CGCNN's code."""
SHELL_ANG = 0.01
"""Neighbours no further from the twelfth than this are of its shell: above the noise of relaxed coordinates."""
Z_MAX = 103
_BLOCK = 2_000_000  # distances at a time: 16 MB
_IMAGES_MAX = 200_000


class NoGraphError(ValueError):
    """A crystal that is no graph; the message is the reason."""


@dataclass(frozen=True, eq=False)
class CrystalGraph:
    """One crystal's atoms and edges, n atoms and e edges.

    Attributes:
        atomic_numbers: (n,), int64.
        source, target: atom indices, (e,), int64; by source, and from near to far.
        image: lattice translation of the target, (e, 3), int64.
        distance_ang: (e,), angstrom.
        weight: part of a neighbour that the edge counts for, (e,), in (0, 1]; an atom's sum to N_NEIGHBOURS, or to the
            number of its neighbours within the cut-off if there are fewer.
    """

    atomic_numbers: np.ndarray
    source: np.ndarray
    target: np.ndarray
    image: np.ndarray
    distance_ang: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True, eq=False)
class Edges:
    """All directed pairs within a distance; as in CrystalGraph."""

    source: np.ndarray
    target: np.ndarray
    image: np.ndarray
    distance_ang: np.ndarray


def crystal_graph(crystal: Crystal) -> CrystalGraph:
    """The graph of a crystal.

    Raises: NoGraphError: if an atomic number is outside 1-103, the cell has no volume or is too flat to search, or an
        atom has no neighbour within the cut-off.
    """
    numbers = np.asarray(crystal.atomic_numbers, dtype=np.int64)
    cell = np.asarray(crystal.lattice_ang, dtype=float)
    frac = np.asarray(crystal.frac, dtype=float)
    _check(numbers, cell, frac)
    density = len(numbers) / abs(float(np.linalg.det(cell)))
    # A sphere that holds the neighbours wanted in an even arrangement and some more; widened where it does not.
    reach_ang = min(CUTOFF_ANG, 1.2 * (3 * N_NEIGHBOURS / (4 * math.pi * density)) ** (1 / 3) + 0.5)
    while True:
        edges = pairs_within(frac, cell, reach_ang)
        last_ang = _last_of_the_nearest(edges, len(numbers))
        if reach_ang >= CUTOFF_ANG or bool((last_ang + SHELL_ANG <= reach_ang).all()):
            break
        reach_ang = min(CUTOFF_ANG, 1.35 * reach_ang)
    lonely = np.flatnonzero(np.bincount(edges.source, minlength=len(numbers)) == 0)
    if len(lonely):
        raise NoGraphError(
            f"atom {lonely[0]} has no neighbour within {CUTOFF_ANG:g} A: expected a crystal, not atoms far apart"
        )
    return _nearest(edges, last_ang, numbers)


def pairs_within(frac: np.ndarray, cell_ang: np.ndarray, reach_ang: float) -> Edges:
    """All pairs of atoms up to `reach_ang` apart, an atom with itself at distance zero excepted.

    Args:
        frac: fractional coordinates, (n, 3).
        cell_ang: lattice rows, (3, 3), angstrom.
        reach_ang: longest distance, angstrom.
    Returns: edges by source, then by distance.
    Raises: NoGraphError: if the cell is so flat that the images within reach are too many.
    """
    # |frac_k| <= reach |column k of the inverse|; differences are first wrapped into +-1/2.
    half = np.floor(reach_ang * np.linalg.norm(np.linalg.inv(cell_ang), axis=0) + 0.5)
    n_images = float(np.prod(2 * half + 1))
    if not n_images <= _IMAGES_MAX:
        raise NoGraphError(
            f"a search through {n_images:.2g} images of the cell: expected at most {_IMAGES_MAX:,}, so the cell is "
            "nearly flat or far from reduced"
        )
    axes = [np.arange(-int(h), int(h) + 1) for h in half]
    images = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    shifts_ang = images @ cell_ang
    blocks = []
    step = max(1, _BLOCK // (len(frac) * len(images)))
    for begin in range(0, len(frac), step):
        blocks.append(_pairs_of(frac[begin : begin + step], begin, frac, cell_ang, images, shifts_ang, reach_ang))
    source, target, image, distance = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    order = np.lexsort((distance, source))
    return Edges(source[order], target[order], image[order], distance[order])


def _pairs_of(
    rows: np.ndarray,
    begin: int,
    frac: np.ndarray,
    cell_ang: np.ndarray,
    images: np.ndarray,
    shifts_ang: np.ndarray,
    reach_ang: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs whose sources are `rows`, the atoms from `begin` on."""
    delta = frac[None] - rows[:, None]  # (r, n, 3)
    turn = np.rint(delta)
    near_ang = (delta - turn) @ cell_ang
    # |d + s|^2 expanded: two small products instead of an (r, n, m, 3) array; candidates are measured again below.
    squared = (near_ang**2).sum(-1)[..., None] + 2 * near_ang @ shifts_ang.T + (shifts_ang**2).sum(-1)  # (r, n, m)
    source, target, which = np.nonzero(squared <= (reach_ang + 1e-6) ** 2)
    distance = np.linalg.norm(near_ang[source, target] + shifts_ang[which], axis=1)
    image = images[which] - turn[source, target].astype(np.int64)
    source += begin
    kept = (distance <= reach_ang) & ((source != target) | image.any(axis=1))
    return source[kept], target[kept], image[kept], distance[kept]


def _check(numbers: np.ndarray, cell_ang: np.ndarray, frac: np.ndarray) -> None:
    if not len(numbers):
        raise NoGraphError("the crystal has no atoms: expected at least one")
    if not (np.isfinite(cell_ang).all() and np.isfinite(frac).all()):
        raise NoGraphError("the lattice or the coordinates are not finite: expected numbers")
    outside = numbers[(numbers < 1) | (numbers > Z_MAX)]
    if len(outside):
        raise NoGraphError(f"atomic number {outside[0]}: expected 1 to {Z_MAX}")
    volume_ang3 = abs(float(np.linalg.det(cell_ang)))
    if not volume_ang3 > 1e-6:
        raise NoGraphError(f"the cell's volume is {volume_ang3:.3g} A^3: expected three vectors that span space")


def _last_of_the_nearest(edges: Edges, n_atoms: int) -> np.ndarray:
    """Distance of each atom's twelfth neighbour, (n,); infinite where there are fewer edges."""
    counts = np.bincount(edges.source, minlength=n_atoms)
    enough = np.flatnonzero(counts >= N_NEIGHBOURS)
    last_ang = np.full(n_atoms, math.inf)
    last_ang[enough] = edges.distance_ang[(np.cumsum(counts) - counts)[enough] + N_NEIGHBOURS - 1]
    return last_ang


def _nearest(edges: Edges, last_ang: np.ndarray, numbers: np.ndarray) -> CrystalGraph:
    last = last_ang[edges.source]
    kept = edges.distance_ang <= last + SHELL_ANG
    source, distance, last = edges.source[kept], edges.distance_ang[kept], last[kept]
    in_shell = np.isfinite(last) & (distance >= last - SHELL_ANG)
    n_inside = np.bincount(source[~in_shell], minlength=len(numbers))
    n_shell = np.bincount(source[in_shell], minlength=len(numbers))
    share = (N_NEIGHBOURS - n_inside) / np.maximum(n_shell, 1)
    weight = np.where(in_shell, share[source], 1.0)
    return CrystalGraph(numbers, source, edges.target[kept], edges.image[kept], distance, weight)
