"""Baseline 'training-copies': known crystals, handed out as they are. The ceiling of distribution metrics.

Nothing resembles the training data more than the training data, and nothing in it is new: so a metric of likeness has
here its best value, and a metric of novelty must have zero.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import torch

from generative.crystal.crystals import Crystal
from generative.requests import Content, Request
from generative.systems.baselines.stored import (
    Deck,
    Drawn,
    StoredConfig,
    StoredCrystals,
    StoringBaseline,
    content_of,
    formula_unit,
    repeated,
)


class TrainingCopies(StoringBaseline):
    """Copies of stored crystals, drawn without replacement within one call.

    Of the stored crystals those are drawn from that come closest to what is asked, by the first rule that finds any:
        1. The same atoms in the cell: copies bit for bit.
        2. The same reduced formula: where whole cells add up to the asked atoms the crystal is given in such a
           supercell (it is the same crystal), else in its own cell, with another number of atoms than asked.
        3. All: of a composition that no stored crystal has, or that is left open.
    Among those, crystals of the asked space group are preferred where there are any.
    """

    name = "training-copies"
    config_type = StoredConfig

    def __init__(self, config: StoredConfig) -> None:
        super().__init__(config)
        self.stored = StoredCrystals(config)

    @classmethod
    def of(
        cls,
        crystals: Sequence[Crystal],
        spacegroups: Sequence[int | None],
        settings: Mapping[str, Any] | None = None,
    ) -> Self:
        """The baseline that copies these crystals; it has no settings."""
        system = cls(StoredConfig.model_validate({**(settings or {}), **StoredCrystals.size_of(crystals)}))
        system.stored.fill(crystals, spacegroups)
        return system

    @cached_property
    def _rows_by_content(self) -> dict[Content, list[int]]:
        rows: dict[Content, list[int]] = defaultdict(list)
        for row, content in enumerate(self.stored.contents()):
            rows[content].append(row)
        return dict(rows)

    @cached_property
    def _rows_by_formula(self) -> dict[Content, list[int]]:
        rows: dict[Content, list[int]] = defaultdict(list)
        for content, same in self._rows_by_content.items():
            rows[formula_unit(content)[0]] += same
        return dict(rows)

    @cached_property
    def _groups(self) -> list[int]:
        return self.stored.groups()

    def _pool(self, asked: Request) -> tuple[Content, Sequence[int]]:
        """The rows to draw from, and the cell content they are drawn for: empty where it is none in particular."""
        content, pool = asked.content, self._rows_by_content.get(asked.content)
        if not pool and content:
            pool = self._rows_by_formula.get(formula_unit(content)[0])
        if not pool:
            content, pool = (), list(range(len(self.stored)))
        return content, [row for row in pool if self._groups[row] == asked.spacegroup] or pool

    def _copy(self, row: int, asked: Request) -> Crystal:
        """The crystal, in a supercell if whole cells of it add up to the asked atoms."""
        crystal = self.stored.crystal(row)
        if not asked.atomic_numbers:
            return crystal
        (unit, n_units), (wanted, n_wanted) = (
            formula_unit(content) for content in (content_of(crystal.atomic_numbers), asked.content)
        )
        n_cells, rest = divmod(n_wanted, n_units)
        return repeated(crystal, n_cells) if unit == wanted and n_cells > 1 and rest == 0 else crystal

    def draw(
        self, requests: Sequence[Request], rng: torch.Generator, done: Callable[[int], None] | None = None
    ) -> list[Drawn]:
        """Copies; never fails. See Baseline.draw."""
        decks: dict[tuple[Content, int | None], Deck] = {}
        drawn = []
        for n_done, wish in enumerate(requests, start=1):
            content, pool = self._pool(wish)
            key = content, wish.spacegroup
            if key not in decks:
                decks[key] = Deck(pool, rng)
            drawn.append(Drawn(self._copy(decks[key].deal(), wish)))
            if done is not None:
                done(n_done)
        return drawn
