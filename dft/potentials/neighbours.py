"""Edges between atoms of periodic crystals, many crystals at a time, reused from step to step.

Conventions: N atoms of B crystals stand end to end; lattice vectors are rows, angstrom; an edge e runs from atom
`source[e]` to the periodic image `image[e]` of atom `target[e]`, and its vector is
`r[target] + image @ cell - r[source]`. Every edge has its reverse in the list.

A search through periodic images costs more than a small network, so each crystal keeps the edges within
`cutoff + skin` of a reference geometry. As long as a pair that was further apart cannot have come within the cutoff
(the bound is in `CrystalEdges.covers`), the edges within the cutoff are found among them by distance alone: the list is
exactly what a fresh search gives, whatever the strain of the cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pymatgen.optimization.neighbors import find_points_in_spheres
from torch import Tensor

SKIN_ANG = 0.6
"""Reuse against size: at 0.6 A a relaxation searches some five times in 100 steps and carries 1.4 times the edges."""

NEIGHBOURS_MAX = 1000
"""Most neighbours per atom, estimated from the density: five times those of diamond within 6.6 A. More means a
collapsed cell, whose edges and angles would fill the memory."""


class TooDenseError(ValueError):
    """A cell so small that its neighbour list would not fit in memory."""


def refuse_if_too_dense(n_atoms: int, cell_ang: np.ndarray, reach_ang: float) -> None:
    """Stop before a collapsed cell, lattice rows (3, 3), fills the memory with neighbours within the reach.

    Raises: TooDenseError: if an atom would have more than NEIGHBOURS_MAX neighbours.
    """
    volume = abs(np.linalg.det(cell_ang))
    if not np.isfinite(volume) or n_atoms * 4.19 * reach_ang**3 > NEIGHBOURS_MAX * volume:
        raise TooDenseError(
            f"{n_atoms} atoms in {volume:.3g} A^3 give more than {NEIGHBOURS_MAX} neighbours per atom within "
            f"{reach_ang:.1f} A: the cell has collapsed or its lattice is not in angstrom"
        )


@dataclass(frozen=True)
class CrystalEdges:
    """Edges of one crystal within `reach_ang` at a reference geometry.

    Attributes:
        reach_ang: cutoff plus skin, angstrom.
        cell_ang: reference lattice rows, (3, 3).
        frac: reference fractional coordinates, not wrapped, (n, 3).
        source, target: atom indices within the crystal, (e,), sorted by source.
        image: lattice translations of the target, (e, 3).
        reverse: index of each edge's reverse, (e,).
    """

    reach_ang: float
    cell_ang: np.ndarray
    frac: np.ndarray
    source: np.ndarray
    target: np.ndarray
    image: np.ndarray
    reverse: np.ndarray

    @classmethod
    def search(cls, cart_ang: np.ndarray, cell_ang: np.ndarray, reach_ang: float) -> CrystalEdges:
        """All edges of length up to `reach_ang`.

        Args:
            cart_ang: positions, (n, 3), angstrom; need not lie in the cell.
            cell_ang: lattice rows, (3, 3), angstrom.
            reach_ang: longest edge, angstrom.

        Raises:
            TooDenseError: if an atom would have more than NEIGHBOURS_MAX neighbours.
        """
        refuse_if_too_dense(len(cart_ang), cell_ang, reach_ang)
        cart_ang, cell_ang = np.ascontiguousarray(cart_ang, dtype=float), np.ascontiguousarray(cell_ang, dtype=float)
        source, target, image, distance = find_points_in_spheres(
            cart_ang, cart_ang, r=reach_ang, pbc=np.ones(3, dtype=np.int64), lattice=cell_ang, tol=1e-8
        )
        other = (source != target) | np.any(image != 0, axis=1)
        source, target, image = source[other], target[other], np.rint(image[other]).astype(np.int64)
        source, target, image, reverse = _with_reverse(source, target, image)
        return cls(reach_ang, cell_ang.copy(), cart_ang @ np.linalg.inv(cell_ang), source, target, image, reverse)

    def covers(self, cart_ang: np.ndarray, cell_ang: np.ndarray, cutoff_ang: float) -> bool:
        """Whether every pair within `cutoff_ang` of the given geometry is among these edges.

        With F the deformation from the reference cell and u an atom's displacement beyond it, a pair once d apart is
        now at least s d - 2 max|u| apart, s the smallest singular value of F; so s (cutoff + skin) - 2 max|u| >= cutoff
        leaves no room for a pair outside the list.
        """
        smallest = np.linalg.svd(np.linalg.solve(self.cell_ang, cell_ang), compute_uv=False)[-1]
        moved = cart_ang - self.frac @ cell_ang
        moved -= moved.mean(axis=0)  # a common shift moves no pair
        furthest = np.sqrt((moved**2).sum(axis=1).max())
        return bool(smallest * self.reach_ang - 2.0 * furthest >= cutoff_ang)


def _with_reverse(
    source: np.ndarray, target: np.ndarray, image: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Edges sorted by (source, target, image) with the index of each one's reverse.

    An edge whose reverse the search missed (its length equals the reach to the last bit) is dropped: it lies in the
    skin, where nothing is computed from it.
    """
    there = _keys(source, target, image)
    back = _keys(target, source, -image)
    paired = np.isin(there, back, assume_unique=True)
    source, target, image, there, back = source[paired], target[paired], image[paired], there[paired], back[paired]
    order = np.argsort(there)
    source, target, image, there, back = source[order], target[order], image[order], there[order], back[order]
    return source, target, image, np.searchsorted(there, back)


