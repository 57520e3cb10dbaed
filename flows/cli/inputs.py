"""The command that writes VASP inputs of crystals of a user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.console import answer, guarded, say, show_table
from flows.cli.own_crystals import read_crystals
from flows.cli.shared_options import AsJson, Crystals, Debug, set_option


def register(app: typer.Typer) -> None:
    """Give the application this command."""
    app.command()(inputs)


@guarded
def inputs(
    files: Crystals,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="One folder per crystal appears in it.")],
    preset: Annotated[
        str, typer.Option(help="mp-relax, conditional-generation, dp-cdvae, dp-cdvae-10gpa or vdw.")
    ] = "conditional-generation",
    n: Annotated[int, typer.Option("--number", "-n", min=1, help="Most crystals, from the top of the file.")] = 100,
    settings: Annotated[list[str] | None, set_option("inputs.top_n=10")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """VASP inputs of crystals, ready to submit, each with the jobflow Flow beside it."""
    from configs.command_line import settings_of

    config = settings_of({"inputs.preset": preset, "inputs.top_n": n}, settings)
    with answer(as_json) as give:
        from tasks.discover.input_notes import shared_notes
        from tasks.discover.own_files import write_inputs_of

        read = read_crystals(files)
        outcomes = write_inputs_of(read.table, files, out, config)
        none: dict[str, Any] = {"formula": None, "folder": None, "notes": []}
        outcomes += [{"id": name, **none, "reason": reason} for name, reason in read.refused]
        if not as_json:
            show_table(outcomes, {"id": "id", "formula": "formula", "folder": "folder", "reason": "reason"})
            for note in shared_notes({outcome["id"]: outcome["notes"] for outcome in outcomes}):
                say(note)
        give({"inputs": outcomes})
        if not any(outcome["folder"] for outcome in outcomes):
            say("hullward: no inputs could be written; the table says why for each crystal")
            raise typer.Exit(1)
