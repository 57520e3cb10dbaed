"""Zero disagreements with pymatgen: verdicts, displacements, reduced cells, the bound and the assignment.

Crystals are real; copies are displaced by amounts about the tolerance, strained, sheared, shifted, permuted, mirrored,
rescaled and made supercells of. By default two thousand pairs are compared; HULLWARD_PROOF_ROUNDS=550 makes it 100,000.
"""

import itertools
import os

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from scipy.optimize import linear_sum_assignment

from generative.crystal.crystals import Crystal
from generative.native import door as native
from generative.screening.matching import ReferenceSet, Tolerances, find_known, fit_reduced, group, pairwise_rms
from generative.screening.pair_fits import ACCEPTED, UNSURE, Judge, kind_of, stack_cells
from generative.screening.reduction import reduce_crystal

FILES = ("carbon_24_val", "mp_20_biternary_test", "perov_5_val", "mpts_52_val")
ROUNDS = int(os.environ.get("HULLWARD_PROOF_ROUNDS", "11"))
"""Families of crystals per file; each gives some forty pairs."""

SETS = [(0.2, 0.3, 5.0), (0.3, 0.5, 10.0), (0.1, 0.1, 3.0), (0.4, 0.6, 10.0)]


def disguised(crystal: Crystal, displacement: float, strain: float, rng: np.random.Generator) -> Crystal:
    """Another form of a crystal; displacement in units of (V/N)^(1/3), strain as a standard deviation."""
    lattice = crystal.lattice_ang @ (np.eye(3) + strain * rng.normal(size=(3, 3)))
    frac, numbers = crystal.frac, crystal.atomic_numbers
    unit = (abs(np.linalg.det(lattice)) / len(frac)) ** (1 / 3)
    steps = rng.normal(size=frac.shape)
    steps *= displacement * unit / np.linalg.norm(steps, axis=1)[:, None]
    frac = frac + steps @ np.linalg.inv(lattice)
    if rng.random() < 0.3 and len(frac) <= 6:
        axis = np.eye(3)[rng.integers(3)]
        double = np.eye(3) + np.diag(axis)
        frac = np.concatenate([frac, frac + axis]) @ np.linalg.inv(double)
        lattice, numbers = double @ lattice, np.tile(numbers, 2)
    for _ in range(rng.integers(3)):
        i, j = rng.choice(3, 2, replace=False)
        shear = np.eye(3)
        shear[i, j] = rng.choice([-1, 1])
        frac, lattice = frac @ np.linalg.inv(shear), shear @ lattice
    turned, _ = np.linalg.qr(rng.normal(size=(3, 3)))  # half of these mirror
    order = rng.permutation(len(frac))
    return Crystal(lattice @ turned * rng.uniform(0.8, 1.25), np.mod(frac + rng.random(3), 1)[order], numbers[order])


def family(pool: list[Crystal], tolerances: Tolerances, rng: np.random.Generator) -> list[Crystal]:
    """A real crystal, another of its composition if there is one, and six disguised forms."""
    first = pool[rng.integers(len(pool))]
    namesakes = [c for c in pool if sorted(c.atomic_numbers) == sorted(first.atomic_numbers)]
    members = [first, namesakes[rng.integers(len(namesakes))]]
    for _ in range(6):
        exact = rng.random() < 0.2
        amount = 0.0 if exact else tolerances.stol * rng.choice([rng.uniform(0, 0.3), rng.uniform(0.6, 1.4)])
        strain = 0.0 if exact else rng.choice([0, 0.02, 0.5 * tolerances.ltol])
        members.append(disguised(members[rng.integers(2)], amount, strain, rng))
    return members


def pool_of(real_structures, name: str) -> list[Crystal]:  # noqa: ANN001
    return [Crystal.from_structure(s) for s in real_structures(name, 150) if len(s) <= 7]


