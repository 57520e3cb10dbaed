"""report.html of a campaign: where to look first, what each find cost, and the reports of all systems."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from configs.campaign import AllocationConfig
from tasks.report.campaign.plots import campaign_svg
from tasks.report.evaluation.markdown import table
from tasks.report.evaluation.page import Cell, Link, page, pairs, safe, section, table_html, top
from tasks.report.run.markdown import data_uri
from tasks.report.run.summary import duration, flattened, number
from tasks.report.run.tables import escape_markdown

if TYPE_CHECKING:
    from tasks.campaign.results import Place, Results, Yield

NONE = "–"
MOST_LISTED = 500
"""Finds on the page; finds.parquet holds all."""

MOST_IN_ARTIFACT = 100
"""Rows of each table of the artifact."""

SYSTEMS_HEAD = (
    "system", "known formulas", "looked at", "relaxations", "finds", "yield, %", "posterior, %", "relaxations per find",
    "on the hull", "lowest find", "eV/atom", "work", "report",
)  # fmt: skip
FINDS_HEAD = (
    "formula", "space group", "system", "proposer", "round", "above hull when found, eV/atom", "above hull at the end",
    "rank", "CIF",
)  # fmt: skip
JUDGED_HEAD = ("by the judge", "near hull by DFT, %")
"""Before the CIF, where a judge was asked."""


def lead_of(results: Results) -> list[str]:
    """What was done and how it stands."""
    n = len(results.places)
    return [
        f"{n} chemical systems, {results.relaxations:,} of {results.budget:,} relaxations. A find is a new crystal at "
        f"most {results.within_ev_per_atom:g} eV/atom above the hull of all that is known, by {results.potential}: a "
        "screening energy, not DFT.",
        f"Ended: {results.ended}." if results.ended else f"Under way: {len(results.rounds)} rounds are done.",
    ]


def percent(found: Yield) -> str:
    """The yield with its interval."""
    if not found.relaxations or found.low is None or found.high is None:
        return NONE
    return f"{100 * found.finds / found.relaxations:.1f} ({100 * found.low:.1f}–{100 * found.high:.1f})"


def posterior(found: Yield) -> str:
    """Mean and standard deviation of the posterior of the yield."""
    return f"{100 * found.posterior_mean:.1f} ± {100 * found.posterior_sd:.1f}"


def cost(found: Yield) -> str:
    """Relaxations per find."""
    return f"{found.relaxations / found.finds:.1f}" if found.finds else NONE


def system_row(place: Place) -> tuple[Cell, ...]:
    """A line of the leaderboard."""
    found = place.found
    return (
        place.system, str(place.known), f"{place.looked_at:,}", f"{found.relaxations:,}", str(found.finds),
        percent(found), posterior(found), cost(found), str(place.on_hull), place.best or NONE,
        number(place.best_ev_per_atom, signed=True) or NONE, duration(place.seconds),
        NONE if place.report is None else Link("hull and report", place.report),
    )  # fmt: skip


def is_judged(results: Results) -> bool:
    """Whether a judge has said something of a find."""
    return any(row["judge_e_above_hull_ev_per_atom"] is not None for row in results.finds)


def find_row(row: Mapping[str, Any], judged: bool) -> tuple[Cell, ...]:
    """A line of the table of finds."""
    probability = row["near_hull_probability"]
    opinion = (
        number(row["judge_e_above_hull_ev_per_atom"], signed=True) or NONE,
        NONE if probability is None else f"{100 * probability:.0f}",
    )
    return (
        row["formula"], str(row["spacegroup"] or NONE), row["system"], row["proposer"], str(row["round"]),
        number(row["e_above_hull_ev_per_atom"], signed=True),
        number(row["final_e_above_hull_ev_per_atom"], signed=True) or NONE, str(row["final_rank"] or NONE),
        *(opinion if judged else ()), NONE if row["cif"] is None else Link("CIF", row["cif"]),
    )  # fmt: skip


def finds_head(results: Results) -> tuple[str, ...]:
    """Headings of finds_lowest_first."""
    return (*FINDS_HEAD[:-1], *(JUDGED_HEAD if is_judged(results) else ()), FINDS_HEAD[-1])


def finds_lowest_first(results: Results) -> list[tuple[Cell, ...]]:
    """The finds, lowest first; at the end by their final height."""
    judged = is_judged(results)

    def height(row: Mapping[str, Any]) -> tuple[bool, float]:
        last = row["final_e_above_hull_ev_per_atom"]
        return bool(results.ended) and last is None, row["e_above_hull_ev_per_atom"] if last is None else last

    return [find_row(row, judged) for row in sorted(results.finds, key=height)]


def proposer_rows(results: Results, config: AllocationConfig) -> list[tuple[str, ...]]:
    """Yields of the proposers over all systems."""
    return [
        (name, f"{y.relaxations:,}", str(y.finds), percent(y), cost(y)) for name, y in results.proposers(config).items()
    ]


def round_rows(results: Results) -> list[tuple[str, ...]]:
    """Every round: relaxations, finds, and where most of it went."""
    rows: list[tuple[str, ...]] = []
    for done in results.rounds:
        shares = {system: sum(given.values()) for system, given in done["shares"].items()}
        most = sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))[:6]
        named = ", ".join(f"{system} {n}" for system, n in most) + ", ..." * (len(shares) > len(most))
        rows.append((str(done["round"]), str(done["relaxations"]), str(done["finds"]), named))
    return rows


LEARNED_HEAD = ("proposer", "after round", "finds", "left out", "candidates are then by", "SHA-256")


def learned_rows(results: Results) -> list[tuple[str, ...]]:
    """What proposers have become, and when."""
    return [
        (one["proposer"], str(one["after_round"]), str(one["finds"]), str(one["left_out"]), one["name"],
         one["sha256"][:12])
        for one in results.learned
    ]  # fmt: skip


def _learned(results: Results) -> list[str]:
    """The section on what was learned; none where nothing was."""
    if not results.learned:
        return []
    content = table_html(LEARNED_HEAD, learned_rows(results), [False, True, True, True, False, False],
                         "Of the finds of all systems up to that round; left out: without a description.")  # fmt: skip
    hint = (
        "A checkpoint made of a proposer and of finds draws its candidates from the next round on, and answers the "
        "plan from its beginning; yields and shares count both as one. Other proposers stay as they are."
    )
    return [section("learned", "What was learned", hint, content)]


def campaign_html(results: Results, config: AllocationConfig) -> str:
    """The whole page."""
    on_hull = sum(place.on_hull for place in results.places)
    counts = [(str(len(results.places)), "chemical systems"), (f"{results.relaxations:,}", "relaxations"),
              (str(len(results.finds)), f"finds within {results.within_ev_per_atom:g} eV/atom"),
              (str(on_hull), "of them on the hull"),
              (duration(results.seconds["rounds"]) or NONE, "in rounds")]  # fmt: skip
    header = top(f"campaign · {results.name}", "Campaign", lead_of(results), results.notes, counts)
    picture = data_uri(campaign_svg(results), "image/svg+xml")
    head, finds = finds_head(results), finds_lowest_first(results)
    more = f" The first {MOST_LISTED} of {len(finds)}." if len(finds) > MOST_LISTED else ""
    sections = [
        section("systems", "Where to look",
                "Most finds per relaxation first, by the posterior's mean; in brackets the 95 % interval by Wilson.",
                f'<figure class="card" style="margin-bottom: 16px"><img src="{picture}" '
                'alt="Finds over relaxations, and yields of systems"></figure>'
                + table_html(SYSTEMS_HEAD, [system_row(place) for place in results.places],
                             [False, *[True] * 8, False, True, True, False],
                             "Known formulas: of all the system's elements, in the files of the campaign. "
                             "Work: seconds of one process, as measured when it was computed.")),
        section("finds", "What was found",
                "A crystal that several systems hold stands once, with the one that came to it first; from the next "
                "round on it is known, and competes, in all others.",
                table_html(head, finds[:MOST_LISTED], [False, True, False, False, *[True] * (len(head) - 5), False],
                           f"Lowest first.{more} Without a rank: a copy of lower energy took its place, or the "
                           "campaign is under way.") if finds else "<p>Nothing yet.</p>"),
        section("proposers", "Who found it", "Over all systems; a find is credited to who came to it first.",
                table_html(("proposer", "relaxations", "finds", "yield, %", "relaxations per find"),
                           proposer_rows(results, config), [False, *[True] * 4], "")),
        section("rounds", "Rounds", _policy(config),
                table_html(("round", "relaxations", "finds", "most relaxations in"), round_rows(results),
                           [True, True, True, False], "Relaxations that the shares of a round came to.")),
        *_learned(results),
        _provenance(results),
    ]  # fmt: skip
    return page(results.name, "campaign", header, sections)


def _policy(config: AllocationConfig) -> str:
    if config.policy == "uniform":
        return "Shared out evenly among systems and proposers."
    return (
        "The first is shared out evenly; then each relaxation goes to the system and proposer whose yield, drawn from "
        f"its posterior, is highest. Prior: Beta({config.prior_finds:g}, {config.prior_misses:g})."
    )


def _provenance(results: Results) -> str:
    stated = {"potential": results.potential}
    stated |= {f"setting: {name}": value for name, value in flattened(dict(results.settings))}
    content = f"<details><summary>Potential, settings</summary>{pairs(stated)}</details>"
    hint = "campaign.json, finds.parquet and, at the end, candidates.parquet of all systems lie beside it."
    return section("provenance", "Where it comes from", hint, content)


def campaign_markdown(results: Results, config: AllocationConfig) -> str:
    """Leaderboard, finds and rounds, as the artifact has them."""

    def texts(rows: list[tuple[Cell, ...]]) -> list[tuple[str, ...]]:
        return [tuple(cell.text if isinstance(cell, Link) else cell for cell in row[:-1]) for row in rows]

    places = texts([system_row(place) for place in results.places[:MOST_IN_ARTIFACT]])
    parts = [
        f"# Campaign {escape_markdown(safe(results.name))}",
        *map(escape_markdown, lead_of(results)),
        _link(results),
    ]
    parts += ["## Where to look", table(SYSTEMS_HEAD[:-1], places, "lrrrrrrrrlrr")]
    if finds := texts(finds_lowest_first(results)[:MOST_IN_ARTIFACT]):
        head = finds_head(results)[:-1]
        parts += ["## What was found", table(head, finds, "lrll" + "r" * (len(head) - 4))]
    parts += ["## Rounds", _policy(config)]
    parts.append(table(("round", "relaxations", "finds", "most relaxations in"), round_rows(results), "rrrl"))
    if results.learned:
        parts += ["## What was learned", table(LEARNED_HEAD, learned_rows(results), "lrrrll")]
    return "\n\n".join(filter(None, parts)) + "\n"


def _link(results: Results) -> str:
    """A link to the page where `make ui` serves the runs."""
    from tasks.report.run.artifacts import REPORTS_VARIABLE

    address = os.environ.get(REPORTS_VARIABLE)
    if not address or Path(results.folder).resolve().parent.parent != Path("runs").resolve():
        return ""
    return f"**[Open the report]({address.rstrip('/')}/campaigns/{quote(results.name)}/report.html)**"


def publish(results: Results, config: AllocationConfig) -> None:
    """The tables as a Markdown artifact, a new version after every round; nothing outside a Prefect run."""
    from prefect.artifacts import create_markdown_artifact

    from tasks.report.run.artifacts import artifact_key, in_prefect_run

    if in_prefect_run():
        key = artifact_key("campaign", results.name)
        said = f"{len(results.finds)} finds in {results.relaxations} of {results.budget} relaxations"
        create_markdown_artifact(campaign_markdown(results, config), key=key, description=said)
