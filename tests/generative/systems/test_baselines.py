"""Baselines: copies are copies, substitutes and random crystals are what was asked, and checkpoints hold no code."""

from __future__ import annotations

import json
from collections import Counter
from functools import lru_cache
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import spglib
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from generative import checkpoints
from generative.config import SampleConfig, ScreenConfig
from generative.crystal.crystals import Crystal
from generative.requests import Request
from generative.sampling import sample_chunk
from generative.screening.validity import check
from generative.systems.baselines.random_symmetric import RandomSymmetric, RandomSymmetricConfig, fits
from generative.systems.baselines.stored import Baseline, content_of, failed_sample, formula_unit, repeated
from generative.systems.baselines.substitution import PrototypeSubstitution, closest_exchange, mendeleev_numbers
from generative.systems.baselines.training_copies import TrainingCopies
from storage.documents import read_document, write_document
from tests.generative.asking import asked
from tests.servers.real import real_records

SETTINGS = SampleConfig()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def group_of(crystal: Crystal) -> int:
    """By pymatgen, at the tolerance of the dataset table."""
    return int(SpacegroupAnalyzer(crystal.to_structure(), symprec=0.01).get_space_group_number())


def numbers_of(crystal: Crystal) -> list[int]:
    return [int(z) for z in crystal.atomic_numbers]


@lru_cache(maxsize=1)
def known() -> tuple[tuple[Crystal, ...], tuple[int, ...]]:
    """Real crystals and their groups."""
    crystals = tuple(Crystal.from_structure(record.structure) for record in real_records(250))
    return crystals, tuple(group_of(crystal) for crystal in crystals)


def rock_salt(cation: str, anion: str, a_ang: float) -> Crystal:
    rows = a_ang / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=float)
    numbers = [Element(cation).Z, Element(anion).Z]
    return Crystal(rows, np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.array(numbers, dtype=np.int16))


def diboride(metal: str, a_ang: float, c_ang: float) -> Crystal:
    rows = np.array([[a_ang, 0, 0], [-a_ang / 2, a_ang * 3**0.5 / 2, 0], [0, 0, c_ang]])
    frac = np.array([[0, 0, 0], [1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]])
    return Crystal(rows, frac, np.array([Element(metal).Z, 5, 5], dtype=np.int16))


SMALL = (rock_salt("Ti", "N", 4.24), rock_salt("Na", "Cl", 5.64), diboride("Ti", 3.03, 3.23))
SMALL_GROUPS = (225, 225, 191)


def every_baseline() -> list[Baseline]:
    return [
        TrainingCopies.of(SMALL, SMALL_GROUPS),
        PrototypeSubstitution.of(SMALL, SMALL_GROUPS),
        RandomSymmetric(RandomSymmetricConfig()),
    ]


BASELINES = pytest.mark.parametrize("system", every_baseline(), ids=lambda system: system.name)


@BASELINES
def test_the_same_seed_gives_the_same_crystals_and_touches_no_global_generator(system: Baseline) -> None:
    requests = asked([[7, 22], [5, 5, 22], [11, 17]] * 2)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1:3]
    first, again = (system.sample(requests, seeded(3)) for _ in range(2))
    assert [c.digest for c in first] == [c.digest for c in again]
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state[0]).all()
    assert np.random.get_state()[2] == numpy_state[1]


@BASELINES
def test_samples_are_valid_crystals_of_the_asked_atoms_and_progress_ends_at_the_last_step(system: Baseline) -> None:
    cells, shares = [[7, 22], [5, 5, 22], [11, 11, 17, 17]], []
    drawn = system.sample(asked(cells), seeded(), progress=shares.append)
    assert [sorted(numbers_of(c)) for c in drawn] == cells
    assert [check(c, ScreenConfig()).reason for c in drawn] == [""] * 3
    assert shares == [1 / 3, 2 / 3, 1]


