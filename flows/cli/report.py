"""The command that renders a run's report again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.console import answer, guarded
from flows.cli.shared_options import AsJson, Debug


def register(app: typer.Typer) -> None:
    """Give the application this command."""
    app.command()(report)


@guarded
def report(
    run_folder: Annotated[Path, typer.Argument(help="Folder of a run, such as runs/quickstart.")],
    candidate: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="The page of one candidate, to be sent to somebody: its id or the beginning of it."
        ),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Render a run's report again from the run's files, or the page of one of its candidates."""
    with answer(as_json) as give:
        from tasks.discover.report import render_again, render_candidate

        page = render_again(run_folder) if candidate is None else render_candidate(run_folder, candidate)
        if not as_json:
            typer.echo(str(page))
        give({"report": str(page)})
