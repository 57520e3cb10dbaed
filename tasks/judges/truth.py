"""What DFT says: the hull of all phases whose formation energy is known, and how far each crystal lies above it.

Of some phases the energy is known and the crystal is not. They span the hull by DFT; a potential's hull lacks them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.judges import JudgesConfig
from configs.paths import resolve
from generative.crystal.crystals import Crystal, crystals_of
from generative.datasets.records import formula_of
from tasks.rediscovery.targets import dataset_of

if TYPE_CHECKING:
    from dft.hull.convex_hull import CompetingHull

DFT = "PBE / PBE+U, formation energies as stated"
LACKS_NOTHING_EV_PER_ATOM = 1e-3
"""Phases without a crystal that lift the hull by less at a composition are as good as there."""


@dataclass(frozen=True)
class Known:
    """A phase or a crystal as its file has it.

    Attributes:
        id: unique among all.
        formula: reduced.
        elements: symbols, sorted.
        formation_ev_per_atom: by DFT.
        crystal: None where only the energy is known.
    """

    id: str
    formula: str
    elements: tuple[str, ...]
    formation_ev_per_atom: float
    crystal: Crystal | None


@dataclass(frozen=True)
class Place:
    """A crystal's distance above the hull by DFT.

    Attributes:
        of: the crystal.
        above_ev_per_atom: above the hull of all phases, eV/atom; negative below.
        above_with_crystals_ev_per_atom: above the hull of the phases that have a crystal.
        phases: ids of those that a potential's hull is made of; none where it would lack one that matters.
    """

    of: Known
    above_ev_per_atom: float
    above_with_crystals_ev_per_atom: float
    phases: tuple[str, ...]

    @property
    def lacks_no_phase(self) -> bool:
        """Whether a phase without a crystal makes no difference to the hull here."""
        return abs(self.above_ev_per_atom - self.above_with_crystals_ev_per_atom) < LACKS_NOTHING_EV_PER_ATOM


class Truth:
    """The hull by DFT, a chemical system at a time."""

    def __init__(self, phases: Sequence[Known], within_ev_per_atom: float) -> None:
        """Nothing is computed yet.

        Args:
            phases: all that are known.
            within_ev_per_atom: how far above the hull a phase may lie that is computed with potentials.
        """
        self.phases = {phase.id: phase for phase in phases}
        self.within = within_ev_per_atom
        self._of_elements: dict[tuple[str, ...], list[Known]] = defaultdict(list)
        for phase in phases:
            self._of_elements[phase.elements].append(phase)
        self._near = cache(self._near_hull)

    def place(self, crystal: Known) -> Place | None:
        """Its place, or None where an element has no phase with a crystal: no potential has a hull there."""
        from pymatgen.core.composition import Composition

        phases = list(self._inside(crystal.elements))
        with_crystals = [phase for phase in phases if phase.crystal is not None]
        if {p.elements for p in with_crystals if len(p.elements) == 1} != {(e,) for e in crystal.elements}:
            return None
        composition = Composition(crystal.formula)
        above = [
            _hull(some, crystal.elements).place(composition, crystal.formation_ev_per_atom, DFT)
            for some in (phases, with_crystals)
        ]
        heights = [position.e_above_hull_ev_per_atom for position in above]
        if heights[0] is None or heights[1] is None:
            return None
        place = Place(crystal, heights[0], heights[1], ())
        if not place.lacks_no_phase:
            return place
        near = chain.from_iterable(self._near(part) for part in _parts(crystal.elements))
        return replace(place, phases=tuple(sorted(near)))

    def elemental(self, symbol: str) -> str:
        """Id of the lowest crystal of an element by DFT.

        Raises: ValueError: if there is none.
        """
        return min((p for p in self._of_elements[(symbol,)] if p.crystal), key=_lowest).id

    def _inside(self, elements: tuple[str, ...]) -> Iterator[Known]:
        return chain.from_iterable(self._of_elements.get(part, ()) for part in _parts(elements))

    def _near_hull(self, elements: tuple[str, ...]) -> tuple[str, ...]:
        """Ids of the phases of exactly these elements that have a crystal and lie near the hull of such phases."""
        own = [phase for phase in self._of_elements.get(elements, ()) if phase.crystal is not None]
        if not own:
            return ()
        hull = _hull([p for p in self._inside(elements) if p.crystal is not None], elements)
        above = hull.phases_above_hull()
        heights = {phase.id: above[phase.id] for phase in own}
        return tuple(name for name, height in heights.items() if height is not None and height <= self.within)


def _lowest(phase: Known) -> tuple[float, str]:
    return phase.formation_ev_per_atom, phase.id


def _parts(elements: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return chain.from_iterable(combinations(elements, n) for n in range(1, len(elements) + 1))


def _hull(phases: Sequence[Known], elements: Sequence[str]) -> CompetingHull:
    from pymatgen.core.composition import Composition

    from dft.hull.convex_hull import hull_from_formation_energies

    compositions = {phase.id: Composition(phase.formula) for phase in phases}
    energies: dict[str, float | None] = {phase.id: phase.formation_ev_per_atom for phase in phases}
    return hull_from_formation_energies(compositions, energies, DFT, elements)


def read_crystals(config: JudgesConfig) -> list[Known]:
    """The crystals that are judged, in the order drawn by the seed; ids say their rows in the file."""
    found = _of_table(dataset_of(config.crystals, config.workers, config.shared_folder))
    most = max(entry.n_crystals for entry in config.potentials)
    return [found[i] for i in np.random.default_rng(config.seed).permutation(len(found))[:most]]


def read_phases(config: JudgesConfig) -> list[Known]:
    """Phases with crystals, each id once, and those of `labels` that are none of them."""
    found: dict[str, Known] = {}
    for source in config.phases:
        for phase in _of_table(dataset_of(source, config.workers, config.shared_folder)):
            found.setdefault(phase.id.partition(":")[2], phase)
    if config.labels is not None:
        for row in _labels(resolve(config.labels)):
            found.setdefault(row.id, row)
    return list(found.values())


def _of_table(table: pa.Table) -> list[Known]:
    names = ["id", "formula", "chemsys", "formation_energy_ev_per_atom"]
    rows: list[dict[str, Any]] = table.select(names).to_pylist()
    return [
        Known(row["id"], row["formula"], tuple(row["chemsys"].split("-")), energy, crystal)
        for row, crystal in zip(rows, crystals_of(table), strict=True)
        if (energy := row["formation_energy_ev_per_atom"]) is not None and crystal is not None
    ]


def _labels(path: Path) -> Iterator[Known]:
    from pymatgen.core.composition import Composition

    table = pq.read_table(path, columns=["material_id", "atomic_numbers", "formation_energy_per_atom"])
    for row in table.to_pylist():
        formula = formula_of(row["atomic_numbers"])
        elements = tuple(sorted(element.symbol for element in Composition(formula)))
        yield Known(str(row["material_id"]), formula, elements, row["formation_energy_per_atom"], None)
