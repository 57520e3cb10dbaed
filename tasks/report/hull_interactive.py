"""The convex hull as plotly figures: plain JSON dictionaries, so that building a page imports no plotting library."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.report.figure_layout import (
    FLAT_LEGEND,
    INK,
    PLOT_PX,
    Figure,
    corner_note,
    figure_axis,
    figure_layout,
    names_apart,
    text_note,
)
from tasks.report.hull_geometry import (
    TRIANGLE,
    FloatArray,
    PlacedCandidate,
    ShownHull,
    lower_facets,
    named_phases,
    phase_arrays,
    placed_candidates,
    shown_hull,
    tie_lines,
    triangle_xy,
)
from tasks.report.hull_space import tetrahedron, triangle_with_energies
from tasks.report.hull_traces import best_per_composition, candidate_traces, html_formula, line_trace, phase_traces
from tasks.report.run.model import HullData, HullPhase, ReportCandidate


def hull_figures(hull: HullData, candidates: Sequence[ReportCandidate]) -> dict[str, Figure]:
    """The hull's interactive figures by name, as plotly JSON.

    Args:
        hull: competing phases.
        candidates: those without hull numbers are left out.
    Returns: 'plane' always (a line, a triangle, or a scatter, by the number of elements); 'space' besides for three
        elements, the triangle with formation energy as height, and for four, the tetrahedron of compositions.
    Raises: ValueError: if a phase lies outside the system.
    """
    placed = placed_candidates(candidates, hull)
    if len(hull.elements) == 2:
        return {"plane": _binary(hull, placed)}
    if len(hull.elements) == 3:
        return {"plane": _triangle(hull, placed), "space": triangle_with_energies(hull, placed)}
    if len(hull.elements) == 4:
        return {"plane": _scatter(hull, placed), "space": tetrahedron(hull, placed)}
    return {"plane": _scatter(hull, placed)}


def _triangle(hull: HullData, placed: Sequence[PlacedCandidate]) -> Figure:
    fractions, energies = phase_arrays(hull.phases, hull.elements)
    xy = triangle_xy(fractions)
    frame = line_trace(TRIANGLE, [(0, 1), (1, 2), (0, 2)], solid=False)
    ties = line_trace(xy, tie_lines(lower_facets(fractions, energies)), solid=False)
    best, texts = best_per_composition(placed)
    spots = triangle_xy(np.array([p.fractions for p in best])) if best else np.empty((0, 2))
    corners = ((-0.03, -0.03, "right"), (1.03, -0.03, "left"), (0.5, 0.92, "center"))
    notes = [
        text_note(x, y, f"<b>{symbol}</b>", xanchor=align, font={"size": 18, "color": INK})
        for (x, y, align), symbol in zip(corners, hull.elements, strict=True)
    ]
    px = (PLOT_PX[1] - 20.0) / 1.08  # a unit of the axes: 1.08 of them stand between margins of 10
    compounds = named_phases(hull)
    anchors = triangle_xy(phase_arrays(compounds, hull.elements)[0])
    taken = [np.array([[x - 0.06, y - 0.04], [x + 0.06, y + 0.04]]) * px for x, y, _ in corners]
    notes += names_apart(
        [{"x": round(float(x), 5), "y": round(float(y), 5)} for x, y in anchors],
        [html_formula(p.formula) for p in compounds], [p.formula for p in compounds],
        anchors * px, np.vstack([xy, spots]) * px, taken,
    )  # fmt: skip
    hidden = {"visible": False, "fixedrange": False}
    layout = figure_layout(
        xaxis={**hidden, "range": [-0.12, 1.12]},
        yaxis={**hidden, "range": [-0.1, 0.98], "scaleanchor": "x"},
        annotations=notes,
    )
    return {
        "data": frame + ties + phase_traces(xy, hull.phases, False) + candidate_traces(spots, best, False, texts),
        "layout": layout,
    }


def _binary(hull: HullData, placed: Sequence[PlacedCandidate]) -> Figure:
    shown = shown_hull(hull, placed)
    fractions, energies = phase_arrays(shown.hull.phases, hull.elements)
    xy = np.column_stack([fractions[:, 1], energies])
    spots = np.array([[p.fractions[1], p.formation_energy_ev_per_atom] for p in shown.placed]).reshape(-1, 2)
    first, second = hull.elements
    compounds = named_phases(hull)
    anchors = np.column_stack([(both := phase_arrays(compounds, hull.elements))[0][:, 1], both[1]])
    named = (f"atomic fraction of {second} in {first}–{second}", "formation energy (eV/atom)")
    ties = line_trace(xy, tie_lines(lower_facets(fractions, energies)), False, 1.6)
    return _graph(shown, xy, spots, anchors, compounds, named, ties, (-0.04, 1.04))


def _scatter(hull: HullData, placed: Sequence[PlacedCandidate]) -> Figure:
    shown = shown_hull(hull, placed)

    def points(of: Sequence[HullPhase | PlacedCandidate]) -> FloatArray:
        return np.array([[p.formation_energy_ev_per_atom, p.e_above_hull_ev_per_atom] for p in of]).reshape(-1, 2)

    compounds = named_phases(hull)
    xy, spots = points(shown.hull.phases), points(shown.placed)
    named = ("formation energy (eV/atom)", "energy above hull (eV/atom)")
    return _graph(shown, xy, spots, points(compounds), compounds, named, [], None)


def _graph(
    shown: ShownHull,
    xy: FloatArray,
    spots: FloatArray,
    anchors: FloatArray,
    compounds: Sequence[HullPhase],
    named: tuple[str, str],
    ties: Sequence[Figure],
    x_range: tuple[float, float] | None,
) -> Figure:
    """Phases at xy (n, 2) and candidates at spots (m, 2) on two axes of these names."""  # fmt: skip
    dots = np.vstack([xy, spots, [[0.0, 0.0]]])
    low, high = dots.min(axis=0), dots.max(axis=0)
    room = np.maximum(high - low, 0.05) * ((0.05, 0.12), (0.05, 0.06))
    (left, bottom), (right, top) = low - room[0], high + room[1]
    if x_range is not None:
        left, right = x_range
    px = np.array([PLOT_PX[0] - 170.0, PLOT_PX[1] - 95.0]) / (right - left, top - bottom)
    layout = figure_layout(
        xaxis=figure_axis(named[0], range=[round(float(left), 4), round(float(right), 4)]),
        yaxis=figure_axis(named[1], range=[round(float(bottom), 4), round(float(top), 4)]),
        annotations=names_apart(
            [{"x": round(float(x), 5), "y": round(float(y), 5)} for x, y in anchors],
            [html_formula(p.formula) for p in compounds], [p.formula for p in compounds], anchors * px, dots * px,
        ) + corner_note(shown.left_out),
        legend=FLAT_LEGEND,
        margin={"l": 10, "r": 10, "t": 40, "b": 10},
    )  # fmt: skip
    data = [*ties, *phase_traces(xy, shown.hull.phases, False), *candidate_traces(spots, shown.placed, False)]
    return {"data": data, "layout": layout}
