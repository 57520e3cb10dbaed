"""Candidates of a run, or rows of a dataset, as OPTIMADE JSON lines: a header, the definitions of the properties, then
one structure per line. Equal tables give equal lines: no line holds the time of the export.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from generative.crystal.crystals import STRUCTURE_FIELDS, Crystal
from generative.datasets.manifest import DATASET_FILE, MANIFEST_FILE, check_dataset
from generative.datasets.optimade_form import structure_attributes
from generative.datasets.table import batches_of
from storage.atomic import writing
from storage.checksums import DamagedFileError, check
from storage.digests import file_digest, json_digest
from storage.documents import read_document
from storage.progress import Progress
from storage.tables import reading
from tasks.discover.run import RunFolder, generator_digests, read_manifest
from tasks.files import OF_A_RUN
from tasks.optimade import fields as ours
from tasks.optimade.fields import CANDIDATE_FIELDS, DATASET_FIELDS, JSON_COLUMNS, JUDGED_FIELDS, KEPT_FIELDS, Field

BATCH_ROWS = 256
"""Rows in memory at once."""

N_HEADER_LINES = 2
"""Of an export, before its structures: the header and the definitions."""

STRUCTURE_COLUMNS = tuple(column.name for column in STRUCTURE_FIELDS)
CANDIDATES_NEEDED = {"id", "formula", "rank", *STRUCTURE_COLUMNS, *(f"relaxed_{name}" for name in STRUCTURE_COLUMNS)}
DATASET_NEEDED = {"id", "formula", "source", "source_id", *STRUCTURE_COLUMNS}


class ExportError(ValueError):
    """Nothing there that could be exported, or a row that is no valid OPTIMADE structure."""


@dataclass(frozen=True)
class Origin:
    """A table that can be exported, and what is said of all its rows.

    Attributes:
        table: Parquet file.
        title: in a word or two, for readers.
        fields: ours, in the order in which they are written.
        said: value by field name, the same for every row.
        checkpoints: digest by generator, as `proposed_by` calls it, where there were several.
        last_modified: of every entry, RFC 3339: when the table was written.
        ranked: whether its rows have ranks, so that those turned away are left out unless asked for.
    """

    table: Path
    title: str
    fields: tuple[Field, ...]
    last_modified: str
    ranked: bool
    said: Mapping[str, Any] = field(default_factory=dict)
    checkpoints: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        file: the JSON lines.
        n_structures: lines that are structures.
        n_left_out: rows that were turned away by the run and left out.
        origin: what was exported.
    """

    file: Path
    n_structures: int
    n_left_out: int
    origin: Origin


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def origin_of(path: Path) -> Origin:
    """What can be exported at a path: the folder of a run, a campaign or a dataset, or a Parquet file of their columns.

    Raises:
        ExportError: if it is none of these, or a run that is not finished.
        DatasetError: if the dataset's table is not what its manifest says.
        DamagedFileError: if a file of the run is not what was written.
    """
    if path.is_dir():
        if (path / DATASET_FILE).is_file():
            return _dataset(path)
        if (path / "campaign.json").is_file():
            return _campaign(path)
        if any((path / name).exists() for name in ("candidates.parquet", MANIFEST_FILE, ".lock")):
            return _run(path)
    if path.is_file():
        return _table(path)
    raise ExportError(
        f"{path} is {'neither a run nor a dataset' if path.is_dir() else 'not there'}: expected the folder of a run, "
        "such as runs/quickstart, the folder of a dataset made by hullward ingest, or a Parquet file of one of them"
    )


def _dataset(folder: Path) -> Origin:
    manifest = check_dataset(folder)
    created = datetime.fromisoformat(manifest.created).timestamp()
    said = {ours.DATASET.name: manifest.fingerprint_sha256}
    return Origin(
        folder / DATASET_FILE, f"dataset {folder.resolve().name}", DATASET_FIELDS, _rfc3339(created), False, said
    )


