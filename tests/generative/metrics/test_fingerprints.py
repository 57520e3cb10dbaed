"""Structure fingerprints against matminer's, and their parts against SciPy."""

from __future__ import annotations

import json
import warnings
from functools import lru_cache

import numpy as np
import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from scipy.spatial import Voronoi
from scipy.special import sph_harm_y

from generative.crystal.crystals import Crystal
from generative.metrics import crystal_nn, fingerprints
from generative.metrics.fingerprints import structure_fingerprints
from generative.native import order_parameters
from generative.native import voronoi as kernel
from tests.real_crystals import built, in_space_group, real_crystals

TOLERANCE = 1e-6


@lru_cache(maxsize=1)
def featurizer():
    from matminer.featurizers.site.fingerprint import CrystalNNFingerprint

    return CrystalNNFingerprint.from_preset("ops")


def by_matminer(crystal: Crystal) -> np.ndarray:
    structure = crystal.to_structure()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.array([featurizer().featurize(structure, i) for i in range(len(structure))], dtype=float)


SPECIAL = {
    "copper, one atom": lambda: in_space_group(225, Lattice.cubic(3.61), ["Cu"], [[0, 0, 0]]),
    "tungsten, one atom": lambda: in_space_group(229, Lattice.cubic(3.16), ["W"], [[0, 0, 0]]),
    "simple cubic": lambda: built(Lattice.cubic(3.35), ["Po"], [[0, 0, 0]]),
    "gold": lambda: in_space_group(225, Lattice.cubic(4.08), ["Au"], [[0, 0, 0]]),
    "platinum, not reduced": lambda: Crystal.from_structure(
        Structure.from_spacegroup(225, Lattice.cubic(3.92), ["Pt"], [[0, 0, 0]])
    ),
    "argon, no electronegativity": lambda: in_space_group(225, Lattice.cubic(5.3), ["Ar"], [[0, 0, 0]]),
    "a nitrogen molecule in a box": lambda: built(Lattice.cubic(9), ["N", "N"], [[0, 0, 0], [0.122, 0, 0]]),
    "an atom that nothing is near": lambda: built(Lattice.cubic(20), ["Na"], [[0.2, 0.3, 0.4]]),
    "a hydrogen molecule in a crystal": lambda: built(
        Lattice.cubic(3.8), ["H", "H"], [[0, 0, 0], [0.113, 0.113, 0.11]]
    ),
    "a sheet of graphene": lambda: built(
        Lattice.hexagonal(2.46, 16), ["C", "C"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]]
    ),
    "salt": lambda: in_space_group(225, Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "fluorite": lambda: in_space_group(225, Lattice.cubic(5.46), ["Ca", "F"], [[0, 0, 0], [0.25, 0.25, 0.25]]),
    "a perovskite": lambda: in_space_group(
        221, Lattice.cubic(3.91), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
    ),
    "rutile": lambda: in_space_group(136, Lattice.tetragonal(4.59, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]),
    "americium and an actinide oxide": lambda: in_space_group(
        225, Lattice.cubic(5.37), ["Am", "O"], [[0, 0, 0], [0.25, 0.25, 0.25]]
    ),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_crystals_have_matminers_site_fingerprints(name):
    crystal = SPECIAL[name]()
    expected = by_matminer(crystal)
    ours, _ = crystal_nn.site_fingerprints(crystal)
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("name", "n", "atoms_max"),
    [
        ("mp_20_biternary_test", 125, 4),
        ("perov_5_test", 25, 5),
        ("wbm_val", 25, 6),
        ("mpts_52_val", 20, 8),
        ("carbon_24_test", 6, 8),
        ("c2db_test", 8, 4),
    ],
)
def test_real_crystals_have_matminers_site_fingerprints(name, n, atoms_max):
    crystals = real_crystals(name, n, atoms_max)
    assert len(crystals) == n
    for crystal in crystals:
        ours, _ = crystal_nn.site_fingerprints(crystal)
        np.testing.assert_allclose(ours, by_matminer(crystal), atol=TOLERANCE, rtol=0)


def test_crystals_as_a_poor_generator_draws_them_have_matminers_fingerprints():
    rng = np.random.default_rng(5)
    for n_atoms in (1, 2, 3, 4, 5, 6, 7):
        cell = Lattice.from_parameters(*rng.uniform(3, 7, 3), *rng.uniform(60, 120, 3))
        symbols = list(rng.choice(["Li", "O", "Fe", "Cs", "U"], n_atoms))
        crystal = built(cell, symbols, rng.random((n_atoms, 3)).tolist())
        expected = by_matminer(crystal)
        ours, _ = crystal_nn.site_fingerprints(crystal)
        np.testing.assert_allclose(ours, expected, atol=TOLERANCE, rtol=0)


