"""The command that trains a generator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.completion import presets
from flows.cli.console import answer, guarded, progress_bar
from flows.cli.plan import shown
from flows.cli.shared_options import AsJson, Debug, DryRun, set_option


def register(app: typer.Typer) -> None:
    """Give the application this command."""
    app.command()(train)


@guarded
def train(
    config: Annotated[
        str, typer.Argument(autocompletion=presets("train"), help="YAML file of a training, or train-flow.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Working folder; the checkpoint appears in it.")],
    settings: Annotated[list[str] | None, set_option("max_steps=500")] = None,
    resume: Annotated[bool, typer.Option(help="Go on where an interrupted training stopped.")] = True,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a generator; interrupted, the same command goes on."""
    import os

    from configs.overrides import override
    from configs.schema import parse, read_yaml
    from generative.training.config import TrainConfig

    file, read = read_yaml(config)
    parsed = parse(TrainConfig, override(read, settings or [], TrainConfig), str(file))
    if dry_run:
        from tasks.plans.training import plan_training

        shown(lambda: plan_training(parsed, out), as_json)
        return
    os.environ["HULLWARD_PROGRESS"] = "0"  # Lightning's own bar, which tells nothing until the first step
    with answer(as_json) as give:
        from tasks.train.progress import steps_told
        from tasks.train.training import train as run

        with progress_bar(f"training {parsed.name}", as_json) as bar:
            checkpoint = run(parsed, out, [steps_told(parsed, bar)], resume)
        if not as_json:
            typer.echo(f"checkpoint {checkpoint}")
        give({"checkpoint": str(checkpoint)})
