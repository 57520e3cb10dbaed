"""What a run with `relax.symmetry` kept says of each crystal: a minimum of its space group, or a saddle point."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dft.results import KeptSymmetry
from tasks.report.run.model import Counts
from tasks.report.space_groups import short_symbol


def kept_of(row: Mapping[str, Any]) -> KeptSymmetry | None:
    """The columns KEPT of a row of relaxations or candidates; None if it relaxed freely, or has no such columns."""
    if row.get("kept_spacegroup") is None:
        return None
    return KeptSymmetry(
        spacegroup=row["kept_spacegroup"],
        energy_ev_per_atom=row["kept_energy_ev_per_atom"],
        released_energy_ev_per_atom=row["released_energy_ev_per_atom"],
        is_minimum=row["is_symmetric_minimum"],
        is_released=bool(row["is_released"]),
        released_spacegroup=row["released_spacegroup"],
        broken_by_ang=row["broken_by_ang"],
        n_release_steps=row["release_steps"],
        note=row["release_note"] or "",
    )


def change_on_release_ev_per_atom(kept: KeptSymmetry) -> float | None:
    """Energy at the released end minus that at the end in the group; None without both."""
    if kept.energy_ev_per_atom is None or kept.released_energy_ev_per_atom is None:
        return None
    return kept.released_energy_ev_per_atom - kept.energy_ev_per_atom


def verdict(kept: KeptSymmetry) -> str:
    """Whether it is a minimum of its group, in two words."""
    return {None: "not known", True: "minimum", False: "saddle point"}[kept.is_minimum]


def group_name(number: int) -> str:
    """Such as 'Pm-3m (221)'."""
    return f"{short_symbol(number)} ({number})"


def remark(kept: KeptSymmetry) -> str:
    """What became of the crystal, in one line: 'saddle point of Pm-3m (221); released, -0.0120 eV/atom, R-3m (166)'."""
    said = f"{verdict(kept)} {'in' if kept.is_minimum is None else 'of'} {group_name(kept.spacegroup)}"
    if kept.is_released and (change := change_on_release_ev_per_atom(kept)) is not None:
        said += f"; released, {change:+.4f} eV/atom"
        if not kept.is_minimum and kept.released_spacegroup is not None:
            said += f", {group_name(kept.released_spacegroup)}"
    return f"{said}; {kept.note}" if kept.note else said


def any_kept(kept: Iterable[KeptSymmetry | None]) -> bool:
    """Whether any crystal relaxed in its group."""
    return any(one is not None for one in kept)


def counts_sentence(counts: Counts) -> str:
    """How many were saddle points; empty where no group was kept."""
    if not counts.n_kept:
        return ""
    return (
        f"Saddle points of their space groups: {counts.n_saddle_points} of the {counts.n_kept} that relaxed in one; "
        "each is ranked as the lower crystal into which it fell when it was released"
    )
