"""What a dataset's report says in words and rows, the same on its page and in its artifacts."""

from __future__ import annotations

from typing import Any

from generative.datasets.manifest import Manifest, SourceRecord
from tasks.report.dataset.statistics import DatasetStatistics

MOST_REASONS = 12
"""Classes of reasons shown; rejected.parquet has every record."""


def source_rows(manifest: Manifest) -> list[dict[str, Any]]:
    """One row per source: where its records went."""
    return [
        {
            "source": source.source,
            "read": source.n_read,
            "kept": source.n_kept,
            "outside": source.n_filtered,
            "bad": source.n_rejected,
            "merged": source.n_merged,
            "method": source.method,
        }
        for source in manifest.sources
    ]


def asked_rows(source: SourceRecord) -> dict[str, str]:
    """What one source was asked, and how: everything its record in the manifest holds beside the counts."""
    stated = {"query": source.query, "release or digest": source.database_version or "not stated"}
    if source.harvest is None:
        return stated
    recorded = source.harvest.model_dump(mode="json", exclude={"warnings"}, exclude_none=True)
    return stated | {name.removeprefix("n_").replace("_", " "): str(value) for name, value in recorded.items()}


def harvest_rows(manifest: Manifest) -> list[dict[str, Any]]:
    """One row per database: how it was asked; what changed, if one of them was asked before."""
    asked = [(source.source, source.harvest) for source in manifest.sources if source.harvest is not None]
    refreshed = any(harvest.n_added is not None for _, harvest in asked)
    rows = []
    for name, harvest in asked:
        row: dict[str, Any] = {
            "source": name,
            "records": harvest.n_records,
            "requests": harvest.n_requests,
            "sent again": harvest.n_retries,
            "came twice": harvest.n_repeated,
        }
        if refreshed:
            changes = {"added": harvest.n_added, "changed": harvest.n_changed, "removed": harvest.n_removed}
            row |= {change: "" if n is None else n for change, n in changes.items()}
        rows.append({**row, "finished (UTC)": harvest.finished[:16].replace("T", " ")})
    return rows


def warnings_of(manifest: Manifest) -> list[str]:
    """What a reader should know before using the dataset, one sentence each."""
    said = [f"{s.source}: {warning}." for s in manifest.sources for warning in s.warnings]
    cut = [s for s in manifest.sources if s.harvest and s.harvest.limit is not None]
    said += [f"{s.source}: cut to the first {_limit(s):,} records of its database." for s in cut]
    return [sentence.replace("..", ".") for sentence in said]


def _limit(source: SourceRecord) -> int:
    return 0 if source.harvest is None or source.harvest.limit is None else source.harvest.limit


def methods_sentence(statistics: DatasetStatistics) -> str:
    """Which levels of theory the energies are of, and that they do not mix."""
    stated = set(statistics.formation_ev_per_atom) | set(statistics.above_hull_ev_per_atom)
    if not stated:
        return "No source states a formation energy or an energy above the hull."
    if len(stated) == 1:
        return f"All energies are of one method: {next(iter(stated))}."
    return f"Energies of {len(stated)} methods, one colour each: they share no hull and are never compared."


def lead_sentence(manifest: Manifest, statistics: DatasetStatistics) -> str:
    """What the dataset is, in one sentence."""
    n_sources = len(manifest.sources)
    where = f"inside {'-'.join(manifest.elements)}" if manifest.elements else "of any composition"
    return (
        f"{statistics.n_rows:,} known crystals {where}, from {n_sources} source{'s' if n_sources > 1 else ''}; "
        f"{statistics.n_formulas:,} distinct formulas, {statistics.n_refused:,} records in the quarantine."
    )


def spacegroup_note(statistics: DatasetStatistics) -> str:
    """How many crystals have no space group; empty if all have."""
    without = statistics.spacegroups.get(None, 0)
    return f" {without:,} crystals without a space group are left out." if without else ""


def methods_note(statistics: DatasetStatistics, n_colours: int) -> str:
    """Methods with energies that have no colour of their own in the picture; empty if all have."""
    stated = set(statistics.formation_ev_per_atom) | set(statistics.above_hull_ev_per_atom)
    rest = [method for method in statistics.methods if method in stated][n_colours:]
    return f" Not drawn, for want of colours: {', '.join(rest)}." if rest else ""
