"""Which phases compete: what can touch the hull is never cut, and what a cut may mean is stated."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core.composition import Composition
from scipy.optimize import linprog

from generative.datasets.competing import ABOVE, FORMATION, TOTAL, choose, choose_for_systems
from generative.datasets.cut import REORDERED_WITHIN_EV_PER_ATOM, Cut
from generative.datasets.lower_hull import heights_above_lower_hull

SYMBOLS = ("Al", "B", "N", "Ti")
COLUMNS = {"id": pa.string(), "formula": pa.string(), "method": pa.string(), "run_type": pa.string()}
COLUMNS |= dict.fromkeys((FORMATION, ABOVE, TOTAL), pa.float64())


def table_of(*rows: dict[str, Any]) -> pa.Table:
    """A dataset's columns that a choice reads; ids are row numbers unless given, the method is 'PBE'."""
    named = [{"id": f"r{number}", "method": "PBE", **row} for number, row in enumerate(rows)]
    return pa.table({name: pa.array([row.get(name) for row in named], kind) for name, kind in COLUMNS.items()})


def formation(**energies: float) -> list[dict[str, Any]]:
    return [{"id": name, "formula": name.split("_")[0], FORMATION: energy} for name, energy in energies.items()]


def chosen(table: pa.Table, most: int) -> list[str]:
    ids = table.column("id").to_pylist()
    return [ids[row] for row in choose(table, most).rows]


def hull_at(x: np.ndarray, fractions: np.ndarray, energies: np.ndarray) -> float:
    """The lowest energy of a mixture of these phases at a composition, by one linear program over all of them."""
    if not len(energies):
        return np.inf
    solved = linprog(energies, A_eq=fractions.T, b_eq=x)
    return float(solved.fun) if solved.status == 0 else np.inf


def random_compositions(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    counts = np.zeros((n, k))
    for row in counts:
        axes = rng.choice(k, rng.integers(1, k + 1), replace=False)
        row[axes] = rng.integers(1, 4, len(axes))
    return counts


def lowered_at_most(cut: Cut, error_ev_per_atom: float = 0.0) -> float:
    """By how much the phases left out can lower the hull anywhere, eV/atom, where the potential's energies differ from
    the stated ones by so much at most; infinite if nothing bounds it."""
    if cut.n_unstated or cut.n_unbound:
        return np.inf
    return 0.0 if cut.nearest_ev_per_atom is None else max(0.0, 2 * error_ev_per_atom - cut.nearest_ev_per_atom)


@pytest.mark.parametrize("seed", range(12))
def test_heights_are_those_of_a_linear_program_over_all_points(seed: int) -> None:
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, 6))
    counts = random_compositions(rng, 60, k)
    counts = counts[counts.sum(1) > rng.integers(1, 3)]  # half of the sets lack the elements
    fractions = counts / counts.sum(1, keepdims=True)
    energies = rng.normal(-20, 1, len(fractions)) + fractions @ rng.normal(0, 50, k)
    if seed % 2:
        energies = np.round(energies)  # many ties, and many points on one plane
    heights = heights_above_lower_hull(fractions, energies)
    below = [energies[i] - hull_at(fractions[i], fractions, energies) for i in range(len(fractions))]
    np.testing.assert_allclose(heights, below, atol=1e-7)
    assert (heights >= 0).all()
    order = rng.permutation(len(fractions))
    np.testing.assert_allclose(heights_above_lower_hull(fractions[order], energies[order]), heights[order], atol=1e-9)


def test_heights_are_those_of_pymatgens_phase_diagram() -> None:
    rng = np.random.default_rng(1)
    counts = np.vstack([np.eye(4), random_compositions(rng, 120, 4)])
    energies = rng.normal(-5, 0.5, len(counts))
    entries = [
        PDEntry(Composition(dict(zip(SYMBOLS, row, strict=True))), energy * row.sum())
        for row, energy in zip(counts, energies, strict=True)
    ]
    diagram = PhaseDiagram(entries)
    heights = heights_above_lower_hull(counts / counts.sum(1, keepdims=True), energies)
    np.testing.assert_allclose(heights, [diagram.get_e_above_hull(entry) for entry in entries], atol=1e-8)


