"""A DFT job is a folder: what to compute goes in as job.json, and comes out as record.json or error.json.

    <root>/<key>/job.json      engine settings, crystal, purpose, lineage
    <root>/<key>/flow.json     for engines that run a jobflow Flow
    <root>/<key>/record.json   the result (dft/records.py)
    <root>/<key>/error.json    or why there is none

The key is derived from what is to be computed, so the same calculation asked for twice is one folder, and one job.
Every file appears by one rename.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pymatgen.core.structure import Structure

from dft.engines.config import EngineConfig
from dft.engines.registry import parse_engine
from dft.records import SCHEMA_VERSION, DFTRecord, RecordError
from dft.stored_classes import ForeignClassError, check_classes, nowhere
from dft.structures import StructureError, plain_structure, read_structure, structure_digest
from dft.submission.files import write_json
from storage.checksums import DamagedFileError
from storage.digests import json_digest
from storage.documents import read_document

JOB, RECORD, ERROR, FLOW = "job.json", "record.json", "error.json", "flow.json"

KEY_DIGITS = 24


class JobFolderError(ValueError):
    """A folder that holds no job, or a damaged one."""


class Purpose(StrEnum):
    """What a calculation is for."""

    RELAXATION = "relaxation"
    REFERENCE = "reference"
    """A competing phase; relaxed as candidates are."""
    STATIC = "static"
    """Energy, forces and stress of the crystal as it is."""


@dataclass(frozen=True)
class Job:
    """One calculation to be done.

    Attributes:
        key: name of its folder.
        engine: settings of the engine, its name included.
        structure: the crystal.
        candidate_id: whose crystal it is; the first one's where several candidates ask for the same calculation.
        purpose: what it is for.
        lineage: where the crystal came from; plain JSON.
    """

    key: str
    engine: EngineConfig
    structure: Structure
    candidate_id: str
    purpose: Purpose
    lineage: dict[str, Any]


def job_key(engine: EngineConfig, structure: Structure, purpose: Purpose) -> str:
    """24 hexadecimal digits that name the calculation: engine, what decides its numbers, crystal, purpose."""
    parts = {
        "engine": engine.name,
        "settings_digest": engine.settings_digest,
        "structure": structure_digest(structure),
        "purpose": purpose.value,
        **engine.follows_from(structure, is_static=purpose is Purpose.STATIC),
    }
    return json_digest(parts)[:KEY_DIGITS]


def make_job_folder(
    root: Path,
    structure: Structure,
    engine: EngineConfig,
    *,
    candidate_id: str,
    purpose: Purpose = Purpose.RELAXATION,
    lineage: Mapping[str, Any] | None = None,
) -> Path:
    """The folder of a calculation, made if it is not there.

    A folder that is there already keeps its candidate and lineage. Without a result it takes the engine settings given
    now: those that change no number, such as the number of processes, may differ.

    Args:
        root: holds the folders of a campaign; made if it is not there.
        structure: the crystal; ordered. Lattice, species, positions and `magmom` are used.
        engine: settings.
        candidate_id: whose crystal it is.
        purpose: what the calculation is for.
        lineage: plain JSON values.

    Raises:
        StructureError: if no DFT code can take the crystal.
        JobFolderError: if the lineage is not plain JSON, or the root's name is not text.
    """
    return write_job(root, planned_job(structure, engine, candidate_id=candidate_id, purpose=purpose, lineage=lineage))


def planned_job(
    structure: Structure,
    engine: EngineConfig,
    *,
    candidate_id: str,
    purpose: Purpose = Purpose.RELAXATION,
    lineage: Mapping[str, Any] | None = None,
) -> Job:
    """The calculation that make_job_folder makes a folder of; nothing is written. Arguments and errors as there."""
    plain = plain_structure(structure, candidate_id)
    plain = Structure.from_dict(json.loads(json.dumps(plain.as_dict())))  # as it will be read: the key must be the same
    try:
        origin = json.loads(json.dumps(dict(lineage or {}), sort_keys=True, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise JobFolderError(
            f"lineage of candidate {candidate_id} is not plain JSON ({error}): expected finite numbers, text, "
            "lists and dicts"
        ) from error
    try:
        check_classes(origin, f"lineage of candidate {candidate_id}", nowhere)
    except ForeignClassError as error:
        raise JobFolderError(str(error)) from error
    return Job(job_key(engine, plain, purpose), engine, plain, candidate_id, purpose, origin)


def write_job(root: Path, job: Job) -> Path:
    """The folder of a planned calculation, made if it is not there; see make_job_folder.

    Raises: JobFolderError: if the root's name is not text.
    """
    if not _is_text(root):
        raise JobFolderError(
            f"the folder {os.fsencode(root)!r} holds bytes that are no UTF-8, which neither JSON nor the files of DFT "
            "codes can name: choose another folder"
        )
    folder = Path(root) / job.key
    folder.mkdir(parents=True, exist_ok=True)
    try:
        there = read_job(folder)
    except JobFolderError:
        there = job
        is_new = True
    else:
        is_new = there.engine != job.engine and not (folder / RECORD).exists()
    if is_new:
        write_json(folder / JOB, _document(there, job.engine), checksum=True)
    return folder


def read_job(folder: Path) -> Job:
    """The job in a folder.

    Raises: JobFolderError: if there is none, or it is damaged.
    """
    path = Path(folder) / JOB
    again = "submit the same jobs again, which makes it anew"
    try:
        document = read_document(path, again)
    except FileNotFoundError:
        raise JobFolderError(f"{path} is not there: expected a folder made by make_job_folder") from None
    except (OSError, DamagedFileError) as error:
        raise JobFolderError(str(error)) from None
    if (found := document.get("schema_version")) != SCHEMA_VERSION:
        raise JobFolderError(f"{path} has schema_version {found!r}: expected {SCHEMA_VERSION!r}")
    try:
        job = Job(
            key=str(document["key"]),
            engine=parse_engine(document["engine"]),
            structure=plain_structure(read_structure(document["structure"]), str(document["candidate_id"])),
            candidate_id=str(document["candidate_id"]),
            purpose=Purpose(document["purpose"]),
            lineage=dict(document["lineage"]),
        )
        check_classes(job.lineage, "its lineage", nowhere)  # it goes into the flow's metadata, which monty decodes
    except (KeyError, TypeError, AttributeError, ValidationError, StructureError, ValueError) as error:
        raise JobFolderError(f"{path} is damaged ({type(error).__name__}: {error}): make the folder again") from error
    if job.key != (expected := job_key(job.engine, job.structure, job.purpose)):
        raise JobFolderError(f"{path} has key {job.key}, its content {expected}: it was changed; make the folder again")
    return job


def read_record(folder: Path) -> DFTRecord | None:
    """The result in a folder; None if there is none yet.

    Raises: RecordError: if there is one that cannot be read.
    """
    path = Path(folder) / RECORD
    try:
        return DFTRecord.from_document(read_document(path, "give the command again, which runs the job once more"))
    except FileNotFoundError:
        return None
    except DamagedFileError as error:
        raise RecordError(str(error)) from None
    except (OSError, RecordError) as error:
        raise RecordError(f"{path} cannot be read: {error}") from error


def write_record(folder: Path, record: DFTRecord) -> None:
    """Leave the result in a folder."""
    write_json(Path(folder) / RECORD, record.as_document(), checksum=True)


def _is_text(path: Path) -> bool:
    try:
        str(Path(path).absolute()).encode()
    except UnicodeEncodeError:
        return False
    return True


def _document(job: Job, engine: EngineConfig) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "key": job.key,
        "engine": engine.model_dump(mode="json"),
        "structure": json.loads(json.dumps(job.structure.as_dict())),
        "candidate_id": job.candidate_id,
        "purpose": job.purpose.value,
        "lineage": job.lineage,
    }
