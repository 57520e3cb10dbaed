"""The report as one markdown text that renders in Prefect's pages: pictures inside; no script, style or LaTeX."""

from __future__ import annotations

import base64
import html

from tasks.report.hull_geometry import phase_counts
from tasks.report.hull_plot import hull_png
from tasks.report.pictures import crystal_png, crystal_webp_rotating
from tasks.report.run.asked import asked_markdown
from tasks.report.run.kept_symmetry import counts_sentence
from tasks.report.run.model import ReportCandidate, ReportInputs
from tasks.report.run.opinions import remark
from tasks.report.run.phonons import phonon_markdown
from tasks.report.run.proposers import proposer_markdown
from tasks.report.run.second_opinion import opinion_markdown
from tasks.report.run.summary import (
    NEAR_HULL_EV_PER_ATOM,
    duration,
    flattened,
    number,
    proposers,
    summarise,
    theory_warning,
)
from tasks.report.run.tables import candidates_markdown, escape_markdown, markdown_formula

MARKDOWN_LIMIT_BYTES = 300_000
"""Prefect's lists load every artifact whole, so each stays below this."""

N_PICTURES = 4
N_ROWS = 20
MOST_NOTES, MOST_PROVENANCE = 30, 60


def data_uri(raw: bytes, mime: str = "image/png") -> str:
    """Bytes as a data URI."""
    return f"data:{mime};base64,{base64.b64encode(raw).decode()}"


def markdown_report(inputs: ReportInputs) -> str:
    """The whole report, under 300 kB whatever the run holds; the same text for the same inputs.

    Raises: ValueError: if a hull phase lies outside the hull's elements.
    """
    summary = summarise(inputs.candidates, inputs.counts)
    title = f"# {escape_markdown(inputs.system)}: {escape_markdown(inputs.run_name)}"
    notes = "\n".join(f"> **Note.** {escape_markdown(note)}\n>" for note in inputs.notes[:MOST_NOTES])
    counts = (
        f"**{summary.n_candidates}** ranked candidates"
        f"{f' ({proposers(summary)})' if proposers(summary) else ''}, **{summary.n_new}** are in no database, "
        f"**{summary.n_on_hull}** on or below the hull, **{summary.n_near_hull}** within "
        f"{NEAR_HULL_EV_PER_ATOM} eV/atom of it, **{summary.n_converged}** relaxations converged."
    )
    if in_groups := counts_sentence(summary):
        counts += f" {in_groups}."
    hull = f"![Convex hull]({data_uri(hull_png(inputs.hull, inputs.ranked))})"
    tail = [
        f"## Best {min(N_ROWS, len(inputs.candidates))} candidates",
        candidates_markdown(inputs.ranked, N_ROWS) if inputs.candidates else "No crystal passed every stage.",
        "ΔE and ΔV are relaxed minus generated. The table artifact and report.html hold more columns.",
        *opinion_markdown(inputs.ranked),
        *phonon_markdown(inputs.phonons, inputs.potential_method),
        *asked_markdown(inputs.asked, inputs.best_of_formulas),
        "## Yield",
        _yields(inputs),
        *proposer_markdown(inputs.proposers),
        "## Where it comes from",
        _provenance(inputs),
    ]
    head = [
        title,
        *([notes] if notes else []),
        counts,
        f"{escape_markdown(theory_warning(inputs))}.",
        "## Convex hull",
        f"Competing phases: {escape_markdown(phase_counts(inputs.hull.phases))}.",
        hull,
    ]
    rest = "\n\n".join([*head, *tail])
    room = MARKDOWN_LIMIT_BYTES - 8_000 - len(rest.encode())
    gallery = _gallery(inputs.ranked[:N_PICTURES], inputs.elements, room)
    return "\n\n".join([*head, *gallery, *tail]) + "\n"


def _gallery(best: list[ReportCandidate], elements: tuple[str, ...], room_bytes: int) -> list[str]:
    """The best crystals side by side, the first one turning, as many as fit."""
    cells: list[tuple[str, str, str]] = []
    for index, candidate in enumerate(best):
        if index == 0:
            picture = data_uri(crystal_webp_rotating(candidate.structure, 220, palette_elements=elements), "image/webp")
        else:
            picture = data_uri(crystal_png(candidate.structure, 240, elements))
        image = f'<img src="{picture}" alt="{html.escape(candidate.formula)}" width="150">'
        above = number(candidate.e_above_hull_ev_per_atom)
        energy = f"{above} eV/atom above hull" if above else "no place on the hull"
        if candidate.opinion is not None:
            energy += f"<br>{html.escape(remark(candidate.opinion))}"
        name = f"{candidate.rank}. {markdown_formula(candidate.formula)}"
        room_bytes -= len(image) + len(name) + len(energy)
        if room_bytes < 0:
            break
        cells.append((name, image, energy))
    if not cells:
        return []
    return [
        "## Best crystals",
        "\n".join(
            [
                "| " + " | ".join(name for name, _, _ in cells) + " |",
                "|" + ":-:|" * len(cells),
                "| " + " | ".join(image for _, image, _ in cells) + " |",
                "| " + " | ".join(energy for _, _, energy in cells) + " |",
            ]
        ),
    ]


def _yields(inputs: ReportInputs) -> str:
    rows = ["| Stage | In | Out | Time | Turned away, and notes |", "|:--|--:|--:|--:|:--|"]
    stages = [entry.stage for entry in inputs.yields]
    for entry in inputs.yields:
        reasons = sorted((r for r in inputs.rejected if r.stage == entry.stage), key=lambda r: (-r.count, r.reason))
        parts = [f"{r.count} {escape_markdown(r.reason)}" for r in reasons[:8]]
        parts += [escape_markdown(entry.note)] if entry.note else []
        rows.append(
            f"| {escape_markdown(entry.stage)} | {entry.n_in} | {entry.n_out} | {duration(entry.seconds)} | "
            f"{'; '.join(parts)} |"
        )
    others = [r for r in inputs.rejected if r.stage not in stages]
    reasons_elsewhere = "\n".join(
        f"- {r.count} by {escape_markdown(r.stage)}: {escape_markdown(r.reason)}" for r in others[:30]
    )
    return "\n".join(rows) + (f"\n\nTurned away:\n\n{reasons_elsewhere}" if others else "")


def _provenance(inputs: ReportInputs) -> str:
    rows = [("potential", inputs.potential_method), *flattened(inputs.provenance)[:MOST_PROVENANCE]]
    rows += [(f"tolerance {key}", value) for key, value in flattened(inputs.tolerances)]
    if inputs.run_folder:
        rows.append(("run folder (report.html, candidates.parquet, CIFs, VASP inputs)", inputs.run_folder))
    table = "\n".join(f"| {escape_markdown(key)} | {escape_markdown(value[:400])} |" for key, value in rows)
    return f"| | |\n|:--|:--|\n{table}"
