"""The parts of the symmetric generator: structure types, the network of signatures, packings, the merged library."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from generative.crystal.crystals import Crystal
from generative.crystal.wyckoff import Signature, WyckoffCrystal, space_group
from generative.systems.wyckoff.kinds import Composition, Kind, Known, alphabet, kind_of
from generative.systems.wyckoff.library import Library
from generative.systems.wyckoff.metric import CompositionMetric
from generative.systems.wyckoff.packing import Spheres, contact, packed
from generative.systems.wyckoff.sequence import Sequences, SignatureNetwork, most_probable, reach
from generative.systems.wyckoff.structure_types import Description, alike, structure_types
from tests.real_crystals import real_crystals


def described(structure: Structure) -> WyckoffCrystal:
    return WyckoffCrystal.of(Crystal.from_structure(structure))


def wurtzite(shift: float, a: float = 3.82, u: float = 0.375) -> Structure:
    return Structure.from_spacegroup(
        186, Lattice.hexagonal(a, 1.633 * a), ["Zn", "S"], [[1 / 3, 2 / 3, shift], [1 / 3, 2 / 3, u + shift]]
    )


def pyrite(u: float) -> Structure:
    return Structure.from_spacegroup(205, Lattice.cubic(5.42), ["Fe", "S"], [[0, 0, 0], [u, u, u]])


def test_crystals_that_differ_by_origin_along_a_polar_axis_are_one_type_with_the_mean_of_their_numbers() -> None:
    crystals = [described(wurtzite(shift, u=u)) for shift, u in ((0.0, 0.37), (0.31, 0.38), (0.77, 0.375))]
    (one,) = structure_types(crystals)
    assert one.members == [0, 1, 2]
    mean = one.mean
    assert mean.cell == pytest.approx(crystals[0].cell, abs=1e-3)
    apart = float((mean.xyz[0] - mean.xyz[1])[2] % 0.5)
    assert min(abs(apart - 0.375), abs(apart - 0.125)) < 1e-3


def test_pyrite_and_solid_carbon_dioxide_are_two_types_of_one_kind() -> None:
    # Fe at 4a, S at 8c (u = .385), and CO2 with u = .118: the same signature, other structures.
    crystals = [described(pyrite(u)) for u in (0.385, 0.118, 0.39, 0.115)]
    assert len({c.signature for c in crystals}) == 1
    assert sorted(one.members for one in structure_types(crystals)) == [[0, 2], [1, 3]]


def test_whatever_cell_and_origin_a_real_crystal_is_given_in_it_is_of_its_own_type() -> None:
    rng = np.random.default_rng(3)
    n = 0
    for crystal in real_crystals("mp_20_val", 60, 12):
        if WyckoffCrystal.of(crystal).signature.spacegroup <= 15:
            continue  # of which the cells of a lattice are many
        n += 1
        moved = Crystal(crystal.lattice_ang, (crystal.frac + rng.random(3)) % 1, crystal.atomic_numbers)
        one, other = WyckoffCrystal.of(crystal), WyckoffCrystal.of(moved)
        (only,) = structure_types([one, other])
        assert only.members == [0, 1]
        apart = [alike(only, Description(d)) for d in other.descriptions()]
        nearest = min(found[0] for found in apart if found is not None)
        assert nearest < 0.01
    assert n > 20


# --- the network of signatures ----------------------------------------------------------------------------------------


def network(seed: int = 0) -> SignatureNetwork:
    torch.manual_seed(seed)
    made = SignatureNetwork(8, 16, 0.0)
    made.tabulate()
    return made.eval()


def signatures(group: int, counts: tuple[int, ...]) -> Iterator[tuple[tuple[str, ...], ...]]:
    """Every way to put atoms of each role on positions, letters of a role ascending: brute force."""
    positions = space_group(group).positions

    def of_role(left: int, first: int, used: frozenset[str]) -> Iterator[tuple[str, ...]]:
        if left == 0:
            yield ()
            return
        for i, letter in enumerate(alphabet(group)[first:], first):
            position = positions[letter]
            fixed = not position.free.any()
            if position.multiplicity <= left and not (fixed and letter in used):
                taken = used | {letter} if fixed else used
                for rest in of_role(left - position.multiplicity, i, taken):
                    yield (letter, *rest)

    def roles(held: tuple[tuple[str, ...], ...]) -> Iterator[tuple[tuple[str, ...], ...]]:
        if len(held) == len(counts):
            yield held
            return
        used = frozenset(x for letters in held for x in letters if not positions[x].free.any())
        for letters in of_role(counts[len(held)], 0, used):
            yield from roles((*held, letters))

    yield from roles(())


def test_what_a_group_can_hold_is_told_as_by_brute_force() -> None:
    for group in (1, 2, 12, 62, 139, 166, 225, 227):
        table = reach(group, 32)
        for first, atoms in itertools.product(range(len(alphabet(group))), range(1, 13)):
            fits = any(all(alphabet(group).index(x) >= first for x in held) for (held,) in signatures(group, (atoms,)))
            assert table[first][atoms] == fits


@pytest.mark.parametrize(("group", "counts"), [(166, (1, 2)), (139, (1, 2, 2)), (12, (2, 2)), (225, (1, 1, 2))])
def test_the_search_gives_every_signature_of_a_group_in_the_order_of_its_probability(
    group: int, counts: tuple[int, ...]
) -> None:
    made, composition = network(), Composition(tuple(range(11, 11 + len(counts))), counts)
    wanted: dict[Kind, float] = {}
    with torch.no_grad():
        for letters in signatures(group, counts):
            of = Sequences.of_kinds([composition], [(group, letters)])
            log_p = float(made.log_probability(of)) - float(
                made.of_group(made.encoded(of.elements, of.counts)[0])[0].log_softmax(0)[group]
            )
            kind = kind_of(group, letters)
            wanted[kind] = wanted.get(kind, 0.0) + math.exp(log_p)
    found = most_probable(made, composition, group, width=4000)
    assert {kind for kind, _ in found} == set(wanted)
    for kind, p in found:
        assert p == pytest.approx(wanted[kind], rel=1e-4)
    assert [p for _, p in found] == sorted((p for _, p in found), reverse=True)
    # Of what is ruled out only as it turns out, such as a remainder that cannot be placed, some probability is lost.
    assert sum(wanted.values()) <= 1 + 1e-5


def test_signatures_taken_by_row_have_the_probabilities_that_they_have_alone() -> None:
    kinds = [
        kind_of(225, (("a",), ("b",))),
        kind_of(62, (("c",), ("c",), ("c", "d"))),
        kind_of(2, (("i",), ("a", "i"))),
    ]
    compositions = [Composition((11, 17), (1, 1)), Composition((20, 22, 8), (4, 4, 12)), Composition((5, 8), (2, 3))]
    every, made = Sequences.of_kinds(compositions, kinds), network()
    with torch.no_grad():
        alone = torch.cat(
            [made.log_probability(Sequences.of_kinds([c], [k])) for c, k in zip(compositions, kinds, strict=True)]
        )
        together = made.log_probability(every.rows(torch.tensor([2, 0, 1, 0])))
    assert together.tolist() == pytest.approx(alone[[2, 0, 1, 0]].tolist(), rel=1e-5)


def test_the_network_learns_which_signature_a_composition_takes() -> None:
    made = network().train()
    compositions = [Composition((z, 17), (1, 1)) for z in (3, 11, 19, 37, 55, 81)]
    kinds = [kind_of(225 if z < 50 else 221, (("a",), ("b",))) for z in (3, 11, 19, 37, 55, 81)]
    data = Sequences.of_kinds(compositions, kinds)
    descent = torch.optim.Adam(made.parameters(), 0.02)
    for _ in range(150):
        descent.zero_grad()
        (-made.log_probability(data).mean()).backward()
        descent.step()
    made.eval()
    for composition, kind in zip(compositions, kinds, strict=True):
        (best, p), *_ = most_probable(made, composition)
        assert best == kind
        assert p > 0.5


# --- packings ---------------------------------------------------------------------------------------------------------


def shortest(crystal: Crystal) -> float:
    distances = crystal.to_structure().distance_matrix
    return float(distances[np.triu_indices(len(distances), 1)].min())


@pytest.mark.parametrize("number", [2, 14, 62, 148, 167, 186, 198])
def test_a_packing_has_the_volume_and_the_symmetry_and_keeps_its_atoms_apart(number: int) -> None:
    group = space_group(number)
    general = alphabet(number)[-1]
    signature = Signature.of(number, [(12, general), (16, general)])
    n = 2 * group.positions[general].multiplicity
    angles = [90.0, 90.0, 120.0] if 142 < number <= 194 else [85.0, 95.0, 100.0] if number <= 2 else [90.0, 100.0, 90.0]
    shape = np.array([[1.0, 1.0, 1.4, *(angles if number <= 15 or 142 < number <= 194 else [90.0] * 3)]])
    if number > 194:
        shape[0, 2] = 1.0
    made = packed(signature, shape, 20.0 * n, contact([1.5, 1.7], [1.3, 2.6]), torch.Generator().manual_seed(number))
    crystal = made.crystal()
    assert abs(np.linalg.det(crystal.lattice_ang)) == pytest.approx(20.0 * n)
    assert len(crystal.atomic_numbers) == n
    assert shortest(crystal) > 1.6
    # It is described by its own signature again, or by one of more symmetry.
    again = WyckoffCrystal.of(crystal, 1e-3).signature
    assert len(again.sites) <= len(signature.sites)
    rng = np.random.default_rng(number)
    at_random = [shortest(WyckoffCrystal(signature, made.cell, rng.random((2, 3))).crystal()) for _ in range(20)]
    assert shortest(crystal) > np.quantile(at_random, 0.9)


@pytest.mark.parametrize("number", [2, 5, 62, 88, 148, 166, 194, 198, 227])
def test_the_overlap_of_spheres_is_the_sum_over_all_pairs_and_has_its_slopes(number: int) -> None:
    rng = np.random.default_rng(number)
    letters = alphabet(number)
    movable = next(one for one in letters if space_group(number).positions[one].free.any())
    signature = Signature(number, ((12, letters[0]), (16, movable)))
    contacts = contact([1.6, 1.8], [1.3, 2.6])
    spheres = Spheres(signature, contacts)
    angles = [90.0, 90.0, 120.0] if 142 < number <= 194 else [85.0, 95.0, 100.0] if number <= 2 else [90.0] * 3
    edges_ang = [5.0, 5.6, 6.2] if number <= 74 else [5.0, 5.0, 5.8] if number <= 194 else [5.0] * 3
    n = sum(space_group(number).positions[letter].multiplicity for _, letter in signature.sites)
    cell = spheres.at_volume(np.array([[*edges_ang, *angles]]), 16.0 * n)
    lattice = spheres.lattice(cell)
    xyz, edges = rng.random((1, 2, 3)) * spheres.free, rng.normal(0.0, 0.05, (1, 3))

    def at(xyz: np.ndarray, edges: np.ndarray) -> float:
        return float(spheres.overlap(xyz, edges, lattice)[0][0])

    stretched = np.concatenate([cell[0, :3] * np.exp(spheres.stretch(edges[0])), cell[0, 3:]])
    structure = WyckoffCrystal(signature, stretched, xyz[0]).crystal().to_structure()
    assert structure.volume == pytest.approx(16.0 * n)
    first, second, _, distance = structure.get_neighbor_list(float(contacts.max()))
    orbit = np.array([0 if site.specie.Z == 12 else 1 for site in structure])
    depth = (1 - distance / contacts[orbit[first], orbit[second]]).clip(0)
    assert at(xyz, edges) == pytest.approx((depth**2).sum(), rel=1e-6)
    assert (depth > 0).any()

    _, by_xyz, by_edges = spheres.overlap(xyz, edges, lattice)
    step = 1e-5
    for slopes, values in ((by_xyz, xyz), (by_edges, edges)):
        for i in np.ndindex(slopes.shape):
            ends = []
            for sign in (1, -1):
                moved = values.copy()
                moved[i] += sign * step
                ends.append(at(moved * spheres.free, edges) if values is xyz else at(xyz, moved))
            assert slopes[i] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3, abs=1e-4)


# --- the merged library -----------------------------------------------------------------------------------------------


def halides() -> list[Known]:
    made = []
    for group, those in {225: ((11, 17, 5.64), (19, 35, 5.8), (3, 9, 5.5)), 221: ((55, 17, 4.12),)}.items():
        for i, (a, x, edge) in enumerate(those):
            sites = Signature.of(group, [(a, "a"), (x, "b")]).sites
            numbers = WyckoffCrystal(Signature(group, sites), np.array([edge] * 3 + [90.0] * 3), np.zeros((2, 3)))
            made.append(Known(group, sites, 100 * group + i, -1.0 - i, numbers))
    return made


def test_a_merged_library_votes_as_before_and_holds_neither_elements_nor_types_of_one_crystal() -> None:
    torch.manual_seed(0)
    metric = CompositionMetric(8, 16, 0.0).eval()
    volumes = np.full(104, 15.0)
    library = Library.filled(halides(), volumes)
    shelf = library.shelf((1, 1))
    assert shelf is not None
    same = library.merged(metric, 0.0, 1).shelf((1, 1))  # only equal vectors join
    assert same is not None
    asked = torch.tensor([[37, 17]])
    with torch.no_grad():
        vector, metric.same.data = metric(asked, (1, 1)), torch.tensor(0.0)
        before = metric.nearness(vector, asked, metric(shelf.elements, (1, 1)), shelf.elements)[0] + shelf.weight
        after = metric.nearness(vector, asked, same.vectors, same.elements)[0] + same.weight
    for kind in range(2):
        assert float(before[shelf.kind == kind].logsumexp(0)) == pytest.approx(
            float(after[same.kind == kind].logsumexp(0)), abs=1e-3
        )
    merged = library.merged(metric, 1e6, 2)
    assert merged.sizes.voter_elements == 0
    assert len(merged.voter_identity) == 0
    assert merged.type_members.tolist() == [3]  # CsCl stands alone
    one = merged.shelf((1, 1))
    assert one is not None
    weight = {int(merged.kind_group[int(one.kinds[k])]): float(w) for k, w in zip(one.kind, one.weight, strict=True)}
    n = {225: int((shelf.kind == 0).sum()), 221: int((shelf.kind == 1).sum())}
    n = n if int(library.kind_group[int(shelf.kinds[0])]) == 225 else {225: n[221], 221: n[225]}
    assert weight == pytest.approx({group: math.log(count) for group, count in n.items()})


def test_the_numbers_of_a_type_are_in_units_of_the_volume_that_elements_predict() -> None:
    library = Library.filled(halides()[:1], np.full(104, 15.0))
    (cell,) = library.type_cell.tolist()
    assert cell[0] == pytest.approx(5.64 / 30 ** (1 / 3), rel=1e-5)
