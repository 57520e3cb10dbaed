"""A run's folder: its lock, its manifest, and where each stage keeps its files."""

from __future__ import annotations

import fcntl
import logging
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from configs.schema import DiscoverConfig, harmless
from storage.atomic import naming_full_disk, sweep
from storage.checksums import DamagedFileError
from storage.documents import read_document, write_document
from tasks.discover.candidates import Proposer
from tasks.files import OF_A_RUN, package_versions
from tasks.source_code import project_digest

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"


class RunBusyError(RuntimeError):
    """Another process is working on the run of this name."""


class OtherRunError(ValueError):
    """The folder of this name holds something with other settings."""


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its files; the layout is documented in docs/architecture.md."""

    path: Path

    @property
    def dataset(self) -> Path:
        """Known crystals: dataset.parquet, rejected.parquet, manifest.json."""
        return self.path / "dataset"

    @property
    def known(self) -> Path:
        """Known crystals that candidates are held against: the dataset's, in a campaign with what others found."""
        with_finds = self.path / "known.parquet"
        return with_finds if with_finds.is_file() else self.dataset / "dataset.parquet"

    def chunk(self, stage: str, number: int) -> Path:
        """The file of one chunk of one stage."""
        return self.path / stage / f"{number:05d}.parquet"

    @property
    def shared_references(self) -> Path:
        """Relaxed competing phases, shared by all runs beside this one and named by what they were made from."""
        return self.path.parent / ".references"

    @property
    def shared_opinions(self) -> Path:
        """What judges said of crystals, shared by all runs beside this one and found by the crystal's digest."""
        return self.path.parent / ".opinions.sqlite"

    @property
    def shared_downloads(self) -> Path:
        """What databases on the network sent, shared by all runs beside this one, one file per query."""
        return self.path.parent / ".downloads"

    @property
    def ranked(self) -> Path:
        """All candidates with their ranks, before what is computed of the best alone."""
        return self.path / "ranked.parquet"

    @property
    def second_opinion(self) -> Path:
        """The same in the final order, with what the judge says of the best."""
        return self.path / "second-opinion.parquet"

    @property
    def candidates(self) -> Path:
        """The table of all candidates, ranked ones first."""
        return self.path / "candidates.parquet"


def hardware() -> dict[str, Any]:
    """The machine in a few words; no host name."""
    return {"machine": platform.machine(), "system": platform.system(), "cpu_cores": os.cpu_count()}


@contextmanager
def locked(folder: Path) -> Iterator[RunFolder]:
    """Hold the lock of a folder, rid of what killed processes left half written.

    Raises:
        RunBusyError: if another process holds the lock. A killed process holds none.
        DiskFullError: if there is no room.
    """
    with naming_full_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock_file = (folder / ".lock").open("w")
    with lock_file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunBusyError(
                f"{folder} is in use by another process: wait for it, or give this run another name"
            ) from None
        run = RunFolder(folder)
        for removed in (*sweep(run.path), *sweep(run.shared_references)):
            logger.info("removed %s, which a process that was killed had been writing", removed)
        yield run


def identity_of(config: DiscoverConfig) -> dict[str, Any]:
    """What makes a run the run that it is: the system, and which candidates are drawn in it. All other settings may
    change in the same folder, as may the number of candidates: what they change is computed anew. What generators have
    learned adds to them in the course of a campaign.
    """
    settled = config.model_copy(update={"conditions": config.conditions.settled(len(config.elements))})
    stated = settled.model_dump(mode="json", include={"elements", "seed", "conditions", "sample"})
    del stated["sample"]["n_candidates"], stated["sample"]["learned"]
    return {**stated, "elements": sorted(stated["elements"])}


def refuse_other(folder: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Keep two runs from mixing in one folder.

    Args:
        folder: where the first one lies.
        was: settings that tell them apart, of the first.
        now: the same of the one that is to begin.

    Raises: OtherRunError: if they differ.
    """
    if (found := _difference(was, now)) is not None:
        name, before, after = found
        raise OtherRunError(
            f"{folder} holds a run with other settings ({name} is {_shown(before)} there, {_shown(after)} here): "
            "give this one another name, or remove that folder"
        )


def _shown(value: Any) -> Any:
    return "null" if value is None else harmless(value)


def _difference(was: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting in which these differ, by its dotted name, and both values."""
    for name in {**was, **now}:
        before, after = was.get(name), now.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            if (found := _difference(before, after)) is not None:
                return f"{name}.{found[0]}", *found[1:]
        elif before != after:
            return name, before, after
    return None


def refuse_other_run(run: RunFolder, config: DiscoverConfig) -> None:
    """Nothing if the folder is empty or holds this very run. Raises: OtherRunError: if it holds another."""
    stated = read_manifest(run).get("settings")
    if stated is None:
        return
    now = identity_of(config)
    try:
        was = identity_of(DiscoverConfig.model_validate(stated))
    except ValidationError:  # of an earlier version
        was = {**now, "elements": sorted(stated.get("elements", now["elements"]))}
    refuse_other(run.path, was, now)


@contextmanager
def open_run(config: DiscoverConfig) -> Iterator[RunFolder]:
    """Lock the run's folder and write the first part of its manifest.

    Raises:
        OtherRunError: if a run with another identity lies there; see identity_of.
        RunBusyError, DiskFullError: as locked.
    """
    with locked(Path(config.execution.runs_folder) / config.name) as run:
        _remove_unreadable_manifest(run)
        refuse_other_run(run, config)
        (run.path / "judged.parquet").unlink(missing_ok=True)  # ranked.parquet of an earlier version
        update_manifest(
            run,
            schema_version=1,
            name=config.name,
            settings=config.model_dump(mode="json"),
            seed=config.seed,
            code_sha256=project_digest(),
            packages=package_versions(),
            hardware=hardware(),
        )
        yield run


def read_manifest(run: RunFolder) -> dict[str, Any]:
    """The run's manifest as written so far; empty if there is none.

    Raises: DamagedFileError: if it does not hold what was written.
    """
    file = run.path / MANIFEST
    return read_document(file, OF_A_RUN) if file.is_file() else {}


def generator_digests(manifest: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the checkpoint of each generator of a run, by what the column `proposed_by` calls it."""
    several = {name: said["sha256"] for name, said in manifest.get("generators", {}).items()}
    return several or {Proposer.GENERATOR.value: manifest["generator_sha256"]}


def update_manifest(run: RunFolder, **entries: Any) -> None:
    """Add or replace top-level entries.

    Raises: DiskFullError: if there is no room.
    """
    write_document(run.path / MANIFEST, {**read_manifest(run), **entries}, sort_keys=True)


def _remove_unreadable_manifest(run: RunFolder) -> None:
    try:
        read_manifest(run)
    except DamagedFileError as error:
        logger.warning("%s is written anew (%s)", run.path / MANIFEST, error)
        (run.path / MANIFEST).unlink()
