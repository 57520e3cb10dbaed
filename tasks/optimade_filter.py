"""A filter of OPTIMADE 1.2 as a function of one entry: true, false, or unknown where a value is.

Its grammar is that of OPTIMADE's reference parser, in a form that is read in one pass: that parser's own takes time that
grows with the square of a filter's length, and its pattern for strings doubles it with every tab. What the standard
leaves optional and is not done here, such as comparing two properties or lists item by item, is refused with 501, and
so are types that differ, which the standard asks for; what breaks the standard is refused with 400.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from lark import Lark, Token, Transformer
from lark.exceptions import LarkError, UnexpectedInput, UnexpectedToken, VisitError
from optimade.exceptions import BadRequest, NotImplementedResponse

LENGTH_MAX = 65_536
"""Most characters of a filter: 2,000 ids joined by OR are 60,000, and a second of work."""

BRACKETS_MAX = 100
"""Deepest nesting of brackets: an entry is tested by a call per bracket, of which Python allows a thousand."""

Truth = bool | None
Test = Callable[[Any], Truth]

_GRAMMAR = r"""
start: expression
expression: clause ("OR" clause)*
clause: phrase ("AND" phrase)*
phrase: comparison        -> plain
      | "NOT" comparison  -> negated
      | "(" expression ")"       -> bracket
      | "NOT" "(" expression ")" -> negated_bracket
?comparison: property OPERATOR value             -> compared
           | literal OPERATOR (property|literal) -> compared_backwards
           | property "IS" KNOWN                 -> known
           | property "IS" UNKNOWN               -> unknown
           | property "CONTAINS" value           -> contains
           | property "STARTS" "WITH"? value     -> starts
           | property "ENDS" "WITH"? value       -> ends
           | property "HAS" item                 -> has_any
           | property "HAS" "ANY" items          -> has_any
           | property "HAS" "ALL" items          -> has_all
           | property "HAS" "ONLY" items         -> has_only
           | property "LENGTH" SIGNED_INT          -> length
           | property "LENGTH" OPERATOR SIGNED_INT -> length
           | property (":" property)+ "HAS" ("ANY"|"ALL"|"ONLY")? zipped ("," zipped)* -> correlated
items: item ("," item)*
item: value | OPERATOR value
zipped: item (":" item)+
?value: literal | property | TRUE -> true | FALSE -> false
?literal: STRING -> string | (SIGNED_INT|SIGNED_FLOAT) -> number
property: IDENTIFIER ("." NESTED_IDENTIFIER)*

