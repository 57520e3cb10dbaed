"""The stages on a user's own files: the same functions as in a run, without a run's folder."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from configs.paths import project_version, resolve
from configs.schema import DiscoverConfig
from generative.config import ELEMENTS
from generative.crystal.crystals import STRUCTURE_FIELDS, Crystal, crystals_of
from generative.datasets.config import DataConfig, FilesSource
from storage.atomic import write_text
from storage.checksums import DamagedFileError
from storage.digests import file_digest
from storage.progress import Progress
from storage.tables import read_table
from tasks.discover.candidates import RELAXED, SAMPLED, Stage, table_of
from tasks.discover.known import competing_phases_of, cut_of, with_cut
from tasks.discover.phases import hull_energy, phases_of
from tasks.discover.relax import relax_table, survivors
from tasks.discover.sample import check_generator, draw_chunk, sample_chunks
from tasks.discover.screen import screen_table, unique_table
from tasks.files import write_table
from tasks.loading import identify

PLACED = [
    pa.field("id", pa.string()),
    pa.field("formula", pa.string()),
    pa.field("relax_status", pa.string()),
    pa.field("energy_ev_per_atom", pa.float64()),
    pa.field("energy_method", pa.string()),
    pa.field("formation_energy_ev_per_atom", pa.float64()),
    pa.field("e_above_hull_ev_per_atom", pa.float64()),
    pa.field("decomposition", pa.string()),
    pa.field("hull_note", pa.string()),
]
"""Columns of place_on_hull; units as in tasks.discover.candidates.CANDIDATES."""


class OwnFileError(ValueError):
    """A user's file that the stage cannot work on."""


@dataclass(frozen=True)
class ReadFiles:
    """What files of a user hold.

    Attributes:
        table: the crystals.
        refused: id and reason of every record that is no crystal.
        not_read: files of folders that hold none, each as 'name: reason'.
    """

    table: pa.Table
    refused: tuple[tuple[str, str], ...] = ()
    not_read: tuple[str, ...] = ()


def read_files(paths: Sequence[str]) -> ReadFiles:
    """Crystals from files of any layout that `ingest` reads, and what could not be read.

    A single Parquet file written by Hullward keeps all its columns and its cells as they are; everything else is read
    as by `ingest`, into primitive cells.

    Args:
        paths: CIF, POSCAR, CSV, JSON, XYZ, Parquet files or folders; 'assets:...' and 'package:...' too.

    Raises: OwnFileError: if not a single crystal could be read.
    """
    if len(paths) == 1 and (own := _own_table(resolve(paths[0]))) is not None:
        return ReadFiles(own)
    from generative.datasets.ingest import ingest
    from generative.datasets.manifest import read_dataset

    with TemporaryDirectory(prefix="hullward-") as folder:
        sources = tuple(FilesSource(path=path) for path in paths)
        ingest(DataConfig(sources=sources), None, Path(folder), resolve)
        dataset = read_dataset(Path(folder))
    refused = tuple((f"{row['source']}:{row['source_id']}", row["reason"]) for row in dataset.rejected.to_pylist())
    if not len(dataset.table):
        named = ", ".join(paths)
        said = f" ({refused[0][0].partition(':')[2]}: {refused[0][1]})" if refused else ""
        raise OwnFileError(f"{named}: no crystal could be read{said}")
    not_read = tuple(name for source in dataset.manifest.sources for name in source.files_not_read)
    return ReadFiles(dataset.table, refused, not_read)


def read_crystals(paths: Sequence[str]) -> tuple[pa.Table, list[str]]:
    """The crystals of `read_files`, and one sentence per record that could not be read."""
    read = read_files(paths)
    return read.table, [f"{name.partition(':')[2]}: {reason}" for name, reason in read.refused]


def _own_table(path: Path) -> pa.Table | None:
    from generative.datasets.formats.parquet_records import parquet_columns

    if path.suffix != ".parquet" or not path.is_file():
        return None
    needed = {"id", *(field.name for field in STRUCTURE_FIELDS)}
    if not needed <= set(parquet_columns(path)):
        return None
    try:
        table = read_table(path, "copy it again, or make it again with the command that wrote it")
    except DamagedFileError as error:
        raise OwnFileError(str(error)) from None
    return table if _holds_crystals(table) else None


