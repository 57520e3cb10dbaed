"""What of a run's filters the Materials Project's `summary` endpoint can apply itself, in its own parameters.

Its list parameters go into the address, so long lists cannot be sent; what is not sent is said in words, and the caller
applies it afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from pymatgen.core.composition import Composition

from generative.datasets.config import FilterConfig, MaterialsProjectSource
from generative.datasets.sources import SourceError

LIST_TEXT_MAX = 3500
"""Longest list of chemical systems or formulas sent, characters; servers refuse addresses beyond 4 to 8 kB."""

_SECRET_NAMES = re.compile("key|token|secret|passw|auth", re.IGNORECASE)


class Query(NamedTuple):
    """Parameters of the summary endpoint, and words for the filters that are not among them."""

    sent: dict[str, Any]
    unsent: tuple[str, ...]


def query_of(config: MaterialsProjectSource, filters: FilterConfig, elements: tuple[str, ...] | None) -> Query:
    """The query of a run, `config.where` included.

    Args:
        config: cell sizes, scheme of the energies, further conditions.
        filters: see `FilterConfig`; sizes of primitive cells and space groups are never sent.
        elements: chemical system of the run; None takes all.

    Raises:
        SourceError: if nothing can match, a formula is none, or `where` is not as `conditions` expects it.
    """
    sent: dict[str, Any] = {"deprecated": False}
    unsent: list[str] = []
    within = _within(elements, filters)
    systems = None if within is None else _systems(within, filters)
    if systems is not None:
        sent["chemsys"] = systems
    else:
        sent |= {"nelements_min": filters.n_elements_min, "nelements_max": filters.n_elements_max}
        if within is not None:
            # The API's 'exclude_elements' would say it, but takes 60 characters only.
            unsent.append(f"the chemical system {'-'.join(within)}")
    if filters.formulas is not None:
        formulas = ",".join(dict.fromkeys(map(_reduced, filters.formulas)))
        if len(formulas) <= LIST_TEXT_MAX:
            sent["formula"] = formulas
        else:
            unsent.append(f"the list of {len(filters.formulas)} formulas")
    if filters.e_above_hull_max_ev_per_atom is not None:
        if config.thermo_type == "GGA_GGA+U_R2SCAN":
            sent["energy_above_hull_max"] = filters.e_above_hull_max_ev_per_atom
        else:
            unsent.append("the energy above hull (the summary states that of the mixed scheme)")
    sizes = {"nsites_min": config.n_sites_min, "nsites_max": config.n_sites_max}
    sent |= {name: value for name, value in sizes.items() if value is not None}
    return Query(sent | conditions(config.where, sent), tuple(unsent))


def conditions(where: str | None, sent: Mapping[str, Any]) -> dict[str, str]:
    """Parameters of the summary endpoint that the user wrote as 'name=value&name=value'.

    Args:
        where: percent-encoded where needed; None has no condition.
        sent: parameters that are set already.

    Raises:
        SourceError: if it is no such list, gives a parameter twice, or names paging, fields or a key.
    """
    if where is None:
        return {}
    try:
        pairs = parse_qsl(where, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        raise SourceError(
            "where is no list of conditions: expected 'name=value' of the summary endpoint's parameters, joined by "
            "'&', such as 'is_metal=true&density_max=5'"
        ) from None
    names = [name for name, _ in pairs]
    for name in names:
        # Values stay out of messages: under a wrong name there may be a key.
        if name.startswith("_") or _SECRET_NAMES.search(name):
            raise SourceError(
                f"where contains {name!r}: expected conditions only; paging, fields and the key are sent without it"
            )
        if name in sent or names.count(name) > 1:
            owner = f"sent already, as {sent[name]!r}" if name in sent else "there twice"
            raise SourceError(f"where contains {name!r}, which is {owner}: expected each condition once")
    return dict(pairs)


def _within(elements: tuple[str, ...] | None, filters: FilterConfig) -> list[str] | None:
    """Elements that the run and its filters both allow, in alphabetic order; None if neither says."""
    both = [frozenset(some) for some in (elements, filters.elements) if some is not None]
    if not both:
        return None
    within = sorted(frozenset.intersection(*both))
    if len(within) < filters.n_elements_min:
        raise SourceError(
            f"the run's elements and filters.elements have {len(within)} in common ({', '.join(within) or 'none'}): "
            f"expected at least n_elements_min, {filters.n_elements_min}; widen one of them"
        )
    return within


def _systems(elements: Sequence[str], filters: FilterConfig) -> str | None:
    """All chemical systems of the allowed sizes, as the API lists them; None if the list is too long."""
    systems: list[str] = []
    length = 0
    for n_elements in range(filters.n_elements_min, min(filters.n_elements_max, len(elements)) + 1):
        for system in combinations(elements, n_elements):
            systems.append("-".join(system))
            length += len(systems[-1]) + 1
            if length > LIST_TEXT_MAX:
                return None
    return ",".join(systems)


def _reduced(formula: str) -> str:
    try:
        return str(Composition(formula).reduced_formula)
    except ValueError:
        raise SourceError(f"formulas contains {formula!r}: expected a reduced formula such as 'TiO2'") from None
