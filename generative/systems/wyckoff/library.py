"""What training crystals have taught: which signatures a composition may take, and the numbers that go with each.

A crystal votes once for each exchange of roles (kinds.py) between elements with equal counts, since which of Ti and Al
takes which site is part of what is to be chosen. All voters of one pattern of counts stand on one shelf.

A library comes in two forms. Filled, it holds every training crystal as a voter with its elements, and a structure type
of every one. Merged, voters are vectors that stand for several crystals, without elements, and only types remain that
several crystals agree on: no training crystal can be read from it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from generative.crystal.wyckoff import PARTNER, Signature, WyckoffCrystal, space_group
from generative.kept_results import in_processes
from generative.systems.wyckoff.config import LibrarySizes
from generative.systems.wyckoff.kinds import Composition, Counts, Kind, Known, alphabet, described, kind_of
from generative.systems.wyckoff.structure_types import structure_types

if TYPE_CHECKING:
    from generative.systems.wyckoff.metric import CompositionMetric


class _Voter(NamedTuple):
    """A voter that is to be made.

    Attributes:
        crystal: among those it is made of.
        kind: row of what it votes for.
        composition: of the crystal.
        elements: of the composition, exchanged so that each stands at its role.
    """

    crystal: int
    kind: int
    composition: Composition
    elements: tuple[int, ...]


@dataclass(frozen=True)
class Shelf:
    """Voters of one pattern of counts, T of them.

    Attributes:
        kinds: what they vote for: rows of the library's kinds, (n,), ascending.
        kind: index into `kinds`, (T,).
        structure_type: row of the library's types, -1 where there is none, (T,).
        elements: by role, (T, k); of a merged library (T, 0).
        vectors: of a merged library, (T, k w); otherwise (T, 0): the metric makes them of the elements.
        weight: logarithm of how many crystals a voter stands for, (T,).
        identity: (T,); of a merged library (0,).
        energy_ev_per_atom: (T,), NaN where it is not known.
    """

    kinds: Tensor
    kind: Tensor
    structure_type: Tensor
    elements: Tensor
    vectors: Tensor
    weight: Tensor
    identity: Tensor
    energy_ev_per_atom: Tensor


class Library(nn.Module):
    """Kinds, structure types and voters as buffers; a shelf is put up when it is first asked for.

    Shape letters: Q kinds with S sites together; M structure types with X sites together; T voters.
    """

    kind_group: Tensor
    kind_n_sites: Tensor
    site_role: Tensor
    site_letter: Tensor
    site_size: Tensor
    type_kind: Tensor
    type_members: Tensor
    type_cell: Tensor
    type_xyz: Tensor
    voter_kind: Tensor
    voter_type: Tensor
    voter_identity: Tensor
    voter_energy: Tensor
    voter_weight: Tensor
    voter_elements: Tensor
    voter_vectors: Tensor
    vector_unit: Tensor

    def __init__(self, sizes: LibrarySizes) -> None:
        super().__init__()
        self.sizes = sizes
        n, i8, i16, i32 = sizes, torch.int8, torch.int16, torch.int32
        for name, shape, dtype in (
            ("kind_group", (n.kinds,), i16),
            ("kind_n_sites", (n.kinds,), i16),
            ("site_role", (n.kind_sites,), i8),
            ("site_letter", (n.kind_sites,), i8),
            ("site_size", (n.kind_sites,), i16),
            ("type_kind", (n.types,), i32),
            ("type_members", (n.types,), i32),
            # Edges in units of the cube root of the volume that atomic volumes predict; angles in degrees.
            ("type_cell", (n.types, 6), torch.float32),
            ("type_xyz", (n.type_sites, 3), torch.float32),
            ("voter_kind", (n.voters,), i32),
            ("voter_type", (n.voters,), i32),
            ("voter_identity", (0 if n.voter_numbers else n.voters,), torch.int64),
            ("voter_energy", (n.voters,), torch.float32),
            ("voter_weight", (n.voters,), torch.float32),
            ("voter_elements", (n.voter_elements,), i8),
            ("voter_vectors", (n.voter_numbers,), i8),  # in units of vector_unit
            ("vector_unit", (), torch.float32),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=dtype))
        self._shelves: dict[Counts, Shelf] = {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Stays on the processor, in its own types, wherever the system goes: what is done here is looking up."""
        return self

    @classmethod
    def filled(cls, crystals: Sequence[Known], atomic_volumes: np.ndarray, workers: int = 1) -> Library:
        """Of training crystals.

        Args:
            crystals: any number.
            atomic_volumes: angstrom^3 by atomic number, by which cells are made comparable.
            workers: processes that look for structure types.
        """
        return cls(LibrarySizes()).extended(crystals, atomic_volumes, workers=workers)

    @torch.no_grad()
    def extended(
        self,
        crystals: Sequence[Known],
        atomic_volumes: np.ndarray,
        metric: CompositionMetric | None = None,
        votes: float = 1.0,
        workers: int = 1,
    ) -> Library:
        """The library with further crystals; what is there stays as it is, rows and all.

        Each votes with its elements, or in a merged library with a vector of its own. Numbers that agree with those of
        a structure type which is there make it vote for that type, whose mean stays; others make new types.

        Args:
            crystals: any number.
            atomic_volumes: as of filled.
            metric: trained; makes the vectors of a merged library, another needs none.
            votes: as many other crystals as each of these counts for.
            workers: as of filled.
        """
        voters, kinds = self._voters_for(crystals)
        types, type_of = self._types_for(crystals, voters, atomic_volumes, workers)
        rows = torch.tensor([voter.crystal for voter in voters], dtype=torch.int64)
        made: dict[str, Tensor] = {
            **_packed_kinds(kinds, [site for kind in kinds for site in _sites_of(kind)]),
            "type_kind": torch.tensor([kind for kind, *_ in types]),
            "type_members": torch.tensor([len({voters[i].crystal for i in places}) for _, places, _ in types]),
            "type_cell": torch.from_numpy(np.array([mean.cell for *_, mean in types]).reshape(-1, 6)),
            "type_xyz": torch.from_numpy(np.concatenate([np.empty((0, 3)), *(mean.xyz for *_, mean in types)])),
            "voter_kind": torch.tensor([voter.kind for voter in voters]),
            "voter_type": torch.tensor([type_of.get(i, -1) for i in range(len(voters))]),
            "voter_energy": torch.tensor([crystal.energy_ev_per_atom for crystal in crystals])[rows],
            "voter_weight": torch.full((len(voters),), math.log(votes)),
        }
        if self.is_merged:
            assert metric is not None, "a merged library holds vectors, which the metric makes"
            unit, device = self.vector_unit, metric.same.device
            vectors = [metric(torch.tensor([one.elements], device=device), one.composition.counts) for one in voters]
            flat = torch.cat([unit[None][:0], *(vector[0].cpu() for vector in vectors)])
            # Farther out than any that it was merged from, a vector is cut off.
            made["voter_vectors"] = (flat / unit).round().clamp(-127, 127)
        else:
            made["voter_identity"] = torch.tensor([crystal.identity for crystal in crystals], dtype=torch.int64)[rows]
            made["voter_elements"] = torch.tensor([z for voter in voters for z in voter.elements])
        buffers = dict(self.named_buffers())
        joined = {name: torch.cat([buffers[name], values.to(buffers[name].dtype)]) for name, values in made.items()}
        unit_or_one = self.vector_unit if self.is_merged else torch.ones(())
        return self._of(**{**buffers, **joined, "vector_unit": unit_or_one})

    def _voters_for(self, crystals: Sequence[Known]) -> tuple[list[_Voter], list[Kind]]:
        """Voters that crystals make, one for each exchange of roles, and the kinds among theirs that are new."""
        groups = torch.tensor(sorted({PARTNER.get(crystal.spacegroup, crystal.spacegroup) for crystal in crystals}))
        there = torch.isin(self.kind_group.long(), groups).nonzero()[:, 0].tolist()
        rows = {self.kind(row): row for row in there}
        voters, new = [], list[Kind]()
        for number, crystal in enumerate(crystals):
            composition, letters = described(crystal.spacegroup, crystal.sites)
            for order in composition.exchanges:
                kind = kind_of(crystal.spacegroup, tuple(letters[i] for i in order))
                if kind not in rows:
                    rows[kind] = self.sizes.kinds + len(new)
                    new.append(kind)
                elements = tuple(composition.elements[i] for i in order)
                voters.append(_Voter(number, rows[kind], composition, elements))
        return voters, new

    def _types_for(
        self, crystals: Sequence[Known], voters: Sequence[_Voter], atomic_volumes: np.ndarray, workers: int
    ) -> tuple[list[tuple[int, list[int], WyckoffCrystal]], dict[int, int]]:
        """Structure types that voters make: kind, voters and mean of each; and the type of each voter, new or not."""
        of_kind: dict[int, list[tuple[int, WyckoffCrystal]]] = defaultdict(list)
        for place, voter in enumerate(voters):
            numbers = crystals[voter.crystal].numbers
            if numbers is not None:
                role_of = {z: role for role, z in enumerate(voter.elements)}
                scale = voter.composition.volume_ang3(atomic_volumes) ** (-1 / 3)
                of_kind[voter.kind].append((place, with_elements(numbers, role_of, scale)))
        there: dict[int, list[int]] = defaultdict(list)
        for row, kind in enumerate(self.type_kind.tolist()):
            if kind in of_kind:
                there[kind].append(row)
        tasks = [([self.numbers(row) for row in there[kind]], [c for _, c in held]) for kind, held in of_kind.items()]
        new: list[tuple[int, list[int], WyckoffCrystal]] = []
        type_of: dict[int, int] = {}
        for (kind, held), found in zip(of_kind.items(), in_processes(_types_of, tasks, workers), strict=True):
            for number, (members, mean) in enumerate(found):
                places = [held[i][0] for i in members]
                if mean is None:
                    type_of |= dict.fromkeys(places, there[kind][number])
                else:
                    type_of |= dict.fromkeys(places, self.sizes.types + len(new))
                    new.append((kind, places, mean))
        return new, type_of

    @classmethod
    def _of(cls, **buffers: Tensor) -> Library:
        sizes = LibrarySizes(
            kinds=len(buffers["kind_group"]),
            kind_sites=len(buffers["site_role"]),
            types=len(buffers["type_kind"]),
            type_sites=len(buffers["type_xyz"]),
            voters=len(buffers["voter_kind"]),
            voter_elements=len(buffers["voter_elements"]),
            voter_numbers=len(buffers["voter_vectors"]),
        )
        library = cls(sizes)
        for name, values in buffers.items():
            library.get_buffer(name).copy_(values)
        return library

    @property
    def is_merged(self) -> bool:
        """Whether its voters are vectors that stand for several crystals."""
        return self.sizes.voter_numbers > 0

    # --- reading ------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Counts]:
        """Patterns of counts with a shelf."""
        return iter(self._voters_of)

    @cached_property
    def _first_site(self) -> list[int]:
        ends = self.kind_n_sites.long().cumsum(0).tolist()
        return [0, *ends]

    @cached_property
    def _first_number(self) -> list[int]:
        n = self.kind_n_sites.long()[self.type_kind.long()]
        return [0, *n.cumsum(0).tolist()]

    @cached_property
    def _roles(self) -> Tensor:
        """Elements of each kind, (Q,): its sites stand in the order of their roles."""
        return self.site_role[self.kind_n_sites.long().cumsum(0) - 1].long() + 1

    @cached_property
    def counts(self) -> list[Counts]:
        """Atoms of each role, of each kind."""
        return self._by_role(self.site_size.long())

    @cached_property
    def n_sites(self) -> list[tuple[int, ...]]:
        """Sites of each role, of each kind."""
        return self._by_role(torch.ones_like(self.site_size, dtype=torch.int64))

    def _by_role(self, of_site: Tensor) -> list[tuple[int, ...]]:
        """Sums of what sites have, (S,), over those of each role, of each kind."""
        of = torch.arange(self.sizes.kinds).repeat_interleave(self.kind_n_sites.long())
        most = int(self._roles.max()) if self.sizes.kinds else 0
        held = torch.zeros(self.sizes.kinds * most, dtype=torch.int64)
        held.index_add_(0, of * most + self.site_role.long(), of_site)
        return [tuple(n for n in row if n) for row in held.view(-1, max(most, 1)).tolist()]

    @cached_property
    def _voters_of(self) -> dict[Counts, list[int]]:
        voters: dict[Counts, list[int]] = defaultdict(list)
        counts = self.counts
        for voter, kind in enumerate(self.voter_kind.tolist()):
            voters[counts[kind]].append(voter)
        return voters

    @cached_property
    def _first_of_voter(self) -> Tensor:
        """Where a voter's elements begin, and its numbers in units of the width per role, (T + 1,)."""
        n = self._roles[self.voter_kind.long()]
        return torch.cat([n.new_zeros(1), n.cumsum(0)])

    def shelf(self, counts: Counts) -> Shelf | None:
        """The voters of this pattern; None where there is none."""
        if counts not in self._voters_of:
            return None
        if counts not in self._shelves:
            rows = torch.tensor(self._voters_of[counts])
            kinds, kind = torch.unique(self.voter_kind[rows].long(), return_inverse=True)
            k, first = len(counts), self._first_of_voter[rows]
            width = self.sizes.voter_numbers // int(self._first_of_voter[-1]) if self.is_merged else 0
            self._shelves[counts] = Shelf(
                kinds,
                kind,
                self.voter_type[rows].long(),
                self.voter_elements[first[:, None] + torch.arange(k)].long()
                if not self.is_merged
                else torch.zeros(len(rows), 0, dtype=torch.int64),
                self.voter_vectors[(first * width)[:, None] + torch.arange(k * width)] * self.vector_unit,
                self.voter_weight[rows].float(),
                rows[:0] if self.is_merged else self.voter_identity[rows],
                self.voter_energy[rows].float(),
            )
        return self._shelves[counts]

    def group_of(self, kinds: Tensor) -> Tensor:
        """Space groups of these rows of the kinds."""
        return self.kind_group[kinds].long()

    def kind(self, row: int) -> Kind:
        """One of the kinds."""
        first, end = self._first_site[row], self._first_site[row + 1]
        group = int(self.kind_group[row])
        by_role: list[list[str]] = [[] for _ in range(int(self._roles[row]))]
        for role, letter in zip(self.site_role[first:end].tolist(), self.site_letter[first:end].tolist(), strict=True):
            by_role[role].append(alphabet(group)[letter])
        return group, tuple(tuple(held) for held in by_role)

    def elements_of(self, voter: int) -> tuple[int, ...]:
        """Atomic numbers of a voter by role."""
        first, end = self._first_of_voter[voter : voter + 2].tolist()
        return tuple(self.voter_elements[first:end].tolist())

    @cached_property
    def row_of(self) -> dict[Kind, int]:
        """Row of every kind. Reads the tables of all their space groups, which takes seconds."""
        return {self.kind(row): row for row in range(self.sizes.kinds)}

    def numbers(self, structure_type: int) -> WyckoffCrystal:
        """Cell and coordinates of a type, roles in the place of atomic numbers; edges as in type_cell."""
        group, by_role = self.kind(int(self.type_kind[structure_type]))
        sites = tuple((role, letter) for role, held in enumerate(by_role) for letter in held)
        orbits = slice(self._first_number[structure_type], self._first_number[structure_type + 1])
        return WyckoffCrystal(
            Signature(group, sites),
            self.type_cell[structure_type].double().numpy(),
            self.type_xyz[orbits].double().numpy(),
        )

    # --- merging ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def merged(self, metric: CompositionMetric, distance: float, members_min: int) -> Library:
        """The library with voters of one kind joined to one where they are near, and without types of few members.

        Args:
            metric: trained; distances are its own.
            distance: squared distance within which voters join the first of them.
            members_min: crystals that must agree on a structure type for its numbers to be kept.
        """
        kept = (self.type_members >= members_min).nonzero()[:, 0]
        renamed = torch.full((self.sizes.types + 1,), -1, dtype=torch.int64)  # the last stands for none
        renamed[kept] = torch.arange(len(kept))
        joined: list[tuple[int, int, Tensor, float, float]] = []
        for counts in self:
            shelf = self.shelf(counts)
            assert shelf is not None
            vectors = metric(shelf.elements, counts)
            for local, kind in enumerate(shelf.kinds.tolist()):
                left = (shelf.kind == local).nonzero()[:, 0]
                while len(left):
                    near = (vectors[left] - vectors[left[0]]).square().sum(1) <= distance
                    those, left = left[near], left[~near]
                    types = Counter(t for t in renamed[shelf.structure_type[those]].tolist() if t >= 0)
                    energy = shelf.energy_ev_per_atom[those].nanmean()
                    joined.append(
                        (
                            kind,
                            min(types, key=lambda t: (-types[t], t)) if types else -1,
                            vectors[those].mean(0),
                            float(np.log(len(those))),
                            float(energy),
                        )
                    )
        orbits = [torch.arange(self._first_number[t], self._first_number[t + 1]) for t in kept.tolist()]
        chosen = torch.cat(orbits) if orbits else torch.zeros(0, dtype=torch.int64)
        vectors = torch.cat([vector for _, _, vector, *_ in joined])
        unit = vectors.abs().max() / 127
        same = ("kind_group", "kind_n_sites", "site_role", "site_letter", "site_size")
        return self._of(
            **{name: self.get_buffer(name) for name in same},
            type_kind=self.type_kind[kept],
            type_members=self.type_members[kept],
            type_cell=self.type_cell[kept],
            type_xyz=self.type_xyz[chosen],
            voter_kind=torch.tensor([kind for kind, *_ in joined]),
            voter_type=torch.tensor([structure_type for _, structure_type, *_ in joined]),
            voter_identity=torch.zeros(0, dtype=torch.int64),
            voter_energy=torch.tensor([energy for *_, energy in joined]),
            voter_weight=torch.tensor([weight for *_, weight, _ in joined]),
            voter_elements=torch.zeros(0, dtype=torch.int8),
            voter_vectors=(vectors / unit).round(),
            vector_unit=unit,
        )


