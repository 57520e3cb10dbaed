"""Wasserstein and Frechet distances against closed forms, SciPy and pymatgen."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import wasserstein_distance

from generative.crystal.crystals import Crystal
from generative.metrics.distributions import Property, frechet, property_values, wasserstein
from tests.servers.real import real_records


def test_densities_and_numbers_of_elements_are_pymatgens():
    structures = [record.structure for record in real_records(100)]
    crystals = [Crystal.from_structure(structure) for structure in structures]
    density = property_values(Property.DENSITY, crystals)
    np.testing.assert_allclose(density, [s.density for s in structures], rtol=1e-7)
    n_elements = property_values(Property.N_ELEMENTS, crystals)
    assert n_elements.tolist() == [len(s.composition.elements) for s in structures]


def test_a_crystal_without_the_property_has_nan():
    flat = Crystal(np.diag([1.0, 1.0, 0.0]), np.zeros((1, 3)), np.array([11], dtype=np.int16))
    empty = Crystal(np.eye(3), np.zeros((0, 3)), np.zeros(0, dtype=np.int16))
    broken = Crystal(np.full((3, 3), np.inf), np.zeros((1, 3)), np.array([11], dtype=np.int16))
    assert np.isnan(property_values(Property.DENSITY, [flat, empty, broken, None])).all()
    assert property_values(Property.N_ELEMENTS, [flat])[0] == 1
    with pytest.raises(ValueError, match="carries no energy"):
        property_values(Property.ENERGY, [flat])


def test_the_distance_between_equally_many_values_is_the_mean_gap_of_the_sorted():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=300), rng.gamma(2.0, size=300)
    found = wasserstein(Property.DENSITY, a, b, n_drawn=None)
    assert found.distance == pytest.approx(np.abs(np.sort(a) - np.sort(b)).mean())
    assert (found.n_samples, found.n_reference, found.unit) == (300, 300, "g/cm^3")


def test_the_draw_is_seeded_and_without_replacement():
    rng = np.random.default_rng(1)
    samples, reference = rng.normal(size=1500), rng.normal(size=700)
    first, again = (wasserstein(Property.N_ELEMENTS, samples, reference, seed=3) for _ in range(2))
    other = wasserstein(Property.N_ELEMENTS, samples, reference, seed=4)
    assert first == again
    assert first.distance != other.distance
    assert first.n_samples == 1000
    everything = wasserstein(Property.N_ELEMENTS, samples, reference, n_drawn=1500)
    assert everything.distance == pytest.approx(wasserstein_distance(samples, reference))


def test_fewer_valid_crystals_than_are_drawn_leave_the_distance_undefined_with_a_reason():
    samples = np.concatenate([np.ones(999), [np.nan] * 5])
    found = wasserstein(Property.DENSITY, samples, np.ones(10))
    assert math.isnan(found.distance)
    assert found.reason == "999 valid generated crystals: the protocol draws 1000"
    assert (found.n_samples_given, found.n_samples_without) == (1004, 5)


@pytest.mark.parametrize(("n", "m"), [(0, 4), (4, 0)])
def test_an_empty_side_leaves_the_distance_undefined(n, m):
    found = wasserstein(Property.DENSITY, np.ones(n), np.ones(m), n_drawn=None)
    assert math.isnan(found.distance)
    assert found.reason


def test_energies_need_the_name_of_a_model_and_carry_it():
    with pytest.raises(ValueError, match="model's name"):
        wasserstein(Property.ENERGY, np.ones(3), np.ones(3), n_drawn=None)
    found = wasserstein(Property.ENERGY, np.ones(3), np.zeros(3), n_drawn=None, model="CHGNet 0.4")
    plain = json.loads(json.dumps(found.as_dict()))
    assert (plain["model"], plain["distance"], plain["property_name"]) == ("CHGNet 0.4", 1.0, "energy")
    assert "by CHGNet 0.4: 1.0000 eV/atom" in str(found)


def test_in_one_dimension_the_frechet_distance_is_the_closed_form():
    rng = np.random.default_rng(2)
    a, b = rng.normal(1.0, 2.0, (400, 1)), rng.normal(-1.0, 0.5, (300, 1))
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet(a, b, "one number").distance == pytest.approx(expected)


def test_the_frechet_distance_equals_the_one_by_scipys_matrix_root():
    rng = np.random.default_rng(3)
    a = rng.normal(size=(500, 61)) @ rng.normal(size=(61, 61))
    b = rng.normal(size=(400, 61)) @ rng.normal(size=(61, 61)) + 0.3
    s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    shift = a.mean(axis=0) - b.mean(axis=0)
    expected = shift @ shift + np.trace(s1) + np.trace(s2) - 2 * np.trace(sqrtm(s1 @ s2)).real
    assert frechet(a, b, "random").distance == pytest.approx(expected, rel=1e-8)


def test_the_frechet_distance_is_symmetric_and_zero_for_equal_sets_even_if_singular():
    rng = np.random.default_rng(4)
    few, others = rng.normal(size=(20, 61)), rng.normal(size=(30, 61))
    few[:, 5] = others[:, 5] = 0.0  # a feature that never varies
    assert frechet(few, few, "x").distance == pytest.approx(0, abs=1e-5)
    assert frechet(few, others, "x").distance == pytest.approx(frechet(others, few, "x").distance, rel=1e-6)
    shifted = few + 1.0
    assert frechet(few, shifted, "x").distance == pytest.approx(61, rel=1e-6)


def test_rows_without_fingerprint_are_counted_and_too_few_give_a_reason():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(9, 4)), rng.normal(size=(9, 4))
    with_hole = np.vstack([a, np.full(4, np.nan)])
    found = frechet(with_hole, b, "x")
    assert found.distance == frechet(a, b, "x").distance
    assert (found.n_samples, found.n_samples_without) == (9, 1)
    alone = frechet(a[:1], b, "x")
    assert math.isnan(alone.distance)
    assert "a covariance needs two" in alone.reason
    assert json.loads(json.dumps(found.as_dict()))["n_features"] == 4
    with pytest.raises(ValueError, match="of one width"):
        frechet(a, b[:, :3], "x")
