"""Options that several commands share, under one name each, so that they read and behave alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.completion import potentials


def set_option(example: str) -> Any:
    """The option --set of a command, with an example of its own settings."""
    return typer.Option("--set", metavar="NAME=VALUE", help=f"One setting, such as {example}; may be repeated.")


Elements = Annotated[str | None, typer.Option(metavar="SYSTEM", help="Chemical system, such as Ta-W-B.")]
AsJson = Annotated[bool, typer.Option("--json", help="The result as JSON on standard output, and nothing else there.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, with what, how long it takes; do nothing.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")]
Out = Annotated[Path, typer.Option(help="Where the result goes: a file ending in .parquet, or a folder (CIFs).")]
OutTable = Annotated[Path | None, typer.Option(help="Keep the result as a Parquet file.")]
Potential = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Potential: a name, a folder, or CHGNet. Without: the default or its fallback.",
        autocompletion=potentials,
    ),
]
Crystals = Annotated[list[str], typer.Argument(metavar="FILE...", help="CIF, POSCAR, CSV, JSON, Parquet; or a folder.")]
Reference = Annotated[str, typer.Option(metavar="FILE", help="Known crystals: any file or dataset that ingest reads.")]
