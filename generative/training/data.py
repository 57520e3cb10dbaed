"""From a dataset table to batches: reduced cells, the known conditions and bonds of every crystal, held-out parts.

Shape letters as in generative/crystal/batch.py: B crystals, A atoms of all crystals end to end, E bonds of all
crystals.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from generative.crystal.batch import CrystalBatch
from generative.crystal.bonds import Bonds, PackedBonds
from generative.crystal.crystals import Crystal, crystals_of, reduced
from generative.datasets.filters import without_formulas
from generative.datasets.formats.columns import PROPERTY_NAMES, is_row_number
from generative.datasets.levels import level_of
from generative.datasets.site_labels import SiteLabel

POOL_BATCHES = 16
"""Batches of like sizes are cut from pools of this many, sorted by size, so that little padding is computed."""


_ENERGIES = frozenset({"energy_ev_per_atom", "formation_energy_ev_per_atom", "e_above_hull_ev_per_atom"})


class TrainingError(RuntimeError):
    """Training that cannot begin or go on; the message names what is wrong, or the step and the batch."""


class TrainingSet(Dataset[CrystalBatch]):
    """Crystals with their known conditions; an item is a whole batch, given by its list of indices."""

    def __init__(
        self,
        crystals: Sequence[Crystal],
        spacegroups: Sequence[int | None],
        energies_ev_per_atom: Sequence[float | None],
        ids: Sequence[str],
        bonds: Sequence[Bonds] | None = None,
    ) -> None:
        """Args: one entry of each per crystal; `bonds` None where the system needs none."""
        self.crystals, self.ids = list(crystals), list(ids)
        self.spacegroups, self.energies = list(spacegroups), list(energies_ev_per_atom)
        self.bonds = None if bonds is None else list(bonds)
        self.labels: tuple[SiteLabel, ...] = ()
        """Further crystals, of which no coordinates are known; for systems that learn of sites alone."""
        self.columns: dict[str, list[float | None]] = {}
        """Further numbers of every crystal, by name; for systems that name such columns."""

    def __len__(self) -> int:
        """Number of crystals."""
        return len(self.crystals)

    @cached_property
    def _all(self) -> CrystalBatch:
        return CrystalBatch.pack(self.crystals, self.spacegroups, self.energies)

    @cached_property
    def _all_bonds(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Source and target within their own crystal and image of all bonds, end to end, and the bonds per crystal."""
        assert self.bonds is not None
        ends = np.concatenate([np.stack([b.source, b.target]) for b in self.bonds], axis=1).astype(np.int32)
        image = np.concatenate([b.image for b in self.bonds]).astype(np.int16)
        counts = torch.tensor([len(b.source) for b in self.bonds])
        return torch.from_numpy(ends[0]), torch.from_numpy(ends[1]), torch.from_numpy(image), counts

    def __getitem__(self, rows: Sequence[int]) -> CrystalBatch:
        """The batch of these rows: gathered from tensors made once, since packing anew would cost more at each step."""
        chosen = torch.as_tensor(rows)
        whole = self._all
        n_atoms = whole.n_atoms[chosen]
        atoms = _ragged(whole.n_atoms, chosen)
        batch = CrystalBatch(
            whole.frac[atoms],
            whole.atomic_numbers[atoms],
            whole.lattice_ang[chosen],
            n_atoms,
            whole.spacegroup[chosen],
            whole.energy_ev_per_atom[chosen],
        )
        if self.bonds is None:
            return batch
        source, target, image, counts = self._all_bonds
        pairs = _ragged(counts, chosen)
        first_atom = (n_atoms.cumsum(0) - n_atoms).repeat_interleave(counts[chosen])
        return batch.replace(
            bonds=PackedBonds(source[pairs] + first_atom, target[pairs] + first_atom, image[pairs].long())
        )

    def subset(self, rows: Sequence[int]) -> TrainingSet:
        """The set of these rows, in this order, with all labels."""
        chosen = TrainingSet(
            [self.crystals[i] for i in rows],
            [self.spacegroups[i] for i in rows],
            [self.energies[i] for i in rows],
            [self.ids[i] for i in rows],
            None if self.bonds is None else [self.bonds[i] for i in rows],
        )
        chosen.labels = self.labels
        chosen.columns = {name: [values[i] for i in rows] for name, values in self.columns.items()}
        return chosen

    def batches(self, size: int, rng: np.random.Generator | None, like_size: bool = True) -> list[list[int]]:
        """Rows of every batch of one epoch; shuffled when `rng` is given, of like sizes when `like_size`."""
        order = np.arange(len(self)) if rng is None else rng.permutation(len(self))
        if not like_size:
            return [order[i : i + size].tolist() for i in range(0, len(order), size)]
        sizes = np.array([len(c.atomic_numbers) for c in self.crystals])
        cut: list[list[int]] = []
        for start in range(0, len(order), size * POOL_BATCHES):
            pool = order[start : start + size * POOL_BATCHES]
            pool = pool[np.argsort(sizes[pool], kind="stable")]
            cut += [pool[i : i + size].tolist() for i in range(0, len(pool), size)]
        return cut if rng is None else [cut[i] for i in rng.permutation(len(cut))]

    def batches_per_epoch(self, size: int) -> int:
        """How many `batches` gives."""
        return -(-len(self) // size)


def _ragged(counts: Tensor, chosen: Tensor) -> Tensor:
    """Places of the entries of the chosen crystals where those of all, `counts` of each, stand end to end."""
    starts, n = (counts.cumsum(0) - counts)[chosen], counts[chosen]
    return (starts - (n.cumsum(0) - n)).repeat_interleave(n) + torch.arange(int(n.sum()))


class StepSampler(Sampler[list[int]]):
    """An endless stream of batches, a function of seed and step alone: resuming at a step repeats nothing."""

    def __init__(
        self,
        data: TrainingSet,
        size: int,
        seed: int,
        first_step: int,
        rank: int = 0,
        world: int = 1,
        like_size: bool = True,
    ) -> None:
        self.data, self.size, self.seed, self.first_step = data, size, seed, first_step
        self.rank, self.world, self.like_size = rank, world, like_size

    def __iter__(self) -> Iterator[list[int]]:
        """Batches from `first_step` on; with several devices each takes every `world`-th."""
        per_epoch = self.data.batches_per_epoch(self.size)
        index = self.first_step * self.world + self.rank
        while True:
            epoch = index // per_epoch
            batches = self.data.batches(self.size, np.random.default_rng((self.seed, epoch)), self.like_size)
            while index // per_epoch == epoch:
                yield batches[index % per_epoch]
                index += self.world


def composition_of(crystal: Crystal) -> str:
    """The reduced formula as text: equal for crystals of equal stoichiometry."""
    symbols, counts = np.unique(crystal.atomic_numbers, return_counts=True)
    return _formula(symbols.tolist(), counts.tolist())


def _formula(atomic_numbers: Sequence[int], counts: Sequence[int]) -> str:
    divisor = math.gcd(*counts)
    return json.dumps([list(atomic_numbers), [n // divisor for n in counts]])


def split(
    data: TrainingSet, fraction: float, seed: int, by: Literal["formula", "crystal"] = "formula"
) -> tuple[TrainingSet, TrainingSet]:
    """Training and validation sets, by a hash of the formula (no composition on both sides) or of the crystal's id.

    What is held out depends on the crystal alone: adding or removing others moves none from one side to the other.
    """

    def share(word: str) -> float:
        return int.from_bytes(hashlib.sha256(f"{seed} {word}".encode()).digest()[:8], "big") / 2**64

    words = data.ids if by == "crystal" else [composition_of(c) for c in data.crystals]
    held = [share(word) < fraction for word in words]
    train, validation = (data.subset([i for i, h in enumerate(held) if h is side]) for side in (False, True))
    named = [
        label.id if by == "crystal" else _formula(*zip(*label.counts.items(), strict=True)) for label in data.labels
    ]
    train.labels = tuple(x for x, word in zip(data.labels, named, strict=True) if share(word) >= fraction)
    validation.labels = ()
    return train, validation


def property_values(table: pa.Table, name: str | None) -> list[float | None]:
    """A number per row of a dataset table: of the column `name`, of the column that files call so, or of `extra`.

    Args:
        table: of the columns of generative/datasets/table.py.
        name: such as 'formation_energy_ev_per_atom', 'energy_per_atom', or a key of the JSON in `extra`; None gives
            None for every row.
    Raises: TrainingError: if the table has nothing of that name.
    """
    if name is None:
        return [None] * len(table)
    column = next((column for column, names in PROPERTY_NAMES.items() if name in names), name)
    if column in table.column_names and not (pa.types.is_string(kind := table[column].type) or pa.types.is_list(kind)):
        return [_number(value) for value in table.column(column).to_pylist()]
    extras = [json.loads(text) if text else {} for text in table.column("extra").to_pylist()]
    if not any(name in extra for extra in extras):
        keys = sorted({key for extra in extras for key in extra})
        numeric = sorted(n for n in PROPERTY_NAMES if n in table.column_names)
        raise TrainingError(
            f"property is {name!r}, which no crystal has: expected a column ({', '.join(numeric)}) or a key of extra "
            f"({', '.join(keys[:12]) or 'this dataset has none'})"
        )
    return [_number(extra.get(name)) for extra in extras]


def level_note(table: pa.Table, name: str | None) -> str:
    """A sentence where energies to learn from are of several levels of theory, whose zeros and errors differ; or empty.

    Args:
        table: of the columns of generative/datasets/table.py.
        name: of the property, as in property_values.
    """
    column = next((column for column, names in PROPERTY_NAMES.items() if name in names), name)
    if column not in _ENERGIES:
        return ""
    stated = zip(*(table.column(c).to_pylist() for c in (column, "method", "run_type")), strict=True)
    levels = Counter(level_of(method, run_type) for value, method, run_type in stated if value is not None)
    if len(levels) < 2:
        return ""
    named = "; ".join(f"{n:,} of {level!r}" for level, n in levels.most_common(5))
    return (
        f"{column} of the training crystals is of {len(levels)} levels of theory ({named}): a generator that is asked "
        "for an energy learns their mixture, so name one where they are not comparable"
    )


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def training_set(
    table: pa.Table,
    exclude: Collection[str] = (),
    property_name: str | None = "formation_energy_ev_per_atom",
    exclude_formulas: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> TrainingSet:
    """The table's crystals, in Niggli cells, but those of a test set.

    Args:
        table: of the columns of generative/datasets/table.py.
        exclude: values of source_id that are left out.
        property_name: as in property_values.
        exclude_formulas: formulas of which every crystal is left out.
        columns: further properties, as property_name.

    Raises: TrainingError: if the table has no property of that name, or a crystal to exclude has no id of its own.
    """
    hidden = set(exclude)
    if nameless := sorted(filter(is_row_number, hidden)):
        raise TrainingError(
            f"{len(nameless)} of {len(hidden)} crystals to exclude have no id, only a place in their file "
            f"({nameless[0]!r}): expected a column such as material_id, else training would see them"
        )
    source_ids = table.column("source_id").to_pylist()
    rows = [i for i, name in enumerate(source_ids) if name not in hidden]
    kept = without_formulas(table.take(rows), exclude_formulas)
    found = TrainingSet(
        [reduced(c) for c in crystals_of(kept) if c is not None],
        kept.column("spacegroup").to_pylist(),
        property_values(kept, property_name),
        kept.column("id").to_pylist(),
    )
    found.columns = {name: property_values(kept, name) for name in columns}
    return found
