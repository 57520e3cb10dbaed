"""Pictures of a dataset as still PNGs: elements on the periodic table, energies by method, cells and symmetry."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from generative.config import ELEMENTS
from tasks.report.dataset.statistics import DatasetStatistics, Floats
from tasks.report.png import figure_png
from tasks.report.space_groups import short_symbol

INK, MUTED, FAINT, BAR = "#20242c", "#6b7484", "#e3e6eb", "#2a788e"
HEAT = LinearSegmentedColormap.from_list("heat", ["#dcedee", "#6fb3b8", "#1d6f7a", "#0b2f3a"])
METHOD_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Apart for every eye (Okabe and Ito); one per method, in the order of their names."""

DPI = 130
BINS = 60
COVERED = (0.5, 99.5)
"""Percentiles between which an energy axis runs: a single wild value must not press all others into one bar."""

MOST_ATOMS_SHOWN = 80
TOP_SPACEGROUPS = 10
NAME_LENGTH = 100


@dataclass(frozen=True)
class DatasetPictures:
    """PNGs of one dataset; None where there is nothing to draw."""

    elements: bytes
    energies: bytes | None
    cells: bytes | None

    @classmethod
    def of(cls, statistics: DatasetStatistics) -> Self:
        """Drawn from the counts."""
        return cls(elements_png(statistics), energies_png(statistics), cells_png(statistics))


_PERIODS = (2, 8, 8, 18, 18, 32, 32)


def periodic_place(atomic_number: int) -> tuple[float, float]:
    """Column and row of an element's cell, both from 0; lanthanides and actinides stand in rows of their own below."""
    if 57 <= atomic_number <= 71:
        return float(atomic_number - 57 + 2), 7.4
    if 89 <= atomic_number <= 103:
        return float(atomic_number - 89 + 2), 8.4
    row, first = 0, 1
    while atomic_number >= first + _PERIODS[row]:
        first += _PERIODS[row]
        row += 1
    into, length = atomic_number - first, _PERIODS[row]
    in_left_block = 1 if row == 0 else 2
    return float(into if into < in_left_block else into + 18 - length), float(row)


def elements_png(statistics: DatasetStatistics) -> bytes:
    """The periodic table, each element coloured by the number of crystals that hold it; PNG."""
    counts = statistics.elements
    figure = Figure(figsize=(9.4, 5.3), dpi=DPI)
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set_xlim(-0.15, 18.15)
    axes.set_ylim(9.55, -0.15)
    axes.axis("off")
    norm = _heat_norm(list(counts.values()))
    for number, symbol in enumerate(ELEMENTS, start=1):
        column, row = periodic_place(number)
        _cell(axes, column, row, symbol, counts.get(symbol), norm)
    for row, label in ((5.0, "57–71"), (6.0, "89–103")):
        axes.text(2.5, row + 0.5, label, ha="center", va="center", fontsize=6.5, color=MUTED)
    if counts:
        _heat_key(figure, norm, statistics.n_rows)
    return figure_png(figure)


def _heat_norm(counts: Sequence[int]) -> Normalize:
    # The rarest elements share one colour: a single crystal of argon would press all others into the dark end.
    low, high = (max(1.0, float(np.percentile(counts, 5))), max(counts)) if counts else (1.0, 1)
    return LogNorm(low, high, clip=True) if high >= 10 * low else Normalize(0, max(high, 1))


def _cell(axes: Axes, column: float, row: float, symbol: str, count: int | None, norm: Normalize) -> None:
    colour = "#f6f7f8" if count is None else HEAT(norm(count))
    axes.add_patch(Rectangle((column + 0.03, row + 0.03), 0.94, 0.94, facecolor=colour, edgecolor=FAINT, linewidth=0.6))
    ink = "#b4bac4" if count is None else _ink_on(to_rgb(colour))
    middle = row + (0.5 if count is None else 0.4)
    weight = "normal" if count is None else "bold"
    axes.text(column + 0.5, middle, symbol, ha="center", va="center", fontsize=11, color=ink, fontweight=weight)
    if count is not None:
        axes.text(column + 0.5, row + 0.76, short(count), ha="center", va="center", fontsize=6.6, color=ink)


def _ink_on(rgb: tuple[float, float, float]) -> str:
    """White or ink, whichever stands out more on this colour (contrast as the W3C defines it)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#ffffff" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.068 else INK


def _heat_key(figure: Figure, norm: Normalize, n_rows: int) -> None:
    scale = figure.add_axes((0.19, 0.865, 0.42, 0.028))
    bar = figure.colorbar(ScalarMappable(norm, HEAT), cax=scale, orientation="horizontal")
    bar.outline.set_visible(False)  # type: ignore[operator]
    scale.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    scale.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    scale.tick_params(labelsize=8, colors=MUTED, length=2, which="both")
    scale.set_title(f"crystals that hold the element, of {n_rows:,}", fontsize=9, color=INK, loc="left")


def short(count: float) -> str:
    """A count in at most five characters: 950, 1.2k, 34k, 1.5M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f}{unit}" if count < 10 * size else f"{count / size:.0f}{unit}"
    return f"{count:.0f}"


