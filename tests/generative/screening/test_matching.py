"""Truth: pymatgen's StructureMatcher called directly on the same crystals."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from generative.config import ScreenConfig
from generative.crystal.crystals import Crystal, structure_columns
from generative.native import door as native
from generative.screening import matching
from generative.screening.matching import ReferenceSet, Tolerances, find_known, formula_key, group

TOLERANCES = Tolerances.from_config(ScreenConfig())


def disguised(structure: Structure, rng: np.random.Generator, noise_ang: float = 0.0) -> Crystal:
    """The same crystal as a sheared, shifted, rotated, rescaled supercell with permuted atoms."""
    copy = structure.copy()
    matrix = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    matrix[rng.integers(3), rng.integers(3)] += 1
    copy.make_supercell(matrix)
    if noise_ang:
        copy.perturb(noise_ang)
    frac = copy.frac_coords + rng.random(3)
    order = rng.permutation(len(copy))
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    lattice = Lattice(copy.lattice.matrix @ rotation * 1.05)
    return Crystal.from_structure(Structure(lattice, [copy[i].specie for i in order], frac[order]))


def pymatgen_groups(crystals: list[Crystal], tolerances: Tolerances) -> list[int]:
    """First member of each crystal's group by StructureMatcher.group_structures."""
    structures = [c.to_structure() for c in crystals]
    for index, structure in enumerate(structures):
        structure.properties["index"] = index
    matcher = StructureMatcher(ltol=tolerances.ltol, stol=tolerances.stol, angle_tol=tolerances.angle_tol_deg)
    first = [-1] * len(crystals)
    for members in matcher.group_structures(structures):
        indices = [s.properties["index"] for s in members]
        for index in indices:
            first[index] = indices[0]
    return first


@pytest.mark.parametrize("noise_ang", [0.0, 0.1, 0.4])
def test_groups_of_real_crystals_and_their_copies_are_those_of_pymatgen(real_structures, noise_ang: float) -> None:  # noqa: ANN001
    rng = np.random.default_rng(int(10 * noise_ang))
    np.random.seed(0)  # Structure.perturb draws from the global generator
    small = [s for s in real_structures("mp_20_biternary_test", 60) if len(s) <= 6][:10]
    crystals = [Crystal.from_structure(s) for s in small]
    crystals += [disguised(s, rng, noise_ang) for s in small]
    order = rng.permutation(len(crystals))
    crystals = [crystals[i] for i in order]
    found = group(crystals, TOLERANCES)
    assert found.first_members == pymatgen_groups(crystals, TOLERANCES)
    assert not found.failures
    if noise_ang == 0.0:
        position = np.argsort(order)
        for i in range(len(small)):
            assert found.first_members[position[i]] == found.first_members[position[i + len(small)]]


def test_groups_of_carbon_polymorphs_are_those_of_pymatgen(real_structures) -> None:  # noqa: ANN001
    """One formula throughout: the hard case, where fit is called on unlike crystals."""
    carbon = [s for s in real_structures("carbon_24_val", 120) if len(s) <= 8][:36]
    crystals = [Crystal.from_structure(s) for s in carbon]
    found = group(crystals, TOLERANCES)
    assert found.first_members == pymatgen_groups(crystals, TOLERANCES)
    assert 1 < len(set(found.first_members)) < len(crystals)
    assert found.tolerances is TOLERANCES


def test_pairs_of_unequal_primitive_cells_are_pairs_pymatgen_refuses(real_structures) -> None:  # noqa: ANN001
    crystals = [Crystal.from_structure(s) for s in real_structures("carbon_24_val", 120)][:24]
    matcher = TOLERANCES.matcher()
    reduced = [matcher._get_reduced_structure(c.to_structure()) for c in crystals]
    unlike = [(a, b) for a, b in itertools.combinations(reduced, 2) if len(a) != len(b)]
    assert len(unlike) > 50
    assert not any(matcher.fit(a, b) for a, b in unlike[:60])


def test_known_crystals_are_found_at_the_first_reference_with_pymatgens_rms(real_structures) -> None:  # noqa: ANN001
    rng = np.random.default_rng(5)
    np.random.seed(5)
    small = [s for s in real_structures("mp_20_biternary_test", 60) if len(s) <= 6][:8]
    known = [Crystal.from_structure(s) for s in small]
    references = ReferenceSet([f"r{i}" for i in range(16)], known + known)
    candidates = [disguised(s, rng, 0.05) for s in small]
    search = find_known(candidates, references, TOLERANCES)
    matcher = StructureMatcher()
    for candidate, match in zip(candidates, search.matches, strict=True):
        expected = [
            (f"r{i}", matcher.get_rms_dist(reference.to_structure(), candidate.to_structure())[0])
            for i, reference in enumerate(known)
            if matcher.fit(reference.to_structure(), candidate.to_structure())
        ]
        if not expected:
            assert match is None
        else:
            assert match is not None
            assert (match.reference_id, match.rms) == (expected[0][0], pytest.approx(expected[0][1], abs=1e-12))
    assert any(match is not None for match in search.matches)
    assert search.n_fits <= len(candidates) * 2


