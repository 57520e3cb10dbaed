"""Pictures of a campaign as SVG: finds over relaxations, and the yield of every system with its error."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tasks.report.dataset.plots import BAR, FAINT, INK, MUTED
from tasks.report.evaluation.plots import bare

if TYPE_CHECKING:
    from tasks.campaign.results import Results

MOST_SHOWN = 30
"""Systems in the picture of yields; the table has all."""


def campaign_svg(results: Results) -> bytes:
    """Finds over relaxations on the left, yields with 95 % intervals on the right."""
    shown = [place for place in results.places if place.found.relaxations][:MOST_SHOWN]
    figure = Figure(figsize=(9.4, max(3.4, 0.9 + 0.26 * len(shown))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    _finds(left, results)
    rows = np.arange(len(shown))
    mean = np.array([place.found.finds / place.found.relaxations for place in shown])
    ends = np.array([(place.found.low, place.found.high) for place in shown], dtype=float).reshape(-1, 2)
    right.hlines(rows, 100 * ends[:, 0], 100 * ends[:, 1], color=BAR, linewidth=2.2, alpha=0.45)
    right.plot(100 * mean, rows, "o", color=BAR, markersize=5, clip_on=False)
    right.set_ylim(len(shown) - 0.4, -0.6)
    right.set_xlim(0, None)
    bare(right, "finds per 100 relaxations, with 95 % interval", "")
    right.grid(axis="y", visible=False)
    right.grid(axis="x", color=FAINT, linewidth=0.7)
    right.set_yticks(rows, [f"{p.system}  ({p.found.relaxations})" for p in shown], fontsize=8.5, color=INK)
    buffer = io.BytesIO()
    # The same bytes for the same figures: no date, and ids that are not drawn at random.
    with matplotlib.rc_context({"svg.hashsalt": "hullward"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _finds(axes: Axes, results: Results) -> None:
    """Finds of all rounds so far over relaxations, and the line on which the first round's yield would have led."""
    spent = np.cumsum([0, *(done["relaxations"] for done in results.rounds)])
    found = np.cumsum([0, *(done["finds"] for done in results.rounds)])
    axes.plot(spent, found, "-o", color=BAR, linewidth=1.8, markersize=4)
    if len(spent) > 2 and found[1]:
        axes.plot(spent, found[1] / spent[1] * spent, "--", color=MUTED, linewidth=1)
        axes.annotate(
            "at the yield of round 0", (spent[-1], found[1] / spent[1] * spent[-1]), (-4, 4),
            textcoords="offset points", ha="right", va="bottom", fontsize=7.5, color=MUTED,
        )  # fmt: skip
    axes.set_xlim(0, None)
    axes.set_ylim(0, None if found[-1] else 1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True))
    bare(axes, "relaxations of all systems", "finds")
