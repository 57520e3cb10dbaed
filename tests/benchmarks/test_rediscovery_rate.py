"""The benchmark of rediscovery as small as it can be: what two proposers find in two systems, and at what expense."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.paths import AssetError, resolve
from configs.rediscovery import RediscoveryConfig
from configs.schema import load
from tasks.loading import identify
from tasks.rediscovery.campaign import hidden_system, run_campaign
from tasks.rediscovery.counting import counted_files
from tasks.rediscovery.proposers import make_proposer
from tasks.rediscovery.results import gathered
from tasks.rediscovery.targets import hidden_files, systems_of

pytestmark = pytest.mark.benchmark


def smallest(runs: Path) -> RediscoveryConfig:
    """The shipped small one without what has to be trained, on two systems and MP-20's validation and test part."""
    shipped = load(RediscoveryConfig, "rediscovery-small").model_dump()
    files = [source for source in shipped["known"] if "mp_20_val" in source["path"] or "mp_20_test" in source["path"]]
    changes = {
        "n_systems": 2,
        "budgets": [16],
        "proposers": [entry for entry in shipped["proposers"] if entry["baseline"] is not None],
        "portfolio": {"substitution": 1, "random-symmetric": 1},
        "known": files,
        "templates": files[:1],
        "sample": {"n_candidates": 64, "chunk_size": 64},
        "execution": {"runs_folder": str(runs)},
    }
    return RediscoveryConfig.model_validate({**shipped, **changes})


def test_recall_of_substitution_and_of_random_crystals(tmp_path: Path) -> None:
    config = smallest(tmp_path)
    try:
        resolve(config.reference)
    except AssetError as error:
        pytest.skip(f"real crystals are not on this machine: {error}")
    identity = identify(config.relax, config.execution)
    targets, known = hidden_files(config)
    proposers = [make_proposer(config, entry, targets) for entry in config.proposers]
    systems = [hidden_system(config, elements, targets, known, identity) for elements in systems_of(targets.read())]
    campaigns = [[run_campaign(config, system, one, identity) for one in proposers] for system in systems]
    counted = [counted_files(system, own, config) for system, own in zip(systems, campaigns, strict=True)]
    result = gathered(config, identity, proposers, [one for own in campaigns for one in own], counted)
    for name, expense in result.expenses.items():
        recall = result.usual.at(name, 16)
        seconds = ", ".join(f"{stage} {s:.1f} s" for stage, s in expense.seconds.items())
        print(f"{name}: {recall.found} of {recall.n} found in {expense.relaxations} relaxations; {seconds}")
        assert expense.relaxations > 0
