"""The readers of CIFs against pymatgen's CifParser."""

from __future__ import annotations

import csv
import gzip
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifParser, CifWriter

from generative.config import ELEMENTS
from generative.crystal.crystals import Crystal
from generative.datasets.checks import RecordError
from generative.datasets.cif.reading import elements_of_cif, fast_p1
from tests.cifs import parse_cif

ASSETS = Path(os.environ.get("HULLWARD_ASSETS", Path(__file__).parents[4] / "shared"))


def by_pymatgen(text: str) -> Crystal:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Crystal.from_structure(CifParser.from_str(text).parse_structures(primitive=False)[0])


def random_cifs(n: int, seed: int) -> Iterator[str]:
    """P1 CIFs by pymatgen's own writer: skewed cells, coordinates outside [0, 1), rounded thirds, mixed site order."""
    rng = np.random.default_rng(seed)
    symbols = [e for e in ELEMENTS if e not in ("He", "Ne", "Ar")]
    made = 0
    while made < n:
        lattice = Lattice.from_parameters(*rng.uniform(6, 12, 3), *rng.uniform(65, 115, 3))
        n_atoms = int(rng.integers(1, 9))
        frac = rng.uniform(-1, 2, (n_atoms, 3))
        frac[rng.random((n_atoms, 3)) < 0.3] = rng.choice([0.3333, 0.66667, 0.333333, 0.0, 1.0, 0.3335])
        structure = Structure(lattice, list(rng.choice(symbols, n_atoms)), frac)
        if n_atoms == 1 or structure.is_valid(tol=0.8):
            made += 1
            yield str(CifWriter(structure))


def test_fast_reader_gives_the_numbers_of_cif_parser_bit_for_bit() -> None:
    for text in random_cifs(60, seed=3):
        crystal = fast_p1(text)
        assert crystal is not None, text
        assert crystal.digest == by_pymatgen(text).digest, text


@pytest.mark.parametrize(
    "name", ["mp_20_biternary_test", "mpts_52_val", "wbm_val", "perov_5_test", "carbon_24_val", "mp_20_biternary_val"]
)
def test_fast_reader_takes_the_benchmark_files_and_equals_cif_parser(name: str) -> None:
    path = ASSETS / "data" / f"{name}.csv.gz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not there: set HULLWARD_ASSETS to the folder that holds data/")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        texts = [row["cif"] for i, row in enumerate(csv.DictReader(file)) if i % 50 == 0]
    assert sum(fast_p1(text) is None for text in texts) <= 1  # noble gases have no place in pymatgen's site order
    for text in texts[:25]:
        assert parse_cif(text, 1000).digest == by_pymatgen(text).digest


# space group, cell, elements, sites
SYMMETRIC = [
    ("Fm-3m", (5.64, 5.64, 5.64, 90, 90, 90), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    ("P4_2/mnm", (4.59, 4.59, 2.96, 90, 90, 90), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]),
    ("P6_3mc", (3.25, 3.25, 5.2, 90, 90, 120), ["Zn", "O"], [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.382]]),
    ("R-3c", (4.76, 4.76, 12.99, 90, 90, 120), ["Al", "O"], [[0, 0, 0.352], [0.306, 0, 0.25]]),
    ("Pnma", (5.37, 7.64, 5.44, 90, 90, 90), ["Ca", "Ti", "O"], [[0.03, 0.25, 0.99], [0, 0, 0.5], [0.48, 0.25, 0.07]]),
    ("P2_1/c", (5.15, 5.2, 5.32, 90, 99.2, 90), ["Zr", "O"], [[0.276, 0.04, 0.208], [0.07, 0.33, 0.345]]),
]


@pytest.mark.parametrize("case", SYMMETRIC, ids=lambda case: case[0])
def test_a_cif_with_symmetry_expands_to_the_atoms_that_cif_parser_gives(case: tuple[Any, ...]) -> None:
    symbol, cell, elements, sites = case
    structure = Structure.from_spacegroup(symbol, Lattice.from_parameters(*cell), elements, sites)
    text = str(CifWriter(structure, symprec=0.01))
    assert fast_p1(text) is None
    found, expected = parse_cif(text, 1000), by_pymatgen(text)
    assert sorted(found.atomic_numbers) == sorted(expected.atomic_numbers) == sorted(s.specie.Z for s in structure)
    delta = found.frac[:, None] - expected.frac[None]
    far = np.linalg.norm((delta - np.round(delta)) @ found.lattice_ang, axis=-1)
    far[found.atomic_numbers[:, None] != expected.atomic_numbers[None]] = np.inf
    assert far.min(axis=1).max() < 1e-6


def test_uncertainties_oxidation_numbers_and_labels_only_are_read() -> None:
    text = """data_test
_cell_length_a 4.000(2)
_cell_length_b 4.000(2)
_cell_length_c 4.000(2)
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Cs1 0.0 0.0 0.0
Cl1 0.5000(3) 0.5 0.5
"""
    crystal = parse_cif(text, 1000)
    np.testing.assert_array_equal(crystal.atomic_numbers, [55, 17])
    np.testing.assert_allclose(crystal.frac, [[0, 0, 0], [0.5, 0.5, 0.5]])
    charged = text.replace("_atom_site_label", "_atom_site_type_symbol\n_atom_site_label")
    charged = charged.replace("Cs1 0.0", "Cs1+ Cs1 0.0").replace("Cl1 0.5", "Cl1- Cl1 0.5")
    np.testing.assert_array_equal(parse_cif(charged, 1000).atomic_numbers, [55, 17])


def test_the_formula_sum_tells_the_elements_without_parsing() -> None:
    assert elements_of_cif("data_x\n_chemical_formula_sum   'Ta4 B2'\n") == {"Ta", "B"}
    assert elements_of_cif("_chemical_formula_sum   W1\n") == {"W"}
    assert elements_of_cif("_chemical_formula_sum   ?\n") is None
    assert elements_of_cif("_chemical_formula_sum 'Xx2 O'\n") is None
    assert elements_of_cif("no such line") is None


def test_a_file_of_two_crystals_is_refused_with_the_remedy() -> None:
    one, two = random_cifs(2, seed=5)
    with pytest.raises(RecordError, match="holds 2 crystals: expected one"):
        parse_cif(one + two.replace("data_", "data_second_"), 1000)
