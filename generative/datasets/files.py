"""The source 'files': a file of crystals, a folder of such files, or a dataset of our own.

Of a folder every file is read that can be, in the order of their names, with those in folders below it; what is not
read is named with its reason (`Files.not_read`). Left out without a word are only hidden files and folders (a name that
begins with a dot) and what systems leave behind (LITTER).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePath, PureWindowsPath

from generative.datasets.cif.files import apart
from generative.datasets.cif.magnetic import read_mcif
from generative.datasets.config import FilesSource
from generative.datasets.formats.csv_records import read_csv
from generative.datasets.formats.frames import read_xyz
from generative.datasets.formats.json_records import NO_CRYSTAL, read_json
from generative.datasets.formats.opening import UNREADABLE, opened, refused
from generative.datasets.formats.parquet_records import is_own_table, parquet_columns, read_parquet
from generative.datasets.limits import MAX_FILE_BYTES, MAX_REASON_CHARACTERS, MAX_RECORD_ATOMS
from generative.datasets.manifest import DATASET_FILE, MANIFEST_FILE, DatasetError, check_dataset, read_manifest
from generative.datasets.origins import Origin
from generative.datasets.records import Form, RawRecord, interpret
from generative.datasets.sources import SourceBatch, SourceError, Surroundings
from generative.datasets.texts import cut, plain_text
from storage.digests import file_digest

_TABLES: dict[str, Callable[[Path], Iterator[RawRecord]]] = {
    ".csv": read_csv,
    ".json": read_json,
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".xyz": read_xyz,
    ".extxyz": read_xyz,
    ".mcif": read_mcif,
}
_TABLES |= {f"{ending}.gz": reader for ending, reader in _TABLES.items()} | {".parquet": read_parquet}
_ACCEPTED = (
    "a .cif, .mcif, .vasp, .poscar, POSCAR* or CONTCAR*, .csv, .json, .jsonl, .xyz or .extxyz file (each also .gz), a "
    ".parquet file, a folder of such files, or a dataset folder"
)

LITTER = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r", "__macosx"})
"""Files and folders that systems leave behind, lower case."""


def _ending(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return "".join(suffixes[-2:]) if suffixes[-1:] == [".gz"] else "".join(suffixes[-1:])


def _form(path: Path) -> Form | None:
    """The form of a file that holds one crystal; None if its name says neither CIF nor POSCAR."""
    if _ending(path) in _TABLES:
        return None
    ending = _ending(path).removesuffix(".gz")
    if ending == ".cif":
        return Form.CIF
    if ending in (".vasp", ".poscar") or path.name.upper().startswith(("POSCAR", "CONTCAR")):
        return Form.POSCAR
    return None


def source_name(path: Path) -> str:
    """Name of a file source: the file's or folder's name without its endings, such as 'mp_20_biternary_val'."""
    return path.name if path.is_dir() else path.name.removesuffix(_ending_as_written(path))


def _ending_as_written(path: Path) -> str:
    return path.name[len(path.name) - len(_ending(path)) :] if _ending(path) else ""


def portable(path: str) -> str:
    """A path as a manifest may hold it: as given, but of an absolute path only the last part."""
    for kind in (PurePath, PureWindowsPath):
        if kind(path).is_absolute():
            return kind(path).name
    return path


def open_files(config: FilesSource, around: Surroundings) -> Files:
    """See generative.datasets.sources.Opener."""
    return Files(config, around.resolve(config.path), workers=around.workers)


class Files:
    """Crystals from a file or folder; see generative.datasets.formats.columns for the layouts.

    Attributes:
        not_read: files of a folder that were not read, each as 'name: reason'; complete after the last record.
    """

    kind = "files"

    def __init__(self, config: FilesSource, path: Path, name: str | None = None, workers: int = 1) -> None:
        """Nothing is read yet.

        Args:
            config: the source as the user described it.
            path: where its `path` lies on this machine.
            name: column `source` of the rows; the file's name if None.
            workers: processes that parse.
        """
        self._config = config
        self._path = path
        self._workers = workers
        self.name = plain_text(name or source_name(path))
        self.query = plain_text(portable(config.path)) + (f" (first {config.limit} records)" if config.limit else "")
        self.method = config.method
        self.not_read: list[str] = []

    def batches(self, elements: tuple[str, ...] | None) -> Iterator[SourceBatch]:
        """See Source.batches. Raises: SourceError: if the path is missing or of an unknown kind."""
        records = islice(self._records(), self._config.limit)
        return interpret(records, self.name, self.method, elements, self._workers, Origin(self._config.origin))

    def _records(self) -> Iterator[RawRecord]:
        path = self._path
        if not path.exists():
            raise SourceError(f"{self._config.path}: no such file or folder, expected {_ACCEPTED}")
        if path.is_dir():
            return self._dataset_records() if self._is_dataset() else self._folder_records()
        if _ending(path) in _TABLES:
            return _table_records(path, self._config.json_mb_max)
        form = _form(path)
        if form is None:
            raise SourceError(f"{self._config.path}: a file of unknown kind, expected {_ACCEPTED}")
        return apart(_file_record(path, plain_text(path.name), form))

    def _is_dataset(self) -> bool:
        return (self._path / MANIFEST_FILE).is_file() and (self._path / DATASET_FILE).is_file()

    def _dataset_records(self) -> Iterator[RawRecord]:
        try:
            check_dataset(self._path)
        except DatasetError as error:
            raise SourceError(str(error)) from None
        return read_parquet(self._path / DATASET_FILE)

    def _folder_files(self) -> list[tuple[str, Path]]:
        """Names and paths of what a folder holds, sorted, without litter."""
        files = ((file.relative_to(self._path), file) for file in self._path.rglob("*") if file.is_file())
        return sorted(
            (plain_text(name.as_posix()), file) for name, file in files if not any(map(_is_litter, name.parts))
        )

    def _folder_records(self) -> Iterator[RawRecord]:
        n_records = 0
        self.not_read = []
        for name, file in self._folder_files():
            try:
                for record in _records_in(name, file, self._config.json_mb_max):
                    n_records += 1
                    yield record
            except SourceError as error:
                reason = str(error).removeprefix(f"{file.name}: ")
                self.not_read.append(cut(plain_text(f"{name}: {reason}"), MAX_REASON_CHARACTERS))
        if not n_records:
            found = f" ({len(self.not_read)} files, {self.not_read[0]})" if self.not_read else ""
            raise SourceError(f"{self._config.path}: a folder without any crystal{found}, expected {_ACCEPTED}")

    def database_version(self) -> str | None:
        """Digest of what was read: 'sha256:...' of a file or of a folder's files, 'fingerprint:...' of a dataset."""
        if self._path.is_file():
            return f"sha256:{_file_sha256(self._path)}"
        if self._is_dataset():
            return f"fingerprint:{read_manifest(self._path).fingerprint_sha256}"
        total = hashlib.sha256()
        for name, file in self._folder_files():
            if _form(file) is None and _ending(file) not in _TABLES:
                continue
            total.update(f"{name}\0{_file_sha256(file)}\n".encode())
        return f"sha256:{total.hexdigest()}"


