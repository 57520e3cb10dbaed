"""Names of points lie apart, and what has no room in a hull's picture is counted: against brute force."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from tasks.report.hull_geometry import named_phases, placed_candidates, shown_hull
from tasks.report.hull_interactive import hull_figures
from tasks.report.hull_space import seen_px
from tasks.report.label_places import label_offsets, label_size_px
from tasks.report.run.model import HullData, HullPhase, ReportInputs


@pytest.mark.parametrize("seed", range(6))
def test_no_name_covers_another_even_where_points_crowd(seed: int) -> None:
    rng = np.random.default_rng(seed)
    anchors = rng.uniform(0, 260, (24, 2)) * (1.0, 0.4)
    sizes = np.array([label_size_px(f"Ti{n}Al{m}", 12.0) for n, m in rng.integers(1, 9, (24, 2))])
    middles = anchors + label_offsets(anchors, sizes, anchors, 12.0)
    for i, j in itertools.combinations(range(24), 2):
        assert np.any(np.abs(middles[i] - middles[j]) >= (sizes[i] + sizes[j]) / 2 - 1e-9), (i, j)


def far_phases(n: int, origin: str, height: float) -> tuple[HullPhase, ...]:
    return tuple(
        HullPhase(
            id=f"{origin}:{height}-{i}", formula="TiAlN", fractions={"Ti": 1 / 3, "Al": 1 / 3, "N": 1 / 3},
            stable=False, formation_energy_ev_per_atom=height - 1.2, e_above_hull_ev_per_atom=height, origin=origin,
        )
        for i in range(n)
    )  # fmt: skip


def test_prototypes_far_above_the_hull_take_no_room_and_are_counted(inputs: ReportInputs) -> None:
    far = (*far_phases(7, "prototype", 4.0), *far_phases(2, "reported", 3.0), *far_phases(1, "prototype", 0.05))
    hull = dataclasses.replace(inputs.hull, phases=(*inputs.hull.phases, *far))
    shown = shown_hull(hull, placed_candidates(inputs.candidates, hull))
    drawn = {phase.id for phase in shown.hull.phases}
    assert {p.id for p in hull.phases if p.stable or p.e_above_hull_ev_per_atom < 0.1} <= drawn
    assert not {p.id for p in far if p.e_above_hull_ev_per_atom > 1} & drawn
    n_known = sum(p.e_above_hull_ev_per_atom > 0.5 and p.origin != "prototype" for p in hull.phases)
    assert n_known >= 2
    assert "7 prototypes by more than 0.1 eV/atom" in shown.left_out
    assert f"{n_known} known phases by more than 0.5 eV/atom" in shown.left_out
    space = hull_figures(hull, inputs.candidates)["space"]
    low, high = space["layout"]["scene"]["zaxis"]["range"]
    deepest = min(p.formation_energy_ev_per_atom for p in hull.phases)
    assert low < deepest
    assert high < 1
    assert shown.left_out in str(space["layout"]["annotations"])


def test_the_best_candidates_have_room_whatever_their_height(inputs: ReportInputs) -> None:
    high = tuple(
        dataclasses.replace(c, e_above_hull_ev_per_atom=2.0 + c.rank, formation_energy_ev_per_atom=1.0 + c.rank)
        for c in inputs.candidates
    )
    shown = shown_hull(inputs.hull, placed_candidates(high, inputs.hull))
    assert sorted(p.candidate.rank for p in shown.placed) == list(range(1, 11))


def test_four_elements_have_a_tetrahedron_with_every_stable_compound_named() -> None:
    elements = ("Li", "Fe", "P", "O")
    parts = [("Li",), ("Fe",), ("P",), ("O",), ("Li", "O"), ("Fe", "P", "O"), ("Li", "Fe", "P", "O")]
    phases = tuple(
        HullPhase(
            id=f"x:{i}", formula="".join(one), fractions={e: 1 / len(one) for e in one}, stable=True,
            formation_energy_ev_per_atom=-0.5 * (len(one) - 1), e_above_hull_ev_per_atom=0.0,
        )
        for i, one in enumerate(parts)
    )  # fmt: skip
    hull = HullData(elements=elements, phases=phases)
    space = hull_figures(hull, ())["space"]
    assert {note["text"] for note in space["layout"]["scene"]["annotations"]} == {"".join(one) for one in parts}
    corners = {note["text"]: np.array([note[a] for a in "xyz"]) for note in space["layout"]["scene"]["annotations"]}
    for a, b in itertools.combinations(elements, 2):
        assert np.linalg.norm(corners[a] - corners[b]) == pytest.approx(1, abs=1e-4)
    assert corners["LiFePO"] == pytest.approx(np.mean([corners[e] for e in elements], axis=0), abs=1e-4)
    assert len(named_phases(hull)) == 3


def test_what_is_nearer_to_the_eye_is_seen_larger_and_up_is_up() -> None:
    ranges, box = np.array([[0.0, 1.0]] * 3), np.ones(3)
    near = seen_px(np.array([[0.2, 0.0, 0.5], [0.8, 0.0, 0.5]]), ranges, box)
    far = seen_px(np.array([[0.2, 1.0, 0.5], [0.8, 1.0, 0.5]]), ranges, box)
    assert near[1, 0] - near[0, 0] > far[1, 0] - far[0, 0] > 0
    low, high = seen_px(np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 1.0]]), ranges, box)
    assert high[1] > low[1]
