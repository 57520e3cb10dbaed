"""Ranking of relaxed candidates: still new, still unique, their energy above the hull, their rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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


def relaxed_candidates(
    screened: pa.Table, relaxed: pa.Table, tol: Tolerances
) -> Iterator[tuple[dict[str, Any], Crystal | None, Crystal | None]]:
    """Every candidate's row, without crystals, its generated crystal, and the relaxed one if there is one.

    Args:
        screened: all candidates.
        relaxed: the surviving ones, columns RELAXED.
        tol: of the matcher.
    """
    pairs = zip(plain(relaxed).to_pylist(), crystals_of(relaxed, "relaxed_"), strict=True)
    by_id = {done["id"]: (done, crystal) for done, crystal in pairs}
    for row, generated in zip(plain(screened).to_pylist(), crystals_of(screened), strict=True):
        done, crystal = by_id.get(row["id"], (None, None))
        if done is not None:
            row |= {name: value for name, value in done.items() if name not in {"id", "formula"}}
            if crystal is None:
                row |= {"rejected_by": Stage.RELAXATION.value, "reason": done["relax_reason"]}
            elif generated is not None:
                _compare(row, generated, crystal, tol)
        yield row, generated, crystal


def _compare(row: dict[str, Any], generated: Crystal, relaxed: Crystal, tol: Tolerances) -> None:
    """Add what relaxation changed, and the symmetry found: columns COMPARED."""
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
    generated_number, _ = symmetry(generated.to_structure()) or (None, None)
    row |= {
        "delta_e_ev_per_atom": state.de_ev_per_atom,
        "delta_v_ang3_per_atom": state.dv_ang3_per_atom,
        "rms": state.rms,
        "generated_spacegroup": generated_number,
        "spacegroup": number,
        "spacegroup_symbol": symbol,
    }


def _put_on_hull(
    row: dict[str, Any], generated: Crystal, relaxed: Crystal, hull: CompetingHull, pressure_gpa: float
) -> None:
    """Add the energies relative to the elements and to the hull: columns ON_HULL."""
    composition = relaxed.to_structure().composition
    position = hull.place(composition, hull_energy(row, relaxed, pressure_gpa), row["energy_method"])
    before = hull_energy(row, generated, pressure_gpa, "generated_energy_ev_per_atom")
    generated_position = hull.place(composition, before, row["energy_method"])
    row |= {
        "formation_energy_ev_per_atom": position.formation_energy_ev_per_atom,
        "generated_formation_energy_ev_per_atom": generated_position.formation_energy_ev_per_atom,
        "e_above_hull_ev_per_atom": position.e_above_hull_ev_per_atom,
        "decomposition": position.decomposition,
        "hull_note": position.note,
    }


def _turn_away_known(
    rows: list[dict[str, Any]],
    crystals: list[Crystal | None],
    references: pa.Table,
    origins: Mapping[str, str],
    same_as: Mapping[str, str],
    tol: Tolerances,
) -> None:
    """After relaxation: candidates that became a known phase.

    Args:
        rows: of the candidates; changed.
        crystals: of the candidates, relaxed.
        references: relaxed competing phases, columns RELAXED.
        origins: origin of each of them, by id; prototypes are not known, that a candidate became one is only noted.
        same_as: id of a prototype -> id of the database's crystal that it is.
        tol: of the matcher.
    """
    from generative.screening.matching import ReferenceSet, find_known

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


def turn_away_repeats(rows: Sequence[dict[str, Any]], crystals: Sequence[Crystal | None], tol: Tolerances) -> None:
    """After relaxation: all candidates but the lowest of each group of like ones.

    Args:
        rows: of the candidates; changed.
        crystals: of the candidates, relaxed.
        tol: of the matcher.
    """
    from generative.screening.matching import group

    pairs = zip(rows, crystals, strict=True)
    alive = [(row, crystal) for row, crystal in pairs if row.get("rejected_by") is None and crystal is not None]
    alive.sort(key=lambda pair: (round(pair[0]["energy_ev_per_atom"], MIN_ENERGY_DIGITS), plan_order(pair[0])))
    for (row, _), first in zip(alive, group([c for _, c in alive], tol).first_members, strict=True):
        leader = alive[first][0]
        if leader is not row:
            row |= {"rejected_by": Stage.DUPLICATE_RELAXED.value, "duplicate_of": leader["id"]}
            row["reason"] = f"relaxed into {leader['id']} ({tol})"


def ranked_rows(rows: Sequence[dict[str, Any]], energy: str) -> list[dict[str, Any]]:
    """The rows that nothing turned away, numbered by an energy, lowest first; those without it after all others.

    Args:
        rows: of the candidates; those that are kept get their rank.
        energy: the column that ranks.
    """

    def order(row: dict[str, Any]) -> tuple[bool, float, str]:
        value = row.get(energy)
        return value is None, 0.0 if value is None else round(value, MIN_ENERGY_DIGITS), row["id"]

    kept = sorted((row for row in rows if row.get("rejected_by") is None), key=order)
    for rank, row in enumerate(kept, start=1):
        row["rank"] = rank
    return kept


def rejected_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The other rows, in the order of the plan."""
    return sorted((row for row in rows if row.get("rejected_by") is not None), key=plan_order)


