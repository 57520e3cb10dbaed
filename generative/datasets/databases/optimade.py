"""Any OPTIMADE provider, through the client of the reference implementation (package `optimade`).

The client is asked for one page at a time. It swallows every exception into a line of text, waits without end on 429,
and keeps every page's progress for as long as it lives; so each page has a client of its own, and what went wrong is
taken from `Access`, whose session has done all the retrying before the client sees anything.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urljoin, urlsplit

from generative.datasets.config import FilterConfig, OptimadeSource
from generative.datasets.databases.access import Access
from generative.datasets.databases.database import Page, Record, require_fields
from generative.datasets.databases.errors import (
    AccessDeniedError,
    BrokenReplyError,
    EndlessReplyError,
    NotFoundError,
    RefusedQueryError,
    SchemaChangedError,
    ServerFaultError,
)
from generative.datasets.databases.harvest import Harvest, harvest_of
from generative.datasets.databases.optimade_filter import filter_of_ids, filter_text
from generative.datasets.databases.optimade_providers import provider_of
from generative.datasets.databases.optimade_records import STRUCTURE_FIELDS, raw_record
from generative.datasets.records import RawRecord
from generative.datasets.sources import Surroundings

logger = logging.getLogger(__name__)

STANDARD_FIELDS = (
    "id",
    "immutable_id",
    "last_modified",
    "elements",
    "nelements",
    "nsites",
    "chemical_formula_reduced",
    "nperiodic_dimensions",
    "dimension_types",
    "structure_features",
    *STRUCTURE_FIELDS,
)

UNMAPPED_FIELDS_MAX = 40
"""Most fields of the provider's own that are asked for without being mapped: some have hundreds."""

_SIMPLE_TYPES = frozenset({"string", "integer", "float", "boolean", "timestamp"})

_META_KEYS = ("api_version", "query", "more_data_available", "data_returned")
"""What the standard wants in every reply, and the count of matches."""

_NO_LIMIT = 10**9
"""The client counts with its own limits even for one page; none of them shall be reached."""


class _Reply(NamedTuple):
    data: Any
    meta: Mapping[str, Any]
    cursor: str | None


class _Offer(NamedTuple):
    sorts_by_id: bool
    fields: tuple[str, ...]


def open_optimade(config: OptimadeSource, around: Surroundings) -> Harvest:
    """See generative.datasets.sources.Opener."""
    access = Access(config, f"optimade-{config.provider}")
    return harvest_of(config, Optimade(config, around.filters, around.system, access), access, around)


