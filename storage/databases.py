"""SQLite files: whatever shows one to be damaged, in the words of whoever keeps it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.atomic import is_full, naming_full_disk


@contextmanager
def told_of(path: Path, failure: Callable[[Exception], Exception]) -> Iterator[None]:
    """Whatever SQLite says of a file, as a sentence.

    Args:
        path: of the file.
        failure: what to raise for what SQLite has raised.

    Raises: DiskFullError: if there is no room; else what `failure` makes.
    """
    with naming_full_disk(path):
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:  # names in SQLite's own words may be damaged
            if is_full(error, path):
                raise
            raise failure(error) from error
