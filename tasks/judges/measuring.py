"""A potential beside DFT, crystal by crystal, by two protocols.

The field's (matbench-discovery): the potential's formation energy, counted from its own energies of the elements,
against the hull by DFT; so the error of a distance is that of the formation energy. The pipeline's: crystal and
competing phases alike by the potential, on a hull of its own, where errors of like crystals cancel in part. What a hull
without all phases does to a distance is another matter, and needs no potential: DFT's own energies tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from configs.judges import JudgedPotential, JudgesConfig
from storage.progress import LabelledProgress
from tasks.judges.energies import corrections_of, energies_of, relaxed_energies_of
from tasks.judges.truth import Known, Place, Truth

if TYPE_CHECKING:
    from dft.potentials.loading import LoadedPotential


DIGITS = 4
"""Of energies, eV/atom: figures are those of the numbers as they are written."""


@dataclass(frozen=True)
class Measured:
    """What a potential and DFT say of the same crystals, (n,) each, eV/atom; NaN where there is no value.

    Attributes:
        rows: of the crystals in their file.
        formulas: reduced.
        above: by DFT, above the hull of all known phases.
        formation_error: formation energy by the potential less that by DFT.
        above_own: above the potential's own hull, where that lacks no phase.
        above_lacking: by DFT, above the hull of the phases that have a crystal: what missing phases alone do.
        is_whole: whether that is the hull of all.
        elements: the potential's energy of each element as it stands on the hull, eV/atom.
    """

    rows: tuple[str, ...]
    formulas: tuple[str, ...]
    above: np.ndarray
    formation_error: np.ndarray
    above_own: np.ndarray
    above_lacking: np.ndarray
    is_whole: np.ndarray
    elements: dict[str, float]

    @property
    def above_by_dft_hull(self) -> np.ndarray:
        """By the field's protocol: the potential's formation energy above the hull by DFT."""
        predicted: np.ndarray = np.round(self.above + self.formation_error, DIGITS)
        return predicted


def measure(
    potential: LoadedPotential, places: Sequence[Place], truth: Truth, config: JudgesConfig, progress: LabelledProgress
) -> Measured:
    """The potential's energies of crystals as DFT relaxed them, and of the phases they compete with.

    Args:
        potential: checked.
        places: crystals by DFT.
        truth: its phases.
        config: chunks and folders.
        progress: told of every chunk.
    """
    wanted = _wanted(places, truth)
    energies = energies_of(wanted, potential, config, lambda n, of: progress(potential.name, n, of))
    return _measured(potential, places, truth, _on_hull(potential, wanted, energies, config, progress))


def measure_relaxed(
    potential: LoadedPotential,
    places: Sequence[Place],
    truth: Truth,
    config: JudgesConfig,
    progress: LabelledProgress,
) -> Measured:
    """The same with crystals and phases relaxed by the potential."""
    wanted = _wanted(places, truth)
    energies = relaxed_energies_of(wanted, potential, config, lambda n, of: progress(f"relax {potential.name}", n, of))
    return _measured(potential, places, truth, _on_hull(potential, wanted, energies, config, progress))


def _wanted(places: Sequence[Place], truth: Truth) -> list[Known]:
    """Crystals and phases, each once, in an order whose beginning does not change when more places follow."""
    wanted: dict[str, Known] = {}
    for place in places:
        names = [*(truth.elemental(symbol) for symbol in place.of.elements), *place.phases]
        for known in (place.of, *(truth.phases[name] for name in names)):
            wanted.setdefault(known.id, known)
    return list(wanted.values())


def _on_hull(
    potential: LoadedPotential,
    wanted: Sequence[Known],
    energies: dict[str, float | None],
    config: JudgesConfig,
    progress: LabelledProgress,
) -> dict[str, float]:
    """Energies as a hull takes them (dft.hull.dialects), of those that have one."""
    from dft.results import EnergyScheme

    lacking: dict[str, float | None] = {known.id: 0.0 for known in wanted}
    if potential.scheme is EnergyScheme.RAW:
        lacking = corrections_of(wanted, config, lambda n, of: progress("corrections", n, of))
    return {
        name: energy + correction
        for name, energy in energies.items()
        if energy is not None and (correction := lacking[name]) is not None
    }


def _measured(
    potential: LoadedPotential, places: Sequence[Place], truth: Truth, energies: dict[str, float]
) -> Measured:
    errors, own = [], []
    symbols = sorted({symbol for place in places for symbol in place.of.elements})
    for place in places:
        formation = _formation(place.of, truth, energies)
        errors.append(np.nan if formation is None else formation - place.of.formation_ev_per_atom)
        height = _height(potential, place, truth, energies)
        own.append(np.nan if height is None else height)
    return Measured(
        tuple(place.of.id.rpartition(":")[2] for place in places),
        tuple(place.of.formula for place in places),
        np.round([place.above_ev_per_atom for place in places], DIGITS),
        np.round(errors, DIGITS),
        np.round(own, DIGITS),
        np.array([place.above_with_crystals_ev_per_atom for place in places]),
        np.array([place.lacks_no_phase for place in places]),
        {symbol: energies[name] for symbol in symbols if (name := truth.elemental(symbol)) in energies},
    )


def _formation(crystal: Known, truth: Truth, energies: dict[str, float]) -> float | None:
    from pymatgen.core.composition import Composition

    amounts = Composition(crystal.formula).fractional_composition.get_el_amt_dict()
    elements = {symbol: energies.get(truth.elemental(symbol)) for symbol in amounts}
    energy = energies.get(crystal.id)
    if energy is None or any(one is None for one in elements.values()):
        return None
    return energy - sum(share * (elements[symbol] or 0.0) for symbol, share in amounts.items())


def _height(potential: LoadedPotential, place: Place, truth: Truth, energies: dict[str, float]) -> float | None:
    from pymatgen.core.composition import Composition

    from dft.hull.convex_hull import CompetingHull, Phase

    names = {*place.phases, *(truth.elemental(symbol) for symbol in place.of.elements)}
    phases = [
        Phase(name, Composition(truth.phases[name].formula), energies.get(name), potential.method)
        for name in sorted(names)
    ]
    if place.of.id not in energies or not place.lacks_no_phase:
        return None
    hull = CompetingHull(phases, place.of.elements)
    return hull.place(Composition(place.of.formula), energies[place.of.id], potential.method).e_above_hull_ev_per_atom


def loaded(entry: JudgedPotential, config: JudgesConfig) -> LoadedPotential:
    """The potential itself: nothing stands in for it."""
    from tasks.loading import potential

    asked = config.relax.model_copy(update={"potential": entry.potential, "fallback": None})
    return potential(asked, config.execution)
