"""The source 'files': a CSV, JSON or Parquet file, a folder of CIF and POSCAR files, or a dataset of our own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePath, PureWindowsPath

from generative.config import FilesSource
from generative.datasets.checks import MAX_RECORD_ATOMS
from generative.datasets.formats import read_csv, read_parquet
from generative.datasets.json_records import read_json
from generative.datasets.manifest import DATASET_FILE, MANIFEST_FILE, DatasetError, check_dataset, read_manifest
from generative.datasets.records import Form, RawRecord, interpret
from generative.datasets.sources import SourceBatch, SourceError

MAX_FILE_BYTES = 1 << 26
"""Largest single CIF or POSCAR that is read, 64 MB: far above what MAX_RECORD_ATOMS atoms take."""

_TABLES = {
    ".csv": read_csv,
    ".csv.gz": read_csv,
    ".json": read_json,
    ".json.gz": read_json,
    ".parquet": read_parquet,
}
_ACCEPTED = (
    "a .csv, .csv.gz, .json, .json.gz or .parquet file, a .cif or POSCAR file, a folder of .cif, .vasp, .poscar, "
    "POSCAR* and CONTCAR* files, or a dataset folder"
)


def _ending(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return "".join(suffixes[-2:]) if suffixes[-1:] == [".gz"] else "".join(suffixes[-1:])


def _form(path: Path) -> Form | None:
    """The form of a file that holds one crystal; None if its name says neither CIF nor POSCAR."""
    if _ending(path) == ".cif":
        return Form.CIF
    if _ending(path) in (".vasp", ".poscar") or path.name.upper().startswith(("POSCAR", "CONTCAR")):
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


class Files:
    """Crystals from a file or folder; see generative.datasets.formats for the layouts."""

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
        self.name = name or source_name(path)
        self.query = portable(config.path) + (f" (first {config.limit} records)" if config.limit else "")
        self.method = config.method

    def batches(self, elements: tuple[str, ...] | None) -> Iterator[SourceBatch]:
        """See Source.batches. Raises: SourceError: if the path is missing or of an unknown kind."""
        records = islice(self._records(), self._config.limit)
        return interpret(records, self.name, self.method, elements, self._workers)

    def _records(self) -> Iterator[RawRecord]:
        path = self._path
        if not path.exists():
            raise SourceError(f"{self._config.path}: no such file or folder, expected {_ACCEPTED}")
        if path.is_dir():
            return self._dataset_records() if self._is_dataset() else self._folder_records()
        if _ending(path) in _TABLES:
            return _TABLES[_ending(path)](path)
        form = _form(path)
        if form is None:
            raise SourceError(f"{self._config.path}: a file of unknown kind, expected {_ACCEPTED}")
        return iter([_file_record(path, path.name, form)])

    def _is_dataset(self) -> bool:
        return (self._path / MANIFEST_FILE).is_file() and (self._path / DATASET_FILE).is_file()

    def _dataset_records(self) -> Iterator[RawRecord]:
        try:
            check_dataset(self._path)
        except DatasetError as error:
            raise SourceError(str(error)) from None
        return read_parquet(self._path / DATASET_FILE)

    def _crystal_files(self) -> list[tuple[str, Path]]:
        files = ((file.relative_to(self._path).as_posix(), file) for file in self._path.rglob("*") if file.is_file())
        return sorted((name, file) for name, file in files if _form(file) is not None)

    def _folder_records(self) -> Iterator[RawRecord]:
        files = self._crystal_files()
        if not files:
            raise SourceError(f"{self._config.path}: a folder without any crystal, expected {_ACCEPTED}")
        for name, file in files:
            form = _form(file)
            assert form is not None
            yield _file_record(file, name, form)

    def database_version(self) -> str | None:
        """Digest of what was read: 'sha256:...' of a file or of a folder's files, 'fingerprint:...' of a dataset."""
        if self._path.is_file():
            return f"sha256:{_file_sha256(self._path)}"
        if self._is_dataset():
            return f"fingerprint:{read_manifest(self._path).fingerprint_sha256}"
        total = hashlib.sha256()
        for name, file in self._crystal_files():
            total.update(f"{name}\0{_file_sha256(file)}\n".encode())
        return f"sha256:{total.hexdigest()}"


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_record(path: Path, name: str, form: Form) -> RawRecord:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            reason = f"the file has {size} bytes: expected at most {MAX_FILE_BYTES} for {MAX_RECORD_ATOMS} atoms"
            return RawRecord(name, Form.REFUSED, "", reason=reason)
        content = path.read_bytes()
    except OSError as error:
        return RawRecord(name, Form.REFUSED, "", reason=f"unreadable ({error.strerror}): expected a readable file")
    return RawRecord(name, form, content)
