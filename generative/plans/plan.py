"""The requests of a run: a plan, one request per candidate.

A plan is a fixed infinite sequence cut off at the number of candidates: candidate i asks the same thing however many
follow, so chunks can be sampled apart and runs extended.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from generative.config import ConditionsConfig
from generative.plans.cells import cells_of, say_cells
from generative.plans.formulas import PlanError
from generative.plans.sites import requests_for_sites
from generative.plans.turns import turns
from generative.requests import Formula, Request, atomic_number

logger = logging.getLogger(__name__)

FORMULA_UNIT_WEIGHTS = {1: 8.0, 2: 7.0, 3: 1.0, 4: 4.0, 6: 0.5, 8: 0.5}
"""How often a cell holds so many formula units. Rounded from the primitive cells of formulas of 2 to 8 atoms in
mp_20_biternary (validation and test part) and mpts_52 (validation part), cells of up to 20 atoms: of 13,200, 43 % hold
one formula unit, 38 % two, 3 % three, 16 % four (a third where four fit into 20 atoms), all others together 1 %."""


OTHER_FORMULA_UNITS_WEIGHT = 0.1


RIGHT_AT = (0.73, 0.06, 0.03, 0.025, 0.015)
"""How often answer number t to a composition is the right one, for policy 'likely'. Of `wyckoff` on MP-20 the first
signature (73 %) and one of the first five (86 %) are measured (docs/wyckoff.md); the shares between are estimates."""


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
        return list(itertools.islice(itertools.cycle(requests_for_sites(config, elements)), n_candidates))
    weights, units = cells_of(config, tuple(elements), tuple(training_formulas))
    formulas = list(weights)
    if config.policy == "likely":
        return list(itertools.islice(_likely(config, units), n_candidates))
    if config.policy == "grid":
        cells = {formula: tuple((symbol, n * units[formula][0]) for symbol, n in formula) for formula in formulas}
        return list(itertools.islice(itertools.cycle(_grid(config, cells, hull_ev_per_atom)), n_candidates))
    random = np.random.default_rng(rng)
    phases = random.random(len(formulas))
    unit_phases = [random.random(len(units[formula])) for formula in formulas]
    formula_turns = turns([weights[formula] for formula in formulas], phases)
    unit_turns = [
        turns([FORMULA_UNIT_WEIGHTS.get(z, OTHER_FORMULA_UNITS_WEIGHT) for z in units[formula]], unit_phase)
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
        requests_for_sites(config, elements)
    elif config.policy not in ("training", "open"):
        _, units = cells_of(config, tuple(elements), ())
        if config.policy == "given":
            say_cells(config, elements, units)


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
