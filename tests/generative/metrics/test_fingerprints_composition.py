"""Magpie fingerprints against matminer's, and their standardisation."""

from __future__ import annotations

import json
from functools import lru_cache

import numpy as np
import pytest

from generative.crystals import Crystal
from generative.metrics import magpie
from generative.metrics.fingerprints import composition_fingerprints


@lru_cache(maxsize=2)
def featurizer(impute: bool):
    from matminer.featurizers.composition import ElementProperty

    return ElementProperty.from_preset("magpie", impute_nan=impute)


def of(*atomic_numbers: int) -> Crystal:
    n = len(atomic_numbers)
    return Crystal(np.eye(3) * 5, np.zeros((n, 3)), np.array(atomic_numbers, dtype=np.int16))


def random_compositions(n: int) -> list[Crystal]:
    rng = np.random.default_rng(11)
    with_data = [z for z in range(1, 97) if z not in (2, 10, 18, 85, 86, 87)]
    crystals = []
    for _ in range(n):
        elements = rng.choice(with_data, rng.integers(1, 8), replace=False)
        numbers = np.repeat(elements, rng.integers(1, 6, len(elements)))
        crystals.append(of(*rng.permutation(numbers)))
    return crystals


def test_compositions_have_matminers_magpie_fingerprint():
    crystals = random_compositions(300)
    found = composition_fingerprints(crystals)
    expected = [featurizer(False).featurize(crystal.to_structure().composition) for crystal in crystals]
    assert found.reasons == {}
    np.testing.assert_allclose(found.values, expected, atol=1e-9, rtol=0)
    assert magpie.feature_names() == tuple(featurizer(False).feature_labels())


def test_a_multiple_of_the_formula_unit_has_the_same_fingerprint():
    found = composition_fingerprints([of(73, 5, 5), of(5, 73, 5, 73, 5, 5)])
    np.testing.assert_allclose(found.values[0], found.values[1], atol=1e-12)


def test_elements_without_magpie_data_give_nan_and_name_the_element():
    found = composition_fingerprints([of(11, 17), of(54, 9, 9), of(10), of(118, 11), of(0), None])
    assert sorted(found.reasons) == [2, 3, 4, 5]
    assert "Ne" in found.reasons[2]
    assert "Og" in found.reasons[3]
    assert "atomic number 0" in found.reasons[4]
    assert found.usable.tolist() == [True, True, False, False, False, False]
    assert np.isnan(found.values[2:]).all()
    assert json.loads(json.dumps(found.as_dict()))["n_without"] == 4


def test_imputed_properties_are_those_of_matminers_default():
    crystals = [of(10), of(2, 8), of(98, 17, 17), of(26, 8)]
    found = composition_fingerprints(crystals, impute_missing=True)
    expected = [featurizer(True).featurize(crystal.to_structure().composition) for crystal in crystals]
    np.testing.assert_allclose(found.values, expected, atol=1e-9, rtol=0)
    assert "imputed" in found.recipe


def test_a_fitted_scaler_standardises_its_own_training_set():
    values = composition_fingerprints(random_compositions(200)).values
    with_hole = np.vstack([values, np.full(132, np.nan)])
    scaler = magpie.Scaler.fit(with_hole, "training set")
    assert scaler.source == "training set, 200 fingerprints"
    standard = scaler.transform(values)
    varied = values.std(axis=0) > 0
    np.testing.assert_allclose(standard.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(standard.std(axis=0)[varied], 1, atol=1e-9)
    assert np.isnan(scaler.transform(with_hole)[-1]).all()
    assert len(json.loads(json.dumps(scaler.as_dict()))["means"]) == 132


def test_a_feature_that_does_not_vary_is_only_shifted():
    scaler = magpie.Scaler.fit(np.array([[3.0, 1.0], [3.0, 2.0]]), "two")
    np.testing.assert_allclose(scaler.transform(np.array([[5.0, 1.5]])), [[2.0, 0.0]])


def test_scalers_that_cannot_standardise_are_refused():
    with pytest.raises(ValueError, match="deviations above zero"):
        magpie.Scaler(np.zeros(3), np.array([1.0, 0.0, 1.0]), "mine")
    with pytest.raises(ValueError, match="none of 2 fingerprints is finite"):
        magpie.Scaler.fit(np.full((2, 132), np.nan), "nothing")
