"""What a shell completes: commands and options by itself; here the names of shipped settings and of potentials."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import typer

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_HULLWARD_COMPLETE"
"""With it set the command is asked by a shell what could be meant, and does nothing else."""

PRESETS = Path(__file__).resolve().parents[2] / "configs" / "presets"
OTHERS = ("benchmark", "campaign", "ingest", "judges", "rediscovery", "reproduce", "train")
"""What the names of shipped settings begin with that are of no run."""


def script(shell: str) -> str:
    """What a shell reads to complete `hullward`. Raises: typer.BadParameter: for another shell."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # its __init__ imports it as well

    if shell not in SHELLS:
        raise typer.BadParameter(f"{shell!r} is none of the shells {', '.join(SHELLS)}")
    return get_completion_script(prog_name="hullward", complete_var=VARIABLE, shell=shell)


def prepare() -> None:
    """Where a shell asks, have typer answer in that shell's form."""
    if VARIABLE in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()


def presets(*heads: str) -> Callable[[str], list[str]]:
    """Completes the names of shipped settings that begin with one of these; with none, those of runs."""

    def complete(incomplete: str) -> list[str]:
        names = sorted(file.stem for file in PRESETS.glob("*.yaml"))
        fitting = [name for name in names if (name.startswith(heads) if heads else not name.startswith(OTHERS))]
        return [name for name in fitting if name.startswith(incomplete)]

    return complete


def potentials(incomplete: str) -> list[str]:
    """Completes the names of registered potentials, whatever upper and lower case is written."""
    from dft.potentials.registry import REGISTRY

    return [name for name in REGISTRY.places if name.casefold().startswith(incomplete.casefold())]