def test_most_sites_are_computed_here_and_the_others_are_counted_by_reason():
    crystals = real_crystals("mp_20_biternary_test", 150, 20)
    n_sites = sum(len(crystal.frac) for crystal in crystals)
    found = structure_fingerprints(crystals)
    n_left = sum(found.n_sites_by_reason.values())
    assert 0 < n_left < 0.1 * n_sites
    assert set(found.n_sites_by_reason) <= {*kernel.STATUS_NAMES, *order_parameters.STATUS_NAMES}


def test_without_compiled_code_matminer_computes_every_site(monkeypatch):
    crystal = SPECIAL["a perovskite"]()
    compiled, _ = crystal_nn.site_fingerprints(crystal)
    monkeypatch.setattr(crystal_nn, "fingerprint_tables", lambda: None)
    plain, reasons = crystal_nn.site_fingerprints(crystal)
    assert list(reasons.values()) == [len(crystal.frac)]
    np.testing.assert_allclose(compiled, plain, atol=TOLERANCE, rtol=0)


def test_the_fingerprint_of_a_crystal_is_the_mean_over_its_sites_with_matminers_labels():
    crystal = SPECIAL["rutile"]()
    assert crystal_nn.feature_names() == tuple(featurizer().feature_labels())
    found = structure_fingerprints([crystal])
    np.testing.assert_allclose(found.values[0], by_matminer(crystal).mean(axis=0), atol=TOLERANCE)


@pytest.mark.parametrize("seed", range(4))
def test_voronoi_faces_are_those_of_qhull(seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1, 1, (120, 3)) * 4
    points = points[np.argsort(np.linalg.norm(points, axis=1))]
    lengths = np.linalg.norm(points, axis=1)
    found, angles, areas, radius = kernel.voronoi_faces(points, lengths)
    voronoi = Voronoi(np.vstack([np.zeros(3), points]))
    faces = {max(pair) - 1: voronoi.vertices[v] for pair, v in voronoi.ridge_dict.items() if 0 in pair}
    assert sorted(found) == sorted(faces)
    assert angles.sum() == pytest.approx(4 * np.pi, abs=1e-9)
    assert radius == pytest.approx(max(np.linalg.norm(v, axis=1).max() for v in faces.values()), abs=1e-9)
    for point, area in zip(found, areas, strict=True):
        v = faces[point]
        fan = sum(np.linalg.norm(np.cross(v[i] - v[0], v[i + 1] - v[0])) / 2 for i in range(1, len(v) - 1))
        assert area == pytest.approx(fan, abs=1e-9)


def test_a_cell_that_is_open_on_one_side_is_told_apart():
    points = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1]])
    assert kernel.voronoi_faces(points, np.ones(5))[3] == np.inf
    needle = np.vstack([points, [[1, 0, -5e-4], [-1, 0, -5e-4], [0, 1, -5e-4], [0, -1, -5e-4]]])  # ends at 2,000 A
    lengths = np.linalg.norm(needle, axis=1)
    order = np.argsort(lengths, kind="stable")
    assert kernel.voronoi_faces(needle[order], lengths[order])[3] == np.inf
    assert np.isnan(kernel.voronoi_faces(needle[order], lengths[order], 1e7)[3])
    closed = np.vstack([points, [0, 0, -1]])
    assert kernel.voronoi_faces(closed, np.ones(6))[3] == pytest.approx(np.sqrt(3) / 2)


@pytest.mark.parametrize("order", [2, 4, 6])
def test_steinhardt_parameters_are_those_of_spherical_harmonics(order):
    vectors = np.random.default_rng(order).normal(size=(11, 3))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    polar, azimuth = np.arccos(unit[:, 2]), np.arctan2(unit[:, 1], unit[:, 0])
    sums = [abs(sph_harm_y(order, m, polar, azimuth).mean()) ** 2 for m in range(-order, order + 1)]
    expected = np.sqrt(4 * np.pi / (2 * order + 1) * sum(sums))
    theta, _, _ = order_parameters.shell_angles(vectors)
    assert order_parameters.steinhardt(theta, order) == pytest.approx(expected, abs=1e-12)


