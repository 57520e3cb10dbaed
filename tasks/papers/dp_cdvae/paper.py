"""How the tables of DP-CDVAE are made again; see tasks/papers/stages.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from configs.reproduction import STAGES as STAGES
from configs.reproduction import ReproductionConfig
from generative.training.config import TrainConfig
from tasks.papers.dp_cdvae import training
from tasks.papers.dp_cdvae.places import places as places
from tasks.papers.results import Place, Result

if TYPE_CHECKING:
    from tasks.papers.page import Report

TRAININGS = ("train", "regressor")


def training_of(config: ReproductionConfig, place: Place) -> TrainConfig:
    """The settings of a training."""
    return training.training_of(config, config.dataset(place.dataset), place.system)


def trained(config: ReproductionConfig, place: Place, callbacks: list[Any]) -> Result:
    """Train a system, or the regressor where the place names none."""
    return training.trained(config, place.dataset, place.system, callbacks)


def measured(config: ReproductionConfig, place: Place, progress: Callable[[str, int, int], None]) -> Result:
    """Reconstruct, generate or relax, and judge what came."""
    from tasks.papers.dp_cdvae.measures import MEASURES

    return MEASURES[place.stage](config, place, progress)


def report(config: ReproductionConfig, failures: Mapping[Place, str]) -> tuple[Report, Mapping[Place, str]]:
    """All that readers are shown, and why which results are missing."""
    from tasks.papers.dp_cdvae.report import report_of
    from tasks.papers.dp_cdvae.tables import gather

    found = gather(config, failures)
    return report_of(found), found.missing
