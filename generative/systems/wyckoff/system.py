"""Hullward's symmetric generator: which Wyckoff positions are occupied is chosen first, numbers follow.

    1. Of a composition, how many atoms of each element the primitive cell holds says which stored crystals could be its
       like: those with the same counts (library.py).
    2. Each votes for its signature, space group and occupied positions with elements exchanged, by a learned distance
       of compositions (metric.py). The distance is trained so that a crystal's own signature wins the vote of all
       others (neighbourhood components analysis). The shares of the votes are probabilities, and calibrated as such.
    3. The most probable signature is taken, the next one for a second crystal of the same composition, and so on.
    4. Cell and free coordinates are those of the nearest stored crystal with that signature; the cell is scaled by
       atomic volumes.
So a crystal has its space group by construction, and one that is asked for is never missed.

Crystals whose coordinates are not known (generative/datasets/site_labels.py) vote too, but lend none.

Source: neighbourhood components analysis: Goldberger et al., NIPS 17 (2004). The method as a whole is ours.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from generative.config import SamplerSettings
from generative.crystal.batch import CrystalBatch
from generative.crystal.crystals import Crystal
from generative.crystal.lattice import fit_atomic_volumes
from generative.crystal.species import MAX_Z
from generative.crystal.wyckoff import PARTNER, Signature, WyckoffCrystal
from generative.datasets.site_labels import SiteLabel
from generative.requests import Request
from generative.systems.baselines.stored import failed_sample, repeated
from generative.systems.interface import CardNotes, Generator, Progress, of_steps, own_settings, require_cells
from generative.systems.trainable import Loss, Trainable
from generative.systems.wyckoff.card import card_notes
from generative.systems.wyckoff.config import WyckoffConfig, WyckoffSampler
from generative.systems.wyckoff.descriptions import Descriptions
from generative.systems.wyckoff.library import Composition, Counts, Library, Shelf, described, kind_of, with_elements
from generative.systems.wyckoff.metric import CompositionMetric
from generative.systems.wyckoff.training_set import (
    DescribedCrystals,
    DescribedSet,
    identity_of,
    packed_signatures,
    signatures_of,
)
from generative.training.data import TrainingSet
from storage.digests import text_digest

logger = logging.getLogger(__name__)

ROBUST = 0.02
"""Training: probability that the vote is worth nothing, such as of a mislabelled crystal. It bounds the loss of a
crystal whose signature nobody else has a reason to predict, which would else outweigh a hundred others."""


ATOMS_MAX = 1000
"""Atoms of a cell that is asked for. Stored crystals are smaller, so most larger cells are supercells or failures; the
limit only keeps a typing error from being built."""


class Wyckoff(Generator, Trainable):
    """Signatures by the vote of stored crystals, numbers from the nearest of them."""

    name = "wyckoff"
    config_type, sampler_type = WyckoffConfig, WyckoffSampler
    config: WyckoffConfig
    heeds = frozenset({"composition", "spacegroup"})

    identity: Tensor
    number: Tensor
    n_orbits: Tensor
    orbit_z: Tensor
    orbit_letter: Tensor
    cell: Tensor
    xyz: Tensor
    atomic_volumes: Tensor

    def __init__(self, config: WyckoffConfig) -> None:
        super().__init__(config)
        self.metric = CompositionMetric(config.width, config.hidden, config.dropout)
        t, k = config.n_templates, config.n_orbits
        self.register_buffer("identity", torch.zeros(t, dtype=torch.int64))
        self.register_buffer("number", torch.zeros(t, dtype=torch.int16))
        self.register_buffer("n_orbits", torch.zeros(t, dtype=torch.int16))
        self.register_buffer("orbit_z", torch.zeros(k, dtype=torch.int16))
        self.register_buffer("orbit_letter", torch.zeros(k, dtype=torch.int8))
        # A crystal that lends no coordinates has a cell of zeros.
        self.register_buffer("cell", torch.zeros(t, 6))
        self.register_buffer("xyz", torch.zeros(k, 3))
        self.register_buffer("atomic_volumes", torch.full((MAX_Z + 1,), 15.0, dtype=torch.float64))
        self._described = Descriptions()
        self._labels: tuple[SiteLabel, ...] = ()

    def card_notes(self) -> CardNotes:
        """How many crystals it holds, and what that means."""
        lends = self.cell.abs().sum(1) > 0
        return card_notes(int(lends.sum()), int((~lends).sum()))

    # --- training -----------------------------------------------------------------------------------------------------

    def refused(self, crystal: Crystal) -> str:
        """Why a crystal has no signature; empty where it has."""
        return self._described.reasons([crystal])[0]

    def refusals(self, crystals: Sequence[Crystal], cache: Path | None = None, workers: int = 1) -> list[str]:
        """Why each crystal has no signature; empty where it has."""
        return self._described.reasons(crystals, cache, workers)

    def arranged(self, data: TrainingSet, cache: Path | None = None, workers: int = 1) -> TrainingSet:
        """The crystals with their signatures."""
        self._labels = self._labels or tuple(data.labels)
        return DescribedSet(data, self._described.of(data.crystals, cache, workers))

    def fit_statistics(self, crystals: Sequence[Crystal], energies_ev_per_atom: Sequence[float | None]) -> None:
        """Store the training crystals, the first of them in order, and those without coordinates after them."""
        stored = self._described.of(crystals)
        signatures = [(one.signature.spacegroup, one.signature.sites) for one in stored]
        signatures += [(label.spacegroup, label.sites) for label in self._labels]
        packed = packed_signatures(signatures)
        self.config = self.config.model_copy(update={"n_templates": len(signatures), "n_orbits": len(packed.orbit_z)})
        for name, tensor in packed._asdict().items():
            self.register_buffer(name, tensor)
        digests = [crystal.digest for crystal in crystals] + [text_digest(label.id) for label in self._labels]
        self.register_buffer("identity", torch.tensor([identity_of(digest) for digest in digests]))
        self.register_buffer("cell", torch.zeros(len(signatures), 6))
        self.register_buffer("xyz", torch.zeros(len(packed.orbit_z), 3))
        self.cell[: len(stored)] = torch.as_tensor(np.stack([one.cell for one in stored]), dtype=torch.float32)
        xyz = np.concatenate([one.xyz for one in stored])
        self.xyz[: len(xyz)] = torch.as_tensor(xyz, dtype=torch.float32)
        counts = np.stack([np.bincount(c.atomic_numbers, minlength=MAX_Z + 1) for c in crystals])
        volumes = np.array([abs(np.linalg.det(c.lattice_ang)) for c in crystals])
        self.atomic_volumes.copy_(torch.as_tensor(fit_atomic_volumes(counts.astype(float), volumes)))
        self._described, self._labels = Descriptions(), ()
        for made in ("library", "_first_orbit"):
            self.__dict__.pop(made, None)

    @cached_property
    def library(self) -> Library:
        """The stored crystals by their patterns of counts."""
        return Library(signatures_of(self.number, self.n_orbits, self.orbit_z, self.orbit_letter))

    def loss(self, batch: CrystalBatch, rng: torch.Generator, epoch: int) -> Loss:
        """Minus the logarithm of the share of votes for each crystal's own signature; `rng` draws who votes."""
        assert isinstance(batch, DescribedCrystals), "a batch without signatures: take it from what `arranged` gives"
        asked: dict[Counts, list[tuple[Composition, tuple[tuple[str, ...], ...], int, int]]] = defaultdict(list)
        for (spacegroup, sites), own in zip(batch.signatures, batch.identity.tolist(), strict=True):
            composition, letters = described(spacegroup, sites)
            asked[composition.counts].append((composition, letters, spacegroup, own))
        losses, right = [], []
        for counts, those in asked.items():
            if (shelf := self.library.shelf(counts)) is None:
                continue
            wanted = torch.tensor([shelf.index_of.get(kind_of(group, x), -1) for _, x, group, _ in those])
            elements = torch.tensor([composition.elements for composition, *_ in those])
            own = torch.tensor([identity for *_, identity in those])
            chosen = self._voters(len(shelf.kind), rng)
            near = self._nearness(elements, counts, shelf, chosen)
            near = near.masked_fill(own[:, None] == self.identity[shelf.row[chosen]], -torch.inf)
            mine = near.masked_fill(wanted[:, None] != shelf.kind[chosen], -torch.inf)
            # A signature that no other crystal has cannot win any vote: nothing is to be learned of it here.
            can = mine.isfinite().any(1)
            if can.any():
                log_share = mine[can].logsumexp(1) - near[can].logsumexp(1)
                losses.append(-torch.log(log_share.exp() * (1 - ROBUST) + ROBUST))
                right.append((shelf.kind[chosen][near[can].argmax(1)] == wanted[can]).float())
        if not losses:  # of crystals that are all alone with their counts
            zero = self.metric.same * 0
            return Loss(zero, {"vote": zero.detach()})
        total = torch.cat(losses).mean()
        return Loss(total, {"vote": total, "nearest_is_right": torch.cat(right).mean()})

    def _voters(self, n: int, rng: torch.Generator) -> Tensor:
        most = self.config.templates_at_once
        if not self.training or n <= most:
            return torch.arange(n)
        return torch.randperm(n, generator=rng, device=rng.device)[:most].cpu()

    def _nearness(self, elements: Tensor, counts: Counts, shelf: Shelf, rows: Tensor) -> Tensor:
        device = self.metric.same.device
        asked, stored = elements.to(device), shelf.elements[rows].to(device)
        near: Tensor = self.metric.nearness(self.metric(asked, counts), asked, self.metric(stored, counts), stored)
        return near.cpu() if device.type != "cpu" else near

    # --- sampling -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        requests: Sequence[Request],
        rng: torch.Generator,
        settings: SamplerSettings | None = None,
        progress: Progress | None = None,
    ) -> list[Crystal]:
        """See Generator.sample. Equal requests get different signatures, the most probable first: request number `turn`
        of a plan the one that stands at this place, counted from 0.
        """
        how = own_settings(WyckoffSampler, settings)
        require_cells(requests, ATOMS_MAX)
        done = of_steps(progress, len(requests))
        stored: dict[Counts, Tensor] = {}
        """Vectors of the shelves that were asked for: the same for every request."""
        # Draws by probability are made anew in every call, so there the turn in the plan has no meaning.
        turns = [0 if how.temperature else request.turn for request in requests]
        keys = [request.heeded_by(self.heeds) for request in requests]
        places: dict[object, list[int]] = defaultdict(list)
        among: Counter[object] = Counter()
        for key, turn in zip(keys, turns, strict=True):
            places[key].append(turn + among[key, turn])
            among[key, turn] += 1
        ranked: dict[object, Iterator[Crystal]] = {}
        crystals, failed = [], []
        for i, (key, request) in enumerate(zip(keys, requests, strict=True)):
            if key not in ranked:
                ranked[key] = iter(self._crystals(request, places[key], how.temperature, rng, stored))
            crystal = next(ranked[key], None)
            if crystal is None:
                failed.append(request)
            crystals.append(failed_sample(request.atomic_numbers) if crystal is None else crystal)
            if done is not None:
                done(i + 1)
        if failed:
            logger.warning(
                "%d of %d requests have the counts of no stored crystal%s, such as %s",
                len(failed), len(requests), " of the space group that is asked for" if failed[0].spacegroup else "",
                failed[0],
            )  # fmt: skip
        return crystals

    def _crystals(
        self,
        request: Request,
        places: Sequence[int],
        temperature: float,
        rng: torch.Generator,
        stored: dict[Counts, Tensor],
    ) -> list[Crystal]:
        """Crystals of a composition at these places, the most probable signature at 0; none where nothing is stored."""
        counts = dict(request.content)
        whole = np.gcd.reduce(list(counts.values()))
        for n_cells in (d for d in range(1, whole + 1) if whole % d == 0):
            composition = Composition.of({z: count // n_cells for z, count in counts.items()})
            drawn = self._drawn(composition, request.spacegroup, places, temperature, rng, stored)
            if drawn:
                return [_of_content(repeated(crystal, n_cells), request) for crystal in drawn]
        return []

    def _drawn(
        self,
        composition: Composition,
        spacegroup: int | None,
        places: Sequence[int],
        temperature: float,
        rng: torch.Generator,
        stored: dict[Counts, Tensor],
    ) -> list[Crystal]:
        shelf = self.library.shelf(composition.counts)
        if shelf is None:
            return []
        numbers = torch.tensor([number for number, _ in shelf.kinds])
        device = self.metric.same.device
        asked, everybody = torch.tensor([composition.elements]).to(device), shelf.elements.to(device)
        if composition.counts not in stored:
            stored[composition.counts] = self.metric(everybody, composition.counts)
        vector = self.metric(asked, composition.counts)
        near = self.metric.nearness(vector, asked, stored[composition.counts], everybody)[0].cpu()
        if spacegroup is not None:
            near = near.masked_fill(numbers[shelf.kind] != PARTNER.get(spacegroup, spacegroup), -torch.inf)
        lends = self.cell[shelf.row].abs().sum(1) > 0
        votes = torch.zeros(len(shelf.kinds), dtype=torch.float64).index_add_(
            0, shelf.kind, near.double().softmax(0).nan_to_num()
        )
        possible = torch.zeros(len(shelf.kinds), dtype=torch.bool).index_put_((shelf.kind[lends],), torch.tensor(True))
        score = votes.log().masked_fill(~possible, -torch.inf)
        if temperature:
            uniform = torch.rand(len(score), generator=rng, device=rng.device, dtype=torch.float64).cpu()
            score = score / temperature - (-uniform.clamp(1e-12, 1 - 1e-12).log()).log()
        order = [int(k) for k in score.argsort(descending=True, stable=True) if score[k] > -torch.inf]
        # One of every signature before the second nearest crystal of any.
        n = max(places) + 1
        turns = []
        for rank, kind in enumerate(order[:n]):
            entries = ((shelf.kind == kind) & lends).nonzero()[:, 0]
            entries = entries[near[entries].argsort(descending=True, stable=True)]
            turns += [(depth, rank, int(entry)) for depth, entry in enumerate(entries[:n])]
        turns.sort()
        chosen = [turns[place % len(turns)][2] for place in places] if turns else []
        return [self._built(composition, shelf, entry, spacegroup) for entry in chosen]

    def _built(self, composition: Composition, shelf: Shelf, entry: int, spacegroup: int | None) -> Crystal:
        """The stored crystal of a shelf's entry with the elements of a composition."""
        row = int(shelf.row[entry])
        new_of = dict(zip(shelf.elements[entry].tolist(), composition.elements, strict=True))
        volume = {z: float(self.atomic_volumes[z]) for z in {*new_of, *new_of.values()}}
        old, new = (
            sum(volume[z] * n for z, n in zip(elements, composition.counts, strict=True))
            for elements in (shelf.elements[entry].tolist(), composition.elements)
        )
        crystal = with_elements(self._template(row), new_of, (new / old) ** (1 / 3)).crystal()
        if spacegroup in PARTNER:
            return Crystal(crystal.lattice_ang, -crystal.frac % 1, crystal.atomic_numbers)
        return crystal

    @cached_property
    def _first_orbit(self) -> list[int]:
        ends = self.n_orbits.long().cumsum(0).tolist()
        return [0, *ends[:-1]]

    def _template(self, row: int) -> WyckoffCrystal:
        first, n = self._first_orbit[row], int(self.n_orbits[row])
        orbits = slice(first, first + n)
        ((number, sites),) = signatures_of(
            self.number[row : row + 1], self.n_orbits[row : row + 1], self.orbit_z[orbits], self.orbit_letter[orbits]
        )
        return WyckoffCrystal(
            Signature(number, sites), self.cell[row].double().numpy(), self.xyz[orbits].double().numpy()
        )


def _of_content(crystal: Crystal, request: Request) -> Crystal:
    """Atoms of one element together, ascending by atomic number, as every generator gives them."""
    order = np.argsort(crystal.atomic_numbers, kind="stable")
    assert tuple(crystal.atomic_numbers[order].tolist()) == request.atomic_numbers
    return Crystal(crystal.lattice_ang, crystal.frac[order], crystal.atomic_numbers[order])
