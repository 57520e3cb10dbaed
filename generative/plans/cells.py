"""Cells of a plan: how many formula units each formula may have, within the limits and in its space group."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from generative.config import MAX_ATOMS, ConditionsConfig
from generative.plans.formulas import PlanError, charge_balanced, listed_formulas, reduced_formula, text_of, weights_of
from generative.requests import Formula

logger = logging.getLogger(__name__)


def say_cells(config: ConditionsConfig, elements: Sequence[str], units: Mapping[Formula, Sequence[int]]) -> None:
    """Say which cells of the listed formulas are asked for, aloud where what is written is none of them."""
    for formula in dict.fromkeys(listed_formulas(config, elements)):
        reduced, written = reduced_formula(formula), sum(n for _, n in formula)
        size = sum(n for _, n in reduced)
        asked = [size * z for z in units[reduced]]
        level = logging.INFO if formula == reduced or written in asked else logging.WARNING
        logger.log(
            level,
            "%s is asked for in cells of %s atoms%s",
            text_of(formula), ", ".join(map(str, asked)),
            "" if level == logging.INFO else f", not of {written}: conditions.n_atoms_max can be {MAX_ATOMS} at most"
            if written > MAX_ATOMS else f", not of {written}: see conditions.n_atoms_min, n_atoms_max and spacegroup",
        )  # fmt: skip


@lru_cache(maxsize=2)  # a run checks its plan, then makes it
def cells_of(
    config: ConditionsConfig, elements: tuple[str, ...], training_formulas: tuple[str, ...]
) -> tuple[Mapping[Formula, float], Mapping[Formula, Sequence[int]]]:
    """Weight of every formula of the plan, and the numbers of formula units that its cells may hold."""
    weights = weights_of(config, elements, training_formulas)
    if config.smact_filter:
        weights = charge_balanced(weights, "-".join(sorted(set(elements))))
    most = _atoms_max(config, elements, weights)
    units = {formula: _formula_units(formula, config.n_atoms_min, most[formula]) for formula in weights}
    misfits = [formula for formula, choices in units.items() if not choices]
    if misfits and (config.policy in ("given", "grid") or len(misfits) == len(weights)):
        raise PlanError(
            f"no whole number of formula units of {text_of(misfits[0])} has {config.n_atoms_min} to {most[misfits[0]]} "
            "atoms: change conditions.n_atoms_min or conditions.n_atoms_max"
        )
    if config.policy == "grid":
        _check_grid(config, units, most)
    elif config.spacegroup is not None:
        units = _held(config, config.spacegroup, units, most)
    return {f: w for f, w in weights.items() if units[f]}, {f: choices for f, choices in units.items() if choices}


def _atoms_max(config: ConditionsConfig, elements: Sequence[str], formulas: Iterable[Formula]) -> dict[Formula, int]:
    """Most atoms in a cell of each reduced formula."""
    n_elements = len(set(elements))
    written: dict[Formula, int] = {}
    if config.policy in ("given", "grid"):
        for formula in listed_formulas(config, elements):
            reduced = reduced_formula(formula)
            written[reduced] = max(written.get(reduced, 0), sum(n for _, n in formula))
    return {
        formula: config.atoms_max(
            n_elements, (sum(n for _, n in formula), written[formula]) if formula in written else None
        )
        for formula in formulas
    }


def _held(
    config: ConditionsConfig,
    spacegroup: int,
    units: Mapping[Formula, Sequence[int]],
    atoms_max: Mapping[Formula, int],
) -> dict[Formula, Sequence[int]]:
    """Of the numbers of formula units those whose cells a crystal of the space group can have.

    Raises: PlanError: if a listed formula has none, or no formula has.
    """
    kept = {formula: [z for z in choices if _holds(spacegroup, formula, z)] for formula, choices in units.items()}
    without = [formula for formula, choices in units.items() if choices and not kept[formula]]
    n_kept, n_all = sum(map(len, kept.values())), sum(map(len, units.values()))
    if without and (config.policy == "given" or not n_kept):
        n_formulas = 1 if config.policy == "given" else len(without)
        raise PlanError(_no_cell(config, spacegroup, without[0], atoms_max[without[0]], n_formulas))
    if n_kept < n_all:
        logger.warning(
            "%d of %d cells are left out of the plan: no crystal of space group %d can hold their atoms",
            n_all - n_kept, n_all, spacegroup,
        )  # fmt: skip
    return {formula: tuple(choices) for formula, choices in kept.items()}


def _no_cell(config: ConditionsConfig, spacegroup: int, formula: Formula, n_atoms_max: int, n_formulas: int = 1) -> str:
    """The sentence on a formula, or several, without a cell of the space group within the limits."""
    size, limits = sum(n for _, n in formula), (config.n_atoms_min, n_atoms_max)
    do = [z * size for z in range(1, MAX_ATOMS // size + 1) if _holds(spacegroup, formula, z)]
    nearest = min(do, key=lambda n: max(limits[0] - n, n - limits[1]), default=None)
    who = text_of(formula) if n_formulas == 1 else f"any of {n_formulas} formulas, such as {text_of(formula)},"
    remedy = (
        f"no cell of up to {MAX_ATOMS} atoms can, so change conditions.spacegroup"
        if nearest is None
        else f"{nearest} atoms of {text_of(formula)} can, so change conditions.n_atoms_min, conditions.n_atoms_max or "
        "conditions.spacegroup"
    )
    return (
        f"no crystal of space group {spacegroup} can hold {who} in a cell of {limits[0]} to {limits[1]} atoms, by the "
        f"multiplicities of its Wyckoff positions: {remedy}"
    )


def _check_grid(
    config: ConditionsConfig, units: Mapping[Formula, Sequence[int]], atoms_max: Mapping[Formula, int]
) -> None:
    """Say how many cells of the grid no crystal of their space group can have. Raises: PlanError: if that is all."""
    groups = config.grid.spacegroups or ([] if config.spacegroup is None else [config.spacegroup])
    pairs = [(group, formula) for group in groups for formula in units]
    wrong = [(group, formula) for group, formula in pairs if not _holds(group, formula, units[formula][0])]
    if wrong and len(wrong) == len(pairs):
        raise PlanError(_no_cell(config, *wrong[0], atoms_max[wrong[0][1]]))
    if wrong:
        logger.warning(
            "%d of the %d pairs of formula and space group of conditions.grid can be no crystal, by the multiplicities "
            "of the Wyckoff positions: the first is %s in space group %d. They are asked for all the same, so that the "
            "grid keeps its order",
            len(wrong), len(pairs), text_of(wrong[0][1]), wrong[0][0],
        )  # fmt: skip


def _holds(spacegroup: int, formula: Formula, z: int) -> bool:
    from generative.crystal.occupancy import holds  # loads spglib and PyXtal: only where a space group is asked for

    return holds(spacegroup, [n * z for _, n in formula])


def _formula_units(formula: Formula, n_atoms_min: int, n_atoms_max: int) -> Sequence[int]:
    """Numbers of formula units whose cell keeps within the limits on atoms, ascending."""
    size = sum(n for _, n in formula)
    return range(-(-n_atoms_min // size), n_atoms_max // size + 1)
