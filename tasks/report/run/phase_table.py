"""The competing phases on report.html: where each comes from, and where the potentials put it."""

from __future__ import annotations

from generative.datasets.origins import LABELS
from tasks.report.hull_traces import html_formula
from tasks.report.run.candidate_table import NONE
from tasks.report.run.model import HullPhase, ReportInputs
from tasks.report.run.sources import linked_entry, source_and_entry
from tasks.report.run.summary import number, safe

MOST_PHASES = 60
"""Rows, the nearest to the hull; hundreds of prototypes lie far above it, and phases.parquet holds all."""


def phase_section(inputs: ReportInputs) -> str:
    """The section of the report's page; empty without competing phases."""
    phases = sorted(
        inputs.hull.phases, key=lambda p: (p.e_above_hull_ev_per_atom, p.formation_energy_ev_per_atom, p.id)
    )
    if not phases:
        return ""
    shown, n_more = phases[:MOST_PHASES], len(phases) - MOST_PHASES
    more = (
        f" {n_more} more, from {number(phases[MOST_PHASES].e_above_hull_ev_per_atom)} eV/atom above the hull on, are in"
        ' <a href="phases.parquet">phases.parquet</a>.'
        if n_more > 0
        else ""
    )
    judged = any(p.judged is not None for p in phases)
    second = '<th class="num">by the judge</th>' if judged else ""
    span = ' colspan="2"' if judged else ""
    method = inputs.hull.level_of_theory or inputs.potential_method
    judge = f"; the judge: {inputs.judges[0]}, the phases that may decide its hull" if judged and inputs.judges else ""
    head = (
        f'<tr><th rowspan="2">Formula</th><th class="num"{span}>Above hull<small>eV/atom</small></th>'
        f'<th class="num"{span}>Formation energy<small>eV/atom</small></th><th rowspan="2">Origin</th>'
        '<th rowspan="2">Source</th><th rowspan="2">Entry</th></tr>'
        f'<tr><th class="num">first</th>{second}<th class="num">first</th>{second}</tr>'
    )
    rows = "\n".join(_row(p, judged) for p in shown)
    return (
        '<section id="phases"><h2>Competing phases</h2><p class="hint">What the candidates are measured against, '
        f"nearest to the hull first, each with the entry it comes from.{more}</p>"
        f'<div class="card scroll"><table class="phases"><caption>Energies: {safe(method + judge)}; not those that the '
        f"source states.</caption><thead>{head}</thead><tbody>\n{rows}\n</tbody></table></div></section>"
    )


def _row(phase: HullPhase, judged: bool) -> str:
    def pair(first: str, second: str) -> str:
        return f'<td class="num">{first}</td>' + (f'<td class="num">{second or NONE}</td>' if judged else "")

    opinion = phase.judged
    above = "on it" if phase.stable else number(phase.e_above_hull_ev_per_atom)
    same = f'<br><span class="small">the same as {linked_entry(phase.same_as)}</span>' if phase.same_as else ""
    source = source_and_entry(phase.id)[0]
    return (
        f'<tr data-phase="{safe(phase.id)}"><td><b>{html_formula(phase.formula)}</b></td>'
        + pair(above, "" if opinion is None else number(opinion.e_above_hull_ev_per_atom))
        + pair(
            number(phase.formation_energy_ev_per_atom),
            "" if opinion is None else number(opinion.formation_energy_ev_per_atom),
        )
        + f'<td>{safe(LABELS[phase.origin])}</td><td class="wrap">{safe(source) or NONE}</td>'
        f'<td class="wrap">{linked_entry(phase.id)}{same}</td></tr>'
    )
