"""Where phases lie in a hull picture, and the tie-lines between the stable ones.

Axes: composition is a point of the simplex of the system's elements; height is formation energy, eV/atom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError

from generative.datasets.origins import LABELS, Origin
from tasks.discover.candidates import NEAR_HULL_EV_PER_ATOM, Proposer
from tasks.report.run.model import HullData, HullPhase, ReportCandidate

FloatArray = NDArray[np.float64]

FAR_ABOVE_EV_PER_ATOM = 0.5
"""Above the hull by more than this, at most, nothing has room beside a height; see shown_hull."""

ALWAYS_SHOWN = 10
"""The lowest candidates have room whatever their height."""

TETRAHEDRON = np.array([[0, 0, 0], [1, 0, 0], [0.5, np.sqrt(3) / 2, 0], [0.5, np.sqrt(3) / 6, np.sqrt(2 / 3)]])
"""Corners of the quaternary tetrahedron, edges of one: the last element on top."""

TRIANGLE = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3) / 2]])
"""Corners of the ternary triangle: first element lower left, second lower right, third on top."""

ON_HULL_EV_PER_ATOM = 1e-6
"""A candidate at most this far above counts as on or below the hull; rounding, not physics."""

COLOUR_STOPS = ("#414487", "#2a788e", "#22a884", "#7ad151", "#fde725")
"""Viridis without its darkest end, so that points stand out on dark paper too: low energy is dark blue."""


PROTOTYPE_COLOUR = "#b5651d"
"""Of stable prototypes: apart from the ink of what databases hold, and from every colour of the candidates."""


@dataclass(frozen=True)
class PhaseStyle:
    """How the phases of one origin are drawn; filled on the hull, hollow above it.

    Attributes:
        origin: value of generative.datasets.origins.Origin.
        label: in legends, followed by 'stable' or 'above the hull'.
        marker: matplotlib's.
        symbol, symbol_3d: plotly's; in three dimensions it draws letters, and few that every machine has.
        part: of the traces of stable phases, by which the page colours them.
        colour: of stable phases; None is the ink of the picture.
    """

    origin: str
    label: str
    marker: str
    symbol: str
    symbol_3d: str
    part: str
    colour: str | None = None


PHASE_STYLES = (
    PhaseStyle(Origin.REPORTED.value, "reported", "o", "circle", "circle", "known"),
    PhaseStyle(Origin.HYPOTHETICAL.value, "computed only", "s", "square", "square", "known"),
    PhaseStyle(Origin.UNSTATED.value, "in a database", "D", "diamond", "diamond", "known"),
    PhaseStyle(Origin.PROTOTYPE.value, "prototype", "^", "triangle-up", "square", "prototype", PROTOTYPE_COLOUR),
)


def phase_counts(phases: Sequence[HullPhase]) -> str:
    """Per origin how many, and how many of them on the hull: '14 reported, 11 of them on the hull; ...'."""
    parts = []
    for style in PHASE_STYLES:
        own = [phase for phase in phases if phase.origin == style.origin]
        if own:
            parts.append(f"{len(own)} {LABELS[style.origin]}, {sum(p.stable for p in own)} of them on the hull")
    return "; ".join(parts) or "none"


@dataclass(frozen=True)
class PlacedCandidate:
    """A candidate that has a place in the picture: both its hull numbers are known."""

    candidate: ReportCandidate
    fractions: FloatArray
    formation_energy_ev_per_atom: float
    e_above_hull_ev_per_atom: float

    @property
    def is_prototype(self) -> bool:
        """Whether it is a stable prototype, one of the phases itself."""
        return self.candidate.proposed_by == Proposer.PROTOTYPE


def fraction_vector(fractions: Mapping[str, float], elements: Sequence[str]) -> FloatArray:
    """Atomic fractions in the order of `elements`, (k,), adding to 1.

    Raises: ValueError: if the composition holds an element outside the system, or nothing.
    """
    outside = sorted(symbol for symbol, amount in fractions.items() if amount > 0 and symbol not in elements)
    vector = np.array([float(fractions.get(symbol, 0.0)) for symbol in elements])
    if outside or vector.sum() <= 0:
        raise ValueError(
            f"composition {dict(fractions)} does not lie in {'-'.join(elements)}: expected only its elements, so give "
            "the hull all elements of its phases"
        )
    normalised: FloatArray = vector / vector.sum()
    return normalised


def placed_candidates(candidates: Sequence[ReportCandidate], hull: HullData) -> list[PlacedCandidate]:
    """Candidates with both hull numbers and a composition in the system, worst first so the best is drawn on top."""
    placed = []
    for candidate in candidates:
        formation, above = candidate.formation_energy_ev_per_atom, candidate.e_above_hull_ev_per_atom
        fractions = candidate.fractions
        if formation is None or above is None or not set(fractions) <= set(hull.elements):
            continue
        if np.isfinite(formation) and np.isfinite(above):
            placed.append(PlacedCandidate(candidate, fraction_vector(fractions, hull.elements), formation, above))
    return sorted(placed, key=lambda p: (-p.e_above_hull_ev_per_atom, p.candidate.id))


@dataclass(frozen=True)
class ShownHull:
    """What of a hull has room in a picture with an energy for an axis.

    Attributes:
        hull: with the phases that are drawn; all stable ones are.
        placed: candidates that are drawn, worst first.
        left_out: how many of what are not, and beyond which height, one sentence; or empty.
    """

    hull: HullData
    placed: list[PlacedCandidate]
    left_out: str


def shown_hull(hull: HullData, placed: Sequence[PlacedCandidate]) -> ShownHull:
    """Without what lies so far above the hull that the hull itself would be a line beside it.

    Room is left above the hull for as much as it is deep, from 0.1 to FAR_ABOVE_EV_PER_ATOM; for prototypes, of which
    there are hundreds, for 0.1; for the ALWAYS_SHOWN lowest candidates, whatever they need.
    """
    depth = max((-p.formation_energy_ev_per_atom for p in hull.phases if p.stable), default=0.0)
    ceiling = round(float(np.clip(depth, NEAR_HULL_EV_PER_ATOM, FAR_ABOVE_EV_PER_ATOM)), 2)
    lowest = sorted(p.e_above_hull_ev_per_atom for p in placed)[:ALWAYS_SHOWN]
    roof = max(ceiling, *lowest) if lowest else ceiling
    limits = {style.origin: ceiling for style in PHASE_STYLES} | {Origin.PROTOTYPE.value: NEAR_HULL_EV_PER_ATOM}

    def is_drawn(phase: HullPhase) -> bool:
        return phase.stable or phase.e_above_hull_ev_per_atom <= limits[phase.origin]

    drawn = tuple(phase for phase in hull.phases if is_drawn(phase))
    near = [p for p in placed if p.e_above_hull_ev_per_atom <= roof]
    lost = [phase.origin == Origin.PROTOTYPE for phase in hull.phases if not is_drawn(phase)]
    counts = (
        (sum(lost), "prototype", NEAR_HULL_EV_PER_ATOM),
        (len(lost) - sum(lost), "known phase", ceiling),
        (len(placed) - len(near), "candidate", roof),
    )
    parts = [f"{n} {noun}{'s' * (n > 1)} by more than {limit:.2g} eV/atom" for n, noun, limit in counts if n]
    left_out = f"Above the hull and not drawn: {', '.join(parts)}" if parts else ""
    return ShownHull(replace(hull, phases=drawn), near, left_out)


def triangle_xy(fractions: FloatArray) -> FloatArray:
    """Ternary fractions (..., 3) to points of the unit triangle (..., 2)."""
    xy: FloatArray = fractions @ TRIANGLE
    return xy


def lower_facets(fractions: FloatArray, energies: FloatArray) -> list[tuple[int, ...]]:
    """Facets of the lower convex hull: index tuples of their corners, sorted; the tie-lines are their edges.

    Args:
        fractions: (n, k), rows adding to 1, k >= 2.
        energies: formation energy of each, (n,), eV/atom. Only points at or below zero can be stable.
    Returns: Facets of k points each; empty if an element of the system has no phase, for then there is no hull.
    """
    n_elements = fractions.shape[1]
    candidates = np.flatnonzero(energies <= 1e-9)
    best: dict[tuple[float, ...], int] = {}
    for index in candidates:
        key = tuple(np.round(fractions[index], 9))
        if key not in best or energies[index] < energies[best[key]]:
            best[key] = int(index)
    kept = sorted(best.values())
    if n_elements < 2 or not kept or any(fractions[kept][:, e].max() < 1 - 1e-9 for e in range(n_elements)):
        return []
    points = np.column_stack([fractions[kept][:, 1:], energies[kept]])
    # A point far above makes the set solid even when only the elements are there; its own facets look upward.
    apex = np.append(np.full(n_elements - 1, 1.0 / n_elements), 1.0 + np.abs(points[:, -1]).max())
    try:
        hull = ConvexHull(np.vstack([points, apex]))
    except QhullError:  # one composition only, or all flat: nothing to join
        return []
    facets = [
        tuple(sorted(kept[i] for i in simplex))
        for simplex, equation in zip(hull.simplices, hull.equations, strict=True)
        if equation[-2] < -1e-9 and len(points) not in simplex
    ]
    return sorted(facets)


def tie_lines(facets: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    """The distinct edges of the facets, sorted."""
    return sorted({(f[i], f[j]) for f in facets for i in range(len(f)) for j in range(i + 1, len(f))})


def phase_arrays(phases: Sequence[HullPhase], elements: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    """Fractions (n, k) and formation energies (n,), eV/atom, of the phases.

    Raises: ValueError: if a phase holds an element outside the system.
    """
    fractions = np.array([fraction_vector(p.fractions, elements) for p in phases]).reshape(-1, len(elements))
    return fractions, np.array([p.formation_energy_ev_per_atom for p in phases], dtype=float)


def colour_limit_ev_per_atom(placed: Sequence[PlacedCandidate]) -> float:
    """Upper end of the colour scale, eV/atom: most candidates fit, rounded up to 0.05, from 0.1 to 0.5."""
    above = [p.e_above_hull_ev_per_atom for p in placed]
    if not above:
        return 0.1
    return float(np.clip(np.ceil(np.quantile(above, 0.9) * 20) / 20, 0.1, 0.5))


def one_per_composition(phases: Sequence[HullPhase]) -> list[HullPhase]:
    """Stable phases, the lowest of each composition, by formula: what a picture labels."""
    best: dict[str, HullPhase] = {}
    for phase in sorted(phases, key=lambda p: (p.formation_energy_ev_per_atom, p.id)):
        if phase.stable:
            best.setdefault(phase.formula, phase)
    return [best[formula] for formula in sorted(best)]


MOST_NAMES = 24
"""Stable compounds named in a picture, the deepest; a pointer over the others tells their names."""


def named_phases(hull: HullData) -> list[HullPhase]:
    """The stable compounds that a picture names, deepest first."""
    compounds = [p for p in one_per_composition(hull.phases) if sum(f > 0 for f in p.fractions.values()) > 1]
    return sorted(compounds, key=lambda p: (p.formation_energy_ev_per_atom, p.id))[:MOST_NAMES]
