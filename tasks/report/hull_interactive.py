"""The convex hull as plotly figures: plain JSON dictionaries, so that building a page imports no plotting library.

Each trace says its part in `meta`; the page's script colours the parts for light and dark. Points carry the candidate's
id in `customdata`, by which a click opens that candidate.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

import numpy as np

from generative.datasets.origins import LABELS
from tasks.report.figure_layout import FLAT_LEGEND, INK, Figure, figure_axis, figure_layout, text_note
from tasks.report.hull_geometry import (
    COLOUR_STOPS,
    ON_HULL_EV_PER_ATOM,
    PHASE_STYLES,
    TRIANGLE,
    FloatArray,
    PhaseStyle,
    PlacedCandidate,
    colour_limit_ev_per_atom,
    lower_facets,
    one_per_composition,
    phase_arrays,
    placed_candidates,
    tie_lines,
    triangle_xy,
)
from tasks.report.run.model import HullData, HullPhase, ReportCandidate

MUTED, LINE = "#7b8494", "#aab2c0"
"""Colours for light paper; the page swaps them in the dark."""


def html_formula(formula: str) -> str:
    """A formula as escaped HTML with its counts as subscripts."""
    return re.sub(r"(?<=[A-Za-z)\]])(\d+(?:\.\d+)?)", r"<sub>\1</sub>", html.escape(formula))


def hull_figures(hull: HullData, candidates: Sequence[ReportCandidate]) -> dict[str, Figure]:
    """The hull's interactive figures by name, as plotly JSON.

    Args:
        hull: competing phases.
        candidates: those without hull numbers are left out.
    Returns: 'plane' always (a line, a triangle, or a scatter, by the number of elements); 'space' besides for three
        elements: the triangle with formation energy as height.
    Raises: ValueError: if a phase lies outside the system.
    """
    placed = placed_candidates(candidates, hull)
    if len(hull.elements) == 2:
        return {"plane": _binary(hull, placed)}
    if len(hull.elements) == 3:
        return {"plane": _triangle(hull, placed), "space": _space(hull, placed)}
    return {"plane": _scatter(hull, placed)}


def _phase_text(phase: HullPhase) -> str:
    state = "stable" if phase.stable else f"{phase.e_above_hull_ev_per_atom:.3f} eV/atom above hull"
    return (
        f"<b>{html_formula(phase.formula)}</b> {LABELS[phase.origin]}, {state}<br>"
        f"formation energy {phase.formation_energy_ev_per_atom:.3f} eV/atom<br>{html.escape(phase.id)}"
    )


def _candidate_text(placed: PlacedCandidate) -> str:
    candidate = placed.candidate
    who = "prototype, offered as a candidate" if placed.is_prototype else "candidate"
    return (
        f"<b>{html_formula(candidate.formula)}</b> {who}, rank {candidate.rank}<br>"
        f"energy above hull {placed.e_above_hull_ev_per_atom:.3f} eV/atom<br>"
        f"formation energy {placed.formation_energy_ev_per_atom:.3f} eV/atom<br>{html.escape(candidate.id)}"
    )


def _columns(points: FloatArray) -> dict[str, list[float]]:
    """Points (n, 2 or 3) as the x, y (and z) lists of a trace."""
    return {axis: [round(float(v), 5) for v in points[:, i]] for i, axis in enumerate("xyz"[: points.shape[1]])}


def _best_per_composition(placed: Sequence[PlacedCandidate]) -> tuple[list[PlacedCandidate], list[str]]:
    """In a triangle one composition is one point: its best candidate, and a text that names the others."""
    groups: dict[tuple[float, ...], list[PlacedCandidate]] = {}
    for entry in placed:
        groups.setdefault(tuple(round(float(f), 6) for f in entry.fractions), []).append(entry)
    best, texts = [], []
    for group in groups.values():
        *others, first = group  # worst first, as placed_candidates orders them
        lines = [
            f"rank {o.candidate.rank}: {o.e_above_hull_ev_per_atom:.3f} eV/atom above hull"
            for o in reversed(others[-5:])
        ]
        more = f"<br>and {len(others) - 5} more" if len(others) > 5 else ""
        same = f"<br>same composition:<br>{'<br>'.join(lines)}{more}" if others else ""
        best.append(first)
        texts.append(_candidate_text(first) + same)
    order = sorted(range(len(best)), key=lambda i: (-best[i].e_above_hull_ev_per_atom, best[i].candidate.id))
    return [best[i] for i in order], [texts[i] for i in order]


def _candidate_trace(
    points: FloatArray, placed: Sequence[PlacedCandidate], solid: bool, texts: Sequence[str] = ()
) -> list[Figure]:
    if not placed:
        return []
    limit = colour_limit_ev_per_atom(placed)
    on_hull = [p.e_above_hull_ev_per_atom <= ON_HULL_EV_PER_ATOM for p in placed]
    star, ours, size_star, size = ("diamond", "square", 8, 5) if solid else ("star", "triangle-up", 16, 10)
    marker = {
        "color": [round(p.e_above_hull_ev_per_atom, 5) for p in placed],
        "colorscale": [[i / (len(COLOUR_STOPS) - 1), colour] for i, colour in enumerate(COLOUR_STOPS)],
        "cmin": 0.0,
        "cmax": limit,
        "symbol": [ours if p.is_prototype else star if on else "circle" for p, on in zip(placed, on_hull, strict=True)],
        "size": [size_star if p.is_prototype or on else size for p, on in zip(placed, on_hull, strict=True)],
        "opacity": 1.0,
        "line": {"width": 1, "color": "#ffffff"},
        "colorbar": {
            "title": {"text": "energy above hull<br>(eV/atom)", "side": "top", "font": {"size": 11}},
            "thickness": 10,
            "len": 0.55,
            "outlinewidth": 0,
            "x": 1.0,
            "tickfont": {"size": 11},
        },
    }
    trace = {
        "type": "scatter3d" if solid else "scatter",
        "mode": "markers",
        "name": "candidates",
        "meta": "candidate",
        **_columns(points),
        "text": list(texts) or [_candidate_text(p) for p in placed],
        "customdata": [p.candidate.id for p in placed],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": marker,
        "showlegend": False,
    }
    return [trace, *_candidate_keys(placed, solid)]


def _candidate_keys(placed: Sequence[PlacedCandidate], solid: bool) -> list[Figure]:
    """Empty traces that only stand in the legend: the candidates' own marker there would be that of the worst one."""
    on_hull = [p.e_above_hull_ev_per_atom <= ON_HULL_EV_PER_ATOM for p in placed if not p.is_prototype]
    ours = any(p.is_prototype for p in placed)
    kinds = (
        (any(on_hull), "candidate on or below the hull", "diamond" if solid else "star", 0),
        (not all(on_hull), "candidate above the hull", "circle", 2),
        (ours, "prototype, offered as a candidate", "square" if solid else "triangle-up", 0),
    )
    return [
        {
            "type": "scatter3d" if solid else "scatter",
            "mode": "markers",
            "name": name,
            "meta": "key",
            "hoverinfo": "skip",
            **{axis: [None] for axis in ("xyz" if solid else "xy")},
            "marker": {
                "symbol": symbol,
                "size": 10,
                "color": COLOUR_STOPS[stop],
                "line": {"width": 1, "color": "#ffffff"},
            },
        }
        for shown, name, symbol, stop in kinds
        if shown
    ]


