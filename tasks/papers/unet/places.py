"""Which results the reproduction of conditional generation and modification has to give."""

from __future__ import annotations

from collections.abc import Iterator

from configs.unet_reproduction import UNetReproductionConfig
from tasks.papers.results import Place

COPY = "prototype-copy"
"""No network: a training crystal of the asked space group and pattern of counts, its elements replaced."""
SAME = "source-unchanged"
"""No network: the crystal that is to be modified, as it is."""

TRAINED_AS = {"unet-ddim": "unet-ddpm"}
"""Systems that have the weights of another one."""


def train_place(dataset: str, system: str) -> Place:
    """Where the training lies that gives a system its weights."""
    return Place("train", dataset, TRAINED_AS.get(system, system))


def places(config: UNetReproductionConfig, stage: str) -> Iterator[Place]:
    """Every result that a stage has to give, in order."""
    for entry in config.datasets:
        if stage == "train":
            trained = dict.fromkeys(train_place(entry.name, system) for system in config.generators + config.modifiers)
            yield from trained
        elif stage == "generate" and config.generators:
            yield from (Place(stage, entry.name, system) for system in (*config.generators, COPY))
        elif stage == "modify" and config.modifiers:
            yield from (Place(stage, entry.name, system) for system in (*config.modifiers, COPY, SAME))
