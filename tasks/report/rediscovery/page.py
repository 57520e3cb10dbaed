"""rediscovery.html: who found how many of the hidden crystals, at what expense; one page that loads nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.report.evaluation.markdown import table
from tasks.report.evaluation.page import page, pairs, safe, section, table_html, top
from tasks.report.rediscovery.plots import recall_svg
from tasks.report.run.markdown import data_uri
from tasks.report.run.summary import flattened
from tasks.report.run.tables import escape_markdown

if TYPE_CHECKING:
    from tasks.rediscovery.results import Expense, Rediscovery
    from tasks.rediscovery.shared_budget import Compared

ERRORS = (
    "Errors are standard errors by a bootstrap over chemical systems; in brackets the 95 % interval by Wilson, as if "
    "all hidden crystals were independent."
)
NONE = "–"


def percent(share: float, error: float | None = None) -> str:
    """A share in %, with its standard error."""
    return f"{100 * share:.1f}" + ("" if error is None else f" ± {100 * error:.1f}")


def lead_of(result: Rediscovery) -> str:
    """What was done, in two sentences."""
    return (
        f"{len(result.targets)} stable crystals of {result.usual.n_systems} chemical systems were hidden: their "
        "formulas are in nothing that is known and in nothing that a proposer learned from. Every proposer was asked "
        f"the same in the same order and had {result.config.budgets[-1]} relaxations in each system; energies by "
        f"{result.potential.method}."
    )


def recall_rows(result: Rediscovery) -> list[tuple[str, ...]]:
    """Recall at every budget, then by the strict tolerances, and the median rank."""
    rows, most = [], result.config.budgets[-1]
    for name in result.campaigns:
        cells = []
        for budget in result.config.budgets:
            one = result.usual.at(name, budget)
            cells.append(f"{percent(one.share, one.error)} ({percent(one.low)}–{percent(one.high)})")
        strict, rank = result.strict.at(name, most), result.median_rank(name, most)
        rows.append((name, *cells, percent(strict.share, strict.error), NONE if rank is None else f"{rank:g}"))
    return rows


def recall_head(result: Rediscovery) -> tuple[str, ...]:
    """Headings of recall_rows."""
    budgets = result.config.budgets
    return (
        "proposer",
        *(f"found after {budget}, %" for budget in budgets),
        f"after {budgets[-1]}, strict, %",
        f"median rank after {budgets[-1]}",
    )


def difference_rows(result: Rediscovery) -> list[tuple[str, ...]]:
    """Every pair of campaigns with its differences at all budgets, in points."""
    cells: dict[str, list[str]] = {}
    for d in result.differences():
        signed = f"{100 * d.value:+.1f} ± {100 * d.error:.1f}"
        cells.setdefault(f"{d.first} less {d.second}", []).append(signed)
    return [(name, *values) for name, values in cells.items()]


SHARED_HEAD = (
    "relaxations per system", "hidden crystals, even, %", "adaptive, %", "difference", "finds per 100, even",
    "adaptive", "difference", "arms used up, %",
)  # fmt: skip


def shared_lead(result: Rediscovery) -> str:
    """What the section of a shared budget says."""
    within = result.config.shared_budget.find_within_ev_per_atom
    return (
        "What one budget over all systems would have found, out of the same relaxations: shared out evenly, and by "
        "Thompson sampling of the yield of every proposer in every system. A find is a new crystal at most "
        f"{within:g} eV/atom above the hull of what is known, hidden or not. Adaptive: the mean of many campaigns; "
        "errors are those of one campaign over systems drawn anew, of differences paired."
    )


def shared_rows(result: Rediscovery) -> list[tuple[str, ...]]:
    """Both policies at every size of the budget."""

    def cells(one: Compared) -> tuple[str, ...]:
        return (
            percent(one.even, one.even_error),
            percent(one.adaptive, one.adaptive_error),
            f"{100 * one.difference:+.1f} ± {100 * one.difference_error:.1f}",
        )

    return [
        (str(one.per_system), *cells(one.recall), *cells(one.finds), percent(one.arms_ended)) for one in result.shared
    ]


EXPENSE_HEAD = (
    "proposer", "drawn", "turned away before relaxation", "relaxations", "steps", "ranked", "of these P1, %",
    "below the hull", "sampling, s", "screening, s", "relaxing, s", "ranking, s", "made in, s",
)  # fmt: skip


def expense_rows(result: Rediscovery) -> list[tuple[str, ...]]:
    """What every campaign cost, over all systems."""
    made = {proposer.entry.name: proposer.seconds for proposer in result.proposers}
    return [_expense_row(name, expense, made.get(name)) for name, expense in result.expenses.items()]


def _expense_row(name: str, expense: Expense, made_s: float | None) -> tuple[str, ...]:
    rejected = ", ".join(f"{n} {stage}" for stage, n in expense.rejected.items()) or NONE
    counts = (expense.relaxations, expense.relax_steps, expense.ranked)
    without_symmetry = percent(expense.ranked_p1 / expense.ranked) if expense.ranked else NONE
    seconds = [f"{s:.1f}" for s in expense.seconds.values()] or [NONE] * 4
    return (
        name, NONE if expense.drawn is None else f"{expense.drawn:,}", rejected, *(f"{n:,}" for n in counts),
        without_symmetry, str(expense.below_hull), *seconds, NONE if made_s is None else f"{made_s:.0f}",
    )  # fmt: skip


def target_rows(result: Rediscovery) -> list[tuple[str, ...]]:
    """Every hidden crystal, what the potential says of it, and when each campaign found it."""
    last = f"rank_at_{result.config.budgets[-1]}"
    found = {(row["proposer"], row["system"], row["id"]): row for row in result.found.to_pylist()}
    rows = []
    for target in result.targets:
        height = target["potential_e_above_hull_ev_per_atom"]
        cells = [_found(found[name, target["system"], target["id"]], last) for name in result.campaigns]
        named = (target["system"], target["formula"], target["id"], str(target["n_atoms"]), str(target["spacegroup"]))
        rows.append((*named, NONE if height is None else f"{height:+.3f}", *cells))
    return rows


def _found(row: dict[str, Any], last: str) -> str:
    if row["found_after"] is None:
        return f"{NONE} ({row['n_of_formula']} of the formula)"
    return f"{row['found_after']}, rank {row[last]}"


def rediscovery_html(result: Rediscovery) -> str:
    """The whole page; the same text for the same results."""
    stable = f"{result.n_stable_by_potential} of {len(result.targets)}"
    counts = [(str(result.usual.n_systems), "chemical systems"), (str(len(result.targets)), "hidden crystals"),
              (stable, "on or below the hull by the potential")]  # fmt: skip
    most = result.config.budgets[-1]
    counts += [(f"{percent(result.usual.at(n, most).share)} %", f"found by {n}") for n in result.campaigns]
    header = top(
        f"rediscovery · {result.config.name}", "Rediscovery", [lead_of(result)], result.potential.notes, counts
    )
    picture = data_uri(recall_svg(result.usual, result.config.budgets), "image/svg+xml")
    budgets = [f"after {budget}" for budget in result.config.budgets]
    n, targets_head = len(budgets), ("system", "formula", "id", "atoms", "space group", "above hull, eV/atom")
    sections = [
        section("recall", "What was found", ERRORS,
                f'<figure class="card" style="margin-bottom: 16px"><img src="{picture}" '
                'alt="Recall over relaxations, a line per proposer"></figure>'
                + table_html(recall_head(result), recall_rows(result), [False, *[True] * (n + 2)],
                             "Strict: ltol 0.2, stol 0.3, angle 5 degrees in place of 0.3, 0.5, 10.")),
        section("differences", "Differences", "On the same hidden crystals, in points, paired; errors as above.",
                table_html(("pair", *budgets), difference_rows(result), [False, *[True] * n], "Recall less recall.")),
        section("expense", "Expense", "Over all systems; a portfolio spends what its proposers have spent.",
                table_html(EXPENSE_HEAD, expense_rows(result), [False, True, False, *[True] * 10],
                           "Seconds as measured when each stage was computed.")),
        section("hidden", "Hidden crystals",
                "Relaxations until each was found, and its rank by energy above hull at the largest budget. Above "
                "hull: by the potential, against the known phases; below 0 it would be called stable.",
                table_html((*targets_head, *result.campaigns), target_rows(result),
                           [False] * 3 + [True] * 3 + [False] * len(result.campaigns), "Every hidden crystal.")),
        _provenance(result),
    ]  # fmt: skip
    if result.shared:
        content = table_html(SHARED_HEAD, shared_rows(result), [True] * len(SHARED_HEAD), "Hidden crystals found in % "
                             "of all; finds per 100 relaxations.")  # fmt: skip
        sections.insert(2, section("shared", "One budget for all systems", shared_lead(result), content))
    return page(result.config.name, "rediscovery", header, sections)


def _provenance(result: Rediscovery) -> str:
    stated = {f"checkpoint: {made.entry.name}": f"{made.checkpoint}, sha256 {made.sha256}" for made in result.proposers}
    stated["potential"] = f"{result.potential.method}, {result.potential.fingerprint}"
    stated |= {f"setting: {name}": value for name, value in flattened(result.config.model_dump(mode="json"))}
    content = f"<details><summary>Checkpoints, potential, settings</summary>{pairs(stated)}</details>"
    return section("provenance", "Where it comes from", "rediscovery.json and found.parquet lie beside it.", content)


def rediscovery_markdown(result: Rediscovery) -> str:
    """The tables of recall and differences, as the artifact has them."""
    budgets = [f"after {budget}" for budget in result.config.budgets]
    parts = [f"# Rediscovery: {escape_markdown(safe(result.config.name))}", escape_markdown(lead_of(result)), ERRORS]
    head, n = recall_head(result), len(budgets)
    parts.append(table(head, recall_rows(result), "l" + "r" * (n + 2)))
    parts.append(table(("pair", *budgets), difference_rows(result), "l" + "r" * n))
    if result.shared:
        parts += [shared_lead(result), table(SHARED_HEAD, shared_rows(result), "r" * len(SHARED_HEAD))]
    return "\n\n".join(parts) + "\n"


def publish(result: Rediscovery) -> None:
    """The tables as a Markdown artifact; nothing outside a Prefect run."""
    from prefect.artifacts import create_markdown_artifact

    from tasks.report.run.artifacts import artifact_key, in_prefect_run

    if in_prefect_run():
        key = artifact_key("rediscovery", result.config.name)
        create_markdown_artifact(rediscovery_markdown(result), key=key, description=lead_of(result))
