"""A filter of OPTIMADE 1.2 as a function of one entry: true, false, or unknown where a value is.

Its grammar is that of OPTIMADE's reference parser, in a form that is read in one pass: that parser's own takes 30 times
as long, and twice the time for every tab of a string that does not end. What the standard leaves optional and is not
done here, such as comparing two properties or lists item by item, is refused with 501, and so are types that differ,
which the standard asks for; what breaks the standard is refused with 400.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lark import Lark, Token
from lark.exceptions import LarkError, UnexpectedInput, UnexpectedToken, VisitError
from lark.visitors import Transformer_NonRecursive
from optimade.exceptions import BadRequest, NotImplementedResponse

from tasks.optimade.comparisons import (
    OPERATORS,
    Property,
    Term,
    Test,
    Truth,
    all_of,
    any_of,
    list_of,
    merged_equalities,
    negation_of,
    over_list,
    scalar_test,
    string_test,
    type_refusal,
)

LENGTH_MAX = 65_536
"""Most characters of a filter: 2,400 ids of 16 characters joined by OR, or two seconds of reading at most."""

BRACKETS_MAX = 100
"""Deepest nesting of brackets: an entry is tested by a call per bracket, of which Python allows a thousand."""

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
           | property (":" property)+ "HAS" zipped -> correlated
           | property (":" property)+ "HAS" ("ANY"|"ALL"|"ONLY") zipped ("," zipped)* -> correlated
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

_BACKWARDS = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "!=": "!="}

Item = tuple[str, Any]


class _Builder(Transformer_NonRecursive[Token, Term]):
    """Makes a term of each rule of the grammar, from the inside out."""

    def __init__(self, property_of: Callable[[str, Sequence[str]], Property]) -> None:
        super().__init__()
        self._property_of = property_of

    def start(self, parts: list[Term]) -> Term:
        return parts[0]

    def expression(self, parts: list[Term]) -> Term:
        return self._joined(merged_equalities(parts), any_of)

    def clause(self, parts: list[Term]) -> Term:
        return self._joined(parts, all_of)

    @staticmethod
    def _joined(parts: list[Term], join: Callable[[Iterable[Truth]], Truth]) -> Term:
        if len(parts) == 1:
            return parts[0]
        tests = [part.holds for part in parts]
        return Term(lambda entry: join(test(entry) for test in tests), max(part.depth for part in parts))

    def plain(self, parts: list[Term]) -> Term:
        return parts[0]

    def negated(self, parts: list[Term]) -> Term:
        return Term(negation_of(parts[0].holds), parts[0].depth)

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
            raise type_refusal(str(prop), prop.kind.name, f"{wanted!s:.50}; HAS and LENGTH ask about lists")
        test, value_of = scalar_test(str(prop), prop.kind.name, str(sign), wanted), prop.getter()
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
        return string_test(parts[0], parts[1], lambda value, wanted: wanted in value)

    def starts(self, parts: list[Any]) -> Term:
        return string_test(parts[0], parts[1], str.startswith)

    def ends(self, parts: list[Any]) -> Term:
        return string_test(parts[0], parts[1], str.endswith)

    def item(self, parts: list[Any]) -> Item:
        return (str(parts[0]), parts[1]) if len(parts) == 2 else ("=", parts[0])

    def items(self, parts: list[Item]) -> list[Item]:
        return parts

    @staticmethod
    def _item_tests(prop: Property, items: Item | list[Item]) -> list[Test]:
        if prop.kind.items in ("list", "dictionary"):
            raise type_refusal(f"an item of {prop}", prop.kind.items, "a value")
        listed = items if isinstance(items, list) else [items]
        return [scalar_test(f"an item of {prop}", prop.kind.items, sign, wanted) for sign, wanted in listed]

    def has_any(self, parts: list[Any]) -> Term:
        values, tests = list_of(parts[0]), self._item_tests(*parts)
        return over_list(values, lambda found: any_of(test(value) for value in found for test in tests))

    def has_all(self, parts: list[Any]) -> Term:
        values, tests = list_of(parts[0]), self._item_tests(*parts)
        return over_list(values, lambda found: all_of(any_of(test(value) for value in found) for test in tests))

    def has_only(self, parts: list[Any]) -> Term:
        values, tests = list_of(parts[0]), self._item_tests(*parts)
        return over_list(values, lambda found: all_of(any_of(test(value) for test in tests) for value in found))

    def length(self, parts: list[Any]) -> Term:
        prop, number = parts[0], _integer(parts[-1])
        compare = OPERATORS[str(parts[1]) if len(parts) == 3 else "="]
        return over_list(list_of(prop), lambda found: compare(len(found), number))

    def zipped(self, parts: list[Item]) -> list[Item]:
        return parts

    def correlated(self, parts: list[Any]) -> Term:
        raise NotImplementedResponse(detail="comparing lists item by item (list:list HAS value:value)")


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:  # Python reads no more than 4,300 digits
        raise BadRequest(
            detail=f"{text:.20}... has {len(text)} digits: a number of a filter has 4,300 at most"
        ) from None


class FilterReader:
    """Reads the filters of one kind of entry.

    Args:
        property_of: the property that a name, and the names inside it, stand for; raises BadRequest if there is none.
    """

    def __init__(self, property_of: Callable[[str, Sequence[str]], Property]) -> None:
        self._parser = Lark(_GRAMMAR, parser="lalr", maybe_placeholders=False)
        self._builder = _Builder(property_of)

    def read(self, text: str) -> Test:
        """The filter's truth for an entry.

        Raises:
            BadRequest: if it is no filter, names what is not there, or exceeds a limit.
            NotImplementedResponse: if it asks for what is optional and not done, or compares types that differ.
        """
        if len(text) > LENGTH_MAX:
            raise BadRequest(detail=f"the filter has {len(text)} characters, {LENGTH_MAX} at most are read")
        try:
            # All is read before any of it is judged: what is not in the language is that first.
            term = self._builder.transform(self._parser.parse(text))
        except UnexpectedInput as error:
            at_end = isinstance(error, UnexpectedToken) and error.token.type == "$END"
            where = "at its end" if at_end else f"at character {(error.pos_in_stream or 0) + 1}"
            raise BadRequest(detail=f"the filter is not in OPTIMADE's language {where}: {text:.200}") from None
        except VisitError as error:
            raise error.orig_exc from None
        except LarkError as error:
            raise BadRequest(detail=f"the filter is not in OPTIMADE's language: {error!s:.200}") from None
        test: Test = term.holds
        return test