@pytest.mark.parametrize("name", FILES)
def test_no_verdict_and_no_displacement_differs_from_pymatgens(real_structures, name: str) -> None:  # noqa: ANN001
    if not native.is_available():
        pytest.skip("numba is not installed: every verdict is pymatgen's own")
    pool = pool_of(real_structures, name)
    rng = np.random.default_rng(FILES.index(name))
    n_pairs = n_same = n_unsure = 0
    for tolerances in (Tolerances.of(*SETS[i % 4]) for i in range(ROUNDS)):
        matcher = tolerances.matcher()
        members = family(pool, tolerances, rng)
        structures = [crystal.to_structure() for crystal in members]
        theirs = [matcher._get_reduced_structure(structure) for structure in structures]
        cells = [reduce_crystal(crystal).crystal for crystal in members]
        assert [len(cell.frac) for cell in cells] == [len(structure) for structure in theirs]
        stacks, kinds = [stack_cells([cell]) for cell in cells], [kind_of(cell) for cell in cells]
        judge, zero = Judge(tolerances), np.zeros(1, np.int64)
        for i, j in itertools.permutations(range(len(members)), 2):
            if kinds[i] != kinds[j]:
                continue
            n_pairs += 1
            verdict = judge.verdicts(stacks[i], zero, stacks[j], zero)[0]
            same = matcher.fit(theirs[i], theirs[j], skip_structure_reduction=True)
            n_same += same
            n_unsure += verdict == UNSURE
            assert verdict == UNSURE or (verdict == ACCEPTED) == same
            rms = judge.rms(stacks[i], 0, stacks[j], 0) if n_pairs % 3 == 0 else None
            if rms is not None:
                truth = matcher.get_rms_dist(
                    structures[i], structures[j]
                )  # not of the reduced: a second reduction may turn
                assert rms == pytest.approx(np.nan if truth is None else truth[0], abs=1e-7, nan_ok=True)
    print(f"{name}: {n_pairs} pairs, {n_same} the same, {n_unsure} left to pymatgen")
    assert n_pairs > 30 * ROUNDS
    assert 0.2 * n_pairs < n_same < 0.95 * n_pairs
    assert n_unsure < 0.02 * n_pairs


@pytest.mark.parametrize("name", FILES)
def test_reduced_cells_are_pymatgens_atom_for_atom(real_structures, name: str) -> None:  # noqa: ANN001
    rng = np.random.default_rng(7)
    pool = pool_of(real_structures, name)
    crystals = [*pool[:60], *(disguised(c, 0.0, 0.0, rng) for c in pool[:40])]
    n_smaller = 0
    for crystal in crystals:
        truth = StructureMatcher._get_reduced_structure(crystal.to_structure())
        found = reduce_crystal(crystal).crystal
        assert found is not None
        np.testing.assert_allclose(found.lattice_ang, truth.lattice.matrix, atol=1e-8)
        difference = found.frac - truth.frac_coords
        np.testing.assert_allclose(difference, np.rint(difference), atol=1e-8)
        assert list(found.atomic_numbers) == [site.specie.Z for site in truth]
        n_smaller += len(truth) < len(crystal.frac)
    assert n_smaller > 0


