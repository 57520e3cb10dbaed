"""What the commands on a user's own crystals have in common: files read, with a word on what was not; the potential."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.cli.console import progress_bar, say
from storage.wording import amount

if TYPE_CHECKING:
    from configs.schema import DiscoverConfig
    from tasks.discover.own_files import ReadFiles


def read_crystals(paths: list[str]) -> ReadFiles:
    """The crystals in these files and folders; says how many records and files were not read."""
    from tasks.discover.own_files import read_files

    read = read_files(paths)
    if read.refused:
        name, reason = read.refused[0]
        say(f"{amount(len(read.refused), 'record')} could not be read, the first: {name.partition(':')[2]}: {reason}")
    if read.not_read:
        said = amount(len(read.not_read), "file of a folder was not read", "files of a folder were not read")
        say(f"{said}, the first: {read.not_read[0]}")
    return read


def say_potential(config: DiscoverConfig) -> None:
    """Say which potential the energies come from, and what they are worth."""
    from tasks.discover.own_files import energies_by

    with progress_bar("loading and checking the potential", hidden=False):
        said = energies_by(config)
    say(said)