def energies_png(statistics: DatasetStatistics) -> bytes | None:
    """Formation energies and energies above the hull, one colour per method, never added up; PNG. None without any."""
    named = method_colours(statistics)
    stated = [
        (statistics.formation_ev_per_atom, "formation energy, eV/atom"),
        (statistics.above_hull_ev_per_atom, "energy above hull as the source states it, eV/atom"),
    ]
    panels = [({m: e for m, e in energies.items() if m in named}, label) for energies, label in stated]
    panels = [(energies, label) for energies, label in panels if energies]
    if not panels:
        return None
    figure = Figure(figsize=(9.4, 3.4 + 0.2 * len(named)), dpi=DPI, layout="constrained")
    handles: dict[str, Artist] = {}
    for axes, (energies, label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        # Nearly all crystals of a database lie on or near its hull; the others are seen on a logarithmic axis only.
        handles |= _energy_panel(axes, energies, label, named, logarithmic="above hull" in label)
    names = [name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…" for name in handles]
    legend = figure.legend(handles.values(), names, loc="outside lower center", frameon=False, fontsize=8.5)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name is the source's; a '$' in it is no formula
    return figure_png(figure)


def method_colours(statistics: DatasetStatistics) -> dict[str, str]:
    """Colour of each method that states energies; of more methods than colours, of those with most crystals."""
    stated = set(statistics.formation_ev_per_atom) | set(statistics.above_hull_ev_per_atom)
    most = [method for method in statistics.methods if method in stated][: len(METHOD_COLOURS)]
    return dict(zip(sorted(most), METHOD_COLOURS, strict=False))


def _energy_panel(
    axes: Axes, energies: Mapping[str, Floats], label: str, named: Mapping[str, str], logarithmic: bool
) -> dict[str, Artist]:
    low, high = energy_range_ev_per_atom(list(energies.values()))
    edges = np.linspace(low, high, BINS + 1)
    handles: dict[str, Artist] = {}
    n_outside, highest = 0, 1
    for method, values in energies.items():
        counts, _ = np.histogram(values, edges)
        n_outside += len(values) - int(counts.sum())
        axes.stairs(counts, edges, color=named[method], fill=True, alpha=0.10)
        handles[method] = axes.stairs(counts, edges, color=named[method], linewidth=1.5)
        highest = max(highest, int(counts.max()))
    _bare(axes, label, "crystals")
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
        axes.set_ylim(0.7, 2.0 * highest)
    else:
        axes.set_ylim(0, 1.12 * highest)
    if n_outside:
        note = f"{n_outside:,} beyond the axis"
        axes.text(0.99, 0.98, note, transform=axes.transAxes, ha="right", va="top", fontsize=7.5, color=MUTED)
    return handles


def energy_range_ev_per_atom(energies: Sequence[Floats]) -> tuple[float, float]:
    """Ends of an axis that covers nearly all of these energies; at least 0.1 eV/atom wide."""
    bounds = [np.percentile(values, COVERED) for values in energies]
    low, high = float(min(b[0] for b in bounds)), float(max(b[1] for b in bounds))
    margin = max(0.02 * (high - low), 0.05 - (high - low) / 2, 0.0)
    return (low if low == 0 and high - low >= 0.1 else low - margin), high + margin


def cells_png(statistics: DatasetStatistics) -> bytes | None:
    """Atoms per cell, elements per crystal, crystal systems and the commonest space groups; PNG. None without rows."""
    if not statistics.n_rows:
        return None
    figure = Figure(figsize=(9.4, 6.2), dpi=DPI, layout="constrained")
    atoms, groups, elements, systems = figure.subplots(2, 2).ravel()
    _atoms_panel(atoms, statistics.n_atoms)
    elements.bar([str(n) for n in statistics.n_elements], list(statistics.n_elements.values()), color=BAR)
    _bare(elements, "elements in a crystal", "crystals")
    names = statistics.crystal_systems
    systems.barh(list(names), list(names.values()), color=BAR)
    systems.invert_yaxis()
    _bare(systems, "crystals", "", across=True)
    _groups_panel(groups, statistics)
    return figure_png(figure)


def _atoms_panel(axes: Axes, counts: Mapping[int, int]) -> None:
    beyond = sum(count for n, count in counts.items() if n > MOST_ATOMS_SHOWN)
    shown = {n: count for n, count in counts.items() if n <= MOST_ATOMS_SHOWN}
    axes.bar(list(shown), list(shown.values()), width=0.85, color=BAR)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _bare(axes, "atoms in the primitive cell", "crystals")
    if beyond:
        note = f"{beyond:,} with more than {MOST_ATOMS_SHOWN}"
        axes.text(0.99, 0.98, note, transform=axes.transAxes, ha="right", va="top", fontsize=7.5, color=MUTED)


def _groups_panel(axes: Axes, statistics: DatasetStatistics) -> None:
    found = {n: count for n, count in statistics.spacegroups.items() if n is not None}
    top = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:TOP_SPACEGROUPS]
    axes.barh([spacegroup_name(number) for number, _ in top], [count for _, count in top], color=BAR)
    axes.invert_yaxis()
    _bare(axes, f"crystals, in the {len(top)} commonest of {len(found)} space groups", "", across=True)


def spacegroup_name(number: int) -> str:
    """Short symbol and number of a space group, in matplotlib's notation."""
    symbol = re.sub(r"_(\d)", r"$\\mathregular{_\1}$", short_symbol(number))
    return re.sub(r"-(\d)", r"$\\mathregular{\\bar{\1}}$", symbol) + f" ({number})"


def _bare(axes: Axes, across_label: str, up_label: str, across: bool = False) -> None:
    """Axes without a box, counts in few characters; `across` where the counts run along the horizontal axis."""
    for side in ("top", "right", *(("left",) if across else ())):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color("#b9bfc9")
    axes.tick_params(labelsize=8, colors=MUTED, length=0 if across else 3)
    axes.set_xlabel(across_label, fontsize=9, color=INK)
    axes.set_ylabel(up_label, fontsize=9, color=INK)
    counted = axes.xaxis if across else axes.yaxis
    counted.set_major_locator(MaxNLocator(nbins=5, integer=True))
    counted.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.grid(axis="x" if across else "y", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
