"""What a campaign has come to: the leaderboard of its systems, its arms, its rounds; as JSON, tables and page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from configs.campaign import AllocationConfig, CampaignConfig
from generative.crystal.crystals import field_of
from generative.metrics.shares import wilson_interval
from storage.atomic import write_text
from storage.documents import read_document
from storage.tables import read_table
from tasks.campaign.allocation import Arm, Tally
from tasks.campaign.folder import AGAIN
from tasks.campaign.standing import Standing
from tasks.campaign.systems import CampaignError, known_formulas
from tasks.discover.candidates import plain
from tasks.discover.phases import ON_HULL_EV_PER_ATOM
from tasks.discover.run import MANIFEST
from tasks.files import OF_A_RUN, FileRef, write_table
from tasks.loading import PotentialIdentity
from tasks.timing import StageSeconds

JSON, FINDS_TABLE, CANDIDATES_TABLE, PAGE = "campaign.json", "finds.parquet", "candidates.parquet", "report.html"


@dataclass(frozen=True)
class Yield:
    """Finds per relaxation of an arm or a system.

    Attributes:
        relaxations: of candidates.
        finds: among them.
        low: end of the 95 % interval by Wilson; None without relaxations.
        high: its other end.
        posterior_mean: of the yield, by the prior of the settings.
        posterior_sd: its standard deviation.
    """

    relaxations: int
    finds: int
    low: float | None
    high: float | None
    posterior_mean: float
    posterior_sd: float

    @classmethod
    def of(cls, tally: Tally, config: AllocationConfig) -> Yield:
        """With the intervals that belong to these counts."""
        low, high = wilson_interval(tally.finds, tally.relaxations) if tally.relaxations else (None, None)
        a, b = tally.posterior(config)
        sd = (a * b / ((a + b) ** 2 * (a + b + 1))) ** 0.5
        return cls(tally.relaxations, tally.finds, low, high, a / (a + b), sd)


@dataclass(frozen=True)
class Place:
    """A system on the leaderboard.

    Attributes:
        system: its name.
        known: formulas of all its elements that the dataset knows.
        looked_at: candidates drawn and screened.
        found: yield of its relaxations.
        on_hull: of its finds, those on or below the hull as it was when they were found.
        best: formula of its lowest find, None without.
        best_ev_per_atom: above the hull as it was then.
        seconds: of work, as measured when it was computed.
        report: of the system, relative to the campaign's folder; None while there is none.
    """

    system: str
    known: int
    looked_at: int
    found: Yield
    on_hull: int
    best: str | None
    best_ev_per_atom: float | None
    seconds: float
    report: str | None


@dataclass(frozen=True)
class Results:
    """A campaign as its page shows it.

    Attributes:
        name: of the campaign.
        folder: of the campaign.
        ended: why no further round begins; empty while it goes on.
        potential: label of its energies.
        notes: on the potential.
        within_ev_per_atom: what is near the hull.
        places: the leaderboard, most finds per relaxation first.
        arms: yields by (system, proposer), in the order of the settings.
        rounds: of each: relaxations, finds, shares by (system, proposer).
        finds: the finds, in the order in which they were made: plain rows of FINDS with final rank and height.
        budget: relaxations that may be spent.
        seconds: of work in the systems, and of the rounds by the clock.
        settings: of the campaign.
        learned: what proposers have become, in order: proposer, name, after which round, of how many finds, checksum.
    """

    name: str
    folder: Path
    ended: str
    potential: str
    notes: Sequence[str]
    within_ev_per_atom: float
    places: Sequence[Place]
    arms: Mapping[Arm, Yield]
    rounds: Sequence[Mapping[str, Any]]
    finds: Sequence[Mapping[str, Any]]
    budget: int
    seconds: Mapping[str, float]
    settings: Mapping[str, Any]
    learned: Sequence[Mapping[str, Any]] = ()

    @property
    def relaxations(self) -> int:
        """Of all systems."""
        return sum(place.found.relaxations for place in self.places)

    def proposers(self, config: AllocationConfig) -> dict[str, Yield]:
        """Yields of the proposers over all systems."""
        names = dict.fromkeys(arm.proposer for arm in self.arms)
        sums = {
            name: Tally(
                sum(y.relaxations for arm, y in self.arms.items() if arm.proposer == name),
                sum(y.finds for arm, y in self.arms.items() if arm.proposer == name),
            )
            for name in names
        }
        return {name: Yield.of(tally, config) for name, tally in sums.items()}

    def as_dict(self) -> dict[str, Any]:
        """campaign.json: the same for equal campaigns, so without anything that was measured in seconds."""
        timeless = [{k: v for k, v in asdict(place).items() if k != "seconds"} for place in self.places]
        return {
            "schema_version": 1,
            "name": self.name,
            "ended": self.ended,
            "potential": self.potential,
            "notes": list(self.notes),
            "relaxations": self.relaxations,
            "budget": self.budget,
            "find_within_ev_per_atom": self.within_ev_per_atom,
            "systems": timeless,
            "arms": [{**asdict(arm), **asdict(found)} for arm, found in self.arms.items()],
            "rounds": list(self.rounds),
            **({"learned": list(self.learned)} if self.learned else {}),
            "finds": list(self.finds),
            "settings": dict(self.settings),
        }


def results_of(standing: Standing, dataset: pa.Table, identity: PotentialIdentity) -> Results:
    """The results of a campaign as it stands.

    Args:
        standing: of the campaign.
        dataset: known crystals, columns chemsys and formula.
        identity: the potential.
    """
    config, tallies = standing.config, standing.tallies()
    known = known_formulas(dataset)
    finds = standing.finds.read()
    rows = _with_final_ranks(plain(finds).to_pylist(), standing)
    places = [_place(system.name, standing, tallies, known, rows) for system in standing.systems]
    rounds = [
        {
            "round": number,
            "relaxations": sum(n for one in done for _, n in one.counts.values()),
            "finds": standing.found_in(number),
            "shares": {one.system: one.shares for one in done},
        }
        for number, done in enumerate(standing.rounds)
    ]
    return Results(
        name=config.name,
        folder=config.folder,
        ended=standing.ended(),
        potential=identity.method,
        # What was corrected in it, each system's manifest has.
        notes=identity.notes[:1] if identity.stands_in_for(config.relax.potential) else (),
        within_ev_per_atom=config.find_within_ev_per_atom,
        places=sorted(places, key=lambda p: (-p.found.posterior_mean, -p.found.finds, p.system)),
        arms={arm: Yield.of(tally, config.allocation) for arm, tally in tallies.items()},
        rounds=rounds,
        finds=rows,
        budget=config.budget.relaxations,
        seconds={"work": standing.core_seconds, "rounds": standing.wall_seconds},
        settings=config.model_dump(mode="json", exclude={"execution"}),
        learned=[
            {
                "proposer": one.proposer,
                "name": one.name,
                "after_round": one.after_round,
                "finds": one.n_finds,
                "left_out": len(one.left_out),
                "sha256": one.sha256,
            }
            for one in standing.learned
        ],
    )


def _place(
    name: str,
    standing: Standing,
    tallies: Mapping[Arm, Tally],
    known: Mapping[str, int],
    finds: Sequence[Mapping[str, Any]],
) -> Place:
    own = [tally for arm, tally in tallies.items() if arm.system == name]
    rounds, mine = standing.of_system(name), [row for row in finds if row["system"] == name]
    best = min(mine, key=lambda row: row["e_above_hull_ev_per_atom"], default=None)
    tally = Tally(sum(t.relaxations for t in own), sum(t.finds for t in own))
    folder = next(system.folder for system in standing.systems if system.name == name)
    page = folder / "report.html"
    return Place(
        system=name,
        known=known.get(name, 0),
        looked_at=sum(n for one in rounds for n, _ in one.counts.values()),
        found=Yield.of(tally, standing.config.allocation),
        on_hull=sum(row["e_above_hull_ev_per_atom"] <= ON_HULL_EV_PER_ATOM for row in mine),
        best=None if best is None else best["formula"],
        best_ev_per_atom=None if best is None else best["e_above_hull_ev_per_atom"],
        seconds=round(sum(one.seconds for one in rounds), 1),
        report=page.relative_to(standing.config.folder).as_posix() if page.is_file() else None,
    )


def _with_final_ranks(rows: list[dict[str, Any]], standing: Standing) -> list[dict[str, Any]]:
    """The finds with rank, height above the hull and CIF that their systems' tables have for them; None before the end,
    and of a find that was turned away since, for a copy of lower energy.
    """
    from tasks.report.run.cif_files import cif_path

    final: dict[str, dict[str, Any]] = {}
    cifs: dict[str, str] = {}
    for system in standing.systems:
        table = system.folder / "candidates.parquet"
        if not (system.folder / "report.html").is_file() or not table.is_file():
            continue
        ranked = [row for row in plain(read_table(table, OF_A_RUN)).to_pylist() if row["rank"] is not None]
        final |= {row["id"]: row for row in ranked}
        folder = system.folder.relative_to(standing.config.folder).as_posix()
        cifs |= {r["id"]: f"{folder}/{cif_path(r['rank'], r['formula'], r['id'], len(ranked))}" for r in ranked}
    kept = ("id", "system", "proposer", "round", "formula", "chemsys", "spacegroup", "e_above_hull_ev_per_atom")
    judged = ("judge_e_above_hull_ev_per_atom", "near_hull_probability")
    found = []
    for row in rows:
        last = final.get(row["id"], {})
        found.append(
            {
                **{name: row[name] for name in kept},
                "final_rank": last.get("rank"),
                "final_e_above_hull_ev_per_atom": last.get("e_above_hull_ev_per_atom"),
                **{name: last.get(name) for name in judged},
                "cif": cifs.get(row["id"]),
            }
        )
    return found


def write_results(results: Results, standing: Standing) -> Path:
    """campaign.json, finds.parquet and the page, which it returns; in a Prefect run its artifacts too."""
    from tasks.report.campaign.page import campaign_html, publish

    folder = standing.config.folder
    write_table(standing.finds.read(), folder / FINDS_TABLE)
    write_text(folder / JSON, json.dumps(results.as_dict(), indent=2, allow_nan=False) + "\n")
    write_text(folder / PAGE, campaign_html(results, standing.config.allocation))
    publish(results, standing.config.allocation)
    return folder / PAGE


def summary_of(results: Results) -> str:
    """How it ended, in one sentence for a message."""
    best = results.places[0]
    return (
        f"Campaign {results.name}: {len(results.finds)} new crystals within {results.within_ev_per_atom:g} eV/atom of "
        f"the hull by {results.potential} (not DFT) in {results.relaxations} relaxations of {len(results.places)} "
        f"chemical systems; most per relaxation in {best.system}. Ended: {results.ended}."
    )


def all_candidates(standing: Standing) -> FileRef:
    """candidates.parquet of all systems in one table, with the system in front; ranks are those in the system."""
    about = field_of("system", pa.string(), "elements of the system that the candidate belongs to, joined by '-'")
    tables = []
    for system in standing.systems:
        if not standing.of_system(system.name):
            continue
        table = read_table(system.folder / "candidates.parquet", OF_A_RUN).replace_schema_metadata(None)
        tables.append(table.add_column(0, about, pa.array([system.name] * len(table), pa.string())))
    joined = pa.concat_tables(tables, promote_options="default")
    return write_table(joined, standing.config.folder / CANDIDATES_TABLE)


def read_results(folder: Path) -> Results:
    """How a campaign stands, from its files alone.

    Raises: CampaignError: if there is none, or no round of it has ended.
    """
    if not (folder / MANIFEST).is_file():
        raise CampaignError(f"{folder} holds no campaign: expected a name, or a folder such as runs/campaigns/borides")
    config = CampaignConfig.model_validate(read_document(folder / MANIFEST, AGAIN)["settings"])
    if not (folder / JSON).is_file():
        raise CampaignError(f"no round of {folder} has ended yet: wait for it, or run the same campaign again")
    stated = json.loads((folder / JSON).read_text(encoding="utf-8"))
    places = []
    for said in stated["systems"]:
        rounds = sorted((folder / "systems" / said["system"].lower() / "rounds").glob("[0-9]*"))
        seconds = sum(sum(StageSeconds(one).of_stage.values()) for one in rounds[: len(stated["rounds"])])
        places.append(Place(**{**said, "found": Yield(**said["found"]), "seconds": round(seconds, 1)}))
    n = len(stated["rounds"])
    return Results(
        name=stated["name"],
        folder=folder,
        ended=stated["ended"],
        potential=stated["potential"],
        notes=stated["notes"],
        within_ev_per_atom=stated["find_within_ev_per_atom"],
        places=places,
        arms={Arm(said.pop("system"), said.pop("proposer")): Yield(**said) for said in stated["arms"]},
        rounds=stated["rounds"],
        finds=stated["finds"],
        budget=stated["budget"],
        seconds={
            "work": sum(place.seconds for place in places) * config.execution.torch_threads,
            "rounds": StageSeconds(folder).up_to("round", n - 1),
        },
        settings=stated["settings"],
        learned=stated.get("learned", ()),
    )


def write_page(folder: Path) -> Path:
    """The page of a campaign once more, from its files alone; raises as read_results."""
    from tasks.report.campaign.page import campaign_html

    results = read_results(folder)
    write_text(folder / PAGE, campaign_html(results, AllocationConfig(**results.settings["allocation"])))
    return folder / PAGE
