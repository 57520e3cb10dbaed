"""Signatures made site by site: a network that also proposes those which no stored crystal has.

p(signature | composition) = p(space group | composition) times, element after element, p(next position | all before).
Elements come by role (library.py), positions of one element in the order of their letters, so that a signature has one
sequence. What cannot be is ruled out: a position without free coordinates twice, more atoms than are left, a remainder
that the positions after it cannot make.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from generative.crystal.species import MAX_Z, element_properties
from generative.crystal.wyckoff import space_group
from generative.systems.wyckoff.kinds import Composition, Kind, kind_of

N_GROUPS, N_POSITIONS, MOST_LETTERS = 230, 1731, 27
"""Space groups, their Wyckoff positions together, and those of group 47, which has the most."""


@lru_cache(maxsize=230)
def reach(spacegroup: int, atoms: int) -> tuple[tuple[bool, ...], ...]:
    """Whether so many atoms of one element fit on the positions from a letter on, [letter][atoms up to `atoms`].

    That other elements may hold positions of which there is but one is not considered.
    """
    positions = list(space_group(spacegroup).positions.values())
    fits = [tuple(n == 0 for n in range(atoms + 1))]
    for position in reversed(positions):
        m, after = position.multiplicity, fits[-1]
        row = list(after)
        for n in range(m, atoms + 1):
            row[n] = row[n] or (row[n - m] if position.free.any() else after[n - m])
        fits.append(tuple(row))
    return tuple(reversed(fits))


@dataclass(frozen=True)
class Sequences:
    """Signatures with their compositions, B of them, S sites end to end; K roles at most.

    Attributes:
        elements: atomic numbers by role, 0 beyond the last, (B, K).
        counts: atoms of each role in the primitive cell, (B, K).
        group: space group, (B,).
        of: row of each site, ascending, (S,).
        role: of each site, (S,).
        letter: place of each site's letter in its group's alphabet, (S,); ascending within a role.
    """

    elements: Tensor
    counts: Tensor
    group: Tensor
    of: Tensor
    role: Tensor
    letter: Tensor

    @classmethod
    def of_kinds(cls, compositions: Sequence[Composition], kinds: Sequence[Kind]) -> Sequences:
        """Of compositions, each with its kind."""
        k = max(len(c.elements) for c in compositions)
        sites = [
            (row, role, list(space_group(group).positions).index(letter))
            for row, (group, by_role) in enumerate(kinds)
            for role, letters in enumerate(by_role)
            for letter in letters
        ]
        of, role, letter = torch.tensor(sites).T
        order = ((of * k + role) * MOST_LETTERS + letter).argsort()  # letters of a group are sorted by text: A is last
        return cls(
            torch.tensor([(*c.elements, *[0] * (k - len(c.elements))) for c in compositions]),
            torch.tensor([(*c.counts, *[0] * (k - len(c.counts))) for c in compositions]),
            torch.tensor([group for group, _ in kinds]),
            of[order],
            role[order],
            letter[order],
        )

    def to(self, device: torch.device) -> Sequences:
        """On this device."""
        return Sequences(*(getattr(self, one.name).to(device) for one in fields(self)))

    def rows(self, chosen: Tensor) -> Sequences:
        """Those of these rows, in this order."""
        n_sites = torch.bincount(self.of, minlength=len(self.group))
        first = n_sites.cumsum(0) - n_sites
        n = n_sites[chosen]
        of = torch.arange(len(chosen)).repeat_interleave(n)
        site = torch.arange(len(of)) - (n.cumsum(0) - n)[of] + first[chosen][of]
        return Sequences(
            self.elements[chosen], self.counts[chosen], self.group[chosen], of, self.role[site], self.letter[site]
        )


class PositionTable(NamedTuple):
    """What the network knows of all Wyckoff positions, P of them.

    Attributes:
        vectors: (P, d).
        keys: by which they are chosen, (P, d).
    """

    vectors: Tensor
    keys: Tensor


class SignatureNetwork(nn.Module):
    """Shape letters: B signatures, K roles, S sites, d width, L = MOST_LETTERS."""

    properties: Tensor
    first: Tensor
    multiplicity: Tensor
    n_free: Tensor

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("properties", element_properties(), persistent=False)
        # Filled once by `tabulate`: to read all 230 groups takes seconds, which loading a checkpoint must not.
        self.register_buffer("first", torch.zeros(N_GROUPS + 2, dtype=torch.int64))
        self.register_buffer("multiplicity", torch.ones(N_POSITIONS, dtype=torch.int64))
        self.register_buffer("n_free", torch.zeros(N_POSITIONS, dtype=torch.int64))
        self.element = nn.Embedding(MAX_Z + 1, width)
        nn.init.normal_(self.element.weight, std=0.1)
        self.of_properties = nn.Linear(self.properties.shape[1], width)
        self.of_role = _layers(3 * width + 4, hidden, width, dropout)
        self.of_composition = _layers(2 * width + 1, hidden, width, dropout)
        self.group = nn.Embedding(N_GROUPS + 1, width)
        self.of_group = nn.Linear(width, N_GROUPS + 1)
        self.position = nn.Embedding(N_POSITIONS, width)
        self.of_position = nn.Linear(3, width)
        for embedding in (self.group, self.position):
            nn.init.normal_(embedding.weight, std=0.1)
        self.gate = nn.Linear(width, width)
        self.query = _layers(5 * width + 3, hidden, width, dropout)
        self.key = nn.Linear(width, width)

    def tabulate(self) -> None:
        """Read sizes and freedom of all positions from the tables of the space groups."""
        row = 0
        for number in range(1, N_GROUPS + 1):
            self.first[number] = row
            for position in space_group(number).positions.values():
                self.multiplicity[row] = position.multiplicity
                self.n_free[row] = int(position.free.sum())
                row += 1
        self.first[N_GROUPS + 1] = row

    def encoded(self, elements: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Vector of each composition, (B, d), and of each of its roles, (B, K, d); arguments as in Sequences."""
        held = elements > 0
        x = (self.element(elements) + self.of_properties(self.properties[elements])) * held[..., None]
        n = counts.to(x.dtype)
        total = n.sum(1, keepdim=True)
        share = n / total
        mean = (x * share[..., None]).sum(1)
        most = x.masked_fill(~held[..., None], -torch.inf).amax(1)
        size = torch.stack(
            [share, n.clamp_min(1).log(), total.log().expand_as(n), held.sum(1, keepdim=True) / 4 + 0 * n], -1
        )
        around = torch.cat([mean, most], -1)[:, None].expand(-1, x.shape[1], -1)
        roles = self.of_role(torch.cat([x, around, size], -1)) * held[..., None]
        whole: Tensor = self.of_composition(torch.cat([(roles * share[..., None]).sum(1), mean, total.log()], -1))
        return whole, roles

    def _positions(self, group: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the table for each letter of a group, (B, L), and which of them there are."""
        row = self.first[group][:, None] + torch.arange(MOST_LETTERS, device=group.device)
        there = row < self.first[group + 1][:, None]
        return row.clamp_max(N_POSITIONS - 1), there

    def table(self) -> PositionTable:
        """Vectors and keys of all positions: made once, since a gather for every site and letter would cost more."""
        m = self.multiplicity.to(self.key.weight.dtype)
        free = self.n_free.to(m.dtype)
        vectors = self.position.weight + self.of_position(torch.stack([m.log(), free, (free == 0).to(m.dtype)], -1))
        return PositionTable(vectors, self.key(vectors))

    def next_logits(
        self,
        whole: Tensor,
        role: Tensor,
        group: Tensor,
        placed: Tensor,
        placed_here: Tensor,
        size: Tensor,
        table: PositionTable,
    ) -> Tensor:
        """Score of each letter as the next position of a role, (S, L), without ruling anything out.

        Args:
            whole: of the composition, (S, d).
            role: of the element whose turn it is, (S, d).
            group: (S,).
            placed: sum of `site_vector` over all sites so far, (S, d).
            placed_here: the same over those of this role, (S, d).
            size: atoms of the role left, logarithm; sites it has; atoms of the cell, logarithm, (S, 3).
            table: of the positions.
        """
        query = self.query(torch.cat([whole, role, self.group(group), placed, placed_here, size], -1))
        row, _ = self._positions(group)
        scores: Tensor = (query @ table.keys.T).gather(1, row)
        return scores / math.sqrt(query.shape[-1]) * 4

    def site_vector(self, role: Tensor, group: Tensor, letter: Tensor, table: PositionTable) -> Tensor:
        """What a site tells of itself to those after it, (S, d)."""
        told: Tensor = table.vectors[self.first[group] + letter] * self.gate(role)
        return told

    @torch.no_grad()
    def log_group(self, composition: Composition) -> Tensor:
        """Logarithm of p(space group | composition), (N_GROUPS + 1,); the first stands for none."""
        device = self.first.device
        elements, counts = (torch.tensor([one], device=device) for one in (composition.elements, composition.counts))
        logits: Tensor = self.of_group(self.encoded(elements, counts)[0])
        return logits[0].log_softmax(0).cpu()

    def log_probability(self, of: Sequences) -> Tensor:
        """Logarithm of p(signature | composition), (B,), on the processor."""
        of = of.to(self.first.device)
        whole, roles = self.encoded(of.elements, of.counts)
        total = self.of_group(whole).log_softmax(1).gather(1, of.group[:, None])[:, 0]
        group, role = of.group[of.of], roles[of.of, of.role]
        row, there = self._positions(group)
        table = self.table()
        told = self.site_vector(role, group, of.letter, table)
        sites = torch.arange(len(of.of), device=of.of.device)
        begin = torch.searchsorted(of.of, of.of)  # of.of is ascending: first site of the signature
        segment = of.of * of.elements.shape[1] + of.role
        begin_here = torch.searchsorted(segment, segment)
        before = torch.cat([torch.zeros_like(told[:1]), told.double().cumsum(0).to(told.dtype)])
        placed, placed_here = before[sites] - before[begin], before[sites] - before[begin_here]
        multiplicity = self.multiplicity[self.first[group] + of.letter]
        n_before = torch.cat([multiplicity.new_zeros(1), multiplicity.cumsum(0)])
        left = of.counts[of.of, of.role] - (n_before[sites] - n_before[begin_here])
        size = torch.stack([left.log(), (sites - begin_here).to(left.log().dtype), of.counts.sum(1)[of.of].log()], -1)
        scores = self.next_logits(whole[of.of], role, group, placed, placed_here, size, table)
        letters = torch.arange(MOST_LETTERS, device=group.device)
        last = torch.where(sites > begin_here, torch.roll(of.letter, 1), -1)
        # A letter that was used stays open where its coordinates are free; used by an earlier role, it is left to the
        # network to know, since only few signatures hinge on it.
        again = (letters == last[:, None]) & (self.n_free[row] == 0)
        allowed = there & (self.multiplicity[row] <= left[:, None]) & (letters >= last[:, None]) & ~again
        chosen = scores.masked_fill(~allowed, -torch.inf).log_softmax(1).gather(1, of.letter[:, None])[:, 0]
        summed: Tensor = total.index_add(0, of.of, chosen)
        return summed.cpu()


def _layers(n_in: int, hidden: int, n_out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, hidden), nn.SiLU(), nn.Dropout(dropout), nn.Linear(hidden, n_out))


@dataclass
class _Beam:
    """A signature that is being made."""

    log_p: float
    group: int
    letters: list[list[int]]
    placed: Tensor
    placed_here: Tensor
    left: int
    used: frozenset[int]


@torch.no_grad()
def most_probable(
    network: SignatureNetwork, composition: Composition, spacegroup: int | None = None, width: int = 16
) -> list[tuple[Kind, float]]:
    """The most probable signatures of a composition with their probabilities, best first: beam search.

    Args:
        network: trained.
        composition: of the primitive cell.
        spacegroup: the one to take; of an enantiomorphic pair the lower number.
        width: signatures that are followed at once, and space groups that are begun with.
    """
    counts = composition.counts
    most = max(counts)
    device = network.first.device
    whole, roles = network.encoded(
        torch.tensor([composition.elements], device=device), torch.tensor([counts], device=device)
    )
    log_p, table = network.log_group(composition), network.table()
    candidates = [spacegroup] if spacegroup else [int(g) for g in log_p.argsort(descending=True) if g > 0][: 4 * width]
    able = [g for g in candidates if all(reach(g, -(-most // 32) * 32)[0][n] for n in counts)][:width]
    nothing = torch.zeros_like(whole[0])
    given = 0.0 if spacegroup else None
    beams = [
        _Beam(float(log_p[g]) if given is None else given, g, [[]], nothing, nothing, counts[0], frozenset())
        for g in able
    ]
    done: dict[Kind, float] = {}
    while beams:
        beams, finished = _extended(network, table, beams, whole[0], roles[0], counts, width)
        for beam in finished:
            alphabet = list(space_group(beam.group).positions)
            kind = kind_of(beam.group, tuple(tuple(alphabet[i] for i in held) for held in beam.letters))
            done[kind] = done.get(kind, 0.0) + math.exp(beam.log_p)
    return sorted(done.items(), key=lambda one: (-one[1], one[0]))[:width]


def _extended(
    network: SignatureNetwork,
    table: PositionTable,
    beams: list[_Beam],
    whole: Tensor,
    roles: Tensor,
    counts: tuple[int, ...],
    width: int,
) -> tuple[list[_Beam], list[_Beam]]:
    """The best signatures with one more site; those that are whole."""
    most = -(-max(counts) // 32) * 32
    n, device = len(beams), network.first.device
    group = torch.tensor([b.group for b in beams], device=device)
    turn = torch.tensor([len(b.letters) - 1 for b in beams], device=device)
    size = torch.tensor([[math.log(b.left), len(b.letters[-1]), math.log(sum(counts))] for b in beams], device=device)
    scores = network.next_logits(
        whole.expand(n, -1),
        roles[turn],
        group,
        torch.stack([b.placed for b in beams]),
        torch.stack([b.placed_here for b in beams]),
        size,
        table,
    )
    row, there = network._positions(group)
    multiplicity, fixed = network.multiplicity[row], network.n_free[row] == 0
    last = torch.tensor([b.letters[-1][-1] if b.letters[-1] else -1 for b in beams], device=device)
    letters = torch.arange(MOST_LETTERS, device=device)
    left = torch.tensor([b.left for b in beams], device=device)
    allowed = there & (multiplicity <= left[:, None]) & (letters >= last[:, None])
    allowed &= ~((letters == last[:, None]) & fixed)
    log_p = scores.masked_fill(~allowed, -torch.inf).log_softmax(1).nan_to_num(-torch.inf, neginf=-torch.inf)
    made: list[tuple[float, int, int]] = []
    for i, beam in enumerate(beams):
        fits = reach(beam.group, most)
        for letter in allowed[i].nonzero()[:, 0].tolist():
            rest = beam.left - int(multiplicity[i, letter])
            if letter in beam.used or not fits[letter + 1 if bool(fixed[i, letter]) else letter][rest]:
                continue
            made.append((beam.log_p + float(log_p[i, letter]), i, letter))
    made = sorted(made, key=lambda one: (-one[0], one[1], one[2]))[:width]
    if not made:
        return [], []
    parents = torch.tensor([i for _, i, _ in made], device=device)
    told = network.site_vector(
        roles[turn[parents]], group[parents], torch.tensor([x for *_, x in made], device=device), table
    )
    going, finished = [], []
    for (log_total, i, letter), vector in zip(made, told, strict=True):
        beam = beams[i]
        held = [*beam.letters[:-1], [*beam.letters[-1], letter]]
        rest = beam.left - int(multiplicity[i, letter])
        used = beam.used | {letter} if bool(fixed[i, letter]) else beam.used
        here = beam.placed_here + vector
        if rest == 0 and len(held) == len(counts):
            finished.append(_Beam(log_total, beam.group, held, here, here, 0, used))
            continue
        if rest == 0:
            held, rest, here = [*held, []], counts[len(held)], torch.zeros_like(here)
        going.append(_Beam(log_total, beam.group, held, beam.placed + vector, here, rest, used))
    return going, finished