def _holds_crystals(table: pa.Table) -> bool:
    """Whether every row's numbers fit together; of a table in which one's do not, `ingest` says which."""
    columns = [table.column(field.name) for field in STRUCTURE_FIELDS]
    if any(column.type != field.type for column, field in zip(columns, STRUCTURE_FIELDS, strict=True)):
        return False
    if any(pc.list_flatten(column).null_count for column in columns):
        return False
    lattice, coordinates, atoms = (pc.list_value_length(column).fill_null(-1).to_numpy() for column in columns)
    is_null = (lattice == -1) & (coordinates == -1) & (atoms == -1)
    return bool((is_null | ((lattice == 9) & (coordinates == 3 * atoms))).all())


def sample_crystals(config: DiscoverConfig, progress: Progress | None = None) -> pa.Table:
    """Draw `sample.n_candidates` crystals; the table of columns SAMPLED. Progress counts hundredths of a chunk."""
    check_generator(config)
    chunks = sample_chunks(config)

    def drawn(chunk: int) -> pa.Table:
        def tell(share: float) -> None:
            if progress is not None:
                progress(round(100 * (chunk + share)), 100 * len(chunks))

        return draw_chunk(config, chunk, progress=tell)

    return pa.concat_tables([drawn(chunk) for chunk in chunks]).sort_by("index")


def formula_of(crystal: Crystal) -> str:
    """Reduced formula in the order of electronegativity, such as 'TaB2'."""
    from generative.datasets import records

    return records.formula_of(crystal.atomic_numbers)


def as_candidates(table: pa.Table) -> pa.Table:
    """The crystals of any table in the columns SAMPLED; rows without one that can be built are left out."""
    rows = []
    for number, (row, crystal) in enumerate(zip(table.to_pylist(), crystals_of(table), strict=True)):
        if crystal is None or _fault(crystal):
            continue
        row.setdefault("index", number)
        row["n_atoms"] = len(crystal.atomic_numbers)
        row["formula"] = row.get("formula") or formula_of(crystal)
        rows.append({field.name: row.get(field.name) for field in SAMPLED})
    return table_of(rows, SAMPLED)


def _fault(crystal: Crystal | None) -> str:
    from generative.metrics.validity import unreadable

    return unreadable(crystal)


def left_out(table: pa.Table) -> list[tuple[str, str]]:
    """Id and reason of the rows that `as_candidates` leaves out."""
    reasons = [name for name in ("reason", "relax_reason") if name in table.column_names]
    found = []
    for row, crystal in zip(table.select(["id", *reasons]).to_pylist(), crystals_of(table), strict=True):
        if fault := _fault(crystal):
            said = "" if crystal is not None else next((row[name] for name in reasons if row[name]), "")
            found.append((row["id"], said or fault))
    return found


def screen_crystals(
    table: pa.Table, known: pa.Table, config: DiscoverConfig, refused: Sequence[tuple[str, str]] = ()
) -> pa.Table:
    """Validity, novelty against `known`, uniqueness; the table of columns SCREENED, every crystal in it.

    Args:
        table: crystals.
        known: crystals that are not new.
        config: how to screen.
        refused: id and reason of records that are no crystals: rows too, behind the others, as are those of the table.
    """
    screened = unique_table(screen_table(as_candidates(table), known, config.screen), config.screen)
    return with_refused(screened, [*left_out(table), *refused], "reason", rejected_by=Stage.READING.value)


def with_refused(table: pa.Table, refused: Sequence[tuple[str, str]], column: str, **values: str | None) -> pa.Table:
    """A table with a row behind the others for each record that is no crystal.

    Args:
        table: with columns id and `column`.
        refused: id and reason of each.
        column: takes the reason.
        values: of further columns.
    """
    rows = [{"id": name, column: reason, **values} for name, reason in refused]
    return pa.concat_tables([table, pa.Table.from_pylist(rows, schema=table.schema)])