def _file_sha256(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:  # its record says so too
        return f"unreadable ({error.strerror})"


def _is_litter(part: str) -> bool:
    return part.startswith(".") or part.lower() in LITTER


def _table_records(path: Path, json_mb_max: float) -> Iterator[RawRecord]:
    reader = _TABLES[_ending(path)]
    return read_json(path, json_mb_max) if reader is read_json else reader(path)


def _records_in(name: str, file: Path, json_mb_max: float) -> Iterator[RawRecord]:
    """Records of one file of a folder; their ids begin with its name.

    Raises:
        SourceError: if it holds no crystals that are read; its message may begin with the file's own name.
    """
    form = _form(file)
    if form is not None:
        yield from apart(_file_record(file, name, form))
        return
    reader = _TABLES.get(_ending(file))
    if reader is None:
        raise SourceError("not read, since its name is of no kind that is")
    if reader is read_parquet and is_own_table(parquet_columns(file)):
        # It may hold the crystals of the CIF files beside it once more, or those that a stage has turned away.
        raise SourceError("not read, since it is a table of Hullward's own: name the file itself instead")
    records = _table_records(file, json_mb_max)
    if reader is read_json:
        records = _if_any(list(records))
    for record in records:
        own = record.source_id == file.name
        yield replace(record, source_id=name if own else f"{name}:{record.source_id}")


def _if_any(records: list[RawRecord]) -> Iterator[RawRecord]:
    """The records, unless they are the values of a file that is about something else, such as a manifest."""
    if records and all(record.form is Form.REFUSED and record.reason.startswith(NO_CRYSTAL) for record in records):
        raise SourceError(f"not read, since it holds no crystal ({records[0].reason})")
    return iter(records)


def _file_record(path: Path, name: str, form: Form) -> RawRecord:
    too_large = f"expected at most {MAX_FILE_BYTES} for {MAX_RECORD_ATOMS} atoms"
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            return refused(name, f"the file has {size} bytes: {too_large}", "")
        with opened(path) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except UNREADABLE as error:
        what = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        return refused(name, f"unreadable ({what}): expected a readable file", "")
    if len(content) > MAX_FILE_BYTES:
        return refused(name, f"the file unpacks to over {MAX_FILE_BYTES} bytes: {too_large}", "")
    return RawRecord(name, form, content)
