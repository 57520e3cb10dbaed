"""Magpie fingerprints against matminer's, and their standardisation."""

from __future__ import annotations

import csv
import json
from functools import lru_cache

import numpy as np
import pytest

from generative.crystal.crystals import Crystal
from generative.metrics import magpie
from generative.metrics.fingerprints import composition_fingerprints
from tests.generative.metrics.crystal_sets import real_crystals


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


def test_cdvaes_constants_are_read_as_they_are_written_by_the_names_of_matminers_features():
    lines = magpie.CDVAE_CONSTANTS.read_text(encoding="utf-8").splitlines()
    rows = list(csv.reader(line for line in lines if not line.startswith("#")))[1:]
    scaler = magpie.cdvae_scaler()
    assert [row[0] for row in rows] == featurizer(False).feature_labels()
    np.testing.assert_array_equal(scaler.means, [float(row[1]) for row in rows])
    np.testing.assert_array_equal(scaler.stds, [float(row[2]) for row in rows])
    assert any("MIT License" in line for line in lines)
    assert any("Tian Xie, Xiang Fu" in line for line in lines)
    # First and last of each list as in the source, so that no line was lost or moved.
    assert (scaler.means[0], scaler.means[-1]) == (21.194441759304013, 136.4664572257129)
    assert (scaler.stds[0], scaler.stds[-1]) == (16.35781741152948, 85.980205895116)


def test_the_constants_standardise_real_compositions_to_about_zero_and_one():
    crystals = [crystal for crystal in real_crystals() if crystal is not None]
    standard = magpie.cdvae_scaler().transform(composition_fingerprints(crystals).values)
    assert np.abs(np.nanmean(standard, axis=0)).mean() < 0.3
    assert 0.6 < np.median(np.nanstd(standard, axis=0)) < 1.2


def noisy_table(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Fingerprints of random compositions, (n, 132), and which features were then made constant.

    A constant feature has a value of its property's size and one kind of noise: none, rounding, a sum in another order,
    or what Magpie's data have where the truth is zero.
    """
    rng = np.random.default_rng(seed)
    table = composition_fingerprints(random_compositions(60)).values
    spread = np.repeat(np.nanstd(magpie.element_table(), axis=0), magpie.N_STATISTICS)
    constant = rng.random(132) < rng.uniform(0.05, 0.9)
    for column in np.flatnonzero(constant):
        size = rng.choice([0.0, 1.0, 1e3]) * spread[column]
        noise = rng.choice([0.0, 1e-16, 1e-13]) * max(size, 1e-3) + rng.choice([0.0, 1e-6, 1e-4]) * spread[column]
        table[:, column] = size + noise * rng.standard_normal(len(table))
    return table, constant


@pytest.mark.parametrize("seed", range(20))
def test_features_that_vary_are_standardised_as_sklearn_does_and_noise_never_divides(seed):
    from sklearn.preprocessing import StandardScaler

    table, constant = noisy_table(seed)
    scaler = magpie.Scaler.fit(table, "generated")
    expected = StandardScaler().fit(table)
    spread = np.repeat(np.nanstd(magpie.element_table(), axis=0), magpie.N_STATISTICS)
    varies = ~constant & (table.std(axis=0) > 0)
    np.testing.assert_allclose(scaler.means, expected.mean_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(scaler.stds[varies], expected.scale_[varies], rtol=1e-9)
    np.testing.assert_allclose(scaler.stds[constant], spread[constant], rtol=1e-12)
    # A crystal that differs where the table does not is as far away as the elements are apart, and no further.
    other = np.where(constant, scaler.means + spread, scaler.means)
    np.testing.assert_allclose(scaler.transform(other[None])[0], constant.astype(float), atol=1e-9)
    assert f"{(~varies).sum()} features constant" in scaler.source


@pytest.mark.parametrize("seed", range(20))
def test_in_any_other_table_a_deviation_of_rounding_only_shifts_as_in_sklearn(seed):
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(seed)
    table = 10.0 ** rng.uniform(-6, 6, 7) * rng.standard_normal((50, 7))
    n_constant = int(rng.integers(1, 6))
    table[:, :n_constant] = 10.0 ** rng.uniform(-6, 6, n_constant)
    table[:, :n_constant] *= 1 + rng.choice([0.0, 1e-16, 2e-16]) * rng.standard_normal((50, n_constant))
    np.testing.assert_allclose(magpie.Scaler.fit(table, "any").stds, StandardScaler().fit(table).scale_, rtol=1e-9)
