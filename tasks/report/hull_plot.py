"""The convex hull as a still PNG: a line for two elements, a triangle for three, a scatter otherwise."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

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
    named_phases,
    phase_arrays,
    placed_candidates,
    shown_hull,
    tie_lines,
    triangle_xy,
)
from tasks.report.label_places import label_offsets, label_size_px
from tasks.report.png import figure_png
from tasks.report.run.model import HullData, HullPhase, ReportCandidate

INK, MUTED, FAINT = "#20242c", "#7b8494", "#d9dde4"
LABEL_POINTS = 9.5


def hull_png(hull: HullData, candidates: Sequence[ReportCandidate], width_px: int = 760) -> bytes:
    """The hull with the candidates on it, PNG under 60 kB.

    Stable phases are filled and joined by tie-lines, phases above the hull hollow; their shape says where they come
    from. Candidates are coloured by energy above hull; a star lies on or below the hull. Candidates without hull
    numbers are left out.

    Raises: ValueError: if a phase lies outside the system, or width_px outside 300 to 1600.
    """
    if not 300 <= width_px <= 1600:
        raise ValueError(f"width_px is {width_px}, expected 300 to 1600: choose a width a page can show")
    dpi = 110
    width_in = width_px / dpi
    figure = Figure(figsize=(width_in, width_in * (0.80 if len(hull.elements) == 3 else 0.66)), dpi=dpi)
    axes = figure.add_axes((0.02, 0.03, 0.84, 0.94) if len(hull.elements) == 3 else (0.11, 0.12, 0.75, 0.78))
    placed = placed_candidates(candidates, hull)
    if len(hull.elements) != 3:
        shown = shown_hull(hull, placed)
        hull, placed = shown.hull, shown.placed
        figure.text(0.01, 0.008, shown.left_out, fontsize=7.0, color=MUTED)
    norm = Normalize(0.0, colour_limit_ev_per_atom(placed))
    colours = LinearSegmentedColormap.from_list("hull", list(COLOUR_STOPS))
    draw = {2: _binary, 3: _ternary}.get(len(hull.elements), _scatter)
    draw(axes, hull, placed, norm, colours)
    _colour_bar(figure, norm, colours, bool(placed))
    _marker_key(figure, hull, placed, ternary=len(hull.elements) == 3)
    return figure_png(figure)


def mathtext_formula(formula: str) -> str:
    """A formula with its counts as subscripts, in matplotlib's notation."""
    return r"$\mathregular{" + re.sub(r"(\d+(?:\.\d+)?)", r"_{\1}", formula) + "}$"


def _points(axes: Axes, xy: FloatArray, placed: Sequence[PlacedCandidate], norm: Normalize, colours: Colormap) -> None:
    above = np.array([p.e_above_hull_ev_per_atom for p in placed])
    on_hull = above <= ON_HULL_EV_PER_ATOM
    ours = np.array([p.is_prototype for p in placed], dtype=bool)
    for chosen, marker, size in ((~on_hull & ~ours, "o", 34), (ours, "^", 90), (on_hull & ~ours, "*", 170)):
        if chosen.any():
            axes.scatter(
                xy[chosen, 0], xy[chosen, 1], c=above[chosen],
                cmap=colours, norm=norm, marker=marker, s=size, linewidths=0.7,
                edgecolors="white" if marker == "o" else INK, zorder=6 if marker == "o" else 7, clip_on=False,
            )  # fmt: skip


def _phases(axes: Axes, xy: FloatArray, phases: Sequence[HullPhase]) -> None:
    for style in PHASE_STYLES:
        for stable in (False, True):
            rows = [i for i, p in enumerate(phases) if p.origin == style.origin and p.stable is stable]
            if rows:
                face, edge = _fill(style, stable)
                axes.scatter(
                    xy[rows, 0], xy[rows, 1], s=58 if stable else 16, marker=style.marker, facecolors=face,
                    edgecolors=edge, linewidths=0.8, zorder=5 if stable else 4, clip_on=False,
                )  # fmt: skip


def _fill(style: PhaseStyle, stable: bool) -> tuple[str, str]:
    """Colours of face and edge."""
    return (style.colour or INK,) * 2 if stable else ("white", MUTED)


