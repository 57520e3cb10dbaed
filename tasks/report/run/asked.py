"""What was asked of the generator beside what came, and the best crystal of every formula: counts and their tables."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

from tasks.report.run.model import AskedFigure, FormulaBest
from tasks.report.run.tables import markdown_formula, plain_markdown, plain_table

ENERGY_WITHIN_EV_PER_ATOM = 0.1
"""How near a formation energy must lie to the one that was asked for, eV/atom."""


def asked_figures(rows: Sequence[dict[str, Any]]) -> tuple[AskedFigure, ...]:
    """Hits over the rows of candidates.parquet; none where nothing but compositions was asked."""
    relaxed = [
        (json.loads(row["condition"]), row)
        for row in rows
        if row["energy_ev_per_atom"] is not None and row["condition"] is not None
    ]
    found = []
    group = [(a["spacegroup"], row) for a, row in relaxed if a["spacegroup"] is not None]
    if group:
        hits = [sum(row[name] == asked for asked, row in group) for name in ("generated_spacegroup", "spacegroup")]
        found.append(AskedFigure("space group (spglib, 0.1 A)", len(group), *hits))
    energy = [
        (a["formation_energy_ev_per_atom"], row) for a, row in relaxed if a["formation_energy_ev_per_atom"] is not None
    ]
    if energy:
        names = ("generated_formation_energy_ev_per_atom", "formation_energy_ev_per_atom")
        hits = [
            sum(row[name] is not None and abs(row[name] - asked) <= ENERGY_WITHIN_EV_PER_ATOM for asked, row in energy)
            for name in names
        ]
        found.append(AskedFigure(f"formation energy within {ENERGY_WITHIN_EV_PER_ATOM} eV/atom", len(energy), *hits))
    return tuple(found)


def best_of_formulas(rows: Sequence[dict[str, Any]]) -> tuple[FormulaBest, ...]:
    """The best candidate of every formula, best first."""
    ranked = sorted((row for row in rows if row["rank"] is not None), key=lambda row: row["rank"])
    best: dict[str, dict[str, Any]] = {}
    count: dict[str, int] = {}
    for row in ranked:
        best.setdefault(row["formula"], row)
        count[row["formula"]] = count.get(row["formula"], 0) + 1
    return tuple(
        FormulaBest(
            formula,
            count[formula],
            row["rank"],
            row["spacegroup_symbol"] or "",
            row["e_above_hull_ev_per_atom"],
        )
        for formula, row in best.items()
    )


def _share(n: int, of: int) -> str:
    return f"{n} ({100 * n / of:.0f} %)"


def _asked_rows(figures: Sequence[AskedFigure]) -> list[tuple[str, ...]]:
    return [(f.what, str(f.n), _share(f.n_generated, f.n), _share(f.n_relaxed, f.n)) for f in figures]


def _best_rows(best: Sequence[FormulaBest], most: int) -> list[tuple[str, ...]]:
    return [
        (
            b.formula,
            str(b.n_ranked),
            str(b.rank),
            b.spacegroup_symbol,
            "" if b.e_above_hull_ev_per_atom is None else f"{b.e_above_hull_ev_per_atom:.4f}",
        )
        for b in best[:most]
    ]


ASKED_HEAD = ("asked", "relaxed candidates", "had it as generated", "have it relaxed")
BEST_HEAD = ("formula", "ranked", "best rank", "space group", "above hull, eV/atom")
MOST_FORMULAS = 40


def asked_section(figures: Sequence[AskedFigure], best: Sequence[FormulaBest], method: str) -> str:
    """The section of the report's page; empty where there is nothing to say."""
    parts = []
    if figures:
        parts.append(plain_table(ASKED_HEAD, _asked_rows(figures)))
    if len(best) > 1:
        parts.append(
            f'<p class="hint">The best of every formula; energies by {html.escape(method)}.</p>'
            + plain_table(BEST_HEAD, _best_rows(best, MOST_FORMULAS))
        )
    return f'<section id="asked"><h2>Asked and got</h2>{"".join(parts)}</section>' if parts else ""


def asked_markdown(figures: Sequence[AskedFigure], best: Sequence[FormulaBest]) -> list[str]:
    """The same as Markdown blocks."""
    blocks = []
    if figures:
        blocks += ["## Asked and got", plain_markdown(ASKED_HEAD, _asked_rows(figures))]
    if len(best) > 1:
        rows = [(markdown_formula(row[0]), *row[1:]) for row in _best_rows(best, MOST_FORMULAS)]
        blocks += ["## Best of every formula", plain_markdown(BEST_HEAD, rows, escaped=1)]
    return blocks