KNOWN: "KNOWN"
UNKNOWN: "UNKNOWN"
TRUE: "TRUE"
FALSE: "FALSE"
OPERATOR: /[<>!]=|[<>=]/
IDENTIFIER: /[a-z_][a-z_0-9]*/
NESTED_IDENTIFIER: /[a-z_][a-z_0-9+]*/
STRING: /"(?:[^"\\]|\\[^\0])*"/
SIGNED_FLOAT.2: /[+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?[0-9]+[eE][+-]?[0-9]+/
SIGNED_INT: /[+-]?[0-9]+/
%ignore /[ \t\f\r\n]+/
"""

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
}
_BACKWARDS = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "!=": "!="}
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
        """Reads its value in an entry; None if it is unknown. Of dictionaries in a list, all values as one flat list."""
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


def _all(truths: Iterable[Truth]) -> Truth:
    """Kleene's AND; an entry matches only what is true, so that nothing unknown ever matches."""
    result: Truth = True
    for truth in truths:
        if truth is False:
            return False
        result = result and truth
    return result


def _any(truths: Iterable[Truth]) -> Truth:
    result: Truth = False
    for truth in truths:
        if truth:
            return True
        if truth is None:
            result = None
    return result


def _negation(test: Test) -> Test:
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


def _refuse_type(what: str, kind: str | None, given: str) -> NotImplementedResponse:
    return NotImplementedResponse(detail=f"{what} is a {kind}, which cannot be compared with {given}")


def _scalar_test(what: str, kind: str | None, sign: str, wanted: Any) -> Test:
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
        raise _refuse_type(what, kind, f"{wanted!r:.50}")
    if given == "boolean" and sign not in ("=", "!="):
        raise NotImplementedResponse(detail=f"{what} {sign} {wanted}: booleans have no order, only = and !=")
    compare = _OPERATORS[sign]
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
    compare = _OPERATORS[sign]
    return lambda value: None if value is None else compare(moment_of(value), wanted)


def _string_test(prop: Property, wanted: Any, holds: Callable[[str, str], bool]) -> Term:
    if prop.kind.name not in (None, "string"):
        raise _refuse_type(str(prop), prop.kind.name, "parts of a string")
    if not isinstance(wanted, str):
        raise NotImplementedResponse(detail=f"CONTAINS, STARTS and ENDS look for a string in {prop}: {wanted!s:.50}")

    value_of = prop.getter()

    def test(entry: Any) -> Truth:
        value = value_of(entry)
        return holds(value, wanted) if isinstance(value, str) else None

    return Term(test)


def _of_list(prop: Property) -> Callable[[Any], list[Any] | None]:
    if prop.kind.name not in (None, "list"):
        raise _refuse_type(str(prop), prop.kind.name, "items of a list")

    value_of = prop.getter()

    def values(entry: Any) -> list[Any] | None:
        value = value_of(entry)
        return value if isinstance(value, list) else None

    return values


def _over(values: Callable[[Any], list[Any] | None], test: Callable[[list[Any]], Truth]) -> Term:
    def holds(entry: Any) -> Truth:
        found = values(entry)
        return None if found is None else test(found)

    return Term(holds)


def _one_of(terms: list[Term]) -> list[Term]:
    """The same alternatives with one look-up per property in place of its equalities: clients ask for ids by hundreds."""
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


Item = tuple[str, Any]


class _Builder(Transformer[Token, Term]):
    """Makes a term of each rule of the grammar, as the parser meets it."""

    def __init__(self, property_of: Callable[[str, Sequence[str]], Property]) -> None:
        super().__init__()
        self._property_of = property_of

    def start(self, parts: list[Term]) -> Term:
        return parts[0]

    def expression(self, parts: list[Term]) -> Term:
        return self._joined(_one_of(parts), _any)

    def clause(self, parts: list[Term]) -> Term:
        return self._joined(parts, _all)

    @staticmethod
    def _joined(parts: list[Term], join: Callable[[Iterable[Truth]], Truth]) -> Term:
        if len(parts) == 1:
            return parts[0]
        tests = [part.holds for part in parts]
        return Term(lambda entry: join(test(entry) for test in tests), max(part.depth for part in parts))

    def plain(self, parts: list[Term]) -> Term:
        return parts[0]

    def negated(self, parts: list[Term]) -> Term:
        return Term(_negation(parts[0].holds), parts[0].depth)

    def bracket(self, parts: list[Term]) -> Term:
        depth = parts[0].depth + 1
        if depth > BRACKETS_MAX:
            raise BadRequest(detail=f"the filter has more than {BRACKETS_MAX} brackets inside each other")
        return Term(parts[0].holds, depth)

    def negated_bracket(self, parts: list[Term]) -> Term:
        return self.negated([self.bracket(parts)])

    def property(self, names: list[Token]) -> Property:
        return self._property_of(str(names[0]), [str(name) for name in names[1:]])

    def string(self, parts: list[Token]) -> str:
        return re.sub(r"\\(.)", r"\1", parts[0][1:-1], flags=re.DOTALL)

    def number(self, parts: list[Token]) -> int | float:
        if parts[0].type == "SIGNED_FLOAT":
            return float(parts[0])
        return _integer(parts[0])

    def true(self, parts: list[Token]) -> bool:
        return True

    def false(self, parts: list[Token]) -> bool:
        return False

    def compared(self, parts: list[Any]) -> Term:
        prop, sign, wanted = parts
        if prop.kind.name in ("list", "dictionary"):
            raise _refuse_type(str(prop), prop.kind.name, f"{wanted!s:.50}; HAS and LENGTH ask about lists")
        test, value_of = _scalar_test(str(prop), prop.kind.name, str(sign), wanted), prop.getter()
        is_equality = sign == "=" and prop.kind.name in ("string", "number")
        return Term(lambda entry: test(value_of(entry)), equal=(prop, wanted) if is_equality else None)

    def compared_backwards(self, parts: list[Any]) -> Term:
        wanted, sign, prop = parts
        if not isinstance(prop, Property):
            raise NotImplementedResponse(detail=f"comparing two constants, {wanted!r:.50} and {prop!r:.50}")
        return self.compared([prop, _BACKWARDS[str(sign)], wanted])

    def known(self, parts: list[Any]) -> Term:
        value_of = parts[0].getter()
        return Term(lambda entry: value_of(entry) is not None)

    def unknown(self, parts: list[Any]) -> Term:
        value_of = parts[0].getter()
        return Term(lambda entry: value_of(entry) is None)

    def contains(self, parts: list[Any]) -> Term:
        return _string_test(parts[0], parts[1], lambda value, wanted: wanted in value)

    def starts(self, parts: list[Any]) -> Term:
        return _string_test(parts[0], parts[1], str.startswith)

    def ends(self, parts: list[Any]) -> Term:
        return _string_test(parts[0], parts[1], str.endswith)

    def item(self, parts: list[Any]) -> Item:
        return (str(parts[0]), parts[1]) if len(parts) == 2 else ("=", parts[0])

    def items(self, parts: list[Item]) -> list[Item]:
        return parts

    @staticmethod
    def _item_tests(prop: Property, items: Item | list[Item]) -> list[Test]:
        if prop.kind.items in ("list", "dictionary"):
            raise _refuse_type(f"an item of {prop}", prop.kind.items, "a value")
        listed = items if isinstance(items, list) else [items]
        return [_scalar_test(f"an item of {prop}", prop.kind.items, sign, wanted) for sign, wanted in listed]

    def has_any(self, parts: list[Any]) -> Term:
        values, tests = _of_list(parts[0]), self._item_tests(*parts)
        return _over(values, lambda found: _any(test(value) for value in found for test in tests))

    def has_all(self, parts: list[Any]) -> Term:
        values, tests = _of_list(parts[0]), self._item_tests(*parts)
        return _over(values, lambda found: _all(_any(test(value) for value in found) for test in tests))

    def has_only(self, parts: list[Any]) -> Term:
        values, tests = _of_list(parts[0]), self._item_tests(*parts)
        return _over(values, lambda found: _all(_any(test(value) for test in tests) for value in found))

    def length(self, parts: list[Any]) -> Term:
        prop, number = parts[0], _integer(parts[-1])
        compare = _OPERATORS[str(parts[1]) if len(parts) == 3 else "="]
        return _over(_of_list(prop), lambda found: compare(len(found), number))

    def zipped(self, parts: list[Item]) -> list[Item]:
        return parts

    def correlated(self, parts: list[Any]) -> Term:
        raise NotImplementedResponse(detail="comparing lists item by item (list:list HAS value:value)")


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:  # Python reads no more than 4,300 digits
        raise BadRequest(detail=f"{text:.20}... has {len(text)} digits: a number of a filter has 4,300 at most") from None


class FilterReader:
    """Reads the filters of one kind of entry.

    Args:
        property_of: the property that a name, and the names inside it, stand for; raises BadRequest if there is none.
    """

    def __init__(self, property_of: Callable[[str, Sequence[str]], Property]) -> None:
        self._parser = Lark(_GRAMMAR, parser="lalr", maybe_placeholders=False, transformer=_Builder(property_of))

    def read(self, text: str) -> Test:
        """The filter's truth for an entry.

        Raises:
            BadRequest: if it is no filter, names what is not there, or exceeds a limit.
            NotImplementedResponse: if it asks for what is optional and not done, or compares types that differ.
        """
        if len(text) > LENGTH_MAX:
            raise BadRequest(detail=f"the filter has {len(text)} characters, {LENGTH_MAX} at most are read")
        try:
            term: Any = self._parser.parse(text)
        except UnexpectedInput as error:
            at_end = isinstance(error, UnexpectedToken) and error.token.type == "$END"
            place = "at its end" if at_end else f"at character {(error.pos_in_stream or 0) + 1}"
            raise BadRequest(detail=f"the filter is not in OPTIMADE's language {place}: {text:.200}") from None
        except VisitError as error:
            raise error.orig_exc from None
        except LarkError as error:
            raise BadRequest(detail=f"the filter is not in OPTIMADE's language: {error!s:.200}") from None
        test: Test = term.holds
        return test
