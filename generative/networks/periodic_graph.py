"""Neighbours across cell boundaries of a ragged batch of crystals, on the device of its tensors, and their triplets.

Shape letters: B crystals, A atoms of all crystals end to end, P ordered pairs of atoms of one crystal, E edges, T
triplets, R rows of _WIDTH images, each for one pair.

Conventions: lattice vectors are rows, angstrom. A message runs source -> target; the edge's vector points back, from
the target to the image of the source: (frac[source] + image - frac[target]) @ lattice.

Sources: the limits and the symmetric graph are those of GemNet-T in CDVAE (arXiv:2110.06197); the images that are
looked at, the rule for ties and the outcome for strange cells are ours.
"""

from __future__ import annotations

import itertools
from typing import Literal, NamedTuple

import torch
from torch import Tensor

SELF_ANG2 = 1e-4
"""Atoms no further apart than this, squared, are one atom: no edge."""
N_IMAGES_MAX = 1000
"""Of one cell. A cell of 10 A^3 has some 250 images within 7 A, so only collapsed or very flat cells have more."""
_N_BOX_MAX = 20_000  # images looked at, once, to find those
_WIDTH = 32  # images that are measured together
_N_ROWS_AT_A_TIME = 1 << 14  # times _WIDTH is 2 MB a tensor: within a processor's cache, however large the batch


class Edges(NamedTuple):
    """E directed edges.

    Attributes:
        source, target: atom indices, (E,), int64; a message runs source -> target.
        image: the cell the source stands in, relative to the target's, (E, 3), int64.
        vector_ang: from the target to the source's image, (E, 3), angstrom.
        distance_ang: its length, (E,), angstrom.
        reverse: index of the edge that runs the other way, (E,), int64; None where edges do not come in such pairs.
    """

    source: Tensor
    target: Tensor
    image: Tensor
    vector_ang: Tensor
    distance_ang: Tensor
    reverse: Tensor | None = None


def measured(
    frac: Tensor,
    lattice_ang: Tensor,
    crystal: Tensor,
    source: Tensor,
    target: Tensor,
    image: Tensor,
    reverse: Tensor | None = None,
) -> Edges:
    """Edges with vectors and lengths, differentiable by coordinates and lattice.

    Args:
        frac: fractional coordinates, (A, 3); need not be wrapped, so long as `image` is meant for them as they are.
        lattice_ang: rows, (B, 3, 3), angstrom.
        crystal: index of each atom's crystal, (A,), int64.
        source: as target, image and reverse, what Edges says.
        target: see source.
        image: see source.
        reverse: see source.
    """
    steps = frac.index_select(0, source) - frac.index_select(0, target) + image.to(frac.dtype)
    vector_ang = _matmul_rows(steps, lattice_ang.index_select(0, crystal.index_select(0, target)))
    return Edges(source, target, image, vector_ang, torch.linalg.vector_norm(vector_ang, dim=1), reverse)