def _ternary(axes: Axes, hull: HullData, placed: Sequence[PlacedCandidate], norm: Normalize, colours: Colormap) -> None:
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_xlim(-0.10, 1.10)
    axes.set_ylim(-0.09, 0.95)
    for step in np.arange(0.2, 0.99, 0.2):
        for k in range(3):
            ends = np.zeros((2, 3))
            ends[:, k] = step
            ends[0, (k + 1) % 3] = ends[1, (k + 2) % 3] = 1 - step
            axes.plot(*triangle_xy(ends).T, color="#eef0f4", linewidth=0.8, zorder=1)
    axes.plot(*TRIANGLE[[0, 1, 2, 0]].T, color=MUTED, linewidth=1.1, zorder=2)
    fractions, energies = phase_arrays(hull.phases, hull.elements)
    xy = triangle_xy(fractions)
    for first, second in tie_lines(lower_facets(fractions, energies)):
        axes.plot(*xy[[first, second]].T, color="#aab2c0", linewidth=1.1, zorder=3)
    _phases(axes, xy, hull.phases)
    if placed:
        _points(axes, triangle_xy(np.array([p.fractions for p in placed])), placed, norm, colours)
    for corner, symbol, align in zip(
        TRIANGLE + [[-0.035, -0.035], [0.035, -0.035], [0, 0.04]],
        hull.elements,
        ("right", "left", "center"),
        strict=True,
    ):
        axes.text(corner[0], corner[1], symbol, ha=align, va="center", fontsize=14, fontweight="bold", color=INK)
    compounds = named_phases(hull)
    anchors = triangle_xy(phase_arrays(compounds, hull.elements)[0])
    crowd = np.vstack([xy, *([triangle_xy(np.array([p.fractions for p in placed]))] if placed else [])])
    _labels(axes, compounds, anchors, crowd)


def _binary(axes: Axes, hull: HullData, placed: Sequence[PlacedCandidate], norm: Normalize, colours: Colormap) -> None:
    fractions, energies = phase_arrays(hull.phases, hull.elements)
    xy = np.column_stack([fractions[:, 1], energies])
    spots = np.array([[p.fractions[1], p.formation_energy_ev_per_atom] for p in placed]).reshape(-1, 2)
    for first, second in tie_lines(lower_facets(fractions, energies)):
        axes.plot(*xy[[first, second]].T, color=INK, linewidth=1.2, zorder=3)
    axes.axhline(0.0, color=FAINT, linewidth=1.0, zorder=1)
    _phases(axes, xy, hull.phases)
    if len(spots):
        _points(axes, spots, placed, norm, colours)
    everything = np.vstack([xy, spots, [[0.0, 0.0]]])
    span = max(float(np.ptp(everything[:, 1])), 0.05)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(everything[:, 1].min() - 0.10 * span, everything[:, 1].max() + 0.08 * span)
    first_element, second_element = hull.elements
    _dress(
        axes, f"atomic fraction of {second_element} in {first_element}–{second_element}", "formation energy (eV/atom)"
    )
    compounds = named_phases(hull)
    chosen = phase_arrays(compounds, hull.elements)
    _labels(axes, compounds, np.column_stack([chosen[0][:, 1], chosen[1]]), everything)


def _scatter(axes: Axes, hull: HullData, placed: Sequence[PlacedCandidate], norm: Normalize, colours: Colormap) -> None:
    xy = np.array([[p.formation_energy_ev_per_atom, p.e_above_hull_ev_per_atom] for p in hull.phases]).reshape(-1, 2)
    spots = np.array([[p.formation_energy_ev_per_atom, p.e_above_hull_ev_per_atom] for p in placed]).reshape(-1, 2)
    axes.axhline(0.0, color=MUTED, linewidth=1.1, zorder=1)
    _phases(axes, xy, hull.phases)
    if len(spots):
        _points(axes, spots, placed, norm, colours)
    axes.margins(0.08)
    _dress(axes, "formation energy (eV/atom)", "energy above hull (eV/atom)")
    stable = named_phases(hull)
    anchors = np.array([[p.formation_energy_ev_per_atom, p.e_above_hull_ev_per_atom] for p in stable]).reshape(-1, 2)
    _labels(axes, stable, anchors, np.vstack([xy, spots]))


