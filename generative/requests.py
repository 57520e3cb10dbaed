"""What can be asked of a generator: atoms, sites or elements of a crystal, its space group, its properties.

Nothing here needs torch; how a request is embedded is the networks' matter.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from generative.config import ELEMENTS
from storage.digests import text_digest

Formula = tuple[tuple[str, int], ...]
"""Element symbols with their counts, ordered by atomic number."""

_ATOMIC_NUMBER = {symbol: z for z, symbol in enumerate(ELEMENTS, start=1)}


Content = tuple[tuple[int, int], ...]
"""What a cell or a formula unit holds: (atomic number, atoms), ascending by atomic number."""

FORMATION_ENERGY = "formation_energy_ev_per_atom"
"""Target: formation energy from the elements, eV/atom."""


@dataclass(frozen=True)
class Request:
    """What one candidate is asked to be: its atoms or its elements, and optionally symmetry and properties.

    At most one of `formula_counts`, `sites` and `elements` is given; where none is, anything will do.

    Attributes:
        formula_counts: (element symbol, atoms) of the CELL, not of the formula unit, ordered by atomic number.
        spacegroup: international number, 1-230; None leaves it free.
        formation_energy_ev_per_atom: from the elements, eV/atom; None leaves it free.
        sites: (element symbol, inequivalent sites) in the cell, ordered by atomic number; how many atoms a site stands
            for is left to the generator. Needs a space group.
        elements: the chemical system, ordered by atomic number; its composition is left free.
        targets: (property, value) of further properties, ordered by name; units are part of the names, which are those
            of the dataset's columns, such as band_gap_ev.
        turn: how many requests for the same stand before it in the plan (turns_of): a generator that ranks its answers
            gives the next best; None: as they come in one call. No part of what is asked: it enters neither equality
            nor JSON, digest and ids.

    Raises: ValueError: if more than one of composition, sites and elements is given, one of them names an unknown
        element, repeats or misorders one, or holds a count below 1; if a target is not finite. Request.of takes counts
        in any order.
    """

    formula_counts: Formula = ()
    spacegroup: int | None = None
    formation_energy_ev_per_atom: float | None = None
    sites: Formula = ()
    elements: tuple[str, ...] = ()
    targets: tuple[tuple[str, float], ...] = ()
    turn: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name, counts in (("formula_counts", self.formula_counts), ("sites", self.sites)):
            if counts != formula_from(dict(counts)):
                raise ValueError(
                    f"{name} is {counts}: expected each element once, ordered by atomic number; build it with "
                    "Request.of or Request.for_sites"
                )
        if list(self.elements) != sorted(set(self.elements), key=atomic_number):
            raise ValueError(f"elements is {self.elements}: expected each once, ordered by atomic number")
        given = [name for name in ("formula_counts", "sites", "elements") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both given: expected a composition, sites or elements")
        if self.spacegroup is not None and not 1 <= self.spacegroup <= 230:
            raise ValueError(f"spacegroup is {self.spacegroup}: international numbers run from 1 to 230")
        if self.sites and self.spacegroup is None:
            raise ValueError(f"sites {self.sites} are asked for in no space group: expected a number from 1 to 230")
        names = [name for name, _ in self.targets]
        if names != sorted(set(names)) or FORMATION_ENERGY in names:
            raise ValueError(f"targets are {names}: expected each once, in order, and no {FORMATION_ENERGY}")
        if wrong := [(n, v) for n, v in self.all_targets.items() if not math.isfinite(v)]:
            raise ValueError(f"target {wrong[0][0]} is {wrong[0][1]}: expected a finite number")

    @classmethod
    def of(
        cls,
        counts: Mapping[str, int],
        spacegroup: int | None = None,
        formation_energy_ev_per_atom: float | None = None,
        targets: Mapping[str, float] | None = None,
    ) -> Request:
        """The request for a cell of these atoms per element symbol."""
        if not counts:
            raise ValueError("counts are empty: expected at least one element with its atoms; Request() asks nothing")
        further = tuple(sorted((targets or {}).items()))
        return cls(formula_from(counts), spacegroup, formation_energy_ev_per_atom, targets=further)

    @classmethod
    def for_atoms(
        cls,
        atomic_numbers: Iterable[int],
        spacegroup: int | None = None,
        formation_energy_ev_per_atom: float | None = None,
    ) -> Request:
        """The request for a cell of these atoms, in any order; of none, for any composition."""
        counts = Counter(symbol_of(int(z)) for z in atomic_numbers)
        return cls(formula_from(counts), spacegroup, formation_energy_ev_per_atom)

    @classmethod
    def for_sites(cls, counts: Mapping[str, int], spacegroup: int) -> Request:
        """The request for so many inequivalent sites of each element in a space group."""
        return cls(spacegroup=spacegroup, sites=formula_from(counts))

    @property
    def n_atoms(self) -> int:
        """Atoms in the cell; 0 where the composition is open."""
        return sum(n for _, n in self.formula_counts)

    @cached_property
    def atomic_numbers(self) -> tuple[int, ...]:
        """One per atom of the cell, ascending: atoms of one element stand together; empty for an open composition."""
        return tuple(z for z, n in self.content for _ in range(n))

    @cached_property
    def content(self) -> Content:
        """The atoms of the cell by element; empty where the composition is open."""
        return tuple((_ATOMIC_NUMBER[symbol], n) for symbol, n in self.formula_counts)

    @property
    def all_targets(self) -> dict[str, float]:
        """Every property that is asked for, by name; the formation energy among them."""
        energy = self.formation_energy_ev_per_atom
        return dict(self.targets) | ({} if energy is None else {FORMATION_ENERGY: energy})

    @property
    def asks(self) -> frozenset[str]:
        """What is asked, as generators name what they heed: composition, sites, elements, spacegroup, properties."""
        parts = {"composition": self.formula_counts, "sites": self.sites, "elements": self.elements}
        named = {name for name, value in parts.items() if value}
        return frozenset(named | set(self.all_targets) | ({"spacegroup"} if self.spacegroup is not None else set()))

    def heeded_by(self, heeds: frozenset[str]) -> tuple[object, ...]:
        """What is left of it for a generator that heeds these: equal where such a generator is asked for the same."""
        return (
            self.formula_counts if "composition" in heeds else (),
            self.sites if "sites" in heeds else (),
            self.elements if "elements" in heeds else (),
            self.spacegroup if "spacegroup" in heeds else None,
            *((name, value) for name, value in self.all_targets.items() if name in heeds),
        )

    @cached_property
    def reduced_formula(self) -> str:
        """As pymatgen writes it (electronegativity order), the same as the dataset table's column."""
        from pymatgen.core.composition import Composition  # 0.1 s: only when a name is asked for

        return str(Composition(dict(self.formula_counts)).reduced_formula)

    @property
    def chemsys(self) -> str:
        """Elements in alphabetic order joined by '-', such as 'B-Ta-W'."""
        return "-".join(sorted([*(symbol for symbol, _ in (*self.formula_counts, *self.sites)), *self.elements]))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the JSON form: equal exactly for equal requests."""
        return text_digest(self.to_json())

    def __str__(self) -> str:
        if self.formula_counts:
            what = "a cell of " + " ".join(f"{symbol}{n}" for symbol, n in self.formula_counts)
        elif self.sites:
            what = "a cell of inequivalent sites " + " ".join(f"{n} {symbol}" for symbol, n in self.sites)
        else:
            what = f"a crystal of {self.chemsys}" if self.elements else "any crystal"
        group = "" if self.spacegroup is None else f" in space group {self.spacegroup}"
        return what + group + "".join(f", {name} {value:g}" for name, value in self.all_targets.items())

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces. Sites, elements and further targets only where there are any: so
        requests keep the digests, and candidates the ids, that they had before these could be asked for.
        """
        form: dict[str, Any] = {
            "formula_counts": [list(pair) for pair in self.formula_counts],
            "spacegroup": self.spacegroup,
            "formation_energy_ev_per_atom": self.formation_energy_ev_per_atom,
        }
        if self.sites:
            form["sites"] = [list(pair) for pair in self.sites]
        if self.elements:
            form["elements"] = list(self.elements)
        if self.targets:
            form["targets"] = dict(self.targets)
        return json.dumps(form, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Request:
        """Inverse of to_json. Raises: KeyError, ValueError: if the text is not a request."""
        form: dict[str, Any] = json.loads(text)
        counts, sites = (
            tuple((str(symbol), int(n)) for symbol, n in form[name]) if name in form else ()
            for name in ("formula_counts", "sites")
        )
        return cls(
            counts,
            form["spacegroup"],
            form["formation_energy_ev_per_atom"],
            sites,
            tuple(form.get("elements", ())),
            tuple(sorted(form.get("targets", {}).items())),
        )


def turns_of(requests: Sequence[Request], heeds: frozenset[str]) -> list[int]:
    """The turn of every request of a plan: how many before it ask the same of a generator that heeds these."""
    asked: Counter[tuple[object, ...]] = Counter()
    turns = []
    for request in requests:
        key = request.heeded_by(heeds)
        turns.append(asked[key])
        asked[key] += 1
    return turns


def in_turn(requests: Sequence[Request], heeds: frozenset[str]) -> list[Request]:
    """The requests of a plan, each with its turn: for those that a generator is asked in several calls."""
    return [replace(r, turn=turn) for r, turn in zip(requests, turns_of(requests, heeds), strict=True)]


def symbol_of(z: int) -> str:
    """The symbol of an element. Raises: ValueError: for a number that is none of H to Lr."""
    if not 1 <= z <= len(ELEMENTS):
        raise ValueError(f"{z} is no atomic number: expected 1 to {len(ELEMENTS)}")
    return ELEMENTS[z - 1]


def atomic_number(symbol: str) -> int:
    """Of an element. Raises: ValueError: if the symbol is none of H to Lr."""
    if symbol not in _ATOMIC_NUMBER:
        raise ValueError(f"{symbol!r} is not a chemical element: expected a symbol from H to Lr, such as 'Ta'")
    return _ATOMIC_NUMBER[symbol]


def formula_from(counts: Mapping[str, int]) -> Formula:
    """Counts ordered by atomic number. Raises: ValueError: for an unknown element or a count below 1."""
    for symbol, n in counts.items():
        if n != int(n) or n < 1:
            raise ValueError(f"{symbol} has count {n}: expected a positive whole number of atoms")
    return tuple((symbol, int(counts[symbol])) for symbol in sorted(counts, key=atomic_number))
