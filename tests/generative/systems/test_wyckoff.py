"""The symmetric generator: what votes for what, which crystals come, and that they have the symmetry asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import spglib
import torch
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from generative import checkpoints
from generative.crystal.crystals import Crystal
from generative.crystal.wyckoff import Signature, WyckoffCrystal, space_group
from generative.datasets.site_labels import SiteLabel, SiteLabelsError, read_site_labels
from generative.requests import Request, in_turn
from generative.systems.wyckoff.config import WyckoffConfig, WyckoffSampler
from generative.systems.wyckoff.kinds import Composition, Known, described, kind_of
from generative.systems.wyckoff.library import Library
from generative.systems.wyckoff.system import Wyckoff
from generative.systems.wyckoff.training_set import DescribedCrystals
from generative.training.data import TrainingSet, split
from tests.real_crystals import in_space_group, real_crystals

ROCK_SALT = [[0, 0, 0], [0.5, 0.5, 0.5]]
HALIDES = {
    225: (("Na", "Cl", 5.64), ("K", "Br", 6.60), ("Li", "F", 4.03), ("Ag", "Cl", 5.55), ("K", "I", 7.07)),
    221: (("Cs", "Cl", 4.12), ("Cs", "Br", 4.29), ("Cs", "I", 4.57), ("Tl", "Cl", 3.83)),
}


SMALL = WyckoffConfig(width=8, hidden=16, sequence_width=8, sequence_hidden=16)


def halides() -> list[Crystal]:
    return [
        in_space_group(number, Lattice.cubic(a), [cation, anion], ROCK_SALT)
        for number, those in HALIDES.items()
        for cation, anion, a in those
    ]


def set_of(crystals: Sequence[Crystal], labels: Sequence[SiteLabel] = ()) -> TrainingSet:
    n = len(crystals)
    data = TrainingSet(crystals, [None] * n, [None] * n, [f"made:{i}" for i in range(n)])
    data.labels = tuple(labels)
    return data


def stored(crystals: Sequence[Crystal], labels: Sequence[SiteLabel] = ()) -> Wyckoff:
    torch.manual_seed(0)
    system = Wyckoff(SMALL)
    data = system.arranged(set_of(crystals, labels))
    system.fit_statistics(data.crystals, data.energies)
    return system.eval()


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def group_of(crystal: Crystal, symprec_ang: float = 0.01) -> int:
    assert np.isfinite(crystal.lattice_ang).all(), "a failed sample"
    found = spglib.get_symmetry_dataset(
        (crystal.lattice_ang.tolist(), crystal.frac.tolist(), crystal.atomic_numbers.tolist()), symprec_ang
    )
    assert found is not None
    return int(found.number)


def test_equal_requests_get_every_stored_signature_before_any_other() -> None:
    system = stored(halides())
    drawn = system.sample([Request.of({"Rb": 1, "Cl": 1})] * 6, rng())
    assert {group_of(c) for c in drawn[:2]} == {225, 221}
    assert all(sorted(c.atomic_numbers) == [17, 37] for c in drawn)
    # What comes then is made by the network.
    assert len({c.digest for c in drawn}) == 6


def _members(system: Wyckoff, crystal: Crystal) -> int:
    signature = WyckoffCrystal.of(crystal).signature
    composition, letters = described(signature.spacegroup, signature.sites)
    library = system.library
    row = library.row_of[kind_of(signature.spacegroup, letters)]
    assert composition.counts == library.counts[row]
    return int(library.type_members[library.type_kind == row].max())


def test_a_crystal_that_is_alone_in_its_type_comes_back_with_its_own_numbers() -> None:
    crystals = real_crystals("mp_20_val", 40, 20)
    system = stored(crystals)
    with torch.no_grad():
        system.metric.same.fill_(-100.0)  # an equal composition is the nearest of all
    alone = [c for c in crystals if _members(system, c) == 1]
    assert len(alone) > 10
    for crystal in alone[:15]:
        request = Request.for_atoms(crystal.atomic_numbers.tolist())
        (back,) = system.sample([request], rng())
        wanted, found = (WyckoffCrystal.of(c, 0.01) for c in (crystal, back))
        assert found.signature == wanted.signature
        assert np.allclose(found.cell, wanted.cell, atol=1e-3)


@pytest.mark.parametrize("asked", [225, 221])
def test_a_space_group_that_is_asked_for_is_that_of_every_crystal(asked: int) -> None:
    system = stored(halides())
    drawn = system.sample([Request.of({"Rb": 1, "Br": 1}, spacegroup=asked)] * 3, rng())
    assert [group_of(c) for c in drawn] == [asked] * 3


def test_both_hands_of_an_enantiomorphic_group_can_be_asked_for() -> None:
    quartz = Structure.from_spacegroup(
        152, Lattice.hexagonal(4.913, 5.405), ["Si", "O"], [[0.4697, 0, 1 / 3], [0.4135, 0.2669, 0.4524]]
    )
    system = stored([Crystal.from_structure(quartz)])
    for number in (152, 154):
        (crystal,) = system.sample([Request.of({"Ge": 3, "O": 6}, spacegroup=number)], rng())
        assert group_of(crystal) == number


def test_what_no_stored_crystal_resembles_is_made_by_the_network_in_the_group_that_is_asked_for() -> None:
    system = stored(halides())
    requests = [Request.of({"Na": 1, "Cl": 3}), Request.of({"Na": 1, "Cl": 1}, spacegroup=216)]
    requests += [Request.of({"Mg": 2, "Si": 2, "O": 6}, spacegroup=number) for number in (2, 14, 15, 148, 167)]
    for request, crystal in zip(requests, system.sample(requests, rng()), strict=True):
        assert tuple(crystal.atomic_numbers) == request.atomic_numbers
        if request.spacegroup:
            # A packing may come out with more symmetry than asked for, never with less.
            assert request.spacegroup in subgroup_numbers(crystal)


def subgroup_numbers(crystal: Crystal) -> set[int]:
    """The crystal's own group and those that its maximal subgroups by PyXtal's tables have, four levels down."""
    from pyxtal.symmetry import Group

    found, last = {group_of(crystal)}, {group_of(crystal)}
    for _ in range(4):
        last = {
            int(h)
            for g in last
            for h in [*Group(g).get_max_t_subgroup()["subgroup"], *Group(g).get_max_k_subgroup()["subgroup"]]
        }
        found |= last
    return found


def test_counts_that_no_signature_of_the_group_holds_are_a_failed_sample_with_a_word_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    system = stored(halides())
    (drawn,) = system.sample([Request.of({"Na": 1, "Cl": 3}, spacegroup=2)], rng())
    assert np.isfinite(drawn.lattice_ang).all()
    (drawn,) = system.sample([Request.of({"Na": 1, "Cl": 1}, spacegroup=62)], rng())
    assert np.isnan(drawn.lattice_ang).all()
    assert "1 of 1 requests can have no signature of the space group that is asked for" in caplog.text


def test_a_cell_of_several_formula_units_is_a_supercell_where_nothing_else_is_stored() -> None:
    system = stored(halides())
    (crystal,) = system.sample([Request.of({"Rb": 4, "Cl": 4}, spacegroup=225)], rng())
    assert len(crystal.atomic_numbers) == 8
    assert group_of(crystal) == 225


def test_a_temperature_draws_by_the_votes() -> None:
    system = stored(halides())
    request = Request.of({"Rb": 1, "Cl": 1})
    share = _shares(system, request)[225]
    hot = WyckoffSampler(temperature=1.0)
    generator = rng(3)
    n = 400
    drawn = [group_of(system.sample([request], generator, hot)[0]) for _ in range(n)]
    error = (share * (1 - share) / n) ** 0.5
    assert drawn.count(225) / n == pytest.approx(share, abs=4 * error)
    assert 0.02 < share < 0.98


def _shares(system: Wyckoff, request: Request) -> dict[int, float]:
    """Votes by space group, from the metric's own definition, one stored crystal at a time."""
    composition = Composition.of(dict(request.content))
    shelf = system.library.shelf(composition.counts)
    assert shelf is not None
    weights: dict[int, float] = {}
    with torch.no_grad():
        asked = system.metric(torch.tensor([composition.elements]), composition.counts)[0].double()
        for elements, kind in zip(shelf.elements, shelf.kind, strict=True):
            there = system.metric(elements[None], composition.counts)[0].double()
            number = int(system.library.group_of(shelf.kinds)[int(kind)])
            weights[number] = weights.get(number, 0.0) + float(torch.exp(-(asked - there).square().sum()))
    total = sum(weights.values())
    return {number: weight / total for number, weight in weights.items()}


