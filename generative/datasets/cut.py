"""What was left out of a hull, and what that may mean: a record that travels with the phases that were kept.

Let every cut row lie at least d above the hull of its group, which is kept, and let no energy of the potential differ
by more than e from the stated one (elemental references aside). A cut row then lies at least d - 2 e above the
potential's hull of the kept rows, so by convexity the hull of all rows is nowhere lower than that of the kept ones by
more than 2 e - d; not at all if the stated energies are right. Nothing bounds a cut row without a stated energy, nor
one that states only an `e_above_hull` (of its database's hull, whose phases the table may lack): these are counted as
phases that could lie on the hull.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

REORDERED_WITHIN_EV_PER_ATOM = 0.1
"""So near its stated hull a phase may lie on that of a potential. On Matbench Discovery the mean absolute error of
M3GNet's energies above the hull is 0.075 eV/atom, that of CHGNet 0.063; docs/numbers.md reads them to 0.1."""


@dataclass(frozen=True)
class Cut:
    """What was left out of a hull, and what that may mean.

    Attributes:
        most: phases that were asked for at most, per chemical system.
        n_systems: chemical systems that phases were chosen for.
        n_phases: phases of these systems.
        n_kept: of these, phases that were chosen.
        most_kept: phases chosen for one system; more than `most` where so many lie on the hull.
        n_unstated: phases left out of which no energy is stated.
        n_unbound: phases left out that state nothing but a distance above their database's hull, whose own phases may
            be missing here; of those of one composition the lowest alone.
        nearest_ev_per_atom: smallest stated distance from the hull among those left out; None if none states one.
        n_near: phases left out that lie within REORDERED_WITHIN_EV_PER_ATOM of it.
    """

    most: int
    n_systems: int = 1
    n_phases: int = 0
    n_kept: int = 0
    most_kept: int = 0
    n_unstated: int = 0
    n_unbound: int = 0
    nearest_ev_per_atom: float | None = None
    n_near: int = 0

    @property
    def n_cut(self) -> int:
        """Phases left out."""
        return self.n_phases - self.n_kept

    @property
    def could_lie_on_hull(self) -> bool:
        """Whether a phase left out could lie on the hull: by what is stated, or within the potential's error."""
        return bool(self.n_unstated or self.n_unbound or self.n_near)

    @property
    def note(self) -> str:
        """What a reader of the hull must know, in a sentence or two; empty if nothing was left out or exceeded."""
        limit = f"hull.references_max {self.most}" + (" for each chemical system" if self.n_systems > 1 else "")
        said = []
        if self.n_cut:
            verb = "was" if self.n_cut == 1 else "were"
            parts = [f"{self.n_cut} of {self.n_phases} competing phases {verb} left out of the hull ({limit})"]
            if self.nearest_ev_per_atom is not None:
                parts.append(f"the nearest of them lies {self.nearest_ev_per_atom:.3f} eV/atom above it as stated")
            parts += self._doubts()
            said.append("; ".join(parts) + ".")
        if self.most_kept > self.most:
            said.append(
                f"More phases than {limit} lie on the hull as stated or are the lowest of an element: all "
                f"{self.most_kept} were kept."
            )
        return " ".join(said)

    def _doubts(self) -> Iterator[str]:
        """Why phases left out could lie on the hull all the same."""
        if self.n_near:
            margin = f"{REORDERED_WITHIN_EV_PER_ATOM:g} eV/atom, the potential's own error"
            verb = "lies" if self.n_near == 1 else "lie"
            yield f"{self.n_near} of them {verb} within {margin}, and could lie on its hull"
        if self.n_unstated:
            verb = "has" if self.n_unstated == 1 else "have"
            yield f"{self.n_unstated} of them {verb} no stated energy and could lie on the hull"
        if self.n_unbound:
            verb = "states" if self.n_unbound == 1 else "state"
            yield (
                f"{self.n_unbound} of them {verb} only a distance above the hull of its database, and could lie on "
                "this one if phases of that one are missing here"
            )

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the attributes, and what follows from them."""
        follows = {"n_cut": self.n_cut, "could_lie_on_hull": self.could_lie_on_hull, "note": self.note}
        return {field.name: getattr(self, field.name) for field in fields(self)} | follows

    @classmethod
    def from_dict(cls, stated: dict[str, Any]) -> Cut:
        """Inverse of as_dict."""
        return cls(**{field.name: stated[field.name] for field in fields(cls) if field.name in stated})
