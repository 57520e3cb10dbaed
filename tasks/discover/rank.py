"""Ranking of relaxed candidates: still new, still unique, their energy above the hull, their rank."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from prefect import task
from prefect.logging import get_run_logger

from configs.schema import DiscoverConfig
from generative.crystal.crystals import Crystal, crystals_of
from generative.datasets.origins import LABELS, Origin, origins_of
from tasks.discover.candidates import (
    CRYSTAL_COLUMNS,
    RANKED,
    RELAXED,
    SCREENED,
    Proposer,
    Stage,
    joined,
    plain,
    table_of,
)
from tasks.discover.phases import competing_hull, hull_energy, phases_file, prototype_candidates
from tasks.discover.relax import survivors
from tasks.discover.run import RunFolder
from tasks.files import ROWS_PER_GROUP, FileRef, key_of, keyed
from tasks.loading import PotentialIdentity

if TYPE_CHECKING:
    from dft.hull.convex_hull import CompetingHull
    from generative.screening.matching import KnownMatch, Tolerances

MIN_ENERGY_DIGITS = 6
"""Energies are ranked to this many digits (eV/atom), ties by id, so that float noise never decides a rank."""


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
    from dft.potentials.ground_state import MatchTolerances, compare, symmetry
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
    rows: list[dict[str, Any]],
    crystals: list[Crystal | None],
    references: pa.Table,
    origins: Mapping[str, str],
    same_as: Mapping[str, str],
    tol: Tolerances,
) -> None:
    """After relaxation: candidates that became a known phase, then all but the lowest of each group of like ones.

    Args:
        rows: of the candidates; changed.
        crystals: of the candidates, relaxed.
        references: relaxed competing phases, columns RELAXED.
        origins: origin of each of them, by id; prototypes are not known, that a candidate became one is only noted.
        same_as: id of a prototype -> id of the database's crystal that it is.
        tol: of the matcher.
    """
    from generative.screening.matching import ReferenceSet, find_known, group

    def matches(i_rows: list[int], *, prototypes: bool) -> list[KnownMatch | None]:
        pairs = zip(references.column("id").to_pylist(), crystals_of(references, "relaxed_"), strict=True)
        usable = [(n, c) for n, c in pairs if c is not None and (origins.get(n) == Origin.PROTOTYPE) is prototypes]
        reference_set = ReferenceSet([name for name, _ in usable], [c for _, c in usable])
        return list(find_known([c for i in i_rows if (c := crystals[i])], reference_set, tol).matches)

    alive = [i for i, row in enumerate(rows) if row.get("rejected_by") is None and crystals[i] is not None]
    for i, match in zip(alive, matches(alive, prototypes=False), strict=True):
        if match is not None:
            known = same_as.get(match.reference_id, match.reference_id)
            origin = origins.get(known, Origin.UNSTATED.value)
            rows[i] |= {"rejected_by": Stage.KNOWN_RELAXED.value, "known_match": known, "known_origin": origin}
            rows[i]["reason"] = f"relaxed into {known}, {LABELS[origin]} ({tol})"
    alive = [i for i in alive if rows[i].get("rejected_by") is None]
    for i, match in zip(alive, matches(alive, prototypes=True), strict=True):
        if rows[i].get("proposed_by") != Proposer.PROTOTYPE:
            rows[i]["prototype_match"] = None if match is None else match.reference_id
    alive.sort(key=lambda i: (round(rows[i]["energy_ev_per_atom"], MIN_ENERGY_DIGITS), _plan_order(rows[i])))
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
    return kept + sorted((r for r in rows if r.get("rejected_by") is not None), key=_plan_order)


def _plan_order(row: dict[str, Any]) -> tuple[bool, int, str]:
    """Generated candidates in the order of the plan, then prototypes by id."""
    index = row["index"]
    return index is None, 0 if index is None else int(index), row["id"]


def with_prototypes(
    screened: pa.Table, relaxed: pa.Table, proposed: pa.Table, references: pa.Table
) -> tuple[pa.Table, pa.Table]:
    """The candidates and their relaxations, those of the prototypes among them.

    Args:
        screened: generated candidates, columns SCREENED.
        relaxed: the surviving ones, columns RELAXED.
        proposed: prototypes as candidates, columns SCREENED; `prototype_match` names the competing phase.
        references: relaxed competing phases, columns RELAXED: a prototype is not relaxed a second time.
    """
    passed = survivors(proposed)
    names = references.column("id").to_pylist()
    rows = [names.index(name) for name in passed.column("prototype_match").to_pylist()]
    own = references.select([f.name for f in RELAXED]).take(pa.array(rows, type=pa.int64()))
    own = own.set_column(0, own.schema.field("id"), passed.column("id"))
    candidates = [f.name for f in SCREENED]
    return (
        pa.concat_tables([screened.select(candidates), proposed.select(candidates)]),
        pa.concat_tables([relaxed, own.cast(relaxed.schema)]),
    )


def _with_crystals(rows: list[dict[str, Any]], generated: pa.Table, relaxed: pa.Table) -> pa.Table:
    """The table of columns RANKED of these rows.

    Args:
        rows: by rank, without their crystals.
        generated: holds the generated crystal of every row.
        relaxed: holds the relaxed crystal of some.
    """
    numbers = table_of(rows, [f for f in RANKED if f.name not in CRYSTAL_COLUMNS])
    taken: dict[str, pa.ChunkedArray] = {}
    for source in (generated, relaxed):
        place = {name: i for i, name in enumerate(source.column("id").to_pylist())}
        order = pa.array([place.get(row["id"]) for row in rows], type=pa.int64())
        held = source.select([name for name in source.column_names if name in CRYSTAL_COLUMNS]).combine_chunks()
        taken |= {name: held.column(name).take(order) for name in held.column_names}
    columns = [taken[f.name] if f.name in CRYSTAL_COLUMNS else numbers.column(f.name) for f in RANKED]
    return pa.table(columns, schema=pa.schema(RANKED))


def rank_file(
    config: DiscoverConfig,
    folder: Path,
    identity: PotentialIdentity,
    known: FileRef,
    screened: FileRef,
    relaxed: list[FileRef],
    references: list[FileRef],
) -> FileRef:
    """Every candidate with its rank and place, ranked ones first: ranked.parquet.

    Args:
        config: of the run.
        folder: of the run.
        identity: the potential.
        known: the run's dataset.
        screened: all generated candidates.
        relaxed: chunks of their relaxations.
        references: chunks of the relaxed competing phases.
    """
    phases = phases_file(config, folder, known, references)
    key = key_of(
        "rank",
        rank_file,
        known=known.sha256,
        phases=phases.sha256,
        prototypes_within_ev_per_atom=config.hull.prototypes_within_ev_per_atom,
        screen=config.screen.model_dump(mode="json"),
        elements=sorted(config.elements),
        pressure_gpa=config.relax.pressure_gpa,
        potential=identity.fingerprint,
        inputs=[ref.sha256 for ref in (screened, *relaxed, *references)],
    )

    def compute() -> pa.Table:
        from generative.screening.matching import Tolerances

        tolerances = Tolerances.from_config(config.screen)
        places, competing = phases.read(), joined([ref.read() for ref in references], RELAXED)
        dataset = known.read()
        proposed = prototype_candidates(places, dataset, config)
        table, done = with_prototypes(
            screened.read(), joined([ref.read() for ref in relaxed], RELAXED), proposed, competing
        )
        final: dict[str, tuple[dict[str, Any], Crystal | None]] = {}
        for row, crystal in zip(plain(done).to_pylist(), crystals_of(done, "relaxed_"), strict=True):
            final[row["id"]] = (row, crystal)
        hull = competing_hull(competing, config)
        rows, crystals = plain(table).to_pylist(), []
        for row, generated in zip(rows, crystals_of(table), strict=True):
            record, crystal = final.get(row["id"], (None, None))
            _merge(row, record, crystal)
            crystals.append(crystal)
            if crystal is not None and generated is not None:
                # A prototype is one of the phases: it is measured against the hull of all the others.
                is_phase = row["proposed_by"] == Proposer.PROTOTYPE
                others = hull.without(row["prototype_match"]) if is_phase else hull
                _compare(row, generated, crystal, others, tolerances, config.relax.pressure_gpa)
        named = {row["id"]: row for row in places.select(["id", "origin", "same_as"]).to_pylist()}
        origins = dict(zip(dataset.column("id").to_pylist(), origins_of(dataset), strict=True))
        origins |= {name: row["origin"] for name, row in named.items()}
        same_as = {name: row["same_as"] for name, row in named.items() if row["same_as"] is not None}
        _turn_away_repeats(rows, crystals, competing, origins, same_as, tolerances)
        return _with_crystals(_rank(rows), table, done)

    return keyed(RunFolder(folder).ranked, key, compute, ROWS_PER_GROUP)


@task(name="rank")
def rank_task(
    config: DiscoverConfig,
    folder: Path,
    identity: PotentialIdentity,
    known: FileRef,
    screened: FileRef,
    relaxed: list[FileRef],
    references: list[FileRef],
) -> FileRef:
    """Place, compare and rank the relaxed candidates; see rank_file."""
    ref = rank_file(config, folder, identity, known, screened, relaxed, references)
    table = ref.read()
    n = len(table) - table.column("rank").null_count
    get_run_logger().info("%d candidates ranked%s", n, ", unchanged, skipped" if ref.reused else "")
    return ref
