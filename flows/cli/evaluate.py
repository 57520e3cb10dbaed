"""The command that judges samples by the protocols of the field."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.console import answer, begin, guarded, labelled_bar, say, show_table
from flows.cli.shared_options import AsJson, Debug, Potential, set_option

if TYPE_CHECKING:
    from tasks.report.evaluation.model import EvaluationReport

SHOWN = {"protocol": "protocol", "figure": "figure", "value": "value", "unit": "unit", "n": "n", "remark": "remark"}
"""Columns of the table on the terminal, with their headings."""

BOUND = re.compile(r", 9?5 %( low| high)?$")
"""Ends of intervals and quantiles: in the files, not on the terminal."""


def register(app: typer.Typer) -> None:
    """Give the application this command."""
    app.command()(evaluate)


@guarded
def evaluate(
    samples: Annotated[str, typer.Argument(metavar="SAMPLES", help="Crystals to judge: CSV, JSON, Parquet; a folder.")],
    reference: Annotated[str | None, typer.Option(metavar="TEST", help="True crystals: the test set.")] = None,
    train: Annotated[
        str | None, typer.Option(metavar="TRAIN", help="Crystals that are not new, and competing phases.")
    ] = None,
    phases: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Further competing phases; may be repeated.")
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="cdvae, airi, adaptive-cell, condition-cdvae, sun or all; may be repeated. Without: cdvae."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="mp-20, perov-5, carbon-24, ...: papers' rows beside, and its cut-offs.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Results. Without: runs/evaluations/SAMPLES.")
    ] = None,
    targets: Annotated[str | None, typer.Option(help="How a sample finds its true crystal: auto, id or index.")] = None,
    task: Annotated[
        str | None, typer.Option(help="What the samples are: prediction (for a composition) or reconstruction.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes for fingerprints and matching.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Relax at most N samples, at random.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random choice.")] = None,
    energies: Annotated[bool, typer.Option("--energies", help="Compute energies for their distribution.")] = False,
    regressor: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Their energies by CDVAE's own regressor (.safetensors) or a trained one."),
    ] = None,
    potential: Potential = None,
    settings: Annotated[list[str] | None, set_option("relax.max_steps=100")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """How good generated crystals are, by the protocols of the field, beside what papers report."""
    from configs.command_line import evaluation_settings

    stated = {
        "samples": samples,
        "reference": reference,
        "train": train,
        "phases": phases or None,
        "protocols": protocol or None,
        "dataset": dataset,
        "out": None if out is None else str(out),
        "targets": targets,
        "task": task,
        "workers": workers,
        "limit": limit,
        "seed": seed,
        "energies": energies or None,
        "regressor": regressor,
    }
    config = evaluation_settings(stated, potential, settings)
    begin(f"{samples} judged by {', '.join(config.protocols)}, into {config.folder}", as_json)
    with answer(as_json) as give:
        from tasks.evaluate.stages import evaluate as run

        with labelled_bar("reading", as_json) as progress:
            report = run(config, progress)
        if not as_json:
            _show(report, config.folder)
        give({"folder": str(config.folder), **report.as_dict()})


def _show(report: EvaluationReport, folder: Path) -> None:
    """The figures as a table, what is missing, and where everything lies."""
    from tasks.report.evaluation.markdown import lead
    from tasks.report.evaluation.tables import metric_rows

    typer.echo(lead(report))
    rows = [
        dict(zip(SHOWN, (evaluation.protocol, *row), strict=True))
        for evaluation in report.evaluations
        for row in metric_rows(evaluation)
        if not BOUND.search(row[0])
    ]
    show_table(rows, SHOWN)
    for part, reason in report.left_out.items():
        say(f"{part} was not computed: {reason}")
    for note in report.notes:
        say(note)
    typer.echo(f"\nreport   {folder / 'evaluation.html'}\nfigures  {folder / 'evaluation.json'}")