def _types_of(
    task: tuple[list[WyckoffCrystal], list[WyckoffCrystal]],
) -> list[tuple[list[int], WyckoffCrystal | None]]:
    """Members of each structure type, those that there are first, and the mean of each new one.

    Args: task: types that there are, and crystals to be sorted.
    """
    begun, crystals = task
    types = structure_types(crystals, begun)
    return [(one.members, None if number < len(begun) else one.mean) for number, one in enumerate(types)]


def _sites_of(kind: Kind) -> list[tuple[int, int, int]]:
    """Role, place of the letter and multiplicity of each site."""
    group, by_role = kind
    positions, letters = space_group(group).positions, alphabet(group)
    return [
        (role, letters.index(letter), positions[letter].multiplicity)
        for role, held in enumerate(by_role)
        for letter in held
    ]


def _packed_kinds(kinds: Sequence[Kind], sites: Sequence[tuple[int, int, int]]) -> dict[str, Tensor]:
    role, letter, size = torch.tensor(sites, dtype=torch.int64).reshape(-1, 3).T
    return {
        "kind_group": torch.tensor([group for group, _ in kinds]),
        "kind_n_sites": torch.tensor([sum(map(len, by_role)) for _, by_role in kinds]),
        "site_role": role,
        "site_letter": letter,
        "site_size": size,
    }


def with_elements(template: WyckoffCrystal, new_of: dict[int, int], scale: float) -> WyckoffCrystal:
    """The crystal with its elements exchanged, its edges times `scale`."""
    order = sorted(
        range(len(template.signature.sites)),
        key=lambda i: (new_of[template.signature.sites[i][0]], template.signature.sites[i][1], i),
    )
    sites = tuple((new_of[template.signature.sites[i][0]], template.signature.sites[i][1]) for i in order)
    cell = template.cell * np.array([scale, scale, scale, 1, 1, 1])
    return WyckoffCrystal(Signature(template.signature.spacegroup, sites), cell, template.xyz[order])
