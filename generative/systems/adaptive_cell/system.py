"""The adaptive-cell score model: sites and cell by Langevin dynamics, inside the space group that is asked for.

    1. A crystal is its space group, one site of each orbit, and the free lengths of its conventional cell
       (site_crystal.py, free_cell.py).
    2. Sites have edges to their nearest images under the group (multigraph.py).
    3. A network over these edges (generative/networks/edge_dimenet.py) learns what noise was added to the sites and to
       the free lengths, at ten levels each (noise.py).
    4. Sampling walks from noise to a crystal (langevin.py). Sites that come near a position of higher symmetry are put
       on it: so numbers of sites are asked for, and the composition follows.
Nothing is learned of a chemical system but elements and distances, so any can be asked for.

Source: Sultanov et al., arXiv:2310.10695, and its published code. What differs is in docs/adaptive-cell.md.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from generative.config import SamplerSettings
from generative.crystal.batch import CrystalBatch
from generative.crystal.crystals import Crystal
from generative.crystal.wyckoff import WyckoffCrystal, WyckoffError
from generative.networks.edge_dimenet import Z_MAX, EdgeDimeNet, EdgeDimeNetConfig
from generative.requests import Request, symbol_of
from generative.systems.adaptive_cell.config import N_LEVEL_ROWS, AdaptiveCellConfig, AdaptiveCellSampler
from generative.systems.adaptive_cell.finishing import (
    asked_for,
    finished,
    one_of_each_site,
    require_sites,
    site_crystals,
)
from generative.systems.adaptive_cell.free_cell import LOWEST_GROUP, is_free, n_free
from generative.systems.adaptive_cell.langevin import Estimates, start, walk
from generative.systems.adaptive_cell.multigraph import Multigraph, multigraph
from generative.systems.adaptive_cell.noise import CellState, Levels, cell_noise, free_normal, normal, site_noise
from generative.systems.adaptive_cell.site_crystal import SiteCrystal
from generative.systems.adaptive_cell.training_set import SiteBatch, SiteSet, packed, state_of
from generative.systems.baselines.stored import content_of, failed_sample
from generative.systems.interface import CardNotes, Change, Generator, Modifier, Progress, own_settings
from generative.systems.trainable import Loss, Trainable
from generative.systems.wyckoff.descriptions import Descriptions
from generative.training.data import TrainingSet

logger = logging.getLogger(__name__)


class ItemLosses(NamedTuple):
    """Mean square errors of unit noise of each crystal, where none is learned 1 on average.

    Attributes:
        sites: (B,).
        cell: (B,); 0 where there is none to learn.
        has_cell: whether the cell has free numbers and kept its room under the noise, (B,).
    """

    sites: Tensor
    cell: Tensor
    has_cell: Tensor


class AdaptiveCell(Generator, Modifier, Trainable):
    """The system: network, noise, losses, sampler."""

    name = "adaptive-cell"
    config_type, sampler_type = AdaptiveCellConfig, AdaptiveCellSampler
    heeds = frozenset({"sites", "spacegroup"})
    z_max = Z_MAX
    config: AdaptiveCellConfig

    def __init__(self, config: AdaptiveCellConfig) -> None:
        super().__init__(config)
        names = EdgeDimeNetConfig.__dataclass_fields__.keys() & AdaptiveCellConfig.model_fields.keys()
        sizes: dict[str, Any] = {name: getattr(config, name) for name in names - {"n_levels"}}
        shape = EdgeDimeNetConfig(**sizes, n_levels=N_LEVEL_ROWS, turned=config.angles == "turned")
        self.network = EdgeDimeNet(shape, out_width=2)
        self.levels = Levels.of(config)
        self._described = Descriptions()

    def card_notes(self) -> CardNotes:
        """What it draws, and where its method is described."""
        return CardNotes(
            does="crystal structures of a given space group (16 to 230) and given numbers of inequivalent sites of "
            "each element; how many atoms a site stands for, and so the composition, follows",
            method="docs/adaptive-cell.md",
            limits="No monoclinic and triclinic cells.",
        )

    @classmethod
    def request_like(cls, crystal: Crystal) -> Request:
        """The crystal's space group and numbers of sites; all its atoms in P1, which fails, where it has no group."""
        try:
            signature = WyckoffCrystal.of(crystal).signature
        except WyckoffError:
            counts = Request.for_atoms(crystal.atomic_numbers).formula_counts
            return Request.for_sites(dict(counts), 1)
        return Request.for_sites({symbol_of(z): n for z, n in signature.n_sites.items()}, signature.spacegroup)

    # --- training -----------------------------------------------------------------------------------------------------

    def refused(self, crystal: Crystal) -> str:
        """Why a crystal cannot be trained on; empty where it can."""
        return self.refusals([crystal])[0]

    def refusals(self, crystals: Sequence[Crystal], cache: Path | None = None, workers: int = 1) -> list[str]:
        """Why each crystal cannot be trained on; empty where it can."""
        reasons = self._described.reasons(crystals, cache, workers)
        known = [crystal for crystal, reason in zip(crystals, reasons, strict=True) if not reason]
        groups = iter([one.signature.spacegroup for one in self._described.of(known, cache, workers)])
        return [
            reason or self._refused(crystal, next(groups)) for crystal, reason in zip(crystals, reasons, strict=True)
        ]

    def _refused(self, crystal: Crystal, group: int) -> str:
        if group < LOWEST_GROUP and not self.config.low_symmetry:
            return f"its cell is monoclinic or triclinic: {self.name} knows groups {LOWEST_GROUP} to 230"
        if crystal.atomic_numbers.max() > Z_MAX:
            return f"it holds an element above atomic number {Z_MAX}, the last that {self.name} knows"
        return ""

    def arranged(self, data: TrainingSet, cache: Path | None = None, workers: int = 1) -> SiteSet:
        """The crystals by their sites."""
        return SiteSet(data, [SiteCrystal.of(one) for one in self._described.of(data.crystals, cache, workers)])

    def fit_statistics(self, crystals: Sequence[Crystal], energies_ev_per_atom: Sequence[float | None]) -> None:
        """Nothing is measured; descriptions of the crystals are let go, which `arranged` has taken over."""
        self._described = Descriptions()

    def loss(self, batch: CrystalBatch, rng: torch.Generator, epoch: int = 0) -> Loss:
        """Mean square errors of both noises, in units of their variances; levels and noise drawn from `rng`.

        Computed in single precision, whatever the training's setting: half of it is not enough for a graph.
        """
        assert isinstance(batch, SiteBatch), "a batch without sites: take it from what `arranged` gives"
        shape, n = (2, len(batch)), self.config.n_levels
        levels = torch.randint(n, shape, generator=rng, device=rng.device).to(batch.cell.device)
        with torch.autocast(batch.cell.device.type, enabled=False):
            item = self.item_losses(batch.state, batch.site_numbers, levels[0], levels[1], rng)
        n_cells = item.has_cell.sum()
        sites, cell = item.sites.mean(), item.cell.sum() / n_cells.clamp_min(1)
        weight = self.config.cell_loss_weight
        parts = {"sites": sites, "cell": cell, "without_cell": 1 - n_cells / len(batch)}
        return Loss(weight * cell + (1 - weight) * sites, parts)

    def item_losses(
        self, clean: CellState, atomic_numbers: Tensor, site_level: Tensor, cell_level: Tensor, rng: torch.Generator
    ) -> ItemLosses:
        """Losses of each crystal at given levels.

        The sites' loss is that of sites in their own cell. For the cell's both have noise of one level, first the
        sites, then the cell about them. Both go through the network at once.

        Args:
            clean: crystals without noise.
            atomic_numbers: of the sites, (N,).
            site_level: of the sites' loss, (B,).
            cell_level: of the cell's loss, (B,).
            rng: draws the noise.
        """
        n_crystals, n_sites = len(clean.sites), len(clean.frac)
        of_site = clean.sites.crystal
        position_ang, cell_ang = (one.to(clean.frac) for one in self.levels)
        site_noises = normal((2, n_sites, 3), clean.frac, rng)
        cell_noises = free_normal(clean.group, clean.numbers, rng)
        steps = position_ang[torch.stack([site_level, cell_level])][:, of_site].unsqueeze(2) * site_noises
        moved = [clean.moved(step) for step in steps]
        stretched = clean.numbers + cell_ang[cell_level].unsqueeze(1) * cell_noises
        # A cell that the noise has made too small teaches nothing; it stays as it was, and does not count.
        sound = replace(clean, numbers=stretched).is_sound() & (n_free(clean.group) > 0)
        stretched = torch.where(sound.unsqueeze(1), stretched, clean.numbers)
        both = clean.twice(torch.cat([one.frac for one in moved]), torch.cat([clean.numbers, stretched]))
        graph = multigraph(both.frac, both.lattice_ang, both.sites, self.config.n_neighbours)
        answer = self.network(atomic_numbers.repeat(2), torch.cat([site_level, cell_level])[both.sites.crystal], graph)
        found = site_noise(answer[:, 0], graph, len(both.frac), self.config.weight_limit)[:n_sites]
        error = (found - site_noises[0]).square().mean(1)
        sites = error.new_zeros(n_crystals).index_add(0, of_site, error) / clean.sites.n_sites
        free = is_free(clean.group)
        found = cell_noise(answer[:, 1], graph, both, self.config.stretch_step_ang)[n_crystals:]
        off = ((found - cell_noises).square() * free).sum(1) / n_free(clean.group).clamp_min(1)
        return ItemLosses(sites, torch.where(sound, off, 0.0), sound)

    # --- sampling -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        requests: Sequence[Request],
        rng: torch.Generator,
        settings: SamplerSettings | None = None,
        progress: Progress | None = None,
    ) -> list[Crystal]:
        """See Generator.sample. A failed sample has one atom for each site: their numbers of atoms are not known.

        So does one of a monoclinic or triclinic group.

        Raises: ValueError: if a request names no sites, or an element above Z_MAX.
        """
        how = own_settings(AdaptiveCellSampler, settings)
        require_sites(requests, Z_MAX)
        found: list[Crystal | None] = [None] * len(requests)
        reasons: Counter[str] = Counter()
        possible = [i for i, request in enumerate(requests) if (request.spacegroup or 0) >= LOWEST_GROUP]
        if low := len(requests) - len(possible):
            logger.warning("%d of %d samples are asked for in groups below %d: none", low, len(requests), LOWEST_GROUP)
        left, done = possible, 0
        for _ in range(how.attempts if possible else 0):
            reasons.clear()
            for rows, steps in _batches(requests, left, how):
                for i, (crystal, reason) in zip(
                    rows, self._drawn([requests[i] for i in rows], rng, how, steps), strict=True
                ):
                    found[i] = crystal
                    reasons[reason] += crystal is None
                done += len(rows)
                if progress is not None:
                    progress(min(1.0, done / len(possible)))
            left = [i for i in left if found[i] is None]
        if left:
            logger.warning(
                "%d of %d samples are no crystals of their space group: %s", len(left), len(requests), _said(reasons)
            )
        return [
            failed_sample(one_of_each_site(request)) if crystal is None else crystal
            for crystal, request in zip(found, requests, strict=True)
        ]

    def _drawn(
        self, requests: Sequence[Request], rng: torch.Generator, how: AdaptiveCellSampler, steps: int
    ) -> list[tuple[Crystal | None, str]]:
        """A walk for each of the requests, all of the same number of steps; crystals, or why there is none."""
        device = self.network.embedding.element.weight.device
        numbers = torch.tensor([z for request in requests for z in one_of_each_site(request)], device=device)
        state = start(asked_for(requests).to(device), rng, how.redraws)
        return self._walked(state, numbers, rng, how, steps)

    def _walked(
        self,
        state: CellState,
        atomic_numbers: Tensor,
        rng: torch.Generator,
        how: AdaptiveCellSampler,
        steps: int,
        first_level: int | None = None,
    ) -> list[tuple[Crystal | None, str]]:
        estimates = NetworkEstimates(self, atomic_numbers)
        end = walk(
            estimates, state, self.levels, rng, steps, how.cell_temperature, how.redraws, first_level, how.at_once
        )
        return [finished(one, how) for one in site_crystals(end, atomic_numbers)]

    @torch.no_grad()
    def modify(
        self,
        crystals: Sequence[Crystal],
        changes: Sequence[Change],
        rng: torch.Generator,
        settings: SamplerSettings | None = None,
        progress: Progress | None = None,
    ) -> list[Crystal]:
        """See Modifier.modify: noise on the sites of each crystal, and a walk back through the levels below it.

        The space group is kept, so one that is asked for can only be the crystal's own; an energy has no effect. What
        comes out with another composition, as where sites part or meet, is a failed sample.
        """
        how = own_settings(AdaptiveCellSampler, settings)
        found = [failed_sample(crystal.atomic_numbers.tolist()) for crystal in crystals]
        refusals = self.refusals(crystals)
        reasons: Counter[str] = Counter(refusal for refusal in refusals if refusal)
        known = [i for i, reason in enumerate(refusals) if not reason]
        described = dict(zip(known, self._described.of([crystals[i] for i in known]), strict=True))
        asked = [i for i in known if changes[i].spacegroup in (None, described[i].signature.spacegroup)]
        reasons["another space group than the crystal's is asked for, and this modifier keeps it"] = len(known) - len(
            asked
        )
        device = self.network.embedding.element.weight.device
        first = int((self.levels.position_ang < how.template_noise_ang).sum().clamp_max(self.config.n_levels - 1))
        for begin in range(0, len(asked), how.batch_crystals):
            rows = asked[begin : begin + how.batch_crystals]
            given = packed([SiteCrystal.of(described[i]) for i in rows])
            state = state_of(given["group"], given["n_sites"], given["site_frac"], given["cell"]).to(device)
            state = state.moved(how.template_noise_ang * normal(tuple(state.frac.shape), state.frac, rng))
            numbers = given["site_numbers"].to(device)
            drawn = self._walked(state, numbers, rng, how, how.steps_per_level, first)
            for i, (crystal, reason) in zip(rows, drawn, strict=True):
                if crystal is None:
                    reasons[reason] += 1
                elif content_of(crystal.atomic_numbers) != content_of(crystals[i].atomic_numbers):
                    reasons["its sites have parted or met, so that its composition is another"] += 1
                else:
                    found[i] = crystal
            if progress is not None:
                progress((begin + len(rows)) / len(asked))
        if n := reasons.total():
            logger.warning("%d of %d samples are no polymorphs: %s", n, len(crystals), _said(reasons))
        return found


