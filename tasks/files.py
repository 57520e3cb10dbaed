"""What travels between tasks: references to files that check themselves; and tables that know what they were made from.

A chunk's file carries, in its Parquet metadata, the key it was computed for: a digest of the stage, the code that it
runs, package versions, the settings that matter, and the digests of its inputs. A file with the right key is
not computed again; anything else is a miss. Files appear by rename, so a killed process leaves none half written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from tasks.source_code import Entry, code_digest

KEY = b"hullward_key"
PACKAGES = (
    "torch", "numpy", "pymatgen", "spglib", "smact", "matgl", "chgnet", "torch-sim-atomistic", "phonopy", "atomate2",
    "jobflow", "prefect",
)  # fmt: skip
"""Packages that numbers depend on."""


class FileRef(BaseModel):
    """A file of a run: path, digest, size, and whether it was there already.

    Attributes:
        path: where it lies.
        sha256: digest of its bytes.
        size: bytes.
        reused: True if this task found it done by an earlier run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    sha256: str
    size: int
    reused: bool = False

    @classmethod
    def of(cls, path: Path, reused: bool = False) -> Self:
        """The reference of a file on disk."""
        return cls(path=path, sha256=sha256_of(path), size=path.stat().st_size, reused=reused)

    def read(self) -> pa.Table:
        """The table it holds.

        Raises: ValueError: if the file changed since the reference was made.
        """
        found = sha256_of(self.path) if self.path.is_file() else "no file"
        if found != self.sha256:
            raise ValueError(
                f"{self.path}: expected sha256 {self.sha256[:12]}, found {found[:12]}; rerun to recompute it"
            )
        return pq.read_table(self.path)


def sha256_of(path: Path) -> str:
    """Digest of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=1)
def package_versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def key_of(stage: str, *computed_by: Entry, **parts: Any) -> str:
    """The key of a result: stage, code, package versions, and what else it depends on.

    Args:
        stage: its name.
        computed_by: the function that computes it, and what that reaches by other ways than imports; see
            tasks.source_code. None for an identity, which no code may change.
        parts: settings and digests of inputs.
    """
    word = json.dumps([stage, code_digest(*computed_by), package_versions(), parts], sort_keys=True, default=str)
    return hashlib.sha256(word.encode()).hexdigest()


def write_table(table: pa.Table, path: Path, key: str = "") -> None:
    """Write a Parquet file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {**(table.schema.metadata or {}), KEY: key.encode()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table.replace_schema_metadata(metadata), temporary)
    os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def holds(path: Path, key: str) -> bool:
    """Whether a readable table with this key lies there."""
    try:
        return bool((pq.read_schema(path).metadata or {}).get(KEY) == key.encode())
    except (OSError, pa.ArrowInvalid):
        return False


def keyed(path: Path, key: str, compute: Callable[[], pa.Table]) -> FileRef:
    """The file if it holds the result for this key, else the result computed and written there."""
    if holds(path, key):
        return FileRef.of(path, reused=True)
    write_table(compute(), path, key)
    return FileRef.of(path)
