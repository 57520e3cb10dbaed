"""Samples to be judged, read so that none vanishes: each record of a file is a crystal or a reason, in its order.

Known crystals are checked, reduced and quarantined (generative/datasets); samples are not, since what is wrong with
them is what is measured. A record becomes no crystal only where its numbers are none (not finite, no volume, an unknown
element, text that cannot be read), or where an earlier record has its id. It stays in every denominator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from configs.paths import resolve
from generative.crystal.crystals import STRUCTURE_FIELDS, Crystal
from generative.datasets.checks import RecordError
from generative.datasets.config import FilesSource
from generative.datasets.files import Files, portable
from generative.datasets.formats.columns import is_row_number
from generative.datasets.records import RawRecord, parse_record
from generative.metrics.protocols import SampleSet


class EvaluationError(ValueError):
    """Files that cannot be evaluated as asked; the message says what to give instead."""


@dataclass(frozen=True)
class ReadCrystals(SampleSet):
    """All records of a file or folder, in its order; a path's name, ids, crystals and reasons.

    Ids are as the file states them, or the row's number or the file's name; a repeated one has its row behind it.

    Attributes:
        digest: 'sha256:...' of what was read, or 'fingerprint:...' of a dataset.
        not_read: files of a folder that hold no record, each as 'name: reason'; they are in no denominator.
    """

    digest: str = ""
    not_read: tuple[str, ...] = ()


class _Records(Files):
    """A file source whose records are handed out before anything is checked or left out."""

    def records(self) -> Iterator[RawRecord]:
        return self._records()


def read_samples(path: str, what: str = "samples") -> ReadCrystals:
    """Every record of a file, folder or dataset that ingest reads.

    Args:
        path: as the user wrote it; 'assets:...' and 'package:...' too.
        what: said in errors.

    Raises: EvaluationError: if there is not one record; SourceError: if the file is missing or of an unknown kind.
    """
    place = resolve(path)
    source = _Records(FilesSource(path=path), place)
    crystals: list[Crystal | None] = []
    ids: list[str] = []
    seen: set[str] = set()
    reasons: dict[int, str] = {}
    for index, (record, own_id) in enumerate(zip(source.records(), _own_ids(place), strict=False)):
        name = own_id or record.source_id
        crystal, reason = _read(record)
        if name in seen:
            crystal = None
            reason = reason or f"id {name!r} was already read: expected unique ids, the first crystal is kept"
            name = f"{name} (row {index})"
        seen.add(name)
        crystals.append(crystal)
        ids.append(name)
        if reason:
            reasons[index] = reason
    if not ids:
        raise EvaluationError(f"{path}: holds no record, so there are no {what}: expected at least one crystal")
    digest = source.database_version() or ""
    return ReadCrystals(tuple(crystals), tuple(ids), reasons, portable(path), digest, tuple(source.not_read))


def read_reference(path: str) -> ReadCrystals:
    """True crystals, as `read_samples` reads them.

    Raises: EvaluationError: if not one of them is a crystal.
    """
    read = read_samples(path, "true crystals")
    if not any(crystal is not None for crystal in read.crystals):
        first = next(iter(read.reasons.values()), "")
        raise EvaluationError(f"{path}: no true crystal could be read ({first})")
    return read


def _own_ids(place: Path) -> Iterator[str | None]:
    """Column `id` of a table of samples or candidates, which has no source_id; else None for ever."""
    if place.suffix == ".parquet" and place.is_file():
        try:
            with pq.ParquetFile(place) as file:
                names = set(file.schema_arrow.names)
                if {"id", *(f.name for f in STRUCTURE_FIELDS)} <= names and "source_id" not in names:
                    for batch in file.iter_batches(columns=["id"]):
                        yield from map(str, batch.column(0).to_pylist())
        except (OSError, pa.ArrowException):
            pass  # the reader of the records says what is wrong with the file
    while True:
        yield None


def _read(record: RawRecord) -> tuple[Crystal | None, str]:
    """(crystal, "") or (None, one sentence)."""
    from generative.metrics.validity import unreadable

    try:
        crystal = parse_record(record)
    except RecordError as error:
        return None, str(error)
    reason = unreadable(crystal)
    return (None, reason) if reason else (crystal, "")


@dataclass(frozen=True)
class Pairing:
    """Samples of every target.

    Attributes:
        how: 'id' or 'index'.
        targets: places in the reference that have at least one sample and hold a crystal.
        samples: per target the places of its samples, in their order.
        n_without_samples: crystals of the reference that no sample belongs to; they are not targets.
        n_unreadable: targets of samples that are no crystals themselves; these samples are compared with nothing.
        n_unnamed: samples, none of them a crystal, whose id names no target.
    """

    how: str
    targets: tuple[int, ...]
    samples: tuple[tuple[int, ...], ...]
    n_without_samples: int
    n_unreadable: int
    n_unnamed: int


def paired(samples: ReadCrystals, reference: ReadCrystals, how: str) -> Pairing:
    """Which samples belong to which true crystal.

    Args:
        samples: an id is its target's id, alone or followed by '#' and anything (further samples of that target).
        reference: targets. Those that are no crystals are left out.
        how: 'id', 'index', or 'auto': by id if the id of every sample that is a crystal names a target, else by index
            if there are equally many. The number of a row is no id: it says nothing of another file.

    Raises: EvaluationError: if it does not fit, or two targets have one id.
    """
    positions = {_bare(name): place for place, name in enumerate(reference.ids) if not is_row_number(name)}
    of_sample = [None if is_row_number(name) else positions.get(_target_id(name)) for name in samples.ids]
    # A record that is no crystal may carry any id, such as one that was given twice: it says nothing of the others.
    odd = [i for i, place in enumerate(of_sample) if place is None and samples.crystals[i] is not None]
    if how == "id" or (how == "auto" and not odd and samples.n_crystals):
        if odd:
            raise EvaluationError(
                f"{len(odd)} of {len(samples)} samples name no true crystal, the first is {samples.ids[odd[0]]!r}: "
                f"expected ids such as {reference.ids[0]!r} or {reference.ids[0] + '#2'!r}; or compare by index"
            )
        if len(positions) < sum(not is_row_number(name) for name in reference.ids):
            raise EvaluationError(f"{reference.name}: two true crystals have one id, so samples cannot name them")
        return _grouped(reference, of_sample, "id")
    if len(samples) != len(reference):
        raise EvaluationError(
            f"{len(samples)} samples beside {len(reference)} true crystals, and {len(odd)} samples carry the id of "
            "none: expected as many of one as of the other, in the same order, or ids that name the true crystals"
        )
    return _grouped(reference, list(range(len(samples))), "index")


def _grouped(reference: ReadCrystals, places: Sequence[int | None], how: str) -> Pairing:
    of_target: dict[int, list[int]] = {}
    for sample, target in enumerate(places):
        if target is not None:
            of_target.setdefault(target, []).append(sample)
    readable = sorted(target for target in of_target if reference.crystals[target] is not None)
    n_crystals = sum(crystal is not None for crystal in reference.crystals)
    return Pairing(
        how,
        tuple(readable),
        tuple(tuple(of_target[target]) for target in readable),
        n_crystals - len(readable),
        len(of_target) - len(readable),
        sum(place is None for place in places),
    )


def _target_id(name: str) -> str:
    head, mark, _ = _bare(name).partition("#")
    return _bare(head) if mark else head  # mp-1.cif#2 as well as mp-1#2.cif


def _bare(name: str) -> str:
    """The source's own id, without the name of the source in front and the ending of a file behind."""
    return name.rpartition(":")[2].removesuffix(".cif").removesuffix(".vasp")
