"""Training crystals as the sites that symmetry leaves, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from generative.crystal.batch import CrystalBatch
from generative.systems.adaptive_cell.free_cell import numbers_of_cell
from generative.systems.adaptive_cell.noise import CellState
from generative.systems.adaptive_cell.operations import SiteTable
from generative.systems.adaptive_cell.site_crystal import SiteCrystal
from generative.training.data import TrainingSet


@dataclass(frozen=True, kw_only=True)
class SiteBatch(CrystalBatch):
    """Crystals with their sites, N of all of them end to end.

    Attributes:
        group: space group of the sites, (B,), int64.
        n_sites: (B,), int64.
        site_numbers: atomic numbers, (N,), int64.
        site_frac: in the conventional cells, (N, 3).
        cell: a, b, c in angstrom, alpha, beta, gamma in degrees of the conventional cells, (B, 6).
    """

    group: Tensor
    n_sites: Tensor
    site_numbers: Tensor
    site_frac: Tensor
    cell: Tensor

    @property
    def state(self) -> CellState:
        """The crystals as they are, without noise."""
        return state_of(self.group, self.n_sites, self.site_frac, self.cell)


class SiteSet(TrainingSet):
    """A training set whose batches hold sites."""

    def __init__(self, data: TrainingSet, crystals: Sequence[SiteCrystal]) -> None:
        """Args: the crystals of `data` by their sites."""
        super().__init__(data.crystals, data.spacegroups, data.energies, data.ids)
        self.labels = data.labels
        self.site_crystals = list(crystals)

    def __getitem__(self, rows: Sequence[int]) -> SiteBatch:
        """The batch of these rows."""
        chosen = [self.site_crystals[i] for i in rows]
        return SiteBatch.extending(super().__getitem__(rows), **packed(chosen))


def state_of(group: Tensor, n_sites: Tensor, site_frac: Tensor, cell: Tensor) -> CellState:
    """Crystals by the fields of SiteBatch."""
    lengths, angles = cell[:, :3], cell[:, 3:]
    sites = SiteTable.of(group.tolist(), n_sites.tolist(), site_frac.dtype)
    return CellState(site_frac, numbers_of_cell(lengths, group), group, angles, sites.to(site_frac.device))


def packed(crystals: Sequence[SiteCrystal]) -> dict[str, Tensor]:
    """The fields that SiteBatch adds, of these crystals."""
    return {
        "group": torch.tensor([one.spacegroup for one in crystals]),
        "n_sites": torch.tensor([len(one.frac) for one in crystals]),
        "site_numbers": torch.from_numpy(np.concatenate([one.atomic_numbers for one in crystals])).long(),
        "site_frac": torch.from_numpy(np.concatenate([one.frac for one in crystals])).float(),
        "cell": torch.from_numpy(np.stack([one.cell for one in crystals])).float(),
    }