class Optimade:
    """One OPTIMADE provider, one query; a `Database`."""

    kind = "optimade"
    fetch_size = 50

    def __init__(
        self, config: OptimadeSource, filters: FilterConfig, elements: tuple[str, ...] | None, access: Access
    ) -> None:
        """Nothing is asked yet, but the query is written and checked.

        Args:
            config: provider, address, page size, further conditions.
            filters: the run's filters, of which those that the standard can express are sent.
            elements: the run's chemical system; None asks for all.
            access: the way to the provider.

        Raises:
            SourceError: if the provider is not known, or the query cannot be one.
        """
        self._config = config
        self._access = access
        self._provider = provider_of(config)
        self._filter = filter_text(config, filters, elements)

    @property
    def name(self) -> str:
        """Such as 'optimade-alexandria'."""
        return f"{self.kind}-{self._config.provider}"

    @property
    def endpoint(self) -> str:
        """The base URL, before '/v1'."""
        return self._provider.base_url

    @property
    def query(self) -> str:
        """Filter and fields, unencoded; fields that the provider offers beyond these are asked for too."""
        fields = ",".join(dict.fromkeys([*STANDARD_FIELDS, *self._mapped_fields]))
        condition = f"filter={self._filter}&" if self._filter else ""
        return f"structures?{condition}response_fields={fields}"

    @property
    def method(self) -> str:
        """Level of theory of the provider's energies."""
        return self._provider.method

    def version(self) -> str | None:
        """What the provider says of its release: version of database and software, number of structures.

        The standard has no release of the data that every provider must state. A changed version means that something
        changed; an equal one does not mean that nothing did.
        """
        meta = self._ask("structures", fields=("id",), page_limit=1).meta
        database, software = meta.get("database"), meta.get("implementation")
        parts = {
            "database": database.get("version") if isinstance(database, Mapping) else None,
            "software": software.get("version") if isinstance(software, Mapping) else None,
            "structures": meta.get("data_available"),
        }
        return ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None) or None

    def count(self) -> int | None:
        """Structures that match, as the provider counts them; None if it does not."""
        return _total(self._ask("structures", self._filter, ("id",), page_limit=1).meta)

    def page(self, cursor: str | None) -> Page:
        """See `Database.page`. The cursor is the path of the provider's link to the next page, without its host."""
        reply = self._ask("structures", self._filter, self._fields, self._config.page_size, cursor, self._sort)
        records = self._records(reply)
        bodies = [attributes for record in records if isinstance(attributes := record.body.get("attributes"), Mapping)]
        require_fields(bodies, STRUCTURE_FIELDS, self.name)
        return Page(records, reply.cursor, _total(reply.meta))

    def stamps(self) -> Iterator[Mapping[str, str | None]]:
        """See `Database.stamps`; the stamp is `last_modified`, which is null with providers that keep no dates.

        What is not listed is removed from a download, so a list with holes must never pass for a whole one.

        Raises:
            BrokenReplyError: if the pages end before as many came as the provider counts.
        """
        listed, total = set[str](), 0
        for reply in self._pages(self._filter, ("id", "last_modified"), self._config.page_size):
            records = self._records(reply)
            listed.update(record.id for record in records)
            total = _total(reply.meta) or 0
            yield {record.id: record.stamp for record in records}
        if len(listed) < total:
            raise BrokenReplyError(
                f"{self.name}: its pages end after {len(listed)} of the {total} structures it counts, expected all: "
                "what has come is kept; try again later, report it to the provider, or set the source's limit to "
                f"{len(listed)} to take what it gives"
            )

    def fetch(self, ids: Sequence[str]) -> list[Record]:
        """See `Database.fetch`."""
        if not ids:
            return []
        wanted = set(ids)
        pages = self._pages(filter_of_ids(ids), self._fields, len(wanted))
        return [record for reply in pages for record in self._records(reply) if record.id in wanted]

    def raw_record(self, record: Record) -> RawRecord:
        """See `Database.raw_record`."""
        return raw_record(record, self._provider)

    def close(self) -> None:
        """See `Database.close`."""
        self._access.close()

    def _pages(self, filter_: str, fields: Sequence[str], page_limit: int) -> Iterator[_Reply]:
        cursor: str | None = None
        seen: set[str] = set()
        while True:
            reply = self._ask("structures", filter_, fields, page_limit, cursor, self._sort)
            yield reply
            cursor = reply.cursor
            if cursor is None:
                return
            if cursor in seen:
                raise EndlessReplyError(
                    f"{self.name}: its pages lead in a circle, expected them to end: try again later"
                )
            seen.add(cursor)

    @property
    def _mapped_fields(self) -> list[str]:
        # Servers are asked for whole fields; dots lead into what comes.
        return list(dict.fromkeys(path.split(".")[0] for path in self._provider.fields.values()))

    @property
    def _fields(self) -> list[str]:
        return list(dict.fromkeys([*STANDARD_FIELDS, *self._mapped_fields, *self._offer.fields]))

    @property
    def _sort(self) -> str | None:
        stated = self._provider.sorts_by_id
        return "id" if (self._offer.sorts_by_id if stated is None else stated) else None

    @cached_property
    def _offer(self) -> _Offer:
        """What /info/structures says of sorting and of the provider's own fields; nothing if it does not answer it."""
        try:
            data = self._ask("info/structures").data
        except (NotFoundError, RefusedQueryError, ServerFaultError, BrokenReplyError, SchemaChangedError) as error:
            logger.warning("%s: no list of its fields, so only the known ones are asked for: %s", self.name, error)
            return _Offer(False, ())
        listed = data.get("properties") if isinstance(data, Mapping) else None
        properties = {k: v for k, v in listed.items() if isinstance(v, Mapping)} if isinstance(listed, Mapping) else {}
        own = sorted(name for name in properties if name.startswith("_"))
        missing = [name for name in self._mapped_fields if name not in properties]
        if own and missing:
            logger.warning("%s: does not list %s; columns from there may stay empty", self.name, ", ".join(missing))
        simple = [name for name in own if properties[name].get("type") in _SIMPLE_TYPES]
        return _Offer(properties.get("id", {}).get("sortable") is True, tuple(simple[:UNMAPPED_FIELDS_MAX]))

    def _records(self, reply: _Reply) -> tuple[Record, ...]:
        if not isinstance(reply.data, list):
            raise self._changed(f"data is {str(reply.data)[:80]}, expected a list of structures")
        return tuple(map(self._record, reply.data))

    def _record(self, entry: Any) -> Record:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("id"), str | int):
            raise self._changed(f"an entry is {str(entry)[:80]}, expected an object with an id")
        attributes = entry.get("attributes")
        modified = attributes.get("last_modified") if isinstance(attributes, Mapping) else None
        return Record(str(entry["id"]), None if modified is None else str(modified), entry)

    def _ask(
        self,
        endpoint: str,
        filter_: str = "",
        fields: Sequence[str] | None = None,
        page_limit: int | None = None,
        cursor: str | None = None,
        sort: str | None = None,
    ) -> _Reply:
        """One request. A cursor replaces everything but the endpoint."""
        from optimade.client import OptimadeClient

        base_url, asked = self._provider.base_url, list[str]()
        client = OptimadeClient(
            base_urls=[base_url],
            max_results_per_provider=_NO_LIMIT,
            max_attempts=1,
            use_async=False,
            silent=True,
            http_client=self._access.session_class(),
            callbacks=[lambda url, _: asked.append(url)],
        )
        client._progress.console.quiet = True  # `silent` still lets it print errors
        before = self._access.last_error
        results = client.get_one(
            endpoint,
            quote(filter_, safe=""),  # the client writes it into the address as it is
            base_url,
            response_fields=None if fields is None else list(fields),
            page_limit=page_limit,
            paginate=False,
            sort=sort,
            override_url=None if cursor is None else self._origin + cursor,
        )[base_url]
        failure = self._access.last_error
        if not asked and failure is not None and failure is not before:
            raise self._hinted(failure) from None
        # The client fills in what is missing, so that a reply of another form looks like an empty page.
        if not asked or all(results.meta.get(key) is None for key in _META_KEYS):
            said = self._access.redacted("; ".join(map(str, results.errors)))
            raise self._changed(f"a reply is no OPTIMADE document{f' ({said[:200]})' if said else ''}")
        refusals = [error for error in results.errors if isinstance(error, Mapping)]
        if refusals and not results.data:
            said = "; ".join(f"{error.get('title')}: {error.get('detail')}" for error in refusals)
            raise ServerFaultError(
                f"{self.name}: {self._access.redacted(said)[:300]}: expected data, so try again later"
            )
        reply = _Reply(results.data, results.meta, self._cursor(results.links.get("next"), asked[0]))
        self._require_whole(reply)
        return reply if reply.data else reply._replace(cursor=None)

    @property
    def _origin(self) -> str:
        parts = urlsplit(self._provider.base_url)
        return f"{parts.scheme}://{parts.netloc}"

    def _cursor(self, link: Any, asked_url: str) -> str | None:
        link = link.get("href") if isinstance(link, Mapping) else link
        if not link:
            return None
        origin, asked = urlsplit(self._origin), urlsplit(asked_url)
        try:
            parts = urlsplit(urljoin(asked_url, link))
        except (TypeError, ValueError):
            raise self._changed(f"links.next is {str(link)[:80]}, expected an address") from None
        # Only the path is kept: a server behind a proxy may call itself http, and the request stays on https.
        if parts.hostname not in (origin.hostname, asked.hostname) or parts.scheme not in ("http", "https"):
            raise self._changed(f"the next page is said to be at {parts.hostname}, expected {origin.hostname}")
        if parts.path == asked.path and sorted(parse_qsl(parts.query)) == sorted(parse_qsl(asked.query)):
            raise EndlessReplyError(
                f"{self.name}: a page names itself as the next one, expected another or none: try again later"
            )
        return f"{parts.path}?{parts.query}" if parts.query else parts.path

    def _require_whole(self, reply: _Reply) -> None:
        """Raise if a page says that more follows but gives no way there: taken for the last, it would lose the rest."""
        if reply.meta.get("more_data_available") is not True:
            return
        if reply.data == []:
            raise EndlessReplyError(
                f"{self.name}: an empty page says that more data follow, expected data: try again later"
            )
        if reply.cursor is None and _total(reply.meta) is None:
            raise self._changed("a page says that more data follow, expected links.next beside it")

    def _changed(self, what: str) -> SchemaChangedError:
        return SchemaChangedError(
            f"{self.name}: {self._access.redacted(what)}: the server does not keep to the standard, or is no OPTIMADE "
            f"server ({self._provider.base_url})"
        )

    def _hinted(self, failure: Exception) -> Exception:
        # The standard wants 403 for too large a page, which otherwise means a key.
        if isinstance(failure, AccessDeniedError) and "page_limit" in str(failure):
            said = str(failure).partition(";")[0]
            return RefusedQueryError(f"{said}: lower page_size, now {self._config.page_size}, to what it allows")
        return failure


def _total(meta: Mapping[str, Any]) -> int | None:
    total = meta.get("data_returned")
    return total if isinstance(total, int) and not isinstance(total, bool) and total >= 0 else None
