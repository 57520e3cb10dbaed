"""All sources of a run into one table: read, restricted, filtered, freed of double ids, written with a manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from generative.config import DataConfig, FilesSource, FilterConfig, PrototypesSource
from generative.datasets.files import Files, source_name
from generative.datasets.filters import apply_filters, chemical_system
from generative.datasets.manifest import DatasetWriter, Manifest, SourceRecord, utc_now
from generative.datasets.prototypes import Prototypes, Scorer
from generative.datasets.records import rejected_of
from generative.datasets.sources import Source, SourceError

Resolve = Callable[[str], Path]
"""From a path as the user wrote it ('assets:...', 'package:...', plain) to where it lies on this machine."""

Progress = Callable[[str, int], None]
"""Called after each batch with the source's name and the records read of it so far."""


def sources_of(config: DataConfig, resolve: Resolve, scorer: Scorer | None) -> Iterator[Source]:
    """The sources of a configuration, in order; a name used twice gets '-2', '-3' behind it.

    Raises:
        SourceError: if prototypes are asked for without a scorer.
    """
    used: dict[str, int] = {}

    def unique(name: str) -> str:
        used[name] = used.get(name, 0) + 1
        return name if used[name] == 1 else f"{name}-{used[name]}"

    for source in config.sources:
        if isinstance(source, FilesSource):
            path = resolve(source.path)
            yield Files(source, path, unique(source_name(path)), config.workers)
        elif isinstance(source, PrototypesSource):
            if scorer is None:
                raise SourceError(
                    "the source 'prototypes' needs a potential to relax and score its crystals, but none was given: "
                    "name one, or use files only"
                )
            yield Prototypes(source, scorer, unique("prototypes"))
        else:
            raise SourceError(f"source of kind {source.kind!r} is not known: expected 'files' or 'prototypes'")


def ingest(
    config: DataConfig,
    elements: Sequence[str] | None,
    folder: Path,
    resolve: Resolve,
    scorer: Scorer | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Read all sources in order into one dataset folder.

    A record becomes a row, a row of the quarantine, or one more in a count of filtered records, and nothing else: the
    manifest's counts add up for every source. Of two rows with one id the first is kept and the second quarantined;
    the same crystal in two sources is two rows, because ids carry the source's name.

    Args:
        config: sources, filters, and the number of worker processes.
        elements: the chemical system to restrict the table to (with every system below it); None keeps all.
        folder: where dataset.parquet, rejected.parquet and manifest.json are written, once all is read.
        resolve: finds a source's path.
        scorer: relaxes and scores prototypes; needed only if they are among the sources.
        progress: told about every batch.

    Returns:
        The manifest as written.

    Raises:
        SourceError: if a source cannot be read at all; the folder is then left as it was.
    """
    system = _system(elements, config.filters)
    ids: set[str] = set()
    records: list[SourceRecord] = []
    with DatasetWriter(folder) as writer:
        for source in sources_of(config, resolve, scorer):
            records.append(_read(source, system, config.filters, ids, writer, progress))
        manifest = Manifest(
            sources=tuple(records),
            elements=None if elements is None else tuple(sorted(set(elements))),
            filters=config.filters,
            created=utc_now(),
            n_rows=writer.n_rows,
            fingerprint_sha256=writer.fingerprint.hexdigest(),
        )
        writer.finish(manifest)
    return manifest


def _system(elements: Sequence[str] | None, filters: FilterConfig) -> tuple[str, ...] | None:
    """Elements allowed by both the run's chemical system and the filter."""
    if elements is None:
        return None if filters.elements is None else tuple(sorted(set(filters.elements)))
    if filters.elements is None:
        return tuple(sorted(set(elements)))
    shared = tuple(sorted(set(elements) & set(filters.elements)))
    if not shared:
        raise SourceError(
            f"the chemical system {list(elements)} and filters.elements {list(filters.elements)} share no element: "
            "expected at least one in both"
        )
    return shared


def _read(
    source: Source,
    system: tuple[str, ...] | None,
    filters: FilterConfig,
    ids: set[str],
    writer: DatasetWriter,
    progress: Progress | None,
) -> SourceRecord:
    n_read = n_kept = n_filtered = n_rejected = 0
    for batch in source.batches(system):
        rows = batch.rows if system is None else chemical_system(batch.rows, system)
        rows = apply_filters(rows, filters)
        n_outside = batch.n_filtered + len(batch.rows) - len(rows)
        rows, doubles = _without_known(rows, ids, source.name)
        rejected = pa.concat_tables([batch.rejected, doubles])
        if batch.n_read != len(rows) + n_outside + len(rejected):
            raise AssertionError(f"source {source.name} lost records: {batch.n_read} read, {len(rows)} rows")
        writer.add(rows, rejected)
        n_read += batch.n_read
        n_kept += len(rows)
        n_filtered += n_outside
        n_rejected += len(rejected)
        if progress is not None:
            progress(source.name, n_read)
    return SourceRecord(
        source=source.name,
        kind=source.kind,
        query=source.query,
        database_version=source.database_version(),
        method=source.method,
        n_read=n_read,
        n_kept=n_kept,
        n_filtered=n_filtered,
        n_rejected=n_rejected,
    )


def _without_known(rows: pa.Table, ids: set[str], source: str) -> tuple[pa.Table, pa.Table]:
    """Rows whose id is new (and is now known), and the others as quarantine."""
    fresh = []
    for row_id in rows.column("id").to_pylist():
        fresh.append(row_id not in ids)
        ids.add(row_id)
    if all(fresh):
        return rows, rejected_of(source, [])
    doubles = rows.filter(pc.invert(pa.array(fresh)))
    refusals = [
        (
            row["source_id"],
            f"id {row['id']!r} was already read: expected unique ids, the first crystal of this id is kept",
            row,
        )
        for row in doubles.to_pylist()
    ]
    return rows.filter(pa.array(fresh)), rejected_of(source, refusals)