def rocksalt(first: str, second: str) -> Crystal:
    return Crystal.from_structure(
        Structure.from_spacegroup(225, Lattice.cubic(4.2), [first, second], [[0] * 3, [0.5] * 3])
    )


def caesium_chloride(first: str, second: str) -> Crystal:
    return Crystal.from_structure(Structure(Lattice.cubic(2.6), [first, second], [[0] * 3, [0.5] * 3]))


def test_a_new_structure_or_a_new_composition_is_novel() -> None:
    table = pa.table({"id": ["a:1", "a:2"], **structure_columns([rocksalt("Mg", "O"), None])})
    references = ReferenceSet.from_table(table)
    assert len(references) == 1
    candidates = [rocksalt("Mg", "O"), caesium_chloride("Mg", "O"), rocksalt("Ca", "O"), rocksalt("O", "Mg")]
    matches = find_known(candidates, references, TOLERANCES).matches
    assert [m.reference_id if m else None for m in matches] == ["a:1", None, None, "a:1"]
    assert matches[0] is not None
    assert matches[0].rms == pytest.approx(0, abs=1e-6)


def test_odd_crystals_become_a_recorded_reason() -> None:
    good = rocksalt("Mg", "O")
    nan = Crystal(np.full((3, 3), np.nan), good.frac, good.atomic_numbers)
    flat = Crystal(np.zeros((3, 3)), good.frac, good.atomic_numbers)
    empty = Crystal(np.eye(3), np.zeros((0, 3)), np.zeros(0, dtype=np.int16))
    unknown = Crystal(good.lattice_ang, good.frac, np.full(8, 300, dtype=np.int16))
    overlapping = Crystal(good.lattice_ang, np.zeros((8, 3)), good.atomic_numbers)
    crystals = [good, nan, flat, empty, unknown, overlapping, good]
    found = group(crystals, TOLERANCES)
    assert found.first_members == [0, 1, 2, 3, 4, 5, 0]
    assert {1, 2, 3, 4} <= set(found.failures)
    search = find_known(crystals, ReferenceSet(["nan", "good"], [nan, good]), TOLERANCES)
    assert [m.reference_id if m else None for m in search.matches] == ["good", None, None, None, None, None, "good"]
    assert {1, 2} <= set(search.failures)


def test_a_matcher_that_raises_is_recorded_and_counts_as_different(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> bool:
        raise ValueError("singular matrix")

    monkeypatch.setattr(native, "is_available", lambda: False)
    monkeypatch.setattr(StructureMatcher, "fit", broken)
    found = group([rocksalt("Mg", "O"), rocksalt("Mg", "O")], TOLERANCES)
    assert found.first_members == [0, 1]
    assert found.failures == {1: "compared with candidate 0: the matcher failed with ValueError: singular matrix"}


def test_formula_keys_are_reduced_and_free_of_order() -> None:
    assert formula_key(rocksalt("Mg", "O")) == formula_key(caesium_chloride("O", "Mg")) == ((8, 1), (12, 1))


def test_references_of_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one id per crystal"):
        ReferenceSet(["a"], [])


def test_pairwise_rms_is_that_of_pymatgen_whatever_the_workers(real_structures) -> None:  # noqa: ANN001
    rng = np.random.default_rng(8)
    np.random.seed(8)
    small = [s for s in real_structures("mp_20_biternary_test", 60) if len(s) <= 6][:6]
    first = [Crystal.from_structure(s) for s in small] + [rocksalt("Mg", "O"), rocksalt("Mg", "O")]
    second = [disguised(s, rng, 0.05) for s in small] + [caesium_chloride("Mg", "O")]
    second.append(Crystal(np.full((3, 3), np.nan), first[-1].frac, first[-1].atomic_numbers))
    found = matching.pairwise_rms(first, second, TOLERANCES)
    again = matching.pairwise_rms(first, second, TOLERANCES, workers=2)
    matcher = StructureMatcher()
    expected = [
        matcher.get_rms_dist(a.to_structure(), b.to_structure()) for a, b in zip(first[:7], second[:7], strict=True)
    ]
    truth = [np.nan if e is None else e[0] for e in expected] + [np.nan]
    np.testing.assert_allclose(found.rms, truth, atol=1e-9)
    np.testing.assert_array_equal(found.rms, again.rms)
    assert np.isfinite(truth).sum() >= 3
    assert list(found.failures) == list(again.failures) == [7]


def test_cells_that_would_keep_pymatgen_busy_for_ever_are_refused_with_a_reason() -> None:
    good = rocksalt("Mg", "O")
    tiny = Crystal(1e-3 * np.eye(3), good.frac, good.atomic_numbers)
    flat = Crystal(np.array([[3.0, 0, 0], [0, 3, 0], [1, 1, 1e-4]]), good.frac, good.atomic_numbers)
    found = group([good, tiny, flat, good], TOLERANCES)
    assert found.first_members == [0, 1, 2, 0]
    assert set(found.failures) == {1, 2}
    assert all("cannot be matched" in reason for reason in found.failures.values())
    assert set(matching.pairwise_rms([good, flat], [tiny, good], TOLERANCES).failures) == {0, 1}
