"""The operations of the 230 space groups as a condition: tables of 4 x 4 matrices."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import spglib
import torch
from torch import Tensor

N_OPERATIONS = 192
"""Most operations of a conventional cell: those of F-centred cubic groups."""


@lru_cache(maxsize=1)
def _first_settings() -> dict[int, int]:
    """Number of each space group -> the first Hall number of it, spglib's standard setting."""
    found: dict[int, int] = {}
    for hall in range(1, 531):
        kind = spglib.get_spacegroup_type(hall)
        assert kind is not None
        found.setdefault(kind.number, hall)
    return found


@lru_cache(maxsize=1)
def operations() -> Tensor:
    """Rotation and translation of every operation in the conventional cell, zero after the last, (231, 192, 4, 4).

    Row 0, an open space group, is zero. Operations stand in spglib's order, in its standard setting: as a condition
    they are a label, so any order serves that is always the same (the paper takes pymatgen's).
    """
    table = np.zeros((231, N_OPERATIONS, 4, 4), dtype=np.float32)
    for number, hall in _first_settings().items():
        found = spglib.get_symmetry_from_database(hall)
        assert found is not None
        n = len(found["rotations"])
        table[number, :n, :3, :3] = found["rotations"]
        table[number, :n, :3, 3] = found["translations"]
        table[number, :n, 3, 3] = 1.0
    return torch.from_numpy(table)
