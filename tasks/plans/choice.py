"""The plan of any settings."""

from __future__ import annotations

from pathlib import Path

from configs.campaign import CampaignConfig
from configs.ingest import IngestConfig
from configs.kinds import Plannable
from configs.modification import ModifyConfig
from configs.schema import DiscoverConfig
from generative.training.config import TrainConfig
from tasks.plans.record import Plan


def plan_of(config: Plannable) -> Plan:
    """What the command that these settings are for would do. Raises: as the plan of each."""
    if isinstance(config, DiscoverConfig):
        from tasks.plans.discover import plan_run

        return plan_run(config)
    if isinstance(config, CampaignConfig):
        from tasks.plans.campaign import plan_campaign

        return plan_campaign(config)
    if isinstance(config, IngestConfig):
        from tasks.plans.known_crystals import plan_ingest

        return plan_ingest(config)
    if isinstance(config, ModifyConfig):
        from tasks.plans.crystals import plan_modification

        return plan_modification(config)
    if isinstance(config, TrainConfig):
        from tasks.plans.training import plan_training

        return plan_training(config, Path("runs") / "training" / config.name)
    from tasks.plans.reproduction import plan_reproduction

    return plan_reproduction(config)
