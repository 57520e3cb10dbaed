"""Phonons of the best candidates, with the potential that relaxed them or the judge: minima or saddle points?

One candidate, one file: what was computed is not computed again. A candidate whose phonons cannot be had keeps its rank
and a sentence. The table of candidates says what came out, phonons.parquet how.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from prefect import task
from prefect.logging import get_run_logger

from configs.schema import DiscoverConfig
from dft.config import RelaxConfig
from generative.crystal.crystals import Crystal, crystals_of, field_of
from storage.tables import read_table
from tasks.discover.candidates import CANDIDATES, DYNAMICS, JUDGED, table_of
from tasks.discover.relax import with_kept, with_kept_groups
from tasks.discover.run import RunFolder
from tasks.files import OF_A_RUN, FileRef, key_of, keyed, write_table
from tasks.loading import PotentialIdentity, potential, potential_code

if TYPE_CHECKING:
    from tasks.report.run.model import PhononFigure


PHONONS = [
    field_of("id", pa.string(), "id of the candidate"),
    field_of("lowest_thz", pa.float64(), "lowest frequency, THz, negative for an imaginary one; null if none were had"),
    field_of("n_imaginary", pa.int32(), "modes below -phonons.imaginary_thz at the q-points looked at"),
    field_of("q_point", pa.list_(pa.float64()), "of the lowest imaginary mode, in the reciprocal primitive cell"),
    field_of("supercell", pa.list_(pa.int32()), "multiples of the conventional cell"),
    field_of("n_displacements", pa.int32(), "supercells whose forces were computed"),
    field_of("residual_force_ev_per_ang", pa.float64(), "largest force before any displacement, eV/A"),
    field_of("method", pa.string(), "the potential"),
    field_of("notes", pa.string(), "why there are none, or what the reader must know"),
]


def best(candidates: FileRef, n: int) -> list[tuple[dict[str, Any], Crystal]]:
    """The candidates of the n best ranks, rows and relaxed crystals, as the table has them."""
    ranks = candidates.read_columns("rank").column("rank").fill_null(n + 1).to_numpy()
    table = candidates.read_rows(np.flatnonzero(ranks <= n))
    rows = zip(table.to_pylist(), crystals_of(table, "relaxed_"), strict=True)
    return [(row, crystal) for row, crystal in rows if crystal is not None]


def best_ranked(ranked: FileRef, config: DiscoverConfig) -> range:
    """Indices of the candidates whose phonons are asked for, among those that `best` gives."""
    return range(len(best(ranked, config.phonons.n_best)))


def phonon_potential(config: DiscoverConfig) -> RelaxConfig:
    """Settings of the relaxation that names the potential of the phonons."""
    return config.relaxed_by(config.judge.potential if config.phonons.potential == "judge" else None).relax


def phonon_row(name: str, crystal: Crystal, config: DiscoverConfig) -> dict[str, Any]:
    """The columns PHONONS of one candidate."""
    from dft.potentials.phonons import PhononError, potential_phonons

    loaded = potential(phonon_potential(config), config.execution)
    try:
        found = potential_phonons(crystal.to_structure(), loaded, config.phonons.at(config.relax.pressure_gpa))
    except PhononError as error:
        return {"id": name, "method": loaded.method, "notes": str(error)}
    lowest = found.imaginary[0] if found.imaginary else None
    return {
        "id": name,
        "lowest_thz": found.lowest_thz,
        "n_imaginary": len(found.imaginary),
        "q_point": None if lowest is None else list(lowest.q_point),
        "supercell": list(found.supercell),
        "n_displacements": found.n_displacements,
        "residual_force_ev_per_ang": found.residual_force_ev_per_ang,
        "method": loaded.method,
        "notes": "; ".join(found.notes) or None,
    }


def phonon_file(
    config: DiscoverConfig, folder: Path, identity: PotentialIdentity, name: str, crystal: Crystal
) -> FileRef:
    """The phonons of one candidate, computed once."""
    key = key_of(
        "phonons",
        phonon_file,
        *potential_code(phonon_potential(config)),
        potential=identity.fingerprint,
        phonons=config.phonons.displacements(),
        pressure_gpa=config.relax.pressure_gpa,
        crystal=[name, crystal.digest],
    )
    path = folder / "phonons" / f"{name}.parquet"
    return keyed(path, key, lambda: table_of([phonon_row(name, crystal, config)], PHONONS))


def with_phonons(table: pa.Table, found: Sequence[dict[str, Any]], fields: list[pa.Field]) -> pa.Table:
    """The table with the columns DYNAMICS, null in rows without phonons.

    Args:
        table: has a column id.
        found: rows of columns PHONONS.
        fields: the columns of the result, in order; behind them go those of JUDGED, where the table has them.
    """
    by_id = {row["id"]: row for row in found}
    rows = [by_id.get(name, {}) for name in table.column("id").to_pylist()]
    modes = [row.get("n_imaginary") for row in rows]
    values: dict[str, list[Any]] = {
        "lowest_phonon_thz": [row.get("lowest_thz") for row in rows],
        "dynamically_stable": [None if n is None else n == 0 for n in modes],
        "phonon_note": [row.get("notes") for row in rows],
    }
    added = {f.name: pa.array(values[f.name], type=f.type) for f in DYNAMICS}
    fields = [*fields, *(f for f in JUDGED if f.name in table.column_names)]
    columns = [added[f.name] if f.name in added else table.column(f.name) for f in fields]
    return pa.table(columns, schema=pa.schema(fields))


def candidates_file(
    folder: Path,
    ranked: FileRef,
    phonons: list[FileRef],
    fields: list[pa.Field] = CANDIDATES,
    relaxed: Sequence[FileRef] = (),
) -> FileRef:
    """Every candidate with all its columns: candidates.parquet; and phonons.parquet, where phonons were computed.

    Args:
        folder: of the run.
        ranked: what was ranked.
        phonons: of the best.
        fields: columns of the table.
        relaxed: chunks of relaxations, whose columns KEPT are added where space groups were kept.
    """
    kept = with_kept_groups(relaxed)
    run, rows = RunFolder(folder), [row for ref in phonons for row in ref.read().to_pylist()]
    details = folder / "phonons.parquet"
    if rows:
        write_table(table_of(rows, PHONONS), details)
    else:
        details.unlink(missing_ok=True)  # of a run with other settings
    key = key_of(
        "candidates",
        candidates_file,
        ranked=ranked.sha256,
        phonons=[ref.sha256 for ref in phonons],
        kept=[ref.sha256 for ref in kept],
    )
    return keyed(run.candidates, key, lambda: with_kept(with_phonons(ranked.read(), rows, fields), kept))


def phonon_figures(candidates: FileRef, folder: Path, n: int) -> tuple[PhononFigure, ...]:
    """The phonons of a run's best candidates for its report, from the run's files; none where n is 0."""
    from tasks.report.run.model import PhononFigure

    file = folder / "phonons.parquet"
    if not n or not file.is_file():
        return ()
    known = {row["id"]: row for row in read_table(file, OF_A_RUN).to_pylist()}
    return tuple(
        PhononFigure(
            rank=row["rank"],
            formula=row["formula"],
            spacegroup_symbol=row["spacegroup_symbol"] or "",
            lowest_thz=found["lowest_thz"],
            n_imaginary=found["n_imaginary"],
            q_point=" ".join(f"{x:.3g}" for x in found["q_point"] or ()),
            supercell=" x ".join(map(str, found["supercell"] or ())),
            notes=found["notes"] or "",
            method=found["method"],
        )
        for row, _ in best(candidates, n)
        if (found := known.get(row["id"])) is not None
    )


@task(name="phonons", task_run_name="phonons-{index}", retries=1, retry_delay_seconds=5)
def phonons_task(
    index: int, config: DiscoverConfig, folder: Path, identity: PotentialIdentity, ranked: FileRef
) -> FileRef:
    """Phonons of one of the best candidates, from 0; see phonon_file."""
    row, crystal = best(ranked, config.phonons.n_best)[index]
    from tasks.report.run.artifacts import Progress  # draws pictures too, so it loads on the worker

    with Progress(f"phonons-{config.name}-{index}", f"phonons of {row['formula']}, number {index + 1}"):
        ref = phonon_file(config, folder, identity, row["id"], crystal)
    (found,) = ref.read().to_pylist()
    if found["lowest_thz"] is None:
        get_run_logger().warning("%s (%s): %s", row["formula"], row["id"], found["notes"])
        return ref
    said = f"{found['n_imaginary']} imaginary modes" if found["n_imaginary"] else "dynamically stable"
    state = ", unchanged, skipped" if ref.reused else ""
    get_run_logger().info("%s: lowest %s THz, %s%s", row["formula"], f"{found['lowest_thz']:z.2f}", said, state)
    return ref


@task(name="candidates")
def candidates_task(
    folder: Path,
    ranked: FileRef,
    phonons: list[FileRef],
    fields: list[pa.Field] = CANDIDATES,
    relaxed: Sequence[FileRef] = (),
) -> FileRef:
    """Write the table of candidates with what the phonons say; see candidates_file."""
    ref = candidates_file(folder, ranked, phonons, fields, relaxed)
    table = ref.read()
    stable = table.column("dynamically_stable").to_pylist()
    said = f"{stable.count(True)} of {len(phonons)} best dynamically stable" if phonons else "no phonons asked for"
    get_run_logger().info("%d candidates, %s%s", len(table), said, ", unchanged, skipped" if ref.reused else "")
    return ref
