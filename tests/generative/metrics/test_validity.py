"""Truth: the rules written out with numpy's minimum images and the installed SMACT's own verdict."""

import itertools
from collections import Counter

import numpy as np
import pytest
from pymatgen.core.composition import Composition
from pymatgen.core.periodic_table import Element
from smact.screening import smact_validity

from generative.crystal.crystals import Crystal
from generative.metrics.validity import unmatchable, unreadable, validity, verdicts
from generative.screening.composition import OxidationStates, check
from generative.screening.matching import counts_of
from tests.generative.metrics.crystal_sets import N_REAL, real_crystals, samples_of_real

IMAGES = np.array(list(itertools.product((-2, -1, 0, 1, 2), repeat=3)), dtype=float)


def is_structurally_valid(crystal: Crystal | None) -> bool:
    if crystal is None or not np.isfinite(crystal.lattice_ang).all() or abs(np.linalg.det(crystal.lattice_ang)) < 0.1:
        return False
    for i, j in itertools.combinations(range(len(crystal.frac)), 2):
        vectors = (crystal.frac[i] - crystal.frac[j] + IMAGES) @ crystal.lattice_ang
        if np.linalg.norm(vectors, axis=1).min() < 0.5:
            return False
    return True


def is_compositionally_valid(crystal: Crystal | None, states: str) -> bool:
    if crystal is None:
        return False
    counts = Counter(Element.from_Z(int(z)).symbol for z in crystal.atomic_numbers)
    return smact_validity(Composition(counts), use_pauling_test=True, include_alloys=True, oxidation_states_set=states)


@pytest.mark.parametrize("states", [OxidationStates.SMACT14, OxidationStates.ICSD24])
def test_validity_is_that_of_the_rules_written_out(states: OxidationStates) -> None:
    samples = samples_of_real()
    structure = [is_structurally_valid(s) for s in samples]
    composition = [is_compositionally_valid(s, states.value) for s in samples]
    both = [s and c for s, c in zip(structure, composition, strict=True)]
    found = validity(samples, states)
    assert found.per_sample == {"structure_valid": tuple(structure), "composition_valid": tuple(composition)}
    for name, truth in (
        ("structural validity", structure),
        ("composition validity", composition),
        ("structure and composition validity", both),
    ):
        assert found.metric(name).value == pytest.approx(100 * np.mean(truth))
        assert found.metric(name).n == N_REAL
        assert 0 < found.metric(name).value < 100
    assert found.metric("composition validity").settings["oxidation_states"] == states.value


def test_the_published_list_is_the_default_and_each_composition_has_its_verdict() -> None:
    samples = samples_of_real()
    found = validity(samples)
    assert found.metric("composition validity").settings["oxidation_states"] == "cdvae"
    expected = [s is not None and check(counts_of(s), OxidationStates.CDVAE).valid for s in samples if _readable(s)]
    stated = [v for s, v in zip(samples, found.per_sample["composition_valid"], strict=True) if _readable(s)]
    assert stated == expected


def _readable(sample: Crystal | None) -> bool:
    return unreadable(sample) == ""


def test_real_crystals_are_structurally_valid() -> None:
    assert validity(real_crystals()).metric("structural validity").value == 100


def test_composition_validity_can_be_left_out() -> None:
    carbon = Crystal(4 * np.eye(3), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.array([6, 6], dtype=np.int16))
    found = validity([carbon], with_composition=False)
    assert [metric.name for metric in found.metrics] == ["structural validity"]
    assert list(found.per_sample) == ["structure_valid"]


@pytest.mark.parametrize(
    ("lattice", "frac", "numbers", "words"),
    [
        (np.full((3, 3), np.inf), [[0, 0, 0]], [6], "not finite"),
        (np.zeros((3, 3)), [[0, 0, 0]], [6], "volume is 0"),
        (np.eye(3) * 1e200, [[0, 0, 0]], [6], "volume is inf"),
        (np.eye(3), np.zeros((0, 3)), [], "at least one atom"),
        (np.eye(3), [[0, 0, 0]], [0], "atomic number 0"),
        (np.eye(3), [[0, 0, 0]], [119], "atomic number 119"),
        (np.eye(3), [[0, 0]], [6], "frac (1, 2)"),
        (np.eye(2), [[0, 0, 0]], [6], "lattice has shape (2, 2)"),
    ],
)
def test_numbers_that_are_no_crystal_are_invalid_with_a_reason(lattice, frac, numbers, words: str) -> None:
    crystal = Crystal(np.asarray(lattice), np.asarray(frac, dtype=float), np.asarray(numbers, dtype=np.int16))
    assert words in unreadable(crystal)
    found = verdicts([crystal])
    assert found.structure == (False,)
    assert words in found.reasons[0]
    assert "1 sample could not be read" in validity([crystal]).metric("structural validity").reason


def test_an_empty_set_has_no_validity() -> None:
    for metric in validity([]).metrics:
        assert np.isnan(metric.value)
        assert metric.reason == "there are no samples"


@pytest.mark.parametrize(
    ("lattice", "words"),
    [
        (1e-4 * np.eye(3), "0.0001 A high"),
        (np.diag([0.3, 0.3, 300.0]), "1e+03 times"),
        (3 * np.array([[1, 0, 0], [50, 1, 0], [0, 70, 1]]), "A high"),
    ],
)
def test_cells_on_which_the_matcher_would_stall_are_kept_from_it_with_a_reason(lattice: np.ndarray, words: str) -> None:
    crystal = Crystal(np.asarray(lattice, dtype=float), np.zeros((1, 3)), np.array([6], dtype=np.int16))
    assert unreadable(crystal) == ""
    assert words in unmatchable(crystal)


def test_every_real_crystal_may_be_matched_in_any_moderately_skewed_basis() -> None:
    basis = np.array([[1, 0, 0], [4, 1, 0], [0, -3, 1]])
    for crystal in real_crystals():
        assert unmatchable(crystal) == ""
        assert unmatchable(Crystal(basis @ crystal.lattice_ang, crystal.frac, crystal.atomic_numbers)) == ""
