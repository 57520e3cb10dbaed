"""The reproduction of DP-CDVAE for readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.paths import project_version
from tasks.files import package_versions
from tasks.reproductions.dp_cdvae.claims import PAPER_NAMES
from tasks.reproductions.dp_cdvae.tables import Gathered, tables
from tasks.reproductions.page import Report, curves_png

PAPER = "Pakornchote et al., Sci. Rep. 14, 1275 (2024), doi:10.1038/s41598-024-51400-4"


def report_of(found: Gathered) -> Report:
    """All that readers are shown of these results."""
    return Report(
        name=found.config.name,
        folder=found.config.folder,
        subject="DP-CDVAE",
        lead=lead(found),
        notes=notes(found),
        verdicts=found.claims.counts(),
        tables=tables(found),
        pictures=curve_pictures(found),
        content=as_dict(found),
    )


def lead(found: Gathered) -> str:
    """What was made again, on what, in a few sentences."""
    config = found.config
    files = "; ".join(f"{e.name}: trained on {_short(e.train)}, tested on {_short(e.test)}" for e in config.datasets)
    return (
        f"The tables of DP-CDVAE ({PAPER}) made again with Hullward's systems, networks of size {config.size}, "
        f"seed {config.seed}. {files}. The paper's models were trained on the official training sets; figures from "
        "other files compare with one another, not with the paper's rows."
    )


def _short(path: str) -> str:
    return Path(path.rpartition(":")[2]).name


def notes(found: Gathered) -> list[str]:
    """What a reader of the tables must know first."""
    said = []
    if found.missing:
        said.append(f"{len(found.missing)} results are missing; the last table names each with the reason.")
    if found.foreign:
        names = ", ".join(place.name for place in found.foreign[:4]) + (" ..." if len(found.foreign) > 4 else "")
        said.append(f"{len(found.foreign)} results were made by other code or packages than these: {names}.")
    said += sorted({note for result in found.results.values() for note in result.notes})
    return said


def as_dict(found: Gathered) -> dict[str, Any]:
    """reproduction.json: every figure with its settings, error and budget, every claim, what is missing."""
    return {
        "schema_version": 1,
        "name": found.config.name,
        "settings": found.config.model_dump(mode="json", exclude_defaults=True, exclude={"execution", "workers"}),
        "versions": {"hullward": project_version(), **package_versions()},
        "results": [result.as_dict() for result in found.results.values()],
        "claims": found.claims.as_dicts(),
        "missing": [{**vars(place), "why": why} for place, why in found.missing.items()],
    }


def curve_pictures(found: Gathered) -> dict[str, bytes]:
    """Losses over the steps, one picture per data set and stage; file name -> PNG."""
    pictures = {}
    for entry in found.config.datasets:
        for stage in ("train", "regressor"):
            here = (stage, entry.name)
            results = {p: r for p, r in found.results.items() if (p.stage, p.dataset) == here and r.curves}
            if results:
                pictures[f"curves-{stage}-{entry.name}.png"] = curves_png(
                    results, f"{stage}, {entry.name}", lambda system: PAPER_NAMES.get(system, "energy regressor")
                )
    return pictures
