"""Inequivalent sites asked of the symmetric generator. Truths: spglib's orbits; votes counted one crystal at a time."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from itertools import permutations

import numpy as np
import pytest
import spglib
import torch
from pymatgen.core.lattice import Lattice
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure

from generative.config import ScreenConfig
from generative.crystal.crystals import Crystal
from generative.crystal.wyckoff import Signature, WyckoffCrystal
from generative.requests import Request, in_turn
from generative.screening.validity import check
from generative.systems.wyckoff.config import WyckoffSampler
from generative.systems.wyckoff.kinds import Composition, described
from generative.systems.wyckoff.system import Wyckoff
from tests.generative.systems.test_wyckoff import rng, stored
from tests.real_crystals import in_space_group

CENTRE, FACE, EDGE = [0.5, 0.5, 0.5], [0, 0.5, 0.5], [0.5, 0, 0]
CUBIC = (
    (3.905, ("Sr", "Ti", "O"), (EDGE[:1] * 3, [0, 0, 0], EDGE)),
    (4.006, ("Ba", "Ti", "O"), (CENTRE, [0, 0, 0], EDGE)),
    (3.989, ("K", "Mg", "F"), (CENTRE, [0, 0, 0], EDGE)),
    (4.81, ("Ca", "Sn", "O"), (FACE, [0, 0, 0], CENTRE)),
    (3.75, ("Cu", "Au"), (FACE, [0, 0, 0])),
    (3.75, ("Re", "O"), ([0, 0, 0], EDGE)),
    (4.12, ("Cs", "Cl"), ([0, 0, 0], CENTRE)),
    (3.795, ("Fe", "Fe", "N"), ([0, 0, 0], FACE, CENTRE)),
    (3.865, ("Mn", "Mn", "N"), ([0, 0, 0], FACE, CENTRE)),
    (4.15, ("Ca", "B"), ([0, 0, 0], [0.2, 0.5, 0.5])),
)
"""Edge, elements and sites in Pm-3m: perovskites and their inverse, simple intermetallics, nitrides, a boride."""


def cubic() -> list[Crystal]:
    rock_salt = in_space_group(225, Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], CENTRE])
    return [rock_salt, *(in_space_group(221, Lattice.cubic(a), list(e), list(sites)) for a, e, sites in CUBIC)]


@pytest.fixture(scope="module")
def system() -> Wyckoff:
    return stored(cubic())


def orbits(crystal: Crystal) -> tuple[int, dict[str, int]]:
    """Space group and inequivalent sites of each element by spglib."""
    assert np.isfinite(crystal.lattice_ang).all(), "a failed sample"
    numbers = crystal.atomic_numbers.tolist()
    found = spglib.get_symmetry_dataset((crystal.lattice_ang.tolist(), crystal.frac.tolist(), numbers), 0.01)
    assert found is not None
    firsts = {int(first) for first in found.equivalent_atoms}
    return int(found.number), dict(Counter(Element.from_Z(numbers[first]).symbol for first in firsts))


def weights_of(system: Wyckoff, sites: dict[str, int], group: int) -> dict[Signature, float]:
    """Votes by signature: of every stored crystal with every exchange of its elements that keeps the sites' numbers."""
    asked = {Element(symbol).Z: n for symbol, n in sites.items()}
    votes: dict[Signature, float] = defaultdict(float)
    for crystal in cubic():
        signature = WyckoffCrystal.of(crystal).signature
        held = Counter(z for z, _ in signature.sites)
        for order in permutations(held) if signature.spacegroup == group else ():
            new_of = dict(zip(order, asked, strict=False))
            if len(order) != len(asked) or any(held[old] != asked[new] for old, new in new_of.items()):
                continue
            made = Signature.of(group, [(new_of[z], letter) for z, letter in signature.sites])
            composition, _ = described(group, made.sites)
            old_of = {new: old for old, new in new_of.items()}
            with torch.no_grad():
                here, there = (
                    system.metric(torch.tensor([elements]), composition.counts)[0].double()
                    for elements in (composition.elements, [old_of[z] for z in composition.elements])
                )
            votes[made] += float(torch.exp(-(here - there).square().sum()))
    return dict(votes)


ASKED = ({"Ba": 1, "Zr": 1, "S": 1}, {"Ni": 2, "N": 1}, {"Rb": 1, "Br": 1}, {"La": 1, "Ru": 1})


@pytest.mark.parametrize("sites", ASKED, ids="-".join)
def test_every_crystal_has_the_group_and_the_sites_that_are_asked_for_by_spglib(
    system: Wyckoff, sites: dict[str, int]
) -> None:
    n = len(weights_of(system, sites, 221))
    drawn = system.sample([Request.for_sites(sites, 221)] * n, rng())
    assert n >= 1
    assert [orbits(crystal) for crystal in drawn] == [(221, sites)] * n
    assert len({crystal.digest for crystal in drawn}) == n
    assert all(np.array_equal(np.sort(c.atomic_numbers), c.atomic_numbers) for c in drawn)


