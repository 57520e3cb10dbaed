"""Which chemical systems a campaign works on: those named, and those of a rule."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations, product

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.campaign import CampaignConfig, SystemsRule, elements_of_system

MOST_COMBINATIONS = 2_000_000
"""Put together from lists before filters."""


class CampaignError(ValueError):
    """A campaign that cannot be begun as asked; the message says which setting to change."""


def known_formulas(dataset: pa.Table) -> Counter[str]:
    """How many formulas of each chemical system a dataset knows, by elements joined by '-'.

    Args:
        dataset: columns chemsys and formula.
    """
    pairs = dataset.select(["chemsys", "formula"]).group_by(["chemsys", "formula"]).aggregate([])
    return Counter(pairs.column("chemsys").to_pylist())


def elements_known(dataset: pa.Table) -> tuple[str, ...]:
    """Elements of which the dataset has a crystal, without which a system has no hull; alphabetically."""
    return tuple(sorted(s for s in pc.unique(dataset.column("chemsys")).to_pylist() if "-" not in s))


def systems_of(config: CampaignConfig, dataset: pa.Table) -> list[tuple[str, ...]]:
    """Elements of each system: those named in their order, then those of the rule in alphabetic order.

    Args:
        config: of the campaign.
        dataset: known crystals, columns chemsys and formula.

    Raises: CampaignError: if there is none, or the rule's lists are too long.
    """
    found = dict.fromkeys(elements_of_system(system) for system in config.systems)
    if config.rule is not None:
        passed = sorted(rule_systems(config.rule, config.conditions.formula_atoms_max, dataset))
        passed = [system for system in passed if system not in found]
        if config.rule.n_systems is not None:
            order = np.random.default_rng(config.seed).permutation(len(passed))[: config.rule.n_systems]
            passed = [passed[i] for i in sorted(order)]
        found |= dict.fromkeys(passed)
    if not found:
        raise CampaignError("no chemical system passes the filters of rule: widen its lists or its filters")
    return list(found)


def rule_systems(rule: SystemsRule, formula_atoms_max: int, dataset: pa.Table) -> Iterator[tuple[str, ...]]:
    """Every system of the rule, elements in alphabetic order, each once.

    Args:
        rule: lists and filters.
        formula_atoms_max: most atoms of a formula that is to be charge balanced.
        dataset: known crystals.

    Raises: CampaignError: if the lists are too long.
    """
    known = known_formulas(dataset)
    lists = [sorted(set(one.elements)) or list(elements_known(dataset)) for one in rule.lists]
    n = math.prod(math.comb(len(symbols), one.n) for symbols, one in zip(lists, rule.lists, strict=True))
    if n > MOST_COMBINATIONS:
        raise CampaignError(f"rule.lists make {n:,} systems, expected at most {MOST_COMBINATIONS:,}: shorten them")
    chosen = [combinations(symbols, one.n) for symbols, one in zip(lists, rule.lists, strict=True)]
    seen: set[tuple[str, ...]] = set()
    for parts in product(*chosen):
        system = tuple(sorted(symbol for part in parts for symbol in part))
        if len(set(system)) == len(system) and system not in seen:
            seen.add(system)
            if _passes(system, rule, formula_atoms_max, known):
                yield system


def _passes(system: tuple[str, ...], rule: SystemsRule, formula_atoms_max: int, known: Mapping[str, int]) -> bool:
    n_known = known.get("-".join(system), 0)
    if n_known < rule.known_formulas_min or (rule.known_formulas_max is not None and n_known > rule.known_formulas_max):
        return False
    if (rule.electronegativity_range_min, rule.electronegativity_range_max) != (0.0, 4.0):
        spread = electronegativity_range(system)
        if not rule.electronegativity_range_min <= spread <= rule.electronegativity_range_max:  # NaN passes nothing
            return False
    return not rule.charge_balanced or can_balance(system, formula_atoms_max)


def electronegativity_range(system: Sequence[str]) -> float:
    """Largest less smallest Pauling electronegativity; NaN if an element has none."""
    values = [_electronegativity(symbol) for symbol in system]
    return max(values) - min(values) if not any(map(math.isnan, values)) else math.nan


@lru_cache(maxsize=128)
def _electronegativity(symbol: str) -> float:
    from pymatgen.core.periodic_table import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an element without one
        return float(Element(symbol).X)


def can_balance(system: Sequence[str], formula_atoms_max: int) -> bool:
    """Whether SMACT balances some formula of all these elements with at most so many atoms."""
    from generative.plans.formulas import enumerate_formulas
    from generative.screening.composition import check

    n = len(system)
    return any(check(dict(formula)).valid for formula in enumerate_formulas(system, n, n, formula_atoms_max))