def plan_order(row: dict[str, Any]) -> tuple[bool, int, str]:
    """Sort key: generated candidates in the order of the plan, then prototypes by id."""
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


def with_crystals(
    rows: list[dict[str, Any]], generated: pa.Table, relaxed: pa.Table, fields: list[pa.Field]
) -> pa.Table:
    """The table of these rows with their crystals.

    Args:
        rows: in the order of the table, without crystals.
        generated: holds the generated crystal of every row.
        relaxed: holds the relaxed crystal of some.
        fields: columns of the table.
    """
    numbers = table_of(rows, [f for f in fields if f.name not in CRYSTAL_COLUMNS])
    taken: dict[str, pa.ChunkedArray] = {}
    for source in (generated, relaxed):
        row_of_id = {name: i for i, name in enumerate(source.column("id").to_pylist())}
        order = pa.array([row_of_id.get(row["id"]) for row in rows], type=pa.int64())
        held = source.select([name for name in source.column_names if name in CRYSTAL_COLUMNS]).combine_chunks()
        taken |= {name: held.column(name).take(order) for name in held.column_names}
    columns = [taken[f.name] if f.name in CRYSTAL_COLUMNS else numbers.column(f.name) for f in fields]
    return pa.table(columns, schema=pa.schema(fields))


def rank_file(
    config: DiscoverConfig,
    folder: Path,
    identity: PotentialIdentity,
    known: FileRef,
    screened: FileRef,
    relaxed: list[FileRef],
    references: list[FileRef],
) -> FileRef:
    """Every candidate with its rank and energies, ranked ones first: ranked.parquet.

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
        phase_rows, competing = phases.read(), joined([ref.read() for ref in references], RELAXED)
        dataset = known.read()
        proposed = prototype_candidates(phase_rows, dataset, config)
        table, done = with_prototypes(
            screened.read(), joined([ref.read() for ref in relaxed], RELAXED), proposed, competing
        )
        hull = competing_hull(competing, config)
        rows, crystals = [], []
        for row, generated, crystal in relaxed_candidates(table, done, tolerances):
            if crystal is not None and generated is not None:
                # A prototype is one of the phases: it is measured against the hull of all the others.
                is_phase = row["proposed_by"] == Proposer.PROTOTYPE
                others = hull.without(row["prototype_match"]) if is_phase else hull
                _put_on_hull(row, generated, crystal, others, config.relax.pressure_gpa)
            rows.append(row)
            crystals.append(crystal)
        named = {row["id"]: row for row in phase_rows.select(["id", "origin", "same_as"]).to_pylist()}
        origins = dict(zip(dataset.column("id").to_pylist(), origins_of(dataset), strict=True))
        origins |= {name: row["origin"] for name, row in named.items()}
        same_as = {name: row["same_as"] for name, row in named.items() if row["same_as"] is not None}
        _turn_away_known(rows, crystals, competing, origins, same_as, tolerances)
        turn_away_repeats(rows, crystals, tolerances)
        in_order = [*ranked_rows(rows, "e_above_hull_ev_per_atom"), *rejected_rows(rows)]
        return with_crystals(in_order, table, done, RANKED)

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
    """Compare and rank the relaxed candidates; see rank_file."""
    from tasks.report.run.artifacts import Progress  # draws pictures too, so it loads on the worker

    with Progress(f"rank-{config.name}", "placing candidates on the hull"):
        ref = rank_file(config, folder, identity, known, screened, relaxed, references)
    table = ref.read()
    n = len(table) - table.column("rank").null_count
    get_run_logger().info("%d candidates ranked%s", n, ", unchanged, skipped" if ref.reused else "")
    return ref
