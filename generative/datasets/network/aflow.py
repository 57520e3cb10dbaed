"""AFLOW through AFLUX: one address, whose query is a list of keywords (the matchbook) and directives.

    https://aflow.org/API/aflux/?auid,species(Ta,W),nspecies(2),geometry,...,$paging(1,500),$format(json)

A keyword with a condition in parentheses restricts, a bare one is only returned; in a condition ',' is AND, ':' is OR,
'4*' is "from 4", '*60' is "up to 60". Records come in the order of the first keyword, here always `auid`, so pages do
not shift between requests. Pages are numbered from 1; '$paging(0)' would send the whole database, so it is never asked.

AFLUX cannot ask for "made of these elements or some of them", so a chemical system is asked leg by leg, one leg per
subset: 'species(Ta),nspecies(1)', 'species(Ta,W),nspecies(2)', ... A cursor is '<leg>:<records of that leg so far>',
which stays right if the page size is changed between two runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import comb
from typing import Any, NamedTuple
from urllib.parse import quote

from pymatgen.core.composition import Composition

from generative.config import AflowSource, FilterConfig
from generative.datasets.network.access import Access
from generative.datasets.network.aflow_entries import METHOD, entry_record, newest_date
from generative.datasets.network.database import Body, Page, Record, require_fields
from generative.datasets.network.errors import BrokenReplyError, EndlessReplyError, SchemaChangedError
from generative.datasets.records import RawRecord
from generative.datasets.sources import SourceError

ENDPOINT = "https://aflow.org/API/aflux/"

LEGS_MAX = 127
"""Most subsets asked one by one: those of seven elements. Each costs at least one request."""

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
_DIRECTIVES = frozenset({"paging", "format", "help", "schema"})
_KEYWORD = re.compile(r"!?([A-Za-z][A-Za-z0-9_]*)(\(.*\))?")
_AUID = re.compile(r"[A-Za-z0-9:._-]+")
_NUMBERED = re.compile(r"\s*(\d+)\s+of\s+(\d+)\s*")


class Reply(NamedTuple):
    """One page as AFLUX sent it, and how many records the leg has, if it says so."""

    bodies: list[Body]
    total: int | None


class Aflow:
    """AFLOW asked through AFLUX; satisfies `generative.datasets.network.database.Database`. Keeps no state."""

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
        # A record is the same whether it came by page, which states its conditions, or by id, which does not.
        self._fields = tuple(dict.fromkeys([*_FIELDS, *self._conditions]))

    def _common_conditions(self, config: AflowSource) -> dict[str, str]:
        """Keyword -> condition, for all legs."""
        own: dict[str, str] = {}
        if config.n_sites_min is not None or config.n_sites_max is not None:
            own["natoms"] = f"natoms({_range(config.n_sites_min, config.n_sites_max)})"
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
        return f"{_matchbook(self._conditions, self._fields)} for {asked}"

    def version(self) -> str | None:
        """None: AFLUX states no release. What changes is each record's own date, its stamp."""
        return None

    def count(self) -> int:
        """Records that match, summed over the legs; they share none, since each asks for one set of elements.

        A server that numbers its records ('1 of 1250') tells; of one that sends plain lists the last page that is
        not empty is searched for, doubling the page number, then halving the interval: one request for a leg of less
        than COUNTING_PAGE records N, else about 2 log2(N / COUNTING_PAGE).
        """
        return sum(self._count_leg(leg) for leg in range(len(self._legs)))

    def _count_leg(self, leg: int) -> int:
        full, number = 0, 1  # pages up to `full` are known to be full
        short: int | None = None  # a page known not to be
        while number <= COUNTED_PAGES_MAX:
            reply = self._ask(leg, ("auid",), number, COUNTING_PAGE)
            if reply.total is not None:
                return reply.total
            n_here = len(reply.bodies)
            if 0 < n_here < COUNTING_PAGE:
                return (number - 1) * COUNTING_PAGE + n_here
            full, short = (number, short) if n_here else (full, number)
            if short == full + 1:
                return full * COUNTING_PAGE
            number = 2 * number if short is None else (full + short) // 2
        raise EndlessReplyError(
            f"AFLOW has a full page {full} of {COUNTING_PAGE} records: expected an end; it seems to answer any page "
            "number alike, so report it to its maintainers"
        )

    def page(self, cursor: str | None) -> Page:
        """See Database.page. The last page states the total, counted if need be; the others if there is one leg."""
        if not self._legs:
            return Page((), None, 0)
        leg, n_before = self._place(cursor)
        number = n_before // self._page_size + 1
        reply = self._ask(leg, self._fields, number, self._page_size)
        if len(reply.bodies) >= SCHEMA_PAGE_MIN:
            require_fields(reply.bodies, _STRUCTURE, "AFLOW")
        records = tuple(_record(body) for body in reply.bodies)
        if not _is_last(reply, number, self._page_size):
            following: str | None = f"{leg}:{number * self._page_size}"
        else:
            following = f"{leg + 1}:0" if leg + 1 < len(self._legs) else None
        total = reply.total if len(self._legs) == 1 else None
        if following is None and total is None:
            total = self.count()
        return Page(records, following, total)

    def _place(self, cursor: str | None) -> tuple[int, int]:
        found = re.fullmatch(r"(\d+):(\d+)", cursor or "0:0")
        if found is None or int(found[1]) >= len(self._legs):
            raise SourceError(
                f"AFLOW: the cursor {cursor!r} names no page of this query: expected '<leg>:<records>' with a leg "
                f"below {len(self._legs)}; remove the download to start again"
            )
        return int(found[1]), int(found[2])

    def stamps(self) -> Iterator[Mapping[str, str | None]]:
        """See Database.stamps; LISTING_PAGE records at a time.

        What is not listed is removed from a download, so a list with holes must never pass for a whole one.

        Raises:
            BrokenReplyError: if a page repeats the one before, or fewer ids come than AFLOW counts.
        """
        n_listed = 0
        for leg in range(len(self._legs)):
            number, before, is_last = 1, frozenset[str](), False
            while not is_last:
                reply = self._ask(leg, ("auid", "aflowlib_date"), number, LISTING_PAGE)
                records = [_record(body) for body in reply.bodies]
                names = frozenset(record.id for record in records)
                if names and names <= before:
                    raise BrokenReplyError(
                        f"AFLOW sent page {number - 1} of its list of ids again as page {number}: expected the next "
                        "one; what has come so far is kept, so run the same command again"
                    )
                n_listed += len(names - before)
                yield {record.id: record.stamp for record in records}
                number, before, is_last = number + 1, names, _is_last(reply, number, LISTING_PAGE)
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
        chosen = {"auid": "auid(" + ":".join(f"'{name}'" for name in wanted) + ")"}
        reply = self._send(_matchbook(chosen, self._fields), 1, max(len(wanted), self.fetch_size))
        records = (_record(body) for body in reply.bodies)
        return [record for record in records if record.id in wanted]

    def raw_record(self, record: Record) -> RawRecord:
        """See Database.raw_record."""
        return entry_record(record)

    def close(self) -> None:
        """Give connections back."""
        self._access.close()

    def _ask(self, leg: int, fields: Sequence[str], number: int, size: int) -> Reply:
        return self._send(_matchbook(self._conditions | self._legs[leg], fields), number, size)

    def _send(self, matchbook: str, number: int, size: int) -> Reply:
        summons = quote(f"{matchbook},$paging({number},{size}),$format(json)", safe="(),$:*'!")
        reply = read_reply(self._access.get_json(f"{self.endpoint}?{summons}"))
        if len(reply.bodies) > size:
            raise SchemaChangedError(
                f"AFLOW sent {len(reply.bodies)} records: expected at most {size} of page {number}; it no longer takes "
                "$paging as it did, so a newer Hullward is needed"
            )
        return reply


