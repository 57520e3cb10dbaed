"""What commands show of their results: a table on a terminal, or all of it as JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flows.cli.console import PHONON, RANKED, show_table, with_groups, with_opinions, with_phonons

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pyarrow as pa

SHOWN = 10
"""Rows of a table on the terminal; files and JSON hold all."""


def in_groups(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows with a remark `in_its_group`, in a run where space groups were kept."""
    from tasks.report.run.kept_symmetry import kept_of, remark

    return [row if (kept := kept_of(row)) is None else {**row, "in_its_group": remark(kept)} for row in rows]


def with_verdicts(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows with the judge's probability and whether the two opinions agree, in a run with a judge."""
    from tasks.report.run.opinions import opinion_of, percent, verdict

    said = [(row, opinion_of(row)) for row in rows]
    return [row if o is None else {**row, "within": percent(o.probability), "opinions": verdict(o)} for row, o in said]


def ranked_view(ranked: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], Mapping[str, str]]:
    """The first rows of a ranked table with their remarks, and the columns that are shown of them."""
    shown = with_verdicts(in_groups(ranked[:SHOWN]))
    return shown, with_phonons(ranked, with_groups(shown, with_opinions(shown, RANKED)))


def run_summary(folder: Path, as_json: bool) -> dict[str, Any]:
    """What a run has found; shown as a table unless it is wanted as JSON."""
    from storage.tables import read_table
    from tasks.discover.candidates import JUDGED, KEPT
    from tasks.discover.own_files import plain_rows
    from tasks.discover.phases import phase_lines
    from tasks.discover.run import RunFolder, read_manifest
    from tasks.files import OF_A_RUN
    from tasks.report.run.kept_symmetry import counts_sentence as saddle_points_sentence
    from tasks.report.run.model import ProposerYield
    from tasks.report.run.opinions import counts_sentence, opinion_of, probability_sentence
    from tasks.report.run.proposers import HEAD, proposer_rows
    from tasks.report.run.ranked_rows import RankedRow, ranked_sentence
    from tasks.report.run.summary import counts_of

    table = read_table(folder / "candidates.parquet", OF_A_RUN)
    manifest = read_manifest(RunFolder(folder))
    cut = manifest.get("competing_phases")
    proposers = [ProposerYield(**said) for said in manifest.get("yields_by_proposer", [])]
    ranked = plain_rows(table.slice(0, len(table) - table.column("rank").null_count))
    report = folder / "report.html"
    if not as_json:
        head = f"; the first {SHOWN}" if len(ranked) > SHOWN else ""
        shown, columns = ranked_view(ranked)
        show_table(shown, columns, f"{ranked_sentence(table)}{head}")
        opinions = [opinion_of(row) for row in ranked]
        for said in filter(None, (counts_sentence(opinions), probability_sentence(opinions))):
            typer.echo(f"\n{said}")
        if told := saddle_points_sentence(counts_of([RankedRow.of(row) for row in ranked])):
            typer.echo(f"\n{told}")
        typer.echo("\n" + "\n".join(phase_lines(folder)))
        if proposers:
            show_table([dict(zip(HEAD, row, strict=True)) for row in proposer_rows(proposers)], {h: h for h in HEAD})
        typer.echo(f"\nreport      {report}\ncandidates  {folder / 'candidates.parquet'}\nVASP inputs {folder / 'dft'}")
    keys = [
        *RANKED,
        "known_match",
        "prototype_match",
        "decomposition",
        "relax_status",
        "energy_method",
        "hull_note",
        *PHONON,
        "dynamically_stable",
        "phonon_note",
        *(field.name for field in (*KEPT, *JUDGED) if field.name in table.column_names),
    ]
    return {
        "run_folder": str(folder),
        "report": str(report),
        "n_candidates": len(table),
        "n_ranked": len(ranked),
        **({"yields_by_proposer": [asdict(y) for y in proposers]} if proposers else {}),
        "competing_phases": cut,
        "phases_by_origin": manifest["phases_by_origin"],
        "candidates": [{key: row.get(key) for key in keys} for row in ranked],
    }


def finish(
    table: pa.Table,
    out: Path | None,
    columns: Mapping[str, str],
    as_json: bool,
    give: Callable[[Any], None],
    **beside: Any,
) -> None:
    """Keep a table, show its head, and give all of it, and what goes beside it, as the command's result."""
    from tasks.discover.own_files import plain_rows, write_crystals

    if out is not None:
        write_crystals(table, out.with_suffix(".parquet"))
    rows = plain_rows(table)
    if not as_json:
        shown = in_groups(rows[:SHOWN])
        show_table(shown, with_groups(shown, columns), f"the first {SHOWN} of {len(rows)}" if len(rows) > SHOWN else "")
    give({"crystals": rows, **beside})
