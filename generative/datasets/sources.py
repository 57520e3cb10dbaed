"""What a source of known crystals is: the interface behind which files, prototypes and network databases stand.

A source yields batches. Each batch accounts for every record it read: a row of the table, a row of the quarantine, or
one more in the count of filtered records. A new source (a network database) needs only the attributes and the one
method of `Source`; if it can hand over its records as `RawRecord`, `generative.datasets.records.interpret` does the
rest: parsing, checking, quarantine, primitive cell, space group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import pyarrow as pa

from generative.datasets.config import FilterConfig, SourceConfig
from storage.progress import SourceProgress
from storage.registry import imported

if TYPE_CHECKING:
    from generative.datasets.databases.harvest import NetworkContext
    from generative.datasets.prototypes import Scorer

Resolve = Callable[[str], Path]
"""From a path as the user wrote it ('assets:...', 'package:...', plain) to where it lies on this machine."""


class SourceError(ValueError):
    """A source that cannot be read at all: a missing file, a column that is not there, a chemical system not given.

    A single bad record never raises it; that record goes to the quarantine.
    """


@dataclass(frozen=True)
class SourceBatch:
    """Some records of a source, each accounted for: n_read = rows + rejected + n_filtered.

    Attributes:
        rows: crystals, in DATASET_SCHEMA.
        rejected: records that could not become a crystal, in REJECTED_SCHEMA.
        n_read: records read from the source for this batch.
        n_filtered: records left out because they lie outside the chemical system, before they were parsed.
    """

    rows: pa.Table
    rejected: pa.Table
    n_read: int
    n_filtered: int


class Source(Protocol):
    """A source of known crystals.

    Attributes:
        name: column `source` of its rows and the head of their ids. `ingest` makes it unique before anything is read.
        kind: 'files', 'prototypes', or the name of a network database.
        query: what was asked for, as the user wrote it or as it was sent; never a path of this machine.
        method: level of theory of the energies.
    """

    name: str

    @property
    def kind(self) -> str: ...  # noqa: D102

    @property
    def query(self) -> str: ...  # noqa: D102

    @property
    def method(self) -> str: ...  # noqa: D102

    def batches(self, elements: tuple[str, ...] | None) -> Iterator[SourceBatch]:
        """All records in a fixed order, a bounded number at a time.

        Args:
            elements: leave out crystals with any other element, before the costly steps where that is possible, and
                count them as filtered; None reads all. The other filters are applied by `ingest`.

        Raises:
            SourceError: if the source cannot be read at all.
        """
        ...

    def database_version(self) -> str | None:
        """State of the source that was read (release of a database, digest of a file); asked after the last batch."""
        ...


@dataclass(frozen=True)
class Surroundings:
    """What sources are opened with, beside their own settings; none of them takes all of it.

    Attributes:
        resolve: finds a path as the user wrote it.
        filters: what a database can be asked for alone; `ingest` applies all of them again.
        system: the elements to restrict to, every system below included; None asks for all.
        scorer: relaxes and scores crystals that a source makes up, if there is one.
        network: where downloads are kept, and keys, if databases may be asked.
        workers: processes that parse crystals.
        progress: told by sources that make up their crystals, before they have records.
    """

    resolve: Resolve
    filters: FilterConfig
    system: tuple[str, ...] | None
    scorer: Scorer | None
    network: NetworkContext | None
    workers: int
    progress: SourceProgress | None = None

    @property
    def downloads(self) -> NetworkContext:
        """Where downloads are kept, and keys. Raises: SourceError: if no place was given."""
        if self.network is None:
            raise SourceError("a database on the network needs a folder for its records, but none was given: name one")
        return self.network


class Opener(Protocol):
    """What the settings of a source name as OPENED_BY. Nothing is read or asked yet."""

    def __call__(self, config: SourceConfig, around: Surroundings, /) -> Source:
        """The source.

        Raises: SourceError: if the surroundings lack what it needs, or the settings make no query.
        """
        ...


def open_source(config: SourceConfig, around: Surroundings) -> Source:
    """The source that these settings describe; see Opener."""
    return cast(Opener, imported(config.OPENED_BY))(config, around)