def energies_by(config: DiscoverConfig) -> str:
    """Which potential the energies come from, and what they are worth, in a sentence."""
    method = identify(config.relax, config.execution).method
    return f"energies by {method}, a machine-learned potential: screening energies, not DFT"


def relax_crystals(
    table: pa.Table,
    config: DiscoverConfig,
    progress: Progress | None = None,
    refused: Sequence[tuple[str, str]] = (),
) -> pa.Table:
    """Relax the crystals that no stage has turned away; columns RELAXED with the formula and the crystal as given.

    What is no crystal is a failed row behind the others, and so is what was refused: id and reason of each.
    """
    given = as_candidates(survivors(table))
    relaxed = relax_table(given, config, progress)
    for name in ("formula", *(field.name for field in STRUCTURE_FIELDS)):
        if name not in relaxed.column_names:
            relaxed = relaxed.append_column(given.schema.field(name), given.column(name))
    return with_refused(relaxed, [*left_out(survivors(table)), *refused], "relax_reason", relax_status="failed")


def _relaxed(table: pa.Table, config: DiscoverConfig, progress: Progress | None) -> pa.Table:
    """The table if this potential has relaxed it already, else its crystals relaxed."""
    return survivors(table) if _is_relaxed(table, config) else relax_crystals(table, config, progress)


def _is_relaxed(table: pa.Table, config: DiscoverConfig) -> bool:
    if not {field.name for field in RELAXED} <= set(table.column_names):
        return False
    methods = pc.unique(survivors(table).column("energy_method").drop_null()).to_pylist()
    return bool(methods == [identify(config.relax, config.execution).method])


def systems_of(table: pa.Table, prefix: str = "") -> list[tuple[str, ...]]:
    """The chemical system of every row, elements sorted; empty where there is no crystal."""
    crystals = crystals_of(table, prefix)
    return [tuple(sorted({ELEMENTS[z - 1] for z in c.atomic_numbers})) if c is not None else () for c in crystals]


@dataclass(frozen=True)
class OnHull:
    """Crystals on the hull of known phases.

    Attributes:
        placed: columns PLACED, lowest above the hull first; what was refused is behind. cut_of it tells what was left
            out of the hull.
        relaxed: the crystals, relaxed.
        competing: the competing phases, relaxed.
    """

    placed: pa.Table
    relaxed: pa.Table
    competing: pa.Table


def place_on_hull(
    table: pa.Table, known: pa.Table, config: DiscoverConfig, progress: Progress | None = None
) -> pa.Table:
    """The table `placed` of `set_on_hull`."""
    return set_on_hull(table, known, config, progress).placed


def set_on_hull(
    table: pa.Table,
    known: pa.Table,
    config: DiscoverConfig,
    progress: Progress | None = None,
    refused: Sequence[tuple[str, str]] = (),
) -> OnHull:
    """Energy above the hull of the known phases, every crystal in its own chemical system.

    Args:
        table: crystals; relaxed first unless the same potential has done so already.
        known: competing phases, a dataset; those that competing_phases_of chooses are relaxed, unless all are already.
        config: potential, relaxation, most competing phases.
        progress: told of every relaxation, of competing phases first.
        refused: id and reason of records that are no crystals.
    """
    from pymatgen.core.composition import Composition

    from dft.hull.convex_hull import CompetingHull

    systems = sorted({system for system in systems_of(table) if system})
    known = survivors(known)
    # Phases that are relaxed already cost nothing more: the hull takes them all.
    chosen = known if _is_relaxed(known, config) else competing_phases_of(known, systems, config.hull.references_max)
    pressure = config.relax.pressure_gpa
    competing = _relaxed(chosen, config, progress)
    phases = phases_of(competing, pressure)
    relaxed = _relaxed(table, config, progress)
    hulls = {system: CompetingHull(phases, system) for system in systems}
    rows = []
    for row, crystal in zip(relaxed.to_pylist(), crystals_of(relaxed, "relaxed_"), strict=True):
        placed = {field.name: row.get(field.name) for field in PLACED}
        if crystal is None:
            placed["hull_note"] = row["relax_reason"]
        else:
            structure = crystal.to_structure()
            system = tuple(sorted(element.symbol for element in structure.composition.elements))
            composition = Composition(structure.composition)
            position = hulls[system].place(composition, hull_energy(row, crystal, pressure), row["energy_method"])
            placed |= {
                "formation_energy_ev_per_atom": position.formation_energy_ev_per_atom,
                "e_above_hull_ev_per_atom": position.e_above_hull_ev_per_atom,
                "decomposition": position.decomposition,
                "hull_note": position.note,
            }
        rows.append(placed)
    rows.sort(key=lambda r: (r["e_above_hull_ev_per_atom"] is None, r["e_above_hull_ev_per_atom"] or 0.0, r["id"]))
    placed = with_refused(table_of(rows, PLACED), refused, "hull_note")
    return OnHull(with_cut(placed, cut_of(chosen)), relaxed, competing)