@pytest.mark.parametrize(
    ("fractions", "energies", "expected"),
    [
        (np.zeros((0, 3)), [], []),
        ([[1.0]], [-3.0], [0.0]),
        ([[1.0], [1.0], [1.0]], [-3.0, -2.5, -3.0], [0.0, 0.5, 0.0]),
        ([[0.5, 0.5, 0.0]] * 2, [1e6, -1e6], [2e6, 0.0]),
        ([[0.5, 0.5], [0.4, 0.6], [0.2, 0.8]], [0.0, 5.0, 0.0], [0.0, 5.0, 0.0]),
    ],
    ids=["nothing", "one element", "polymorphs", "one compound", "a tie line without elements"],
)
def test_heights_of_points_that_span_no_volume(fractions: Any, energies: Any, expected: Any) -> None:
    found = heights_above_lower_hull(np.array(fractions), np.array(energies, dtype=float))
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_a_stable_phase_stays_whatever_its_name() -> None:
    others = {f"Al{a}Ti{t}N{n}": 0.3 + 0.01 * n for a in range(1, 5) for t in range(3) for n in (5, 7)}
    rows = formation(Al=0.0, Ti=0.0, N=0.0, TiN=-1.89, AlN=-1.6, AlN7=0.2, Zr0=0.0) + formation(**others)
    table = table_of(*(row for row in rows if row["formula"] != "Zr0"))
    assert len(table) > 25
    for most in (1, 5, 6, 20):
        assert set(chosen(table, most)[:5]) == {"Al", "Ti", "N", "TiN", "AlN"}
        assert len(chosen(table, most)) == max(5, most)
    assert chosen(table, 6)[5] == "AlN7"
    cut = choose(table, 6).cut
    assert cut.n_cut == len(table) - 6
    assert not cut.could_lie_on_hull


def test_total_energies_order_where_nothing_else_is_stated_and_unlike_levels_never_do() -> None:
    energies = {"mp-1": -8.0, "mp-2": -9.0, "mp-3": -8.5, "mp-4": -9.5}
    rows: list[dict[str, Any]] = [{"id": name, "formula": "MgO", TOTAL: e} for name, e in energies.items()]
    assert chosen(table_of(*rows), 2) == ["mp-4", "mp-2"]
    r2scan = [{"id": "other-1", "formula": "MgO", "run_type": "R2SCAN", TOTAL: -20.0}]
    r2scan += [{"id": "other-2", "formula": "MgO", "run_type": "R2SCAN", TOTAL: -19.9}]
    assert chosen(table_of(*rows, *r2scan), 3) == ["mp-4", "other-1", "other-2"]  # 0, 0 and 0.1 above its own


def test_a_formation_energy_and_a_total_energy_share_no_order() -> None:
    rows = formation(Al=0.0, N=0.0, AlN=-1.6, AlN_b=-1.5)
    rows += [{"id": name, "formula": "AlN", TOTAL: e} for name, e in (("t1", -9.0), ("t2", -8.8))]
    assert set(chosen(table_of(*rows), 1)) == {"Al", "N", "AlN", "t1"}
    assert chosen(table_of(*rows), 5)[4:] == ["AlN_b"]  # 0.1 above its hull, t2 0.2 above its own


def test_elements_without_a_row_stand_at_zero_and_those_with_one_elsewhere_at_their_own_height() -> None:
    compounds = formation(TiN=-1.0, Ti3N=0.3)
    assert chosen(table_of(*compounds, *formation(Ti2N=0.2)), 1) == ["TiN"]
    titanium = {"id": "Ti", "formula": "Ti", "method": "M3GNet", FORMATION: 2.0}  # its ground state is not here
    for stated in (titanium, titanium | {FORMATION: None, TOTAL: -8.0}):
        assert set(chosen(table_of(*compounds, stated), 1)) == {"Ti", "TiN", "Ti3N"}


def test_a_stated_distance_becomes_a_formation_energy_where_the_databases_hull_is_known() -> None:
    rows = formation(Al=0.0, N=0.0, AlN=-1.5)
    rows[2][ABOVE] = 0.1  # so its database's hull lies at -1.6 there
    rows += [{"id": "AlN_b", "formula": "AlN", ABOVE: 0.0}, {"id": "Al_b", "formula": "Al", ABOVE: 0.4}]
    choice = choose(table_of(*rows), 3)
    assert {rows[row]["id"] for row in choice.rows} == {"Al", "N", "AlN_b"}
    assert lowered_at_most(choice.cut) == 0
    assert choice.cut.nearest_ev_per_atom == pytest.approx(0.1)


