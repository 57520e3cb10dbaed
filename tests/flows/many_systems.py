"""A campaign of seconds: systems of Al, Ni and Ti that overlap, two untrained proposers, relaxations of eight steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.campaign import CampaignConfig
from tests.flows.conftest import Campaign


def made(tiny: Campaign, runs: Path, **changes: Any) -> CampaignConfig:
    """Settings of a campaign on the tiny run's inputs; a change is a top-level setting, a dict adds to its room's."""
    one = tiny.config(runs)
    settings: dict[str, Any] = {
        "name": "many",
        "systems": ["Al-Ni", "Ti-Al", "Al-Ti-Ni"],
        "proposers": [
            {"checkpoint": str(tiny.checkpoint), "name": "slow", "sampler": {"n_steps": 5}},
            {"checkpoint": str(tiny.checkpoint), "name": "fast", "sampler": {"n_steps": 3}},
        ],
        "find_within_ev_per_atom": 1.0,
        "budget": {"relaxations": 14, "per_round": 6},
        "data": one.data.model_dump(mode="json"),
        "conditions": {**one.conditions.model_dump(mode="json"), "n_elements_min": 2, "n_elements_max": 3},
        "sample": {"n_candidates": 24, "chunk_size": 6},
        "relax": one.relax.model_dump(mode="json"),
        "judge": {"potential": None},
        "inputs": {"top_n": 1},
        "execution": one.execution.model_dump(mode="json"),
    }
    for name, value in changes.items():
        settings[name] = {**settings.get(name, {}), **value} if isinstance(value, dict) else value
    return CampaignConfig.model_validate(settings)
