"""The command that sets crystals of a user's own against the hull of known phases."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.console import PLACED, answer, guarded, progress_bar, say
from flows.cli.own_crystals import read_crystals, say_potential
from flows.cli.results import finish
from flows.cli.shared_options import AsJson, Crystals, Debug, OutTable, Potential, Reference, set_option


def register(app: typer.Typer) -> None:
    """Give the application this command."""
    app.command()(hull)


@guarded
def hull(
    files: Crystals,
    reference: Reference,
    potential: Potential = None,
    out: OutTable = None,
    settings: Annotated[list[str] | None, set_option("hull.references_max=200")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Energy of crystals above the hull of known phases, all relaxed with one potential."""
    from configs.command_line import potential_changes, settings_of

    config = settings_of(potential_changes(potential), settings)
    with answer(as_json) as give:
        from generative.datasets.origins import origin_counts
        from tasks.discover.known import cut_of
        from tasks.discover.own_files import set_on_hull

        read, known = read_crystals(files), read_crystals([reference]).table
        say(f"phases to compete with: {origin_counts(known)}")
        say_potential(config)
        with progress_bar("relaxed", as_json) as bar:
            placed = set_on_hull(read.table, known, config, bar, read.refused).placed
        cut = cut_of(placed)
        finish(placed, out, PLACED, as_json, give, competing_phases=None if cut is None else cut.as_dict())
        if cut is not None and cut.note:
            say(cut.note)