def test_a_distance_above_a_hull_that_may_not_be_here_bounds_nothing() -> None:
    rows = [{"formula": f"Al{n}N", ABOVE: 0.2 * n} for n in range(5)][1:] + [{"formula": "Al4N", ABOVE: 2.0}]
    cut = choose(table_of(*rows, *formation(Al=0.0, N=0.0)), 4).cut
    assert (cut.n_cut, cut.n_unbound, cut.n_unstated) == (3, 2, 0)  # the second Al4N lies above the first
    assert cut.could_lie_on_hull
    assert lowered_at_most(cut) == np.inf


def test_rows_without_energies_come_before_what_lies_far_above_elements_first_in_rounds() -> None:
    rows = formation(Al=0.0, Ti=0.0, AlTi=-0.4, AlTi_b=-0.35, AlTi3=0.5)
    rows += [{"id": f"u{n}", "formula": formula} for n, formula in enumerate(["TiN", "TiN", "AlN", "N", "N"])]
    rows[0][FORMATION], rows[0][ABOVE] = float("nan"), float("inf")  # no more than a word: Al is without an energy
    order = chosen(table_of(*rows), 9)
    assert set(order[:4]) == {"Al", "AlTi", "Ti", "u3"}
    assert order[4:] == ["AlTi_b", "u4", "u2", "u0", "u1"]
    cut = choose(table_of(*rows), 8).cut
    assert (cut.n_unstated, cut.could_lie_on_hull) == (1, True)
    assert "1 of them has no stated energy and could lie on the hull" in cut.note


def test_the_rows_order_in_the_table_chooses_nothing() -> None:
    rng = np.random.default_rng(5)
    table, _ = random_table(rng)
    most = len(table) // 2
    ids = chosen(table, most)
    shuffled = table.take(pa.array(rng.permutation(len(table))))
    assert chosen(shuffled, most) == ids


def test_what_lies_nearer_than_the_potentials_error_could_lie_on_its_hull() -> None:
    rows = formation(Al=0.0, N=0.0, AlN=-1.6, AlN_b=-1.55, AlN_c=-1.2)
    cut = choose(table_of(*rows), 3).cut
    assert (cut.n_near, cut.could_lie_on_hull) == (1, True)
    assert cut.nearest_ev_per_atom == pytest.approx(0.05)
    assert f"1 of them lies within {REORDERED_WITHIN_EV_PER_ATOM:g} eV/atom" in cut.note
    far = choose(table_of(*rows), 4).cut
    assert not far.could_lie_on_hull
    assert far.note == (
        "1 of 5 competing phases was left out of the hull (hull.references_max 4); the nearest of them lies 0.400 "
        "eV/atom above it as stated."
    )
    assert Cut.from_dict(json.loads(json.dumps(far.as_dict()))) == far
    assert choose(table_of(*rows), 5).cut.note == ""
    assert "More phases than hull.references_max 2 lie on the hull" in choose(table_of(*rows), 2).cut.note


def test_a_phase_that_one_system_keeps_is_not_cut() -> None:
    rows = formation(Al=0.0, N=0.0, Ti=0.0, AlN=-1.6, AlN_b=-1.3, TiN=-1.9, AlTi=0.4)
    table = table_of(*rows)
    choice = choose_for_systems(table, [("Al", "N"), ("N", "Ti"), ("Al", "N", "Ti")], 4)
    ids = [table.column("id")[row].as_py() for row in choice.rows]
    assert ids == ["Al", "N", "Ti", "AlN", "AlN_b", "TiN"]
    assert (choice.cut.n_phases, choice.cut.n_cut, choice.cut.n_systems) == (7, 1, 3)
    assert choose_for_systems(table, [("Ti",), ("B",)], 4).cut.n_phases == 1


