"""Modification: a crystal becomes a polymorph of lower energy, asked for by energy change and space group.

Method, from top to bottom of this file:
    1. Source and target are structure matrices of the same atoms (generative/crystal/structure_matrix.py); training
       pairs go from a higher to a lower polymorph (generative/datasets/polymorphs.py).
    2. Elements, the target's space group and the change of energy condition the UNet of generator.py.
    3. Three ways: regression in one step, with a loss that knows periodicity; a diffusion that has the source among its
       conditions (after Palette, arXiv:2111.05826); a straight flow from source to target.

A modifier keeps the crystals it was trained on. Where it is asked for a composition, as a generator is, it begins with
one of them of this composition, or with one that is substituted (substitution.py); that use is ours.

Shape letters: B crystals, R = 64 rows.
Source: conditional generation and modification of crystals by diffusion and flow matching (AIRI), modification task.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from generative.config import SamplerSettings
from generative.crystal.batch import CrystalBatch
from generative.crystal.crystals import Crystal
from generative.crystal.structure_matrix import (
    FIRST_LATTICE_ROW,
    MAX_SITES,
    from_matrix,
    number_rows,
    sorted_sites,
    to_matrix,
)
from generative.datasets.polymorphs import PairRule, PairSet
from generative.networks.condition_encoders import StructureEncoder
from generative.processes import gaussian_diffusion, straight_flow
from generative.requests import FORMATION_ENERGY, Request
from generative.systems.baselines.stored import (
    StoredCrystals,
    content_of,
    failed_sample,
    formula_unit,
    in_order,
    repeated,
)
from generative.systems.baselines.substitution import PrototypeSubstitution, SubstitutionConfig
from generative.systems.interface import (
    CardNotes,
    Change,
    Generator,
    Modifier,
    Progress,
    of_steps,
    own_settings,
    require_cells,
)
from generative.systems.trainable import Loss
from generative.systems.unet.config import SIZES, ConditionalUNetConfig, StepsSampler
from generative.systems.unet.structure_matrix_system import N_TIMES, StructureMatrixSystem
from generative.training.data import TrainingSet


class ModifierConfig(ConditionalUNetConfig):
    """A UNet that turns a crystal into a polymorph of it."""

    periodic_loss: Literal["image", "boundary", "none"] = Field(
        "image",
        description="regression: a coordinate's error is to the nearest image; boundary: only where the target lies on "
        "the cell's boundary (published); none: plain",
    )
    n_lowest: int = Field(1, ge=1, description="so many of the lowest polymorphs are good targets; published: 1 or 2")
    group_min: int = Field(2, ge=2, description="smallest group of polymorphs to learn from; published: 7 or 5")
    gap_min_ev_per_cell: float = Field(
        0.01, ge=0, description="groups without such a gap between energies are left out; published: 0.01"
    )
    pairs_per_group: float = Field(1.0, gt=0, description="pairs of an epoch per group of polymorphs; published: 1")
    n_crystals: int = Field(0, ge=0, description="crystals kept to start from; set by the training")
    n_sites: int = Field(0, ge=0, description="atoms of all of them; set by the training")


def periodic_error(told: Tensor, target: Tensor, kind: Literal["image", "boundary", "none"]) -> Tensor:
    """Absolute error of fractional coordinates, each by itself, of their shape.

    image: to the nearest image of the target, at most 0.5. boundary: a coordinate of exactly 0 or 1 is one place, so
    the error is to the nearer of both; others plain. With absolute errors the published minimum over the images of a
    vertex, an edge or a face is this minimum in each coordinate.
    """
    plain = (told - target).abs()
    if kind == "image":
        shift = told - target
        return (shift - shift.round()).abs()
    if kind == "boundary":
        on_boundary = (target == 0) | (target == 1)
        return torch.where(on_boundary, torch.minimum(told.abs(), (told - 1).abs()), plain)
    return plain


class _Pairs(NamedTuple):
    """Matrices of sources and targets, (B, R, 3), rows that count, (B, R, 1), and atoms per crystal, (B,)."""

    source: Tensor
    target: Tensor
    counted: Tensor
    n_atoms: Tensor


class _Walk(NamedTuple):
    """How many network calls, and whom to tell of each."""

    n_steps: int
    progress: Callable[[int], None] | None


class StructureModifier(StructureMatrixSystem, Modifier, Generator, ABC):
    """What the three modifiers have in common: pairs, conditions, errors, and the way from crystals to crystals."""

    config_type = ModifierConfig
    sampler_type = StepsSampler
    heeds = frozenset({"composition", "spacegroup", FORMATION_ENERGY})
    source_is_condition: ClassVar[bool] = False
    config: ModifierConfig

    def __init__(self, config: ModifierConfig) -> None:
        encoders = SIZES[config.size].encoders
        super().__init__(config, encoders.width if self.source_is_condition else 0)
        self.source = StructureEncoder(encoders) if self.source_is_condition else None
        self.known = _Known(config.n_crystals, config.n_sites) if config.n_crystals else None

    def card_notes(self) -> CardNotes:
        """What it makes, and the crystals it starts from."""
        n = self.config.n_crystals
        stored = f"It holds {n:,} training crystals to start from, with their energies." if n else ""
        return CardNotes("polymorphs of a crystal", "docs/conditional-unet.md", stored)

    def fit_statistics(self, crystals: Sequence[Crystal], energies_ev_per_atom: Sequence[float | None]) -> None:
        """Set the scale of energies, and keep the crystals to start from."""
        super().fit_statistics(crystals, energies_ev_per_atom)
        if not crystals:
            return
        self.config = self.config.model_copy(update=StoredCrystals.size_of(crystals))
        self.known = _Known.of(crystals, energies_ev_per_atom).to(self.units.device)

    def arranged(self, data: TrainingSet, cache: Path | None = None, workers: int = 1) -> TrainingSet:
        """The crystals as pairs of polymorphs, which the loss reads."""
        data = super().arranged(data, cache, workers)
        config = self.config
        rule = PairRule(config.n_lowest, config.group_min, config.gap_min_ev_per_cell, config.pairs_per_group)
        return PairSet.of(data, rule)

    def loss(self, batch: CrystalBatch, rng: torch.Generator, epoch: int = 0) -> Loss:
        """Of a batch of pairs: sources, then their targets; the same in every epoch."""
        batch = sorted_sites(batch)
        n, half = len(batch) // 2, len(batch.atomic_numbers) // 2
        matrices = to_matrix(batch) / self.units
        source, target = matrices[:n], matrices[n:]
        n_atoms = batch.n_atoms[n:]
        assert torch.equal(batch.n_atoms[:n], n_atoms), "pairs of cells with different atoms: see PairSet"
        assert torch.equal(batch.atomic_numbers[:half], batch.atomic_numbers[half:])
        change = batch.energy_ev_per_atom[n:] - batch.energy_ev_per_atom[:n]
        hide = torch.rand(2, n, generator=rng, device=rng.device).to(change.device)
        spacegroup = torch.where(hide[0] < self.config.drop_spacegroup, 0, batch.spacegroup[n:])
        change = torch.where(hide[1] < self.config.drop_energy, torch.nan, change)
        numbers = number_rows(batch)[n:]
        condition = self._asked(numbers, spacegroup, change, source)
        return self._pair_loss(_Pairs(source, target, self._counted(n_atoms), n_atoms), condition, rng)

    @abstractmethod
    def _pair_loss(self, pairs: _Pairs, condition: Tensor, rng: torch.Generator) -> Loss:
        """The loss of matrices and their condition (B, E)."""

    def _asked(self, numbers: Tensor, spacegroup: Tensor, change: Tensor, source: Tensor) -> Tensor:
        further = () if self.source is None else (self.source(source),)
        energy = (change / self.energy_scale).nan_to_num(0.0)
        vector: Tensor = self.conditions(numbers, spacegroup, energy, *further)
        return vector

    @torch.no_grad()
    def modify(
        self,
        crystals: Sequence[Crystal],
        changes: Sequence[Change],
        rng: torch.Generator,
        settings: SamplerSettings | None = None,
        progress: Progress | None = None,
    ) -> list[Crystal]:
        """One polymorph of each crystal; see Modifier.modify.

        Crystals are brought into the setting of the training crystals first, which may make the cell smaller.
        Regression and flow draw nothing; regression makes one network call, whatever the settings say.
        """
        how = own_settings(StepsSampler, settings)
        results = [failed_sample(crystal.atomic_numbers.tolist()) for crystal in crystals]
        usable = [
            i
            for i, crystal in enumerate(crystals)
            if np.isfinite(crystal.lattice_ang).all() and np.isfinite(crystal.frac).all() and not self.refused(crystal)
        ]
        if not usable:
            return results
        batch = sorted_sites(
            CrystalBatch.pack(
                [self.turned(crystals[i]) for i in usable],
                [changes[i].spacegroup for i in usable],
                [changes[i].energy_ev_per_atom for i in usable],
            ).to(self.units.device)
        )
        numbers, source = number_rows(batch), to_matrix(batch) / self.units
        counted = self._counted(batch.n_atoms)
        condition = self._asked(numbers, batch.spacegroup, batch.energy_ev_per_atom, source)
        end = self._modified(source, condition, counted, rng, _Walk(how.n_steps, of_steps(progress, how.n_steps)))
        for i, crystal in zip(usable, from_matrix(end * self.units, numbers), strict=True):
            results[i] = crystal
        return results

    def sample(
        self,
        requests: Sequence[Request],
        rng: torch.Generator,
        settings: SamplerSettings | None = None,
        progress: Progress | None = None,
    ) -> list[Crystal]:
        """A kept crystal of each request's composition, or one substituted, modified; see Generator.sample.

        A formation energy is heeded where the crystal to start from has a known one.

        Raises: ValueError: if a request names no composition, or one of more than 60 atoms; or nothing was kept.
        """
        require_cells(requests, MAX_SITES)
        if self.known is None:
            raise ValueError(f"this {self.name} keeps no crystals to start from: train it, or call modify with yours")
        sources, energies = self.known.draw(requests, rng)
        changes = []
        for request, start in zip(requests, energies, strict=True):
            asked = request.formation_energy_ev_per_atom
            changes.append(Change(request.spacegroup, None if asked is None or start is None else asked - start))
        drawn = self.modify(sources, changes, rng, settings, progress)
        return [
            in_order(repeated(crystal, request.n_atoms // len(crystal.atomic_numbers)), request.atomic_numbers)
            for crystal, request in zip(drawn, requests, strict=True)
        ]

    @abstractmethod
    def _modified(
        self, source: Tensor, condition: Tensor, counted: Tensor, rng: torch.Generator, walk: _Walk
    ) -> Tensor:
        """Matrices of the polymorphs, (B, R, 3)."""


class _Known(nn.Module):
    """Crystals to start from, with their energies (infinite where unknown)."""

    energies_ev_per_atom: Tensor

    def __init__(self, n_crystals: int, n_sites: int) -> None:
        super().__init__()
        self.crystals = PrototypeSubstitution(SubstitutionConfig(n_crystals=n_crystals, n_sites=n_sites))
        self.register_buffer("energies_ev_per_atom", torch.full((n_crystals,), torch.inf, dtype=torch.float64))

    @classmethod
    def of(cls, crystals: Sequence[Crystal], energies_ev_per_atom: Sequence[float | None]) -> Self:
        known = cls(**StoredCrystals.size_of(crystals))
        known.crystals = PrototypeSubstitution.of(crystals, [None] * len(crystals))
        known.energies_ev_per_atom = torch.tensor(
            [math.inf if e is None or math.isnan(e) else e for e in energies_ev_per_atom], dtype=torch.float64
        )
        return known

    def draw(self, requests: Sequence[Request], rng: torch.Generator) -> tuple[list[Crystal], list[float | None]]:
        """A crystal per composition, with its energy where it is one of its own elements'."""
        sources: list[Crystal] = []
        energies: list[float | None] = []
        asked = [Request(request.formula_counts) for request in requests]
        for wish, drawn in zip(asked, self.crystals.draw(asked, rng), strict=True):
            sources.append(failed_sample(wish.atomic_numbers) if drawn.crystal is None else drawn.crystal)
            energy = math.inf
            if drawn.row is not None:
                stored = self.crystals.stored.crystal(drawn.row)
                if formula_unit(content_of(stored.atomic_numbers))[0] == formula_unit(wish.content)[0]:
                    energy = float(self.energies_ev_per_atom[drawn.row])
            energies.append(energy if math.isfinite(energy) else None)
        return sources, energies


