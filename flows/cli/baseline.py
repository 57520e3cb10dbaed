"""The command that makes checkpoints of generators that learn nothing, to compare others with."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.console import answer, guarded, progress_bar, say
from flows.cli.shared_options import AsJson, Debug


def register(app: typer.Typer) -> None:
    """Give the application this command."""
    app.command()(baseline)


@guarded
def baseline(
    name: Annotated[str, typer.Argument(help="training-copies, prototype-substitution or random-symmetric.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The checkpoint; name it in sample.checkpoint.")],
    dataset: Annotated[
        str | None,
        typer.Argument(help="Known crystals: a dataset's folder, or any file ingest reads; random-symmetric has none."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="One setting of the baseline, such as temperature=0."),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make a generator that learns nothing: what a trained one has to beat."""
    from configs.overrides import override

    changes: dict[str, Any] = override({}, settings or [])
    with answer(as_json) as give:
        from tasks.train.baselines import make_baseline

        with progress_bar("space groups", as_json) as bar:
            made = make_baseline(name, dataset, out, changes, bar)
        for reason in made.reasons[:1]:
            say(f"{made.n_left_out} records are left out, the first: {reason}")
        if not as_json:
            held = f" of {made.n_crystals:,} crystals" if made.n_crystals else ""
            typer.echo(f"{made.name}{held} in {made.checkpoint}")
        give({**asdict(made), "checkpoint": str(made.checkpoint)})