def test_training_makes_the_signature_of_a_crystal_win_the_votes_of_the_others() -> None:
    system = stored(halides()).train()
    data = system.arranged(set_of(halides()))
    batch = data[list(range(len(data)))]
    assert isinstance(batch, DescribedCrystals)
    optimiser = torch.optim.Adam(system.metric.parameters(), 0.01)
    first = float(system.loss(batch, rng(), 0).parts["vote"].detach())
    for _ in range(60):
        optimiser.zero_grad()
        loss = system.loss(batch, rng(), 0)
        loss.total.backward()
        optimiser.step()
    assert float(loss.parts["vote"].detach()) < 0.3 * first
    assert float(loss.parts["nearest_is_right"]) == 1.0


def vote(system: Wyckoff, data: TrainingSet, rows: list[int]) -> float:
    return float(system.loss(data[rows], rng(), 0).parts["vote"].detach())


def test_no_crystal_votes_on_itself_while_training() -> None:
    # Alone in its signature a crystal has nobody to be predicted by, whatever the weights.
    system = stored(halides()[:1]).train()
    assert vote(system, system.arranged(set_of(halides()[:1])), [0]) == 0.0
    # In another order, or among others, as a training that starts from a checkpoint has them, it is the same crystal.
    other = stored(halides()).eval()
    order = list(reversed(halides()))
    lone = stored(halides()[4:6]).train()  # one of rock salt and one of CsCl type: neither can be told by the other
    assert vote(lone, lone.arranged(set_of(order)), [3, 4]) == 0.0
    rows = list(range(len(order)))
    assert vote(other, other.arranged(set_of(order)), rows) == pytest.approx(
        vote(other, other.arranged(set_of(halides())), rows), rel=1e-5
    )


