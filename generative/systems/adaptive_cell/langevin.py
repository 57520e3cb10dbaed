"""Two Langevin processes in parallel: sites move in their cells, then cells change around their sites.

From the widest level of noise to the finest some steps at each; a step moves the sites by what is estimated of their
noise, then the free numbers of the cell by what is estimated of theirs, fractional coordinates kept. The cell's random
part is damped, the sites' is not ("low temperatures for the lattice", arXiv:2310.10695, algorithm 1, whose sign is that
of a score; here noise is estimated, and taken back). Knows no network.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from generative.systems.adaptive_cell.free_cell import is_free
from generative.systems.adaptive_cell.noise import CellState, Levels, free_normal, normal

POSITION_STEP_ANG2 = 1e-3
"""At the finest level; a step grows with the level's variance. With published levels a step is the variance itself."""

CELL_STEP_ANG2 = 1e-2
"""The same for the free numbers of the cell: a tenth of the variance."""

START_SPREAD_ANG = 2.0
"""Standard deviation of the free numbers that a walk begins with, about 0: edges of 6.9 +- 1 A."""


class Estimates(ABC):
    """What is thought of the noise in crystals, in units of its standard deviation."""

    @abstractmethod
    def sites(self, state: CellState, level: int) -> Tensor:
        """Of the sites, Cartesian, (N, 3)."""

    @abstractmethod
    def cell(self, state: CellState, level: int) -> Tensor:
        """Of the free numbers, (B, 3)."""

    def both(self, state: CellState, level: int) -> tuple[Tensor, Tensor]:
        """Of sites and free numbers."""
        return self.sites(state, level), self.cell(state, level)


def start(like: CellState, rng: torch.Generator, redraws: int) -> CellState:
    """Cells and sites anywhere, for the groups and sites of `like`; cells without room for them are drawn again."""
    frac = torch.rand(like.frac.shape, generator=rng, device=rng.device, dtype=like.frac.dtype).to(like.frac.device)
    return _resized(replace(like, frac=frac, numbers=torch.zeros_like(like.numbers)), START_SPREAD_ANG, rng, redraws)


@torch.no_grad()
def walk(
    estimates: Estimates,
    state: CellState,
    levels: Levels,
    rng: torch.Generator,
    steps_per_level: int,
    cell_temperature: float = 0.15,
    redraws: int = 10,
    first_level: int | None = None,
    at_once: bool = False,
    progress: Callable[[int], None] | None = None,
) -> CellState:
    """From noise to crystals; two estimates a step.

    Args:
        estimates: of the noise.
        state: where it begins.
        levels: the finest first.
        rng: draws the noise.
        steps_per_level: at each.
        cell_temperature: factor of the cell's random part.
        redraws: of a random part that leaves the cell no room for its sites; after so many the cell stays.
        first_level: the widest that is walked; None begins with the last.
        at_once: estimate both of one state; as published, the cell's is made after the sites have moved.
        progress: called with the number of finished steps.
    """
    done = 0
    widest = len(levels.position_ang) - 1 if first_level is None else first_level
    for level in range(widest, -1, -1):
        position_ang, cell_ang = levels.position_ang[level].item(), levels.cell_ang[level].item()
        position_step = POSITION_STEP_ANG2 * (position_ang / levels.position_ang[0].item()) ** 2
        cell_step = CELL_STEP_ANG2 * (cell_ang / levels.cell_ang[0].item()) ** 2
        for _ in range(steps_per_level):
            of_sites, of_cell = estimates.both(state, level) if at_once else (estimates.sites(state, level), None)
            random = normal(tuple(of_sites.shape), of_sites, rng)
            step_ang = -0.5 * position_step / position_ang * _finite(of_sites) + math.sqrt(position_step) * random
            state = state.moved(step_ang)
            of_cell = estimates.cell(state, level) if of_cell is None else of_cell
            change = 0.5 * cell_step / cell_ang * _finite(of_cell) * is_free(state.group)
            back = replace(state, numbers=state.numbers - change)
            moved = _resized(back, cell_temperature * math.sqrt(cell_step), rng, redraws)
            kept = moved.is_sound().unsqueeze(1)
            state = replace(moved, numbers=torch.where(kept, moved.numbers, state.numbers))
            done += 1
            if progress is not None:
                progress(done)
    return state


def _resized(state: CellState, spread_ang: float, rng: torch.Generator, redraws: int) -> CellState:
    """Cells whose free numbers have got noise; drawn again where a cell then has no room for its sites."""
    drawn = replace(state, numbers=state.numbers + spread_ang * free_normal(state.group, state.numbers, rng))
    for _ in range(redraws):
        sound = drawn.is_sound().unsqueeze(1)
        if sound.all():
            break
        again = state.numbers + spread_ang * free_normal(state.group, state.numbers, rng)
        drawn = replace(drawn, numbers=torch.where(sound, drawn.numbers, again))
    return drawn


def _finite(found: Tensor) -> Tensor:
    """An estimate that is no number says nothing."""
    return torch.where(found.isfinite(), found, 0.0)
