"""Job table and hull of a DFT campaign as Prefect artifacts, under the same keys each time: they change as jobs run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from storage.wording import amount
from tasks.dft.columns import JOB_HEADINGS
from tasks.report.run.artifacts import artifact_key, fitting_rows, in_prefect_run
from tasks.report.run.tables import escape_markdown, markdown_formula

if TYPE_CHECKING:
    from tasks.dft.campaign import Progress

HEADINGS = {"formula": "formula", "id": "id", **JOB_HEADINGS}


def publish_campaign(progress: Progress) -> None:
    """Publish the job table and the hull of a campaign; outside a Prefect run nothing."""
    if not in_prefect_run():
        return
    name = progress.campaign.name
    rows, left_out = fitting_rows([_shown(row) for row in progress.rows])
    about = f"{_said(progress)}. The table in full: `hullward dft status`."
    if left_out:
        about += f" {amount(left_out, 'more job is', 'more jobs are')} left out here."
    create_table_artifact(rows, key=artifact_key("dft-jobs", name), description=about)
    create_markdown_artifact(hull_markdown(progress), key=artifact_key("dft-hull", name), description=_said(progress))


def _said(progress: Progress) -> str:
    counts = ", ".join(f"{n} {state}" for state, n in progress.counts.items())
    return f"{len(progress.rows)} DFT jobs: {counts or 'none'}"


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    values = {heading: row.get(key) for key, heading in HEADINGS.items()}
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}


def hull_markdown(progress: Progress) -> str:
    """The hull of a campaign's own energies as Markdown: phases by their height above it, and what is missing."""
    placed = [row for row in progress.rows if row.get("e_above_hull_ev_per_atom") is not None]
    placed.sort(key=lambda row: (row["e_above_hull_ev_per_atom"], row["formula"]))
    methods = sorted({row["method"] for row in placed})
    lines = [f"# DFT hull of {escape_markdown(progress.campaign.name)}", "", f"{_said(progress)}.", ""]
    if not placed:
        return "\n".join([*lines, "No phase has a place yet: a hull needs an elemental phase of each element.", ""])
    lines += [
        f"Energies: {', '.join(map(escape_markdown, methods))}. Above the hull of the campaign's other phases.",
        "",
    ]
    lines += ["| formula | id | above hull eV/atom | formation eV/atom | decomposes into |", "|---|---|---|---|---|"]
    for row in placed:
        cells = [
            markdown_formula(row["formula"]),
            escape_markdown(row["id"]),
            f"{row['e_above_hull_ev_per_atom']:.3f}",
            "" if row["formation_energy_ev_per_atom"] is None else f"{row['formation_energy_ev_per_atom']:.3f}",
            escape_markdown(row["decomposition"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    noted = [row for row in placed if row["hull_note"]]
    noted += [row for row in progress.rows if row["state"] == "done" and row not in placed]
    lines += ["", *(f"- {row['formula']} ({escape_markdown(row['id'])}): {row.get('hull_note')}" for row in noted)]
    return "\n".join(lines) + "\n"
