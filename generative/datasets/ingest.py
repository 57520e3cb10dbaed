"""All sources of a run into one table: read, restricted, filtered, freed of double ids, merged, with a manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from generative.datasets.config import DataConfig, FilterConfig, NetworkSource, PrototypesSource
from generative.datasets.databases.harvest import Harvest, NetworkContext, SourcePlan
from generative.datasets.files import Files
from generative.datasets.filters import apply_filters, chemical_system
from generative.datasets.manifest import ROW_GROUP, DatasetWriter, Manifest, SourceRecord, utc_now
from generative.datasets.prototypes import Scorer, decorate
from generative.datasets.quarantine import rejected_of
from generative.datasets.sources import Resolve, Source, SourceError, Surroundings, open_source
from generative.datasets.table import DATASET_SCHEMA
from storage.atomic import staging, sweep
from storage.progress import SourceProgress
from storage.tables import TableWriter


def sources_of(
    config: DataConfig,
    resolve: Resolve,
    scorer: Scorer | None,
    system: tuple[str, ...] | None = None,
    network: NetworkContext | None = None,
    progress: SourceProgress | None = None,
) -> Iterator[Source]:
    """The sources of a configuration, in order; a name used twice gets '-2', '-3' behind it.

    Raises:
        SourceError: if prototypes are asked for without a scorer, or a database without a place to keep its records.
    """
    used: Counter[str] = Counter()
    around = Surroundings(resolve, config.filters, system, scorer, network, config.workers, progress)
    for settings in config.sources:
        source = open_source(settings, around)
        used[source.name] += 1
        if used[source.name] > 1:
            source.name = f"{source.name}-{used[source.name]}"
        yield source


def harvests(config: DataConfig, elements: Sequence[str] | None, network: NetworkContext) -> dict[int, Harvest]:
    """What asks the databases among a configuration's sources, by their place in the list.

    Raises:
        SourceError: if the settings make no query.
    """
    # No database reads a file of the user's.
    around = Surroundings(Path, config.filters, system_of(elements, config.filters), None, network, config.workers)
    return {
        place: source
        for place, settings in enumerate(config.sources)
        if isinstance(settings, NetworkSource) and isinstance(source := open_source(settings, around), Harvest)
    }


def plans(config: DataConfig, elements: Sequence[str] | None, network: NetworkContext) -> list[SourcePlan]:
    """What each database would be asked, and how many records it would send; nothing is downloaded."""
    return [harvest.plan() for harvest in harvests(config, elements, network).values()]


@dataclass(frozen=True)
class Looked:
    """What one source holds for a chemical system, as far as it can be told without asking or computing anything.

    Attributes:
        kind: of the source.
        name: of the source.
        rows: its crystals, in DATASET_SCHEMA; None where they are not here or would have to be computed.
        n_made: crystals that it would make up and have scored.
        n_read: records that were looked at.
        trouble: why it cannot be read, one sentence; empty if it can.
    """

    kind: str
    name: str
    rows: pa.Table | None = None
    n_made: int = 0
    n_read: int = 0
    trouble: str = ""


def look_through(
    config: DataConfig, elements: Sequence[str], resolve: Resolve, network: NetworkContext
) -> Iterator[Looked]:
    """What the sources of a configuration hold for a chemical system, source by source, in memory.

    Files are read as `ingest` reads them; of a database only what is downloaded; prototypes are decorated and left as
    they are. Nothing is merged.
    """
    system, ids = system_of(elements, config.filters), set[str]()
    around = Surroundings(resolve, config.filters, system, None, network, config.workers)
    for settings in config.sources:
        if settings.NEEDS_SCORER:
            n_made = len(decorate(elements, settings)) if isinstance(settings, PrototypesSource) else 0
            yield Looked(settings.kind, settings.kind, n_made=n_made)
            continue
        try:
            source = open_source(settings, around)
            if isinstance(source, Harvest) and not source.is_complete:
                yield Looked(source.kind, source.name, trouble=f"{source.name} is not downloaded yet: {source.query}")
                continue
            tally = _Tally(source)
            rows = [rows for rows, _ in _batches(source, system, config.filters, ids, tally, None)]
        except (SourceError, FileNotFoundError) as error:
            yield Looked(settings.kind, settings.kind, trouble=str(error))
            continue
        table = pa.concat_tables([DATASET_SCHEMA.empty_table(), *(part.cast(DATASET_SCHEMA) for part in rows)])
        yield Looked(source.kind, source.name, table, n_read=tally.counts["n_read"])


def ingest(
    config: DataConfig,
    elements: Sequence[str] | None,
    folder: Path,
    resolve: Resolve,
    scorer: Scorer | None = None,
    progress: SourceProgress | None = None,
    network: NetworkContext | None = None,
) -> Manifest:
    """Read all sources in order into one dataset folder.

    A record becomes a row, a row of the quarantine, one more in a count of filtered or of merged records, and nothing
    else: the manifest's counts add up for every source. Of two rows with one id the first is kept and the second
    quarantined; the same crystal in two sources is two rows, because ids carry the source's name, unless
    `config.merge` makes them one.

    Args:
        config: sources, filters, merging, and the number of worker processes.
        elements: the chemical system to restrict the table to (with every system below it); None keeps all.
        folder: where dataset.parquet, rejected.parquet and manifest.json are written, once all is read.
        resolve: finds a source's path.
        scorer: relaxes and scores prototypes; needed only if they are among the sources.
        progress: told about every page and batch.
        network: where downloads are kept, and keys; None keeps them in '.downloads' in `folder`, without keys.

    Returns:
        The manifest as written.

    Raises:
        SourceError: if a source cannot be read at all; the folder is then left as it was.
        NetworkError: if a database cannot be asked; what has come is kept, and the same call goes on from there.
    """
    system = system_of(elements, config.filters)
    network = network or NetworkContext(folder / ".downloads")
    sweep(folder, below=False)
    tallies: list[_Tally] = []
    with ExitStack() as stack:
        writer = stack.enter_context(DatasetWriter(folder))
        unmerged = stack.enter_context(_Unmerged(folder)) if config.merge else None
        ids: set[str] = set()
        for source in sources_of(config, resolve, scorer, system, network, progress):
            if isinstance(source, Harvest):
                source.download(config.refresh, progress)
            tally = _Tally(source)
            for rows, rejected in _batches(source, system, config.filters, ids, tally, progress):
                writer.add(rows if unmerged is None else rows.slice(0, 0), rejected)
                if unmerged is not None:
                    unmerged.add(rows)
            tallies.append(tally)
        if unmerged is not None:
            _merge(unmerged.close(), writer, tallies, config.filters.dimensions or 3)
        manifest = Manifest(
            sources=tuple(tally.record() for tally in tallies),
            elements=None if elements is None else tuple(sorted(set(elements))),
            filters=config.filters,
            created=utc_now(),
            n_rows=writer.n_rows,
            methods=dict(sorted(writer.methods.items())),
            fingerprint_sha256=writer.fingerprint.hexdigest(),
        )
        writer.finish(manifest)
    return manifest


def system_of(elements: Sequence[str] | None, filters: FilterConfig) -> tuple[str, ...] | None:
    """Elements allowed by both the run's chemical system and the filter, sorted; None allows all.

    Raises:
        SourceError: if they share no element.
    """
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


@dataclass
class _Tally:
    """Where the records of one source went."""

    source: Source
    counts: Counter[str] = field(default_factory=Counter)

    def record(self) -> SourceRecord:
        source = self.source
        names = ("n_read", "n_kept", "n_filtered", "n_rejected", "n_merged")
        return SourceRecord(
            source=source.name,
            kind=source.kind,
            query=source.query,
            database_version=source.database_version(),
            method=source.method,
            n_files_not_read=len(source.not_read) if isinstance(source, Files) else 0,
            files_not_read=tuple(source.not_read[:100]) if isinstance(source, Files) else (),
            harvest=source.record() if isinstance(source, Harvest) else None,
            **{name: self.counts[name] for name in names},
        )


def _batches(
    source: Source,
    system: tuple[str, ...] | None,
    filters: FilterConfig,
    ids: set[str],
    tally: _Tally,
    progress: SourceProgress | None,
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Rows to keep and rows of the quarantine, counted."""
    expected = source.record().n_records if isinstance(source, Harvest) else None
    for batch in source.batches(system):
        rows = batch.rows if system is None else chemical_system(batch.rows, system)
        rows = apply_filters(rows, filters)
        n_outside = batch.n_filtered + len(batch.rows) - len(rows)
        rows, doubles = _without_known(rows, ids, source.name)
        rejected = pa.concat_tables([batch.rejected, doubles])
        if batch.n_read != len(rows) + n_outside + len(rejected):
            raise AssertionError(f"source {source.name} lost records: {batch.n_read} read, {len(rows)} rows")
        tally.counts.update(n_read=batch.n_read, n_kept=len(rows), n_filtered=n_outside, n_rejected=len(rejected))
        yield rows, rejected
        if progress is not None and batch.n_read:
            progress(source.name, tally.counts["n_read"], expected)


