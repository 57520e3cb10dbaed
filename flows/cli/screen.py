"""The command that screens crystals of a user's own."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.console import SCREENED, answer, guarded
from flows.cli.own_crystals import read_crystals
from flows.cli.results import finish
from flows.cli.shared_options import AsJson, Crystals, Debug, OutTable, Reference, set_option


def register(app: typer.Typer) -> None:
    """Give the application this command."""
    app.command()(screen)


@guarded
def screen(
    files: Crystals,
    reference: Reference,
    out: OutTable = None,
    settings: Annotated[list[str] | None, set_option("screen.smact_filter=true")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Which crystals are valid, not among the known ones, and not repeats of each other."""
    from configs.command_line import settings_of

    config = settings_of({}, settings)
    with answer(as_json) as give:
        from tasks.discover.own_files import screen_crystals

        read = read_crystals(files)
        table = screen_crystals(read.table, read_crystals([reference]).table, config, read.refused)
        alive = table.column("rejected_by").null_count
        finish(table, out, SCREENED, as_json, give)
        if not as_json:
            typer.echo(f"{alive} of {len(table)} crystals are valid, novel and unique")
