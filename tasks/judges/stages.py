"""The benchmark of judges from files to tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from configs.judges import JudgesConfig
from storage.progress import LabelledProgress
from tasks.judges.energies import legacy_shifts_of
from tasks.judges.measuring import loaded, measure, measure_relaxed
from tasks.judges.results import Judged, write_results
from tasks.judges.truth import Known, Place, Truth, read_crystals, read_phases


def judges(config: JudgesConfig, progress: LabelledProgress) -> Path:
    """Measure every potential, and write tables and calibrations.

    Args:
        config: potentials, crystals, phases.
        progress: told of long work.

    Returns: The table's file.
    """
    crystals, phases = _in_one_scheme(read_crystals(config), config, progress), read_phases(config)
    truth = Truth(phases, config.competing_within_ev_per_atom)
    places = _places(crystals, truth, progress)
    found = []
    for entry in config.potentials:
        potential = loaded(entry, config)
        own = [place for place in places[: entry.n_crystals] if place is not None]
        some = [place for place in places[: entry.n_relaxed] if place is not None]
        measured = measure(potential, own, truth, config, progress)
        relaxed = measure_relaxed(potential, some, truth, config, progress) if some else None
        found.append(Judged(potential, measured, relaxed))
    names = [Path(source.path).name.partition(".")[0] for source in config.phases]
    data = (
        f"{Path(config.crystals.path).name.partition('.')[0]} above the hull of {len(phases):,} phases of "
        f"{', '.join(names)}{' and labels' if config.labels else ''}"
    )
    return write_results(found, config, data)


def _in_one_scheme(crystals: list[Known], config: JudgesConfig, progress: LabelledProgress) -> list[Known | None]:
    """Crystals with formation energies as the phases' are corrected; None where that cannot be had."""
    if config.crystals_scheme == "mp2020":
        return list(crystals)
    shifts = legacy_shifts_of(crystals, config, lambda n, of: progress("corrections", n, of))
    return [
        None
        if (shift := shifts[known.id]) is None
        else replace(known, formation_ev_per_atom=known.formation_ev_per_atom + shift)
        for known in crystals
    ]


def _places(crystals: list[Known | None], truth: Truth, progress: LabelledProgress) -> list[Place | None]:
    found: list[Place | None] = []
    for known in crystals:
        found.append(None if known is None else truth.place(known))
        progress("hull by DFT", len(found), len(crystals))
    return found