class NetworkEstimates(Estimates):
    """What the network thinks of the noise in crystals."""

    def __init__(self, system: AdaptiveCell, atomic_numbers: Tensor) -> None:
        """Args: the system; atomic numbers of the sites, (N,)."""
        self._system, self._numbers = system, atomic_numbers

    def sites(self, state: CellState, level: int) -> Tensor:
        """Of the sites, (N, 3)."""
        return self._sites(state, *self._answer(state, level))

    def cell(self, state: CellState, level: int) -> Tensor:
        """Of the free numbers, (B, 3)."""
        return self._cell(state, *self._answer(state, level))

    def both(self, state: CellState, level: int) -> tuple[Tensor, Tensor]:
        """Of sites and free numbers, by one call of the network."""
        graph, answer = self._answer(state, level)
        return self._sites(state, graph, answer), self._cell(state, graph, answer)

    def _sites(self, state: CellState, graph: Multigraph, answer: Tensor) -> Tensor:
        return site_noise(answer[:, 0], graph, len(state.frac), self._system.config.weight_limit)

    def _cell(self, state: CellState, graph: Multigraph, answer: Tensor) -> Tensor:
        return cell_noise(answer[:, 1], graph, state, self._system.config.stretch_step_ang)

    def _answer(self, state: CellState, level: int) -> tuple[Multigraph, Tensor]:
        graph = multigraph(state.frac, state.lattice_ang, state.sites, self._system.config.n_neighbours)
        answer: Tensor = self._system.network(self._numbers, torch.full_like(self._numbers, level), graph)
        return graph, answer


def _said(reasons: Counter[str]) -> str:
    return "; ".join(f"{n} because {reason}" for reason, n in reasons.most_common() if n)


def _batches(
    requests: Sequence[Request], rows: Sequence[int], how: AdaptiveCellSampler
) -> Iterator[tuple[list[int], int]]:
    """Requests that are walked at once, of one number of steps, with that number."""
    alike: dict[int, list[int]] = defaultdict(list)
    for i in rows:
        alike[how.steps_per_level + how.steps_per_site * len(one_of_each_site(requests[i]))].append(i)
    for steps, those in sorted(alike.items()):
        for first in range(0, len(those), how.batch_crystals):
            yield those[first : first + how.batch_crystals], steps