def test_more_crystals_of_a_composition_begin_with_the_same_ones() -> None:
    system = stored(halides())
    for settings in (WyckoffSampler(), WyckoffSampler(temperature=0.7)):
        few, many = (system.sample([Request.of({"Rb": 1, "Cl": 1})] * n, rng(5), settings) for n in (3, 8))
        assert [c.digest for c in few] == [c.digest for c in many[:3]]


def test_a_plan_cut_into_several_calls_gives_the_crystals_of_one_call() -> None:
    system = stored(halides())
    plan = [Request.of(cell) for cell in ({"Rb": 1, "Cl": 1}, {"Rb": 1, "Br": 1}, {"Rb": 2, "Cl": 2})] * 7
    whole = [crystal.digest for crystal in system.sample(plan, rng())]
    assert len(set(whole[::3])) == 7
    turned = in_turn(plan, system.heeds)
    for size in (1, 4, 20):
        cut = [c.digest for i in range(0, 21, size) for c in system.sample(turned[i : i + size], rng(i))]
        assert cut == whole
    assert [c.digest for c in system.sample(plan[:4], rng())] == whole[:4]


def test_crystals_without_coordinates_vote_and_lend_nothing() -> None:
    labels = [SiteLabel(f"label-{z}", 221, Signature.of(221, [(z, "a"), (17, "b")]).sites) for z in (37, 55, 81)]
    alone, with_labels = stored(halides()[:5]), stored(halides()[:5], labels)
    assert len(with_labels.library.voter_identity.unique()) == 8
    request = Request.of({"Rb": 1, "Cl": 1})
    assert 221 in _shares(with_labels, request)
    assert 221 not in _shares(alone, request)
    # Nobody can lend the numbers of a CsCl type, but it leaves none free: only the edge is to be known.
    assert {group_of(c) for c in with_labels.sample([request] * 2, rng())} == {225, 221}


