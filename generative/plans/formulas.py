"""Formulas of a plan: those of a chemical system, those that are listed, and how often each comes."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

from generative.config import ConditionsConfig
from generative.requests import Formula, atomic_number, formula_from

MAX_FORMULAS = 200_000
"""Most stoichiometries enumerated: six elements up to 64 atoms would be some 100 million."""


class PlanError(ValueError):
    """Conditions that leave nothing to generate; the message says which setting to change."""


def enumerate_formulas(
    elements: Sequence[str], n_elements_min: int, n_elements_max: int, formula_atoms_max: int
) -> list[Formula]:
    """Every reduced stoichiometry (counts without a common divisor) of the elements, up to a size.

    Ordered by number of elements, then atoms, then atomic numbers, then counts; the order in which `elements` names
    them does not matter.

    Raises: PlanError: if there would be more than MAX_FORMULAS.
    """
    symbols = sorted(set(elements), key=atomic_number)
    sizes = range(n_elements_min, min(n_elements_max, len(symbols)) + 1)
    bound = sum(math.comb(len(symbols), k) * math.comb(formula_atoms_max, k) for k in sizes)
    if bound > MAX_FORMULAS:
        raise PlanError(
            f"conditions.formula_atoms_max {formula_atoms_max} gives up to {bound:,} formulas of {len(symbols)} "
            f"elements, expected at most {MAX_FORMULAS:,}: lower it, or lower conditions.n_elements_max"
        )
    formulas = []
    for k in sizes:
        for n_atoms in range(k, formula_atoms_max + 1):
            parts = [counts for counts in _compositions(n_atoms, k) if math.gcd(*counts) == 1]
            for chosen in itertools.combinations(symbols, k):
                formulas += [tuple(zip(chosen, counts, strict=True)) for counts in parts]
    return formulas


def weights_of(
    config: ConditionsConfig, elements: Sequence[str], training_formulas: Sequence[str]
) -> dict[Formula, float]:
    """Reduced formulas of the policy with their weights, in a deterministic order.

    Raises: PlanError: if the policy yields none.
    """
    system = set(elements)
    named = "-".join(sorted(system))
    if config.policy in ("enumerate", "likely"):
        fewest, most = config.n_elements(len(system))
        formulas = enumerate_formulas(elements, fewest, most, config.formula_atoms_max)
        if not formulas:
            raise PlanError(
                f"no formula of {named} has {fewest} to {most} elements and at most "
                f"{config.formula_atoms_max} atoms: change conditions.n_elements_min or conditions.formula_atoms_max"
            )
        return {formula: (len(formula) / sum(n for _, n in formula)) ** 2 for formula in formulas}
    if config.policy in ("given", "grid"):
        return {reduced_formula(formula): 1.0 for formula in listed_formulas(config, elements)}
    if config.policy == "training":
        # A training set repeats few formulas many times, so each text is parsed once.
        texts = sorted(Counter(training_formulas).items())
        tally: Counter[Formula] = Counter()
        for text, n in texts:
            formula = reduced_formula(_parse(text))
            if all(symbol in system for symbol, _ in formula):
                tally[formula] += n
        if not tally:
            raise PlanError(
                f"none of the {len(training_formulas):,} training crystals lies in {named}: "
                "use conditions.policy 'enumerate' or 'given'"
            )
        return {formula: float(n) for formula, n in sorted(tally.items(), key=lambda item: _rank(item[0]))}
    raise PlanError(
        f"conditions.policy is {config.policy!r}: expected 'enumerate', 'likely', 'given', 'grid', 'sites' or "
        "'training'"
    )


def listed_formulas(config: ConditionsConfig, elements: Sequence[str]) -> list[Formula]:
    """The listed formulas with their numbers as written.

    Raises: PlanError: if one is no formula, or names an element outside the chemical system.
    """
    given = [(text, _parse(text)) for text in config.formulas]
    for text, formula in given:
        outside = [symbol for symbol, _ in formula if symbol not in elements]
        if outside:
            raise PlanError(
                f"conditions.formulas names {text!r}, but {outside[0]} is not in the chemical system "
                f"{'-'.join(sorted(set(elements)))}: add it to elements or drop the formula"
            )
    return [formula for _, formula in given]


def charge_balanced(weights: dict[Formula, float], system: str) -> dict[Formula, float]:
    """The formulas that SMACT accepts. Raises: PlanError: if it refuses all."""
    from generative.screening import composition

    kept = {formula: weight for formula, weight in weights.items() if composition.check(dict(formula)).valid}
    if not kept:
        raise PlanError(
            f"conditions.smact_filter refused all {len(weights)} formulas of {system}, such as "
            f"{text_of(next(iter(weights)))}: set it to false (charge balance refuses real borides and intermetallics "
            "too), or raise conditions.formula_atoms_max"
        )
    return kept


def _compositions(total: int, n_parts: int) -> list[tuple[int, ...]]:
    """All ways to write `total` as an ordered sum of `n_parts` positive whole numbers, in ascending order."""
    cuts = itertools.combinations(range(1, total), n_parts - 1)
    return [tuple(b - a for a, b in itertools.pairwise((0, *cut, total))) for cut in cuts]


def _parse(text: str) -> Formula:
    """What a text such as 'Ta2BW' or 'Al2 N2' counts, as written.

    Raises: PlanError: if it is not a formula of whole numbers.
    """
    from pymatgen.core.composition import Composition

    try:
        counts = {str(element): n for element, n in Composition(text).get_el_amt_dict().items()}
        if not counts or any(n != int(n) for n in counts.values()):
            raise ValueError("counts must be whole numbers")
        return formula_from({symbol: int(n) for symbol, n in counts.items()})
    except ValueError as error:
        raise PlanError(f"{text!r} is not a formula such as 'Ta2BW': {' '.join(str(error).split())}") from None


def reduced_formula(formula: Formula) -> Formula:
    """The same without a common divisor of its numbers."""
    divisor = math.gcd(*(n for _, n in formula))
    return tuple((symbol, n // divisor) for symbol, n in formula)


def _rank(formula: Formula) -> tuple[int, int, list[int], list[int]]:
    """Sort key: number of elements, atoms, atomic numbers, counts."""
    return len(formula), sum(n for _, n in formula), [atomic_number(s) for s, _ in formula], [n for _, n in formula]


def text_of(formula: Formula) -> str:
    """As it is written, such as 'Ta2BW'."""
    return "".join(symbol + (str(n) if n > 1 else "") for symbol, n in formula)
