"""Screening before relaxation: validity and novelty chunk by chunk, uniqueness over all."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pyarrow as pa
from prefect import task
from prefect.logging import get_run_logger

from configs.schema import DiscoverConfig
from generative.config import ScreenConfig
from generative.crystal.crystals import STRUCTURE_FIELDS, crystals_of
from generative.datasets.origins import LABELS, origins_of, split_by_origin
from tasks.discover.candidates import SCREENED, Stage, table_of
from tasks.discover.run import RunFolder
from tasks.files import FileRef, key_of, keyed


def screen_table(table: pa.Table, known: pa.Table, config: ScreenConfig) -> pa.Table:
    """Validity, composition and novelty of these candidates; every one stays, with what turned it away.

    Novelty is against what databases hold; that a candidate is like a decorated prototype is noted and no more.
    """
    from generative.screening import composition, validity
    from generative.screening.matching import ReferenceSet, Tolerances, counts_of, find_known

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
    alive = [i for i, row in enumerate(rows) if "rejected_by" not in row]
    tolerances = Tolerances.from_config(config)
    databases, prototypes = split_by_origin(known)
    origins = dict(zip(databases.column("id").to_pylist(), origins_of(databases), strict=True))
    search = find_known([c for i in alive if (c := crystals[i])], ReferenceSet.from_table(databases), tolerances)
    for place, match in enumerate(search.matches):
        row = rows[alive[place]]
        if match is not None:
            origin = origins[match.reference_id]
            row |= {"known_match": match.reference_id, "known_origin": origin, "rejected_by": Stage.KNOWN.value}
            row["reason"] = f"matches {match.reference_id}, {LABELS[origin]} ({tolerances})"
        elif place in search.failures:
            row |= {"rejected_by": Stage.VALIDITY.value, "reason": search.failures[place]}
    alive = [i for i in alive if "rejected_by" not in rows[i]]
    like = find_known([c for i in alive if (c := crystals[i])], ReferenceSet.from_table(prototypes), tolerances)
    for place, match in enumerate(like.matches):
        rows[alive[place]]["prototype_match"] = None if match is None else match.reference_id
    return table_of(rows, SCREENED)


def unique_table(table: pa.Table, config: ScreenConfig) -> pa.Table:
    """The same candidates, repeats of an earlier survivor turned away.

    Formula by formula, since crystals of two formulas never match, and column by column: a million candidates fit into
    memory as arrays, not as a dictionary each.
    """
    from generative.screening.matching import Tolerances, group

    tolerances = Tolerances.from_config(config)
    ids, formulas = (table.column(name).to_pylist() for name in ("id", "formula"))
    changed = {name: table.column(name).to_pylist() for name in ("duplicate_of", "rejected_by", "reason")}
    of_formula: dict[str, list[int]] = defaultdict(list)
    for row, stage in enumerate(changed["rejected_by"]):
        if stage is None:
            of_formula[formulas[row]].append(row)
    crystals = table.select([field.name for field in STRUCTURE_FIELDS]).combine_chunks()
    for rows in of_formula.values():
        groups = group([c for c in crystals_of(crystals.take(pa.array(rows))) if c is not None], tolerances)
        for place, first in enumerate(groups.first_members):
            if first != place:
                row, leader = rows[place], ids[rows[first]]
                changed["duplicate_of"][row] = leader
                changed["rejected_by"][row] = Stage.DUPLICATE.value
                changed["reason"][row] = f"matches {leader} ({tolerances})"
    columns = [
        pa.array(changed[f.name], type=f.type) if f.name in changed else table.column(f.name).combine_chunks()
        for f in SCREENED
    ]
    return pa.table(columns, schema=pa.schema(SCREENED))


def screen_chunk_file(config: DiscoverConfig, folder: Path, sampled: FileRef, dataset: FileRef, chunk: int) -> FileRef:
    """Screen one chunk; see screen_table."""
    key = key_of(
        "screen",
        screen_chunk_file,
        screen=config.screen.model_dump(mode="json"),
        sampled=sampled.sha256,
        dataset=dataset.sha256,
    )
    path = RunFolder(folder).chunk("screen", chunk)
    return keyed(path, key, lambda: screen_table(sampled.read(), dataset.read(), config.screen))


def unique_file(config: DiscoverConfig, folder: Path, screened: list[FileRef]) -> FileRef:
    """All candidates in one table; see unique_table."""
    key = key_of(
        "unique",
        unique_file,
        screen=config.screen.model_dump(mode="json"),
        screened=[ref.sha256 for ref in screened],
    )
    path = folder / "screened.parquet"
    return keyed(path, key, lambda: unique_table(pa.concat_tables([ref.read() for ref in screened]), config.screen))


@task(name="screen", task_run_name="screen-{chunk}")
def screen_task(config: DiscoverConfig, folder: Path, sampled: FileRef, dataset: FileRef, chunk: int) -> FileRef:
    """Screen a chunk; see screen_chunk_file."""
    ref = screen_chunk_file(config, folder, sampled, dataset, chunk)
    alive = ref.read().column("rejected_by").null_count
    get_run_logger().info("chunk %d: %d pass%s", chunk, alive, ", unchanged, skipped" if ref.reused else "")
    return ref


@task(name="unique")
def unique_task(config: DiscoverConfig, folder: Path, screened: list[FileRef]) -> FileRef:
    """Keep the first of every group of like candidates; see unique_file."""
    ref = unique_file(config, folder, screened)
    alive = ref.read().column("rejected_by").null_count
    get_run_logger().info("%d valid, novel and unique%s", alive, ", unchanged, skipped" if ref.reused else "")
    return ref