def write_inputs_of(table: pa.Table, source: Sequence[str], out: Path, config: DiscoverConfig) -> list[dict[str, Any]]:
    """VASP inputs of the first `inputs.top_n` crystals, one folder each under `out`.

    Crystals that a stage has turned away are left out, and of relaxed ones the relaxed cell is taken.

    Returns: For each crystal id, formula, folder, notes, and the reason if its inputs could not be written.
    """
    from dft.inputs.folder import InputsError, write_inputs

    table = survivors(table)
    prefix = "relaxed_" if "relaxed_lattice_ang" in table.column_names else ""
    digests = {Path(path).name: file_digest(resolve(path)) for path in source if resolve(path).is_file()}
    outcomes: list[dict[str, Any]] = []
    for row, crystal in zip(table.to_pylist(), crystals_of(table, prefix), strict=True):
        if crystal is None or len(outcomes) == config.inputs.top_n:
            continue
        name = _file_name(row["id"])
        lineage = {
            "source": {"id": row["id"], "files_sha256": digests},
            "energies": {
                "level_of_theory": row.get("energy_method"),
                "energy_ev_per_atom": row.get("energy_ev_per_atom"),
            },
            "packages": {"hullward": project_version()},
        }
        outcome = {
            "id": row["id"],
            "formula": formula_of(crystal),
            "folder": str(out / name),
            "notes": [],
            "reason": "",
        }
        try:
            written = write_inputs(
                crystal.to_structure(), config.inputs.preset, out / name, lineage, name, config.inputs
            )
            outcome["notes"] = list(written.notes)
        except (InputsError, FileExistsError) as error:
            outcome |= {"folder": None, "reason": str(error)}
        outcomes.append(outcome)
    return outcomes


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.").removesuffix(".cif") or "crystal"


def write_crystals(table: pa.Table, out: Path, prefix: str = "") -> list[Path]:
    """A table as a Parquet file if `out` ends in .parquet, else as a folder of CIFs with the table beside them.

    Args:
        table: with id and structure columns.
        out: file or folder.
        prefix: of the structure columns that go into the CIFs.

    Returns: The files written.
    """
    if out.suffix == ".parquet":
        write_table(table, out)
        return [out]
    written = []
    for number, (name, crystal) in enumerate(
        zip(table.column("id").to_pylist(), crystals_of(table, prefix), strict=True), start=1
    ):
        if crystal is None:
            continue
        path = out / f"{number:04d}-{formula_of(crystal)}-{_file_name(name)}.cif"
        write_text(path, str(crystal.to_structure().to(fmt="cif")))
        written.append(path)
    write_table(table, out / "crystals.parquet")
    return [*written, out / "crystals.parquet"]


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows without the structure columns, fit for JSON."""
    kept = [n for n in table.column_names if not n.endswith(("lattice_ang", "frac_coords", "atomic_numbers"))]
    return [
        {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
        for row in table.select(kept).to_pylist()
    ]