def test_what_is_no_crystal_gets_a_reason_and_costs_the_others_nothing():
    salt = SPECIAL["salt"]()
    empty = Crystal(np.eye(3) * 4, np.zeros((0, 3)), np.zeros(0, dtype=np.int16))
    broken = Crystal(np.full((3, 3), np.nan), np.zeros((1, 3)), np.array([11], dtype=np.int16))
    flat = Crystal(np.diag([4.0, 4.0, 0.0]), np.zeros((1, 3)), np.array([11], dtype=np.int16))
    thin = Crystal(np.diag([1e-4, 1e-4, 9.0]), np.zeros((1, 3)), np.array([11], dtype=np.int16))
    unknown = Crystal(np.eye(3) * 3, np.zeros((1, 3)), np.array([118], dtype=np.int16))
    found = structure_fingerprints([None, empty, salt, broken, flat, thin, unknown])
    assert sorted(found.reasons) == [0, 1, 3, 4, 5, 6]
    assert all(found.reasons.values())
    assert found.usable.tolist() == [i == 2 for i in range(7)]
    assert np.isnan(found.values[[0, 1, 3, 4, 5, 6]]).all()
    assert "images of atoms" in found.reasons[5]
    assert json.loads(json.dumps(found.as_dict()))["n_without"] == 6


def test_positions_outside_the_cell_and_read_only_arrays_change_nothing():
    crystal = SPECIAL["rutile"]()
    shifts = np.array([[0, 0, 0], [1, 0, -2], [0, 3, 0], [-1, -1, 1], [0, 0, 2], [4, 0, 0]])
    moved = Crystal(np.asfortranarray(crystal.lattice_ang), crystal.frac + shifts, crystal.atomic_numbers.copy())
    for array in (moved.lattice_ang, moved.frac, moved.atomic_numbers):
        array.setflags(write=False)
    ours, _ = crystal_nn.site_fingerprints(moved)
    np.testing.assert_allclose(ours, crystal_nn.site_fingerprints(crystal)[0], atol=TOLERANCE, rtol=0)


def test_a_crystal_with_two_atoms_at_one_place_is_left_to_matminer():
    crystal = built(Lattice.cubic(4), ["Na", "Cl", "Cl"], [[0, 0, 0], [0, 0, 0], [0.5, 0.5, 0.5]])
    ours, reasons = crystal_nn.site_fingerprints(crystal)
    assert reasons == {"atoms coincide": 3}
    np.testing.assert_allclose(ours, by_matminer(crystal), atol=TOLERANCE, rtol=0)


def test_workers_give_the_same_values_and_progress_counts_to_the_end():
    crystals = [make() for make in SPECIAL.values()]
    seen = []
    together = structure_fingerprints(crystals, workers=2, progress=lambda done, total: seen.append((done, total)))
    alone = structure_fingerprints(crystals)
    np.testing.assert_array_equal(together.values, alone.values)
    assert together.reasons == alone.reasons
    assert together.n_sites_by_reason == alone.n_sites_by_reason
    assert seen == [(i + 1, len(crystals)) for i in range(len(crystals))]


def test_the_cache_gives_back_values_and_reasons_without_computing(tmp_path, monkeypatch):
    salt, gold = SPECIAL["salt"](), SPECIAL["gold"]()
    flat = Crystal(np.diag([4.0, 4.0, 0.0]), np.zeros((1, 3)), np.array([11], dtype=np.int16))
    first = structure_fingerprints([salt, flat, salt], cache=tmp_path / "kept")
    assert first.n_cached == 1  # the copy
    calls = []
    real = fingerprints._fingerprint
    monkeypatch.setattr(fingerprints, "_fingerprint", lambda crystal: calls.append(crystal) or real(crystal))
    again = structure_fingerprints([flat, gold, salt, None], cache=tmp_path / "kept")
    assert calls == [gold]
    assert again.n_cached == 2
    np.testing.assert_array_equal(again.values[2], first.values[0])
    assert again.reasons[0] == first.reasons[1]


def test_another_version_of_matminer_finds_nothing_in_the_cache(tmp_path, monkeypatch):
    salt = SPECIAL["salt"]()
    structure_fingerprints([salt], cache=tmp_path)
    now = fingerprints._versions()
    monkeypatch.setattr(fingerprints, "_versions", lambda: now | {"matminer": "0.0.0"})
    found = structure_fingerprints([salt], cache=tmp_path)
    assert found.n_cached == 0
    assert found.versions["matminer"] == "0.0.0"


def test_a_file_that_is_no_cache_is_named(tmp_path):
    (tmp_path / fingerprints.CACHE_FILE).write_bytes(b"something else, longer than a header of SQLite" * 100)
    with pytest.raises(ValueError, match="is not a cache of fingerprints"):
        structure_fingerprints([SPECIAL["salt"]()], cache=tmp_path)