def _phase_traces(points: FloatArray, phases: Sequence[HullPhase], solid: bool) -> list[Figure]:
    """A trace per origin and stability; those above the hull first, so that stable ones lie on top."""
    labelled = {phase.id for phase in one_per_composition(phases)}
    kinds = [(style, stable) for stable in (False, True) for style in PHASE_STYLES]
    traces = []
    for style, stable in kinds:
        rows = [i for i, phase in enumerate(phases) if phase.stable is stable and phase.origin == style.origin]
        if rows:
            traces.append(_phase_trace(points[rows], [phases[i] for i in rows], style, stable, solid, labelled))
    return traces


def _phase_trace(
    points: FloatArray, phases: Sequence[HullPhase], style: PhaseStyle, stable: bool, solid: bool, labelled: set[str]
) -> Figure:
    colour = style.colour or INK
    trace: Figure = {
        "type": "scatter3d" if solid else "scatter",
        "mode": "markers+text" if stable and solid else "markers",
        "name": f"{style.label}, {'stable' if stable else 'above the hull'}",
        "meta": style.part if stable else "other",
        **_columns(points),
        "hovertext": [_phase_text(p) for p in phases],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": {
            "symbol": style.symbol_3d if solid else style.symbol,
            # In a triangle a candidate of the same composition (size 10) lies on top: the phase shows as a ring.
            "size": (5 if solid else 14) if stable else (3 if solid else 6),
            "color": colour if stable else "#ffffff",
            "line": {"width": 1, "color": colour if stable else MUTED},
        },
    }
    if stable and solid:
        trace["text"] = [html_formula(p.formula) if p.id in labelled else "" for p in phases]
        trace["textposition"] = "top center"
        trace["textfont"] = {"size": 12, "color": INK}
    return trace


