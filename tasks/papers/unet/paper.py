"""How conditional generation and modification are made again; see tasks/papers/stages.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from configs.unet_reproduction import UNET_STAGES, UNetReproductionConfig
from generative.training.config import TrainConfig
from tasks.papers.results import Place, Result
from tasks.papers.unet.places import places as places

if TYPE_CHECKING:
    from tasks.papers.page import Report

STAGES = UNET_STAGES
TRAININGS = ("train",)


def training_of(config: UNetReproductionConfig, place: Place) -> TrainConfig:
    """The settings of a training."""
    from tasks.papers.unet import measures

    return measures.training_of(config, config.dataset(place.dataset), place.system)


def trained(config: UNetReproductionConfig, place: Place, callbacks: list[Any]) -> Result:
    """Train a system."""
    from tasks.papers.unet import measures

    return measures.trained(config, place, callbacks)


def measured(config: UNetReproductionConfig, place: Place, progress: Callable[[str, int, int], None]) -> Result:
    """Ask a system for the test crystals."""
    from tasks.papers.unet import measures

    return measures.measured(config, place, progress)


def report(config: UNetReproductionConfig, failures: Mapping[Place, str]) -> tuple[Report, Mapping[Place, str]]:
    """All that readers are shown, and why which results are missing."""
    from tasks.papers.unet.report import gather, report_of

    found = gather(config, failures)
    return report_of(found), found.missing
