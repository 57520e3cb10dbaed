"""Fixed descriptors of the chemical elements, from pymatgen's table."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_Z = 103
"""Highest atomic number known, Lr."""

PROPERTIES = (
    "Z", "X", "row", "group", "is_metal", "is_transition_metal", "is_rare_earth", "is_metalloid", "is_halogen",
    "is_alkali", "is_alkaline", "atomic_mass", "atomic_radius", "van_der_waals_radius", "mendeleev_no",
    "ionization_energy", "electron_affinity", "molar_volume", "melting_point", "max_oxidation_state",
    "min_oxidation_state", "mean_oxidation_state",
)  # fmt: skip
"""Columns of element_properties: attributes of pymatgen's Element, and the mean of its common oxidation states."""


def element_properties(raw: bool = False) -> Tensor:
    """22 properties by atomic number, (MAX_Z + 1, 22), standardised over the elements; row 0 (padding) is zero.

    A number that the table lacks takes the mean of the others; with `raw` it is 0, and nothing is standardised, as in
    the table of the conditional crystal generation paper (AIRI), whose own 22 columns are not documented.
    """
    numbers = _numbers(PROPERTIES)
    if raw:
        return torch.cat([torch.zeros(1, len(PROPERTIES)), numbers.nan_to_num(0.0)])
    return torch.cat([torch.zeros(1, len(PROPERTIES)), _standardised(numbers)])


def _numbers(names: Sequence[str]) -> Tensor:
    """Attributes of the elements from Z = 1 on, (MAX_Z, n); NaN where pymatgen's table has no number."""
    from pymatgen.core.periodic_table import Element  # here, so that MAX_Z costs no table

    numbers = torch.full((MAX_Z, len(names)), float("nan"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of each number that its table lacks
        for i in range(MAX_Z):
            element = Element.from_Z(i + 1)
            for j, name in enumerate(names):
                if name == "mean_oxidation_state":
                    states = element.common_oxidation_states or (0,)
                    numbers[i, j] = sum(states) / len(states)
                    continue
                value = getattr(element, name, None)
                if isinstance(value, (int, float)):
                    numbers[i, j] = float(value)
    return numbers


def _standardised(numbers: Tensor) -> Tensor:
    """Columns less their mean, over their standard deviation; missing numbers become the mean, 0."""
    mean = numbers.nanmean(0)
    numbers = torch.where(numbers.isnan(), mean, numbers)
    return (numbers - mean) / numbers.std(0).clamp_min(1e-6)


def species_descriptors() -> Tensor:
    """Descriptors by atomic number, (MAX_Z + 1, 36); row 0 (padding) is zero.

    Group and period one-hot (18 + 7), block one-hot (4), then seven standardised numbers: electronegativity (Pauling),
    atomic radius, Mendeleev number, first ionisation energy, electron affinity, molar volume, melting point; a number
    that the table lacks takes the mean.
    """
    from pymatgen.core.periodic_table import Element

    names = (
        "X", "atomic_radius", "mendeleev_no", "ionization_energy", "electron_affinity", "molar_volume", "melting_point"
    )  # fmt: skip
    numbers = _standardised(_numbers(names))
    elements = [Element.from_Z(z) for z in range(1, MAX_Z + 1)]
    one_hot = torch.zeros(MAX_Z, 18 + 7 + 4)
    for i, element in enumerate(elements):
        one_hot[i, element.group - 1] = 1
        one_hot[i, 18 + element.row - 1 if element.row <= 7 else 18 + element.row - 3] = 1
        one_hot[i, 25 + "spdf".index(element.block)] = 1
    return torch.cat([torch.zeros(1, 36), torch.cat([one_hot, numbers], dim=1)])
