"""Slabs among candidates: what is one, when two are the same, what a dataset keeps of them."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from configs.schema import ConfigError, DiscoverConfig, parse
from generative.config import ScreenConfig
from generative.crystal.crystals import Crystal
from generative.datasets.checks import checked
from generative.datasets.config import FilterConfig
from generative.datasets.filters import apply_filters
from generative.datasets.records import row_of, table_of
from generative.screening.matching import ReferenceSet, Tolerances, find_known, fit_rms, group
from generative.screening.slabs import LAYER_GAP_ANG, comparable
from generative.screening.validity import check

TWO, THREE = (Tolerances.of(0.2, 0.3, 5.0, dimensions) for dimensions in (2, 3))


def bilayer(vacuum_ang: float, gap_ang: float = 3.0, upper: str = "Se", shift: float = 0.0, axis: int = 2) -> Structure:
    """Ga-Se layers and another on them; the vacuum along any lattice vector."""
    heights = np.array([0.0, 1.2, 1.2 + gap_ang, 2.4 + gap_ang])
    lattice = Lattice.hexagonal(3.8, heights[-1] + vacuum_ang)
    places = [[0, 0], [1 / 3, 2 / 3], [shift, 0], [1 / 3 + shift, 2 / 3]]
    frac = np.array([[*place, height / lattice.c] for place, height in zip(places, heights, strict=True)])
    order = np.roll([0, 1, 2], axis - 2)
    return Structure(Lattice(lattice.matrix[order]), ["Ga", "Se", "Ga", upper], frac[:, order])


def crystal(structure: Structure) -> Crystal:
    return Crystal.from_structure(structure)


def test_a_slab_is_itself_whatever_its_vacuum_where_the_matcher_alone_finds_two() -> None:
    pair = [bilayer(12.0), bilayer(30.0)]
    assert not StructureMatcher().fit(*pair)
    assert group([crystal(one) for one in pair], THREE).first_members == [0, 1]
    assert group([crystal(one) for one in pair], TWO).first_members == [0, 0]
    assert fit_rms(*(crystal(one) for one in pair), TWO) == pytest.approx(0.0, abs=1e-6)


def test_a_slab_is_found_among_known_ones_along_any_axis_and_in_a_doubled_cell() -> None:
    known = ReferenceSet(["other", "same"], [crystal(bilayer(20.0, upper="S")), crystal(bilayer(20.0))])
    doubled = bilayer(14.0, axis=1)
    doubled.make_supercell([2, 1, 1])
    found = find_known([crystal(bilayer(12.0, axis=axis)) for axis in range(3)] + [crystal(doubled)], known, TWO)
    assert [match and match.reference_id for match in found.matches] == ["same"] * 4
    assert find_known([crystal(bilayer(40.0))], known, THREE).matches == [None]


def test_slabs_that_differ_are_told_apart_in_one_vacuum_as_the_matcher_does_there() -> None:
    """Truth: pymatgen on cells with 10 A of vacuum, made by hand. At a site tolerance of 0.3 all five are one crystal:
    half a lattice constant of shift between two layers is 1 A for each.
    """
    variants = [(3.0, 0.0), (3.0, 0.5), (4.6, 0.0), (3.1, 0.02), (3.0, 0.33)]
    by_hand = [bilayer(10.0, gap, shift=shift) for gap, shift in variants]
    assert len(StructureMatcher().group_structures(by_hand)) == 1
    expected = StructureMatcher(stol=0.1).group_structures(by_hand)
    truth = [min(i for i, one in enumerate(by_hand) if one in several) for one in by_hand for several in expected
             if one in several]  # fmt: skip
    given = [crystal(bilayer(15.0 + 5 * i, gap, shift=shift, axis=i % 3)) for i, (gap, shift) in enumerate(variants)]
    assert group(given, Tolerances.of(0.2, 0.1, 5.0, 2)).first_members == truth
    assert 1 < len(set(truth)) < 5


def test_bulk_is_compared_as_it_was() -> None:
    bulk = crystal(Structure.from_spacegroup(225, Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]))
    assert comparable(bulk, 2) is bulk
    assert comparable(bulk, 3) is bulk
    assert str(THREE) == "ltol 0.2, stol 0.3, angle 5 degrees"
    assert "10 A of vacuum" in str(TWO)


def test_a_candidate_that_is_no_slab_or_falls_into_layers_is_turned_away_with_the_number() -> None:
    config = ScreenConfig(dimensions=2)
    assert check(bilayer(15.0), config).valid
    assert check(bilayer(60.0), config).valid  # 150 A^3 per atom, but most of it vacuum
    assert not check(bilayer(60.0), ScreenConfig()).valid
    apart = check(bilayer(15.0, gap_ang=6.5), config)
    assert not apart.valid
    assert "layers are 6.50 A apart" in apart.reason
    assert f"at most {LAYER_GAP_ANG:g} A" in apart.reason
    bulk = check(bilayer(3.0), config)
    assert "no slab" in bulk.reason
    assert "8 A of vacuum" in bulk.reason


@pytest.mark.parametrize("numbers", [np.nan, 0.0, 1e200], ids=["NaN", "flat", "vast"])
def test_numbers_of_no_crystal_are_no_slab_and_stop_nothing(numbers: float) -> None:
    made = Crystal(np.full((3, 3), numbers) * np.eye(3), np.zeros((1, 3)), np.array([31]))
    assert not check(made, ScreenConfig(dimensions=2)).valid


def test_a_dataset_keeps_slabs_with_their_vacuum_or_crystals_without() -> None:
    crystals = [checked(crystal(one)) for one in (bilayer(15.0), bilayer(3.0), bilayer(22.0, axis=0))]
    table = table_of(row_of(one, "made", str(i), "none", {}) for i, one in enumerate(crystals))
    kept = {n: apply_filters(table, FilterConfig(dimensions=n)) for n in (2, 3)}
    assert kept[2].column("source_id").to_pylist() == ["0", "2"]
    assert kept[3].column("source_id").to_pylist() == ["1"]
    assert kept[2].column("lattice_ang").to_pylist()[1] == pytest.approx(crystals[2].lattice_ang.ravel())


def test_a_run_on_slabs_that_would_lose_their_vacuum_is_refused() -> None:
    with pytest.raises(ConfigError, match="say 'held'"):
        parse(DiscoverConfig, {"screen": {"dimensions": 2}}, "slabs.yaml")
    parse(DiscoverConfig, {"screen": {"dimensions": 2}, "relax": {"vacuum": "held"}}, "slabs.yaml")
