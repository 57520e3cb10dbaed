"""The plan of inequivalent sites, as in arXiv:2310.10695."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from generative.config import MAX_ATOMS, ConditionsConfig
from generative.plans.formulas import PlanError, listed_formulas, text_of
from generative.requests import Formula, Request, atomic_number

SITES_MAX = 4
"""Inequivalent sites of a crystal that policy 'sites' asks for by itself, as in arXiv:2310.10695."""


COMMON_GROUPS = (
    62, 194, 139, 63, 166, 123, 148, 164, 156, 129, 189, 160, 61, 33, 71, 146, 225, 221, 216, 227, 198, 223, 205, 229,
    230, 204, 220, 217, 218, 206, 212, 200,
)  # fmt: skip
"""The 32 groups in which the code of arXiv:2310.10695 looks for new compounds, in its order."""


def requests_for_sites(config: ConditionsConfig, elements: Sequence[str]) -> list[Request]:
    """One request for each formula and space group, formulas in turn first. Raises: PlanError: if one cannot be asked
    for, or there is none.
    """
    formulas = list(dict.fromkeys(listed_formulas(config, elements))) or _few_sites(config, elements)
    for formula in formulas:
        if (n := sum(n for _, n in formula)) > MAX_ATOMS:
            raise PlanError(
                f"conditions.formulas names {text_of(formula)}, {n} inequivalent sites: expected at most {MAX_ATOMS}"
            )
    energy = config.formation_energy_ev_per_atom
    groups = COMMON_GROUPS if config.spacegroup is None else (config.spacegroup,)
    return [Request((), group, energy, sites=formula) for group in groups for formula in formulas]


def _few_sites(config: ConditionsConfig, elements: Sequence[str]) -> list[Formula]:
    """One or two sites of each element, at most SITES_MAX. Raises: PlanError: if more elements are asked for."""
    symbols = sorted(set(elements), key=atomic_number)
    fewest, most = config.n_elements(len(symbols))
    found = [
        tuple(zip(chosen, counts, strict=True))
        for k in range(fewest, most + 1)
        for chosen in itertools.combinations(symbols, k)
        for counts in sorted(itertools.product((1, 2), repeat=k), key=lambda counts: (sum(counts), counts))
        if sum(counts) <= SITES_MAX
    ]
    if not found:
        raise PlanError(
            f"no {fewest} to {most} of {'-'.join(symbols)} have at most {SITES_MAX} "
            "sites together: list conditions.formulas, or change conditions.n_elements_min or conditions.n_elements_max"
        )
    return found
