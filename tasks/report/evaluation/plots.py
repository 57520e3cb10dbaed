"""Pictures of an evaluation as PNGs: distributions of samples and reference, and what relaxation made of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tasks.report.dataset.plots import FAINT, INK, METHOD_COLOURS, MUTED, short
from tasks.report.png import figure_png

Floats = npt.NDArray[np.float64]

DPI = 130
BINS_MIN, BINS_MAX = 12, 48
COVERED = (0.5, 99.5)
"""Percentiles between which an axis runs: a single wild sample must not press all others into one bar."""

SAMPLES, REFERENCE = METHOD_COLOURS[1], METHOD_COLOURS[0]
THRESHOLDS_EV_PER_ATOM = (0.0, 0.1)


@dataclass(frozen=True)
class PlotValues:
    """What is drawn; values that are not finite are counted, not drawn.

    Attributes:
        samples: label of the axis, with its unit -> one value per sample.
        reference: the same of the reference; a label may be missing.
        whole: labels whose values are whole numbers.
        e_above_hull_ev_per_atom: of the relaxed samples.
        energy_drop_ev_per_atom: generated minus relaxed energy.
    """

    samples: Mapping[str, Floats] = field(default_factory=dict)
    reference: Mapping[str, Floats] = field(default_factory=dict)
    whole: frozenset[str] = frozenset()
    e_above_hull_ev_per_atom: Floats = field(default_factory=lambda: np.zeros(0))
    energy_drop_ev_per_atom: Floats = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class EvaluationPictures:
    """PNGs of one evaluation; None where there is nothing to draw."""

    distributions: bytes | None
    relaxation: bytes | None

    @classmethod
    def of(cls, values: PlotValues) -> Self:
        """Drawn from the values."""
        return cls(distributions_png(values), relaxation_png(values))

    def files(self) -> dict[str, bytes]:
        """File name -> PNG."""
        named = {"distributions.png": self.distributions, "relaxation.png": self.relaxation}
        return {name: png for name, png in named.items() if png is not None}


def distributions_png(values: PlotValues) -> bytes | None:
    """Shares of samples and of reference crystals per bin, one panel per property; None without a finite value."""
    panels = [label for label, found in values.samples.items() if np.isfinite(found).any()]
    if not panels:
        return None
    figure = Figure(figsize=(9.4, 3.5), dpi=DPI, layout="constrained")
    grid: Sequence[Axes] = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, label in zip(grid, panels, strict=True):
        groups = {"samples": (values.samples[label], SAMPLES)}
        if label in values.reference and np.isfinite(values.reference[label]).any():
            groups["reference"] = (values.reference[label], REFERENCE)
        _compare(axes, groups, label, label in values.whole)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", frameon=False, fontsize=9, ncols=2)
    return figure_png(figure)


def _compare(axes: Axes, groups: Mapping[str, tuple[Floats, str]], label: str, whole: bool) -> None:
    finite = {name: values[np.isfinite(values)] for name, (values, _) in groups.items()}
    edges = _whole_edges(list(finite.values())) if whole else _edges(list(finite.values()))
    n_outside = 0
    for name, values in finite.items():
        counts, _ = np.histogram(values, edges)
        n_outside += len(values) - int(counts.sum())
        share = 100.0 * counts / max(len(values), 1)
        colour = groups[name][1]
        axes.stairs(share, edges, color=colour, fill=True, alpha=0.13)
        axes.stairs(share, edges, color=colour, linewidth=1.6, label=name)
    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    bare(axes, label, "% of crystals")
    _note(axes, f"{n_outside:,} beyond the axis" if n_outside else "")


def relaxation_png(values: PlotValues) -> bytes | None:
    """Samples per bin of energy above hull and of the energy lost on relaxing; None without a finite value."""
    panels = [
        (values.e_above_hull_ev_per_atom, "energy above hull, eV/atom", THRESHOLDS_EV_PER_ATOM),
        (values.energy_drop_ev_per_atom, "energy lost on relaxing, eV/atom", ()),
    ]
    shown = [panel for panel in panels if np.isfinite(panel[0]).any()]
    if not shown:
        return None
    figure = Figure(figsize=(9.4, 3.4), dpi=DPI, layout="constrained")
    for axes, (found, label, marks) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        _single(axes, found, label, marks)
    return figure_png(figure)


def _single(axes: Axes, found: Floats, label: str, marks: Sequence[float]) -> None:
    values = found[np.isfinite(found)]
    edges = _edges([np.concatenate([values, np.asarray(marks, dtype=float)])])
    counts, _ = np.histogram(values, edges)
    axes.stairs(counts, edges, color=SAMPLES, fill=True, alpha=0.25)
    axes.stairs(counts, edges, color=SAMPLES, linewidth=1.6)
    axes.set_ylim(0, max(1.0, 1.18 * float(counts.max(initial=0))))
    notes = []
    for mark in marks:
        axes.axvline(mark, color=INK, linewidth=0.9, linestyle="--")
        notes.append(f"{int((values <= mark).sum()):,} at most {mark:g}")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    bare(axes, label, f"samples, of {len(values):,}")
    if n_missing := len(found) - len(values):
        notes.append(f"{n_missing:,} have none")
    if n_outside := len(values) - int(counts.sum()):
        notes.append(f"{n_outside:,} beyond the axis")
    _note(axes, "\n".join(notes))


def _edges(groups: Sequence[Floats]) -> Floats:
    """Bins that cover nearly all values of every group; wide enough where all are equal."""
    bounds = [np.percentile(values, COVERED) for values in groups if len(values)]
    low, high = min(float(b[0]) for b in bounds), max(float(b[1]) for b in bounds)
    margin = max(0.03 * (high - low), 0.01 * max(abs(low), abs(high)), 1e-3)
    n_bins = int(np.clip(2 * np.sqrt(max(len(values) for values in groups)), BINS_MIN, BINS_MAX))
    return np.linspace(low - margin, high + margin, n_bins + 1)


def _whole_edges(groups: Sequence[Floats]) -> Floats:
    low = min(float(values.min()) for values in groups if len(values))
    high = max(float(values.max()) for values in groups if len(values))
    return np.arange(low - 0.5, high + 1.0, 1.0)


def bare(axes: Axes, across: str, up: str) -> None:
    """Axes without a box, with a faint grid."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color("#b9bfc9")
    axes.tick_params(labelsize=8, colors=MUTED, length=3)
    axes.set_xlabel(across, fontsize=9, color=INK, parse_math=False)
    axes.set_ylabel(up, fontsize=9, color=INK)
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)


def _note(axes: Axes, text: str) -> None:
    axes.text(0.99, 0.99, text, transform=axes.transAxes, ha="right", va="top", fontsize=7.5, color=MUTED)