def _line_trace(points: FloatArray, pairs: Sequence[tuple[int, int]], solid: bool, width: float = 1.4) -> list[Figure]:
    """All tie-lines as one trace, broken by nulls."""
    if not pairs:
        return []
    columns: dict[str, list[float | None]] = {axis: [] for axis in "xyz"[: points.shape[1]]}
    for first, second in pairs:
        for i, axis in enumerate(columns):
            columns[axis] += [round(float(points[first, i]), 5), round(float(points[second, i]), 5), None]
    return [
        {
            "type": "scatter3d" if solid else "scatter",
            "mode": "lines",
            "name": "tie-lines",
            "meta": "tie",
            "hoverinfo": "skip",
            "showlegend": False,
            "line": {"color": LINE, "width": width * (2 if solid else 1)},
            **columns,
        }
    ]


def _triangle(hull: HullData, placed: Sequence[PlacedCandidate]) -> Figure:
    fractions, energies = phase_arrays(hull.phases, hull.elements)
    xy = triangle_xy(fractions)
    frame = _line_trace(TRIANGLE, [(0, 1), (1, 2), (0, 2)], solid=False)
    ties = _line_trace(xy, tie_lines(lower_facets(fractions, energies)), solid=False)
    best, texts = _best_per_composition(placed)
    spots = triangle_xy(np.array([p.fractions for p in best])) if best else np.empty((0, 2))
    corners = ((-0.03, -0.03, "right"), (1.03, -0.03, "left"), (0.5, 0.92, "center"))
    notes = [
        text_note(x, y, f"<b>{symbol}</b>", xanchor=align, font={"size": 18, "color": INK})
        for (x, y, align), symbol in zip(corners, hull.elements, strict=True)
    ]
    last_x, row = -1.0, 0
    for phase in sorted(one_per_composition(hull.phases), key=lambda p: p.fractions.get(hull.elements[1], 0.0)):
        position = phase_arrays([phase], hull.elements)[0][0]
        if float(position.max()) > 1 - 1e-9:
            continue
        x, y = triangle_xy(position)
        if y < 0.02:  # along the lower edge names would run into each other: near ones take turns in two rows
            row = 1 - row if x - last_x < 0.09 else 0
            last_x = float(x)
            notes.append(text_note(float(x), float(y), html_formula(phase.formula), yshift=-17 - 15 * row))
            continue
        outward = np.array([x, y]) - TRIANGLE.mean(axis=0)
        side = "left" if outward[0] > 0.12 else "right" if outward[0] < -0.12 else "center"
        shift = {"left": 9, "right": -9, "center": 0}[side]
        notes.append(text_note(float(x), float(y), html_formula(phase.formula), xanchor=side, xshift=shift, yshift=15))
    hidden = {"visible": False, "fixedrange": False}
    layout = figure_layout(
        xaxis={**hidden, "range": [-0.12, 1.12]},
        yaxis={**hidden, "range": [-0.1, 0.98], "scaleanchor": "x"},
        annotations=notes,
    )
    return {
        "data": frame + ties + _phase_traces(xy, hull.phases, False) + _candidate_trace(spots, best, False, texts),
        "layout": layout,
    }


