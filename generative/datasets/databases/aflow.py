"""AFLOW through AFLUX: one address, whose query is a list of keywords (the matchbook) and directives.

    https://aflow.org/API/aflux/?auid,species(Ta,W),nspecies(2),geometry,...,$paging(1,500),$format(json)

Its language of conditions is in aflow_query.py. Records come in the order of the first keyword, here always `auid`, so
pages do not shift between requests. Pages are numbered from 1; '$paging(0)' would send the whole database, so it is
never asked.

A chemical system is asked leg by leg. A cursor is '<leg>:<records of that leg so far>', which stays right if the page
size is changed between two runs, and ':<page size>' where the server sends smaller pages than the settings ask for.

A page that is shorter than asked for is the end of a leg, or a server that hands out no more at once. So it passes for
the end only if nothing stands at the place behind it, which a page of one record tells whatever the limit; else the leg
goes on in pages of the size that came. Of all legs but the last, one that is shorter than a page that has come is held
to be whole without that request: of many subsets, most are small.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from generative.datasets.config import AflowSource, FilterConfig
from generative.datasets.databases.access import Access
from generative.datasets.databases.aflow_entries import METHOD, entry_record, newest_date
from generative.datasets.databases.aflow_query import legs, matchbook, parse_where, range_text
from generative.datasets.databases.database import Body, Page, Record, require_fields
from generative.datasets.databases.errors import BrokenReplyError, EndlessReplyError, SchemaChangedError
from generative.datasets.databases.harvest import Harvest, harvest_of
from generative.datasets.records import RawRecord
from generative.datasets.sources import SourceError, Surroundings

ENDPOINT = "https://aflow.org/API/aflux/"

LISTING_PAGE = 5000
"""Records per page of `stamps`: they hold an id and a date, some 150 bytes."""

COUNTING_PAGE = 1000
"""Records per page of `count`: small legs are counted with one request, and no reply exceeds some 200 kB."""

COUNTED_PAGES_MAX = 2**20
"""A thousand million records: a database that has even more pages answers every page number."""

SCHEMA_PAGE_MIN = 10
"""Fewest records of which it is a change of form, not chance, that none has a structure: some entries have none."""

_STRUCTURE = ("geometry", "species", "composition", "positions_fractional")
_FIELDS = (
    *("auid", "aurl", "compound", "catalog", "nspecies", "natoms", *_STRUCTURE, "volume_cell", "spacegroup_relax"),
    *("Pearson_symbol_relax", "energy_atom", "enthalpy_formation_atom", "Egap", "dft_type", "ldau_type", "ldau_TLUJ"),
    *("pressure", "aflowlib_date"),
)
_AUID = re.compile(r"[A-Za-z0-9:._-]+")
_NUMBERED = re.compile(r"\s*(\d+)\s+of\s+(\d+)\s*")


class Reply(NamedTuple):
    """One page as AFLUX sent it, and how many records the leg has, if it says so."""

    bodies: list[Body]
    total: int | None


class Part(NamedTuple):
    """Some records of a leg.

    Attributes:
        reply: as it came.
        n_after: records of the leg up to the last of these.
        is_last: whether the leg has no more.
        size: records per page from here on: as asked, or what the server hands out at once.
    """

    reply: Reply
    n_after: int
    is_last: bool
    size: int


def open_aflow(config: AflowSource, around: Surroundings) -> Harvest:
    """See generative.datasets.sources.Opener."""
    access = Access(config, config.kind)
    return harvest_of(config, Aflow(config, around.filters, around.system, access), access, around)


class Aflow:
    """AFLOW asked through AFLUX; satisfies `generative.datasets.databases.database.Database`.

    Any page may be asked for at any time: all that is remembered is how long pages were, which saves requests.
    """

    name = kind = "aflow"
    method = METHOD
    fetch_size = 50

    def __init__(
        self, config: AflowSource, filters: FilterConfig, elements: tuple[str, ...] | None, access: Access
    ) -> None:
        """Nothing is asked yet.

        Args:
            config: endpoint, page size, catalogs, further conditions.
            filters: elements, numbers of elements and formulas are asked for; the rest is left to `ingest`.
            elements: the chemical system, every subset included; None is all elements.
            access: the way to the database.

        Raises:
            SourceError: if `where` is no list of AFLUX conditions, or the system has more than LEGS_MAX subsets.
        """
        self._access = access
        self.endpoint = config.endpoint or ENDPOINT
        self._page_size = config.page_size
        self._legs = legs(filters, elements)
        self._conditions = self._common_conditions(config)
        self._longest: dict[tuple[str, ...], int] = {}
        """Records of the longest page so far, by the fields asked for: limits may be in bytes."""
        # A record is the same whether it came by page, which states its conditions, or by id, which does not.
        self._fields = tuple(dict.fromkeys([*_FIELDS, *self._conditions]))

    def _common_conditions(self, config: AflowSource) -> dict[str, str]:
        """Keyword -> condition, for all legs."""
        own: dict[str, str] = {}
        if config.n_sites_min is not None or config.n_sites_max is not None:
            own["natoms"] = f"natoms({range_text(config.n_sites_min, config.n_sites_max)})"
        if config.catalogs is not None:
            own["catalog"] = "catalog(" + ":".join(f"'{name}'" for name in config.catalogs) + ")"
        further = parse_where(config.where or "")
        # What AFLUX makes of one keyword with two conditions is not documented, so it is never asked.
        taken = {"auid", *own, *(keyword for leg in self._legs for keyword in leg)} & further.keys()
        if taken:
            raise SourceError(
                f"where restricts {min(taken)!r}, which Hullward asks for itself: expected conditions on other "
                "keywords; set elements, data.filters, n_sites_min, n_sites_max or catalogs instead"
            )
        return own | further

    @property
    def query(self) -> str:
        """The matchbook, legs separated by ' | '."""
        asked = " | ".join(",".join(leg.values()) for leg in self._legs) or "nothing"
        return f"{matchbook(self._conditions, self._fields)} for {asked}"

    def version(self) -> str | None:
        """None: AFLUX states no release. What changes is each record's own date, its stamp."""
        return None

    def count(self) -> int:
        """Records that match, summed over the legs; they share none, since each asks for one set of elements.

        A server that numbers its records ('1 of 1250') tells; of one that sends plain lists the last page that is
        not empty is searched for, doubling the page number, then halving the interval: one or two requests for a leg of
        less than COUNTING_PAGE records N, else about 2 log2(N / COUNTING_PAGE).
        """
        return sum(self._count_leg(leg, COUNTING_PAGE) for leg in range(len(self._legs)))

    def _count_leg(self, leg: int, size: int) -> int:
        full, number = 0, 1  # pages up to `full` are known to be full
        short: int | None = None  # a page known not to be
        while number <= COUNTED_PAGES_MAX:
            reply, n_after, is_last, granted = self._part(leg, ("auid",), (number - 1) * size, size)
            n_here = len(reply.bodies)
            if reply.total is not None and reply.total > n_after:
                return reply.total
            if n_here and is_last:
                return n_after
            if granted < size:
                return self._count_leg(leg, granted)
            full, short = (number, short) if n_here else (full, number)
            if short == full + 1:
                return full * size
            number = 2 * number if short is None else (full + short) // 2
        raise EndlessReplyError(
            f"AFLOW has a full page {full} of {size} records: expected an end; it seems to answer any page "
            "number alike, so report it to its maintainers"
        )

    def page(self, cursor: str | None) -> Page:
        """See Database.page. The last page states the total, counted if need be; the others if there is one leg."""
        if not self._legs:
            return Page((), None, 0)
        leg, n_before, size = self._place(cursor)
        reply, n_after, is_last, size = self._part(leg, self._fields, n_before, size)
        if len(reply.bodies) >= SCHEMA_PAGE_MIN:
            require_fields(reply.bodies, _STRUCTURE, "AFLOW")
        records = tuple(_record(body) for body in reply.bodies)
        place: str | None = f"{leg}:{n_after}"
        if is_last:
            place = f"{leg + 1}:0" if leg + 1 < len(self._legs) else None
        following = place if place is None or size == self._page_size else f"{place}:{size}"
        # A total that more records than it have outlived is none.
        is_told = len(self._legs) == 1 and reply.total is not None and (is_last or reply.total > n_after)
        total = reply.total if is_told else None
        if following is None and total is None:
            total = self.count()
        return Page(records, following, total)

    def _part(self, leg: int, fields: tuple[str, ...], n_before: int, size: int) -> Part:
        """Records of a leg from number `n_before` on, or, if that is within a page of `size`, from its start."""
        number = n_before // size + 1
        reply = self._send(matchbook(self._conditions | self._legs[leg], fields), number, size)
        n_here, longest = len(reply.bodies), self._longest.get(fields, 0)
        self._longest[fields] = max(longest, n_here)
        n_after = (number - 1) * size + n_here
        if n_here == size:
            is_last = reply.total == n_after and self._is_nothing_at(leg, n_after + 1)
        elif reply.total is not None and reply.total > n_after:
            is_last = n_here == 0
        else:
            is_short = n_here < longest and leg + 1 < len(self._legs)
            is_last = n_here == 0 or is_short or self._is_nothing_at(leg, n_after + 1)
        return Part(reply, n_after, is_last, size if is_last else n_here)

    def _is_nothing_at(self, leg: int, place: int) -> bool:
        """Whether a leg has no record number `place`, counted from 1: no server's limit is below one record."""
        return not self._send(matchbook(self._conditions | self._legs[leg], ("auid",)), place, 1).bodies

    def _place(self, cursor: str | None) -> tuple[int, int, int]:
        """Leg, records of it so far, size of the page."""
        found = re.fullmatch(r"(\d+):(\d+)(?::([1-9]\d*))?", cursor or "0:0")
        if found is None or int(found[1]) >= len(self._legs):
            raise SourceError(
                f"AFLOW: the cursor {cursor!r} names no page of this query: expected '<leg>:<records>' with a leg "
                f"below {len(self._legs)}; remove the download to start again"
            )
        return int(found[1]), int(found[2]), min(int(found[3] or self._page_size), self._page_size)

    def stamps(self) -> Iterator[Mapping[str, str | None]]:
        """See Database.stamps; LISTING_PAGE records at a time.

        What is not listed is removed from a download, so a list with holes must never pass for a whole one.

        Raises:
            BrokenReplyError: if a page brings nothing new, or fewer ids come than AFLOW counts.
        """
        n_listed = 0
        for leg in range(len(self._legs)):
            n_after, size, is_last, listed = 0, LISTING_PAGE, False, set[str]()
            while not is_last:
                n_before = n_after
                reply, n_after, is_last, size = self._part(leg, ("auid", "aflowlib_date"), n_before, size)
                records = [_record(body) for body in reply.bodies]
                names = {record.id for record in records}
                if names and names <= listed:
                    raise BrokenReplyError(
                        f"AFLOW sent the {len(names)} ids before number {n_before} of its list again in place of the "
                        "next ones; what has come so far is kept, so run the same command again"
                    )
                yield {record.id: record.stamp for record in records}
                listed |= names
            n_listed += len(listed)
        n_counted = self.count()
        if n_listed < n_counted:
            raise BrokenReplyError(
                f"AFLOW listed {n_listed} ids and counts {n_counted} records: expected one number; what has come so "
                "far is kept, so run the same command again"
            )

    def fetch(self, ids: Sequence[str]) -> list[Record]:
        """See Database.fetch."""
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return []
        for name in (name for name in wanted if not _AUID.fullmatch(name)):
            raise SourceError(f"AFLOW: {name!r} is no id of AFLOW: expected 'aflow:' and 16 hexadecimal digits")
        found: dict[str, Record] = {}
        while missing := [name for name in wanted if name not in found]:
            chosen = {"auid": "auid(" + ":".join(f"'{name}'" for name in missing) + ")"}
            reply = self._send(matchbook(chosen, self._fields), 1, max(len(wanted), self.fetch_size))
            came = {record.id: record for record in map(_record, reply.bodies) if record.id in missing}
            if not came:
                break
            found |= came
        return list(found.values())

    def raw_record(self, record: Record) -> RawRecord:
        """See Database.raw_record."""
        return entry_record(record)

    def close(self) -> None:
        """Give connections back."""
        self._access.close()

    def _send(self, asked: str, number: int, size: int) -> Reply:
        summons = quote(f"{asked},$paging({number},{size}),$format(json)", safe="(),$:*'!")
        reply = read_reply(self._access.get_json(f"{self.endpoint}?{summons}"))
        if len(reply.bodies) > size:
            raise SchemaChangedError(
                f"AFLOW sent {len(reply.bodies)} records: expected at most {size} of page {number}; it no longer takes "
                "$paging as it did, so a newer Hullward is needed"
            )
        return reply


