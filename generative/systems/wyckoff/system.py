"""Hullward's symmetric generator: which Wyckoff positions are occupied is chosen first, numbers follow.

    1. Of a composition, how many atoms of each element the primitive cell holds says which training crystals could be
       its like: those with the same counts (library.py).
    2. Each votes for its signature, space group and occupied positions with elements exchanged, by a learned distance
       of compositions (metric.py). The distance is trained so that a crystal's own signature wins the vote of all
       others (neighbourhood components analysis). The shares of the votes are probabilities, and calibrated as such.
    3. A network that makes signatures site by site (sequence.py) has a voice too, as loud as a voter at a certain
       distance, which crystals decide that it was not trained on. Where nobody is near it has the say; and it knows
       signatures that no crystal has.
    4. The most probable signature is taken, the next one for a second crystal of the same composition, and so on.
    5. Cell and free coordinates are the mean of the structure type that most of the votes come from
       (structure_types.py), scaled by atomic volumes; a signature without one is packed from spheres (packing.py).
So a crystal has its space group by construction, and one that is asked for is never missed.

Crystals whose coordinates are not known (generative/datasets/site_labels.py) vote too, but lend none.

Source: neighbourhood components analysis: Goldberger et al., NIPS 17 (2004). The method as a whole is ours.
"""

from __future__ import annotations

import logging
import math
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
from generative.crystal.wyckoff import PARTNER, WyckoffError
from generative.datasets.site_labels import SiteLabel
from generative.requests import FORMATION_ENERGY, Request, atomic_number
from generative.systems.baselines.stored import failed_sample, repeated
from generative.systems.interface import CardNotes, Generator, Learner, Progress, of_steps, own_settings, require_cells
from generative.systems.trainable import Loss, Trainable
from generative.systems.wyckoff.building import Builder
from generative.systems.wyckoff.card import card_notes
from generative.systems.wyckoff.config import WyckoffConfig, WyckoffSampler
from generative.systems.wyckoff.descriptions import Descriptions
from generative.systems.wyckoff.kinds import Composition, Counts, Kind, Known, described, kind_of
from generative.systems.wyckoff.library import Library
from generative.systems.wyckoff.metric import CompositionMetric
from generative.systems.wyckoff.ranking import Alternative, Ranking
from generative.systems.wyckoff.sequence import Sequences, SignatureNetwork
from generative.systems.wyckoff.training_set import DescribedCrystals, DescribedSet, identity_of
from generative.training.data import TrainingSet
from storage.digests import text_digest

logger = logging.getLogger(__name__)

ROBUST = 0.02
"""Training: probability that the vote is worth nothing, such as of a mislabelled crystal. It bounds the loss of a
crystal whose signature nobody else has a reason to predict, which would else outweigh a hundred others."""

ATOMS_MAX = 1000
"""Atoms of a cell that is asked for. Crystals of the training are smaller, so most larger cells are supercells; the
limit only keeps a typing error from being built."""

FOR_MIXTURE = 10
"""Of so many crystals one teaches nothing to the network that makes signatures, so that it can say how loud the network
shall be."""

PACKINGS = 4
"""Crystals that are packed of one signature before others come again."""


