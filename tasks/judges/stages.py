"""The benchmark of judges from files to tables."""

from __future__ import annotations

from pathlib import Path

from configs.judges import JudgesConfig
from storage.progress import LabelledProgress
from tasks.judges.measuring import loaded, measure, measure_relaxed, places_of
from tasks.judges.results import Judged, write_results
from tasks.judges.truth import Truth, read_crystals, read_phases


def judges(config: JudgesConfig, progress: LabelledProgress) -> Path:
    """Measure every potential, and write tables and calibrations.

    Args:
        config: potentials, crystals, phases.
        progress: told of long work.

    Returns: The table's file.
    """
    crystals, phases = read_crystals(config), read_phases(config)
    truth = Truth(phases, config.competing_within_ev_per_atom)
    most = max(entry.n_crystals for entry in config.potentials)
    places = places_of(crystals, truth, most, progress)
    found = []
    for entry in config.potentials:
        potential = loaded(entry, config)
        measured = measure(potential, places[: entry.n_crystals], truth, config, progress)
        some = places[: entry.n_relaxed]
        relaxed = measure_relaxed(potential, some, truth, config, progress) if some else None
        found.append(Judged(potential, measured, relaxed))
    names = [Path(source.path).name.partition(".")[0] for source in config.phases]
    data = (
        f"{Path(config.crystals.path).name.partition('.')[0]} above the hull of {len(phases):,} phases of "
        f"{', '.join(names)}"
    )
    return write_results(found, config, data)
