"""The entries behind OPTIMADE's server: a list in memory, read by tasks.optimade.filter.

The server's own collections translate filters for MongoDB and have a stand-in for it in memory, which mistake what the
standard says of lengths, negations and unknown values. Import this module only where the server's settings are in
place: it reads them where it is imported.
"""

from __future__ import annotations

import copy
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from optimade.exceptions import BadRequest, NotImplementedResponse
from optimade.server.entry_collections import EntryCollection
from optimade.server.query_params import EntryListingQueryParams, SingleEntryQueryParams
from optimade.warnings import UnknownProviderProperty

from tasks.optimade.comparisons import Kind, Property, Test
from tasks.optimade.filter import FilterReader

Entry = dict[str, Any]

QUERY_S = 10.0
"""Longest search for one reply. All replies share a core, so one that asks for more is refused."""

CHECKED_EVERY = 64
"""Entries between two looks at the clock."""

_KINDS = {"integer": "number", "float": "number"}
_ITEMS = {
    "elements": "string",
    "elements_ratios": "number",
    "dimension_types": "number",
    "lattice_vectors": "list",
    "cartesian_site_positions": "list",
    "species": "dictionary",
    "species_at_sites": "string",
    "structure_features": "string",
    "assemblies": "dictionary",
    "space_group_symmetry_operations_xyz": "string",
}
"""Types of the items of the standard's lists, which the server's schemas do not say."""

_SORTED_AS: tuple[tuple[Any, int], ...] = ((bool, 1), ((int, float), 2), (str, 3))


def _sort_key(value: Any) -> tuple[int, Any]:
    """Orders values of any types: unknown ones first, lists by their items, dictionaries by their text."""
    if value is None:
        return 0, 0
    if isinstance(value, list):
        return 4, [_sort_key(one) for one in value]
    rank = next((rank for types, rank in _SORTED_AS if isinstance(value, types)), None)
    return (5, json.dumps(value, sort_keys=True)) if rank is None else (rank, value)


class TableCollection(EntryCollection):  # type: ignore[misc]
    """Entries of one type, as the server's routes ask for them.

    Args:
        entries: each with its id, type and attributes side by side; not changed.
        like: the server's own collection of this type.
    """

    def __init__(self, entries: Sequence[Entry], like: EntryCollection) -> None:
        super().__init__(like.resource_cls, like.resource_mapper, None, like.config)
        self._entries = list(entries)
        self._by_id = {entry["id"]: entry for entry in self._entries}
        self._kinds = self._declared_kinds()
        self._reader = FilterReader(self._property_of)

    def _declared_kinds(self) -> dict[str, Kind]:
        declared = {
            name: about.get("type") for name, about in self.resource_mapper.ENTRY_RESOURCE_ATTRIBUTES_MAP.items()
        }
        for field in self.config.provider_fields.get(self.resource_mapper.ENDPOINT, ()):
            declared[field["name"]] = field["type"]
        names = {name: getattr(kind, "value", kind) for name, kind in declared.items()}
        names |= {"id": "string", "type": "string"}  # the schema calls a constant a list
        return {name: Kind(_KINDS.get(kind, kind), _ITEMS.get(name)) for name, kind in names.items()}

    def _property_of(self, name: str, inner: Sequence[str]) -> Property:
        mapper = self.resource_mapper
        if name in mapper.RELATIONSHIP_ENTRY_TYPES:
            if list(inner) != ["id"]:
                raise NotImplementedResponse(detail=f"of relationships only the id is known: {name}.id")
            return Property(("relationships", name, "data", "id"), Kind("list", "string"))
        if name in self._kinds:
            kind = self._kinds[name]
            if inner and kind.name not in (None, "list", "dictionary"):
                raise BadRequest(detail=f"{name} is a {kind.name}: there is no {'.'.join((name, *inner))}")
            return Property((name, *inner), Kind() if inner else kind)
        prefix = name.split("_")[1] if name.startswith("_") else None
        if prefix is None or prefix in mapper.SUPPORTED_PREFIXES:
            raise BadRequest(detail=f"{name!r:.100} is not a known or searchable quantity")
        if prefix not in mapper.KNOWN_PROVIDER_PREFIXES:
            warnings.warn(
                f"Field {name!r:.100} has an unrecognised prefix: this property has been treated as UNKNOWN.",
                UnknownProviderProperty,
                stacklevel=2,
            )
        return Property((name, *inner), Kind())

    def __len__(self) -> int:
        """Entries in all."""
        return len(self._entries)

    def insert(self, data: list[Any]) -> None:
        """Refused: entries are given once."""
        raise NotImplementedError("the entries of this server are those of its table")

    def count(self, **query: Any) -> int:
        """Entries that a query of handle_query_params matches."""
        return len(self._matching(query.get("filter")))

    def handle_query_params(self, params: EntryListingQueryParams | SingleEntryQueryParams) -> dict[str, Any]:
        """See the class above; the filter comes back as a function, or as the id that was asked for.

        Raises:
            BadRequest, Forbidden, NotImplementedResponse: if the parameters ask for what is not there.
        """
        without_filter = copy.copy(params)
        without_filter.filter = ""
        query: dict[str, Any] = super().handle_query_params(without_filter)
        if "page_above" in query:
            raise NotImplementedResponse(detail="page_above is not implemented: use page_offset or page_number")
        text: str = params.filter
        if isinstance(params, SingleEntryQueryParams):
            query["filter"] = text.removeprefix('id="').removesuffix('"')  # as it is, whatever characters it has
        else:
            query["filter"] = self._reader.read(text) if text.strip() else None
        return query

    def _matching(self, test: Test | None) -> list[Entry]:
        if test is None:
            return self._entries
        found, end = [], time.monotonic() + QUERY_S
        for index, entry in enumerate(self._entries):
            if index % CHECKED_EVERY == 0 and time.monotonic() > end:
                raise BadRequest(
                    detail=f"the filter takes more than {QUERY_S:g} s for {len(self)} entries: ask for less at a time"
                )
            if test(entry):
                found.append(entry)
        return found

    def _run_db_query(self, criteria: dict[str, Any], single_entry: bool = False) -> tuple[list[Entry], int, bool]:
        if single_entry:
            entry = self._by_id.get(criteria["filter"])
            return ([entry] if entry else []), int(entry is not None), False
        found = self._matching(criteria["filter"])
        for name, direction in reversed(criteria.get("sort", ())):
            found = sorted(found, key=lambda entry: _sort_key(entry.get(name)), reverse=direction < 0)  # noqa: B023
        first = criteria.get("skip", 0)
        page = found[first : first + criteria["limit"]]
        return page, len(found), first + len(page) < len(found)

    def get_next_query_params(self, params: EntryListingQueryParams, results: Any) -> dict[str, list[str]]:
        """Parameters of the next page; the number of a page goes on by one, where the class above starts anew."""
        if isinstance(params.page_number, int) and not params.page_offset:
            return {"page_number": [str(max(params.page_number, 1) + 1)]}
        following: Mapping[str, list[str]] = super().get_next_query_params(params, results)
        return dict(following)
