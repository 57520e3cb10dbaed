"""The traces of hull figures, plotly JSON: phases, candidates, tie-lines, and what a pointer over them says.

Each trace says its part in `meta`; the page's script colours the parts for light and dark. Points carry the candidate's
id in `customdata`, by which a click opens that candidate.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from generative.datasets.origins import LABELS
from tasks.report.figure_layout import INK, Figure
from tasks.report.hull_geometry import (
    COLOUR_STOPS,
    ON_HULL_EV_PER_ATOM,
    PHASE_STYLES,
    FloatArray,
    PhaseStyle,
    PlacedCandidate,
    colour_limit_ev_per_atom,
)
from tasks.report.run.model import HullPhase

MUTED, LINE = "#7b8494", "#aab2c0"
"""Colours for light paper; the page swaps them in the dark."""


def html_formula(formula: str) -> str:
    """A formula as escaped HTML with its counts as subscripts."""
    return re.sub(r"(?<=[A-Za-z)\]])(\d+(?:\.\d+)?)", r"<sub>\1</sub>", html.escape(formula))


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


def columns_of(points: FloatArray) -> dict[str, list[float]]:
    """Points (n, 2 or 3) as the x, y (and z) lists of a trace."""
    return {axis: [round(float(v), 5) for v in points[:, i]] for i, axis in enumerate("xyz"[: points.shape[1]])}


def best_per_composition(placed: Sequence[PlacedCandidate]) -> tuple[list[PlacedCandidate], list[str]]:
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


def candidate_traces(
    points: FloatArray, placed: Sequence[PlacedCandidate], solid: bool, texts: Sequence[str] = ()
) -> list[Figure]:
    """The candidates at these points, and what stands for them in the legend."""
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
        **columns_of(points),
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


def phase_traces(points: FloatArray, phases: Sequence[HullPhase], solid: bool) -> list[Figure]:
    """A trace per origin and stability; those above the hull first, so that stable ones lie on top."""
    kinds = [(style, stable) for stable in (False, True) for style in PHASE_STYLES]
    traces = []
    for style, stable in kinds:
        rows = [i for i, phase in enumerate(phases) if phase.stable is stable and phase.origin == style.origin]
        if rows:
            traces.append(_phase_trace(points[rows], [phases[i] for i in rows], style, stable, solid))
    return traces


def _phase_trace(
    points: FloatArray, phases: Sequence[HullPhase], style: PhaseStyle, stable: bool, solid: bool
) -> Figure:
    colour = style.colour or INK
    return {
        "type": "scatter3d" if solid else "scatter",
        "mode": "markers",
        "name": f"{style.label}, {'stable' if stable else 'above the hull'}",
        "meta": style.part if stable else "other",
        **columns_of(points),
        "hovertext": [_phase_text(p) for p in phases],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": {
            # Hollow in three dimensions: a filled one would be drawn over the points behind its corners.
            "symbol": style.symbol_3d + ("" if stable else "-open") if solid else style.symbol,
            # In a triangle a candidate of the same composition (size 10) lies on top: the phase shows as a ring.
            "size": (5 if solid else 14) if stable else (3 if solid else 6),
            "color": colour if stable else MUTED if solid else "#ffffff",
            "line": {"width": 1, "color": colour if stable else MUTED},
        },
    }


def line_trace(points: FloatArray, pairs: Sequence[tuple[int, int]], solid: bool, width: float = 1.4) -> list[Figure]:
    """Lines between pairs of points as one trace, broken by nulls."""
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