def random_table(rng: np.random.Generator) -> tuple[pa.Table, np.ndarray]:
    """A dataset as it comes: several levels, quantities and missing values; and the energies behind it, eV/atom."""
    k = int(rng.integers(1, 5))
    counts = random_compositions(rng, int(rng.integers(8, 40)), k)
    fractions = counts / counts.sum(1, keepdims=True)
    mixing = rng.uniform(0, 2) * (1 - (fractions**2).sum(1))
    energies = rng.exponential(0.3, len(counts)) - mixing
    if rng.random() < 0.5:
        energies = np.round(energies, 1)  # ties
    elemental = (fractions == 1).any(1)
    energies[elemental] = np.abs(energies[elemental])  # heights of polymorphs; a ground state may be missing
    hidden = np.zeros(k) if rng.random() < 0.7 else rng.uniform(-1, 0, k)
    corners, depth = np.eye(k), np.full((1, k), 1 / k)
    database = np.vstack([fractions, corners, depth]), np.concatenate([energies, np.zeros(k), [hidden.sum()]])
    above = heights_above_lower_hull(*database)
    levels = int(rng.integers(1, 4))
    shift = rng.normal(-5, 3, (levels, k))
    stated = rng.random((len(counts), 3)) < rng.choice([0.4, 0.9, 1.0], 3)
    everything = rng.random() < 0.5
    rows: list[dict[str, Any]] = []
    for number, (count, x, energy) in enumerate(zip(counts, fractions, energies, strict=True)):
        level = int(rng.integers(levels))
        row: dict[str, Any] = {"method": ["PBE", "PBE", "M3GNet"][level], "run_type": [None, "GGA+U", None][level]}
        row["formula"] = Composition(dict(zip(SYMBOLS, count, strict=False))).reduced_formula
        row["id"] = f"{row['formula']}-{number}"
        total = energy + x @ shift[level]
        values = energy, above[number], total
        for name, value, given in zip((FORMATION, ABOVE, TOTAL), values, stated[number], strict=True):
            row[name] = float(value) if given else [None, float("nan")][int(rng.integers(2))]
        if everything and not stated[number].any():
            row[TOTAL] = float(total)
        rows.append(row)
    return table_of(*rows), np.column_stack([fractions, energies])


def lowering(known: np.ndarray, kept: list[int], candidate: np.ndarray) -> float:
    """By how much a candidate's energy above the hull of all phases exceeds that above the hull of those kept.

    A candidate has a place where every element of it has a phase; it must then have one among those kept as well.
    """
    fractions, energies = known[:, :-1], known[:, -1]
    inside = np.flatnonzero((fractions[:, candidate == 0] == 0).all(1))
    if any(not (fractions[inside, axis] == 1).any() for axis in np.flatnonzero(candidate)):
        return 0.0
    both = [hull_at(candidate, fractions[rows], energies[rows]) for rows in (sorted({*inside} & {*kept}), inside)]
    return both[0] - both[1]


@pytest.mark.parametrize("first_seed", range(0, 200, 50))
def test_no_candidates_energy_above_hull_is_lower_than_with_all_phases_by_more_than_the_cut_states(
    first_seed: int,
) -> None:
    bounded = 0
    for seed in range(first_seed, first_seed + 50):
        rng = np.random.default_rng(seed)
        table, known = random_table(rng)
        most = int(rng.integers(1, len(table)))
        choice = choose(table, most)
        kept, cut = list(choice.rows), choice.cut
        left_out = sorted(set(range(len(table))) - set(kept))
        assert len(left_out) == cut.n_cut
        assert len(kept) == most or len(kept) == cut.most_kept > most
        if not left_out:
            continue
        error = float(rng.choice([0.0, 0.0, 0.05, 0.3]))
        potential = known.copy()  # of another level: its own energies of the elements, and its own errors
        potential[:, -1] += known[:, :-1] @ rng.normal(-5, 3, known.shape[1] - 1)
        potential[:, -1] += rng.uniform(-error, error, len(known))
        bound = lowered_at_most(cut, error)
        bounded += np.isfinite(bound)
        # The two hulls differ most at phases that were left out; any other composition is met as well.
        compositions = [known[row, :-1] for row in rng.permutation(left_out)[:3]]
        compositions.append(rng.dirichlet(np.ones(known.shape[1] - 1)))
        for candidate in compositions:
            assert lowering(potential, kept, candidate) <= bound + 1e-6, f"seed {seed}"
    assert bounded > 10


def test_the_property_is_broken_by_an_alphabetic_cut() -> None:
    broken = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        table, known = random_table(rng)
        names = table.column("id").to_pylist()
        kept = sorted(range(len(names)), key=lambda row: names[row])[: len(names) // 2]
        left_out = sorted(set(range(len(names))) - set(kept))
        broken += any(lowering(known, kept, known[row, :-1]) > 1e-6 for row in left_out[:5])
    assert broken > 10
