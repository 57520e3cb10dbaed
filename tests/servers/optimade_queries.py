"""Queries of all kinds for an OPTIMADE server: filters with their answer by a loop over the table, broken ones, and
requests that nobody should make with the statuses that the standard allows.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import numpy as np

from generative.config import ELEMENTS

Row = Mapping[str, Any]
Truth = bool | None
Value = Callable[[Row], Any]

SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _symbols(row: Row) -> list[str]:
    return [ELEMENTS[z - 1] for z in row["relaxed_atomic_numbers"]]


def column(name: str) -> Value:
    return lambda row: row[name]


NUMBERS: dict[str, Value] = {
    "_hullward_rank": column("rank"),
    "_hullward_index": column("index"),
    "_hullward_energy": column("energy_ev_per_atom"),
    "_hullward_e_above_hull": column("e_above_hull_ev_per_atom"),
    "_hullward_rms": column("rms"),
    "_hullward_lowest_phonon": column("lowest_phonon_thz"),
    "_hullward_condition.spacegroup": lambda row: json.loads(row["condition"]).get("spacegroup"),
    "space_group_it_number": column("spacegroup"),
    "nelements": lambda row: len(set(_symbols(row))),
    "nsites": lambda row: len(_symbols(row)),
    "nperiodic_dimensions": lambda row: 3,
}
STRINGS: dict[str, Value] = {
    "id": column("id"),
    "chemical_formula_descriptive": column("formula"),
    "_hullward_energy_method": column("energy_method"),
    "_hullward_relax_status": column("relax_status"),
    "_hullward_known_match": column("known_match"),
    "_hullward_structure_kind": lambda row: "relaxed",
}
BOOLEANS: dict[str, Value] = {"_hullward_smact_valid": column("smact_valid")}
LISTS: dict[str, Value] = {
    "elements": lambda row: sorted(set(_symbols(row))),
    "species_at_sites": _symbols,
    "species.name": lambda row: sorted(set(_symbols(row))),
    "dimension_types": lambda row: [1, 1, 1],
    "structure_features": lambda row: [],
}
ALL = {**NUMBERS, **STRINGS, **BOOLEANS, **LISTS}


@dataclass(frozen=True)
class Filter:
    """A filter in OPTIMADE's words and what it says of a row; None where a value it asks about is unknown."""

    text: str
    holds: Callable[[Row], Truth]


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _over(value: Value, test: Callable[[Any], Truth]) -> Callable[[Row], Truth]:
    def holds(row: Row) -> Truth:
        found = value(row)
        return None if found is None else test(found)

    return holds


