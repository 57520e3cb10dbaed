"""The verdict on relaxed candidates: new and unique still, their place on the hull, their rank."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from prefect import task
from prefect.logging import get_run_logger

from configs.schema import DiscoverConfig
from generative.crystals import Crystal, crystals_of
from tasks.candidates import JUDGED, RELAXED, Stage, joined, table_of
from tasks.files import FileRef, key_of, keyed
from tasks.loading import PotentialIdentity
from tasks.run import RunFolder

if TYPE_CHECKING:
    from dft.hull import CompetingHull, Phase
    from generative.screening.matching import Tolerances

MIN_ENERGY_DIGITS = 6
"""Energies are ranked to this many digits (eV/atom), ties by id, so that float noise never decides a rank."""


def hull_energy(
    row: dict[str, Any], crystal: Crystal, pressure_gpa: float, name: str = "energy_ev_per_atom"
) -> float | None:
    """What the hull compares, eV/atom: the energy of a relaxed row (or another of its columns), plus PV."""
    from dft.hull import enthalpy_ev_per_atom

    energy = row[name]
    volume = abs(float(np.linalg.det(crystal.lattice_ang))) / len(crystal.atomic_numbers)
    return None if energy is None else enthalpy_ev_per_atom(energy, volume, pressure_gpa)


def phases_of(relaxed: pa.Table, pressure_gpa: float) -> list[Phase]:
    """Relaxed competing phases; those that exploded, failed or ended isolated have none, and the hull's notes say so.

    One that met the step cap keeps its energy: it bounds the true one from above, so the hull it gives is nearer the
    truth than the hull without it.
    """
    from pymatgen.core.composition import Composition

    from dft.hull import Phase

    return [
        Phase(
            row["id"],
            Composition(row["formula"]),
            None if crystal is None else hull_energy(row, crystal, pressure_gpa),
            row["energy_method"],
            row["relax_reason"] if crystal is None else "",
        )
        for row, crystal in zip(relaxed.to_pylist(), crystals_of(relaxed, "relaxed_"), strict=True)
    ]


def competing_hull(relaxed: pa.Table, config: DiscoverConfig) -> CompetingHull:
    """The hull of the run's relaxed competing phases, at the pressure they were relaxed at."""
    from dft.hull import CompetingHull

    return CompetingHull(phases_of(relaxed, config.relax.pressure_gpa), config.elements)


def _merge(row: dict[str, Any], relaxed: dict[str, Any] | None, crystal: Crystal | None) -> None:
    """Add the relaxation's columns to a candidate's row."""
    if relaxed is None:
        return
    row |= {name: value for name, value in relaxed.items() if name not in {"id", "formula"}}
    if crystal is None:
        row |= {"rejected_by": Stage.RELAXATION.value, "reason": relaxed["relax_reason"]}


def _compare(
    row: dict[str, Any], generated: Crystal, relaxed: Crystal, hull: CompetingHull, tol: Tolerances, pressure_gpa: float
) -> None:
    """Add what relaxation changed, the symmetry found, and the place on the hull."""
    from dft.ground_state import MatchTolerances, compare, symmetry
    from dft.results import Relaxation, RelaxStatus

    final = relaxed.to_structure()
    relaxation = Relaxation(
        status=RelaxStatus(row["relax_status"]),
        structure=final,
        energy_ev_per_atom=row["energy_ev_per_atom"],
        initial_energy_ev_per_atom=row["generated_energy_ev_per_atom"],
        fmax_ev_per_ang=row["fmax_ev_per_ang"],
        max_stress_gpa=row["max_stress_gpa"],
        n_steps=row["relax_steps"],
    )
    state = compare(generated.to_structure(), relaxation, MatchTolerances(tol.ltol, tol.stol, tol.angle_tol_deg))
    number, symbol = symmetry(final) or (None, None)
    place = hull.place(final.composition, hull_energy(row, relaxed, pressure_gpa), row["energy_method"])
    before = hull_energy(row, generated, pressure_gpa, "generated_energy_ev_per_atom")
    generated_place = hull.place(final.composition, before, row["energy_method"])
    generated_number, _ = symmetry(generated.to_structure()) or (None, None)
    row |= {
        "generated_spacegroup": generated_number,
        "generated_formation_energy_ev_per_atom": generated_place.formation_energy_ev_per_atom,
        "delta_e_ev_per_atom": state.de_ev_per_atom,
        "delta_v_ang3_per_atom": state.dv_ang3_per_atom,
        "rms": state.rms,
        "spacegroup": number,
        "spacegroup_symbol": symbol,
        "formation_energy_ev_per_atom": place.formation_energy_ev_per_atom,
        "e_above_hull_ev_per_atom": place.e_above_hull_ev_per_atom,
        "decomposition": place.decomposition,
        "hull_note": place.note,
    }


