"""Old formation energies against the amounts that both schemes publish."""

from __future__ import annotations

import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from dft.hull.legacy_scheme import to_mp2020

CORNER, CENTRE = [0.0, 0.0, 0.0], [0.5, 0.5, 0.5]


def rock_salt(a_ang: float, metal: str, anion: str) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a_ang), [metal, anion], [CORNER, CENTRE])


@pytest.mark.parametrize(
    ("crystal", "ev_per_formula"),
    [
        # MP2020 (Wang et al. 2021, tables 1 and 2) less the scheme before (Jain et al. 2011; pymatgen's table of it)
        (rock_salt(4.21, "Mg", "O"), -0.687 + 0.70229),
        (rock_salt(4.33, "Fe", "O"), -0.687 - 2.256 + 0.70229 + 2.733),
        (rock_salt(5.20, "Mg", "S"), -0.503 + 0.66346),
        (rock_salt(6.60, "K", "Br"), -0.534),
        # no anion correction before, but a fitted energy of the gas
        (rock_salt(5.64, "Na", "Cl"), -0.614 + (-1.25385 + 1.8485)),
        (rock_salt(2.89, "Ni", "Al"), 0.0),
    ],
    ids=lambda value: value.reduced_formula if isinstance(value, Structure) else "",
)
def test_the_difference_of_the_schemes_is_that_of_their_published_amounts(
    crystal: Structure, ev_per_formula: float
) -> None:
    assert to_mp2020(crystal) == pytest.approx(ev_per_formula / 2, abs=1e-4)


def test_an_element_is_at_zero_in_both_schemes() -> None:
    nitrogen = Structure(Lattice.cubic(5.0), ["N", "N"], [CORNER, [0.11, 0.11, 0.11]])
    assert to_mp2020(nitrogen) == 0.0
