"""The command line: a module per command, registered here; heavy imports wait for their command.

Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 the work failed, 2 wrong usage
or settings.
"""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli import (
    baseline,
    benchmark,
    campaign,
    deploy,
    dft,
    discover,
    evaluate,
    hull,
    ingest,
    inputs,
    modify,
    optimade,
    plan,
    relax,
    report,
    reproduce,
    sample,
    screen,
    train,
)
from flows.cli.completion import prepare, script
from flows.cli.examples import add_examples
from flows.servers.environment import be_quiet

COMMANDS = (
    *(plan, discover, campaign, ingest, modify, train),
    *(sample, screen, relax, hull, inputs),
    *(evaluate, baseline, benchmark, reproduce),
    *(optimade, dft, report, deploy),
)
"""In the order of `hullward --help`."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A chemical system goes in, ranked new crystals with VASP inputs come out.",
)
for command in COMMANDS:
    command.register(app)
add_examples(app)
prepare()


def _completion(shell: str | None) -> None:
    if shell is not None:
        typer.echo(script(shell))
        raise typer.Exit


def _version(show: bool) -> None:
    if show:
        from configs.paths import project_version

        typer.echo(f"hullward {project_version()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
    completion: Annotated[
        str | None,
        typer.Option(
            metavar="SHELL",
            callback=_completion,
            is_eager=True,
            help='Write what bash, zsh or fish reads to complete commands: eval "$(hullward --completion bash)".',
        ),
    ] = None,
) -> None:
    be_quiet()


if __name__ == "__main__":
    app()
