"""A loopback server that speaks AFLUX, with real crystals as entries of AFLOW.

It reads the query as AFLUX does: keywords with conditions, bare keywords, directives; it orders by the first keyword
and sends what was asked for, with `auid`, `aurl` and `compound` always. Three encodings of the same answer are in use.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import unquote

import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from generative.datasets.config import AflowSource, FilterConfig
from generative.datasets.databases.access import Access
from generative.datasets.databases.aflow import Aflow
from generative.datasets.databases.database import Page, Record
from tests.servers.loopback import Loopback, Reply, Request
from tests.servers.real import RealRecord, real_records

ROUTE = "/API/aflux/"
ALWAYS = ("auid", "aurl", "compound")
U_METALS = frozenset({"V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu"})

Entry = dict[str, Any]
Form = Literal["list", "dictionary", "text"]
Steps = Literal["granted", "asked"]
Test = Callable[[Any], bool]


def entry_of(record: RealRecord) -> Entry:
    """A crystal as AFLOW states it; what the file does not know (energy, U, catalog, dates) follows fixed rules."""
    digest = hashlib.sha256(record.material_id.encode()).hexdigest()
    structure, species = record.structure, list(record.elements)
    sites = [site for symbol in species for site in structure if site.specie.symbol == symbol]
    counts = [sum(site.specie.symbol == symbol for site in structure) for symbol in species]
    # Relaxed coordinates of AFLOW lie a little, and sometimes a whole cell, outside [0, 1).
    shift = int(digest[0], 16) % 3 - 1
    catalog = "ICSD" if int(digest[1], 16) % 2 else f"LIB{len(species)}"
    has_u = "O" in species and bool(U_METALS & set(species))
    dates = [f"{2010 + int(digest[3], 16)}0{1 + k}11_06:50:35_GMT-5" for k in range(1 + int(digest[2], 16) % 3)]
    compound = "".join(f"{symbol}{count}" for symbol, count in zip(species, counts, strict=True))
    return {
        "auid": f"aflow:{digest[:16]}",
        "aurl": f"aflowlib.duke.edu:AFLOWDATA/{catalog}_WEB/{''.join(species)}/{record.material_id}",
        "compound": compound,
        "catalog": catalog,
        "geometry": [float(value) for value in structure.lattice.parameters],
        "species": species,
        "nspecies": len(species),
        "composition": counts,
        "positions_fractional": [[float(x) + shift for x in site.frac_coords] for site in sites],
        "natoms": len(structure),
        "volume_cell": float(structure.volume),
        "spacegroup_relax": record.spacegroup,
        "Pearson_symbol_relax": f"oP{len(structure)}",
        "energy_atom": record.formation_energy_ev_per_atom - 4.0,
        "enthalpy_formation_atom": record.formation_energy_ev_per_atom,
        "Egap": record.band_gap_ev,
        "dft_type": ["PAW_PBE"],
        "ldau_type": 2 if has_u else 0,
        "ldau_TLUJ": "2;2,0;4,0;0,0" if has_u else None,
        "pressure": 0,
        "aflowlib_date": dates if len(dates) > 1 else dates[0],
    }


@lru_cache(maxsize=2)
def real_entries(n: int = 1200) -> tuple[Entry, ...]:
    """Entries of n real crystals, in the order of the file's ids; skips the test where the file is absent."""
    return tuple(entry_of(record) for record in real_records(n))


def structure_of(entry: Entry) -> Structure:
    """The entry's crystal by pymatgen alone."""
    symbols = [s for s, n in zip(entry["species"], entry["composition"], strict=True) for _ in range(n)]
    a, b, c, alpha, beta, gamma = entry["geometry"]
    lattice = Lattice.from_parameters(a, b, c, alpha, beta, gamma)
    return Structure(lattice, symbols, np.mod(entry["positions_fractional"], 1.0))


def as_text(value: Any) -> Any:
    """The encoding of older entries: numbers as text, lists joined by ',', lists of lists by ';'."""
    if isinstance(value, (list, tuple)):
        return (";" if value and isinstance(value[0], (list, tuple)) else ",").join(as_text(item) for item in value)
    return value if value is None or isinstance(value, str) else repr(value)


def split(text: str, separator: str) -> list[str]:
    """Parts between separators that stand outside parentheses and quotes."""
    parts, depth, quoted = [""], 0, False
    for character in text:
        quoted ^= character == "'"
        depth += 0 if quoted else {"(": 1, ")": -1}.get(character, 0)
        if character == separator and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def negated(test: Test) -> Test:
    return lambda value: not test(value)


