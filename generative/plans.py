"""The requests of a run: a plan, one request per candidate.

A plan is a fixed infinite sequence cut off at the number of candidates: candidate i asks the same thing however many
follow, so chunks can be sampled apart and runs extended.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

import numpy as np

from generative.config import MAX_ATOMS, ConditionsConfig
from generative.requests import Formula, Request, atomic_number, formula_from

logger = logging.getLogger(__name__)

MAX_FORMULAS = 200_000
"""Most stoichiometries enumerated: six elements up to 64 atoms would be some 100 million."""

FORMULA_UNIT_WEIGHTS = {1: 8.0, 2: 7.0, 3: 1.0, 4: 4.0, 6: 0.5, 8: 0.5}
"""How often a cell holds so many formula units. Rounded from the primitive cells of formulas of 2 to 8 atoms in
mp_20_biternary (validation and test part) and mpts_52 (validation part), cells of up to 20 atoms: of 13,200, 43 % hold
one formula unit, 38 % two, 3 % three, 16 % four (a third where four fit into 20 atoms), all others together 1 %."""

OTHER_FORMULA_UNITS_WEIGHT = 0.1

RIGHT_AT = (0.73, 0.06, 0.03, 0.025, 0.015)
"""How often answer number t to a composition is the right one, for policy 'likely'. Of `wyckoff` on MP-20 the first
signature (73 %) and one of the first five (86 %) are measured (docs/wyckoff.md); the shares between are estimates."""


SITES_MAX = 4
"""Inequivalent sites of a crystal that policy 'sites' asks for by itself, as in arXiv:2310.10695."""

COMMON_GROUPS = (
    62, 194, 139, 63, 166, 123, 148, 164, 156, 129, 189, 160, 61, 33, 71, 146, 225, 221, 216, 227, 198, 223, 205, 229,
    230, 204, 220, 217, 218, 206, 212, 200,
)  # fmt: skip
"""The 32 groups in which the code of arXiv:2310.10695 looks for new compounds, in its order."""


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

    Policy 'likely' asks what is expected to yield most, of the cells of the formulas that 'enumerate' would take:
    request t for cell c comes in descending order of p(c) RIGHT_AT[t]. p(c) is the probability that a known crystal of
    these elements has this cell (composition_odds/model.py), every set of elements having an equal part. It draws
    nothing. Of 2,325 stable ternaries of unseen formulas 67.6 +- 1.0 % are among its first 8 requests, 3.9 % among
    those of 'enumerate' (docs/generator.md).

    In a space group, cells that none of its crystals can have (crystal/occupancy.py) are not asked for, but by 'grid',
    whose order is what it is for.

    Policy 'sites' asks every listed formula in turn, its numbers read as inequivalent sites. How many atoms they stand
    for is left to the generator, so limits on atoms have no effect; every space group can hold them, on its general
    position if on no other. Without formulas it asks what most crystals are, one or two sites of each element and at
    most SITES_MAX; without a space group every one of these in each of COMMON_GROUPS. It draws nothing.

    Policy 'open' asks for no composition: the same request for all, of energy, space group and targets alone.

    Weights w_f by policy: 'enumerate': (elements / atoms of the formula unit)^2, so 1 for 1:1:1, .56 for 2:1:1, .36 for
    five atoms, .14 for eight; real crystals fall off with about the fourth power (1,617 entries of 1:1:1 but 36 per
    formula of eight atoms among the ternaries counted for FORMULA_UNIT_WEIGHTS), and half that exponent leaves the
    rarer, less explored stoichiometries their turn. 'given': all equal. 'training': how often the formula occurs in
    `training_formulas`.

    Args:
        config: policy and limits; n_elements_* and formula_atoms_max bound the policies 'enumerate' and 'likely' only.
        elements: the chemical system.
        n_candidates: length of the plan.
        rng: generator or its seed; what is drawn from it does not depend on n_candidates.
        training_formulas: one formula per training crystal, for policy 'training'; those outside the chemical system
            are ignored.
        hull_ev_per_atom: formation energy of the hull by reduced formula, eV/atom, for policy 'grid' where its energies
            start there.

    Raises: PlanError: if no formula is left; the message says which limit emptied the list, and the remedy.
    """
    asked = _without_targets(config, elements, n_candidates, rng, training_formulas, hull_ev_per_atom)
    if not config.targets:
        return asked
    targets = tuple(sorted(config.numbers.items()))
    made = {request: replace(request, targets=targets) for request in dict.fromkeys(asked)}
    return [made[request] for request in asked]


