"""Fixed descriptors of the chemical elements, from pymatgen's table."""

from __future__ import annotations

import warnings

import torch
from pymatgen.core.periodic_table import Element
from torch import Tensor

MAX_Z = 103
"""Highest atomic number known, Lr."""


def species_descriptors() -> Tensor:
    """Descriptors by atomic number, (MAX_Z + 1, 36); row 0 (padding) is zero.

    Group and period one-hot (18 + 7), block one-hot (4), then seven standardised numbers: electronegativity (Pauling),
    atomic radius, Mendeleev number, first ionisation energy, electron affinity, molar volume, melting point; a number
    that the table lacks takes the mean.
    """
    names = (
        "X", "atomic_radius", "mendeleev_no", "ionization_energy", "electron_affinity", "molar_volume", "melting_point"
    )  # fmt: skip
    elements = [Element.from_Z(z) for z in range(1, MAX_Z + 1)]
    numbers = torch.full((MAX_Z, len(names)), float("nan"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of each number its table lacks; those take the mean here
        for i, element in enumerate(elements):
            for j, name in enumerate(names):
                value = getattr(element, name, None)
                if isinstance(value, (int, float)):
                    numbers[i, j] = float(value)
    mean = numbers.nanmean(0)
    numbers = torch.where(numbers.isnan(), mean, numbers)
    numbers = (numbers - mean) / numbers.std(0).clamp_min(1e-6)
    one_hot = torch.zeros(MAX_Z, 18 + 7 + 4)
    for i, element in enumerate(elements):
        one_hot[i, element.group - 1] = 1
        one_hot[i, 18 + element.row - 1 if element.row <= 7 else 18 + element.row - 3] = 1
        one_hot[i, 25 + "spdf".index(element.block)] = 1
    return torch.cat([torch.zeros(1, 36), torch.cat([one_hot, numbers], dim=1)])