def _dress(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label, color=INK, fontsize=LABEL_POINTS)
    axes.set_ylabel(y_label, color=INK, fontsize=LABEL_POINTS)
    axes.tick_params(colors=MUTED, labelsize=8.5, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color(FAINT)


def _colour_bar(figure: Figure, norm: Normalize, colours: Colormap, shown: bool) -> None:
    if not shown:
        return
    strip = figure.add_axes((0.885, 0.30, 0.018, 0.42))
    strip.imshow(np.linspace(1, 0, 128)[:, None], aspect="auto", cmap=colours, extent=(0, 1, 0, norm.vmax or 1.0))
    strip.set_xticks([])
    strip.yaxis.tick_right()
    strip.yaxis.set_label_position("right")
    strip.set_ylabel("candidates: energy above hull (eV/atom)", color=INK, fontsize=8.5)
    strip.tick_params(colors=MUTED, labelsize=8, length=2)
    for spine in strip.spines.values():
        spine.set_visible(False)


def _marker_key(figure: Figure, hull: HullData, placed: Sequence[PlacedCandidate], ternary: bool) -> None:
    """Says what the dots are; only kinds that occur."""
    on_hull = [p.e_above_hull_ev_per_atom <= ON_HULL_EV_PER_ATOM for p in placed if not p.is_prototype]
    kinds = [
        (
            any(p.origin == style.origin and p.stable is stable for p in hull.phases),
            f"{style.label}, {'stable' if stable else 'above the hull'}",
            style.marker, *_fill(style, stable), 6.5 if stable else 4.5,
        )
        for style in PHASE_STYLES
        for stable in (True, False)
    ]  # fmt: skip
    kinds += [
        (any(on_hull), "candidate on or below the hull", "*", COLOUR_STOPS[0], INK, 12.0),
        (not all(on_hull), "candidate above the hull", "o", COLOUR_STOPS[2], "white", 7.0),
        (any(p.is_prototype for p in placed), "prototype, offered as a candidate", "^", COLOUR_STOPS[0], INK, 9.0),
    ]
    handles = [
        Line2D(
            [], [], linestyle="", marker=marker,
            markerfacecolor=face, markeredgecolor=edge, markersize=size, label=label
        )
        for shown, label, marker, face, edge, size in kinds
        if shown
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.01, 0.99), frameon=False, labelcolor=INK,
        fontsize=8.5 if len(handles) <= 6 else 7.0, labelspacing=0.5 if len(handles) <= 6 else 0.35,
        ncols=1 if ternary else 2, handletextpad=0.3, columnspacing=1.2,
    )  # fmt: skip


def _labels(axes: Axes, phases: Sequence[HullPhase], anchors: FloatArray, crowd: FloatArray) -> None:
    """Name the phases beside their dots; each takes the freest place around it, deepest phases first."""
    letter_px = LABEL_POINTS * axes.figure.dpi / 72
    to_pixels = axes.transData
    points = to_pixels.transform(anchors) if len(anchors) else anchors
    dots = to_pixels.transform(crowd) if len(crowd) else np.empty((0, 2))
    sizes = np.array([label_size_px(phase.formula, letter_px) for phase in phases]).reshape(-1, 2)
    offsets = label_offsets(points, sizes, dots, letter_px)
    for phase, point, offset in zip(phases, points, offsets, strict=True):
        spot, anchor = to_pixels.inverted().transform([point + offset, point])
        if np.hypot(*offset) > 2.5 * letter_px:
            axes.plot(*np.array([anchor, spot]).T, color=MUTED, linewidth=0.6, zorder=3.5)
        axes.text(
            spot[0], spot[1], mathtext_formula(phase.formula), ha="center", va="center", fontsize=LABEL_POINTS,
            color=INK, zorder=8,
            bbox={"boxstyle": "round,pad=0.12", "facecolor": "white", "alpha": 0.78, "linewidth": 0},
        )  # fmt: skip