class RegressionModifier(StructureModifier):
    """The polymorph in one step; the network's time is always 0."""

    name = "unet-modify-regression"

    def _pair_loss(self, pairs: _Pairs, condition: Tensor, rng: torch.Generator) -> Loss:
        told = self._told(pairs.source, pairs.source.new_zeros(len(pairs.source)), condition)
        sites = periodic_error(
            told[:, :FIRST_LATTICE_ROW], pairs.target[:, :FIRST_LATTICE_ROW], self.config.periodic_loss
        )
        lattice = (told - pairs.target)[:, FIRST_LATTICE_ROW:].abs()
        return self._errors(torch.cat([sites, lattice], dim=1), pairs.counted, pairs.n_atoms)

    def _modified(
        self, source: Tensor, condition: Tensor, counted: Tensor, rng: torch.Generator, walk: _Walk
    ) -> Tensor:
        told = self._told(source, source.new_zeros(len(source)), condition) * counted
        if walk.progress is not None:
            walk.progress(walk.n_steps)
        return told


class DiffusionModifier(StructureModifier):
    """A diffusion of the target, the source among its conditions; ancestral steps."""

    name = "unet-modify-diffusion"
    source_is_condition = True

    def _pair_loss(self, pairs: _Pairs, condition: Tensor, rng: torch.Generator) -> Loss:
        n = len(pairs.target)
        epsilon = torch.randn(pairs.target.shape, generator=rng, device=rng.device).to(pairs.target) * pairs.counted
        t = torch.randint(N_TIMES, (n,), generator=rng, device=rng.device).to(epsilon.device)
        here = gaussian_diffusion.noisy(pairs.target, epsilon, self.alpha_bar[t.cpu()].to(epsilon.device))
        told = self._told(here, t.to(epsilon.dtype), condition)
        target = pairs.target if self.config.predicts == "crystal" else epsilon
        return self._errors((told - target).abs(), pairs.counted, pairs.n_atoms)

    def _modified(
        self, source: Tensor, condition: Tensor, counted: Tensor, rng: torch.Generator, walk: _Walk
    ) -> Tensor:
        start = torch.randn(source.shape, generator=rng, device=rng.device).to(source) * counted

        def noise(time: int, matrix: Tensor) -> Tensor:
            told = self._told(matrix, condition.new_full((len(matrix),), time), condition) * counted
            return self._noise(told, matrix, time)

        return gaussian_diffusion.denoise(noise, start, self.alpha_bar, walk.n_steps, "ancestral", rng, walk.progress)


class FlowModifier(StructureModifier):
    """A straight flow from the source to the target; the same source always gives the same polymorph."""

    name = "unet-modify-flow"

    def _pair_loss(self, pairs: _Pairs, condition: Tensor, rng: torch.Generator) -> Loss:
        t = torch.rand(len(pairs.source), generator=rng, device=rng.device).to(pairs.source)
        here = straight_flow.between(pairs.source, pairs.target, t)
        told = self._told(here, t * self.config.time_scale, condition)
        target = pairs.target if self.config.predicts == "crystal" else pairs.target - pairs.source
        return self._errors((told - target).abs(), pairs.counted, pairs.n_atoms)

    def _modified(
        self, source: Tensor, condition: Tensor, counted: Tensor, rng: torch.Generator, walk: _Walk
    ) -> Tensor:
        def velocity(t: float, matrix: Tensor) -> Tensor:
            time = condition.new_full((len(matrix),), t * self.config.time_scale)
            return self._velocity(self._told(matrix, time, condition) * counted, matrix, t)

        return straight_flow.integrate(velocity, source, walk.n_steps, walk.progress)


MODIFIERS: tuple[type[StructureModifier], ...] = (RegressionModifier, DiffusionModifier, FlowModifier)
