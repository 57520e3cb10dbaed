"""Crystals by their sites, as the tests of the adaptive-cell model make them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from generative.systems.adaptive_cell.free_cell import angles_deg, numbers_of_cell
from generative.systems.adaptive_cell.noise import CellState
from generative.systems.adaptive_cell.operations import SiteTable

EDGES_ANG = np.array([5.1, 6.3, 7.4])


def cell_of(spacegroup: int, edges_ang: np.ndarray = EDGES_ANG) -> np.ndarray:
    """a, b, c and angles as the crystal system has them, (6,)."""
    a, b, c = edges_ang
    if spacegroup > 194:
        b = c = a
    elif spacegroup > 74:
        b = a
    return np.array([a, b, c, 90, 90, 120 if 142 < spacegroup < 195 else 90])


def state_of(
    spacegroups: Sequence[int], sites: Sequence[np.ndarray], cells: Sequence[np.ndarray] | None = None
) -> CellState:
    """Crystals with these sites, double precision."""
    groups = torch.tensor(list(spacegroups))
    chosen = np.stack(list(cells) if cells is not None else [cell_of(number) for number in spacegroups])
    numbers = numbers_of_cell(torch.from_numpy(chosen[:, :3]), groups)
    table = SiteTable.of(list(spacegroups), [len(one) for one in sites], torch.float64)
    return CellState(torch.from_numpy(np.concatenate(sites)), numbers, groups, angles_deg(groups), table)


def random_sites(n: int, seed: int) -> np.ndarray:
    """Sites anywhere, (n, 3)."""
    found: Tensor = torch.rand(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return found.numpy()