def _without_targets(
    config: ConditionsConfig,
    elements: Sequence[str],
    n_candidates: int,
    rng: np.random.Generator | int,
    training_formulas: Sequence[str],
    hull_ev_per_atom: Mapping[str, float] | None,
) -> list[Request]:
    """The plan, before what is asked of all alike."""
    if config.policy == "open":
        return [Request((), config.spacegroup, config.formation_energy_ev_per_atom)] * n_candidates
    if config.policy == "sites":
        return list(itertools.islice(itertools.cycle(_for_sites(config, elements)), n_candidates))
    weights, units = _cells(config, tuple(elements), tuple(training_formulas))
    formulas = list(weights)
    if config.policy == "likely":
        return list(itertools.islice(_likely(config, units), n_candidates))
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


def check(config: ConditionsConfig, elements: Sequence[str]) -> None:
    """Find what leaves nothing to plan, as far as it can be known without the training crystals; say in the log where a
    limit keeps the elements from ever being asked for all together.

    Raises: PlanError: see plan.
    """
    n_elements = len(set(elements))
    n_min, n_max = config.n_elements(n_elements)
    if config.policy in ("enumerate", "likely") and n_max < n_elements:
        logger.warning(
            "no formula of all %d elements %s is asked for, but of %s of them at a time, for conditions.n_elements_max "
            "is %s: raise it to have larger ones, and lower conditions.n_elements_min to have smaller ones too",
            n_elements, "-".join(sorted(set(elements))), n_max if n_max == n_min else f"{n_min} to {n_max}",
            config.n_elements_max or f"null, which is {n_max}",
        )  # fmt: skip
    if config.policy == "sites":
        _for_sites(config, elements)
    elif config.policy not in ("training", "open"):
        _, units = _cells(config, tuple(elements), ())
        if config.policy == "given":
            _say_cells(config, elements, units)


def _say_cells(config: ConditionsConfig, elements: Sequence[str], units: Mapping[Formula, Sequence[int]]) -> None:
    """Say which cells of the listed formulas are asked for, aloud where what is written is none of them."""
    for formula in dict.fromkeys(_listed(config, elements)):
        reduced, written = _reduced(formula), sum(n for _, n in formula)
        size = sum(n for _, n in reduced)
        asked = [size * z for z in units[reduced]]
        level = logging.INFO if formula == reduced or written in asked else logging.WARNING
        logger.log(
            level,
            "%s is asked for in cells of %s atoms%s",
            _text(formula), ", ".join(map(str, asked)),
            "" if level == logging.INFO else f", not of {written}: conditions.n_atoms_max can be {MAX_ATOMS} at most"
            if written > MAX_ATOMS else f", not of {written}: see conditions.n_atoms_min, n_atoms_max and spacegroup",
        )  # fmt: skip


