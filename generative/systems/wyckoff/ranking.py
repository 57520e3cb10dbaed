"""Which signatures a request may take, best first: what voters and network say, and whether numbers are known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from generative.crystal.wyckoff import PARTNER
from generative.requests import Request, atomic_number
from generative.systems.wyckoff.by_sites import kinds_with_sites
from generative.systems.wyckoff.kinds import Composition, Counts, Kind
from generative.systems.wyckoff.library import Library, Shelf
from generative.systems.wyckoff.metric import CompositionMetric
from generative.systems.wyckoff.sequence import SignatureNetwork, most_probable

SEQUENCE_ATOMS_MAX = 200
"""Atoms of a primitive cell for which signatures are made site by site; beyond, a cell is a supercell or fails."""

VOICE_MIN = 0.25
"""Probability of all that the network says together, below which it is not asked: what the voters know comes first."""

MADE_MIN = 0.01
"""Probability of a signature by the network, in units of that of the best one, below which it is not given."""

PACKED_WORTH = 0.1
"""How often a packing is the right crystal where its signature is the right one, against a structure type: weighs its
probability. Of 28 packings that came first for test compositions 3 were right."""


@dataclass(frozen=True)
class Alternative:
    """A signature that a composition may take.

    Attributes:
        composition: of the primitive cell.
        kind: of the signature.
        types: rows of structure types, best first; empty where it must be packed.
    """

    composition: Composition
    kind: Kind
    types: tuple[int, ...]


class Ranking:
    """Ranks signatures. What it computes of a shelf it keeps, so it is made anew when anything of these changes.

    Args:
        library: voters and structure types.
        metric: whose distance weighs the voters.
        sequence: the network that makes signatures.
    """

    def __init__(self, library: Library, metric: CompositionMetric, sequence: SignatureNetwork) -> None:
        self.library, self.metric, self.sequence = library, metric, sequence
        self._vectors: dict[Counts, Tensor] = {}
        self._places_of: dict[Counts, dict[Kind, int]] = {}

    def of_composition(
        self,
        composition: Composition,
        spacegroup: int | None,
        energy_ev_per_atom: float | None,
        temperature: float,
        rng: torch.Generator,
    ) -> Iterator[Alternative]:
        """Signatures in the order in which they are given: by the vote, mixed with the network where it has a voice."""
        shelf = self.library.shelf(composition.counts)
        assert shelf is not None
        near = self._nearness(composition, shelf, energy_ev_per_atom)
        group = None if spacegroup is None else PARTNER.get(spacegroup, spacegroup)
        if group is not None:
            near = near.masked_fill(self.library.group_of(shelf.kinds)[shelf.kind] != group, -torch.inf)
        far = -10 * float(self.metric.farness)
        all_of = float(near.logsumexp(0))
        if group is not None and self._can_make(composition):
            far += float(self.sequence.log_group(composition)[group])
        voice = 1 / (1 + math.exp(min(all_of - far, 700)))
        votes = torch.zeros(len(shelf.kinds), dtype=torch.float64)
        votes.index_add_(0, shelf.kind, near.double().softmax(0).nan_to_num())
        p = votes * (1 - voice)
        made: list[tuple[Kind, float]] = []
        if voice >= VOICE_MIN:
            places = self._places(composition.counts)
            for kind, share in self._signatures(composition, group):
                if kind in places:
                    p[places[kind]] += voice * share
                else:
                    made.append((kind, voice * share))
        score = torch.cat([p * self._worth(shelf), PACKED_WORTH * torch.tensor([share for _, share in made])])
        if temperature:
            ranks = score.log() / temperature + _gumbel(len(score), rng)
        else:
            ranks = score
        for i in ranks.argsort(descending=True, stable=True).tolist():
            if i >= len(p):
                yield Alternative(composition, made[i - len(p)][0], ())
            elif score[i] > 0:
                yield Alternative(composition, self.library.kind(int(shelf.kinds[i])), _types_by_vote(shelf, i, near))

    def of_sites(self, request: Request, temperature: float, rng: torch.Generator) -> Iterator[Alternative]:
        """Stored signatures with the sites that are asked for, at all compositions that they then give.

        They come by the votes for each in logarithms, which no sum has divided: a weight exp(-distance) means the same
        at all compositions.
        """
        assert request.spacegroup is not None
        sites = {atomic_number(symbol): n for symbol, n in request.sites}
        found: list[tuple[Composition, Shelf, int, Tensor]] = []
        scores: list[float] = []
        group = PARTNER.get(request.spacegroup, request.spacegroup)
        for composition, rows in kinds_with_sites(self.library, group, sites).items():
            shelf = self.library.shelf(composition.counts)
            assert shelf is not None
            near = self._nearness(composition, shelf, request.formation_energy_ev_per_atom)
            worth = self._worth(shelf).log()
            for i in torch.searchsorted(shelf.kinds, torch.tensor(rows)).tolist():
                found.append((composition, shelf, i, near))
                scores.append(float(near[shelf.kind == i].double().logsumexp(0) + worth[i]))
        ranks = torch.tensor(scores, dtype=torch.float64)
        if temperature:
            ranks = ranks / temperature + _gumbel(len(ranks), rng)
        for place in ranks.argsort(descending=True, stable=True).tolist():
            composition, shelf, i, near = found[place]
            kind = self.library.kind(int(shelf.kinds[i]))
            yield Alternative(composition, kind, _types_by_vote(shelf, i, near))

    def _places(self, counts: Counts) -> dict[Kind, int]:
        """Of each kind on a shelf, in its kinds."""
        if counts not in self._places_of:
            shelf = self.library.shelf(counts)
            assert shelf is not None
            self._places_of[counts] = {self.library.kind(kind): i for i, kind in enumerate(shelf.kinds.tolist())}
        return self._places_of[counts]

    def _worth(self, shelf: Shelf) -> Tensor:
        """By which the probability of each kind of a shelf is weighed, (n,)."""
        has_type = torch.zeros(len(shelf.kinds), dtype=torch.bool)
        has_type[shelf.kind[shelf.structure_type >= 0]] = True
        return torch.where(has_type | self._fixed[shelf.kinds], 1.0, PACKED_WORTH).double()

    @cached_property
    def _fixed(self) -> Tensor:
        """Whether a kind leaves no coordinate free, (Q,)."""
        library, positions = self.library, self.sequence
        group = library.kind_group.long().repeat_interleave(library.kind_n_sites.long())
        n_free = positions.n_free.cpu()[positions.first.cpu()[group] + library.site_letter.long()]
        of = torch.arange(library.sizes.kinds).repeat_interleave(library.kind_n_sites.long())
        return torch.zeros(library.sizes.kinds, dtype=torch.int64).index_add_(0, of, n_free) == 0

    def _nearness(self, composition: Composition, shelf: Shelf, energy_ev_per_atom: float | None) -> Tensor:
        """Of all voters of a shelf, (T,)."""
        device = self.metric.same.device
        key = composition.counts
        if key not in self._vectors:
            stored = shelf.vectors if self.library.is_merged else self.metric(shelf.elements.to(device), key)
            self._vectors[key] = stored.to(device)
        asked = torch.tensor([composition.elements], device=device)
        energy = None if energy_ev_per_atom is None else torch.tensor([energy_ev_per_atom], device=device)
        near = self.metric.nearness(
            self.metric(asked, key),
            asked,
            self._vectors[key],
            shelf.elements.to(device),
            energy,
            None if energy is None else shelf.energy_ev_per_atom.to(device),
        )
        return near[0].cpu() + shelf.weight

    def _can_make(self, composition: Composition) -> bool:
        return sum(composition.counts) <= SEQUENCE_ATOMS_MAX

    def _signatures(self, composition: Composition, group: int | None) -> list[tuple[Kind, float]]:
        """What the network makes of a composition, with probabilities; given the group where one is asked for."""
        if not self._can_make(composition):
            return []
        return most_probable(self.sequence, composition, group)

    def by_network(self, composition: Composition, spacegroup: int | None) -> Iterator[Alternative]:
        """Signatures that the network makes, whether anybody votes for them or not; without types."""
        group = None if spacegroup is None else PARTNER.get(spacegroup, spacegroup)
        found = self._signatures(composition, group)
        for kind, share in found:
            if share >= MADE_MIN * found[0][1]:
                yield Alternative(composition, kind, ())


def _types_by_vote(shelf: Shelf, kind: int, near: Tensor) -> tuple[int, ...]:
    """Structure types of a kind of a shelf, the one with most of the votes first."""
    mine = ((shelf.kind == kind) & (shelf.structure_type >= 0)).nonzero()[:, 0]
    if not len(mine):
        return ()
    rows, which = torch.unique(shelf.structure_type[mine], return_inverse=True)
    votes = torch.zeros(len(rows), dtype=torch.float64).index_add_(0, which, near[mine].double().softmax(0))
    return tuple(rows[votes.argsort(descending=True, stable=True)].tolist())


def _gumbel(n: int, rng: torch.Generator) -> Tensor:
    """Draws whose sum with logarithms of weights is the largest with the probability of the weight, (n,)."""
    uniform = torch.rand(n, generator=rng, device=rng.device, dtype=torch.float64).cpu()
    return -(-uniform.clamp(1e-12, 1 - 1e-12).log()).log()
