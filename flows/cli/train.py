"""The command that trains a generator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.console import answer, guarded
from flows.cli.shared_options import AsJson, Debug, Settings


def register(app: typer.Typer) -> None:
    """Give the application this command."""
    app.command()(train)


@guarded
def train(
    config: Annotated[str, typer.Argument(help="YAML file of a training, or train-flow.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Working folder; the checkpoint appears in it.")],
    settings: Settings = None,
    resume: Annotated[bool, typer.Option(help="Go on where an interrupted training stopped.")] = True,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a generator; interrupted, the same command goes on."""
    import os

    from configs.overrides import override
    from configs.schema import parse, read_yaml
    from generative.training.config import TrainConfig

    file, read = read_yaml(config)
    parsed = parse(TrainConfig, override(read, settings or []), str(file))
    if as_json:
        os.environ["HULLWARD_PROGRESS"] = "0"
    with answer(as_json) as give:
        from tasks.train.training import train as run

        checkpoint = run(parsed, out, resume=resume)
        if not as_json:
            typer.echo(f"checkpoint {checkpoint}")
        give({"checkpoint": str(checkpoint)})