@pytest.mark.parametrize("sites", ASKED, ids="-".join)
def test_signatures_come_by_the_votes_for_them_among_all_compositions(system: Wyckoff, sites: dict[str, int]) -> None:
    votes = weights_of(system, sites, 221)
    drawn = system.sample([Request.for_sites(sites, 221)] * len(votes), rng())
    assert [WyckoffCrystal.of(c, 0.01).signature for c in drawn] == sorted(votes, key=lambda one: -votes[one])


def test_sites_of_one_kind_give_several_compositions(system: Wyckoff) -> None:
    # CsCl, Cu3Au or ReO3 and CaB6, the last three either way round; the second origin of each is the same.
    votes = weights_of(system, {"Rb": 1, "Br": 1}, 221)
    formulas = {described(221, one.sites)[0] for one in votes}
    assert {tuple(sorted(zip(c.elements, c.counts, strict=True))) for c in formulas} == {
        ((35, a), (37, b)) for a, b in ((1, 1), (1, 3), (3, 1), (1, 6), (6, 1))
    }


def test_a_temperature_draws_by_the_votes_of_all_compositions(system: Wyckoff) -> None:
    votes = weights_of(system, {"Rb": 1, "Br": 1}, 221)
    counted: Counter[Signature] = Counter()
    generator, n = rng(4), 300
    for _ in range(n):
        (crystal,) = system.sample(
            [Request.for_sites({"Rb": 1, "Br": 1}, 221)], generator, WyckoffSampler(temperature=1)
        )
        counted[WyckoffCrystal.of(crystal, 0.01).signature] += 1
    total = sum(votes.values())
    assert set(counted) <= set(votes)
    assert 0.1 < max(votes.values()) / total < 0.9
    for one, weight in votes.items():
        share = weight / total
        assert counted[one] / n == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / n))


def test_a_plan_of_sites_cut_into_several_calls_gives_the_crystals_of_one_call(system: Wyckoff) -> None:
    plan = [Request.for_sites(sites, 221) for sites in ASKED[:3]] * 4
    whole = [crystal.digest for crystal in system.sample(plan, rng())]
    turned = in_turn(plan, system.heeds)
    assert [c.digest for i in range(0, 12, 5) for c in system.sample(turned[i : i + 5], rng(i))] == whole
    assert [c.digest for c in system.sample(plan, rng(9))] == whole


def test_both_hands_of_an_enantiomorphic_group_hold_sites() -> None:
    quartz = Structure.from_spacegroup(
        152, Lattice.hexagonal(4.913, 5.405), ["Si", "O"], [[0.4697, 0, 1 / 3], [0.4135, 0.2669, 0.4524]]
    )
    system = stored([Crystal.from_structure(quartz)])
    for number in (152, 154):
        (crystal,) = system.sample([Request.for_sites({"Ge": 1, "O": 1}, number)], rng())
        assert orbits(crystal) == (number, {"Ge": 1, "O": 1})


def test_sites_that_no_stored_crystal_has_are_a_failed_sample_with_a_word_in_the_log(
    system: Wyckoff, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = [Request.for_sites({"Ge": 7}, 221), Request.for_sites({"Na": 1, "Cl": 1}, 62)]
    fine = Request.for_sites({"Rb": 1, "Br": 1}, 225)
    drawn = system.sample([wrong[0], fine, wrong[1], Request.of({"Rb": 1, "Br": 1})], rng())
    assert [bool(np.isnan(crystal.lattice_ang).all()) for crystal in drawn] == [True, False, True, False]
    assert [drawn[i].atomic_numbers.tolist() for i in (0, 2)] == [[32] * 7, [11, 17]]
    assert not check(drawn[0], ScreenConfig()).valid
    assert "2 of 4 requests can have no signature with the sites and of the space group" in caplog.text
    assert "inequivalent sites 7 Ge in space group 221" in caplog.text


def test_an_energy_moves_the_order_of_sites() -> None:
    crystals = cubic()
    system = stored(crystals)
    energies = [(-4.0 if 55 in c.atomic_numbers else 1.0) for c in crystals]
    system.fit_statistics(crystals, energies)
    with torch.no_grad():
        system.metric.energy.fill_(3.0)
    for energy, counts in ((-4.0, (1, 1)), (1.0, None)):
        request = Request(spacegroup=221, formation_energy_ev_per_atom=energy, sites=(("Br", 1), ("Rb", 1)))
        (crystal,) = system.sample([request], rng())
        found = Composition.of(dict(Counter(crystal.atomic_numbers.tolist()))).counts
        assert found == counts if counts else found != (1, 1)