class NeighbourSearch:
    """All pairs of atoms within a distance, or each atom's nearest, of crystals whose cells stay as they are.

    What depends on the cells alone is done once, at construction: the images that can come within the cut-off.

    Where an atom has more than `max_neighbours`, the nearest are edges to it; of equally near ones (squared distances
    equal in single precision) those of the lower source index, then of the image that comes first in lexicographic
    order. `symmetric` keeps of that graph the edges whose source stands before their target in the batch, or that join
    an atom to its own image in a cell that comes before (0, 0, 0) in lexicographic order, and adds their reverses: so
    an atom may lose neighbours and may get more than `max_neighbours`.

    An atom with nothing in reach has no edge, and neither has an atom whose coordinates are not finite; no edges at
    all is an answer like any other.
    """

    def __init__(
        self,
        lattice_ang: Tensor,
        n_atoms: Tensor,
        cutoff_ang: float,
        max_neighbours: int | None = None,
        images: Literal["all", "paper"] = "all",
        symmetric: bool = False,
    ) -> None:
        """Prepare the search.

        Args:
            lattice_ang: rows, (B, 3, 3), angstrom; either hand, and without volume too.
            n_atoms: atoms per crystal, (B,), int64.
            cutoff_ang: longest distance, angstrom.
            max_neighbours: edges to an atom at most; None is no limit.
            images: "all" finds every pair within the cut-off. A cell with more than N_IMAGES_MAX images in reach
                (collapsed, flat as a sheet, or at 7 A of less than some 2 A^3) is searched to the 26 images around the
                nearest one along each axis only. "paper" looks, as CDVAE does, at offsets of -1, 0 and 1 from the
                wrapped coordinates, which misses neighbours in cells with an edge below the cut-off.
            symmetric: each edge with its reverse, as above.
        Raises: ValueError: if a lattice is not finite, or the cut-off or the limit is not positive.
        """
        if images not in ("all", "paper"):
            raise ValueError(f'images is {images!r}: expected "all" or "paper"')
        if not cutoff_ang > 0 or (max_neighbours is not None and max_neighbours < 1):
            raise ValueError(
                f"cut-off {cutoff_ang} A, at most {max_neighbours} neighbours: expected a length above zero, and one "
                "neighbour or more, or None for no limit"
            )
        wild = ~lattice_ang.isfinite().flatten(1).all(1)
        if wild.any():
            raise ValueError(
                f"the lattice of crystal {int(wild.nonzero()[0, 0])} of {len(lattice_ang)} is not finite: expected "
                "lengths in angstrom; has the network that predicts lattices diverged?"
            )
        self.cutoff_ang, self.max_neighbours = float(cutoff_ang), max_neighbours
        self._nearest_image, self._symmetric = images == "all", symmetric
        self._lattice_ang = lattice_ang
        self.crystal = _repeated(n_atoms)
        with torch.no_grad():
            self._prepare_images(lattice_ang.detach(), images)
            self._prepare_rows(n_atoms)
            likely = _likely_reach_ang2(lattice_ang.detach(), n_atoms, self.cutoff_ang, max_neighbours)
            self._row_reach_ang2 = likely[self.crystal[self._row_target]].unsqueeze(1)  # (R, 1)

    def _prepare_images(self, lattice_ang: Tensor, images: Literal["all", "paper"]) -> None:
        """Images in reach of each cell, in blocks: _image (blocks * _WIDTH, 3), _shift_ang (3, blocks, _WIDTH)."""
        crystal, image = _images_in_reach(lattice_ang, self.cutoff_ang, images)
        n_images = entries_per_atom(crystal, len(lattice_ang))
        self._n_blocks = (n_images + _WIDTH - 1) // _WIDTH  # (B,)
        self._first_block = self._n_blocks.cumsum(0) - self._n_blocks
        place = places_in_group(n_images, crystal) + self._first_block[crystal] * _WIDTH
        length = int(self._n_blocks.sum()) * _WIDTH
        self._image = image.new_zeros(length, 3).index_copy_(0, place, image)
        shift_ang = _matmul_rows(image.to(lattice_ang.dtype), lattice_ang[crystal])
        # Infinitely far is never within reach.
        padded = shift_ang.new_full((length, 3), torch.inf).index_copy_(0, place, shift_ang)
        self._shift_ang = padded.reshape(-1, _WIDTH, 3).permute(2, 0, 1).contiguous()

    def _prepare_rows(self, n_atoms: Tensor) -> None:
        """Pairs by target, then source; rows by pair, then block; and where to cut rows so that no target is cut."""
        partners = n_atoms[self.crystal]  # (A,)
        self._pair_target = _repeated(partners)
        pair_crystal = self.crystal[self._pair_target]
        first = n_atoms.cumsum(0) - n_atoms
        self._pair_source = first[pair_crystal] + places_in_group(partners, self._pair_target)
        self._pair_lattice_ang = self._lattice_ang.detach()[pair_crystal]
        blocks = self._n_blocks[pair_crystal]
        self._row_pair = _repeated(blocks)
        self._row_block = self._first_block[pair_crystal][self._row_pair] + places_in_group(blocks, self._row_pair)
        self._row_target = self._pair_target[self._row_pair]
        ends = (n_atoms * self._n_blocks)[self.crystal].cumsum(0)  # rows up to each target
        cuts = [0]
        if len(self._row_pair):
            portion = (ends - 1) // _N_ROWS_AT_A_TIME
            last = torch.cat([portion[1:] != portion[:-1], portion.new_ones(1, dtype=torch.bool)])
            cuts += ends[last].tolist()
        self._portions = list(itertools.pairwise(cuts))

    def __call__(self, frac: Tensor) -> Edges:
        """Edges of the crystals with these fractional coordinates, (A, 3), by target, then source, then image.

        Coordinates need not be wrapped; vectors and lengths are differentiable by them, and by the lattice given.
        """
        with torch.no_grad():
            source, target, image, key = self._within_reach(frac.detach())
            if self.max_neighbours is not None:
                nearest = _nearest(target, key, len(frac), self.max_neighbours)
                source, target, image = (t.index_select(0, nearest) for t in (source, target, image))
            reverse = None
            if self._symmetric:
                source, target, image, reverse = _with_reverses(source, target, image)
        return measured(frac, self._lattice_ang, self.crystal, source, target, image, reverse)

    def _within_reach(self, frac: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Source, target, image and squared distance of all that may be among the edges."""
        difference = frac.index_select(0, self._pair_source) - frac.index_select(0, self._pair_target)  # (P, 3)
        if self._nearest_image:
            turn = difference.round()
        else:
            cell = frac.floor()
            turn = cell.index_select(0, self._pair_source) - cell.index_select(0, self._pair_target)
        vector_ang = _matmul_rows(difference - turn, self._pair_lattice_ang)
        places, squares = [], []
        for begin, end in self._portions:
            place, square = self._portion(vector_ang, begin, end)
            places.append(place + begin * _WIDTH)
            squares.append(square)
        if not places:
            none = self._pair_source[:0]
            return none, none, self._image[:0], vector_ang[:0, 0]
        place = torch.cat(places)
        row = place // _WIDTH
        pair = self._row_pair.index_select(0, row)
        column = self._row_block.index_select(0, row) * _WIDTH + place % _WIDTH
        image = self._image.index_select(0, column) - turn.long().index_select(0, pair)
        source, target = self._pair_source.index_select(0, pair), self._pair_target.index_select(0, pair)
        return source, target, image, torch.cat(squares)

    def _portion(self, vector_ang: Tensor, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """Places in the rows from `begin` to `end`, end to end, of what is in reach, and squared distances."""
        block, pair = self._row_block[begin:end], self._row_pair[begin:end]
        start_ang = vector_ang.index_select(0, pair)  # (r, 3)
        squared: Tensor | None = None  # (r, _WIDTH)
        for axis in range(3):
            component = self._shift_ang[axis].index_select(0, block).add_(start_ang[:, axis, None])
            squared = component.square_() if squared is None else squared.addcmul_(component, component)
        assert squared is not None
        reach: Tensor | float = self.cutoff_ang**2
        in_reach = squared > SELF_ANG2
        if self.max_neighbours is not None:
            target, likely = self._row_target[begin:end], self._row_reach_ang2[begin:end]
            near = (in_reach & (squared <= likely)).view(torch.uint8).sum(1, dtype=torch.int32)
            counts = near.new_zeros(len(self.crystal)).index_add_(0, target, near)
            reach = torch.where((counts >= self.max_neighbours).index_select(0, target)[:, None], likely, reach)
        place = (in_reach & (squared <= reach)).flatten().nonzero().squeeze(1)
        return place, squared.flatten().index_select(0, place)


def triplets_through(edges: Edges, n_atoms_total: int, keep_returning: bool) -> tuple[Tensor, Tensor]:
    """Pairs of edges of which one ends where the other begins, (edge k -> j, edge j -> i): those of DimeNet's angles.

    Args:
        edges: in any order.
        n_atoms_total: A.
        keep_returning: False drops every pair with k = i, as DimeNet does, which made for molecules takes an image of
            an atom for the atom: cells of one or two atoms keep few triplets. True drops only the way back to the
            same place, k = i in the same cell.
    Returns: indices of edges, 2 of (T,), int64; by the second edge.
    """
    order = torch.argsort(edges.target, stable=True)
    counts = entries_per_atom(edges.target, n_atoms_total)
    ways = counts[edges.source]  # (E,)
    second = _repeated(ways)
    into = order[(counts.cumsum(0) - counts)[edges.source[second]] + places_in_group(ways, second)]
    back = edges.source[into] == edges.target[second]
    if keep_returning:
        back &= (edges.image[into] + edges.image[second] == 0).all(1)
    kept = (~back).nonzero().squeeze(1)
    return into[kept], second[kept]


def entries_per_atom(atom: Tensor, n_atoms_total: int) -> Tensor:
    """How often each atom stands in `atom`, (A,), int64; bincount, but without a wait for the device."""
    return atom.new_zeros(n_atoms_total).scatter_add_(0, atom, torch.ones_like(atom))


def places_in_group(counts: Tensor, group: Tensor) -> Tensor:
    """Number from 0 of each entry within its group; `group` ascends, and `counts` says how large each group is."""
    first = counts.cumsum(0) - counts
    return torch.arange(len(group), device=group.device) - first.index_select(0, group)


def _repeated(repeats: Tensor) -> Tensor:
    """Index 0 as often as repeats[0] says, then index 1, ..."""
    return torch.repeat_interleave(torch.arange(len(repeats), device=repeats.device), repeats)


def _matmul_rows(vectors: Tensor, matrices: Tensor) -> Tensor:
    """(n, 3) row vectors times (n, 3, 3).

    Not by a matrix product, which automatic mixed precision would round to three digits; and in one order of summation,
    so that opposite vectors give opposite results.
    """
    return (
        vectors[:, 0, None] * matrices[:, 0]
        + vectors[:, 1, None] * matrices[:, 1]
        + vectors[:, 2, None] * matrices[:, 2]
    )


def _likely_reach_ang2(lattice_ang: Tensor, n_atoms: Tensor, cutoff_ang: float, wanted: int | None) -> Tensor:
    """Square of the radius of a sphere that holds twice the wanted neighbours if atoms are spread evenly, (B,).

    Only a first guess that spares sorting the others; atoms with fewer in it are given all within the cut-off.
    """
    volume_ang3: Tensor = torch.linalg.det(lattice_ang).abs()
    radius_ang = (3 * 2 * (wanted or 0) / (4 * torch.pi) * volume_ang3 / n_atoms).pow(1 / 3)
    return radius_ang.clamp(max=cutoff_ang).square()


def _images_in_reach(lattice_ang: Tensor, cutoff_ang: float, images: Literal["all", "paper"]) -> tuple[Tensor, Tensor]:
    """Crystal (I,) and offset (I, 3) of every image in which an atom may be within the cut-off of one in the cell.

    By crystal, and in lexicographic order.
    """
    # Differences of fractional coordinates: to the nearest image in +-1/2, of coordinates in [0, 1) in +-1.
    slack = 0.5 if images == "all" else 1.0
    a, b, c = lattice_ang.unbind(1)
    normals = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], dim=1)
    normals = torch.nn.functional.normalize(normals, dim=2, eps=0.0).nan_to_num(0.0)  # (B, 3, 3)
    heights_ang = (lattice_ang * normals).sum(2).abs()
    if images == "all":
        half = (cutoff_ang / heights_ang + slack).floor()  # (B, 3); infinite for a cell without volume
    else:
        half = torch.ones_like(heights_ang)
    flat = ~((2 * half + 1).prod(1) <= _N_BOX_MAX)
    crystal, image = _boxes(torch.where(flat[:, None], 1.0, half).long())
    near = _least_distance_ang(image.to(lattice_ang.dtype), lattice_ang[crystal], normals[crystal], slack)
    kept = near <= cutoff_ang * (1 + 1e-5)
    crystal, image = crystal[kept], image[kept]
    many = entries_per_atom(crystal, len(lattice_ang)) > N_IMAGES_MAX
    close = ~many[crystal] | (image.abs() <= 1).all(1)
    return crystal[close], image[close]


def _boxes(half: Tensor) -> tuple[Tensor, Tensor]:
    """All offsets between -half and half, half (B, 3): crystal (I,) and offset (I, 3), in lexicographic order."""
    width = 2 * half + 1
    n_images = width.prod(1)
    crystal = _repeated(n_images)
    number = places_in_group(n_images, crystal)
    across, deep = width[crystal, 1], width[crystal, 2]
    image = torch.stack([number // (across * deep), number // deep % across, number % deep], dim=1)
    return crystal, image - half[crystal]


def _least_distance_ang(image: Tensor, lattice_ang: Tensor, normals: Tensor, slack: float) -> Tensor:
    """Lower bound on |(x + image) @ lattice| for x in a cube of +-slack, (I,), angstrom.

    Along any unit vector u, no point of the parallelepiped is nearer to the origin than its centre's component less its
    half-width, |c u| - slack sum_k |L_k u|. Here u is along the cell's three normals, and towards the parallelepiped's
    nearest point, which a few steps of coordinate descent find nearly enough: the bound holds for whatever they find.
    """
    nearest = -image.clamp(-slack, slack)
    point = _matmul_rows(image + nearest, lattice_ang)
    lengths2 = lattice_ang.square().sum(2).clamp(min=1e-30)
    for axis in (0, 1, 2) * 2:
        row = lattice_ang[:, axis]
        moved = (nearest[:, axis] - (point * row).sum(1) / lengths2[:, axis]).clamp(-slack, slack)
        point = point + (moved - nearest[:, axis])[:, None] * row
        nearest[:, axis] = moved
    towards = torch.nn.functional.normalize(point, dim=1)
    centre = _matmul_rows(image, lattice_ang)
    bound = torch.zeros_like(centre[:, 0])
    for direction in (towards, *normals.unbind(1)):
        half_width = slack * (lattice_ang * direction[:, None]).sum(2).abs().sum(1)
        bound = torch.maximum(bound, (centre * direction).sum(1).abs() - half_width)
    return bound


def _nearest(target: Tensor, squared: Tensor, n_atoms_total: int, wanted: int) -> Tensor:
    """Places of the `wanted` smallest entries of each target, by target and in the order given; targets ascend."""
    # Positive floats order as their bits do. One integer that holds both sorts several times faster than two floats.
    key = (target << 32) | squared.float().view(torch.int32).long()
    order = torch.sort(key, stable=True).indices
    rank = places_in_group(entries_per_atom(target, n_atoms_total), target)
    return order[rank < wanted].sort().values


def _with_reverses(source: Tensor, target: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Source, target, image and reverse of the symmetric graph (see NeighbourSearch), by target."""
    x, y, z = image.unbind(1)
    earlier = (x < 0) | ((x == 0) & ((y < 0) | ((y == 0) & (z < 0))))
    kept = ((source < target) | ((source == target) & earlier)).nonzero().squeeze(1)
    source, target, image = (t.index_select(0, kept) for t in (source, target, image))
    ends, starts = torch.cat([target, source]), torch.cat([source, target])
    order = torch.argsort(ends, stable=True)
    place = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
    reverse = place.roll(len(kept)).index_select(0, order)
    images = torch.cat([image, -image]).index_select(0, order)
    return starts.index_select(0, order), ends.index_select(0, order), images, reverse
