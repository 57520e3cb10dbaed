"""The benchmark of rediscovery as small as it can be: what four proposers find in two systems, and at what expense."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.rediscovery import RediscoveryConfig
from configs.schema import load

pytestmark = pytest.mark.benchmark


def test_recall_of_substitution_and_the_flow_in_two_systems(tmp_path: Path) -> None:
    from tasks.loading import identify
    from tasks.rediscovery.campaign import hidden_system, run_campaign
    from tasks.rediscovery.counting import counted_files
    from tasks.rediscovery.proposers import make_proposer
    from tasks.rediscovery.results import gathered
    from tasks.rediscovery.targets import hidden_files, systems_of

    shipped = load(RediscoveryConfig, "rediscovery-small")
    config = RediscoveryConfig.model_validate(
        {
            **shipped.model_dump(),
            "n_systems": 2,
            "budgets": [16],
            "proposers": [entry for entry in shipped.model_dump()["proposers"] if entry["training"] is None],
            "portfolio": {"substitution": 1, "flow": 1},
            "sample": {"n_candidates": 64, "chunk_size": 64},
            "execution": {"runs_folder": str(tmp_path)},
        }
    )
    identity = identify(config.relax, config.execution)
    targets, known = hidden_files(config)
    proposers = [make_proposer(config, entry, targets) for entry in config.proposers]
    systems = [hidden_system(config, elements, targets, known, identity) for elements in systems_of(targets.read())]
    campaigns = [[run_campaign(config, system, one, identity) for one in proposers] for system in systems]
    counted = [counted_files(system, own, config) for system, own in zip(systems, campaigns, strict=True)]
    flat = [campaign for own in campaigns for campaign in own]
    result = gathered(config, identity, proposers, flat, counted)
    for name, expense in result.expenses.items():
        recall = result.usual.at(name, 16)
        seconds = ", ".join(f"{stage} {s:.1f} s" for stage, s in expense.seconds.items())
        print(f"{name}: {recall.found} of {recall.n} found in {expense.relaxations} relaxations; {seconds}")
    assert result.expenses["substitution"].relaxations > 0
