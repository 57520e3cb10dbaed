"""How a campaign stands after some rounds: what every arm has had and given, what comes next, or why it ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from configs.campaign import CampaignConfig
from storage.wording import amount
from tasks.campaign.allocation import Arm, Tally, shared_out
from tasks.campaign.folder import Shares
from tasks.campaign.learning import Learned
from tasks.campaign.system_rounds import ReadySystem, SystemRound
from tasks.files import FileRef


@dataclass(frozen=True)
class Standing:
    """A campaign after some rounds.

    Attributes:
        config: of the campaign.
        systems: in the order of the settings.
        finds: of all rounds, columns tasks.campaign.finds.FINDS.
        rounds: of every round what was done in the systems that had a share of it.
        wall_seconds: of the rounds together, as measured when they were computed.
        recorded: shares of the rounds that are repeated.
        learned: what proposers have become, in order; the last of each draws.
    """

    config: CampaignConfig
    systems: tuple[ReadySystem, ...]
    finds: FileRef
    rounds: tuple[tuple[SystemRound, ...], ...] = ()
    wall_seconds: float = 0.0
    recorded: Sequence[Shares] = ()
    learned: tuple[Learned, ...] = ()

    def after(
        self, done: Sequence[SystemRound], finds: FileRef, wall_seconds: float, learned: Sequence[Learned] = ()
    ) -> Standing:
        """The campaign after one more round, in which proposers were what they had become by then."""
        rounds = (*self.rounds, tuple(done))
        return replace(self, rounds=rounds, finds=finds, wall_seconds=wall_seconds, learned=tuple(learned))

    def of_system(self, name: str) -> list[SystemRound]:
        """The rounds of a system, in order."""
        return [one for done in self.rounds for one in done if one.system == name]

    def tallies(self) -> dict[Arm, Tally]:
        """Of every arm, systems first."""
        table = self.finds.read_columns("system", "proposer")
        return tallied(self.arms, [one for done in self.rounds for one in done], table)

    @property
    def arms(self) -> list[Arm]:
        """Every proposer in every system."""
        return [Arm(system.name, entry.label) for system in self.systems for entry in self.config.proposers]

    @property
    def relaxations(self) -> int:
        """Of candidates, so far."""
        return sum(n for done in self.rounds for one in done for _, n in one.counts.values())

    @property
    def core_seconds(self) -> float:
        """Seconds of work in the systems times the threads of a chunk."""
        threads = self.config.execution.torch_threads
        return sum(one.seconds for done in self.rounds for one in done) * threads

    def found_in(self, number: int) -> int:
        """Finds of a round."""
        rounds: list[int] = self.finds.read_columns("round").column("round").to_pylist()
        return rounds.count(number)

    def open_arms(self) -> list[Arm]:
        """Those whose proposer still has candidates."""
        used_up = {Arm(one.system, name) for done in self.rounds for one in done for name in one.exhausted}
        return [arm for arm in self.arms if arm not in used_up]

    def ended(self) -> str:
        """Why no further round begins; empty if one does."""
        budget, stop = self.config.budget, self.config.stop
        n_finds = len(self.finds.read_columns("id"))
        quiet = stop.rounds_without_find
        hours = {"core": (self.core_seconds, budget.core_hours), "wall": (self.wall_seconds, budget.wall_hours)}
        if self.relaxations >= budget.relaxations:
            return f"the budget of {budget.relaxations} relaxations is spent"
        if stop.finds is not None and n_finds >= stop.finds:
            return f"{n_finds} crystals are found, and stop.finds is {stop.finds}"
        last = range(len(self.rounds) - (quiet or 0), len(self.rounds))
        if quiet is not None and last[0] >= 0 and not any(map(self.found_in, last)):
            return amount(quiet, "round has found nothing", "rounds in a row have found nothing")
        for kind, (seconds, limit) in hours.items():
            if limit is not None and seconds >= 3600 * limit:
                return f"the budget of {limit:g} {kind} hours is spent"
        return "" if self.open_arms() else "every proposer has run out of candidates in every system"

    def next_shares(self) -> dict[str, dict[str, int]]:
        """Relaxations of the next round by system and proposer; none at the end."""
        if self.ended():
            return {}
        tallies, is_open = self.tallies(), set(self.open_arms())
        left = self.config.budget.relaxations - self.relaxations
        if repeated := self._repeated(is_open, left):
            return repeated
        share_of = {entry.label: entry.share for entry in self.config.proposers}
        given = shared_out(
            {arm: tally for arm, tally in tallies.items() if arm in is_open},
            {arm: share_of[arm.proposer] for arm in is_open},
            min(self.config.budget.per_round, left),
            len(self.rounds),
            self.config.seed,
            self.config.allocation,
        )
        shares: dict[str, dict[str, int]] = {}
        for arm, n in given.items():
            shares.setdefault(arm.system, {})[arm.proposer] = n
        return shares

    def _repeated(self, is_open: Collection[Arm], left: int) -> dict[str, dict[str, int]]:
        """The recorded shares of the round, as far as its arms are open; none where they are more than is left."""
        if len(self.rounds) >= len(self.recorded):
            return {}
        shares = {
            system: own
            for system, given in self.recorded[len(self.rounds)].items()
            if (own := {name: n for name, n in given.items() if Arm(system, name) in is_open})
        }
        return shares if sum(n for own in shares.values() for n in own.values()) <= left else {}


def tallied(arms: Sequence[Arm], rounds: Sequence[SystemRound], finds: pa.Table) -> dict[Arm, Tally]:
    """Relaxations and finds of these arms.

    Args:
        arms: in order.
        rounds: in all systems.
        finds: columns system and proposer.
    """
    relaxed: Counter[Arm] = Counter()
    for one in rounds:
        for name, (_, n) in one.counts.items():
            relaxed[Arm(one.system, name)] += n
    found: Mapping[Arm, int] = Counter(Arm(row["system"], row["proposer"]) for row in finds.to_pylist())
    return {arm: Tally(relaxed[arm], found.get(arm, 0)) for arm in arms}
