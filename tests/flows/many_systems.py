"""A campaign of seconds: systems of Al, Ni and Ti that overlap, two untrained proposers of which one learns from finds,
relaxations of eight steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from configs.campaign import CampaignConfig
from generative import checkpoints
from generative.crystal.crystals import Crystal
from generative.systems.wyckoff.config import WyckoffConfig
from generative.systems.wyckoff.system import Wyckoff
from tests.flows.conftest import Campaign, known_phases


def symmetric(tiny: Campaign) -> Path:
    """An untrained symmetric generator that knows the known phases; made when it is first asked for."""
    folder = tiny.folder / "symmetric"
    if not folder.exists():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            system = Wyckoff(WyckoffConfig(width=8, hidden=16, sequence_width=8, sequence_hidden=16)).eval()
        crystals = [Crystal.from_structure(structure) for structure in known_phases().values()]
        system.fit_statistics(crystals, [None] * len(crystals))
        checkpoints.save(folder, system, {}, torch.float32)
    return folder


def made(tiny: Campaign, runs: Path, **changes: Any) -> CampaignConfig:
    """Settings of a campaign on the tiny run's inputs; a change is a top-level setting, a dict adds to its room's."""
    one = tiny.config(runs)
    settings: dict[str, Any] = {
        "name": "many",
        "systems": ["Al-Ni", "Ti-Al", "Al-Ti-Ni"],
        "proposers": [
            {"checkpoint": str(tiny.checkpoint), "name": "slow", "sampler": {"n_steps": 5}},
            {"checkpoint": str(symmetric(tiny)), "name": "learner"},
        ],
        "learning": {"every_rounds": 1},
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
