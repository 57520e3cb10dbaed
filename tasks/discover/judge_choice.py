"""Which crystals a judge is asked for: the best candidates, and the competing phases that may decide their hull."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from prefect import task
from prefect.logging import get_run_logger

from configs.schema import DiscoverConfig
from generative.crystal.crystals import STRUCTURE_FIELDS, Crystal, crystals_of, field_of, structure_columns
from tasks.discover.candidates import RELAXED, Proposer, joined
from tasks.discover.phases import ON_HULL_EV_PER_ATOM, competing_hull
from tasks.discover.phonons import best
from tasks.files import FileRef, key_of, keyed

if TYPE_CHECKING:
    from dft.hull.convex_hull import CompetingHull

CANDIDATE, PHASE, BOUND = "candidate", "phase", "judge.crystals_max"
CHOSEN = [
    field_of("id", pa.string(), "id of the candidate or competing phase; of a prototype: the phase's"),
    field_of("formula", pa.string(), "reduced formula"),
    field_of("role", pa.string(), "candidate | phase"),
    *STRUCTURE_FIELDS,
    field_of("rejected_by", pa.string(), "judge.crystals_max if it was left out for that; null: it is judged"),
]
"""Crystals for a judge, as `relax` left them."""


def judged_as(row: dict[str, Any]) -> str:
    """Id under which a candidate's crystal is judged: a prototype is one of the competing phases."""
    return str(row["prototype_match"] if row["proposed_by"] == Proposer.PROTOTYPE else row["id"])


@dataclass(frozen=True)
class _Wanted:
    """Ids of competing phases: those that decide the hull by the first potential, and those near it."""

    deciding: set[str] = field(default_factory=set)
    near: set[str] = field(default_factory=set)


def _wanted(
    rows: list[dict[str, Any]], hull: CompetingHull, heights: dict[str, float], within_ev_per_atom: float
) -> _Wanted:
    from pymatgen.core.composition import Composition

    wanted = _Wanted()
    for row in rows:
        composition = Composition(row["formula"])
        elements = {element.symbol for element in composition}
        others = hull
        if row["proposed_by"] == Proposer.PROTOTYPE:
            others = hull.without(row["prototype_match"])
            wanted.deciding.add(row["prototype_match"])
        wanted.deciding.update(others.decomposes_into(composition))
        for phase in hull.phases:
            if not set(phase.elements) <= elements:
                continue
            if len(phase.elements) == 1 and heights[phase.id] <= ON_HULL_EV_PER_ATOM:
                wanted.deciding.add(phase.id)
            elif heights[phase.id] <= within_ev_per_atom + ON_HULL_EV_PER_ATOM:
                wanted.near.add(phase.id)
    return wanted


def chosen_table(
    candidates: list[tuple[dict[str, Any], Crystal]], competing: pa.Table, config: DiscoverConfig
) -> pa.Table:
    """The crystals to be judged, and those left out by `judge.crystals_max`; the table of columns CHOSEN.

    Args:
        candidates: the best, rows and relaxed crystals; one without a place on the hull is not judged.
        competing: relaxed competing phases, columns RELAXED.
        config: `judge` says which phases count, `relax` at which pressure.
    """
    hull = competing_hull(competing, config)
    heights = {name: height for name, height in hull.phases_above_hull().items() if height is not None}
    placed = [(row, crystal) for row, crystal in candidates if row["e_above_hull_ev_per_atom"] is not None]
    wanted = _wanted([row for row, _ in placed], hull, heights, config.judge.phases_within_ev_per_atom)
    own = [(row, crystal) for row, crystal in placed if row["proposed_by"] != Proposer.PROTOTYPE]

    def in_order(names: set[str]) -> list[str]:
        return sorted(names, key=lambda name: (heights[name], name))

    deciding, near = in_order(wanted.deciding), in_order(wanted.near - wanted.deciding)
    n_near = max(0, config.judge.crystals_max - len(own) - len(deciding))
    phases = [*deciding, *near]
    ids, formulas = (competing.column(name).to_pylist() for name in ("id", "formula"))
    phase_of = dict(zip(ids, zip(formulas, crystals_of(competing, "relaxed_"), strict=True), strict=True))
    crystals = [*(crystal for _, crystal in own), *(phase_of[name][1] for name in phases)]
    columns = {
        "id": [*(row["id"] for row, _ in own), *phases],
        "formula": [*(row["formula"] for row, _ in own), *(phase_of[name][0] for name in phases)],
        "role": [CANDIDATE] * len(own) + [PHASE] * len(phases),
        **structure_columns(crystals),
        "rejected_by": [None] * (len(own) + len(deciding) + len(near[:n_near])) + [BOUND] * len(near[n_near:]),
    }
    return pa.table([pa.array(columns[f.name], type=f.type) for f in CHOSEN], schema=pa.schema(CHOSEN))


def chosen_file(config: DiscoverConfig, folder: Path, ranked: FileRef, competing: list[FileRef]) -> FileRef:
    """The crystals to be judged: judge/chosen.parquet; see chosen_table."""
    judge = config.judge
    key = key_of(
        "judge choice",
        chosen_file,
        ranked=ranked.sha256,
        competing=[ref.sha256 for ref in competing],
        elements=sorted(config.elements),
        pressure_gpa=config.relax.pressure_gpa,
        bounds=[judge.n_best, judge.phases_within_ev_per_atom, judge.crystals_max],
    )

    def compute() -> pa.Table:
        phases = joined([ref.read() for ref in competing], RELAXED)
        return chosen_table(best(ranked, judge.n_best), phases, config)

    return keyed(folder / "judge" / "chosen.parquet", key, compute)


@task(name="judge choice")
def chosen_task(config: DiscoverConfig, folder: Path, ranked: FileRef, competing: list[FileRef]) -> FileRef:
    """Choose the crystals to be judged; see chosen_file."""
    ref = chosen_file(config, folder, ranked, competing)
    rows = ref.read().select(["role", "rejected_by"]).to_pylist()
    roles = [row["role"] for row in rows if row["rejected_by"] is None]
    n_out = len(rows) - len(roles)
    left_out = f"; {n_out} more near the hull left out (judge.crystals_max)" if n_out else ""
    said = f"{roles.count(CANDIDATE)} candidates and {roles.count(PHASE)} competing phases to be judged{left_out}"
    get_run_logger().info("%s%s", said, "; unchanged, skipped" if ref.reused else "")
    return ref
