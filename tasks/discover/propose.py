"""Polymorphs proposed for given crystals: another proposer of candidates than the plan of a run.

A modifier starts from each crystal; any other system is asked for its composition.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from prefect import task
from prefect.logging import get_run_logger

from configs.modification import ModifyConfig
from generative.crystal.crystals import STRUCTURE_FIELDS, Crystal, crystals_of, field_of, structure_columns
from generative.datasets.origins import split_by_origin
from tasks.discover.candidates import MODIFIED, SAMPLED, Proposer
from tasks.discover.own_files import OwnFileError, formula_of, read_crystals
from tasks.discover.run import RunFolder
from tasks.files import ROWS_PER_GROUP, FileRef, key_of, keyed, write_table
from tasks.loading import checkpoint

if TYPE_CHECKING:
    from generative.systems.interface import Change

logger = logging.getLogger(__name__)

GIVEN = [
    field_of("id", pa.string(), "id of the given crystal"),
    field_of("index", pa.int64(), "among the crystals that were read, from 0; its draws depend on it"),
    field_of("formula", pa.string(), "reduced formula"),
    *STRUCTURE_FIELDS,
    field_of("formation_energy_ev_per_atom", pa.float64(), "as its source states it, eV/atom; or null"),
]
PROPOSED = [*SAMPLED, *MODIFIED]


def check_proposer(config: ModifyConfig) -> None:
    """Find what would stop the modification when it comes to drawing, before anything is computed.

    Raises: CheckpointError: if `sample.checkpoint` holds neither a modifier nor a generator.
        ValueError: if a setting of `sample.sampler` is none of its system's, or has a value that it cannot have.
    """
    from generative.checkpoints import generator_type, type_of
    from generative.systems.interface import Modifier

    kind = type_of(config.sample.checkpoint)
    if not issubclass(kind, Modifier):
        kind = generator_type(config.sample.checkpoint)
    kind.sampler_settings(config.sample.sampler)


def given_crystals(config: ModifyConfig) -> tuple[pa.Table, list[str]]:
    """The crystals to modify, and one sentence per record that is none.

    Raises: OwnFileError: if none can be read, or none is as far above hull as is asked.
    """
    given, refused = read_crystals(config.crystals)
    least = config.above_hull_min_ev_per_atom
    if least is not None:
        column = "e_above_hull_ev_per_atom"
        stated = given.column(column).to_pylist() if column in given.column_names else [None] * len(given)
        chosen = [row for row, value in enumerate(stated) if value is not None and value >= least]
        if not chosen:
            known = [value for value in stated if value is not None]
            n = len(given)
            found = (
                f"the highest of {n} lies {max(known):g} above hull" if known else f"none of {n} crystals states one"
            )
            raise OwnFileError(f"above_hull_min_ev_per_atom is {least:g}, but {found}: lower it, or leave it out")
        given = given.take(chosen)
    if config.limit is not None and config.limit < len(given):
        drawn = np.random.default_rng(config.seed).permutation(len(given))[: config.limit]
        given = given.take(sorted(drawn.tolist()))
    return given, refused


def given_file(given: pa.Table, folder: Path) -> FileRef:
    """The crystals to modify in the columns GIVEN: given.parquet; records without a crystal are left out."""
    name = "formation_energy_ev_per_atom"
    energies = given.column(name) if name in given.column_names else pa.nulls(len(given), pa.float64())
    crystals = crystals_of(given)
    columns = {
        "id": given.column("id"),
        "index": pa.array(range(len(given)), pa.int64()),
        "formula": pa.array([None if c is None else formula_of(c) for c in crystals], pa.string()),
        **structure_columns(crystals),
        name: energies.cast(pa.float64()),
    }
    table = pa.table([columns[f.name] for f in GIVEN], schema=pa.schema(GIVEN))
    readable = table.filter(pc.is_valid(table.column("formula")))
    return write_table(readable, folder / "given.parquet", rows_per_group=ROWS_PER_GROUP)


def reference_file(config: ModifyConfig, folder: Path) -> FileRef | None:
    """What databases hold of the known crystals that polymorphs are named by: known.parquet; None without any."""
    if config.reference is None:
        return None
    databases, _ = split_by_origin(read_crystals([config.reference])[0])
    return write_table(databases, folder / "known.parquet")


def asked_of(config: ModifyConfig) -> list[Change]:
    """Space group and change of energy of every draw for one crystal: every pair in turn."""
    from generative.systems.interface import Change

    groups = [None, *config.spacegroups]
    changes: list[float | None] = list(config.energy_changes_ev_per_atom) or [None]
    pairs = itertools.cycle(Change(group, change) for change in changes for group in groups)
    return list(itertools.islice(pairs, config.n_candidates))


def crystals_per_chunk(config: ModifyConfig) -> int:
    """Given crystals whose polymorphs make a chunk: as many as `sample.chunk_size` allows, at least one."""
    return max(1, config.sample.chunk_size // config.n_candidates)


def propose_chunks(given: FileRef, config: ModifyConfig) -> range:
    """Numbers of the chunks that the polymorphs are drawn in."""
    return range(-(-len(given.read_columns("id")) // crystals_per_chunk(config)))


def propose(given: pa.Table, config: ModifyConfig) -> pa.Table:
    """`n_candidates` polymorphs of each crystal.

    Args:
        given: columns GIVEN.
        config: what is asked, and of which system.

    Returns: columns PROPOSED.
    """
    _warn_of_groups(given, config)
    rows: list[dict[str, Any]] = []
    crystals: list[Crystal] = []
    for row, crystal in zip(given.to_pylist(), crystals_of(given), strict=True):
        assert crystal is not None  # given_file leaves out rows without one
        for drawn, polymorph in _polymorphs(row, crystal, config):
            rows.append(drawn)
            crystals.append(polymorph)
    columns = {f.name: pa.array([row.get(f.name) for row in rows], type=f.type) for f in PROPOSED}
    columns |= structure_columns(crystals)
    return pa.table([columns[f.name] for f in PROPOSED], schema=pa.schema(PROPOSED))


def _warn_of_groups(given: pa.Table, config: ModifyConfig) -> None:
    """Say how often a space group is asked of a crystal whose atoms none of its crystals can have."""
    from generative.crystal.occupancy import holds

    groups = sorted({change.spacegroup for change in asked_of(config) if change.spacegroup is not None})
    cells = [(row["formula"], Counter(row["atomic_numbers"]).values()) for row in given.to_pylist()]
    wrong = [(name, group) for name, counts in cells for group in groups if not holds(group, counts)]
    if wrong:
        logger.warning(
            "%d of the %d pairs of given crystal and space group can be no crystal, by the multiplicities of Wyckoff "
            "positions: the first is %s in space group %d. They are asked for all the same; `spacegroups` chooses them",
            len(wrong), len(cells) * len(groups), *wrong[0],
        )  # fmt: skip


def _polymorphs(given: dict[str, Any], crystal: Crystal, config: ModifyConfig) -> list[tuple[dict[str, Any], Crystal]]:
    """The polymorphs of one crystal with their rows; its draws depend on no other crystal but by its index."""
    from generative.requests import Request
    from generative.sampling import chunk_generator
    from generative.systems.interface import Modifier

    loaded, changes = checkpoint(config.sample.checkpoint, config.execution), asked_of(config)
    sampler = loaded.system.sampler_settings(config.sample.sampler)
    rng = chunk_generator(config.seed, "modify", given["index"])
    requests: list[Request] = []
    if isinstance(loaded.system, Modifier):
        drawn = loaded.system.modify([crystal] * len(changes), changes, rng, sampler)
    else:
        start = given["formation_energy_ev_per_atom"]
        for spacegroup, change in changes:
            energy = None if start is None or change is None else start + change
            requests.append(Request.for_atoms(crystal.atomic_numbers, spacegroup, energy))
        drawn = loaded.generator.sample(requests, rng, sampler)
    rows = [
        {
            "id": key_of("modify", of=given["id"], checkpoint=loaded.digest, seed=config.seed, n=n)[:16],
            "proposed_by": (Proposer.GENERATOR if requests else Proposer.MODIFIER).value,
            "index": given["index"] * len(changes) + n,
            "formula": given["formula"],
            "condition": requests[n].to_json() if requests else None,
            "n_atoms": len(drawn[n].atomic_numbers),
            "source_id": given["id"],
            "asked": json.dumps(
                {"spacegroup": change.spacegroup, "energy_change_ev_per_atom": change.energy_ev_per_atom}
            ),
        }
        for n, change in enumerate(changes)
    ]
    return list(zip(rows, drawn, strict=True))


def propose_chunk_file(config: ModifyConfig, folder: Path, given: FileRef, chunk: int) -> FileRef:
    """The polymorphs of one chunk of the given crystals, drawn once."""
    from generative.checkpoints import digest, type_of

    system, size = type_of(config.sample.checkpoint), crystals_per_chunk(config)
    table = given.read_rows(np.arange(chunk * size, min((chunk + 1) * size, len(given.read_columns("id")))))
    names = ("id", "index", "formation_energy_ev_per_atom")
    key = key_of(
        "propose",
        propose_chunk_file,
        system,
        checkpoint=digest(config.sample.checkpoint),
        given=[[row[name] for name in names] for row in table.select(names).to_pylist()],
        crystals=[crystal.digest for crystal in crystals_of(table) if crystal is not None],
        asked=asked_of(config),
        sampler=system.sampler_settings(config.sample.sampler).model_dump(mode="json"),
        seed=config.seed,
    )
    return keyed(RunFolder(folder).chunk("propose", chunk), key, lambda: propose(table, config))


@task(name="given")
def given_task(config: ModifyConfig, folder: Path) -> FileRef:
    """Read the crystals to modify; see given_crystals and given_file."""
    logger = get_run_logger()
    given, refused = given_crystals(config)
    for sentence in refused[:5]:
        logger.warning("left out: %s", sentence)
    if (old := folder / "polymorphs.parquet").is_file():
        logger.warning("%s is of an earlier version and is not read: its polymorphs are drawn again; remove it", old)
    ref = given_file(given, folder)
    logger.info("%d crystals, %d polymorphs of each", len(ref.read()), config.n_candidates)
    return ref


@task(name="reference")
def reference_task(config: ModifyConfig, folder: Path) -> FileRef | None:
    """Read the known crystals; see reference_file."""
    return reference_file(config, folder)


@task(name="propose", task_run_name="propose-{chunk}")
def propose_task(chunk: int, config: ModifyConfig, folder: Path, given: FileRef) -> FileRef:
    """Draw the polymorphs of a chunk of crystals; see propose_chunk_file."""
    from tasks.report.run.artifacts import Progress  # draws pictures too, so it loads on the worker

    with Progress(f"propose-{config.name}-{chunk}", f"drawing polymorphs, chunk {chunk}"):
        ref = propose_chunk_file(config, folder, given, chunk)
    state = ", unchanged, skipped" if ref.reused else ""
    get_run_logger().info("chunk %d: %d polymorphs%s", chunk, len(ref.read()), state)
    return ref