def legs(filters: FilterConfig, elements: Sequence[str] | None) -> tuple[dict[str, str], ...]:
    """The element conditions to be asked one after the other, keyword -> condition; disjoint, in a fixed order.

    With formulas, one leg per set of elements among them (AFLUX has no keyword that is safe for a reduced formula);
    else one per subset of the chemical system; else, for all elements, one.

    Raises:
        SourceError: if they are more than LEGS_MAX.
    """
    allowed = None if elements is None else frozenset(elements)
    if filters.elements is not None:
        allowed = frozenset(filters.elements) if allowed is None else allowed & frozenset(filters.elements)
    n_min, n_max = filters.n_elements_min, filters.n_elements_max
    if filters.formulas is not None:
        systems = {tuple(sorted(Composition(formula).get_el_amt_dict())) for formula in filters.formulas}
        chosen = [s for s in systems if n_min <= len(s) <= n_max and (allowed is None or allowed.issuperset(s))]
        n_legs = len(chosen)
    elif allowed is None:
        return ({"nspecies": f"nspecies({_range(n_min, n_max)})"},)
    else:
        sizes = range(n_min, min(n_max, len(allowed)) + 1)
        n_legs = sum(comb(len(allowed), size) for size in sizes)
        chosen = [s for size in sizes for s in combinations(sorted(allowed), size)] if n_legs <= LEGS_MAX else []
    if n_legs > LEGS_MAX:
        raise SourceError(
            f"AFLOW must be asked for each of {n_legs} sets of elements apart: expected at most {LEGS_MAX}; lower "
            "filters.n_elements_max, or ask for fewer elements or formulas at once"
        )
    ordered = sorted(chosen, key=lambda system: (len(system), system))
    return tuple(
        {"species": f"species({','.join(system)})", "nspecies": f"nspecies({len(system)})"} for system in ordered
    )


