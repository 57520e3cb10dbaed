"""Settings as a filter in the OPTIMADE language, from operators that every provider must support.

`elements HAS ONLY` would say most of it in one clause, but the standard leaves it to the provider and most refuse it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import combinations
from math import gcd

from generative.config import ELEMENTS
from generative.datasets.config import FilterConfig, OptimadeSource
from generative.datasets.databases.errors import RefusedQueryError

SUBSETS_MAX_ELEMENTS = 6
"""Largest chemical system asked for by its subsets: 63 clauses, 4 kB as an address. Larger ones are asked for by the
elements that must not occur, 1 kB whatever the size, which costs a database more."""


def filter_text(config: OptimadeSource, filters: FilterConfig, elements: Sequence[str] | None) -> str:
    """The filter of a source; empty if everything is wanted.

    Args:
        config: bounds on sites, and `where`.
        filters: elements, their number and formulas are sent; the rest is for the finished table.
        elements: the run's chemical system, any subset of which matches; None is no condition.

    Raises:
        RefusedQueryError: if nothing can match, a formula is none, or `where` is not in the OPTIMADE language.
    """
    n_min, n_max = filters.n_elements_min, filters.n_elements_max
    allowed = _allowed(filters.elements, elements)
    clauses = []
    if allowed is not None and len(allowed) <= SUBSETS_MAX_ELEMENTS:
        clauses.append(_subsets(allowed, n_min, n_max))
    else:
        if allowed is not None:
            others = [symbol for symbol in ELEMENTS if symbol not in allowed]
            clauses.append(f"NOT (elements HAS ANY {_listed(others)})")
        clauses += _range("nelements", n_min if n_min > 1 else None, n_max if n_max < _N_ELEMENTS_MAX else None)
    clauses += _range("nsites", config.n_sites_min, config.n_sites_max)
    if filters.formulas is not None:
        clauses.append(_any(f"chemical_formula_reduced={_quoted(_reduced(text))}" for text in filters.formulas))
    if config.where is not None:
        _require_filter(config.where)
        clauses.append(f"({config.where})")
    return " AND ".join(clauses)


def filter_of_ids(ids: Sequence[str]) -> str:
    """The filter that exactly these ids match; at least one."""
    return _any(f"id={_quoted(one)}" for one in ids)


# Beyond the default no crystal is cut off, so the condition would only cost the database.
_N_ELEMENTS_MAX = int(FilterConfig.model_fields["n_elements_max"].default)


def _allowed(first: Sequence[str] | None, second: Sequence[str] | None) -> tuple[str, ...] | None:
    if first is None or second is None:
        either = first if second is None else second
        return None if either is None else tuple(sorted(set(either)))
    both = tuple(sorted(set(first) & set(second)))
    if not both:
        raise RefusedQueryError(
            f"the chemical system {'-'.join(sorted(second))} and data.filters.elements {'-'.join(sorted(first))} share "
            "no element: nothing can match, so widen one of them"
        )
    return both


def _subsets(elements: Sequence[str], n_min: int, n_max: int) -> str:
    clauses = []
    for n in range(n_min, min(n_max, len(elements)) + 1):
        if n == 1:
            clauses.append(f"(nelements=1 AND elements HAS ANY {_listed(elements)})")
        else:
            inside = _any(f"elements HAS ALL {_listed(subset)}" for subset in combinations(elements, n))
            clauses.append(f"(nelements={n} AND {inside})")
    if not clauses:
        raise RefusedQueryError(
            f"n_elements_min is {n_min} in the chemical system {'-'.join(elements)}: nothing can match, expected at "
            f"most {len(elements)}"
        )
    return clauses[0] if len(clauses) == 1 else f"({' OR '.join(clauses)})"


def _range(name: str, low: int | None, high: int | None) -> list[str]:
    return [f"{name}{sign}{value}" for sign, value in ((">=", low), ("<=", high)) if value is not None]


def _any(clauses: Iterable[str]) -> str:
    every = tuple(dict.fromkeys(clauses))
    return every[0] if len(every) == 1 else f"({' OR '.join(every)})"


def _listed(symbols: Iterable[str]) -> str:
    return ",".join(map(_quoted, symbols))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _reduced(formula: str) -> str:
    """The formula as the standard writes it: symbols in alphabetic order, no common divisor, no 1. 'TiB2' -> 'B2Ti'."""
    from pymatgen.core.composition import Composition

    try:
        counts = {str(element): float(n) for element, n in Composition(formula).items()}
    except ValueError:
        counts = {}
    if not counts or not all(n.is_integer() and n > 0 for n in counts.values()):
        raise RefusedQueryError(f"data.filters.formulas has {formula!r}: expected a formula such as 'TiO2'")
    divisor = reduce(gcd, map(int, counts.values()))
    parts = sorted((symbol, int(n) // divisor) for symbol, n in counts.items())
    return "".join(symbol + (str(n) if n > 1 else "") for symbol, n in parts)


def _require_filter(where: str) -> None:
    from optimade.exceptions import BadRequest
    from optimade.filterparser import LarkParser

    try:
        LarkParser().parse(where if where.strip() else "(")  # the grammar takes an empty filter, `where` shall not be
    except BadRequest as error:
        column = getattr(error.__cause__, "column", None)
        place = f"at character {column}" if isinstance(column, int) and column > 0 else "at its end"
        raise RefusedQueryError(
            f"where is {where!r}, which is not in the OPTIMADE language {place}: expected a filter such as "
            "'nelements=2 AND elements HAS \"Ta\"'"
        ) from None
