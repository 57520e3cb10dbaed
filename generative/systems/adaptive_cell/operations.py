"""The sites of a batch and the operations that make their images, as tensors.

Operations are those of the conventional cell, centring included, so that its lattice is that of whole numbers. Shape
letters: B crystals, N sites of all crystals end to end, O operations of all crystals end to end, I images of all sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from generative.crystal.wyckoff import space_group
from generative.systems.adaptive_cell.site_crystal import general_operations

_TRANSLATIONS = 24
"""Translations of all operations are whole numbers of this part of a cell's edge."""


class GroupOperations(NamedTuple):
    """All operations of a conventional cell.

    Attributes:
        rotation: (o, 3, 3), float64; fractional columns.
        translation: (o, 3), float64.
        inverse: place of each one's inverse, up to translations of the cell, (o,).
    """

    rotation: Tensor
    translation: Tensor
    inverse: Tensor


@lru_cache(maxsize=230)
def group_operations(number: int) -> GroupOperations:
    """The operations of a space group, by centring first, the identity before all others."""
    maps, centring = general_operations(number), space_group(number).centring
    rotation = np.tile(np.rint(maps[:, :, :3]), (len(centring), 1, 1))
    translation = (maps[:, :, 3] + centring[:, None]).reshape(-1, 3)
    inverted = np.rint(np.linalg.inv(rotation))
    back = -(inverted @ translation[:, :, None])[:, :, 0]
    place = {key: i for i, key in enumerate(_keys(rotation, translation))}
    inverse = [place[key] for key in _keys(inverted, back)]
    return GroupOperations(torch.from_numpy(rotation), torch.from_numpy(translation), torch.tensor(inverse))


def _keys(rotation: np.ndarray, translation: np.ndarray) -> list[tuple[int, ...]]:
    shifts = np.rint(translation * _TRANSLATIONS).astype(int) % _TRANSLATIONS
    return [(*r, *t) for r, t in zip(rotation.reshape(-1, 9).astype(int).tolist(), shifts.tolist(), strict=True)]


@dataclass(frozen=True)
class SiteTable:
    """Which images the sites of a batch have; the same however sites and cells move.

    Attributes:
        n_sites: (B,).
        crystal: of each site, (N,).
        first_site: of each crystal, (B,).
        n_operations: (B,).
        n_centring: lattice points of the conventional cell, (B,).
        first_operation: (B,).
        first_image: of each crystal, (B,); images stand by site, then by operation.
        first_pair: of each site, (N,): pairs of a site with every image of its crystal, end to end.
        rotation: (O, 3, 3).
        translation: (O, 3).
        inverse: within the crystal's operations, (O,).
        image_site: (I,).
        image_operation: (I,).
    """

    n_sites: Tensor
    crystal: Tensor
    first_site: Tensor
    n_operations: Tensor
    n_centring: Tensor
    first_operation: Tensor
    first_image: Tensor
    first_pair: Tensor
    rotation: Tensor
    translation: Tensor
    inverse: Tensor
    image_site: Tensor
    image_operation: Tensor

    @classmethod
    def of(cls, groups: Sequence[int], n_sites: Sequence[int], dtype: torch.dtype = torch.float32) -> SiteTable:
        """The table of crystals with these space groups and numbers of sites."""
        parts = [group_operations(number) for number in groups]
        sites, operations = torch.tensor(n_sites), torch.tensor([len(part.inverse) for part in parts])
        crystal = torch.arange(len(sites)).repeat_interleave(sites)
        first_operation = operations.cumsum(0) - operations
        images = sites * operations
        first_image = images.cumsum(0) - images
        pairs = images[crystal]
        image_crystal = torch.arange(len(sites)).repeat_interleave(images)
        within = torch.arange(int(images.sum())) - first_image[image_crystal]
        first_site = sites.cumsum(0) - sites
        return cls(
            sites,
            crystal,
            first_site,
            operations,
            torch.tensor([len(space_group(number).centring) for number in groups]),
            first_operation,
            first_image,
            pairs.cumsum(0) - pairs,
            torch.cat([part.rotation for part in parts]).to(dtype),
            torch.cat([part.translation for part in parts]).to(dtype),
            torch.cat([part.inverse for part in parts]),
            first_site[image_crystal] + within // operations[image_crystal],
            first_operation[image_crystal] + within % operations[image_crystal],
        )

    def __len__(self) -> int:
        """B, the number of crystals."""
        return len(self.n_sites)

    def twice(self) -> SiteTable:
        """The table of these crystals and the same again behind them."""
        behind = {
            "crystal": len(self),
            "first_site": len(self.crystal),
            "first_operation": len(self.inverse),
            "first_image": len(self.image_site),
            "first_pair": int((self.n_sites**2 * self.n_operations).sum()),
            "image_site": len(self.crystal),
            "image_operation": len(self.inverse),
        }
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return SiteTable(**{name: torch.cat([part, part + behind.get(name, 0)]) for name, part in parts.items()})

    def to(self, device: torch.device | str) -> SiteTable:
        """The table on another device."""
        return SiteTable(*(getattr(self, field.name).to(device) for field in fields(self)))

    def images(self, frac: Tensor) -> Tensor:
        """Every operation on every site of its crystal, (N, 3) -> (I, 3)."""
        moved = self.rotation[self.image_operation] @ frac[self.image_site].unsqueeze(2)
        return moved.squeeze(2) + self.translation[self.image_operation]
