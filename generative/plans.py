"""The requests of a run: a plan, one request per candidate.

A plan is a fixed infinite sequence cut off at the number of candidates: candidate i asks the same thing however many
follow, so chunks can be sampled apart and runs extended.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

import numpy as np

from generative.config import ConditionsConfig
from generative.requests import Formula, Request, atomic_number, formula_from

MAX_FORMULAS = 200_000
"""Most stoichiometries enumerated: six elements up to 64 atoms would be some 100 million."""

FORMULA_UNIT_WEIGHTS = {1: 8.0, 2: 7.0, 3: 1.0, 4: 4.0, 6: 0.5, 8: 0.5}
"""How often a cell holds so many formula units. Rounded from the primitive cells of formulas of 2 to 8 atoms in
mp_20_biternary (validation and test part) and mpts_52 (validation part), cells of up to 20 atoms: of 13,200, 43 % hold
one formula unit, 38 % two, 3 % three, 16 % four (a third where four fit into 20 atoms), all others together 1 %."""

OTHER_FORMULA_UNITS_WEIGHT = 0.1


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


def plan(
    config: ConditionsConfig,
    elements: Sequence[str],
    n_candidates: int,
    rng: np.random.Generator | int,
    training_formulas: Sequence[str] = (),
    hull_ev_per_atom: Mapping[str, float] | None = None,
) -> list[Request]:
    """One request per candidate: a formula times a number of formula units, by the policy of the settings.

    Formulas come in turn, not by independent draws: formula f is due at times (k + u_f) / w_f for k = 0, 1, ... with
    u_f uniform in [0, 1) from `rng`, and the plan lists what is due in order of time. So after any number of candidates
    each formula has had its share to within one, and a shorter plan is a prefix of a longer one from the same seed. The
    numbers of formula units of each formula take turns the same way, by FORMULA_UNIT_WEIGHTS.

    Policy 'grid' asks every listed formula, in its smallest cell, in every space group at every energy, in turn and
    from the beginning again; it draws nothing.

    Weights w_f by policy: 'enumerate': (elements / atoms of the formula unit)^2, so 1 for 1:1:1, .56 for 2:1:1, .36 for
    five atoms, .14 for eight; real crystals fall off with about the fourth power (1,617 entries of 1:1:1 but 36 per
    formula of eight atoms among the ternaries counted for FORMULA_UNIT_WEIGHTS), and half that exponent leaves the
    rarer, less explored stoichiometries their turn. 'given': all equal. 'training': how often the formula occurs in
    `training_formulas`.

    Args:
        config: policy and limits; n_elements_* and formula_atoms_max bound the policy 'enumerate' only.
        elements: the chemical system.
        n_candidates: length of the plan.
        rng: generator or its seed; what is drawn from it does not depend on n_candidates.
        training_formulas: one formula per training crystal, for policy 'training'; those outside the chemical system
            are ignored.
        hull_ev_per_atom: formation energy of the hull by reduced formula, eV/atom, for policy 'grid' where its energies
            start there.

    Raises: PlanError: if no formula is left; the message says which limit emptied the list, and the remedy.
    """
    weights = _weights(config, elements, training_formulas)
    system = "-".join(sorted(set(elements)))
    if config.smact_filter:
        weights = _charge_balanced(weights, system)
    units = {formula: _formula_units(formula, config) for formula in weights}
    misfits = [formula for formula, choices in units.items() if not choices]
    if misfits and (config.policy in ("given", "grid") or len(misfits) == len(weights)):
        raise PlanError(
            f"no whole number of formula units of {_text(misfits[0])} has {config.n_atoms_min} to {config.n_atoms_max} "
            "atoms: change conditions.n_atoms_min or conditions.n_atoms_max"
        )
    formulas = [formula for formula in weights if units[formula]]
    if config.policy == "grid":
        cells = {formula: tuple((symbol, n * units[formula][0]) for symbol, n in formula) for formula in formulas}
        return list(itertools.islice(itertools.cycle(_grid(config, cells, hull_ev_per_atom)), n_candidates))
    random = np.random.default_rng(rng)
    phases = random.random(len(formulas))
    unit_phases = [random.random(len(units[formula])) for formula in formulas]
    formula_turns = _turns([weights[formula] for formula in formulas], phases)
    unit_turns = [
        _turns([FORMULA_UNIT_WEIGHTS.get(z, OTHER_FORMULA_UNITS_WEIGHT) for z in units[formula]], unit_phase)
        for formula, unit_phase in zip(formulas, unit_phases, strict=True)
    ]
    made: dict[tuple[int, int], Request] = {}  # a plan of a million holds few distinct requests
    requests = []
    for index in itertools.islice(formula_turns, n_candidates):
        z = units[formulas[index]][next(unit_turns[index])]
        if (index, z) not in made:
            made[index, z] = Request(
                tuple((symbol, n * z) for symbol, n in formulas[index]),
                config.spacegroup,
                config.formation_energy_ev_per_atom,
            )
        requests.append(made[index, z])
    return requests


def share_out(n: int, shares: Sequence[float]) -> list[list[int]]:
    """Places 0 to n - 1 shared out, such that every beginning is: after any number of places each has its share of
    them, rounded down or up.

    The quota method: a place goes to the one with the most share per place it would then have, of those that this does
    not lift above their share of the places so far, rounded up; to the first of several alike (M. L. Balinski,
    H. P. Young, Am. Math. Mon. 82, 701, 1975).

    Args:
        n: places.
        shares: above 0; their sum is the whole. Taken as they are written, so that 0.1 is a tenth.

    Returns: places of each, ascending; those of a smaller n are their beginnings.
    """
    parts = [Fraction(str(share)) for share in shares]
    scale = math.lcm(*(part.denominator for part in parts))
    weights = [int(part * scale) for part in parts]
    whole = sum(weights)
    places: list[list[int]] = [[] for _ in weights]
    for place in range(n):
        open_to = [i for i, w in enumerate(weights) if len(places[i]) * whole < w * (place + 1)]
        first = min(open_to, key=lambda i: Fraction(len(places[i]) + 1, weights[i]))
        places[first].append(place)
    return places


def _grid(
    config: ConditionsConfig, cells: Mapping[Formula, Formula], hull_ev_per_atom: Mapping[str, float] | None
) -> list[Request]:
    """Every formula in every space group at every energy; formulas take turns first, energies last.

    Raises: PlanError: if the energies start at the hull, and it is not known at a formula.
    """
    grid = config.grid
    first: dict[Formula, float] = {}
    if grid.n_energies:
        for formula, cell in cells.items():
            start, named = grid.energy_from_ev_per_atom, Request(cell).reduced_formula
            if start is None:
                start = (hull_ev_per_atom or {}).get(named)
            if start is None:
                raise PlanError(
                    f"conditions.grid.energy_from_ev_per_atom is null, but the known crystals give no hull at "
                    f"{named}: name an energy, or add crystals with formation energies to data.sources"
                )
            first[formula] = start + grid.energy_offset_ev_per_atom
    steps: Sequence[int | None] = range(grid.n_energies) if grid.n_energies else [None]
    return [
        Request(
            cell,
            spacegroup,
            # Rounded, so that a request's digest does not hang on the last bits of a hull.
            None if step is None else round(first[formula] + step * grid.energy_step_ev_per_atom, 6),
        )
        for step in steps
        for spacegroup in (grid.spacegroups or (config.spacegroup,))
        for formula, cell in cells.items()
    ]


def _weights(
    config: ConditionsConfig, elements: Sequence[str], training_formulas: Sequence[str]
) -> dict[Formula, float]:
    """Reduced formulas of the policy with their weights, in a deterministic order.

    Raises: PlanError: if the policy yields none.
    """
    system = set(elements)
    named = "-".join(sorted(system))
    if config.policy == "enumerate":
        formulas = enumerate_formulas(elements, config.n_elements_min, config.n_elements_max, config.formula_atoms_max)
        if not formulas:
            raise PlanError(
                f"no formula of {named} has {config.n_elements_min} to {config.n_elements_max} elements and at most "
                f"{config.formula_atoms_max} atoms: change conditions.n_elements_min or conditions.formula_atoms_max"
            )
        return {formula: (len(formula) / sum(n for _, n in formula)) ** 2 for formula in formulas}
    if config.policy in ("given", "grid"):
        given = [(text, _parse(text)) for text in config.formulas]
        for text, formula in given:
            outside = [symbol for symbol, _ in formula if symbol not in system]
            if outside:
                raise PlanError(
                    f"conditions.formulas names {text!r}, but {outside[0]} is not in the chemical system {named}: "
                    "add it to elements or drop the formula"
                )
        return {formula: 1.0 for _, formula in given}
    if config.policy == "training":
        # A training set repeats few formulas many times, so each text is parsed once.
        texts = sorted(Counter(training_formulas).items())
        tally: Counter[Formula] = Counter()
        for text, n in texts:
            formula = _parse(text)
            if all(symbol in system for symbol, _ in formula):
                tally[formula] += n
        if not tally:
            raise PlanError(
                f"none of the {len(training_formulas):,} training crystals lies in {named}: "
                "use conditions.policy 'enumerate' or 'given'"
            )
        return {formula: float(n) for formula, n in sorted(tally.items(), key=lambda item: _rank(item[0]))}
    raise PlanError(f"conditions.policy is {config.policy!r}: expected 'enumerate', 'given', 'grid' or 'training'")


def _charge_balanced(weights: dict[Formula, float], system: str) -> dict[Formula, float]:
    """The formulas that SMACT accepts. Raises: PlanError: if it refuses all."""
    from generative.screening import composition

    kept = {formula: weight for formula, weight in weights.items() if composition.check(dict(formula)).valid}
    if not kept:
        raise PlanError(
            f"conditions.smact_filter refused all {len(weights)} formulas of {system}, such as "
            f"{_text(next(iter(weights)))}: set it to false (charge balance refuses real borides and intermetallics "
            "too), or raise conditions.formula_atoms_max"
        )
    return kept


def _formula_units(formula: Formula, config: ConditionsConfig) -> list[int]:
    """Numbers of formula units whose cell keeps within the limits on atoms, ascending."""
    size = sum(n for _, n in formula)
    return list(range(-(-config.n_atoms_min // size), config.n_atoms_max // size + 1))


def _turns(weights: Sequence[float], phases: np.ndarray) -> Iterator[int]:
    """Endless sequence of indices in which index i is due at times (k + phases[i]) / weights[i], k = 0, 1, ..."""
    due = [(float(phases[index]) / weight, index, 0) for index, weight in enumerate(weights)]
    heapq.heapify(due)
    while True:
        _, index, k = due[0]
        yield index
        # From k, not by adding up: the time of a turn must not depend on rounding in the turns before.
        heapq.heapreplace(due, ((k + 1 + float(phases[index])) / weights[index], index, k + 1))


def _compositions(total: int, n_parts: int) -> list[tuple[int, ...]]:
    """All ways to write `total` as an ordered sum of `n_parts` positive whole numbers, in ascending order."""
    cuts = itertools.combinations(range(1, total), n_parts - 1)
    return [tuple(b - a for a, b in itertools.pairwise((0, *cut, total))) for cut in cuts]


def _parse(text: str) -> Formula:
    """The reduced formula that a text such as 'Ta2BW' or 'Al2 N2' means.

    Raises: PlanError: if it is not a formula of whole numbers.
    """
    from pymatgen.core.composition import Composition

    try:
        counts = {str(element): n for element, n in Composition(text).get_el_amt_dict().items()}
        if not counts or any(n != int(n) for n in counts.values()):
            raise ValueError("counts must be whole numbers")
        formula = formula_from({symbol: int(n) for symbol, n in counts.items()})
    except ValueError as error:
        raise PlanError(f"{text!r} is not a formula such as 'Ta2BW': {' '.join(str(error).split())}") from None
    divisor = math.gcd(*(n for _, n in formula))
    return tuple((symbol, n // divisor) for symbol, n in formula)


def _rank(formula: Formula) -> tuple[int, int, list[int], list[int]]:
    """Sort key: number of elements, atoms, atomic numbers, counts."""
    return len(formula), sum(n for _, n in formula), [atomic_number(s) for s, _ in formula], [n for _, n in formula]


def _text(formula: Formula) -> str:
    return "".join(symbol + (str(n) if n > 1 else "") for symbol, n in formula)
