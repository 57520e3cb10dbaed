"""A run that came to its report, read from its files alone."""

from __future__ import annotations

from pathlib import Path

from configs.schema import DiscoverConfig
from tasks.discover.run import RunFolder, read_manifest
from tasks.files import FileRef
from tasks.loading import PotentialIdentity


class RunUnfinishedError(RuntimeError):
    """A run's folder that lacks what a report is made from."""


def finished_run(folder: Path) -> tuple[DiscoverConfig, PotentialIdentity, FileRef, list[FileRef]]:
    """Settings, potential, candidates and relaxed competing phases of a finished run, from its files alone.

    Raises: RunUnfinishedError: if the folder holds no run that came to its report.
    """
    run = RunFolder(folder)
    manifest = read_manifest(run)
    if "report" not in manifest or "stage_seconds" not in manifest:
        raise RunUnfinishedError(f"{folder} holds no finished run: expected the folder of one, such as runs/quickstart")
    parts = manifest["report"]
    missing = [f["name"] for f in parts["competing"] if not (run.shared_references / f["name"]).is_file()]
    if missing or not run.candidates.is_file():
        lost = run.shared_references / missing[0] if missing else run.candidates
        raise RunUnfinishedError(f"{lost} is gone: run the same discover again, which computes only what is missing")
    competing = [
        FileRef(path=run.shared_references / f["name"], sha256=f["sha256"], size=f["size"]) for f in parts["competing"]
    ]
    candidates = FileRef(path=run.candidates, sha256=parts["candidates"], size=run.candidates.stat().st_size)
    identity = PotentialIdentity.model_validate(parts["potential"])
    return DiscoverConfig.model_validate(manifest["settings"]), identity, candidates, competing