def condition(text: str) -> Test:
    """A condition on one value: ',' is AND, ':' OR, '!' not; '4*', '*60', '*', a word, a number."""
    for separator, decide in ((",", all), (":", any)):
        if len(parts := split(text, separator)) > 1:
            tests = [condition(part) for part in parts]
            return lambda value: decide(test(value) for test in tests)
    if text.startswith("!"):
        return negated(condition(text[1:]))
    if text.startswith("("):
        return condition(text[1:-1])
    if text.startswith("'"):
        return lambda value: text[1:-1] in (value if isinstance(value, list) else [value])
    if text == "*":
        return lambda value: value is not None
    if text.endswith("*"):
        return lambda value: value is not None and value >= float(text[:-1])
    if text.startswith("*"):
        return lambda value: value is not None and value <= float(text[1:])
    if re.fullmatch(r"-?\d+(\.\d+)?", text):
        return lambda value: value == float(text)
    return lambda value: text in (value if isinstance(value, list) else [value])


class Aflux(Loopback):
    """AFLOW on loopback.

    Attributes:
        entries: may be changed between requests.
        page_max: most records that it hands out at once, whatever is asked for; None is no limit. May be changed too.
        steps: whether pages beyond the first are counted in pages that it grants, or that were asked for.
        counts: whether a numbered reply tells how many match, or, with False, how many there are up to its end.
        endpoint: for the settings of the client.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        form: Form = "list",
        page_max: int | None = None,
        steps: Steps = "granted",
        counts: bool = True,
    ) -> None:
        super().__init__()
        self.entries, self.form = list(entries), form
        self.page_max, self.steps, self.counts = page_max, steps, counts

    @property
    def endpoint(self) -> str:
        return self.url + ROUTE

    def answer(self, request: Request) -> Reply | Any:
        if request.route != ROUTE:
            return Reply({"detail": "no such page"}, status=404)
        keywords, page, size = self.read(unquote(request.query_text))
        found = [e for e in self.entries if all(test(e.get(name)) for name, test in keywords.items() if test)]
        order = next(iter(keywords))
        found.sort(key=lambda entry: (entry[order] is None, entry[order]))
        granted = min(size, self.page_max or size)
        start = (page - 1) * (granted if self.steps == "granted" else size)
        chosen = found[start : start + granted]
        sent = [{name: entry.get(name) for name in dict.fromkeys([*keywords, *ALWAYS])} for entry in chosen]
        if self.form == "dictionary":
            # The numbers say where a record stands, the order of the keys does not.
            total = len(found) if self.counts else start + len(chosen)
            numbered = [(f"{start + k} of {total}", body) for k, body in enumerate(sent, 1)]
            return dict(reversed(numbered))
        return (
            [{name: as_text(value) for name, value in body.items()} for body in sent] if self.form == "text" else sent
        )

    @staticmethod
    def read(query: str) -> tuple[Mapping[str, Test | None], int, int]:
        """Keywords with their conditions, in order; number and size of the page."""
        keywords: dict[str, Test | None] = {}
        page = size = 0
        for part in split(query, ","):
            found = re.fullmatch(r"([$!]?)(\w+)(?:\((.*)\))?", part)
            assert found, f"not AFLUX: {part!r} in {query!r}"
            mark, name, inside = found.groups()
            if mark == "$" and name == "paging":
                page, size = map(int, inside.split(","))
            elif mark == "$":
                assert (name, inside) == ("format", "json"), part
            else:
                assert name not in keywords, f"{name} stands twice in {query!r}"
                test = condition(inside) if inside else None
                keywords[name] = negated(test) if mark and test else test
        assert page >= 1, "page 0 is the whole database"
        assert size >= 1, "a page without a size"
        return keywords, page, size


QUICK: dict[str, Any] = {"requests_per_second": 1000, "backoff_s": 0.01, "page_size": 400}


def database(
    endpoint: str,
    elements: tuple[str, ...] | None = None,
    filters: FilterConfig | None = None,
    sleeps: list[float] | None = None,
    **settings: Any,
) -> Aflow:
    """AFLOW at an endpoint; it waits for nothing, and notes for how long it would have."""
    config = AflowSource(endpoint=endpoint, **(QUICK | settings))
    access = Access(config, "AFLOW", sleep=(sleeps if sleeps is not None else []).append)
    return Aflow(config, filters or FilterConfig(), elements, access)


def walk(source: Aflow, cursor: str | None = None) -> Iterator[Page]:
    """Every page from a cursor on."""
    for _ in range(1000):
        page = source.page(cursor)
        yield page
        cursor = page.cursor
        if cursor is None:
            return
    raise AssertionError("the pages have no end")


def download(source: Aflow) -> dict[str, Record]:
    return {record.id: record for page in walk(source) for record in page.records}


def ids(entries: Iterable[Entry]) -> set[str]:
    return {entry["auid"] for entry in entries}


def asked(server: Loopback) -> list[str]:
    """The queries that came, readable."""
    return [unquote(request.path.split("?", 1)[1]) for request in server.seen]
