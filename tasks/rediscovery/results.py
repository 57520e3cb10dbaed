"""What the benchmark found, put together from its campaigns: rediscovery.json, found.parquet, the page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from configs.rediscovery import RediscoveryConfig
from storage.atomic import write_text
from tasks.files import write_table
from tasks.loading import PotentialIdentity
from tasks.rediscovery.campaign import Campaign
from tasks.rediscovery.counting import CountedSystem
from tasks.rediscovery.proposers import MadeProposer
from tasks.rediscovery.recall import Difference, Recalls
from tasks.rediscovery.shared_budget import BothPolicies, both_policies

JSON, TABLE, PAGE = "rediscovery.json", "found.parquet", "rediscovery.html"
STAGES = ("sample", "screen", "relax", "rank")
"""Of a campaign, whose seconds are counted."""


@dataclass(frozen=True)
class Expense:
    """What a campaign cost over all systems, and what came of it.

    Attributes:
        drawn: crystals drawn; None of the portfolio, which takes those of others.
        rejected: turned away before relaxation, by stage; likewise.
        seconds: by stage, as measured when computed; likewise.
        relaxations: candidates relaxed.
        relax_steps: steps of all of them.
        ranked: of them ranked in the end.
        ranked_p1: of these without symmetry.
        below_hull: of these below the hull of the known phases.
    """

    drawn: int | None
    rejected: Mapping[str, int]
    seconds: Mapping[str, float]
    relaxations: int
    relax_steps: int
    ranked: int
    ranked_p1: int
    below_hull: int


@dataclass(frozen=True)
class Rediscovery:
    """All that was found.

    Attributes:
        config: of the benchmark.
        potential: label of its energies.
        found: columns of found.parquet.
        usual: recalls by the tolerances of structure prediction.
        strict: recalls by StructureMatcher's default ones.
        expenses: by campaign.
        proposers: who they are.
        shared: what one budget over all systems would have found, by size; empty if that is not asked.
    """

    config: RediscoveryConfig
    potential: PotentialIdentity
    found: pa.Table
    usual: Recalls
    strict: Recalls
    expenses: Mapping[str, Expense]
    proposers: Sequence[MadeProposer]
    shared: Sequence[BothPolicies] = ()

    @property
    def campaigns(self) -> tuple[str, ...]:
        """Names, the portfolio last."""
        return self.usual.campaigns

    @property
    def targets(self) -> list[dict[str, Any]]:
        """The hidden crystals, without what anybody found."""
        own = self.found.filter(pc.equal(self.found.column("proposer"), self.campaigns[0]))
        rows: list[dict[str, Any]] = own.to_pylist()
        return rows

    @property
    def n_stable_by_potential(self) -> int:
        """Hidden crystals that the potential, too, puts on or below the hull of the known phases."""
        heights = [row["potential_e_above_hull_ev_per_atom"] for row in self.targets]
        return sum(height is not None and height <= 0 for height in heights)

    def differences(self) -> list[Difference]:
        """Of all pairs of campaigns, at all budgets; of a pair the later one first, so that of the portfolio is."""
        pairs = [(second, first) for first, second in combinations(self.campaigns, 2)]
        return [self.usual.difference(*pair, budget) for pair in pairs for budget in self.config.budgets]

    def median_rank(self, name: str, budget: int) -> float | None:
        """Of the crystals that a campaign found within a budget; None where it found none."""
        own = self.found.filter(pc.equal(self.found.column("proposer"), name))
        known = own.column(f"rank_at_{budget}").drop_null().to_pylist()
        return float(median(known)) if known else None

    def as_dict(self) -> dict[str, Any]:
        """rediscovery.json."""
        most = self.config.budgets[-1]
        return {
            "schema_version": 1,
            "name": self.config.name,
            "n_systems": self.usual.n_systems,
            "n_hidden": len(self.targets),
            "n_stable_by_potential": self.n_stable_by_potential,
            "potential": self.potential.model_dump(mode="json"),
            "standard_errors": "bootstrap over chemical systems, 2000 resamples, the same for all campaigns",
            "campaigns": {name: self._campaign(name, most) for name in self.campaigns},
            "differences": [vars(difference) for difference in self.differences()],
            "shared_budget": [asdict(one) for one in self.shared],
            "hidden": [{k: row[k] for k in ("system", "id", "formula")} for row in self.targets],
            "settings": self.config.model_dump(mode="json", exclude={"execution"}),
        }

    def _campaign(self, name: str, most: int) -> dict[str, Any]:
        made = next((proposer for proposer in self.proposers if proposer.entry.name == name), None)
        shares, errors = self.usual.curve(name, most)
        return {
            "checkpoint_sha256": None if made is None else made.sha256,
            "seconds_to_make": None if made is None else made.seconds,
            "recall": self.usual.as_dict(name, self.config.budgets),
            "recall_strict": self.strict.as_dict(name, self.config.budgets),
            "median_rank": {str(k): self.median_rank(name, k) for k in self.config.budgets},
            "expense": vars(self.expenses[name]),
            "curve": {"recall": shares.tolist(), "standard_error": errors.tolist()},
        }


def gathered(
    config: RediscoveryConfig,
    identity: PotentialIdentity,
    proposers: Sequence[MadeProposer],
    campaigns: Sequence[Campaign],
    counted: Sequence[CountedSystem],
) -> Rediscovery:
    """What all systems together say.

    Args:
        config: of the benchmark.
        identity: the potential.
        proposers: who took part.
        campaigns: of every proposer in every system.
        counted: what was found in every system.
    """
    found = pa.concat_tables([one.found.read() for one in counted])
    counts = pa.concat_tables([one.counted.read() for one in counted]).to_pylist()
    usual, strict = (
        Recalls(found, config.campaigns, config.seed, column) for column in ("found_after", "found_after_strict")
    )
    expenses = {name: _expense(name, campaigns, counts) for name in config.campaigns}
    relaxations = pa.concat_tables([one.relaxations.read() for one in counted])
    hidden = Counter(system for system, _ in usual.crystals)
    shared = both_policies(relaxations, hidden, config)
    return Rediscovery(config, identity, found, usual, strict, expenses, proposers, shared)


def _expense(name: str, campaigns: Sequence[Campaign], counts: Sequence[Mapping[str, Any]]) -> Expense:
    own = [campaign for campaign in campaigns if campaign.proposer == name]
    rows = [row for row in counts if row["proposer"] == name]
    stages = sorted({stage for campaign in own for stage in campaign.rejected})
    columns = ("relaxations", "relax_steps", "ranked", "ranked_p1", "below_hull")
    return Expense(
        drawn=sum(campaign.drawn for campaign in own) if own else None,
        rejected={stage: sum(campaign.rejected.get(stage, 0) for campaign in own) for stage in stages},
        seconds={s: round(sum(campaign.seconds.get(s, 0.0) for campaign in own), 1) for s in STAGES if own},
        **{column: sum(row[column] for row in rows) for column in columns},
    )


def write_results(result: Rediscovery) -> Path:
    """rediscovery.json, found.parquet and the page, which it returns; inside a Prefect run its artifact too."""
    from tasks.report.rediscovery.page import publish, rediscovery_html

    folder = result.config.folder
    write_table(result.found, folder / TABLE)
    write_text(folder / JSON, json.dumps(result.as_dict(), indent=2, allow_nan=False) + "\n")
    write_text(folder / PAGE, rediscovery_html(result))
    publish(result)
    return folder / PAGE
