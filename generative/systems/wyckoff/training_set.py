"""Training crystals with their signatures, in batches that cost little to compare with stored ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from generative.crystal.batch import CrystalBatch
from generative.crystal.wyckoff import Sites, WyckoffCrystal, space_group
from generative.systems.wyckoff.kinds import Counts, described
from generative.training.data import TrainingSet


def identity_of(digest: str) -> int:
    """A number of 63 bits that stands for a crystal: the beginning of its SHA-256."""
    return int(digest[:16], 16) >> 1


@dataclass(frozen=True, kw_only=True)
class DescribedCrystals(CrystalBatch):
    """Crystals with their signatures, K orbits end to end.

    Attributes:
        identity: by which a stored crystal is known again, which may not vote on itself, (B,), int64.
        number: space group of the signature, (B,).
        n_orbits: (B,).
        orbit_z: atomic numbers, (K,).
        orbit_letter: places of the Wyckoff letters in the alphabet of the group, (K,).
    """

    identity: Tensor
    number: Tensor
    n_orbits: Tensor
    orbit_z: Tensor
    orbit_letter: Tensor

    @property
    def signatures(self) -> list[tuple[int, Sites]]:
        """Space group and sites of each."""
        return signatures_of(self.number, self.n_orbits, self.orbit_z, self.orbit_letter)


class DescribedSet(TrainingSet):
    """A training set whose batches hold signatures."""

    def __init__(self, data: TrainingSet, crystals: Sequence[WyckoffCrystal]) -> None:
        super().__init__(data.crystals, data.spacegroups, data.energies, data.ids)
        self.labels = data.labels
        self.described = list(crystals)
        self.identities = [identity_of(crystal.digest) for crystal in data.crystals]

    def __getitem__(self, rows: Sequence[int]) -> DescribedCrystals:
        """The batch of these rows."""
        batch = super().__getitem__(rows)
        packed = packed_signatures(
            [(self.described[i].signature.spacegroup, self.described[i].signature.sites) for i in rows]
        )
        return DescribedCrystals.extending(
            batch,
            identity=torch.tensor([self.identities[i] for i in rows]),
            number=packed.number,
            n_orbits=packed.n_orbits,
            orbit_z=packed.orbit_z,
            orbit_letter=packed.orbit_letter,
        )

    @cached_property
    def _of_pattern(self) -> list[np.ndarray]:
        """Rows of each pattern of counts."""
        rows: dict[Counts, list[int]] = defaultdict(list)
        for row, one in enumerate(self.described):
            rows[described(one.signature.spacegroup, one.signature.sites)[0].counts].append(row)
        return [np.array(rows[counts]) for counts in sorted(rows)]

    def batches(self, size: int, rng: np.random.Generator | None, like_size: bool = True) -> list[list[int]]:
        """Rows of every batch of one epoch: crystals of as few patterns of counts as may be, since a shelf costs the
        same whether one crystal or a hundred are compared with it. `like_size` is not read.
        """
        cut: list[list[int]] = []
        rest: list[int] = []
        for of_pattern in self._of_pattern:
            rows = (of_pattern if rng is None else rng.permutation(of_pattern)).tolist()
            n_whole = len(rows) // size * size
            cut += [rows[i : i + size] for i in range(0, n_whole, size)]
            # What is left over of a pattern shares a batch with its neighbours, always the same ones: so there are as
            # many batches in every epoch.
            rest += rows[n_whole:]
            if len(rest) >= size:
                cut.append(rest)
                rest = []
        cut += [rest] if rest else []
        return cut if rng is None else [cut[i] for i in rng.permutation(len(cut))]

    def batches_per_epoch(self, size: int) -> int:
        """How many `batches` gives."""
        return len(self.batches(size, None))


class PackedSignatures(NamedTuple):
    """Signatures as tensors: as in DescribedCrystals."""

    number: Tensor
    n_orbits: Tensor
    orbit_z: Tensor
    orbit_letter: Tensor


def packed_signatures(signatures: Sequence[tuple[int, Sites]]) -> PackedSignatures:
    """Space groups and sites as tensors. Inverse of signatures_of."""
    letters = [[list(space_group(n).positions).index(x) for _, x in sites] for n, sites in signatures]
    return PackedSignatures(
        torch.tensor([n for n, _ in signatures], dtype=torch.int16),
        torch.tensor([len(sites) for _, sites in signatures], dtype=torch.int16),
        torch.tensor([z for _, sites in signatures for z, _ in sites], dtype=torch.int16),
        torch.tensor([x for of in letters for x in of], dtype=torch.int8),
    )


def signatures_of(number: Tensor, n_orbits: Tensor, orbit_z: Tensor, orbit_letter: Tensor) -> list[tuple[int, Sites]]:
    """Space group and sites of each; arguments as in PackedSignatures."""
    found, first = [], 0
    z, letter = orbit_z.tolist(), orbit_letter.tolist()
    for group, n in zip(number.tolist(), n_orbits.tolist(), strict=True):
        alphabet = list(space_group(group).positions)
        found.append((group, tuple((z[i], alphabet[letter[i]]) for i in range(first, first + n))))
        first += n
    return found
