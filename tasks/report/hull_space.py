"""The convex hull in three dimensions, plotly JSON: of three elements with formation energy as height; of four, the
tetrahedron of their compositions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.report.figure_layout import (
    FLAT_LEGEND,
    PLOT_PX,
    Figure,
    corner_note,
    figure_axis,
    figure_layout,
    names_apart,
)
from tasks.report.hull_geometry import (
    TETRAHEDRON,
    TRIANGLE,
    FloatArray,
    PlacedCandidate,
    lower_facets,
    named_phases,
    one_per_composition,
    phase_arrays,
    shown_hull,
    tie_lines,
    triangle_xy,
)
from tasks.report.hull_traces import (
    best_per_composition,
    candidate_traces,
    columns_of,
    html_formula,
    line_trace,
    phase_traces,
)
from tasks.report.run.model import HullData, HullPhase

EYE, CENTRE = np.array([0.35, -1.4, 0.52]), np.array([-0.05, 0.0, -0.02])
"""Where the first view looks from and to, in the lengths of the box that is drawn."""

FIELD_DEG = 45.0
"""Angle that plotly's camera sees from bottom to top."""


def seen_px(points: FloatArray, ranges: FloatArray, box: FloatArray) -> FloatArray:
    """Points (n, 3) as the first view shows them, pixels from the middle of the picture, y upward, (n, 2).

    Args:
        points: in units of the axes.
        ranges: low and high end of each axis, (3, 2).
        box: lengths of the box's sides, (3,).
    """
    placed = ((points - ranges[:, 0]) / (ranges[:, 1] - ranges[:, 0]) - 0.5) * box
    # plotly's camera looks along `centre - eye` from `eye`, and turns about the vertical axis.
    ahead = (CENTRE - EYE) / np.linalg.norm(CENTRE - EYE)
    right = np.cross(ahead, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    away = placed - EYE
    seen = np.column_stack([away @ right, away @ np.cross(right, ahead)]) / (away @ ahead)[:, None]
    pixels: FloatArray = seen * (PLOT_PX[1] - 50.0) / 2 / np.tan(np.radians(FIELD_DEG / 2))
    return pixels


def triangle_with_energies(hull: HullData, placed: Sequence[PlacedCandidate]) -> Figure:
    """The hull's lower side over the triangle of compositions, with what lies near it."""
    shown = shown_hull(hull, placed)
    fractions, energies = phase_arrays(shown.hull.phases, hull.elements)
    facets = lower_facets(fractions, energies)
    xyz = np.column_stack([triangle_xy(fractions), energies])
    spots = np.array([[*triangle_xy(p.fractions), p.formation_energy_ev_per_atom] for p in shown.placed])
    spots = spots.reshape(-1, 3)
    top = np.column_stack([TRIANGLE, np.zeros(3)])
    data: list[Figure] = []
    if facets:
        data.append(
            {
                "type": "mesh3d",
                "name": "hull",
                "meta": "surface",
                **columns_of(xyz),
                **{key: [facet[i] for facet in facets] for i, key in enumerate("ijk")},
                "color": "#6d8fb3",
                "opacity": 0.22,
                "flatshading": True,
                "hoverinfo": "skip",
                "showlegend": False,
            }
        )
    data += line_trace(top, [(0, 1), (1, 2), (0, 2)], True, 1.0) + line_trace(xyz, tie_lines(facets), True)
    data += phase_traces(xyz, shown.hull.phases, True) + candidate_traces(spots, shown.placed, True)
    heights = np.concatenate([energies, spots[:, 2], [0.0]])
    low, high = float(heights.min()), float(heights.max())
    room = 0.06 * max(high - low, 0.05)
    ranges = np.array([[-0.1, 1.1], [-0.1, 1.0], [round(low - room, 4), round(high + room, 4)]])
    axis = figure_axis("formation energy (eV/atom)", showbackground=False, showgrid=False, nticks=5)
    axis.pop("automargin")
    return _solid(hull, data, xyz, shown.hull.phases, spots, ranges, np.array([1.15, 1.05, 0.85]), axis, shown.left_out)


def tetrahedron(hull: HullData, placed: Sequence[PlacedCandidate]) -> Figure:
    """Compositions of four elements: stable phases with their tie-lines, and the best candidate of each composition."""
    shown = shown_hull(hull, placed)
    stable = [phase for phase in hull.phases if phase.stable]
    fractions, energies = phase_arrays(stable, hull.elements)
    xyz = fractions @ TETRAHEDRON
    best, texts = best_per_composition(shown.placed)
    spots = np.array([p.fractions for p in best]).reshape(-1, 4) @ TETRAHEDRON
    frame = line_trace(TETRAHEDRON, [(i, j) for i in range(4) for j in range(i)], True, 1.0)
    data = frame + line_trace(xyz, tie_lines(lower_facets(fractions, energies)), True, 0.6)
    data += phase_traces(xyz, stable, True) + candidate_traces(spots, best, True, texts)
    ranges = np.array([[-0.05, 1.05], [-0.05, 0.92], [-0.05, 0.87]])
    n_above = len(hull.phases) - len(stable)
    lost = len(placed) - len(shown.placed)
    counts = ((n_above, "phases above the hull"), (lost, "candidates far above it"))
    said = " and ".join(f"{n} {what}" for n, what in counts if n)
    said = f"Not drawn: {said}" if said else ""
    return _solid(hull, data, xyz, stable, spots, ranges, np.array([1.1, 0.97, 0.92]), {"visible": False}, said)


def _solid(
    hull: HullData,
    data: list[Figure],
    xyz: FloatArray,
    phases: Sequence[HullPhase],
    spots: FloatArray,
    ranges: FloatArray,
    box: FloatArray,
    vertical: Figure,
    left_out: str,
) -> Figure:
    """A figure of these traces, its stable phases named apart as the first view shows them."""  # fmt: skip
    place = {phase.id: i for i, phase in enumerate(phases)}
    elements = [p for p in one_per_composition(hull.phases) if sum(f > 0 for f in p.fractions.values()) == 1]
    named = [*elements, *named_phases(hull)]
    anchors = xyz[[place[p.id] for p in named]]
    names = names_apart(
        [{axis: round(float(v), 5) for axis, v in zip("xyz", point, strict=True)} for point in anchors],
        [html_formula(p.formula) for p in named],
        [p.formula for p in named],
        seen_px(anchors, ranges, box),
        seen_px(np.vstack([xyz, spots]), ranges, box),
    )
    scene: Figure = {
        "xaxis": {"visible": False, "range": ranges[0].tolist()},
        "yaxis": {"visible": False, "range": ranges[1].tolist()},
        "zaxis": {**vertical, "range": ranges[2].tolist()},
        "aspectmode": "manual",
        "aspectratio": dict(zip("xyz", box.tolist(), strict=True)),
        "camera": {
            "eye": dict(zip("xyz", EYE.tolist(), strict=True)),
            "center": dict(zip("xyz", CENTRE.tolist(), strict=True)),
        },
        "dragmode": "orbit",
        "annotations": names,
    }
    margin = {"l": 10, "r": 10, "t": 40, "b": 10}
    layout = figure_layout(scene=scene, legend=FLAT_LEGEND, margin=margin, annotations=corner_note(left_out))
    return {"data": data, "layout": layout}