def test_threads_and_pymatgen_alone_give_the_same_groups_and_matches(
    real_structures,  # noqa: ANN001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(11)
    tolerances = Tolerances.of(0.2, 0.3, 5.0)
    pool = pool_of(real_structures, "carbon_24_val")[:40]
    crystals = [disguised(pool[i], 0.15, 0.0, rng) for i in rng.integers(len(pool), size=130)]
    known = [*pool[:20], *pool[:20]]
    ids = [str(i) for i in range(len(known))]
    monkeypatch.setattr("generative.screening.matching.ROW_PER_WORKER", 4)
    plain, threaded = group(crystals, tolerances), group(crystals, tolerances, workers=3)
    assert plain.first_members == threaded.first_members
    assert plain.pairs == threaded.pairs
    searches = [find_known(crystals, ReferenceSet(ids, known), tolerances, workers=w) for w in (1, 3)]
    assert searches[0].matches == searches[1].matches
    assert searches[0].pairs.n_pairs == searches[1].pairs.n_pairs
    monkeypatch.setattr(native, "is_available", lambda: False)
    few = crystals[:25]
    slow = find_known(few, ReferenceSet(ids, known), tolerances)
    for a, b in zip(slow.matches, searches[0].matches, strict=False):
        assert (a and a.reference_id) == (b and b.reference_id)
        assert a is None or a.rms == pytest.approx(b.rms, abs=1e-7)
    assert slow.pairs.n_by_pymatgen == slow.pairs.n_pairs > 0
    assert group(few, tolerances).first_members == plain.first_members[:25]


def test_one_pair_at_a_time_gives_pymatgens_verdicts(real_structures) -> None:  # noqa: ANN001
    rng = np.random.default_rng(17)
    tolerances = Tolerances.of(0.2, 0.3, 5.0)
    judge = Judge(tolerances)
    members = family(pool_of(real_structures, "mpts_52_val"), tolerances, rng)
    flat = Crystal(np.zeros((3, 3)), members[0].frac, members[0].atomic_numbers)
    cells = [reduce_crystal(crystal) for crystal in members]
    for i, j in itertools.combinations(range(len(members)), 2):
        same, fault = fit_reduced(judge, members[i], cells[i], members[j], cells[j])
        assert (same, fault) == (tolerances.matcher().fit(members[i].to_structure(), members[j].to_structure()), "")
    same, fault = fit_reduced(judge, members[0], cells[0], flat, reduce_crystal(flat))
    assert not same
    assert "no volume" in fault


def test_counts_add_up_and_fits_are_few(real_structures) -> None:  # noqa: ANN001
    crystals = [Crystal.from_structure(s) for s in real_structures("carbon_24_val", 120)]
    found = group(crystals, Tolerances.of(0.2, 0.3, 5.0))
    counts = found.pairs.as_dict()
    assert counts.pop("n_pairs") == sum(counts.values())
    assert found.n_fits == found.pairs.n_fits
    n_joined = sum(first != index for index, first in enumerate(found.first_members))
    assert n_joined <= found.n_fits < found.pairs.n_pairs / 4


def test_a_crystal_paired_with_many_is_reduced_once(real_structures, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN001
    pool = pool_of(real_structures, "perov_5_val")[:6]
    seen: list[int] = []
    from generative.screening import reduction

    plain = reduction.reduce_crystal
    monkeypatch.setattr(reduction, "reduce_crystal", lambda crystal: seen.append(id(crystal)) or plain(crystal))
    pairs = list(itertools.product(pool, pool))
    found = pairwise_rms([a for a, _ in pairs], [b for _, b in pairs], Tolerances.of(0.3, 0.5, 10.0))
    assert sorted(seen) == sorted({id(crystal) for crystal in pool})
    np.testing.assert_allclose(found.rms.reshape(6, 6).diagonal(), 0, atol=1e-7)


def test_assignments_cost_what_scipys_cost_and_ties_are_all_listed() -> None:
    if not native.is_available():
        pytest.skip("numba is not installed")
    from generative.native.assignment import solve_block, tied_range
    from generative.native.fit import workspace_for

    rng = np.random.default_rng(2)
    for n in (1, 2, 3, 5, 9):
        for rounding in (16, 0):  # costs of few different values tie often
            pairs = workspace_for(n).pairs
            pairs.vectors[:] = np.round(rng.normal(size=(n, n, 3)), rounding)
            pairs.cost[:] = (pairs.vectors**2).sum(axis=2)
            total = solve_block(pairs, 0, n)
            rows, columns = linear_sum_assignment(pairs.cost)
            assert total == pytest.approx(pairs.cost[rows, columns].sum())
            if n > 5:
                continue
            values = []
            for chosen in itertools.permutations(range(n)):
                if pairs.cost[range(n), chosen].sum() < total + 1e-9:
                    vectors = pairs.vectors[range(n), chosen]
                    values.append(np.linalg.norm(vectors - vectors.mean(axis=0), axis=1).max())
            assert tied_range(pairs, np.array([0, n]), False) == pytest.approx((min(values), max(values)))


def test_the_bound_never_refuses_atoms_that_lie_within_a_common_ball() -> None:
    """Displacements drawn inside a ball of radius stol about any centre, in cells small enough to need many images."""
    if not native.is_available():
        pytest.skip("numba is not installed")
    from generative.native.fit import workspace_for
    from generative.native.placement_bound import candidates, may_place

    rng = np.random.default_rng(4)
    n_refused = 0
    for trial in range(300):
        n, stol = int(rng.integers(2, 9)), float(rng.uniform(0.1, 0.7))
        basis = np.eye(3) + 0.2 * rng.normal(size=(3, 3))
        basis *= (n / abs(np.linalg.det(basis))) ** (1 / 3)
        inverse = np.linalg.inv(basis)
        steps = rng.normal(size=(n, 3))
        steps *= stol * 0.999 * rng.random((n, 1)) ** (1 / 3) / np.linalg.norm(steps, axis=1)[:, None]
        first = rng.random((n, 3))
        second = first + (steps + rng.normal(size=3)) @ inverse + rng.integers(-2, 3, size=(n, 3))
        if trial % 2:
            second = rng.random((n, 3))
        reach = 2 * stol * np.linalg.norm(inverse, axis=0)
        work, bounds = workspace_for(n).placement, np.array([0, n])
        listed = candidates(work, first, second, first[0] - second[0], basis, reach, bounds, stol)
        possible = listed == 2 or (listed == 1 and may_place(work, 0, 0, stol))
        assert possible or trial % 2
        n_refused += not possible
    assert n_refused > 40
