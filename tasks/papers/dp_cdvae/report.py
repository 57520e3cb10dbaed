"""The reproduction of DP-CDVAE for readers."""

from __future__ import annotations

from tasks.papers.dp_cdvae.claims import PAPER_NAMES
from tasks.papers.dp_cdvae.tables import Gathered, tables
from tasks.papers.gathering import short_name
from tasks.papers.page import Report, curves_png

PAPER = "Pakornchote et al., Sci. Rep. 14, 1275 (2024), doi:10.1038/s41598-024-51400-4"


def report_of(found: Gathered) -> Report:
    """All that readers are shown of these results."""
    return Report(
        name=found.config.name,
        folder=found.config.folder,
        subject="DP-CDVAE",
        lead=lead(found),
        notes=found.notes(),
        verdicts=found.claims.counts(),
        tables=tables(found),
        pictures=curve_pictures(found),
        content=found.as_dict(found.config, found.claims),
    )


def lead(found: Gathered) -> str:
    """What was made again, on what, in a few sentences."""
    config = found.config
    files = "; ".join(
        f"{e.name}: trained on {short_name(e.train)}, tested on {short_name(e.test)}" for e in config.datasets
    )
    return (
        f"The tables of DP-CDVAE ({PAPER}) made again with Hullward's systems, networks of size {config.size}, "
        f"seed {config.seed}. {files}. The paper's models were trained on the official training sets; figures from "
        "other files compare with one another, not with the paper's rows."
    )


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
