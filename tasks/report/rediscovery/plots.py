"""The curve of recall over relaxations as SVG: a line per campaign, its standard error as a band."""

from __future__ import annotations

import io
from itertools import cycle

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from configs.rediscovery import PORTFOLIO
from tasks.rediscovery.recall import Recalls
from tasks.report.dataset.plots import FAINT, INK, METHOD_COLOURS
from tasks.report.evaluation.plots import bare


def recall_svg(recalls: Recalls, budgets: tuple[int, ...]) -> bytes:
    """Found hidden crystals in % over relaxations, up to the largest budget; budgets are marked."""
    most = budgets[-1]
    figure = Figure(figsize=(9.4, 4.2), layout="constrained")
    axes = figure.subplots()
    at = np.arange(1, most + 1)
    for name, colour in zip(recalls.campaigns, cycle(METHOD_COLOURS), strict=False):
        share, error = recalls.curve(name, most)
        colour, dashes = (INK, "--") if name == PORTFOLIO else (colour, "-")
        low, high = np.clip(100 * (share - error), 0, None), np.clip(100 * (share + error), None, 100)
        axes.fill_between(at, low, high, step="post", color=colour, alpha=0.12, linewidth=0)
        axes.step(at, 100 * share, where="post", color=colour, linestyle=dashes, linewidth=1.6, label=name)
    for budget in budgets:
        axes.axvline(budget, color=FAINT, linewidth=0.9, zorder=0)
    axes.set_xscale("log", base=2)
    axes.set_xlim(1, max(most, 2))
    axes.set_ylim(0, None)
    ticks = sorted({1, *budgets})
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([str(tick) for tick in ticks])
    bare(axes, "relaxations per chemical system", "hidden crystals found, %")
    figure.legend(loc="outside lower center", frameon=False, fontsize=9, ncols=min(5, len(recalls.campaigns)))
    buffer = io.BytesIO()
    # The same bytes for the same figures: no date, and ids that are not drawn at random.
    with matplotlib.rc_context({"svg.hashsalt": "hullward"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