def _keys(source: np.ndarray, target: np.ndarray, image: np.ndarray) -> np.ndarray:
    """One integer per directed edge, ordered by source first; images up to +-1023 and 2^15 atoms."""
    key = source.astype(np.int64) << 48 | target.astype(np.int64) << 33
    shifted = image + 1024
    joined: np.ndarray = key | shifted[:, 0] << 22 | shifted[:, 1] << 11 | shifted[:, 2]
    return joined


@dataclass(frozen=True)
class EdgeBatch:
    """Edges within the cutoff, of all crystals of a batch.

    Attributes:
        source, target: atom indices in the batch, (E,), int64, sorted by source.
        vector_ang: from source to target, (E, 3), angstrom, in the network's dtype.
        reverse: index of each edge's reverse, (E,).
    """

    source: Tensor
    target: Tensor
    vector_ang: Tensor
    reverse: Tensor


@dataclass(frozen=True)
class _Candidates:
    """The candidate edges of a batch on the device."""

    source: Tensor
    target: Tensor
    image: Tensor
    reverse: Tensor
    crystal: Tensor


class NeighbourLists:
    """Neighbour lists of the crystals in a batch, searched again only where a crystal has moved too far."""

    def __init__(self, cutoff_ang: float, skin_ang: float = SKIN_ANG) -> None:
        self.cutoff_ang = cutoff_ang
        self.skin_ang = skin_ang
        self.n_searches = 0
        self._lists: list[CrystalEdges | None] = []
        self._candidates: _Candidates | None = None

    def keep(self, crystals: Sequence[int]) -> None:
        """Forget all crystals but these, which take the places 0, 1, ... in this order."""
        self._lists = [self._lists[i] for i in crystals]
        self._candidates = None

    def extend(self, n_crystals: int) -> None:
        """Make places for new crystals at the end of the batch."""
        self._lists.extend([None] * n_crystals)
        self._candidates = None

    def edges(self, cart_ang: Tensor, cell_ang: Tensor, counts: Sequence[int], dtype: torch.dtype) -> EdgeBatch:
        """Edges within the cutoff.

        Args:
            cart_ang: positions of all atoms, (N, 3), float64.
            cell_ang: lattice rows, (B, 3, 3), float64.
            counts: atoms per crystal.
            dtype: of the vectors returned.

        Raises:
            TooDenseError: if a cell has collapsed.
            ValueError: if the number of crystals is not that of the lists.
        """
        if len(counts) != len(self._lists):
            raise ValueError(
                f"{len(counts)} crystals for {len(self._lists)} neighbour lists: call keep or extend first"
            )
        self._refresh(cart_ang, cell_ang, counts)
        candidates = self._candidates or self._gather(counts, cart_ang.device)
        self._candidates = candidates
        vector = cart_ang.index_select(0, candidates.target) - cart_ang.index_select(0, candidates.source)
        vector += torch.bmm(candidates.image.unsqueeze(1), cell_ang.index_select(0, candidates.crystal)).squeeze(1)
        within = vector.square().sum(dim=1) <= self.cutoff_ang**2
        within &= within.index_select(0, candidates.reverse)  # the two directions round differently at the cutoff
        chosen = within.nonzero().squeeze(1)
        position = torch.cumsum(within, dim=0) - 1
        return EdgeBatch(
            candidates.source.index_select(0, chosen),
            candidates.target.index_select(0, chosen),
            vector.index_select(0, chosen).to(dtype),
            position.index_select(0, candidates.reverse.index_select(0, chosen)),
        )

    def _refresh(self, cart_ang: Tensor, cell_ang: Tensor, counts: Sequence[int]) -> None:
        cart, cells = cart_ang.detach().cpu().numpy(), cell_ang.detach().cpu().numpy()
        stop = 0
        for i, n_atoms in enumerate(counts):
            rows, stop = cart[stop : stop + n_atoms], stop + n_atoms
            known = self._lists[i]
            if known is None or not known.covers(rows, cells[i], self.cutoff_ang):
                self._lists[i] = CrystalEdges.search(rows, cells[i], self.cutoff_ang + self.skin_ang)
                self._candidates = None
                self.n_searches += 1

    def _gather(self, counts: Sequence[int], device: torch.device) -> _Candidates:
        lists = [edges for edges in self._lists if edges is not None]
        first_atom = np.cumsum([0, *counts[:-1]])
        sizes = [len(edges.source) for edges in lists]
        first_edge = np.cumsum([0, *sizes[:-1]])

        def joined(parts: list[np.ndarray]) -> Tensor:
            return torch.from_numpy(np.concatenate(parts)).to(device)

        return _Candidates(
            joined([edges.source + start for edges, start in zip(lists, first_atom, strict=True)]),
            joined([edges.target + start for edges, start in zip(lists, first_atom, strict=True)]),
            joined([edges.image.astype(float) for edges in lists]),
            joined([edges.reverse + start for edges, start in zip(lists, first_edge, strict=True)]),
            joined([np.full(size, i) for i, size in enumerate(sizes)]),
        )