class _Unmerged:
    """Rows of all sources on their way to being merged: a Parquet file that goes away at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> _Unmerged:
        with ExitStack() as stack:
            self._path = stack.enter_context(staging(self._folder / "unmerged")) / "rows.parquet"
            self._writer = TableWriter(self._path, DATASET_SCHEMA, self._path)
            stack.callback(self._writer.abandon)
            self._open = stack.pop_all()
        self._waiting: list[pa.Table] = []
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, rows: pa.Table) -> None:
        if len(rows):
            self._waiting.append(rows.select(DATASET_SCHEMA.names).cast(DATASET_SCHEMA))
        if sum(map(len, self._waiting)) >= ROW_GROUP:
            self._write()

    def _write(self) -> None:
        if self._waiting:
            self._writer.write(pa.concat_tables(self._waiting).combine_chunks())
            self._waiting.clear()

    def close(self) -> Path:
        self._write()
        self._writer.finish()
        return self._path


def _merge(path: Path, writer: DatasetWriter, tallies: Sequence[_Tally], dimensions: int) -> None:
    from generative.datasets.merging import find_copies, merged
    from generative.screening.matching import Tolerances

    copies = find_copies(path, Tolerances.of(0.2, 0.3, 5.0, dimensions))
    for rows in merged(path, copies):
        writer.add(rows, rejected_of("", []))
    # By place, not by name: rows of a dataset read from a file keep the names of the sources it was made from.
    dropped = copies.original != np.arange(len(copies.original))
    start = 0
    for tally in tallies:
        n_rows = tally.counts["n_kept"]
        n_merged = int(dropped[start : start + n_rows].sum())
        tally.counts.update(n_merged=n_merged, n_kept=-n_merged)
        start += n_rows


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
