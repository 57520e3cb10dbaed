"""Relaxation of candidates and of competing phases with one potential, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from prefect import task
from prefect.logging import get_run_logger

from configs.schema import DiscoverConfig
from generative.crystal.crystals import Crystal, crystals_of, structure_columns
from tasks.discover.candidates import KEPT, RELAXED, Proposer
from tasks.discover.run import RunFolder
from tasks.files import FileRef, key_of, keyed
from tasks.loading import PotentialIdentity, identify, potential, potential_code

if TYPE_CHECKING:
    from dft.results import Relaxation


def survivors(table: pa.Table) -> pa.Table:
    """Rows that no stage has turned away; all rows of a table without such a column."""
    if "rejected_by" not in table.column_names:
        return table
    return table.filter(pc.is_null(table.column("rejected_by")))


@lru_cache(maxsize=4)
def _surviving(source: FileRef) -> np.ndarray:
    """Numbers of a file's rows that survivors keeps; once per process, so that no chunk costs the whole table."""
    table = source.read_columns("id", "rejected_by")
    if "rejected_by" not in table.column_names:
        return np.arange(len(table))
    return np.flatnonzero(pc.is_null(table.column("rejected_by")))


def relax_chunks(source: FileRef, config: DiscoverConfig) -> range:
    """Numbers of the chunks that hold the surviving rows of a table."""
    return range(-(-len(_surviving(source)) // config.relax.chunk_size))


def chunk_rows(source: FileRef, config: DiscoverConfig, chunk: int) -> pa.Table:
    """The surviving rows of a table that one of its chunks holds."""
    size = config.relax.chunk_size
    return source.read_rows(_surviving(source)[chunk * size : (chunk + 1) * size])


def relax_table(
    table: pa.Table, config: DiscoverConfig, progress: Callable[[int, int], None] | None = None
) -> pa.Table:
    """Relax the crystals of a table (columns id, formula and structure).

    Returns: The table of columns RELAXED, in order, and KEPT behind them where space groups are kept.
    """
    from dft.potentials.relaxation import relax

    loaded = potential(config.relax, config.execution)
    structures = [c.to_structure() for c in crystals_of(table) if c is not None]
    done = relax(structures, loaded, config.relax, progress)
    final = [None if r.structure is None else Crystal.from_structure(r.structure) for r in done]
    columns = {
        "id": table.column("id").combine_chunks(),
        "formula": table.column("formula").combine_chunks(),
        "relax_status": [r.status.value for r in done],
        "relax_reason": [r.reason for r in done],
        "relax_steps": [r.n_steps for r in done],
        "energy_ev_per_atom": [r.energy_ev_per_atom for r in done],
        "generated_energy_ev_per_atom": [r.initial_energy_ev_per_atom for r in done],
        "fmax_ev_per_ang": [r.fmax_ev_per_ang for r in done],
        "max_stress_gpa": [r.max_stress_gpa for r in done],
        "energy_method": [loaded.method] * len(done),
        **structure_columns(final, prefix="relaxed_"),
    }
    schema = pa.schema(RELAXED)
    if config.relax.symmetry == "kept":
        schema = pa.schema([*RELAXED, *KEPT])
        columns |= _kept_columns(done)
    return pa.table([pa.array(columns[f.name], type=f.type) for f in schema], schema=schema)


def _kept_columns(done: Sequence[Relaxation]) -> dict[str, list[Any]]:
    """The columns KEPT of relaxations."""
    rows = [r.kept for r in done]
    columns: dict[str, list[Any]] = {
        "kept_spacegroup": [k and k.spacegroup for k in rows],
        "kept_energy_ev_per_atom": [k and k.energy_ev_per_atom for k in rows],
        "released_energy_ev_per_atom": [k and k.released_energy_ev_per_atom for k in rows],
        "released_spacegroup": [k and k.released_spacegroup for k in rows],
        "broken_by_ang": [k and k.broken_by_ang for k in rows],
        "is_symmetric_minimum": [k and k.is_minimum for k in rows],
        "is_released": [k and k.is_released for k in rows],
        "release_steps": [k and k.n_release_steps for k in rows],
        "release_note": [(k and k.note) or None for k in rows],
    }
    return columns


def with_kept_groups(relaxed: Sequence[FileRef]) -> list[FileRef]:
    """Those of the relaxed chunks that have the columns KEPT."""
    return [ref for ref in relaxed if KEPT[0].name in ref.read_columns(KEPT[0].name).column_names]


def with_kept(table: pa.Table, relaxed: Sequence[FileRef]) -> pa.Table:
    """Candidates with the columns KEPT, if they were relaxed in their groups; else the table as it is.

    Args:
        table: columns id, proposed_by and prototype_match; a prototype is relaxed as the competing phase it names.
        relaxed: chunks of relaxations with these columns, of candidates and competing phases.
    """
    names = ["id", *(f.name for f in KEPT)]
    rows = {row["id"]: row for ref in relaxed for row in ref.read_columns(*names).to_pylist()}
    if not rows:
        return table
    relaxed_as = [
        row["prototype_match"] if row["proposed_by"] == Proposer.PROTOTYPE else row["id"]
        for row in table.select(["id", "proposed_by", "prototype_match"]).to_pylist()
    ]
    for field in KEPT:
        values = [rows.get(name, {}).get(field.name) for name in relaxed_as]
        table = table.append_column(field, pa.array(values, type=field.type))
    return table


def relax_chunk_file(
    config: DiscoverConfig,
    folder: Path,
    identity: PotentialIdentity,
    source: FileRef,
    chunk: int,
    shared: bool,
    progress: Callable[[int, int], None] | None = None,
) -> FileRef:
    """Relax one chunk of the source's surviving rows.

    Args:
        config: settings; `relax.chunk_size` cuts the rows into chunks.
        folder: the run's folder.
        identity: the potential, so that an unchanged chunk is recognised without loading it.
        source: table with id and structure columns.
        chunk: number of the chunk.
        shared: True for what all runs share, such as competing phases, in files named by what they hold.
        progress: called with (crystals done, crystals in all).
    """
    rows = chunk_rows(source, config, chunk)
    named = zip(rows.column("id").to_pylist(), crystals_of(rows), strict=True)
    key = key_of(
        "relax",
        relax_chunk_file,
        *potential_code(config.relax),
        potential=identity.fingerprint,
        relax=config.relax.criteria(),
        crystals=[[name, c.digest] for name, c in named if c],
    )
    run = RunFolder(folder)
    path = run.shared_references / f"{key[:32]}.parquet" if shared else run.chunk("relax", chunk)
    return keyed(path, key, lambda: relax_table(rows, config, progress))


@task(name="potential")
def identify_task(config: DiscoverConfig) -> PotentialIdentity:
    """Load and check the potential, and say which one it is."""
    from tasks.report.run.artifacts import Progress  # draws pictures too, so it loads on the worker

    with Progress(f"potential-{config.name}", f"loading and checking {config.relax.potential}"):
        identity = identify(config.relax, config.execution)
    asked = config.relax.potential
    replaced = f" in place of {asked}" if identity.stands_in_for(asked) else ""
    # Why, and what was corrected, the potential says itself when it is loaded, and manifest and report have it all.
    get_run_logger().info("energies by %s%s", identity.method, replaced)
    return identity


@task(name="relax", task_run_name="relax-{what}-{chunk}", retries=1, retry_delay_seconds=5)
def relax_task(
    chunk: int,
    config: DiscoverConfig,
    folder: Path,
    identity: PotentialIdentity,
    source: FileRef,
    what: Literal["candidates", "competing phases", "given crystals"] = "candidates",
) -> FileRef:
    """Relax a chunk; see relax_chunk_file. All but candidates are shared by the runs beside this one."""
    from tasks.report.run.artifacts import Progress  # draws pictures too, so it loads on the worker

    with Progress(f"relax-{config.name}-{what}-{chunk}", f"relaxing {what}, chunk {chunk}") as progress:
        shared = what != "candidates"
        ref = relax_chunk_file(config, folder, identity, source, chunk, shared, progress.update)
    table = ref.read()
    counts = {c["values"]: c["counts"] for c in table.column("relax_status").value_counts().to_pylist()}
    said = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
    if config.relax.symmetry == "kept":
        minima = table.column("is_symmetric_minimum").to_pylist()
        said += f"; {minima.count(False)} saddle points and {minima.count(True)} minima of their space groups"
    get_run_logger().info("%s, chunk %d: %s%s", what, chunk, said, "; unchanged, skipped" if ref.reused else "")
    return ref
