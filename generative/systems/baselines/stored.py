"""What generators that learn nothing have in common: stored crystals, reading what is asked, samples that failed.

A generator is worth its training where it beats these. They are systems like any other: a checkpoint holds one, and
whoever samples cannot tell the difference. Where no crystal can be made of what is asked, the sample is a crystal of
the asked atoms whose every number is NaN (`failed_sample`): it stays in its place, the validity check turns it away
with a reason, and metrics count it as drawn.
"""

from __future__ import annotations

import itertools
import logging
import math
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from generative.config import SamplerSettings
from generative.crystal.crystals import Crystal
from generative.requests import Content, Request
from generative.systems.interface import Generator, Progress, of_steps, own_settings, require_cells
from storage.settings import RoomConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drawn:
    """One sample: the crystal, or None and one sentence that says why not; and the stored crystal it came of, if any.

    Attributes:
        crystal: the sample.
        reason: why there is none.
        row: of the stored crystal.
    """

    crystal: Crystal | None
    reason: str = ""
    row: int | None = None


def content_of(atomic_numbers: Sequence[int] | np.ndarray) -> Content:
    """Atoms of each element, ascending by atomic number."""
    return tuple(sorted(Counter(int(z) for z in atomic_numbers).items()))


def formula_unit(content: Content) -> tuple[Content, int]:
    """The content of one formula unit, and how many of them the cell holds."""
    n_units = math.gcd(*(n for _, n in content))
    return tuple((z, n // n_units) for z, n in content), n_units


def failed_sample(atomic_numbers: Sequence[int]) -> Crystal:
    """The asked atoms without a place: lattice and coordinates are NaN, which no validity check passes."""
    numbers = np.array(atomic_numbers, dtype=np.int16)
    return Crystal(np.full((3, 3), np.nan), np.full((len(numbers), 3), np.nan), numbers)


def repeated(crystal: Crystal, n_cells: int) -> Crystal:
    """The same crystal in a cell of `n_cells` primitive ones: by each prime factor, along the then shortest vector."""
    lattice, frac, numbers = np.array(crystal.lattice_ang), np.array(crystal.frac), np.array(crystal.atomic_numbers)
    for factor in _prime_factors(n_cells):
        axis = int(np.linalg.norm(lattice, axis=1).argmin())
        shift = np.zeros((factor, 1, 3))
        shift[:, 0, axis] = np.arange(factor)
        frac = (frac + shift).reshape(-1, 3)
        frac[:, axis] /= factor
        lattice[axis] *= factor
        numbers = np.tile(numbers, factor)
    return Crystal(lattice, frac, numbers)


def _prime_factors(n: int) -> Iterator[int]:
    divisor = 2
    while n > 1:
        while n % divisor == 0:
            yield divisor
            n //= divisor
        divisor += 1


def in_order(crystal: Crystal, atomic_numbers: Sequence[int]) -> Crystal:
    """The crystal with its sites in the order of `atomic_numbers`, which must hold the same atoms."""
    wanted = np.array(atomic_numbers, dtype=np.int16)
    sites = np.empty(len(wanted), dtype=int)
    sites[np.argsort(wanted, kind="stable")] = np.argsort(crystal.atomic_numbers, kind="stable")
    return Crystal(crystal.lattice_ang, crystal.frac[sites], crystal.atomic_numbers[sites])


def shuffled(n: int, rng: torch.Generator) -> list[int]:
    """The numbers 0 to n - 1 in random order."""
    return [int(i) for i in torch.randperm(n, generator=rng).numpy()]


class Baseline(Generator, ABC):
    """A system without weights to learn. Subclasses say how crystals are drawn; this class does what sampling asks.

    Attributes:
        open_composition: whether a request that names no composition, 'anything', can be answered.
    """

    heeds = frozenset({"composition", "spacegroup"})
    open_composition: ClassVar[bool] = True

    @abstractmethod
    def draw(
        self, requests: Sequence[Request], rng: torch.Generator, done: Callable[[int], None] | None = None
    ) -> list[Drawn]:
        """One sample for each request, in order; `done` is called with the number of finished samples."""

    def sample(
        self,
        requests: Sequence[Request],
        rng: torch.Generator,
        settings: SamplerSettings | None = None,
        progress: Progress | None = None,
    ) -> list[Crystal]:
        """See Generator.sample. Where a composition is open, a failed sample has no atoms.

        Raises: ValueError: if a composition holds an unknown atomic number, or is open and cannot be.
        """
        own_settings(SamplerSettings, settings)
        require_cells([r for r in requests if r.formula_counts or not self.open_composition], sys.maxsize)
        drawn = self.draw(requests, rng, of_steps(progress, len(requests)))
        failures = [d.reason for d in drawn if d.crystal is None]
        if failures:
            logger.warning(
                "%s: %d of %d samples failed, the first: %s", self.name, len(failures), len(drawn), failures[0]
            )
        return [
            failed_sample(request.atomic_numbers) if d.crystal is None else d.crystal
            for request, d in zip(requests, drawn, strict=True)
        ]


class StoredConfig(RoomConfig):
    """How much a system with crystals of its own holds; the shapes of its tensors follow from it."""

    n_crystals: int = Field(ge=1, description="crystals stored")
    n_sites: int = Field(ge=1, description="atoms of all of them")


class StoredCrystals(nn.Module):
    """Crystals as tensors, bit for bit: B crystals, the A atoms of all of them end to end.

    Attributes:
        lattice_ang: rows, (B, 3, 3), angstrom, float64.
        frac: fractional coordinates, (A, 3), in [0, 1), float64.
        atomic_numbers: (A,), int16.
        n_atoms: (B,), int32.
        spacegroup: international number, 0 for unknown, (B,), int16.
    """

    lattice_ang: Tensor
    frac: Tensor
    atomic_numbers: Tensor
    n_atoms: Tensor
    spacegroup: Tensor

    def __init__(self, config: StoredConfig) -> None:
        super().__init__()
        b, a = config.n_crystals, config.n_sites
        self.register_buffer("lattice_ang", torch.zeros(b, 3, 3, dtype=torch.float64))
        self.register_buffer("frac", torch.zeros(a, 3, dtype=torch.float64))
        self.register_buffer("atomic_numbers", torch.zeros(a, dtype=torch.int16))
        self.register_buffer("n_atoms", torch.zeros(b, dtype=torch.int32))
        self.register_buffer("spacegroup", torch.zeros(b, dtype=torch.int16))

    def fill(self, crystals: Sequence[Crystal], spacegroups: Sequence[int | None]) -> Self:
        """Store these crystals, in order, with their international space-group numbers (None where unknown)."""
        self.lattice_ang.copy_(torch.as_tensor(np.stack([c.lattice_ang for c in crystals])))
        self.frac.copy_(torch.as_tensor(np.concatenate([c.frac for c in crystals])))
        self.atomic_numbers.copy_(torch.as_tensor(np.concatenate([c.atomic_numbers for c in crystals])))
        self.n_atoms.copy_(torch.tensor([len(c.atomic_numbers) for c in crystals]))
        self.spacegroup.copy_(torch.tensor([number or 0 for number in spacegroups]))
        self.__dict__.pop("_crystals", None)
        return self

    @staticmethod
    def size_of(crystals: Sequence[Crystal]) -> dict[str, int]:
        """The fields of StoredConfig for these crystals."""
        return {"n_crystals": len(crystals), "n_sites": sum(len(c.atomic_numbers) for c in crystals)}

    def __len__(self) -> int:
        return len(self.n_atoms)

    @cached_property
    def _crystals(self) -> list[Crystal]:
        ends = np.cumsum(self.n_atoms.cpu().numpy())[:-1]
        parts = (np.split(tensor.cpu().numpy(), ends) for tensor in (self.frac, self.atomic_numbers))
        return [Crystal(*arrays) for arrays in zip(self.lattice_ang.cpu().numpy(), *parts, strict=True)]

    def crystal(self, row: int) -> Crystal:
        """The crystal as it was stored."""
        return self._crystals[row]

    def contents(self) -> list[Content]:
        """What every cell holds."""
        return [content_of(crystal.atomic_numbers) for crystal in self._crystals]

    def groups(self) -> list[int]:
        """International space-group numbers, 0 for unknown."""
        return [int(number) for number in self.spacegroup.cpu()]


class StoringBaseline(Baseline, ABC):
    """A baseline that is made of known crystals and keeps them."""

    @classmethod
    @abstractmethod
    def of(
        cls,
        crystals: Sequence[Crystal],
        spacegroups: Sequence[int | None],
        settings: Mapping[str, Any] | None = None,
    ) -> Self:
        """The baseline made of these crystals.

        Args:
            crystals: at least one.
            spacegroups: their international numbers by spglib, None where unknown.
            settings: fields of its config_type that differ from the defaults.

        Raises: ValidationError: if a setting is wrong.
        """


class Deck:
    """Cards dealt in random order, all of them before any comes again."""

    def __init__(self, cards: Sequence[int], rng: torch.Generator) -> None:
        self._dealt = itertools.cycle([cards[i] for i in shuffled(len(cards), rng)])

    def deal(self) -> int:
        """The next card."""
        return next(self._dealt)