def _for_sites(config: ConditionsConfig, elements: Sequence[str]) -> list[Request]:
    """One request for each formula and space group, formulas in turn first. Raises: PlanError: if one cannot be asked
    for, or there is none.
    """
    formulas = list(dict.fromkeys(_listed(config, elements))) or _few_sites(config, elements)
    for formula in formulas:
        if (n := sum(n for _, n in formula)) > MAX_ATOMS:
            raise PlanError(
                f"conditions.formulas names {_text(formula)}, {n} inequivalent sites: expected at most {MAX_ATOMS}"
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


@lru_cache(maxsize=2)  # a run checks its plan, then makes it
def _cells(
    config: ConditionsConfig, elements: tuple[str, ...], training_formulas: tuple[str, ...]
) -> tuple[Mapping[Formula, float], Mapping[Formula, Sequence[int]]]:
    """Weight of every formula of the plan, and the numbers of formula units that its cells may hold."""
    weights = _weights(config, elements, training_formulas)
    if config.smact_filter:
        weights = _charge_balanced(weights, "-".join(sorted(set(elements))))
    most = _atoms_max(config, elements, weights)
    units = {formula: _formula_units(formula, config.n_atoms_min, most[formula]) for formula in weights}
    misfits = [formula for formula, choices in units.items() if not choices]
    if misfits and (config.policy in ("given", "grid") or len(misfits) == len(weights)):
        raise PlanError(
            f"no whole number of formula units of {_text(misfits[0])} has {config.n_atoms_min} to {most[misfits[0]]} "
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
        for formula in _listed(config, elements):
            reduced = _reduced(formula)
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
    who = _text(formula) if n_formulas == 1 else f"any of {n_formulas} formulas, such as {_text(formula)},"
    remedy = (
        f"no cell of up to {MAX_ATOMS} atoms can, so change conditions.spacegroup"
        if nearest is None
        else f"{nearest} atoms of {_text(formula)} can, so change conditions.n_atoms_min, conditions.n_atoms_max or "
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
            len(wrong), len(pairs), _text(wrong[0][1]), wrong[0][0],
        )  # fmt: skip


def _holds(spacegroup: int, formula: Formula, z: int) -> bool:
    from generative.crystal.occupancy import holds  # loads spglib and PyXtal: only where a space group is asked for

    return holds(spacegroup, [n * z for _, n in formula])


def _likely(config: ConditionsConfig, units: Mapping[Formula, Sequence[int]]) -> Iterator[Request]:
    """Endless requests in descending order of expected yield; of equal ones the smaller formula comes first."""
    from generative.composition_odds.model import CompositionOdds

    odds = CompositionOdds.load()
    cells: dict[tuple[str, ...], list[Formula]] = {}
    for formula, choices in units.items():
        symbols = tuple(symbol for symbol, _ in formula)
        cells.setdefault(symbols, []).extend(tuple((s, n * z) for s, n in formula) for z in choices)
    requests, chances = [], []
    for symbols, asked in cells.items():
        counts = np.array([[n for _, n in cell] for cell in asked])
        chances += np.exp(odds.log_probabilities([atomic_number(s) for s in symbols], counts)).tolist()
        requests += [Request(cell, config.spacegroup, config.formation_energy_ev_per_atom) for cell in asked]
    due = [(-chance * _right_at(0), index, 0) for index, chance in enumerate(chances)]
    heapq.heapify(due)
    while True:
        _, index, t = due[0]
        yield requests[index]
        heapq.heapreplace(due, (-chances[index] * _right_at(t + 1), index, t + 1))


def _right_at(t: int) -> float:
    """RIGHT_AT and beyond it, where nothing is measured, falling with the square, so that the tail adds up to 7 %."""
    return RIGHT_AT[t] if t < len(RIGHT_AT) else RIGHT_AT[-1] * (len(RIGHT_AT) / (t + 1)) ** 2


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
        return {_reduced(formula): 1.0 for formula in _listed(config, elements)}
    if config.policy == "training":
        # A training set repeats few formulas many times, so each text is parsed once.
        texts = sorted(Counter(training_formulas).items())
        tally: Counter[Formula] = Counter()
        for text, n in texts:
            formula = _reduced(_parse(text))
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


def _listed(config: ConditionsConfig, elements: Sequence[str]) -> list[Formula]:
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


def _formula_units(formula: Formula, n_atoms_min: int, n_atoms_max: int) -> Sequence[int]:
    """Numbers of formula units whose cell keeps within the limits on atoms, ascending."""
    size = sum(n for _, n in formula)
    return range(-(-n_atoms_min // size), n_atoms_max // size + 1)


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


def _reduced(formula: Formula) -> Formula:
    divisor = math.gcd(*(n for _, n in formula))
    return tuple((symbol, n // divisor) for symbol, n in formula)


def _rank(formula: Formula) -> tuple[int, int, list[int], list[int]]:
    """Sort key: number of elements, atoms, atomic numbers, counts."""
    return len(formula), sum(n for _, n in formula), [atomic_number(s) for s, _ in formula], [n for _, n in formula]


def _text(formula: Formula) -> str:
    return "".join(symbol + (str(n) if n > 1 else "") for symbol, n in formula)
