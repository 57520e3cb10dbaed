"""The commands that give crystals to others in OPTIMADE's form: as a file, and over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.console import answer, guarded, progress_bar
from flows.cli.shared_options import AsJson, Debug

Origin = Annotated[
    Path,
    typer.Argument(metavar="RUN_OR_DATASET", help="Folder of a run or of a dataset, or a Parquet file of either."),
]
Everything = Annotated[bool, typer.Option("--all", help="Also candidates that were turned away, with the reason.")]


def register(app: typer.Typer) -> None:
    """Give the application these commands."""
    app.command()(export)
    app.command()(serve_optimade)


@guarded
def export(
    origin: Origin,
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="File that appears; one that is there is replaced.")],
    everything: Everything = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Candidates of a run, or crystals of a dataset, as OPTIMADE JSON lines."""
    with answer(as_json) as give:
        from tasks.optimade.export import export as run

        with progress_bar("structures", as_json) as bar:
            exported = run(origin, out, everything, bar)
        if not as_json:
            left = f"; {exported.n_left_out} turned away are left out" if exported.n_left_out else ""
            typer.echo(f"{exported.n_structures} structures of {exported.origin.title} in {out}{left}")
        give(
            {
                "file": str(out),
                "n_structures": exported.n_structures,
                "n_left_out": exported.n_left_out,
                "fields": [field.name for field in exported.origin.fields],
            }
        )


@guarded
def serve_optimade(
    origin: Origin,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of this machine; 0 takes any free one.")] = 5000,
    everything: Everything = False,
    debug: Debug = False,
) -> None:
    """Serve a run or a dataset by OPTIMADE on this machine, until Ctrl-C."""
    from flows.servers.optimade_server import serve_optimade as run

    run(origin, port, everything)
