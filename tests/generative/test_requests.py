"""Truths: brute-force enumeration, proportional shares, SMACT's own verdicts."""

import itertools
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pymatgen.core.composition import Composition
from pymatgen.core.periodic_table import Element

from generative.composition_odds.model import CompositionOdds, candidates
from generative.config import ConditionsConfig, GridConfig
from generative.crystal.occupancy import holds
from generative.plans.formulas import PlanError, enumerate_formulas
from generative.plans.plan import RIGHT_AT, check, plan
from generative.requests import Formula, Request, in_turn
from generative.screening import composition

SYSTEM = ("Ta", "W", "B")


def reduced(condition: Request) -> Formula:
    divisor = math.gcd(*(n for _, n in condition.formula_counts))
    return tuple((symbol, n // divisor) for symbol, n in condition.formula_counts)


def test_enumeration_is_the_brute_force_over_all_counts() -> None:
    found = enumerate_formulas(SYSTEM, 2, 3, 8)
    symbols = ("B", "Ta", "W")
    expected = {
        tuple((s, n) for s, n in zip(symbols, counts, strict=True) if n)
        for counts in itertools.product(range(9), repeat=3)
        if sum(n > 0 for n in counts) in (2, 3) and sum(counts) <= 8 and math.gcd(*counts) == 1
    }
    assert len(found) == len(set(found)) == len(expected)
    assert set(found) == expected
    assert found == enumerate_formulas(("B", "W", "Ta"), 2, 3, 8)
    sizes = [(len(f), sum(n for _, n in f)) for f in found]
    assert sizes == sorted(sizes)


def test_single_elements_are_enumerated_as_one_atom() -> None:
    assert enumerate_formulas(("Ti", "Al"), 1, 1, 8) == [(("Al", 1),), (("Ti", 1),)]


def test_an_explosive_enumeration_is_refused_before_it_starts() -> None:
    with pytest.raises(PlanError, match="formula_atoms_max 64 gives up to 131,115,984 formulas"):
        enumerate_formulas(("Li", "Ti", "Fe", "O", "S", "N"), 1, 6, 64)


@pytest.mark.parametrize(
    "config",
    [
        ConditionsConfig(policy="enumerate"),
        ConditionsConfig(policy="given", formulas=("Ta2BW", "TaWB")),
        ConditionsConfig(policy="training"),
    ],
)
def test_a_shorter_plan_is_the_beginning_of_a_longer_one(config: ConditionsConfig) -> None:
    training = ["TaB2", "Ta2B2WB", "W2B", "TaB2", "NaCl"]
    long = plan(config, SYSTEM, 1000, 7, training)
    assert len(long) == 1000
    for n in (0, 1, 10, 333):
        assert plan(config, SYSTEM, n, 7, training) == long[:n]
    assert plan(config, SYSTEM, 1000, np.random.default_rng(7), training) == long
    assert plan(config, SYSTEM[::-1], 1000, 7, training) == long
    assert plan(config, SYSTEM, 1000, 8, training) != long


def test_a_plan_leaves_the_generator_in_a_state_that_does_not_depend_on_its_length() -> None:
    states = []
    for n in (1, 500):
        rng = np.random.default_rng(0)
        plan(ConditionsConfig(policy="enumerate"), SYSTEM, n, rng)
        states.append(rng.random())
    assert states[0] == states[1]


def test_every_cell_keeps_within_the_limits_and_the_system() -> None:
    config = ConditionsConfig(n_elements_min=2, n_elements_max=3, n_atoms_min=3, n_atoms_max=11, formula_atoms_max=7)
    for condition in plan(config, SYSTEM, 2000, 0):
        assert 3 <= condition.n_atoms <= 11
        assert sum(n for _, n in reduced(condition)) <= 7
        assert 2 <= len(condition.formula_counts) <= 3
        assert {s for s, _ in condition.formula_counts} <= set(SYSTEM)


def test_each_formula_has_its_share_to_within_one_at_every_length() -> None:
    formulas = enumerate_formulas(SYSTEM, 3, 3, 8)
    weights = {f: (3 / sum(n for _, n in f)) ** 2 for f in formulas}
    total = sum(weights.values())
    conditions = plan(ConditionsConfig(policy="enumerate"), SYSTEM, 600, 3)
    for n in (60, 300, 600):
        drawn = Counter(reduced(c) for c in conditions[:n])
        for formula in formulas:
            # One from the formula's own phase, and a little from the phases of the others, which shift the clock.
            assert abs(drawn[formula] - n * weights[formula] / total) < 1.5
    assert len({reduced(c) for c in conditions[:300]}) == len(formulas)


def test_simple_ratios_come_more_often_and_small_cells_too() -> None:
    conditions = plan(ConditionsConfig(policy="enumerate", n_atoms_max=12), SYSTEM, 1500, 0)
    drawn = Counter(sum(n for _, n in reduced(c)) for c in conditions if len(set(n for _, n in reduced(c))) <= 2)
    assert drawn[3] / 1 > drawn[4] / 3 > drawn[5] / 6
    units = Counter(c.n_atoms // 3 for c in conditions if sum(n for _, n in reduced(c)) == 3)
    assert units[1] >= units[2] > units[4] > units[3] > 0


def test_given_formulas_are_drawn_evenly_and_reduced() -> None:
    config = ConditionsConfig(policy="given", formulas=("Ta4B2W2", "TaB2"), n_atoms_max=16)
    drawn = Counter(c.reduced_formula for c in plan(config, SYSTEM, 100, 0))
    assert set(drawn) == {Composition("Ta2BW").reduced_formula, "TaB2"}
    assert abs(drawn["TaB2"] - 50) <= 1


def test_the_training_policy_follows_the_counts_inside_the_system() -> None:
    training = ["TaB2"] * 30 + ["W2B"] * 10 + ["NaCl"] * 500
    drawn = Counter(c.reduced_formula for c in plan(ConditionsConfig(policy="training"), SYSTEM, 400, 0, training))
    assert set(drawn) == {"TaB2", "BW2"} or set(drawn) == {"TaB2", "W2B"}
    assert abs(drawn["TaB2"] - 300) <= 2


def test_the_smact_filter_keeps_what_smact_accepts() -> None:
    config = ConditionsConfig(policy="enumerate", smact_filter=True)
    conditions = plan(config, ("Al", "Ti", "N"), 300, 0)
    assert all(composition.check(dict(c.formula_counts)).valid for c in conditions)
    accepted = [f for f in enumerate_formulas(("Al", "Ti", "N"), 3, 3, 8) if composition.check(dict(f)).valid]
    assert {reduced(c) for c in conditions} == set(accepted)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ConditionsConfig(smact_filter=True, formula_atoms_max=3), "refused all 1 formulas of B-Ta-W.*set it to false"),
        (ConditionsConfig(policy="given", formulas=("NaCl",)), "Na is not in the chemical system B-Ta-W"),
        (
            ConditionsConfig(policy="given", formulas=("Ta9B9",), n_atoms_min=3, n_atoms_max=3),
            "change conditions.n_atoms",
        ),
        (ConditionsConfig(policy="given", formulas=("hello",)), "'hello' is not a formula such as 'Ta2BW'"),
        (ConditionsConfig(policy="given", formulas=("Ta0.5B",)), "whole numbers"),
        (
            ConditionsConfig(policy="sites", formulas=("TaB", "NaCl"), spacegroup=221),
            "'NaCl', but Na is not in the chemical system B-Ta-W",
        ),
        (ConditionsConfig(policy="sites", formulas=("Ta60WB4",), spacegroup=1), "B4Ta60W, 65 .*sites: .* at most 64"),
        (ConditionsConfig(policy="sites", formulas=("Ta0.5B",), spacegroup=221), "whole numbers"),
        (
            ConditionsConfig(policy="sites", n_elements_min=5, n_elements_max=5),
            "no 5 to 5 of B-Ta-W have at most 4 sites",
        ),
        (ConditionsConfig(policy="training"), "none of the 2 training crystals lies in B-Ta-W"),
        (ConditionsConfig(formula_atoms_max=2), "no formula of B-Ta-W has 3 to 3 elements and at most 2 atoms"),
        (ConditionsConfig(n_atoms_max=2), "has 2 to 2 atoms"),
    ],
)
def test_conditions_that_leave_nothing_say_which_setting_to_change(config: ConditionsConfig, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        plan(config, SYSTEM, 10, 0, ["NaCl", "MgO"])


def test_without_formulas_and_group_few_sites_are_asked_for_in_each_of_the_common_groups() -> None:
    config = ConditionsConfig(policy="sites", n_elements_min=3, n_elements_max=3)
    check(config, SYSTEM)
    requests = plan(config, SYSTEM, 129, 0)
    assert len(set(requests)) == 128
    assert [str(r) for r in requests[3:5]] == [
        "a cell of inequivalent sites 2 B 1 Ta 1 W in space group 62",
        "a cell of inequivalent sites 1 B 1 Ta 1 W in space group 194",
    ]
    assert requests[128] == requests[0]
    (one, *_) = plan(ConditionsConfig(policy="sites", n_elements_min=2, spacegroup=225), SYSTEM, 1, 0)
    assert one == Request.for_sites({"B": 1, "Ta": 1}, 225)


def test_formulas_are_asked_for_in_turn_as_sites_whatever_the_limits_on_atoms() -> None:
    config = ConditionsConfig(
        policy="sites",
        formulas=("TaWB2", "Ta2W2B4", "B2WTa", "TaB"),
        spacegroup=191,
        formation_energy_ev_per_atom=-0.5,
        n_atoms_min=60,
        n_atoms_max=60,
    )
    counts = [{"Ta": 1, "W": 1, "B": 2}, {"Ta": 2, "W": 2, "B": 4}, {"Ta": 1, "B": 1}]
    expected = [replace(Request.for_sites(one, 191), formation_energy_ev_per_atom=-0.5) for one in counts]
    check(config, SYSTEM)
    for n in (2, 7):
        assert plan(config, SYSTEM, n, 0) == (expected * 3)[:n]
    assert [r.turn for r in in_turn(plan(config, SYSTEM, 7, 0), frozenset({"sites"}))] == [0, 0, 0, 1, 1, 1, 2]


def test_space_group_and_energy_are_asked_of_every_candidate() -> None:
    config = ConditionsConfig(spacegroup=194, formation_energy_ev_per_atom=-0.5)
    assert {(c.spacegroup, c.formation_energy_ev_per_atom) for c in plan(config, SYSTEM, 50, 0)} == {(194, -0.5)}


def test_a_request_survives_json_and_its_digest_tells_requests_apart() -> None:
    condition = Request.of({"W": 2, "B": 4, "Ta": 2}, 194, -0.3)
    assert condition.formula_counts == (("B", 4), ("Ta", 2), ("W", 2))
    assert condition.atomic_numbers == (5,) * 4 + (73,) * 2 + (74,) * 2
    assert condition.chemsys == "B-Ta-W"
    assert condition.reduced_formula == Composition("TaWB2").reduced_formula
    again = Request.from_json(condition.to_json())
    assert again == condition
    assert again.digest == condition.digest
    others = [Request.of({"W": 1, "B": 2, "Ta": 1}, 194, -0.3), Request.of({"W": 2, "B": 4, "Ta": 2}, 191, -0.3)]
    assert len({c.digest for c in [condition, *others]}) == 3


@pytest.mark.parametrize(
    ("elements", "limits", "said"),
    [
        ("Li Fe P O", {"n_elements_max": 3}, "no formula of all 4 elements Fe-Li-O-P is asked for, but of 3 of them"),
        ("Li Fe P O", {"n_elements_min": 2, "n_elements_max": 3}, "but of 2 to 3 of them at a time"),
        ("Li Fe P O S", {}, "but of 3 to 4 of them at a time, for conditions.n_elements_max is null, which is 4"),
        ("Li Fe P O", {}, ""),
        ("Li", {}, ""),
        ("Ta W B", {"n_elements_min": 2, "n_elements_max": 2}, "no formula of all 3 elements B-Ta-W"),
        ("Ta W B", {"n_elements_min": 2}, ""),
        ("Li Fe P O", {"n_elements_max": 4}, ""),
        ("Li Fe P O", {"policy": "given", "formulas": ["LiFeO2"]}, ""),
    ],
)
def test_a_limit_that_keeps_the_elements_apart_is_told(
    elements: str, limits: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = ConditionsConfig.model_validate(limits)
    check(config, elements.split())
    assert said in caplog.text if said else not caplog.text
    largest = max(len(request.content) for request in plan(config, elements.split(), 200, 0))
    assert ("at a time" in caplog.text) == (largest < len(elements.split()) and config.policy == "likely")


@pytest.mark.parametrize(
    ("formula", "limits", "cells"),
    [
        ("LiFePO4", {}, {7, 14, 21, 28}),
        ("TaB2", {}, {3, 6, 9, 12, 15}),
        ("Ta6B6W6", {}, {3, 6, 9, 12, 15, 18}),
        ("LiFePO4", {"n_atoms_max": 16}, {7, 14}),
        ("Ta20W11", {}, {31, 62}),
        ("Ta40W22", {"n_atoms_min": 40}, {62}),
    ],
)
def test_a_listed_formula_reaches_four_formula_units_and_what_is_written(
    formula: str, limits: dict[str, Any], cells: set[int], caplog: pytest.LogCaptureFixture
) -> None:
    config = ConditionsConfig.model_validate({"policy": "given", "formulas": [formula], **limits})
    elements = sorted(Composition(formula).get_el_amt_dict())
    check(config, elements)
    assert {request.n_atoms for request in plan(config, elements, 400, 0)} == cells
    assert not caplog.text


@pytest.mark.parametrize(("formula", "limits"), [("Ta40B80", {}), ("Ta4B8", {"n_atoms_max": 9})])
def test_a_written_cell_that_is_not_asked_for_is_told(
    formula: str, limits: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    check(ConditionsConfig.model_validate({"policy": "given", "formulas": [formula], **limits}), ["Ta", "B"])
    assert f"{int(Composition(formula).num_atoms)}: " in caplog.text
    assert "n_atoms_max" in caplog.text


def test_a_system_of_four_elements_is_asked_for_with_three_and_four_in_cells_of_up_to_28_atoms() -> None:
    asked = plan(ConditionsConfig(), ["Li", "Fe", "P", "O"], 400, 0)
    assert {len(request.content) for request in asked} == {3, 4}
    assert 28 in {request.n_atoms for request in asked if request.reduced_formula == "LiFePO4"}
    assert {request.n_atoms for request in plan(ConditionsConfig(), ["Li"], 400, 0)} <= set(range(2, 17))


def test_in_a_space_group_cells_that_it_cannot_hold_are_left_out_of_the_plan(caplog: pytest.LogCaptureFixture) -> None:
    free, bound = (
        ConditionsConfig(policy="enumerate", n_elements_min=2, n_atoms_max=9, spacegroup=group) for group in (None, 225)
    )
    cells = {c.formula_counts for c in plan(free, SYSTEM, 2000, 0)}
    kept = {c.formula_counts for c in plan(bound, SYSTEM, 2000, 0)}
    # Fm-3m: one atom on each of two positions, two on a third; six and more beyond. TaB5 and Ta3B2 fit on none of them.
    assert {"TaB", "TaB3", "TaB5"} - {_name(c) for c in kept} == {"TaB5"}
    assert {_name(c) for c in cells} >= {"TaB3", "TaB5"}
    assert kept == {c for c in cells if holds(225, [n for _, n in c])}
    assert f"{len(cells) - len(kept)} of {len(cells)} cells are left out of the plan" in caplog.text


def _name(cell: Formula) -> str:
    counts = dict(cell)
    return "".join(s + (str(counts[s]) if counts[s] > 1 else "") for s in SYSTEM if s in counts)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"policy": "given", "formulas": ("TaB", "TaB2"), "spacegroup": 19, "n_atoms_max": 6},
            "space group 19 can hold .*BTa in a cell of 2 to 6 atoms, .*: 8 atoms of BTa can, so change "
            "conditions.n_atoms_min, conditions.n_atoms_max",
        ),
        (
            {"policy": "given", "formulas": ("Ta11B10",), "spacegroup": 230, "n_atoms_max": 21},
            "no cell of up to 64 atoms can, so change conditions.spacegroup",
        ),
        (
            {"spacegroup": 230, "formula_atoms_max": 4},
            "space group 230 can hold any of 4 formulas, such as BTaW, in a cell of 2 to 16 atoms",
        ),
        (
            {"policy": "grid", "formulas": ("TaB",), "n_atoms_max": 3, "grid": GridConfig(spacegroups=(19, 61))},
            "no crystal of space group 19 can hold BTa",
        ),
    ],
)
def test_a_space_group_that_can_hold_nothing_asked_for_is_told_with_the_remedy(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(PlanError, match=words):
        check(ConditionsConfig(**settings), SYSTEM)
    with pytest.raises(PlanError, match=words):
        plan(ConditionsConfig(**settings), SYSTEM, 4, 0)


def test_a_grid_keeps_pairs_that_can_be_no_crystal_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    grid = GridConfig(spacegroups=(225, 19), n_energies=0)
    config = ConditionsConfig(policy="grid", formulas=("TaB", "TaB3"), n_atoms_max=4, grid=grid)
    asked = [(c.spacegroup, c.n_atoms) for c in plan(config, SYSTEM, 4, 0)]
    assert asked == [(225, 2), (225, 4), (19, 2), (19, 4)]
    assert "2 of the 4 pairs" in caplog.text


def test_likely_requests_come_in_descending_order_of_what_they_are_expected_to_yield() -> None:
    config = ConditionsConfig(policy="likely", n_elements_min=2, n_atoms_max=8)
    requests = plan(config, SYSTEM, 500, 0)
    assert plan(config, SYSTEM[::-1], 500, 7) == requests
    for n in (0, 1, 99):
        assert plan(config, SYSTEM, n, 0) == requests[:n]
    odds = CompositionOdds.load()
    chance: dict[Formula, float] = {}
    for symbols in (("B", "Ta"), ("B", "W"), ("Ta", "W"), ("B", "Ta", "W")):
        counts = candidates(len(symbols), 2, 8)
        log_p = odds.log_probabilities([Element(s).Z for s in symbols], counts)
        assert np.exp(log_p).sum() == pytest.approx(1)
        chance |= {
            tuple(zip(symbols, row, strict=True)): math.exp(p) for row, p in zip(counts.tolist(), log_p, strict=True)
        }
    seen: Counter[Formula] = Counter()
    worth = []
    for request in requests:
        t = seen[request.formula_counts]
        worth.append(chance[request.formula_counts] * (RIGHT_AT[t] if t < 5 else RIGHT_AT[4] * 25 / (t + 1) ** 2))
        seen[request.formula_counts] += 1
    assert all(a >= b * (1 - 1e-9) for a, b in itertools.pairwise(worth))
    missed = [p for cell, p in chance.items() if not seen[cell]]
    assert max(missed) * RIGHT_AT[0] <= worth[-1] * (1 + 1e-9)
    # All four sets of elements are asked for, and no cell has it all.
    assert len({tuple(s for s, _ in cell) for cell in seen}) == 4
    assert max(seen.values()) < 50


def test_likely_keeps_to_the_limits_of_enumerate() -> None:
    limits = {"n_atoms_min": 3, "n_atoms_max": 9, "formula_atoms_max": 5, "smact_filter": True, "spacegroup": 63}
    likely, enumerated = (
        {c.formula_counts for c in plan(ConditionsConfig(policy=policy, **limits), ("Al", "Ti", "N"), 3000, 0)}
        for policy in ("likely", "enumerate")
    )
    assert likely == enumerated


def test_a_turn_counts_what_a_generator_cannot_tell_apart_and_is_no_part_of_a_request() -> None:
    plan = [Request.of({"W": 1, "B": 1}, group, energy) for group in (194, None) for energy in (-0.1, -0.2, -0.1)]
    assert [r.turn for r in in_turn(plan, frozenset({"composition"}))] == [0, 1, 2, 3, 4, 5]
    assert [r.turn for r in in_turn(plan, frozenset({"composition", "spacegroup"}))] == [0, 1, 2, 0, 1, 2]
    everything = in_turn(plan, frozenset({"composition", "spacegroup", "formation_energy_ev_per_atom"}))
    assert [r.turn for r in everything] == [0, 0, 1, 0, 0, 1]
    for turned, request in zip(everything, plan, strict=True):
        assert (turned, hash(turned), turned.digest) == (request, hash(request), request.digest)
        assert turned.to_json() == request.to_json()


@pytest.mark.parametrize("counts", [(("W", 1), ("B", 1)), (("Xx", 1),), (("B", 0),), (("B", 1), ("B", 2))])
def test_a_request_with_impossible_counts_is_refused(counts: Formula) -> None:
    with pytest.raises(ValueError, match="expected"):
        Request(counts)


def random_request(rng: np.random.Generator) -> Request:
    """Of any kind: a cell, sites in a group, a chemical system, or nothing; with or without properties."""
    symbols = [str(s) for s in rng.choice(["H", "B", "O", "Ti", "Ta", "W", "Lr"], rng.integers(1, 5), replace=False)]
    counts = {symbol: int(rng.integers(1, 30)) for symbol in symbols}
    targets = {name: float(rng.normal()) for name in ("band_gap_ev", "work_function_ev") if rng.random() < 0.4}
    further = tuple(sorted(targets.items()))
    energy = float(rng.normal()) if rng.random() < 0.5 else None
    group = int(rng.integers(1, 231)) if rng.random() < 0.5 else None
    kind = rng.integers(4)
    if kind == 0:
        return Request.of(counts, group, energy, targets)
    if kind == 1:
        sites = Request.for_sites(counts, int(rng.integers(1, 231)))
        return replace(sites, formation_energy_ev_per_atom=energy, targets=further)
    if kind == 2:
        elements = tuple(sorted(symbols, key=lambda s: Element(s).Z))
        return Request(spacegroup=group, formation_energy_ev_per_atom=energy, elements=elements, targets=further)
    return Request(spacegroup=group, formation_energy_ev_per_atom=energy, targets=further)


def test_requests_of_every_kind_survive_json_and_no_two_share_a_digest() -> None:
    rng = np.random.default_rng(0)
    requests = [random_request(rng) for _ in range(400)]
    again = [Request.from_json(request.to_json()) for request in requests]
    assert again == requests
    assert [r.digest for r in again] == [r.digest for r in requests]
    assert len({r.digest for r in requests}) == len(set(requests))
    for request in requests:
        named = dict(request.formula_counts) or dict(request.sites) or dict.fromkeys(request.elements)
        assert request.chemsys == "-".join(sorted(named))
        asked = {"composition"} if request.formula_counts else {"sites"} if request.sites else set()
        asked |= ({"elements"} if request.elements else set()) | ({"spacegroup"} if request.spacegroup else set())
        assert request.asks == asked | set(request.all_targets)
        assert len(request.atomic_numbers) == request.n_atoms == sum(n for _, n in request.formula_counts)
        assert [Element.from_Z(z).symbol for z, _ in request.content] == [s for s, _ in request.formula_counts]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"formula_counts": (("O", 1),), "elements": ("O",)}, "formula_counts and elements are both given"),
        ({"sites": (("O", 1),)}, "in no space group"),
        ({"elements": ("W", "B")}, "ordered by atomic number"),
        ({"elements": ("Xx",)}, "not a chemical element"),
        ({"spacegroup": 231}, "run from 1 to 230"),
        ({"targets": (("b", 1.0), ("a", 1.0))}, "in order"),
        ({"targets": (("formation_energy_ev_per_atom", 1.0),)}, "no formation_energy_ev_per_atom"),
        ({"targets": (("band_gap_ev", float("nan")),)}, "expected a finite number"),
        ({"formation_energy_ev_per_atom": float("inf")}, "expected a finite number"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Request(**wrong)


def test_atoms_in_any_order_are_one_request_and_no_element_beyond_the_table_is() -> None:
    assert Request.for_atoms([74, 5, 73, 5]) == Request.of({"W": 1, "B": 2, "Ta": 1})
    assert Request.for_atoms([]) == Request()
    for z in (0, 104, -1):
        with pytest.raises(ValueError, match=f"{z} is no atomic number"):
            Request.for_atoms([z])


def test_a_grid_asks_every_formula_in_every_group_at_every_energy_from_the_hull_down() -> None:
    grid = GridConfig(spacegroups=(225, 12), energy_step_ev_per_atom=-0.1, n_energies=3, energy_offset_ev_per_atom=0.05)
    config = ConditionsConfig(policy="grid", formulas=("TaB2", "Ta2BW"), n_atoms_min=5, n_atoms_max=16, grid=grid)
    hull = {"TaB2": -0.6, "Ta2BW": -0.4}
    asked = plan(config, SYSTEM, 12, 0, hull_ev_per_atom=hull)
    expected = {
        (formula, group, round(hull[formula] + 0.05 - 0.1 * step, 6))
        for formula in hull
        for group in (225, 12)
        for step in range(3)
    }
    assert {(c.reduced_formula, c.spacegroup, c.formation_energy_ev_per_atom) for c in asked} == expected
    assert {c.reduced_formula: c.n_atoms for c in asked} == {"TaB2": 6, "Ta2BW": 8}  # the smallest cells in the limits
    assert plan(config, SYSTEM, 30, 7, hull_ev_per_atom=hull)[:24] == asked * 2
    with pytest.raises(PlanError, match="give no hull at Ta2BW: name an energy"):
        plan(config, SYSTEM, 12, 0, hull_ev_per_atom={"TaB2": -0.6})
    free = config.model_copy(update={"grid": GridConfig(n_energies=0)})
    assert {(c.spacegroup, c.formation_energy_ev_per_atom) for c in plan(free, SYSTEM, 4, 0)} == {(None, None)}


def test_further_numbers_are_asked_of_every_request_of_a_plan_and_leave_the_rest_as_it_is() -> None:
    settings = {"policy": "given", "formulas": ["TaB2", "WB"], "formation_energy_ev_per_atom": -0.5}
    bare = plan(ConditionsConfig(**settings), ["Ta", "W", "B"], 6, 0)
    told = plan(ConditionsConfig(**settings, targets=("work_function=4.5", "band_gap_ev=1.5")), ["Ta", "W", "B"], 6, 0)
    assert [replace(r, targets=()) for r in told] == bare
    assert all(r.targets == (("band_gap_ev", 1.5), ("work_function", 4.5)) for r in told)
    with pytest.raises(ValueError, match=r"'band_gap_ev': expected a column and a number"):
        ConditionsConfig(targets=("band_gap_ev",))
    with pytest.raises(ValueError, match="a setting of its own"):
        ConditionsConfig(targets=("formation_energy_ev_per_atom=-1",))


def test_an_open_plan_asks_for_no_composition() -> None:
    asked = plan(ConditionsConfig(policy="open", targets=("band_gap_ev=1.5",)), ["Ga", "Se"], 3, 0)
    assert asked == [Request(targets=(("band_gap_ev", 1.5),))] * 3
    assert asked[0].asks == {"band_gap_ev"}