def test_labels_of_held_out_formulas_are_held_out_too() -> None:
    sites = Signature.of(225, [(11, "a"), (17, "b")]).sites
    label = SiteLabel("label", 225, sites)
    data = set_of(halides(), [label])
    for seed in range(20):
        train, held = split(data, 0.3, seed)
        is_held = any(sorted(c.atomic_numbers) == [11, 17] for c in held.crystals)
        assert train.labels == (() if is_held else (label,))
        assert held.labels == ()


def test_a_checkpoint_draws_what_the_system_draws(tmp_path: Path) -> None:
    system = stored(halides(), [SiteLabel("label", 221, Signature.of(221, [(37, "a"), (17, "b")]).sites)])
    checkpoints.save(tmp_path / "made", system, {}, torch.float32)
    again = checkpoints.load(str(tmp_path / "made")).generator
    requests = [Request.of({"Rb": 1, "Cl": 1})] * 3
    for a, b in zip(system.sample(requests, rng()), again.sample(requests, rng()), strict=True):
        assert a.digest == b.digest


def test_exchanged_roles_are_kinds_of_their_own_unless_the_normalizer_makes_them_one() -> None:
    perovskite = kind_of(221, (("a",), ("b",), ("c",)))
    assert kind_of(221, (("b",), ("a",), ("d",))) == perovskite  # the other origin
    assert kind_of(221, (("b",), ("a",), ("c",))) != perovskite  # A and B exchanged
    assert kind_of(225, (("a",), ("b",))) == kind_of(225, (("b",), ("a",)))
    sites = Signature.of(221, [(20, "a"), (22, "b"), (8, "c")]).sites
    library = Library.filled([Known(221, sites, 1)], np.full(104, 15.0))
    shelf = library.shelf((1, 1, 3))
    assert shelf is not None
    assert len(shelf.kind) == len(shelf.kinds) == 2
    assert library.shelf((1, 2, 3)) is None


def test_rows_of_a_label_file_are_crystals_or_have_a_reason(tmp_path: Path) -> None:
    rows = {
        "material_id": ["good", "short", "none", "wrong", "hidden"],
        "atomic_numbers": [[11, 17], [11, 17], [11, 17], [11, 17], [11, 17]],
        "spacegroup": [225, 225, 225, 225, 225],
        "wyckoff": [["b", "a"], ["a"], None, ["a", "c"], ["a", "b"]],
        "equivalent_atoms": [[0, 1], [0, 1], [0, 1], [0, 1], [0, 1]],
    }
    pq.write_table(pa.table(rows), tmp_path / "labels.parquet")
    labels, refused = read_site_labels(tmp_path / "labels.parquet", exclude=["hidden"])
    assert labels == [SiteLabel("good", 225, Signature.of(225, [(11, "a"), (17, "b")]).sites)]
    assert sorted(refused) == ["none", "short", "wrong"]
    assert "hold 3 atoms: expected 2" in refused["wrong"]
    assert labels[0].counts == {11: 1, 17: 1}
    pq.write_table(pa.table({"material_id": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(SiteLabelsError, match="other.parquet"):
        read_site_labels(tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(SiteLabelsError, match="expected Parquet"):
        read_site_labels(tmp_path / "text.parquet")
    assert space_group(225).positions["a"].multiplicity == 1


def test_an_epoch_has_every_crystal_once_in_batches_of_few_patterns_and_always_as_many() -> None:
    crystals = real_crystals("mp_20_val", 300, 20)
    system = Wyckoff(SMALL)
    data = system.arranged(set_of(crystals))
    shuffled = [data.batches(8, np.random.default_rng(seed)) for seed in range(5)]
    for batches in shuffled:
        assert sorted(row for batch in batches for row in batch) == list(range(len(crystals)))
        assert len(batches) == data.batches_per_epoch(8) == len(data.batches(8, None))
    assert shuffled[0] != shuffled[1]
    patterns = [
        len({tuple(sorted(np.unique(crystals[row].atomic_numbers, return_counts=True)[1])) for row in batch})
        for batch in shuffled[0]
    ]
    all_patterns = {tuple(sorted(np.unique(c.atomic_numbers, return_counts=True)[1])) for c in crystals}
    n_whole = sum(n == 1 for n in patterns)
    assert n_whole >= 1
    assert sum(patterns) <= len(all_patterns) + n_whole  # no pattern's rest is spread over several batches
