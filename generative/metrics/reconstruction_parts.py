"""Match rate and rms of the CDVAE reconstruction protocol for parts of the targets: by size, and by trained formulas.

One rate hides two things. Large cells are harder, so a rate depends on how large the test crystals are. And a target
whose formula occurs in the training set may be a copy, or another polymorph that misleads: both parts are told apart.

Rules, tolerances and gate are those of `reconstruction`; nothing is matched again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from generative.crystal.crystals import Crystal
from generative.datasets.records import formula_of
from generative.metrics.metric import Evaluation, Metric, Setting
from generative.metrics.reconstruction import RMS_UNIT, Reconstruction
from generative.metrics.shares import percentage, statistic

PARTS = "reconstruction by part"
ABOUT = (
    "Match rate and rms of `cdvae reconstruction` by the number of atoms in the true crystal's cell and, with a "
    "training set, by whether its formula occurs there."
)

SIZES = ((1, 4), (5, 8), (9, 12), (13, 20), (21, 52))
"""Classes of cell sizes, first and last number of atoms: up to those of MP-20 (20) and of MPTS-52."""


def by_size(truths: Sequence[Crystal]) -> dict[str, list[int]]:
    """Places of the targets of each class of cell sizes, as '5 to 8 atoms'; classes without a target left out."""
    parts: dict[str, list[int]] = {f"{first} to {last} atoms": [] for first, last in SIZES}
    larger = f"more than {SIZES[-1][1]} atoms"
    parts[larger] = []
    for place, crystal in enumerate(truths):
        n = len(crystal.atomic_numbers)
        parts[next((f"{first} to {last} atoms" for first, last in SIZES if n <= last), larger)].append(place)
    return {name: places for name, places in parts.items() if places}


def by_formula(truths: Sequence[Crystal], trained: Collection[str]) -> dict[str, list[int]]:
    """Places of the targets whose reduced formula is among those of the training set, and of the others."""
    parts: dict[str, list[int]] = {"formula in train": [], "formula not in train": []}
    for place, crystal in enumerate(truths):
        is_known = formula_of(crystal.atomic_numbers) in trained
        parts["formula in train" if is_known else "formula not in train"].append(place)
    return parts


def of_parts(
    found: Reconstruction, parts: Mapping[str, Sequence[int]], settings: Mapping[str, Setting] | None = None
) -> Evaluation:
    """Match rate and mean rms of each part; of several predictions per target for the first of them and for all.

    Args:
        found: of all targets.
        parts: name -> places of its targets; one without a target has no rate, and says so.
        settings: what the parts depend on besides.
    """
    metrics: list[Metric] = []
    for k in sorted({1, found.samples_per_target}):
        which = f", best of {k}" if found.samples_per_target > 1 else ""
        best, stated = found.best_of(k), {**found.settings(k), **(settings or {})}
        for name, places in parts.items():
            matched = [rms for place in places if (rms := best[place]) is not None]
            metrics += [
                percentage(PARTS, f"match rate{which}, {name}", len(matched), len(places), stated, of="targets"),
                statistic(PARTS, f"mean rms{which}, {name}", matched, "mean", RMS_UNIT, stated, of="matched targets"),
            ]
    return Evaluation(PARTS, ABOUT, tuple(metrics))
