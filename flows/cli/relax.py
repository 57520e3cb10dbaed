"""The command that relaxes crystals of a user's own."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.console import RELAXED, answer, begin, guarded, progress_bar, say, with_reasons
from flows.cli.own_crystals import read_crystals, say_potential
from flows.cli.results import SHOWN, finish
from flows.cli.shared_options import AsJson, Crystals, Debug, Out, Potential, set_option


def register(app: typer.Typer) -> None:
    """Give the application this command."""
    app.command()(relax)


@guarded
def relax(
    files: Crystals,
    out: Out,
    potential: Potential = None,
    settings: Annotated[list[str] | None, set_option("relax.fmax_ev_per_ang=0.02")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Relax cell and positions of crystals with a machine-learned potential."""
    from configs.command_line import potential_changes, settings_of

    config = settings_of(potential_changes(potential), settings)
    begin(f"{', '.join(files)} relaxed into {out}", as_json)
    with answer(as_json) as give:
        from tasks.discover.own_files import plain_rows, relax_crystals, write_crystals

        read = read_crystals(files)
        say_potential(config)
        with progress_bar("relaxed", as_json) as bar:
            relaxed = relax_crystals(read.table, config, bar, read.refused)
        write_crystals(relaxed, out, "relaxed_")
        rows = plain_rows(relaxed)
        finish(relaxed, None, with_reasons(rows[:SHOWN], RELAXED), as_json, give)
        say(f"written to {out}", as_json)
        if not any(row["relax_status"] == "converged" for row in rows):
            say("hullward: no relaxation converged; the table says why for each crystal")
            raise typer.Exit(1)