def _in_use(folder: Path) -> bool:
    """Whether a process holds the run's lock; asked with a shared lock given back at once."""
    try:
        with (folder / ".lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock file: a run copied from elsewhere
        return False
    return False


def _unfinished(run: RunFolder, manifest: Mapping[str, Any]) -> str:
    """Why the candidates are not those that the run's report was made of, or the run was begun anew since; or ''."""
    stated, settings = manifest.get("report", {}).get("candidates"), run.path / "settings.json"
    if stated is None or not run.candidates.is_file() or file_digest(run.candidates) != stated:
        return f"{run.candidates} is not what its report was made of"
    # Written with the report; the manifest's settings are those of the last start.
    if not settings.is_file() or read_document(settings, OF_A_RUN) != manifest["settings"]:
        return f"{settings} is not of its last start"
    return ""


def _run(folder: Path) -> Origin:
    if _in_use(folder):
        raise ExportError(f"{folder} is a run in progress: wait until it is done, then give the same command again")
    run = RunFolder(folder)
    manifest = read_manifest(run)
    if run.candidates.is_file():
        check(run.candidates, OF_A_RUN)
    if why := _unfinished(run, manifest):
        raise ExportError(
            f"{folder} holds no finished run ({why}): run the same discover again, which computes only what is missing"
        )
    said = {
        ours.RUN.name: manifest["name"],
        ours.SEED.name: manifest["seed"],
        ours.CHECKPOINT.name: manifest["generator_sha256"],
        ours.KNOWN.name: manifest["dataset"]["fingerprint_sha256"],
        ours.CODE.name: manifest["code_sha256"],
    }
    several = generator_digests(manifest) if manifest.get("generators") else {}
    written = _rfc3339(run.candidates.stat().st_mtime)
    fields = _candidate_fields(pq.read_schema(run.candidates).names)
    return Origin(run.candidates, f"run {manifest['name']}", fields, written, True, said, several)


def _campaign(folder: Path) -> Origin:
    """Candidates of all systems of a campaign; whatever they share, each system's run says."""
    table = folder / "candidates.parquet"
    if _in_use(folder):
        raise ExportError(
            f"{folder} is a campaign in progress: wait until it is done, then give the same command again"
        )
    if not table.is_file():
        raise ExportError(f"{folder} holds no finished campaign: run the same campaign again, which goes on from there")
    return replace(_table(table), title=f"campaign {folder.resolve().name}")


def _candidate_fields(columns: Collection[str]) -> tuple[Field, ...]:
    """The fields of a table of candidates with these columns."""
    return (*CANDIDATE_FIELDS, *(one for one in (*KEPT_FIELDS, *JUDGED_FIELDS) if one.column in columns))


def _table(file: Path) -> Origin:
    try:
        with reading(file, "expected a table of candidates or of a dataset, as it was written"):
            columns = set(pq.read_schema(file).names)
    except DamagedFileError as error:
        raise ExportError(str(error)) from None
    written = _rfc3339(file.stat().st_mtime)
    if columns >= CANDIDATES_NEEDED:
        return Origin(file, file.name, _candidate_fields(columns), written, True)
    if columns >= DATASET_NEEDED:
        return Origin(file, file.name, DATASET_FIELDS, written, False)
    raise ExportError(
        f"{file} lacks columns: {', '.join(sorted(CANDIDATES_NEEDED - columns))} of candidates, or "
        f"{', '.join(sorted(DATASET_NEEDED - columns))} of a dataset; export the folder of a run or of a dataset"
    )


def _crystal(row: Mapping[str, Any], prefix: str) -> Crystal | None:
    lattice, frac, numbers = (row.get(prefix + name) for name in STRUCTURE_COLUMNS)
    if lattice is None:
        return None
    return Crystal(np.array(lattice).reshape(3, 3), np.array(frac).reshape(-1, 3), np.array(numbers, dtype=np.int16))


def _own_values(row: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for one in origin.fields:
        value = origin.said.get(one.name) if one.column is None else row.get(one.column)
        values[one.name] = json.loads(value) if one.column in JSON_COLUMNS and value is not None else value
    if origin.checkpoints:
        values[ours.CHECKPOINT.name] = origin.checkpoints.get(row["proposed_by"])
    return values


def resource_of(row: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    """A row as an OPTIMADE structure: the relaxed crystal where there is one, else the one generated or stored.

    The entry's immutable_id is a digest of all it says but its date, so it changes exactly when the entry does.

    Raises:
        ExportError: naming the id, if the row holds no crystal or the entry breaks a rule of OPTIMADE.
    """
    name = row["id"]
    relaxed = _crystal(row, "relaxed_") if origin.ranked else None
    crystal = relaxed or _crystal(row, "")
    if crystal is None:
        raise ExportError(f"{name}: holds no crystal, expected lattice_ang, frac_coords and atomic_numbers")
    # A space group is that of the relaxed crystal, where there are two.
    attributes = structure_attributes(crystal, row["formula"], row.get("spacegroup"))
    attributes |= _own_values(row, origin)
    if origin.ranked:
        attributes[ours.STRUCTURE_KIND.name] = "generated" if relaxed is None else "relaxed"
    try:
        immutable_id = json_digest([name, attributes], spaced=True)
    except ValueError:
        raise ExportError(f"{name}: a number is not finite, which JSON cannot hold: correct the table") from None
    attributes["immutable_id"] = immutable_id
    attributes["last_modified"] = origin.last_modified
    resource = {"id": name, "type": "structures", "attributes": attributes}
    _require_valid(resource)
    return resource


def _require_valid(resource: Mapping[str, Any]) -> None:
    from optimade.models import StructureResource
    from pydantic import ValidationError

    try:
        StructureResource.model_validate(resource)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        named = ".".join(str(part) for part in first["loc"])
        raise ExportError(f"{resource['id']}: is no OPTIMADE structure, {named}: {first['msg']}") from None


def definitions(fields: tuple[Field, ...]) -> dict[str, Any]:
    """The line that defines every property of our structures, standard ones included, as /info/structures does."""
    from optimade.models import EntryInfoProperty, EntryInfoResource, StructureResource
    from optimade.server.schemas import retrieve_queryable_properties

    standard = retrieve_queryable_properties(StructureResource, {"id", "type", "attributes"})
    properties = {name: EntryInfoProperty.model_validate(about) for name, about in standard.items()}
    properties |= {one.name: EntryInfoProperty.model_validate(one.definition()) for one in fields}
    info = EntryInfoResource(
        id="structures",
        type="info",
        formats=["json"],
        description="Crystals of Hullward",
        properties=properties,
        output_fields_by_format={"json": list(properties)},
    )
    shown: dict[str, Any] = info.model_dump(mode="json", exclude_none=True)
    return shown


def lines_of(origin: Origin, everything: bool, left_out: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    """Every line of the export, read and made one at a time.

    Args:
        origin: the table.
        everything: also candidates that were turned away.
        left_out: told at the end how many rows were left out.

    Raises:
        ExportError: naming the id, at a row that cannot be exported or an id that comes twice.
    """
    from optimade import __api_version__

    yield {"x-optimade": {"meta": {"api_version": __api_version__}}}
    yield definitions(origin.fields)
    seen: set[str] = set()
    n_left_out = 0
    with pq.ParquetFile(origin.table) as file:
        for batch in batches_of(file, BATCH_ROWS):
            for row in batch.to_pylist():
                if origin.ranked and row["rank"] is None and not everything:
                    n_left_out += 1
                    continue
                if row["id"] in seen:
                    raise ExportError(f"{origin.table}: the id {row['id']} stands in two rows, expected each once")
                seen.add(row["id"])
                yield resource_of(row, origin)
    left_out(n_left_out)


def export(path: Path, out: Path, everything: bool = False, progress: Progress | None = None) -> Exported:
    """Write a run or a dataset as OPTIMADE JSON lines; the file appears whole or not at all.

    Args:
        path: see origin_of.
        out: the file; one that is there is replaced.
        everything: also candidates that were turned away, with the stage and the reason.
        progress: told of (structures written, rows in all).

    Raises:
        ExportError: if there is nothing to export, or a row cannot be.
        DatasetError: see origin_of.
    """
    origin = origin_of(path)
    n_rows = pq.read_metadata(origin.table).num_rows
    skipped: list[int] = []
    with writing(out) as temporary:
        with temporary.open("w", encoding="utf-8") as file:
            n = -N_HEADER_LINES
            for line in lines_of(origin, everything, skipped.append):
                file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n")
                n += 1
                if progress is not None:
                    progress(max(n, 0), n_rows)
        if n == 0:
            raise ExportError(
                f"{path} holds no ranked candidate, all {skipped[0]} were turned away: --all exports those"
                if skipped[0]
                else f"{path} holds no crystal: nothing to export"
            )
    return Exported(out, n, skipped[0], origin)