def _turn_away_repeats(
    rows: list[dict[str, Any]], crystals: list[Crystal | None], references: pa.Table, tol: Tolerances
) -> None:
    """After relaxation: candidates that became a known phase, then all but the lowest of each group of like ones."""
    from generative.screening.matching import ReferenceSet, find_known, group

    pairs = zip(references.column("id").to_pylist(), crystals_of(references, "relaxed_"), strict=True)
    usable = [(name, c) for name, c in pairs if c is not None]
    alive = [i for i, row in enumerate(rows) if row.get("rejected_by") is None and crystals[i] is not None]
    reference_set = ReferenceSet([name for name, _ in usable], [c for _, c in usable])
    search = find_known([c for i in alive if (c := crystals[i])], reference_set, tol)
    for place, match in enumerate(search.matches):
        row = rows[alive[place]]
        if match is not None:
            row |= {"rejected_by": Stage.KNOWN_RELAXED.value, "reason": f"relaxed into {match.reference_id} ({tol})"}
            row["known_match"] = match.reference_id
    alive = [i for i in alive if rows[i].get("rejected_by") is None]
    alive.sort(key=lambda i: (round(rows[i]["energy_ev_per_atom"], MIN_ENERGY_DIGITS), rows[i]["index"]))
    groups = group([c for i in alive if (c := crystals[i])], tol)
    for place, first in enumerate(groups.first_members):
        if first != place:
            row, leader = rows[alive[place]], rows[alive[first]]
            row |= {"rejected_by": Stage.DUPLICATE_RELAXED.value, "duplicate_of": leader["id"]}
            row["reason"] = f"relaxed into {leader['id']} ({tol})"


def _rank(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ranked rows first: lowest above the hull, those without a hull value after them; then rejected ones by index."""

    def worth(row: dict[str, Any]) -> tuple[bool, float, str]:
        above = row.get("e_above_hull_ev_per_atom")
        return above is None, 0.0 if above is None else round(above, MIN_ENERGY_DIGITS), row["id"]

    kept = sorted((r for r in rows if r.get("rejected_by") is None), key=worth)
    for number, row in enumerate(kept, start=1):
        row["rank"] = number
    return kept + sorted((r for r in rows if r.get("rejected_by") is not None), key=lambda r: int(r["index"]))


def judge_file(
    config: DiscoverConfig,
    folder: Path,
    identity: PotentialIdentity,
    screened: FileRef,
    relaxed: list[FileRef],
    references: list[FileRef],
) -> FileRef:
    """Every candidate with its rank and place, ranked ones first: judged.parquet."""
    key = key_of(
        "judge",
        ("dft", "generative", "tasks/judge.py", "tasks/candidates.py"),
        screen=config.screen.model_dump(mode="json"),
        elements=sorted(config.elements),
        pressure_gpa=config.relax.pressure_gpa,
        potential=identity.fingerprint,
        inputs=[ref.sha256 for ref in (screened, *relaxed, *references)],
    )

    def compute() -> pa.Table:
        from generative.screening.matching import Tolerances

        tolerances = Tolerances.from_config(config.screen)
        table = screened.read()
        done = joined([ref.read() for ref in relaxed], RELAXED)
        final: dict[str, tuple[dict[str, Any], Crystal | None]] = {}
        for row, crystal in zip(done.to_pylist(), crystals_of(done, "relaxed_"), strict=True):
            final[row["id"]] = (row, crystal)
        known = joined([ref.read() for ref in references], RELAXED)
        hull = competing_hull(known, config)
        rows, crystals = table.to_pylist(), []
        for row, generated in zip(rows, crystals_of(table), strict=True):
            record, crystal = final.get(row["id"], (None, None))
            _merge(row, record, crystal)
            crystals.append(crystal)
            if crystal is not None and generated is not None:
                _compare(row, generated, crystal, hull, tolerances, config.relax.pressure_gpa)
        _turn_away_repeats(rows, crystals, known, tolerances)
        return table_of(_rank(rows), JUDGED)

    return keyed(RunFolder(folder).judged, key, compute)


@task(name="hull")
def judge_task(
    config: DiscoverConfig,
    folder: Path,
    identity: PotentialIdentity,
    screened: FileRef,
    relaxed: list[FileRef],
    references: list[FileRef],
) -> FileRef:
    """Place, compare and rank the relaxed candidates; see judge_file."""
    ref = judge_file(config, folder, identity, screened, relaxed, references)
    table = ref.read()
    n = len(table) - table.column("rank").null_count
    get_run_logger().info("%d candidates ranked%s", n, ", unchanged, skipped" if ref.reused else "")
    return ref