@BASELINES
def test_a_checkpoint_of_two_plain_files_gives_the_same_samples(system: Baseline, tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "it", system, {"note": "nothing was trained"})
    assert {file.name for file in (tmp_path / "it").iterdir()} == {"model.json", "model.safetensors"}
    # A safetensors file is the length of its header, the header as JSON, and raw numbers: nothing that can run.
    content = (tmp_path / "it" / "model.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    described = [entry for name, entry in header.items() if name != "__metadata__"]
    assert 8 + size + max((entry["data_offsets"][1] for entry in described), default=0) == len(content)
    loaded = checkpoints.load(str(tmp_path / "it"))
    requests = [Request.of({"Ti": 1, "N": 1}), Request.of({"Ti": 1, "B": 2}, spacegroup=191)]
    kept = sample_chunk(loaded, requests, SETTINGS, seed=1, chunk=0)
    before = checkpoints.Checkpoint(system, loaded.digest, {})
    assert [s.crystal.digest for s in sample_chunk(before, requests, SETTINGS, 1, 0)] == [
        s.crystal.digest for s in kept
    ]


def test_a_checkpoint_whose_tensors_do_not_fit_its_description_is_refused(tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "it", TrainingCopies.of(SMALL, SMALL_GROUPS), {})
    path = tmp_path / "it" / "model.json"
    about = read_document(path, "")
    assert about["config"]["n_sites"] == 7
    write_document(path, {**about, "config": {**about["config"], "n_sites": 8}})
    with pytest.raises(checkpoints.CheckpointError, match="not a readable checkpoint"):
        checkpoints.load(str(tmp_path / "it"))


@BASELINES
def test_settings_of_another_system_are_refused(system: Baseline) -> None:
    with pytest.raises(ValueError, match=f"sample.sampler.n_steps is no setting of {system.name}"):
        system.sampler_settings({"n_steps": 10})


def test_copies_are_training_crystals_bit_for_bit_after_saving(tmp_path: Path) -> None:
    crystals, groups = known()
    checkpoints.save(tmp_path / "copies", TrainingCopies.of(crystals, groups), {})
    system = checkpoints.load(str(tmp_path / "copies")).system
    drawn = system.sample(asked([numbers_of(c) for c in crystals]), seeded())
    stored = {c.digest for c in crystals}
    assert all(c.digest in stored for c in drawn)
    assert [content_of(c.atomic_numbers) for c in drawn] == [content_of(c.atomic_numbers) for c in crystals]


def test_copies_of_anything_are_dealt_until_all_were_there() -> None:
    crystals, groups = known()
    drawn = TrainingCopies.of(crystals, groups).sample([Request()] * len(crystals), seeded())
    assert sorted(c.digest for c in drawn) == sorted(c.digest for c in crystals)
    assert [c.digest for c in drawn] != [c.digest for c in crystals]


def test_copies_prefer_the_asked_group_and_turn_to_any_crystal_for_a_composition_nobody_has() -> None:
    cubic, wurtzite_like = rock_salt("Ti", "N", 4.24), rock_salt("Ti", "N", 4.6)
    system = TrainingCopies.of([cubic, wurtzite_like], [225, 186])
    cells = [[22, 7]] * 6
    assert {c.digest for c in system.sample(asked(cells, [186] * 6), seeded())} == {wurtzite_like.digest}
    assert {c.digest for c in system.sample(asked(cells, [100] * 6), seeded())} == {
        cubic.digest,
        wurtzite_like.digest,
    }
    assert {c.digest for c in system.sample(asked([[74, 73]] * 6), seeded())} == {cubic.digest, wurtzite_like.digest}


def test_a_copy_in_a_supercell_is_the_same_crystal() -> None:
    system = TrainingCopies.of(SMALL, SMALL_GROUPS)
    (drawn,) = system.sample(asked([[5] * 12 + [22] * 6]), seeded())
    assert content_of(drawn.atomic_numbers) == ((5, 12), (22, 6))
    matcher = StructureMatcher(ltol=1e-4, stol=1e-4, angle_tol=1e-2, scale=False)
    assert matcher.fit(drawn.to_structure(), SMALL[2].to_structure())
    # Three atoms fit no whole number of times into seven: the copy keeps its own cell.
    (odd,) = TrainingCopies.of([repeated(SMALL[2], 2)], [191]).sample(asked([[5] * 6 + [22] * 3]), seeded())
    assert content_of(odd.atomic_numbers) == ((5, 4), (22, 2))


@pytest.mark.parametrize("n_cells", [2, 3, 4, 6, 7])
def test_repeating_a_cell_is_what_pymatgen_makes_of_it(n_cells: int) -> None:
    crystal = SMALL[2]
    grown = repeated(crystal, n_cells)
    assert np.linalg.det(grown.lattice_ang) == pytest.approx(n_cells * np.linalg.det(crystal.lattice_ang))
    factors = np.rint(np.diag(grown.lattice_ang @ np.linalg.inv(crystal.lattice_ang))).astype(int)
    truth = crystal.to_structure() * factors.tolist()
    ours = grown.to_structure()
    for site in truth:
        nearest = min(ours, key=site.distance)
        assert site.distance(nearest) < 1e-8
        assert nearest.specie == site.specie
    assert len(ours) == len(truth)


def test_pairs_of_elements_are_the_closest_of_all_permutations() -> None:
    rng = np.random.default_rng(0)
    scale = mendeleev_numbers()
    assert [scale[z] for z in (1, 9, 103)] == [Element.from_Z(z).mendeleev_no for z in (1, 9, 103)]
    for _ in range(40):
        counts = sorted(rng.integers(1, 3, size=4).tolist())
        old, new = (tuple(sorted(zip(rng.permutation(103)[:4] + 1, counts, strict=True))) for _ in range(2))
        best = min(
            sum(n * abs(scale[a] - scale[b]) for (a, n), (b, _) in zip(old, order, strict=True)) / sum(counts)
            for order in permutations(new)
            if [n for _, n in order] == [n for _, n in old]
        )
        found = closest_exchange(old, new)
        assert found.distance == pytest.approx(best)
        assert {(found.new_of[a], n) for a, n in old} == set(new)


def substitution_requests(n: int) -> list[tuple[list[int], int]]:
    """Atoms and groups of real crystals, every element replaced by the next one: compositions of none of them."""
    crystals, groups = known()
    requests = []
    for crystal, group in list(zip(crystals, groups, strict=True))[:n]:
        old = sorted(set(numbers_of(crystal)))
        new_of = {z: min(z + 5, 98 + i) for i, z in enumerate(old)}
        if len(set(new_of.values())) == len(old):
            requests.append(([new_of[z] for z in numbers_of(crystal)], group))
    return requests


def test_substitutes_have_the_asked_atoms_ascending_and_the_asked_group() -> None:
    crystals, groups = known()
    system = PrototypeSubstitution.of(crystals, groups)
    requests = substitution_requests(80)
    drawn = system.sample(asked([z for z, _ in requests], [g for _, g in requests]), seeded())
    assert len(requests) > 60
    assert [numbers_of(c) for c in drawn] == [sorted(z) for z, _ in requests]
    # The group is found at a fixed tolerance in angstrom; in a scaled cell it may fall on the other side of it.
    kept = [group_of(c) == g for c, (_, g) in zip(drawn, requests, strict=True)]
    assert np.mean(kept) >= 0.98
    assert np.mean([check(c, ScreenConfig()).valid for c in drawn]) >= 0.95


def test_a_substitute_is_its_template_with_other_names_at_another_scale() -> None:
    crystals, groups = known()
    system = PrototypeSubstitution.of(crystals, groups)
    matcher = StructureMatcher(scale=True, ltol=1e-3, stol=1e-3, angle_tol=0.1, attempt_supercell=False)
    for numbers, group in substitution_requests(20):
        template = system.templates(Request.for_atoms(numbers, group))[0]
        made, old = system.substituted(template, numbers).to_structure(), crystals[template.row].to_structure()
        assert groups[template.row] == group
        assert matcher.fit_anonymous(made, old)


def test_templates_are_ranked_by_pettifors_scale_and_those_of_the_asked_size_come_alone() -> None:
    potassium, lithium, doubled = rock_salt("K", "F", 5.3), rock_salt("Li", "F", 4.0), repeated(SMALL[1], 2)
    system = PrototypeSubstitution.of([potassium, lithium, doubled, SMALL[2]], [225, 225, 225, 191])
    scale = {s: Element(s).mendeleev_no for s in ("K", "Li", "Na", "F", "Br")}
    truth = {row: (abs(scale["Na"] - scale[s]) + abs(scale["Br"] - scale["F"])) / 2 for row, s in ((0, "K"), (1, "Li"))}
    found = system.templates(Request.for_atoms((11, 35)))
    assert [t.row for t in found] == sorted(truth, key=truth.__getitem__)
    assert [t.exchange.distance for t in found] == pytest.approx(sorted(truth.values()))
    assert [(t.row, t.n_cells) for t in system.templates(Request.for_atoms((11, 11, 35, 35)))] == [(2, 1)]
    assert {(t.row, t.n_cells) for t in system.templates(Request.for_atoms((11,) * 3 + (35,) * 3))} == {(0, 3), (1, 3)}


def test_without_temperature_the_closest_template_is_first_and_with_it_others_come_too() -> None:
    alkali = [rock_salt(symbol, "Cl", a) for symbol, a in (("Li", 5.1), ("K", 6.3), ("Rb", 6.6), ("Cs", 7.0))]
    firsts = {}
    for temperature in (0.0, 20.0):
        system = PrototypeSubstitution.of(alkali, [225] * 4, {"temperature": temperature})
        closest = system.substituted(system.templates(Request.for_atoms((11, 17)))[0], (11, 17))
        firsts[temperature] = [system.sample(asked([[11, 17]]), seeded(s))[0].digest for s in range(30)]
        share = firsts[temperature].count(closest.digest) / 30
        assert share == 1 if temperature == 0 else 0.1 < share < 0.9


def test_every_template_is_used_before_one_comes_again_and_kinds_take_turns() -> None:
    crystals = [
        rock_salt("K", "Cl", 6.3),
        rock_salt("Rb", "Cl", 6.6),
        rock_salt("Cs", "Cl", 7.0),
        rock_salt("K", "I", 7.0),
    ]
    system = PrototypeSubstitution.of(crystals, [225, 225, 225, 221], {"temperature": 5.0})
    drawn = system.sample(asked([[11, 17]] * 8), seeded())
    assert sorted(Counter(c.digest for c in drawn).values()) == [2, 2, 2, 2]
    other_kind = system.substituted(system.templates(Request.for_atoms((11, 17), 221))[0], (11, 17)).digest
    assert other_kind in [c.digest for c in drawn[:2]]


def test_fitted_volumes_scale_a_substitute_towards_the_real_one() -> None:
    system = PrototypeSubstitution.of(*known())
    small, large = (system.sample(asked([[3, 3, z]]), seeded())[0] for z in (8, 52))
    assert np.linalg.det(large.lattice_ang) > 1.2 * np.linalg.det(small.lattice_ang)


def test_what_no_template_fits_is_a_failed_sample_in_its_place(caplog: pytest.LogCaptureFixture) -> None:
    system = PrototypeSubstitution.of(SMALL, SMALL_GROUPS)
    cells = [[22, 7], [1, 1, 1, 1, 6], [22, 7]]
    drawn = system.sample(asked(cells, [None, None, 14]), seeded())
    assert [np.isfinite(c.frac).all() for c in drawn] == [True, False, False]
    assert [sorted(numbers_of(c)) for c in drawn] == [sorted(z) for z in cells]
    assert "2 of 3 samples failed" in caplog.text
    assert "no stored crystal is a template for a cell of H4 C1" in caplog.text
    assert not check(drawn[1], ScreenConfig()).valid


def test_a_failed_sample_is_turned_away_with_a_reason() -> None:
    assert check(failed_sample([5, 73]), ScreenConfig()).reason.startswith(
        "the lattice holds a value that is not finite"
    )


def test_open_compositions_are_those_of_stored_crystals_for_substitution_and_refused_without_data() -> None:
    system = PrototypeSubstitution.of(SMALL, SMALL_GROUPS)
    drawn = system.sample([Request()] * 3, seeded())
    assert sorted(content_of(c.atomic_numbers) for c in drawn) == sorted(content_of(c.atomic_numbers) for c in SMALL)
    with pytest.raises(ValueError, match="request 0 is any crystal, with 0 atoms"):
        RandomSymmetric(RandomSymmetricConfig()).sample([Request()], seeded())


@pytest.mark.parametrize("number", [1, 2, 12, 15, 63, 139, 166, 191, 194, 225, 227])
def test_random_crystals_have_the_asked_group_in_a_primitive_cell_of_the_asked_atoms(number: int) -> None:
    atoms = [8, 8, 8, 8, 22, 22] if number != 225 else [8, 22]
    system = RandomSymmetric(RandomSymmetricConfig(n_attempts=60))
    drawn = system.draw([Request.for_atoms(atoms, number)] * 2, seeded(1))
    for sample in drawn:
        assert sample.crystal is not None, sample.reason
        structure: Structure = sample.crystal.to_structure()
        assert numbers_of(sample.crystal) == atoms
        assert group_of(sample.crystal) == number
        cell = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
        assert len(spglib.find_primitive(cell, symprec=0.01)[2]) == len(atoms)
        assert check(sample.crystal, ScreenConfig(min_distance_ang=0.7)).valid
    assert drawn[0].crystal.digest != drawn[1].crystal.digest


def test_a_free_group_is_drawn_among_many_and_one_sample_does_not_depend_on_the_others() -> None:
    system = RandomSymmetric(RandomSymmetricConfig())
    drawn = system.sample(asked([[22, 7]] * 12), seeded())
    assert len({group_of(c) for c in drawn}) >= 4
    seeds_apart = system.sample(asked([[22, 7]] * 6 + [[22, 7, 7]] * 6), seeded())
    assert [c.digest for c in seeds_apart[:6]] == [c.digest for c in drawn[:6]]


@pytest.mark.parametrize(
    ("number", "atoms", "fit"),
    [(225, [22, 7], True), (225, [20, 9, 9], True), (225, [22] * 5, False), (1, [22] * 5, True)],
)
def test_which_groups_can_hold_a_cell(number: int, atoms: list[int], fit: bool) -> None:
    """By hand, from the tables: orbits of Fm-3m hold 1 (4a), 1 (4b), 2 (8c), 6 or more atoms per primitive cell."""
    assert fits(Request.for_atoms(atoms, number), number) is fit


def test_a_group_whose_orbits_cannot_hold_the_atoms_is_a_failed_sample() -> None:
    (drawn,) = RandomSymmetric(RandomSymmetricConfig()).draw([Request.for_atoms((22, 7, 7, 7, 7, 7), 227)], seeded())
    assert drawn.crystal is None
    assert drawn.reason.startswith("the orbits of the group cannot hold a cell of N5 Ti1 in space group 227")


def test_a_formula_unit_times_its_number_is_the_cell() -> None:
    assert formula_unit(((5, 4), (73, 2))) == (((5, 2), (73, 1)), 2)
    assert content_of(np.array([73, 5, 73, 5, 5, 5])) == ((5, 4), (73, 2))
