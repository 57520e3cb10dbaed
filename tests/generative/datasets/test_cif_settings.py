"""All 530 tabulated settings of the space groups, each named in every way: read as spglib has it, or refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import spglib

from generative.datasets.checks import RecordError
from generative.datasets.cif.reading import read_cif

GRID = 997
"""Coordinates are multiples of 1/997, a prime: none lies on a special position, and all images on a grid of 1/23928."""


def decimals(xyz: np.ndarray) -> str:
    return " ".join(f"{value:.10f}" for value in xyz)


@dataclass(frozen=True)
class Reference:
    """A crystal by one setting's operations, straight from spglib's table."""

    hall: int
    general: np.ndarray
    cell: tuple[float, ...]
    images: frozenset[tuple[int, ...]]

    @property
    def type(self) -> spglib.SpaceGroupType:
        found = spglib.get_spacegroup_type(self.hall)
        assert found is not None
        return found

    def cif(self, *names: str) -> str:
        names_of_cell = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
        head = [f"_cell_{name} {value:.6f}" for name, value in zip(names_of_cell, self.cell, strict=True)]
        sites = ["loop_", "_atom_site_label", *(f"_atom_site_fract_{axis}" for axis in "xyz")]
        atoms = [f"Cs1 {decimals(self.general)}", "Li1 0 0 0"]
        return "\n".join(["data_x", *names, *head, *sites, *atoms, ""])


def images_of(points: np.ndarray) -> frozenset[tuple[int, ...]]:
    return frozenset(map(tuple, (np.round(points * GRID * 24).astype(int) % (GRID * 24)).tolist()))


def cell_of(rotations: np.ndarray, rng: np.random.Generator) -> tuple[float, ...]:
    """A cell with the symmetry and nothing more: a random metric, averaged over the rotations."""
    vectors = 16 * np.eye(3) + rng.uniform(-3, 3, (3, 3))
    metric = np.mean(np.swapaxes(rotations, 1, 2) @ (vectors @ vectors.T) @ rotations, axis=0)
    a, b, c = np.sqrt(np.diag(metric))
    cosines = np.array([metric[1, 2] / (b * c), metric[0, 2] / (a * c), metric[0, 1] / (a * b)])
    return (a, b, c, *np.degrees(np.arccos(cosines)))


def is_apart(points: np.ndarray) -> bool:
    """Whether the images of the first point are as far from it as atoms are: 1 A in the smallest cell, of 13 A."""
    delta = points[1:] - points[0]
    return bool((np.linalg.norm(delta - np.round(delta), axis=1) > 0.08).all())


def references() -> Iterator[Reference]:
    rng = np.random.default_rng(530)
    for hall in range(1, 531):
        found = spglib.get_symmetry_from_database(hall)
        assert found is not None
        rotations, translations = found["rotations"], found["translations"]
        general, images = np.zeros(3), np.zeros((2, 3))
        while not is_apart(images):
            general = rng.integers(1, GRID, 3) / GRID
            images = rotations @ general + translations
        points = np.vstack([images, translations])
        yield Reference(hall, general, cell_of(rotations, rng), images_of(points))


@pytest.fixture(scope="module")
def crystals() -> list[Reference]:
    return list(references())


def symbol(reference: Reference) -> str:
    """The short symbol of the setting itself: spglib's short one of monoclinic groups is that of the whole group."""
    full = reference.type.international_full.replace("_", "")
    if 3 <= reference.type.number <= 15:
        return " ".join(word for word in full.split() if word != "1")
    return reference.type.international.split(" = ")[0].replace("_", "")


def with_choice(reference: Reference) -> str:
    return symbol(reference) + (f" :{reference.type.choice}" if reference.type.choice else "")


def listed(reference: Reference) -> str:
    found = spglib.get_symmetry_from_database(reference.hall)
    assert found is not None
    lines = []
    for rotation, shift in zip(found["rotations"], found["translations"], strict=True):
        parts = [
            "".join(f"{'+' if n > 0 else '-'}{axis}" for n, axis in zip(row, "xyz", strict=True) if n)
            + (f"+{round(t * 12)}/12" if t else "")
            for row, t in zip(rotation, shift, strict=True)
        ]
        lines.append(f"'{', '.join(parts)}'")
    return "\n".join(["loop_", "_space_group_symop_operation_xyz", *lines])


NUMBER, H_M, OLD_H_M = "_space_group_IT_number", "_space_group_name_H-M_alt", "_symmetry_space_group_name_H-M"
HALL, CODE = "_space_group_name_Hall", "_space_group_IT_coordinate_system_code"

# How a file may name its setting, and how many of the 530 must be read at least: the rest is ambiguous by nature.
FORMS: dict[str, tuple[Callable[[Reference], list[str]], int]] = {
    "listed operations": (lambda c: [listed(c)], 530),
    "Hall symbol": (lambda c: [f"{HALL} '{c.type.hall_symbol}'"], 530),
    "symbol with choice": (lambda c: [f"{H_M} '{with_choice(c)}'"], 529),
    "number and coordinate system": (lambda c: [f"{NUMBER} {c.type.number}", f"{CODE} {c.type.choice or 'abc'}"], 530),
    "full symbol": (lambda c: [f"{H_M} '{c.type.international_full.replace('_', '')}'"], 458),
    "short symbol": (lambda c: [f"{OLD_H_M} '{symbol(c)}'"], 458),
    "the same without blanks": (lambda c: [f"{H_M} {symbol(c).replace(' ', '')}", f"{NUMBER} {c.type.number}"], 458),
    "number": (lambda c: [f"_symmetry_Int_Tables_number {c.type.number}"], 169),
}


def verdict(reference: Reference, names: list[str]) -> str:
    try:
        crystal = read_cif(reference.cif(*names), 1000).crystal
    except RecordError:
        return "refused"
    return "read" if images_of(crystal.frac) == reference.images else "read otherwise"


@pytest.mark.parametrize("form", FORMS)
def test_every_setting_is_read_as_spglib_has_it_or_refused(crystals: list[Reference], form: str) -> None:
    names, at_least = FORMS[form]
    verdicts = {reference.hall: verdict(reference, names(reference)) for reference in crystals}
    assert [hall for hall, found in verdicts.items() if found == "read otherwise"] == []
    assert Counter(verdicts.values())["read"] >= at_least