def read_reply(reply: Any) -> Reply:
    """Records of either form AFLUX answers in: a list, or a dictionary {'1 of 1250': ..., '2 of 1250': ...}.

    Raises:
        SchemaChangedError: if it is neither.
    """
    total: int | None = None
    if isinstance(reply, dict):
        numbered = {key: _NUMBERED.fullmatch(str(key)) for key in reply}
        for key in (key for key, found in numbered.items() if found is None):
            raise SchemaChangedError(
                f"AFLOW sent a dictionary with the key {str(key)[:80]!r}: expected records numbered '1 of 1250'; it "
                "has changed its form, so a newer Hullward is needed"
            )
        places = {key: (int(found[1]), int(found[2])) for key, found in numbered.items() if found is not None}
        total = max((of for _, of in places.values()), default=None)
        reply = [reply[key] for key in sorted(reply, key=lambda key: places[key][0])]
    if not isinstance(reply, list) or not all(isinstance(body, dict) for body in reply):
        raise SchemaChangedError(
            f"AFLOW sent {str(reply)[:80]!r}: expected a list of records; it has changed its form, so a newer Hullward "
            "is needed"
        )
    return Reply(reply, total)


def _record(body: Body) -> Record:
    auid = body.get("auid")
    if not isinstance(auid, str) or not _AUID.fullmatch(auid):
        came = ", ".join(sorted(map(str, body))[:12])
        raise SchemaChangedError(
            f"AFLOW sent a record whose auid is {str(auid)[:80]!r} (fields: {came}): expected an id such as "
            "'aflow:a0bacbcd30a8e39a'; it has changed its form, so a newer Hullward is needed"
        )
    return Record(auid, newest_date(body.get("aflowlib_date")), body)