class Wyckoff(Generator, Learner, Trainable):
    """Signatures by the vote of training crystals and by a network, numbers from structure types."""

    name = "wyckoff"
    config_type, sampler_type = WyckoffConfig, WyckoffSampler
    config: WyckoffConfig
    heeds = frozenset({"composition", "sites", "spacegroup", FORMATION_ENERGY})

    atomic_volumes: Tensor

    def __init__(self, config: WyckoffConfig) -> None:
        super().__init__(config)
        self.metric = CompositionMetric(config.width, config.hidden, config.dropout)
        self.sequence = SignatureNetwork(config.sequence_width, config.sequence_hidden, config.dropout)
        self.library = Library(config.library)
        self.register_buffer("atomic_volumes", torch.full((MAX_Z + 1,), 15.0, dtype=torch.float64))
        self._described = Descriptions()
        self._labels: tuple[SiteLabel, ...] = ()
        self._workers = 1

    def card_notes(self) -> CardNotes:
        """What it holds, and what that means."""
        return card_notes(self.library)

    # --- training -----------------------------------------------------------------------------------------------------

    def refused(self, crystal: Crystal) -> str:
        """Why a crystal has no signature; empty where it has."""
        return self._described.reasons([crystal])[0]

    def refusals(self, crystals: Sequence[Crystal], cache: Path | None = None, workers: int = 1) -> list[str]:
        """Why each crystal has no signature; empty where it has."""
        return self._described.reasons(crystals, cache, workers)

    def arranged(self, data: TrainingSet, cache: Path | None = None, workers: int = 1) -> TrainingSet:
        """The crystals with their signatures.

        Raises: WyckoffError: if its crystals were joined after an earlier training: what they voted for is not told.
        """
        if self.library.is_merged:
            raise WyckoffError(
                f"{self.library.sizes.voters:,} vectors stand for its training crystals (merge_distance "
                f"{self.config.merge_distance:g}), so it cannot be trained on: begin from the data, without init"
            )
        self._labels, self._workers = self._labels or tuple(data.labels), workers
        return DescribedSet(data, self._described.of(data.crystals, cache, workers))

    def fit_statistics(self, crystals: Sequence[Crystal], energies_ev_per_atom: Sequence[float | None]) -> None:
        """Store the training crystals, and those without coordinates after them."""
        counts = np.stack([np.bincount(c.atomic_numbers, minlength=MAX_Z + 1) for c in crystals])
        volumes = np.array([abs(np.linalg.det(c.lattice_ang)) for c in crystals])
        self.atomic_volumes.copy_(torch.as_tensor(fit_atomic_volumes(counts.astype(float), volumes)))
        energies = [math.nan if e is None else e for e in energies_ev_per_atom]
        known = [
            Known(one.signature.spacegroup, one.signature.sites, identity_of(crystal.digest), energy, one)
            for crystal, one, energy in zip(crystals, self._described.of(crystals), energies, strict=True)
        ]
        for label in self._labels:
            stated = label.formation_energy_ev_per_atom
            energy = math.nan if stated is None else stated
            known.append(Known(label.spacegroup, label.sites, identity_of(text_digest(label.id)), energy))
        self._take(Library.filled(known, self.atomic_volumes.numpy(), self._workers))
        self.sequence.tabulate()
        self._described, self._labels = Descriptions(), ()

    def learn(self, crystals: Sequence[Crystal], votes: float = 1.0) -> list[str]:
        """Store further crystals beside those of the training, in either form of the library; see Library.extended.

        Distance and network stay as they are: a merged library cannot be trained on, and a network fitted to a few
        crystals alone would forget the others. A crystal has no formation energy here: by whose hull, is not told.
        """
        described_as = Descriptions()
        reasons = described_as.reasons(crystals)
        taken = [crystal for crystal, reason in zip(crystals, reasons, strict=True) if not reason]
        known = [
            Known(one.signature.spacegroup, one.signature.sites, identity_of(crystal.digest), numbers=one)
            for crystal, one in zip(taken, described_as.of(taken), strict=True)
        ]
        volumes = self.atomic_volumes.cpu().numpy()
        self._take(self.library.extended(known, volumes, self.metric, votes))
        return reasons

    def _take(self, library: Library) -> None:
        self.library = library
        self.config = self.config.model_copy(update={"library": library.sizes})
        for made in ("_learnt", "_ranking", "_builder"):
            self.__dict__.pop(made, None)

    def finish(self) -> None:
        """Merge the library, where the settings say so."""
        if self.config.merge_distance:
            self._take(self.library.merged(self.metric, self.config.merge_distance, self.config.type_members_min))

    @cached_property
    def _learnt(self) -> Sequences:
        """Signatures that the network learns from: of each training crystal but those for the mixture."""
        identity, counts = self.library.voter_identity, self.library.counts
        first = torch.cat([torch.ones(1, dtype=torch.bool), identity[1:] != identity[:-1]])
        rows = (first & (identity % FOR_MIXTURE != 0)).nonzero()[:, 0].tolist()
        kinds = self.library.voter_kind.tolist()
        compositions = [Composition(self.library.elements_of(row), counts[kinds[row]]) for row in rows]
        return Sequences.of_kinds(compositions, [self.library.kind(kinds[row]) for row in rows])

    def loss(self, batch: CrystalBatch, rng: torch.Generator, epoch: int) -> Loss:
        """Of the vote, of the network, and of how loud it is beside the voters; `rng` draws who votes."""
        assert isinstance(batch, DescribedCrystals), "a batch without signatures: take it from what `arranged` gives"
        # Dropout knows no generator of its own.
        with torch.random.fork_rng(devices=[] if self.metric.same.device.type == "cpu" else None):
            torch.manual_seed(int(torch.randint(2**62, (), generator=rng, device=rng.device)))
            return self._loss(batch, rng)

    def _loss(self, batch: DescribedCrystals, rng: torch.Generator) -> Loss:
        parts = [(described(group, sites), group) for group, sites in batch.signatures]
        compositions = [composition for (composition, _), _ in parts]
        kinds = [kind_of(group, letters) for (_, letters), group in parts]
        rows: dict[Counts, list[int]] = defaultdict(list)
        for row, composition in enumerate(compositions):
            rows[composition.counts].append(row)
        # Half of the crystals are asked for by their energies too, so that both kinds of request are learned.
        told = torch.rand(len(parts), generator=rng, device=rng.device).cpu() < 0.5
        energy = batch.energy_ev_per_atom.cpu().masked_fill(~told, torch.nan)
        votes = [
            self._vote(counts, those, compositions, kinds, batch.identity.cpu(), energy, rng)
            for counts, those in rows.items()
            if self.library.shelf(counts) is not None
        ]
        zero = self.metric.same * 0
        mine, all_of, right, asked = (
            (torch.cat(one) for one in zip(*votes, strict=True)) if votes else (zero[None] + torch.nan,) * 4
        )
        can = mine.isfinite()  # a signature that no other crystal has cannot win any vote
        vote = -torch.log((mine - all_of)[can].exp() * (1 - ROBUST) + ROBUST).mean() if can.any() else zero
        sites = self._site_by_site(batch, compositions, kinds, rng)
        mixture = self._mixture(mine.detach(), all_of.detach(), asked, compositions, kinds, batch) if votes else zero
        shares = {"vote": vote, "site_by_site": sites, "mixture": mixture}
        if can.any():
            shares["nearest_is_right"] = right[can].mean()
        return Loss(vote + sites + mixture, shares)

    def _vote(
        self,
        counts: Counts,
        rows: list[int],
        compositions: Sequence[Composition],
        kinds: Sequence[Kind],
        identity: Tensor,
        energy: Tensor,
        rng: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of crystals with these counts: logarithms of the votes for their own signatures and of all votes, whether the
        nearest voter is right, and the rows.
        """
        shelf = self.library.shelf(counts)
        assert shelf is not None
        of_row = {int(kind): local for local, kind in enumerate(shelf.kinds)}
        wanted = torch.tensor([of_row.get(self.library.row_of.get(kinds[row], -1), -1) for row in rows])
        elements = torch.tensor([compositions[row].elements for row in rows])
        chosen = self._voters(len(shelf.kind), rng)
        device = self.metric.same.device
        near = self.metric.nearness(
            self.metric(elements.to(device), counts),
            elements.to(device),
            self.metric(shelf.elements[chosen].to(device), counts),
            shelf.elements[chosen].to(device),
            energy[rows].to(device),
            shelf.energy_ev_per_atom[chosen].to(device),
        ).cpu()
        near = near.masked_fill(identity[rows][:, None] == shelf.identity[chosen], -torch.inf)
        mine = near.masked_fill(wanted[:, None] != shelf.kind[chosen], -torch.inf)
        right = (shelf.kind[chosen][near.argmax(1)] == wanted).float()
        # Only a part of a large shelf votes at a time: all together would be so much louder.
        louder = math.log(len(shelf.kind) / len(chosen))
        return mine.logsumexp(1) + louder, near.logsumexp(1) + louder, right, torch.tensor(rows)

    def _voters(self, n: int, rng: torch.Generator) -> Tensor:
        most = self.config.templates_at_once
        if not self.training or n <= most:
            return torch.arange(n)
        return torch.randperm(n, generator=rng, device=rng.device)[:most].cpu()

    def _site_by_site(
        self, batch: DescribedCrystals, compositions: Sequence[Composition], kinds: Sequence[Kind], rng: torch.Generator
    ) -> Tensor:
        """Minus log p of signatures by the network, per signature: of training crystals, or of those held out."""
        if not self.training:
            return -self.sequence.log_probability(Sequences.of_kinds(compositions, kinds)).mean()
        n = len(self._learnt.group)
        if not n:
            return self.metric.same * 0
        chosen = torch.randint(n, (min(n, self.config.sequences_at_once),), generator=rng, device=rng.device).cpu()
        return -self.sequence.log_probability(self._learnt.rows(chosen)).mean()

    def _mixture(
        self,
        mine: Tensor,
        all_of: Tensor,
        asked: Tensor,
        compositions: Sequence[Composition],
        kinds: Sequence[Kind],
        batch: DescribedCrystals,
    ) -> Tensor:
        """Minus log of the mixed probability of crystals that the network was not trained on; its gradient goes to the
        loudness alone.
        """
        apart = (batch.identity.cpu()[asked] % FOR_MIXTURE == 0) | torch.tensor(not self.training)
        if not apart.any():
            return self.metric.same * 0
        rows = asked[apart].tolist()
        with torch.no_grad():
            by_network = self.sequence.log_probability(
                Sequences.of_kinds([compositions[i] for i in rows], [kinds[i] for i in rows])
            )
        far = -10 * self.metric.farness
        mixed = torch.logaddexp(mine[apart], far + by_network) - torch.logaddexp(all_of[apart], far)
        return -mixed.clamp_min(-30).mean()

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
        of a plan the one that stands at this place, counted from 0. Where sites are asked for, a failed sample has one
        atom for each: their numbers of atoms are not known.
        """
        how = own_settings(WyckoffSampler, settings)
        require_cells([request for request in requests if not request.sites], ATOMS_MAX)
        done = of_steps(progress, len(requests))
        # Draws by probability are made anew in every call, so there the turn in the plan has no meaning.
        turns = [None if how.temperature else request.turn for request in requests]
        keys = [request.heeded_by(self.heeds) for request in requests]
        among: Counter[object] = Counter()
        found: dict[object, _Found] = {}
        crystals, failed = [], []
        for i, (key, request, turn) in enumerate(zip(keys, requests, turns, strict=True)):
            place = among[key] if turn is None else turn
            among[key] += 1
            if key not in found:
                found[key] = _Found(self._crystals(request, how.temperature, rng))
            crystal = found[key].at(place)
            if crystal is None:
                failed.append(request)
            crystals.append(failed_sample(_at_least(request)) if crystal is None else crystal)
            if done is not None:
                done(i + 1)
        if failed:
            logger.warning(
                "%d of %d requests can have no signature%s, such as %s",
                len(failed), len(requests), _asked_for(failed[0]), failed[0],
            )  # fmt: skip
        return crystals

    def _crystals(self, request: Request, temperature: float, rng: torch.Generator) -> Iterator[Crystal]:
        """Crystals of what is asked, the most probable signature first; none where none is possible."""
        if request.sites:
            yield from map(
                _together, self._built(self._ranking.of_sites(request, temperature, rng), request.spacegroup, set())
            )
            return
        counts = dict(request.content)
        whole = int(np.gcd.reduce(list(counts.values())))
        energy = request.formation_energy_ev_per_atom
        first: Composition | None = None
        n_cells, given = 1, set[Kind]()
        for n_cells in (d for d in range(1, whole + 1) if whole % d == 0):
            composition = Composition.of({z: count // n_cells for z, count in counts.items()})
            first = first or composition
            if self.library.shelf(composition.counts) is None:
                continue
            alternatives = self._ranking.of_composition(composition, request.spacegroup, energy, temperature, rng)
            for crystal in self._built(alternatives, request.spacegroup, given):
                yield _of_content(repeated(crystal, n_cells), request)
            if given:
                break
        # What the network alone proposes comes when the voters have no more; they may have known none.
        assert first is not None
        if not given or n_cells == 1:
            made = (one for one in self._ranking.by_network(first, request.spacegroup) if one.kind not in given)
            yield from (_of_content(c, request) for c in self._built(made, request.spacegroup, given))

    def _built(
        self, alternatives: Iterator[Alternative], spacegroup: int | None, given: set[Kind]
    ) -> Iterator[Crystal]:
        """One crystal of every signature, then the next ones of each, as long as there are any.

        Args: `given` is told which signatures they have.
        """
        tried: list[Alternative] = []
        mirror = spacegroup in PARTNER
        for one in alternatives:
            tried.append(one)
            given.add(one.kind)
            yield self._one(one, 0, mirror)
        deepest = max((max(len(one.types), 1 if one.types else PACKINGS) for one in tried), default=0)
        for depth in range(1, deepest):
            for one in tried:
                if depth < (len(one.types) or PACKINGS):
                    yield self._one(one, depth, mirror)

    def _one(self, one: Alternative, depth: int, mirror: bool) -> Crystal:
        if one.types:
            crystal = self._builder.of_type(one.composition, one.types[depth])
        else:
            crystal = self._builder.of_packing(one.composition, one.kind, depth)
        return Crystal(crystal.lattice_ang, -crystal.frac % 1, crystal.atomic_numbers) if mirror else crystal

    @cached_property
    def _ranking(self) -> Ranking:
        return Ranking(self.library, self.metric, self.sequence)

    @cached_property
    def _builder(self) -> Builder:
        return Builder(self.library, self.atomic_volumes.cpu().numpy())


class _Found:
    """The crystals of one request, made as far as they are asked for."""

    def __init__(self, crystals: Iterator[Crystal]) -> None:
        self._crystals, self._made, self._ended = crystals, list[Crystal](), False

    def at(self, place: int) -> Crystal | None:
        """The crystal at a place, from the first again where there are fewer; None where there is none."""
        while len(self._made) <= place and not self._ended:
            crystal = next(self._crystals, None)
            if crystal is None:
                self._ended = True
            else:
                self._made.append(crystal)
        return self._made[place % len(self._made)] if self._made else None


def _asked_for(request: Request) -> str:
    """Of a signature: what it has to have beside the composition."""
    if request.sites:
        return " with the sites and of the space group that are asked for, among those stored"
    return " of the space group that is asked for" if request.spacegroup else ""


def _at_least(request: Request) -> tuple[int, ...]:
    """Atomic numbers of the cell; where sites are asked for, one for each."""
    return request.atomic_numbers or tuple(atomic_number(symbol) for symbol, n in request.sites for _ in range(n))


def _of_content(crystal: Crystal, request: Request) -> Crystal:
    together = _together(crystal)
    assert tuple(together.atomic_numbers.tolist()) == request.atomic_numbers
    return together


def _together(crystal: Crystal) -> Crystal:
    """Atoms of one element together, ascending by atomic number, as every generator gives them."""
    order = np.argsort(crystal.atomic_numbers, kind="stable")
    return Crystal(crystal.lattice_ang, crystal.frac[order], crystal.atomic_numbers[order])
