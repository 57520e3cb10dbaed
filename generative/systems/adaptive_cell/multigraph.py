"""The symmetry-consistent multigraph: sites, and edges to their nearest images under the group, for a whole batch.

An edge leads from site i to an image g j + T of site j, g an operation and T a translation of the cell. Every site has
edges to its n_neighbours nearest images and to all that are as far as the last of these, and every edge has its
inverse, j to g^-1 i: so a message can be sent back along each. An edge's vector lies in the frame of the site it
leaves; that of its inverse, -R_g^-1 v, is the same edge seen from the other end. Angles taken there do not depend on
which of equivalent sites was named.

Published: the authors take the nearest alone. Own images of a site come in groups of one length (those by g and g^-1,
the translations of a star), and which of a group was the last would hang on the order of images.

Shape letters as in operations.py; E edges, sorted by the site they leave. Source: arXiv:2310.10695, section 4.1, and
its code (80 nearest, images nearer than 0.15 A ignored).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from generative.systems.adaptive_cell.operations import SiteTable

NEAREST_ANG = 0.15
"""Images no further from a site than this are taken for the site itself."""

TIE_ANG = 1e-4
"""Images no further than this beyond the last neighbour are as far as it."""

_TIES = 48
"""How many those can be: as many as rotations."""

_CANDIDATES_AT_ONCE = 1 << 21
_REACH = 63  # cells on each side that are looked at, at most: a cell flatter than that has collapsed
_CODES = 2 * _REACH + 2


class GraphError(ValueError):
    """A crystal of which no graph can be made: its cell has collapsed, or numbers are not finite."""


@dataclass(frozen=True)
class Multigraph:
    """E directed edges.

    Attributes:
        source: site that is left, ascending, (E,).
        target: site whose image is met, (E,).
        frac: displacement in the conventional cell, seen from the source, (E, 3).
        vector_ang: the same, Cartesian, (E, 3).
        distance_ang: (E,).
        own_image: whether a site meets its own image under an operation that is no translation, (E,).
        reverse: place of the inverse edge, (E,).
        row: place in a table of `width` columns per site, (E,).
        width: most edges of a site.
    """

    source: Tensor
    target: Tensor
    frac: Tensor
    vector_ang: Tensor
    distance_ang: Tensor
    own_image: Tensor
    reverse: Tensor
    row: Tensor
    width: int

    def dense(self, values: Tensor, n_sites: int) -> Tensor:
        """Values of edges by site, (E, ...) -> (N, width, ...), zero where there is no edge."""
        spread: Tensor = values.new_zeros(n_sites * self.width, *values.shape[1:]).index_copy(0, self.row, values)
        return spread.reshape(n_sites, self.width, *values.shape[1:])


@torch.no_grad()
def multigraph(frac: Tensor, lattice_ang: Tensor, sites: SiteTable, n_neighbours: int = 80) -> Multigraph:
    """The graph of sites in their cells.

    Args:
        frac: of the sites in the conventional cells, (N, 3).
        lattice_ang: rows of the conventional cells, (B, 3, 3).
        sites: their groups.
        n_neighbours: nearest images of every site.

    Raises: GraphError: if a number is not finite, or a cell is flatter than its neighbours can be looked for.
    """
    images = sites.images(frac)
    pair, cell, taken = _nearest(frac, images, lattice_ang, sites, n_neighbours)
    one = _Edges.of(taken.nonzero()[:, 0], pair[taken], cell[taken], frac, images, sites)
    back = one.inverse(frac, images, sites)
    keys = torch.cat([one.key, back.key])
    unique, where = torch.unique(keys, return_inverse=True)
    # Any of equal edges will do; written last first, so that it is always the same one.
    place = torch.empty_like(unique).scatter_(0, where.flip(0), torch.arange(len(keys), device=keys.device).flip(0))
    both = one.joined(back).take(place)
    inverse_key = torch.cat([back.key, one.key])[place]
    vector_ang = (both.frac.unsqueeze(1) @ lattice_ang[sites.crystal[both.source]]).squeeze(1)
    n_edges = torch.bincount(both.source, minlength=len(frac))
    width = int(n_edges.max())
    column = torch.arange(len(unique), device=keys.device) - (n_edges.cumsum(0) - n_edges)[both.source]
    turned = (sites.rotation - torch.eye(3, dtype=frac.dtype, device=frac.device)).abs().amax((1, 2)) > 0.5
    return Multigraph(
        both.source,
        both.target,
        both.frac,
        vector_ang,
        vector_ang.norm(dim=1),
        (both.source == both.target) & turned[both.operation],
        torch.searchsorted(unique, inverse_key),
        both.source * width + column,
        width,
    )


@dataclass(frozen=True)
class _Edges:
    """Edges as they are found: `operation` counts through all crystals, `frac` is the displacement."""

    source: Tensor
    target: Tensor
    operation: Tensor
    frac: Tensor
    key: Tensor

    @classmethod
    def of(cls, source: Tensor, pair: Tensor, cell: Tensor, frac: Tensor, images: Tensor, sites: SiteTable) -> _Edges:
        """Edges by the image within the crystal that they lead to, and the cell beside that of the nearest."""
        image = sites.first_image[sites.crystal[source]] + pair
        nearest = _wrapped(images[image] - frac[source])
        key = _key(source, pair, cell, sites)
        return cls(source, sites.image_site[image], sites.image_operation[image], nearest + cell, key)

    def inverse(self, frac: Tensor, images: Tensor, sites: SiteTable) -> _Edges:
        """The same edges from their other ends."""
        crystal = sites.crystal[self.source]
        operation = sites.first_operation[crystal] + sites.inverse[self.operation]
        displacement = -(sites.rotation[operation] @ self.frac.unsqueeze(2)).squeeze(2)
        pair = (self.source - sites.first_site[crystal]) * sites.n_operations[crystal]
        pair = pair + sites.inverse[self.operation]
        nearest = _wrapped(images[sites.first_image[crystal] + pair] - frac[self.target])
        cell = (displacement - nearest).round()
        return _Edges(self.target, self.source, operation, displacement, _key(self.target, pair, cell, sites))

    def joined(self, other: _Edges) -> _Edges:
        return _Edges(*(torch.cat([getattr(self, n), getattr(other, n)]) for n in self.__dataclass_fields__))

    def take(self, place: Tensor) -> _Edges:
        return _Edges(*(getattr(self, name)[place] for name in self.__dataclass_fields__))


def _key(source: Tensor, pair: Tensor, cell: Tensor, sites: SiteTable) -> Tensor:
    """A number of each edge's own, rising with its source."""
    a, b, c = (cell.long() + _REACH + 1).unbind(1)
    return (((sites.first_pair[source] + pair) * _CODES + a) * _CODES + b) * _CODES + c


