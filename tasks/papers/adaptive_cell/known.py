"""Section 5.3: known structures that nobody has learned from, asked for by group and sites, and relaxed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from configs.adaptive_cell_reproduction import AdaptiveCellReproductionConfig
from generative.config import ScreenConfig
from generative.crystal.crystals import Crystal, crystals_of
from generative.datasets.checks import spacegroup_of
from generative.metrics.shares import percentage
from generative.metrics.validity import verdicts
from tasks.papers.adaptive_cell.asked import drawing_inputs, drawn, known_structures, sites_text
from tasks.papers.adaptive_cell.table_one import has_composition, matches
from tasks.papers.results import Made, Measured, Progress, ResultKey, share_error
from tasks.papers.samples import Drawn, relaxed

PROTOCOL = "adaptive-cell known structures"


def known_inputs(config: AdaptiveCellReproductionConfig, key: ResultKey) -> dict[str, Any]:
    """What the recovery of a system depends on.

    Raises: NotReadyError: if it is not trained, or there is no structure to ask for.
    """
    return {
        **drawing_inputs(config, key.system),
        "structures": known_structures(config).digest,
        "n_samples": config.known.n_samples,
        "relax": config.known.relax.model_dump(mode="json", exclude={"chunk_size"}),
    }


def recover(config: AdaptiveCellReproductionConfig, key: ResultKey, progress: Progress) -> Made:
    """Ask for each structure, relax what has its composition, and look for the structure among it.

    A sample of another composition cannot match, and one that is like an earlier sample of the same structure relaxes
    to what that one does: neither is relaxed.
    """
    asked, n_samples = known_structures(config), config.known.n_samples
    found = drawn(config, key, asked, progress, n_samples)
    likes = [crystal for crystal in asked.crystals for _ in range(n_samples)]
    valid = verdicts(found.crystals).structure
    groups = [group for crystal in asked.crystals for group in [sites_text(crystal)[1]] * n_samples]
    rows = [i for i, sound in enumerate(valid) if sound]
    composed = [i for i in rows if has_composition(found.crystals[i], likes[i])]
    at_once = _matching(dict(zip(composed, [found.crystals[i] for i in composed], strict=True)), likes, config.workers)
    distinct = [i for own in _by_structure(composed, n_samples).values() for i in _distinct(own, found.crystals)]
    part = replace(
        found, ids=tuple(found.ids[i] for i in distinct), crystals=tuple(found.crystals[i] for i in distinct)
    )
    ends = _relaxed(config, key, part, progress)
    later = _matching({i: end for i in distinct if (end := ends.get(found.ids[i])) is not None}, likes, config.workers)
    structures = {
        name: {
            "sites": sites_text(crystal)[0],
            "group": groups[number * n_samples],
            "formula": asked.formulas[number],
            "of_the_composition": len(_of(composed, number, n_samples)),
            "as_drawn": len(_of(at_once, number, n_samples)),
            "relaxed": len(_of(later, number, n_samples)),
        }
        for number, (name, crystal) in enumerate(zip(asked.ids, asked.crystals, strict=True))
    }
    in_group = sum(spacegroup_of(found.crystals[i]) == groups[i] for i in rows)
    metrics = metrics_of(structures, len(rows), in_group, n_samples)
    return Made(metrics, {**found.sampling, "n_relaxed": len(distinct), "structures": structures})


def metrics_of(
    structures: Mapping[str, Mapping[str, Any]], n_valid: int, n_in_group: int, n_samples: int
) -> tuple[Measured, ...]:
    """Shares of structures that are recovered, and of samples that are what was asked for.

    Args:
        structures: of each, how many samples have its composition, match it as drawn, match it once relaxed.
        n_valid: valid samples of all structures.
        n_in_group: those of them in the group that was asked for.
        n_samples: of each structure.
    """
    every = structures.values()
    n, n_all = len(structures), n_samples * len(structures)
    counts = (
        ("recovered", sum(one["relaxed"] > 0 for one in every), n),
        ("recovered as drawn", sum(one["as_drawn"] > 0 for one in every), n),
        ("samples that match as drawn", sum(one["as_drawn"] for one in every), n_all),
        ("samples of the composition", sum(one["of_the_composition"] for one in every), n_all),
        ("valid samples", n_valid, n_all),
        ("asked space group", n_in_group, n_valid),
    )
    return tuple(share_error(percentage(PROTOCOL, name, hits, of, {})) for name, hits, of in counts)


def _relaxed(
    config: AdaptiveCellReproductionConfig, key: ResultKey, part: Drawn, progress: Progress
) -> dict[str, Crystal]:
    """The relaxed crystals by id, where there are any."""
    if not part.ids:
        return {}
    table = relaxed(config, config.known.relax, part, key.folder(config), progress)
    pairs = zip(table.column("id").to_pylist(), crystals_of(table, "relaxed_"), strict=True)
    return {str(name): crystal for name, crystal in pairs if crystal is not None}


def _by_structure(rows: Sequence[int], n_samples: int) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for row in rows:
        found.setdefault(row // n_samples, []).append(row)
    return found


def _of(rows: Sequence[int], number: int, n_samples: int) -> list[int]:
    return [row for row in rows if row // n_samples == number]


def _distinct(rows: Sequence[int], crystals: Sequence[Crystal]) -> list[int]:
    """The first of every group of like samples."""
    from generative.screening.matching import Tolerances, group

    first = group([crystals[i] for i in rows], Tolerances.from_config(ScreenConfig())).first_members
    return [rows[place] for place in sorted(set(first))]


def _matching(samples: Mapping[int, Crystal], likes: Sequence[Crystal], workers: int) -> list[int]:
    """Rows of the samples that match what they were drawn for."""
    rows = list(samples)
    hits = matches([samples[i] for i in rows], [likes[i] for i in rows], workers)
    return [row for row, hit in zip(rows, hits, strict=True) if hit]
