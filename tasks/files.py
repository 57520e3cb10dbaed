"""What travels between tasks: references to files that check themselves; and tables that know what they were made from.

A chunk's file carries, in its Parquet metadata, the key it was computed for: a digest of the stage, the code that it
runs, package versions, the settings that matter, and the digests of its inputs. A file with the right key, whose
content fits the checksum that was written with it, is not computed again; anything else is a miss. Files appear by
rename, so a killed process leaves none half written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from storage import tables
from storage.checksums import Checksum, DamagedFileError, Inspected, inspect
from storage.digests import file_digest, json_digest
from tasks.source_code import Entry, code_digest

logger = logging.getLogger(__name__)

KEY = b"hullward_key"
PACKAGES = (
    "torch", "numpy", "pymatgen", "spglib", "smact", "matgl", "chgnet", "torch-sim-atomistic", "phonopy", "atomate2",
    "jobflow", "prefect",
)  # fmt: skip
"""Packages that numbers depend on."""

AGAIN = "give the same command again, which computes it anew"
ROWS_PER_GROUP = 4096
"""Of tables that later stages read chunk by chunk: a group is some megabytes of crystals."""

OF_A_RUN = "run the same discover again, which computes what is missing or damaged"
"""What to do about a damaged file, as the end of a sentence."""


_LOOKING: ContextVar[bool] = ContextVar("only looking", default=False)


class NotYetThereError(LookupError):
    """A result that would have to be computed, where nothing is to be; see only_looking."""


@contextmanager
def only_looking() -> Iterator[None]:
    """Within it what is there is found, and what is not raises NotYetThereError: nothing is computed or written.

    So a plan learns from the stages themselves what a run would find done.
    """
    token = _LOOKING.set(True)
    try:
        yield
    finally:
        _LOOKING.reset(token)


def refuse_to_compute(path: Path) -> None:
    """Nothing, but where one is only looking. Raises: NotYetThereError: there, naming what would be made."""
    if _LOOKING.get():
        raise NotYetThereError(f"{path} would have to be computed")


class FileRef(BaseModel):
    """A file of a run: path, digest, size, and whether it was there already.

    Attributes:
        path: where it lies.
        sha256: digest of its bytes.
        size: bytes.
        reused: True if this task found it done by an earlier run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    sha256: str
    size: int
    reused: bool = False

    @classmethod
    def of(cls, path: Path, reused: bool = False) -> Self:
        """The reference of a file on disk."""
        return cls(path=path, sha256=file_digest(path), size=path.stat().st_size, reused=reused)

    @classmethod
    def inspected(cls, path: Path, found: Inspected, reused: bool = False) -> Self:
        """The reference of a file that has just been written, or read through."""
        return cls(path=path, sha256=found.sha256, size=found.size, reused=reused)

    def read(self) -> pa.Table:
        """The table it holds.

        Raises: DamagedFileError: if the file changed since the reference was made.
        """
        self._check(file_digest(self.path) if self.path.is_file() else "no file")
        return tables.read_table(self.path, OF_A_RUN)

    def read_columns(self, *names: str) -> pa.Table:
        """Those of these columns that the table has; raises as read."""
        self._check_once()
        with pq.ParquetFile(self.path) as file:
            return file.read(columns=names)

    def read_rows(self, numbers: np.ndarray) -> pa.Table:
        """Some rows of the table, found without reading the others if it was written with `rows_per_group`.

        Args:
            numbers: of the rows, from 0, ascending.

        Raises: DamagedFileError: as read.
        """
        self._check_once()
        with pq.ParquetFile(self.path) as file:
            sizes = np.array([file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)], np.int64)
            first_rows = np.cumsum(sizes) - sizes
            groups, which = np.unique(np.searchsorted(first_rows, numbers, "right") - 1, return_inverse=True)
            table = file.read_row_groups(groups.tolist())
        # Where the rows stand in a table of these groups alone.
        moved_to = np.cumsum(sizes[groups]) - sizes[groups]
        return table.take(pa.array(numbers - first_rows[groups][which] + moved_to[which], pa.int64()))

    def _check_once(self) -> None:
        """Read the file through, the first time that this process meets it as it is."""
        try:
            state = self.path.stat()
        except FileNotFoundError:
            self._check("no file")
        else:
            self._check(_sha256_of_state(self.path, state.st_ino, state.st_size, state.st_mtime_ns))

    def _check(self, found: str) -> None:
        if found != self.sha256:
            raise DamagedFileError(
                f"{self.path} is damaged or was changed (expected sha256 {self.sha256[:12]}, found {found[:12]}): "
                f"{OF_A_RUN}"
            )


@lru_cache(maxsize=16)
def _sha256_of_state(path: Path, *state: int) -> str:
    return file_digest(path)


@lru_cache(maxsize=1)
def package_versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def key_of(stage: str, *computed_by: Entry, **parts: Any) -> str:
    """The key of a result: stage, code, package versions, and what else it depends on.

    Args:
        stage: its name.
        computed_by: the function that computes it, and what that reaches by other ways than imports; see
            tasks.source_code. None for an identity, which no code may change.
        parts: settings and digests of inputs.
    """
    parted = [stage, code_digest(*computed_by), package_versions(), parts]
    return json_digest(parted, spaced=True, finite=False, default=str)


def write_table(table: pa.Table, path: Path, key: str = "", rows_per_group: int | None = None) -> FileRef:
    """Write a Parquet file, with its checksum, that appears whole or not at all.

    Args:
        table: to be written.
        path: the file.
        key: what it was computed for.
        rows_per_group: so many can be read without the others; None: a million.

    Raises: DiskFullError: if there is no room.
    """
    return FileRef.inspected(path, tables.write_table(table, path, {KEY: key.encode()}, rows_per_group))


def unchanged(path: Path, key: str) -> FileRef | None:
    """The file, if a table with this key lies there whole; a damaged one is told of, and as good as none."""
    try:
        found = inspect(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("%s cannot be read (%s): it is computed again", path, error)
        return None
    stated = tables.stated_in(path, KEY)
    if found.checksum is Checksum.RIGHT:
        return FileRef.inspected(path, found, reused=True) if stated == key.encode() else None
    if found.checksum is Checksum.NONE and stated not in (None, key.encode()):
        return None  # of an earlier version
    why = (
        "its checksum does not fit its content"
        if found.checksum is Checksum.WRONG
        else "it is no table with a checksum"
    )
    logger.warning("%s is damaged (%s): it is computed again", path, why)
    return None


def keyed(path: Path, key: str, compute: Callable[[], pa.Table], rows_per_group: int | None = None) -> FileRef:
    """The file if it holds the result for this key, else the result computed and written there; see write_table."""
    if (found := unchanged(path, key)) is not None:
        return found
    refuse_to_compute(path)
    return write_table(compute(), path, key, rows_per_group)