def parse_where(where: str) -> dict[str, str]:
    """Conditions in AFLUX's own language by their keyword, such as {'Egap': 'Egap(1*,*2)'}.

    Raises:
        SourceError: if it holds a directive, a keyword twice, unbalanced parentheses or quotes, or anything but
            keywords joined by commas.
    """
    conditions: dict[str, str] = {}
    for part in _top_level_parts(where) if where.strip() else ():
        found = _KEYWORD.fullmatch(part)
        if found is None:
            raise SourceError(f"where contains {part!r}: expected AFLUX keywords joined by ',', such as 'Egap(1*,*2)'")
        if found[1].lower() in _DIRECTIVES:
            raise SourceError(
                f"where contains the directive {found[1]!r}: expected conditions only, such as 'Egap(1*)'"
            )
        if found[1] in conditions:
            raise SourceError(f"where names {found[1]!r} twice: expected one condition, such as '{found[1]}(1*,*2)'")
        conditions[found[1]] = part
    return conditions


def _top_level_parts(where: str) -> list[str]:
    depth, quoted, parts = 0, False, [""]
    for character in where:
        if character == "'":
            quoted = not quoted
        elif character == "$" or (depth == 0 and not quoted and character in ":;"):
            raise SourceError(
                f"where contains {character!r}: expected AFLUX conditions joined by ',', without directives; "
                "alternatives go into one keyword's parentheses, such as 'catalog(ICSD:LIB2)'"
            )
        elif not quoted:
            depth += (character == "(") - (character == ")")
        if character == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += character
        if depth < 0:
            break
    if depth != 0 or quoted:
        raise SourceError(f"where is {where!r}: expected balanced parentheses and quotes, such as 'Egap(1*,*2)'")
    return [part.strip() for part in parts]


def _range(low: int | None, high: int | None) -> str:
    """AFLUX's form of low <= value <= high; at least one is not None."""
    if low == high:
        return str(low)
    return ",".join([f"{low}*"] * (low is not None) + [f"*{high}"] * (high is not None))


def _matchbook(conditions: Mapping[str, str], fields: Sequence[str]) -> str:
    """`auid` first, for the order of the records; then conditions; then what is to be returned besides."""
    return ",".join(
        {"auid": "auid", **conditions, **{name: name for name in fields if name not in conditions}}.values()
    )


def _is_last(reply: Reply, number: int, size: int) -> bool:
    """Whether page `number` of `size` records is the leg's last; a plain list that is full may have a successor."""
    if reply.total is None:
        return len(reply.bodies) < size
    return number * size >= reply.total


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