class Queries:
    """Draws queries about these rows.

    Args:
        rows: of the table that is served.
        written: when the table was written.
        rng: of one case.
    """

    def __init__(self, rows: list[Row], written: datetime, rng: np.random.Generator) -> None:
        self._rows, self._written, self._rng = rows, written, rng

    def _one(self, of: Any) -> Any:
        listed = list(of)
        return listed[int(self._rng.integers(len(listed)))]

    def _chance(self, probability: float) -> bool:
        return bool(self._rng.random() < probability)

    def _some_value(self, value: Value) -> Any:
        found = [one for one in map(value, self._rows) if one is not None]
        return self._one(found) if found else None

    def _number(self, value: Value) -> tuple[str, float]:
        found = self._some_value(value)
        near = 0 if found is None else found
        if self._chance(0.3):
            near += float(self._rng.normal())
        text = self._one([repr(near), f"{near:.3f}", f"{near:e}", f"{int(near)}", f"+{abs(near)}", "1e400", "-0", ".5"])
        return text, float(text)

    def _string(self, value: Value) -> str:
        found = str(self._some_value(value) or "")
        start = int(self._rng.integers(len(found) + 1))
        odd = ["", "(", ".*", "\\", '"', "é", "\t", "NOT", ")2", "𝐴"]
        return self._one([found, found[start:], found[:start], found[start : start + 2], self._one(odd)])

    def _comparison(self) -> Filter:
        name, value = self._one(NUMBERS.items())
        sign = self._one(SIGNS)
        text, wanted = self._number(value)
        if self._chance(0.2):
            return Filter(f"{text}{sign}{name}", _over(value, lambda found: SIGNS[sign](wanted, found)))
        space = " " * int(self._rng.integers(3))
        return Filter(f"{name}{space}{sign}{space}{text}", _over(value, lambda found: SIGNS[sign](found, wanted)))

    def _of_string(self) -> Filter:
        name, value = self._one(STRINGS.items())
        wanted = self._string(value)
        sign = self._one([*SIGNS, "CONTAINS", "STARTS", "STARTS WITH", "ENDS", "ENDS WITH"])
        tests: dict[str, Callable[[str], bool]] = {
            "CONTAINS": lambda found: wanted in found,
            "STARTS": lambda found: found[: len(wanted)] == wanted,
            "ENDS": lambda found: found[len(found) - len(wanted) :] == wanted if len(wanted) <= len(found) else False,
        }
        test = tests.get(sign.split()[0], lambda found: SIGNS[sign](found, wanted))
        return Filter(f"{name} {sign} {quoted(wanted)}", _over(value, test))

    def _of_boolean(self) -> Filter:
        name, value = self._one(BOOLEANS.items())
        sign, wanted = self._one(["=", "!="]), self._chance(0.5)
        return Filter(f"{name}{sign}{str(wanted).upper()}", _over(value, lambda found: SIGNS[sign](found, wanted)))

    def _of_time(self) -> Filter:
        sign = self._one(SIGNS)
        wanted = self._written + timedelta(seconds=int(self._rng.integers(-2, 3)))
        zone = int(self._rng.integers(-3, 4))
        local = (wanted + timedelta(hours=zone)).replace(tzinfo=None).isoformat()
        text = self._one([f"{local}{zone:+03d}:00", wanted.strftime("%Y-%m-%dT%H:%M:%SZ")])
        return Filter(f'last_modified{sign}"{text}"', lambda row: SIGNS[sign](self._written, wanted))

    def _of_list(self) -> Filter:
        name, value = self._one(LISTS.items())
        if self._chance(0.3):
            sign, n = self._one(["", *SIGNS]), int(self._rng.integers(-1, 8))
            compare = SIGNS[sign or "="]
            return Filter(f"{name} LENGTH {sign}{n}", _over(value, lambda found: compare(len(found), n)))
        is_number = name == "dimension_types"
        pool = [0, 1, 2] if is_number else [*(self._some_value(value) or ["disorder"]), "Al", "O", "x"]
        wanted = [(self._one(["", "", *SIGNS]), self._one(pool)) for _ in range(int(self._rng.integers(1, 4)))]
        said = [f"{sign}{one}" if is_number else f"{sign}{quoted(one)}" for sign, one in wanted]

        def among(item: Any) -> list[bool]:
            return [SIGNS[sign or "="](item, one) for sign, one in wanted]

        kinds: dict[str, Callable[[list[Any]], Truth]] = {
            "": lambda found: any(among(item)[0] for item in found),
            "ANY": lambda found: any(any(among(item)) for item in found),
            "ALL": lambda found: all(any(among(item)[place] for item in found) for place in range(len(wanted))),
            "ONLY": lambda found: all(any(among(item)) for item in found),
        }
        kind = self._one(kinds)
        return Filter(f"{name} HAS {kind} {', '.join(said if kind else said[:1])}", _over(value, kinds[kind]))

    def _known(self) -> Filter:
        name, value = self._one(ALL.items())
        is_known = self._chance(0.5)
        return Filter(f"{name} IS {'' if is_known else 'UN'}KNOWN", lambda row: (value(row) is not None) == is_known)

    def _foreign(self) -> Filter:
        return Filter(f"_exmpl_{self._one('abc')}{self._one(SIGNS)}{self._one(['3', quoted('x')])}", lambda row: None)

    def filter(self, depth: int = 3) -> Filter:
        """Of the whole language, but for what the standard leaves optional and the server refuses."""
        if depth == 0 or self._chance(0.3):
            made: Filter = self._one(
                [self._comparison, self._comparison, self._of_string, self._of_boolean, self._of_time, self._of_list]
                + [self._of_list, self._known, self._foreign]
            )()
            return Filter(f"NOT {made.text}", _not(made.holds)) if self._chance(0.25) else made
        parts = [self.filter(depth - 1) for _ in range(int(self._rng.integers(1, 5)))]
        joined = self._one([("AND", _and), ("OR", _or)])
        negated = "NOT " if self._chance(0.25) else ""
        text = f"{negated}({f' {joined[0]} '.join(f'({part.text})' for part in parts)})"
        holds = joined[1]([part.holds for part in parts])
        return Filter(text, _not(holds) if negated else holds)

    def broken(self) -> str:
        """A filter with something wrong in it, most of the time."""
        text = self.filter(2).text
        for _ in range(int(self._rng.integers(1, 4))):
            place = int(self._rng.integers(len(text) + 1))
            kind = int(self._rng.integers(5))
            if kind == 0:
                text = text[:place] + self._one(_ODD) + text[place:]
            elif kind == 1:
                text = text[:place] + text[place + int(self._rng.integers(1, 6)) :]
            elif kind == 2:
                words = text.split(" ")
                words[int(self._rng.integers(len(words)))] = self._one(_WORDS)
                text = " ".join(words)
            elif kind == 3:
                text = self._one(_WHOLE)
            else:
                text = f"{self._one(ALL)} {self._one(_WORDS)} {self._one(_ODD_VALUES)}"
        return text

    def request(self) -> tuple[str, str, set[int]]:
        """Method, path with query, and the statuses that the standard allows."""
        if self._chance(0.2):
            method = self._one(["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
            return method, self._one(["/v1/structures", "/v1/info", "/v1/structures/x", "/versions"]), {405}
        if self._chance(0.35):
            path, allowed = self._one(_PATHS)
            return "GET", path, allowed
        endpoint = self._one(["/v1/structures", "/structures", "/v1/structures", "/v1/links", "/v1/references"])
        parameter, allowed = self._one(_PARAMETERS)
        if "api_hint" in parameter:
            endpoint = "/structures"
        more = self._one(["", "&_exmpl_x=1", "&response_fields=id" if "response_fields" not in parameter else ""])
        return "GET", f"{endpoint}?{parameter}{more}", allowed


def _not(holds: Callable[[Row], Truth]) -> Callable[[Row], Truth]:
    def negated(row: Row) -> Truth:
        truth = holds(row)
        return None if truth is None else not truth

    return negated


def _and(parts: list[Callable[[Row], Truth]]) -> Callable[[Row], Truth]:
    def joined(row: Row) -> Truth:
        truths = [part(row) for part in parts]
        return False if False in truths else None if None in truths else True

    return joined


def _or(parts: list[Callable[[Row], Truth]]) -> Callable[[Row], Truth]:
    def joined(row: Row) -> Truth:
        truths = [part(row) for part in parts]
        return True if True in truths else None if None in truths else False

    return joined


_ODD = ["(", ")", '"', "\\", ";", "&", "%", "$", "é", "𝐴", ":", ",", "<", "=", "'", "--", "/*", "٣"] + [
    "\x00",
    "\n",
    "\ufffd",
]
_WORDS = ["AND", "OR", "NOT", "HAS", "HAS ALL", "HAS ANY", "HAS ONLY", "HAS <", "LENGTH", "LENGTH >", "IS", "KNOWN"]
_WORDS += ["IS UNKNOWN", "CONTAINS", "STARTS WITH", "ENDS", "=", "!=", "<>", "==", "TRUE", "3", '"x"', "nelements"]
_ODD_VALUES = ["1e400", "-1e400", "9" * 400, "9" * 5000, "0x1F", "NaN", "1e", '"', '"\\"', "TRUE", "nsites", '"a":"b"']
_ODD_VALUES += ["1,2", '"a",1', "> 3, < 4", "elements", '"2020"', '"9999-99-99T99:99:99Z"', "3:4:5", "", "(3)", "-"]
_WHOLE = [
    " ",
    "(" * 90 + "nelements=2" + ")" * 90,
    "(" * 5_000 + "nelements=2" + ")" * 5_000,
    "NOT " * 300 + "nelements=2",
    " AND ".join(["nelements=2"] * 3_000),
    " OR ".join(f'id="{number}"' for number in range(3_000)),
    'id="' + "\t" * 500,
    'id CONTAINS "' + "(a+)+" * 200 + '"',
    'id="' + "x" * 80_000 + '"',
    "elements HAS ALL " + ",".join(['"Al"'] * 5_000),
    "elements:elements_ratios HAS ALL " + ",".join(['"Al":>0.5'] * 50),
    "nelements" + ".a" * 2_000 + "=1",
    "species" + ".name" * 2_000 + "=1",
    "_hullward_condition" + ".a" * 2_000 + "=1",
    "nelements=nelements",
    "3=3",
    '"a"="a"',
    "nelements=2 nelements=3",
    'structures.id HAS "x" AND references.doi HAS "y"',
    "_hullward_condition.$where=1",
    "unknown=1",
    "_hullward_unknown=1",
    "__=1",
    "_=1",
    "relationships=1",
]

_LONG = "x" * 3_000
_PATHS: list[tuple[str, set[int]]] = [
    ("/v1/structures/%00", {200, 404}),
    ("/v1/structures/..", {200, 404}),
    ("/v1/structures/..%2f..%2fetc%2fpasswd", {200, 404}),
    (f"/v1/structures/{_LONG}", {200, 404}),
    ("/v1/structures/" + quote('x" OR id CONTAINS "'), {200, 404}),
    ("/v1/structures/" + quote('"'), {200, 404}),
    ("/v1/structures/%5C", {200, 404}),
    ("/v1/structures/%ff%fe", {200, 404}),
    ("/v1/structures/" + quote("é𝐴"), {200, 404}),
    ("/v1/structures/a/b/c", {200, 404}),
    ("/v1/structures/x?response_fields=nothing", {400}),
    ("/v1/structures/x?page_limit=3", {400}),
    ("/v1/references/x", {200, 404}),
    ("/v1/links/x", {404}),
    ("/v1/nothing", {404}),
    ("/v1/info/nothing", {404}),
    ("/v1/%00", {404}),
    ("/..%2f..", {404}),
    ("/%ff", {404}),
    (f"/{_LONG}", {404}),
    ("/v9/structures", {553}),
    ("/v1.99/structures", {553}),
    ("/v" + "9" * 5_000 + "/structures", {553}),
    ("/v1/structures?" + "a" * 250_000 + "=1", {414}),
    ("/v1/structures/" + "a" * 250_000, {414}),
]
_PARAMETERS: list[tuple[str, set[int]]] = [
    ("page_limit=-1", {400}),
    ("page_limit=0", {200}),
    ("page_limit=1000", {200}),
    ("page_limit=1001", {403}),
    ("page_limit=1000000000", {403}),
    ("page_limit=abc", {400}),
    ("page_limit=1.5", {400}),
    ("page_limit=", {400}),
    ("page_limit=" + "9" * 5_000, {400, 403}),
    ("page_limit=%00", {400}),
    ("page_limit=1;page_limit=2", {200, 400}),
    ("page_limit=-1&page_limit=-2", {400}),
    ("page_limit=1&page_limit=-2", {200, 400}),
    ("page_offset=-1", {400}),
    ("page_offset=1000000000000000000000", {200}),
    ("page_offset=x", {400}),
    ("page_number=0", {200}),
    ("page_number=-5", {200}),
    ("page_number=1000000000000000000000", {200}),
    ("page_number=x", {400}),
    ("page_number=2&page_offset=3", {200}),
    ("page_cursor=x", {400}),
    ("page_cursor=3", {200}),
    ("page_above=x", {501}),
    ("page_below=x", {200}),
    ("sort=id", {200}),
    ("sort=-id,type", {200}),
    ("sort=nothing", {400}),
    ("sort=id,", {400}),
    ("sort=-", {400}),
    ("sort=" + ",".join(["id"] * 2_000), {200}),
    ("sort=%00", {400}),
    ("sort=_exmpl_x", {200}),
    ("sort=_hullward_nothing", {400}),
    ("sort=id.name", {400}),
    ("response_fields=nothing", {400}),
    ("response_fields=id,", {200, 400}),
    ("response_fields=%00", {400}),
    ("response_fields=_exmpl_x", {200}),
    ("response_fields=_" + quote("é𝐴"), {200, 400}),
    ("response_fields=" + "_a," * 2_000 + "id", {200}),
    ("response_format=xml", {400}),
    ("response_format=", {200, 400}),
    ("response_format=%ff", {400}),
    ("email_address=nobody", {400}),
    ("include=nothing", {200, 400}),
    ("include=", {200}),
    ("include=structures,references", {200}),
    ("api_hint=v1", {200}),
    ("api_hint=v0.1", {200}),
    ("api_hint=v99", {553}),
    ("api_hint=x", {200}),
    ("api_hint=", {200}),
    ("api_hint=v" + "9" * 5_000, {400, 553}),
    ("api_hint=v1&api_hint=v2", {200}),
    ("filter", {400}),
    ("filter=", {200}),
    ("filter=%ff", {400}),
    ("filter=%", {400}),
    ("filter=id=%22a%22&filter=(", {400}),
    ("nothing=1", {400}),
    ("_hullward_nothing=1", {400}),
    ("=", {400}),
    ("&&&", {200}),
    ("%00=%00", {400}),
    ("&".join(f"_exmpl_x{number}=1" for number in range(2_000)), {200}),
]


def written_at(mtime: float) -> datetime:
    """A file's time of modification in whole seconds, as entries have it."""
    return datetime.fromtimestamp(int(mtime), UTC)
