"""Screening before relaxation: validity and novelty chunk by chunk, uniqueness over all."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from prefect import task
from prefect.logging import get_run_logger

from configs.schema import DiscoverConfig
from generative.config import ScreenConfig
from generative.crystal.crystals import STRUCTURE_FIELDS, Crystal, crystals_of
from generative.datasets.origins import LABELS, origins_of, split_by_origin
from tasks.discover.candidates import SCREENED, Stage, table_of
from tasks.files import ROWS_PER_GROUP, FileRef, key_of, keyed

if TYPE_CHECKING:
    from generative.screening.matching import Tolerances


def screen_table(table: pa.Table, known: pa.Table | None, config: ScreenConfig) -> pa.Table:
    """Validity, composition and novelty of these candidates; every one stays, with what turned it away.

    Novelty is against what databases hold; that a candidate is like a decorated prototype is noted and no more.

    Args:
        table: columns SAMPLED, and those of a proposer's own.
        known: a dataset; None where candidates need not be new.
        config: how to screen.

    Returns: columns SCREENED, then the proposer's own.
    """
    from generative.screening import composition, validity
    from generative.screening.matching import Tolerances, counts_of

    rows, crystals = table.to_pylist(), crystals_of(table)
    for row, crystal in zip(rows, crystals, strict=True):
        assert crystal is not None  # whoever makes these tables writes a crystal into every row
        verdict = validity.check(crystal, config)
        balance = composition.check(counts_of(crystal))
        row |= {
            "min_distance_ang": verdict.min_distance_ang,
            "volume_ang3_per_atom": verdict.volume_per_atom_ang3,
            "smact_valid": balance.valid,
        }
        if not verdict.valid:
            row |= {"rejected_by": Stage.VALIDITY.value, "reason": verdict.reason}
        elif config.smact_filter and not balance.valid:
            reason = f"{row['formula']} has no charge balance: {balance.rule} (SMACT {balance.smact_version})"
            row |= {"rejected_by": Stage.COMPOSITION.value, "reason": reason}
    if known is not None:
        _find_known(rows, crystals, known, Tolerances.from_config(config))
    return table_of(rows, _screened_fields(table))


def _screened_fields(table: pa.Table) -> list[pa.Field]:
    """SCREENED, then what a proposer knows besides."""
    names = {field.name for field in SCREENED}
    return [*SCREENED, *(field for field in table.schema if field.name not in names)]


def _find_known(
    rows: list[dict[str, Any]], crystals: list[Crystal | None], known: pa.Table, tolerances: Tolerances
) -> None:
    """Turn away the candidates that a database holds, and note which prototypes the others are like."""
    from generative.screening.matching import ReferenceSet, find_known

    alive = [i for i, row in enumerate(rows) if "rejected_by" not in row]
    databases, prototypes = split_by_origin(known)
    origins = dict(zip(databases.column("id").to_pylist(), origins_of(databases), strict=True))
    search = find_known([c for i in alive if (c := crystals[i])], ReferenceSet.from_table(databases), tolerances)
    for n, (i, match) in enumerate(zip(alive, search.matches, strict=True)):
        if match is not None:
            origin = origins[match.reference_id]
            rows[i] |= {"known_match": match.reference_id, "known_origin": origin, "rejected_by": Stage.KNOWN.value}
            rows[i]["reason"] = f"matches {match.reference_id}, {LABELS[origin]} ({tolerances})"
        elif n in search.failures:
            rows[i] |= {"rejected_by": Stage.VALIDITY.value, "reason": search.failures[n]}
    alive = [i for i in alive if "rejected_by" not in rows[i]]
    like = find_known([c for i in alive if (c := crystals[i])], ReferenceSet.from_table(prototypes), tolerances)
    for i, match in zip(alive, like.matches, strict=True):
        rows[i]["prototype_match"] = None if match is None else match.reference_id


def unique_table(table: pa.Table, config: ScreenConfig) -> pa.Table:
    """The same candidates, repeats of an earlier survivor turned away.

    Formula by formula, since crystals of two formulas never match, and column by column: a million candidates fit into
    memory as arrays, not as a dictionary each. Polymorphs are compared with those of the same given crystal alone.
    """
    from generative.screening.matching import Tolerances, group

    tolerances = Tolerances.from_config(config)
    ids, formulas = (table.column(name).to_pylist() for name in ("id", "formula"))
    sources = table.column("source_id").to_pylist() if "source_id" in table.column_names else [None] * len(table)
    changed = {name: table.column(name).to_pylist() for name in ("duplicate_of", "rejected_by", "reason")}
    comparable: dict[tuple[str | None, str], list[int]] = defaultdict(list)
    for row, stage in enumerate(changed["rejected_by"]):
        if stage is None:
            comparable[sources[row], formulas[row]].append(row)
    crystals = table.select([field.name for field in STRUCTURE_FIELDS]).combine_chunks()
    for rows in comparable.values():
        groups = group([c for c in crystals_of(crystals.take(pa.array(rows))) if c is not None], tolerances)
        for row, first in zip(rows, groups.first_members, strict=True):
            if rows[first] != row:
                leader = ids[rows[first]]
                changed["duplicate_of"][row] = leader
                changed["rejected_by"][row] = Stage.DUPLICATE.value
                changed["reason"][row] = f"matches {leader} ({tolerances})"
    fields = _screened_fields(table)
    columns = [
        pa.array(changed[f.name], type=f.type) if f.name in changed else table.column(f.name).combine_chunks()
        for f in fields
    ]
    return pa.table(columns, schema=pa.schema(fields))


def screen_chunk_file(config: DiscoverConfig, folder: Path, sampled: FileRef, dataset: FileRef | None) -> FileRef:
    """Screen one chunk, whose file keeps its name; see screen_table."""
    key = key_of(
        "screen",
        screen_chunk_file,
        screen=config.screen.model_dump(mode="json"),
        sampled=sampled.sha256,
        dataset=None if dataset is None else dataset.sha256,
    )
    path = folder / "screen" / sampled.path.name
    return keyed(path, key, lambda: screen_table(sampled.read(), dataset and dataset.read(), config.screen))


def unique_file(config: DiscoverConfig, folder: Path, screened: list[FileRef]) -> FileRef:
    """All candidates in one table; see unique_table."""
    key = key_of(
        "unique",
        unique_file,
        screen=config.screen.model_dump(mode="json"),
        screened=[ref.sha256 for ref in screened],
    )

    def compute() -> pa.Table:
        table = pa.concat_tables([ref.read() for ref in screened])
        # Chunks of several generators hold places in turn: of like candidates the first of the run is to be kept.
        return unique_table(table.take(pc.sort_indices(table, [("index", "ascending")])), config.screen)

    return keyed(folder / "screened.parquet", key, compute, ROWS_PER_GROUP)


@task(name="screen", task_run_name="screen-{sampled.path.stem}")
def screen_task(sampled: FileRef, config: DiscoverConfig, folder: Path, dataset: FileRef | None) -> FileRef:
    """Screen a chunk; see screen_chunk_file."""
    from tasks.report.run.artifacts import Progress  # draws pictures too, so it loads on the worker

    chunk = sampled.path.stem
    with Progress(f"screen-{config.name}-{chunk}", f"screening chunk {chunk}"):
        ref = screen_chunk_file(config, folder, sampled, dataset)
    alive = ref.read().column("rejected_by").null_count
    get_run_logger().info("chunk %s: %d pass%s", sampled.path.stem, alive, ", unchanged, skipped" if ref.reused else "")
    return ref


@task(name="unique")
def unique_task(config: DiscoverConfig, folder: Path, screened: list[FileRef]) -> FileRef:
    """Keep the first of every group of like candidates; see unique_file."""
    from tasks.report.run.artifacts import Progress  # draws pictures too, so it loads on the worker

    with Progress(f"unique-{config.name}", "looking for repeats"):
        ref = unique_file(config, folder, screened)
    alive = ref.read().column("rejected_by").null_count
    get_run_logger().info("%d valid, novel and unique%s", alive, ", unchanged, skipped" if ref.reused else "")
    return ref