def _space(hull: HullData, placed: Sequence[PlacedCandidate]) -> Figure:
    fractions, energies = phase_arrays(hull.phases, hull.elements)
    facets = lower_facets(fractions, energies)
    xyz = np.column_stack([triangle_xy(fractions), energies])
    spots = np.array([[*triangle_xy(p.fractions), p.formation_energy_ev_per_atom] for p in placed]).reshape(-1, 3)
    top = np.column_stack([TRIANGLE, np.zeros(3)])
    data: list[Figure] = []
    if facets:
        data.append(
            {
                "type": "mesh3d",
                "name": "hull",
                "meta": "surface",
                **_columns(xyz),
                **{key: [facet[i] for facet in facets] for i, key in enumerate("ijk")},
                "color": "#6d8fb3",
                "opacity": 0.22,
                "flatshading": True,
                "hoverinfo": "skip",
                "showlegend": False,
            }
        )
    data += _line_trace(top, [(0, 1), (1, 2), (0, 2)], True, 1.0) + _line_trace(xyz, tie_lines(facets), True)
    data += _phase_traces(xyz, hull.phases, True) + _candidate_trace(spots, placed, True)
    hidden = {"visible": False}
    scene: Figure = {
        "xaxis": {**hidden, "range": [-0.1, 1.1]},
        "yaxis": {**hidden, "range": [-0.1, 1.0]},
        "zaxis": figure_axis("formation energy (eV/atom)", showbackground=False, showgrid=False, nticks=5),
        "aspectmode": "manual",
        "aspectratio": {"x": 1.15, "y": 1.05, "z": 0.85},
        "camera": {"eye": {"x": 0.4, "y": -1.6, "z": 0.6}, "center": {"x": -0.06, "y": 0, "z": -0.02}},
        "dragmode": "orbit",
    }
    scene["zaxis"].pop("automargin")
    return {
        "data": data,
        "layout": figure_layout(scene=scene, legend=FLAT_LEGEND, margin={"l": 10, "r": 10, "t": 40, "b": 10}),
    }


def _binary(hull: HullData, placed: Sequence[PlacedCandidate]) -> Figure:
    fractions, energies = phase_arrays(hull.phases, hull.elements)
    xy = np.column_stack([fractions[:, 1], energies])
    spots = np.array([[p.fractions[1], p.formation_energy_ev_per_atom] for p in placed]).reshape(-1, 2)
    first, second = hull.elements
    notes = [
        text_note(
            float(phase.fractions.get(second, 0.0)),
            phase.formation_energy_ev_per_atom,
            html_formula(phase.formula),
            yshift=-16,
        )
        for phase in one_per_composition(hull.phases)
    ]  # fmt: skip
    layout = figure_layout(
        xaxis=figure_axis(f"atomic fraction of {second} in {first}–{second}", range=[-0.04, 1.04]),
        yaxis=figure_axis("formation energy (eV/atom)"),
        annotations=notes,
        legend=FLAT_LEGEND,
        margin={"l": 10, "r": 10, "t": 40, "b": 10},
    )
    ties = _line_trace(xy, tie_lines(lower_facets(fractions, energies)), False, 1.6)
    return {
        "data": ties + _phase_traces(xy, hull.phases, False) + _candidate_trace(spots, placed, False),
        "layout": layout,
    }


def _scatter(hull: HullData, placed: Sequence[PlacedCandidate]) -> Figure:
    xy = np.array([[p.formation_energy_ev_per_atom, p.e_above_hull_ev_per_atom] for p in hull.phases]).reshape(-1, 2)
    spots = np.array([[p.formation_energy_ev_per_atom, p.e_above_hull_ev_per_atom] for p in placed]).reshape(-1, 2)
    layout = figure_layout(
        xaxis=figure_axis("formation energy (eV/atom)"),
        yaxis=figure_axis("energy above hull (eV/atom)"),
        legend=FLAT_LEGEND,
        margin={"l": 10, "r": 10, "t": 40, "b": 10},
    )
    return {"data": _phase_traces(xy, hull.phases, False) + _candidate_trace(spots, placed, False), "layout": layout}
