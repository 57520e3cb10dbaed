"""AFLUX's language of conditions: what of a run's filters is asked of AFLOW, and how a user's own conditions are read.

A keyword with a condition in parentheses restricts, a bare one is only returned; in a condition ',' is AND, ':' is OR,
'4*' is "from 4", '*60' is "up to 60".

AFLUX cannot ask for "made of these elements or some of them", so a chemical system is asked leg by leg, one leg per
subset: 'species(Ta),nspecies(1)', 'species(Ta,W),nspecies(2)', ...
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb

from pymatgen.core.composition import Composition

from generative.datasets.config import FilterConfig
from generative.datasets.sources import SourceError

LEGS_MAX = 127
"""Most subsets asked one by one: those of seven elements. Each costs at least one request."""

_DIRECTIVES = frozenset({"paging", "format", "help", "schema"})
_KEYWORD = re.compile(r"!?([A-Za-z][A-Za-z0-9_]*)(\(.*\))?")


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
        return ({"nspecies": f"nspecies({range_text(n_min, n_max)})"},)
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


def range_text(low: int | None, high: int | None) -> str:
    """AFLUX's form of low <= value <= high; at least one is not None."""
    if low == high:
        return str(low)
    return ",".join([f"{low}*"] * (low is not None) + [f"*{high}"] * (high is not None))


def matchbook(conditions: Mapping[str, str], fields: Sequence[str]) -> str:
    """`auid` first, for the order of the records; then conditions; then what is to be returned besides."""
    return ",".join(
        {"auid": "auid", **conditions, **{name: name for name in fields if name not in conditions}}.values()
    )
