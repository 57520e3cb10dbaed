"""When a campaign ends, and what a round is given, from counts that are made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from configs.campaign import CampaignConfig
from tasks.campaign.finds import FINDS
from tasks.campaign.standing import Standing
from tasks.campaign.system_rounds import ReadySystem, SystemRound
from tasks.files import FileRef, write_table

NOWHERE = FileRef(path=Path("nowhere"), sha256="", size=0)


def standing(
    folder: Path,
    rounds: Sequence[dict[str, tuple[int, int]]],
    found_in: Sequence[int] = (),
    wall_seconds: float = 0.0,
    **settings: Any,
) -> Standing:
    """A campaign in B-Ti and B-W by one proposer.

    Args:
        rounds: of each: relaxations given and done, by system; 100 seconds of work in each system.
        found_in: the round of every find, all in B-Ti.
    """
    config = CampaignConfig.model_validate({"systems": ["Ti-B", "W-B"], "execution": {"torch_threads": 2}, **settings})
    name = config.proposers[0].label
    rows = {"system": ["B-Ti"] * len(found_in), "proposer": [name] * len(found_in), "round": list(found_in)}
    columns = [pa.array(rows.get(f.name, [None] * len(found_in)), f.type) for f in FINDS]
    finds = write_table(pa.table(columns, schema=pa.schema(FINDS)), folder / "finds.parquet")
    systems = tuple(
        ReadySystem(elements=e, folder=folder, known=NOWHERE, references=NOWHERE, competing=NOWHERE)
        for e in (("B", "Ti"), ("B", "W"))
    )
    state = Standing(config, systems, finds)
    for number, given in enumerate(rounds):
        done = [
            SystemRound(
                system=system, number=number, shares={name: wanted}, looked_at=NOWHERE, screened=NOWHERE, relaxed=(),
                ranked=NOWHERE, counts={name: (3 * n, n)}, seconds=100.0,
            )
            for system, (wanted, n) in given.items()
        ]  # fmt: skip
        state = state.after(done, finds, wall_seconds)
    return state


ROUND = {"B-Ti": (4, 4), "B-W": (4, 4)}
SMALL = {"budget": {"relaxations": 24, "per_round": 8}}


def test_a_campaign_goes_on_until_its_relaxations_are_spent(tmp_path: Path) -> None:
    assert standing(tmp_path, [], **SMALL).next_shares() == {
        "B-Ti": {"hullward-wyckoff": 4},
        "B-W": {"hullward-wyckoff": 4},
    }
    assert standing(tmp_path, [ROUND] * 2, **SMALL).ended() == ""
    assert "24 relaxations is spent" in standing(tmp_path, [ROUND] * 3, **SMALL).ended()
    assert standing(tmp_path, [ROUND] * 3, **SMALL).next_shares() == {}


def test_the_last_round_is_what_is_left_of_the_budget(tmp_path: Path) -> None:
    shares = standing(tmp_path, [ROUND] * 2, budget={"relaxations": 19, "per_round": 8}).next_shares()
    assert sum(n for given in shares.values() for n in given.values()) == 3


def test_what_was_given_and_not_used_goes_back_to_the_budget_and_the_arm_is_given_no_more(tmp_path: Path) -> None:
    state = standing(tmp_path, [{"B-Ti": (4, 4), "B-W": (4, 1)}], **SMALL)
    assert state.relaxations == 5
    assert state.next_shares() == {"B-Ti": {"hullward-wyckoff": 8}}
    empty = standing(tmp_path, [{"B-Ti": (4, 0), "B-W": (4, 1)}], **SMALL)
    assert "run out of candidates" in empty.ended()


@pytest.mark.parametrize(
    ("settings", "found_in", "said"),
    [
        ({"stop": {"finds": 3}}, (0, 0, 1), "3 crystals are found"),
        ({"stop": {"finds": 4}}, (0, 0, 1), ""),
        ({"stop": {"rounds_without_find": 1}}, (0, 0), "1 round has found nothing"),
        ({"stop": {"rounds_without_find": 2}}, (0, 0), ""),
        ({"stop": {"rounds_without_find": 2}}, (), "2 rounds in a row"),
        ({"stop": {"rounds_without_find": 3}}, (), ""),
        # Two rounds of two systems, 100 s on two threads each.
        ({"budget": {"core_hours": 0.2}}, (), "0.2 core hours"),
        ({"budget": {"core_hours": 0.3}}, (), ""),
        ({"budget": {"wall_hours": 0.1}}, (), "0.1 wall hours"),
        ({"budget": {"wall_hours": 0.2}}, (), ""),
    ],
)
def test_other_stop_rules(settings: dict[str, Any], found_in: tuple[int, ...], said: str, tmp_path: Path) -> None:
    ended = standing(tmp_path, [ROUND] * 2, found_in, wall_seconds=400.0, **settings).ended()
    assert said in ended
    assert bool(said) == bool(ended)


def test_a_repeated_campaign_is_given_the_shares_that_it_had_and_then_goes_on_by_its_policy(tmp_path: Path) -> None:
    recorded = [{"B-Ti": {"hullward-wyckoff": 8}}, {"B-W": {"hullward-wyckoff": 5}}]
    begun = replace(standing(tmp_path, [], **SMALL), recorded=recorded)
    assert begun.next_shares() == recorded[0]
    second = replace(standing(tmp_path, [{"B-Ti": (8, 8)}], **SMALL), recorded=recorded)
    assert second.next_shares() == recorded[1]
    # Of a proposer that has run out nothing is asked again, and what is over goes by the policy.
    used_up = replace(standing(tmp_path, [{"B-Ti": (8, 3), "B-W": (5, 4)}], **SMALL), recorded=recorded)
    assert used_up.next_shares() == {}
    third = replace(standing(tmp_path, [{"B-Ti": (8, 8)}, {"B-W": (5, 5)}], **SMALL), recorded=recorded)
    assert sum(n for given in third.next_shares().values() for n in given.values()) == 8
