"""Which results the reproduction of DP-CDVAE has to give."""

from __future__ import annotations

from collections.abc import Iterator

from configs.reproduction import ReproductionConfig
from tasks.papers.results import Place


def train_place(dataset: str, system: str) -> Place:
    """Where a system's training lies; that of the regressor where `system` is empty."""
    return Place("train" if system else "regressor", dataset, system)


def places(config: ReproductionConfig, stage: str) -> Iterator[Place]:
    """Every result that a stage has to give, in order."""
    for entry in config.datasets:
        if stage in ("regressor", "ceiling"):
            yield Place(stage, entry.name)
            continue
        for system in config.systems:
            if stage == "train":
                yield train_place(entry.name, system)
            elif stage == "reconstruct":
                yield from (Place(stage, entry.name, system, reverse) for reverse in config.reverses_of(system))
            elif stage == "generate" or (entry.name, system) in config.ground_state.pairs:
                yield Place(stage, entry.name, system, config.reverse_of_samples(system))
