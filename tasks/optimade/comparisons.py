"""What a filter of OPTIMADE asks of one value, and how answers combine: true, false, or unknown where the value is."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from optimade.exceptions import BadRequest, NotImplementedResponse

Truth = bool | None
Test = Callable[[Any], Truth]

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
}
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


@dataclass(frozen=True)
class Kind:
    """Type of a property.

    Attributes:
        name: 'string', 'number', 'boolean', 'timestamp', 'list' or 'dictionary'; None where entries may differ.
        items: of a list, the type of its items.
    """

    name: str | None = None
    items: str | None = None


@dataclass(frozen=True)
class Property:
    """A property as a filter names it: its name, and those inside it.

    Attributes:
        path: such as ('species', 'name').
        kind: its type.
    """

    path: tuple[str, ...]
    kind: Kind

    def __str__(self) -> str:
        return ".".join(self.path)

    def getter(self) -> Callable[[Mapping[str, Any]], Any]:
        """Reads its value in an entry; None if it is unknown. Of dictionaries in a list, all as one flat list."""
        name, *inner = self.path
        if not inner:
            return lambda entry: entry.get(name)

        def value_of(entry: Mapping[str, Any]) -> Any:
            value: Any = entry.get(name)
            for one in inner:
                value = _inside(value, one)
            return value

        return value_of


class Term(NamedTuple):
    """A part of a filter.

    Attributes:
        holds: its truth for an entry.
        depth: brackets inside it.
        equal: the property and the value, if it tests nothing but that they are equal.
    """

    holds: Test
    depth: int = 0
    equal: tuple[Property, Any] | None = None


def _inside(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(name)
    if isinstance(value, list):
        found: list[Any] = []
        for one in value:
            inner = _inside(one, name)
            found.extend(inner if isinstance(inner, list) else [inner])
        return found
    return None


def all_of(truths: Iterable[Truth]) -> Truth:
    """Kleene's AND; an entry matches only what is true, so that nothing unknown ever matches."""
    result: Truth = True
    for truth in truths:
        if truth is False:
            return False
        result = result and truth
    return result


def any_of(truths: Iterable[Truth]) -> Truth:
    """Kleene's OR."""
    result: Truth = False
    for truth in truths:
        if truth:
            return True
        if truth is None:
            result = None
    return result


def negation_of(test: Test) -> Test:
    """Kleene's NOT: what is unknown stays so."""

    def holds(entry: Any) -> Truth:
        truth = test(entry)
        return None if truth is None else not truth

    return holds


def _kind_of(value: Any) -> str | None:
    if isinstance(value, bool):
        return "boolean"
    kinds: tuple[tuple[type | tuple[type, ...], str], ...] = (
        ((int, float), "number"),
        (str, "string"),
        (list, "list"),
        (Mapping, "dictionary"),
    )
    return next((name for types, name in kinds if isinstance(value, types)), None)


def moment_of(text: str) -> datetime:
    """A timestamp of RFC 3339, which datetime alone would take in many other forms too.

    Raises: ValueError: if it is none.
    """
    if not _RFC3339.fullmatch(text):
        raise ValueError(text)
    return datetime.fromisoformat(text.upper()).astimezone(UTC)


def type_refusal(what: str, kind: str | None, given: str) -> NotImplementedResponse:
    """The error that the standard asks for where types differ."""
    return NotImplementedResponse(detail=f"{what} is a {kind}, which cannot be compared with {given}")


def scalar_test(what: str, kind: str | None, sign: str, wanted: Any) -> Test:
    """Comparison of a value that is no list.

    Raises:
        BadRequest: if a timestamp is asked for and the text is none.
        NotImplementedResponse: if the types differ, or have no order.
    """
    if isinstance(wanted, Property):
        raise NotImplementedResponse(detail=f"comparing two properties, {what} and {wanted}, is not implemented")
    given = _kind_of(wanted)
    if kind == "timestamp" and given == "string":
        return _moment_test(what, sign, wanted)
    if kind not in (None, given):
        raise type_refusal(what, kind, f"{wanted!r:.50}")
    if given == "boolean" and sign not in ("=", "!="):
        raise NotImplementedResponse(detail=f"{what} {sign} {wanted}: booleans have no order, only = and !=")
    compare = OPERATORS[sign]
    if kind is None:  # of a type that is not declared, a value of another type is no answer to the question
        return lambda value: compare(value, wanted) if _kind_of(value) == given else None
    return lambda value: None if value is None else compare(value, wanted)


def _moment_test(what: str, sign: str, text: str) -> Test:
    try:
        wanted = moment_of(text)
    except (ValueError, OverflowError):
        raise BadRequest(
            detail=f"{text!r:.50} is no timestamp, expected RFC 3339 for {what}, such as 2026-01-31T12:00:00Z"
        ) from None
    compare = OPERATORS[sign]
    return lambda value: None if value is None else compare(moment_of(value), wanted)


def string_test(prop: Property, wanted: Any, holds: Callable[[str, str], bool]) -> Term:
    """CONTAINS and the like.

    Raises: NotImplementedResponse: if the property or what is looked for is no string.
    """
    if prop.kind.name not in (None, "string"):
        raise type_refusal(str(prop), prop.kind.name, "parts of a string")
    if not isinstance(wanted, str):
        raise NotImplementedResponse(detail=f"CONTAINS, STARTS and ENDS look for a string in {prop}: {wanted!s:.50}")

    value_of = prop.getter()

    def test(entry: Any) -> Truth:
        value = value_of(entry)
        return holds(value, wanted) if isinstance(value, str) else None

    return Term(test)


def list_of(prop: Property) -> Callable[[Any], list[Any] | None]:
    """Reads a list in an entry; None if it is unknown.

    Raises: NotImplementedResponse: if the property is none.
    """
    if prop.kind.name not in (None, "list"):
        raise type_refusal(str(prop), prop.kind.name, "items of a list")

    value_of = prop.getter()

    def values(entry: Any) -> list[Any] | None:
        value = value_of(entry)
        return value if isinstance(value, list) else None

    return values


def over_list(values: Callable[[Any], list[Any] | None], test: Callable[[list[Any]], Truth]) -> Term:
    """A test of a list, unknown where that is."""

    def holds(entry: Any) -> Truth:
        found = values(entry)
        return None if found is None else test(found)

    return Term(holds)


def merged_equalities(terms: list[Term]) -> list[Term]:
    """The same alternatives, one look-up per property for all its equalities: clients ask for ids by hundreds."""
    wanted: dict[Property, set[Any]] = {}
    for term in terms:
        if term.equal is not None:
            wanted.setdefault(term.equal[0], set()).add(term.equal[1])
    return [term for term in terms if term.equal is None] + [_looked_up(*one) for one in wanted.items()]


def _looked_up(prop: Property, wanted: set[Any]) -> Term:
    value_of = prop.getter()

    def holds(entry: Any) -> Truth:
        value = value_of(entry)
        return None if value is None else value in wanted

    return Term(holds)