def _wrapped(frac: Tensor) -> Tensor:
    return frac - frac.round()


def _nearest(
    frac: Tensor, images: Tensor, lattice_ang: Tensor, sites: SiteTable, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The k nearest images of every site, and those as far as the last: which of its crystal's, (N, k + _TIES), in
    which cell, (N, k + _TIES, 3), and which of these entries are meant, (N, k + _TIES).

    Displacements are wrapped, and cells within a box about that looked at. What lies outside a box of t cells a side is
    further away than (t + 1/2) heights of the cell. A first box is guessed from the density; the k-th distance in it is
    no less than the true one, so a second box with that reach holds all.
    """
    heights = 1 / torch.linalg.inv(lattice_ang).norm(dim=1)  # between planes of each axis, (B, 3)
    density = sites.n_sites * sites.n_operations / torch.linalg.det(lattice_ang).abs()
    reach = 1.2 * (3 * k / (4 * torch.pi * density)).pow(1 / 3)
    pair = torch.zeros(len(frac), k + _TIES, dtype=torch.long, device=frac.device)
    cell = torch.zeros(len(frac), k + _TIES, 3, dtype=frac.dtype, device=frac.device)
    taken = torch.zeros_like(pair, dtype=torch.bool)
    box = torch.zeros(len(sites), 3, dtype=torch.long, device=frac.device)
    left = torch.ones(len(sites), dtype=torch.bool, device=frac.device)
    while left.any():
        wanted = torch.ceil(reach.unsqueeze(1) / heights - 0.5)
        if not bool((wanted[left] <= _REACH).all()):  # nor is NaN
            raise GraphError(
                f"the cells beside a cell that reach {reach[left].max():.3g} A are more than {_REACH} to a side, "
                "or numbers are not finite: the cell has collapsed"
            )
        box = torch.where(left.unsqueeze(1), torch.maximum(wanted.long().clamp_min(0), box), box)
        furthest = torch.zeros(len(frac), dtype=frac.dtype, device=frac.device)
        for rows, size in _chunks(left, box, sites):
            at, away, where, furthest[rows] = _in_box(rows, size, frac, images, lattice_ang, sites, k)
            n = at.shape[1]
            pair[rows, :n], cell[rows, :n], taken[rows, :n] = at, away, where
        worst = torch.zeros_like(reach).scatter_reduce(0, sites.crystal, furthest, "amax")
        seen = ((box + 0.5) * heights).amin(1)
        few = worst.isinf()
        reach = torch.where(few, 1.5 * seen, worst)
        left = left & (few | (worst > seen * (1 - 1e-6)))
    return pair, cell, taken


def _chunks(left: Tensor, box: Tensor, sites: SiteTable) -> list[tuple[Tensor, tuple[int, int, int]]]:
    """Sites of crystals that are left, by size of box and number of images, in parts that fit into memory."""
    images = sites.n_sites * sites.n_operations
    found = []
    for size in torch.unique(box[left], dim=0):
        chosen = (left & (box == size).all(1))[sites.crystal].nonzero()[:, 0]
        chosen = chosen[images[sites.crystal[chosen]].argsort(stable=True)]
        n_cells = int((2 * size + 1).prod())
        cost = images[sites.crystal[chosen]] * n_cells
        while len(chosen):
            # The last of a part is its widest, and all are as wide as that.
            fits = cost * torch.arange(1, len(cost) + 1, device=cost.device) <= _CANDIDATES_AT_ONCE
            alike = cost <= 2 * cost[0]
            n = max(1, int((fits & alike).sum()))
            found.append((chosen[:n], (int(size[0]), int(size[1]), int(size[2]))))
            chosen, cost = chosen[n:], cost[n:]
    return found


def _in_box(
    rows: Tensor,
    size: tuple[int, int, int],
    frac: Tensor,
    images: Tensor,
    lattice_ang: Tensor,
    sites: SiteTable,
    k: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The k nearest images of some sites within a box of cells, and those as far: image, cell, whether it is meant, and
    how far the last are (infinite where there are fewer).
    """
    crystal = sites.crystal[rows]
    n_images = (sites.n_sites * sites.n_operations)[crystal]
    within = torch.arange(int(n_images.max()), device=rows.device)
    there = within < n_images.unsqueeze(1)
    place = sites.first_image[crystal].unsqueeze(1) + torch.where(there, within, 0)
    lattice = lattice_ang[crystal]
    nearest = _wrapped(images[place] - frac[rows].unsqueeze(1)) @ lattice  # (n, M, 3)
    axes = [torch.arange(-t, t + 1, dtype=frac.dtype, device=frac.device) for t in size]
    cells = torch.cartesian_prod(*axes)
    shifts = cells @ lattice  # (n, T, 3)
    square = torch.baddbmm(nearest.square().sum(2, keepdim=True), nearest, shifts.transpose(1, 2), alpha=2)
    square += shifts.square().sum(2).unsqueeze(1)
    square.masked_fill_(~there.unsqueeze(2) | (square < NEAREST_ANG**2), torch.inf)
    flat = square.flatten(1)
    least, where = flat.topk(min(k + _TIES, flat.shape[1]), dim=1, largest=False, sorted=True)
    last = least[:, k - 1] if least.shape[1] >= k else least.new_full((len(rows),), torch.inf)
    last = last.sqrt() + TIE_ANG
    taken = (least.sqrt() <= last.unsqueeze(1)) & least.isfinite()
    return where // len(cells), cells[where % len(cells)], taken, last
