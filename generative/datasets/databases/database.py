"""What a database on the network is, as harvesting sees it: pages of records, a list of stamps, records by id.

A database module (materials_project.py, aflow.py, optimade.py) knows one provider's query language and wire format and
nothing else. Politeness (time-outs, retries, rate) is `access.py`; keeping what came, so that a killed process goes on
where it was, is `harvest.py`; reading crystals out of records is `generative.datasets.records.interpret`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from generative.datasets.databases.errors import SchemaChangedError
from generative.datasets.records import RawRecord

Body = Mapping[str, Any]
"""A record as JSON: what the database sent of one material, fields renamed by nobody."""


@dataclass(frozen=True)
class Record:
    """One record of a database, as it came.

    Attributes:
        id: the database's own id, unique in the database.
        stamp: anything that changes when the record does (date of last change, version); None if it has none.
        body: the record.
    """

    id: str
    stamp: str | None
    body: Body


@dataclass(frozen=True)
class Page:
    """Some records, and where the next ones are.

    Attributes:
        records: in the database's order.
        cursor: opaque text with which the next page is asked for; None if this page is the last.
        total: records that match the query, as the database counts them; None if it does not say.
    """

    records: tuple[Record, ...]
    cursor: str | None
    total: int | None = None


class Database(Protocol):
    """One provider, one query. Every method but `raw_record` may use the network and raise `NetworkError`.

    Attributes:
        name: column `source` of its rows, such as 'materials-project'.
        kind: 'materials-project', 'aflow', 'optimade'.
        endpoint: address that is asked.
        query: what is asked, complete and readable, without any secret; part of the manifest and of the store's key.
        method: level of theory of records that state none.
        fetch_size: most ids that `fetch` takes at once.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def kind(self) -> str: ...  # noqa: D102

    @property
    def endpoint(self) -> str: ...  # noqa: D102

    @property
    def query(self) -> str: ...  # noqa: D102

    @property
    def method(self) -> str: ...  # noqa: D102

    @property
    def fetch_size(self) -> int: ...  # noqa: D102

    def version(self) -> str | None:
        """Release of the database as it states it now; None if it states none."""
        ...

    def count(self) -> int | None:
        """Records that match the query; None if the database cannot be asked cheaply."""
        ...

    def page(self, cursor: str | None) -> Page:
        """The page at this cursor; None is the first. Stateless: any page may be asked for at any time, again too."""
        ...

    def stamps(self) -> Iterator[Mapping[str, str | None]]:
        """Id -> stamp of every record that matches, a page at a time, without the records themselves."""
        ...

    def fetch(self, ids: Sequence[str]) -> list[Record]:
        """Whole records of these ids (at most `fetch_size`), in any order; ids the database lost are left out."""
        ...

    def raw_record(self, record: Record) -> RawRecord:
        """The record as `interpret` takes it; offline. What cannot be a crystal comes back with form REFUSED."""
        ...

    def close(self) -> None:
        """Give connections back."""
        ...


def require_fields(bodies: Sequence[Body], fields: Sequence[str], database: str) -> None:
    """Raise if no record of a page has one of these fields: the database has changed, not one record gone bad.

    Raises:
        SchemaChangedError: naming the field and the fields that came instead.
    """
    for field in fields:
        if bodies and not any(field in body for body in bodies):
            came = ", ".join(sorted(map(str, bodies[0]))[:12]) or "none"
            raise SchemaChangedError(
                f"{database}: none of the {len(bodies)} records of a page has the field {field!r} (fields that came: "
                f"{came}): the database has changed its form, so a newer Hullward is needed"
            )
