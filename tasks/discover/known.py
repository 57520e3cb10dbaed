"""Known crystals of a run: ingest, and which of them compete on the hull."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from prefect import task
from prefect.logging import get_run_logger

from configs.paths import resolve
from configs.schema import DiscoverConfig
from storage.atomic import write_text
from storage.digests import file_digest
from tasks.discover.run import RunFolder, update_manifest
from tasks.files import FileRef, key_of, keyed, refuse_to_compute
from tasks.ingest.downloads import network_context
from tasks.loading import PotentialIdentity, potential, potential_code
from tasks.source_code import Entry

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

    from dft.potentials.loading import LoadedPotential
    from generative.datasets.competing import Choice
    from generative.datasets.cut import Cut
    from generative.datasets.databases.harvest import NetworkContext
    from generative.datasets.prototypes import ScoredCrystal
    from storage.progress import SourceProgress

CUT = b"hullward_cut"
"""Where a table's metadata say what was left out of it."""


class PotentialScorer:
    """Scores prototypes with a potential: relaxed crystal and energy, or the reason why not."""

    def __init__(self, loaded: LoadedPotential, config: DiscoverConfig) -> None:
        self._loaded, self._config = loaded, config

    @property
    def name(self) -> str:
        """Level of theory of the energies."""
        return str(self._loaded.method)

    @property
    def fingerprint(self) -> str:
        """Of the potential and of what decides its relaxations."""
        relax = self._config.relax
        code: tuple[Entry, ...] = (PotentialScorer, *potential_code(relax))
        return key_of("scorer", *code, potential=self._loaded.fingerprint, relax=relax.criteria())

    def __call__(self, structures: list[Structure]) -> list[ScoredCrystal]:
        """Relaxed with the run's settings."""
        from dft.potentials.relaxation import relax
        from dft.results import RelaxStatus
        from generative.datasets.prototypes import ScoredCrystal

        done = relax(structures, self._loaded, self._config.relax)
        return [
            ScoredCrystal(r.structure, r.energy_ev_per_atom, "")
            if r.status is RelaxStatus.CONVERGED
            else ScoredCrystal(None, None, r.reason or f"relaxation ended as '{r.status}' after {r.n_steps} steps")
            for r in done
        ]


def source_digest(config: DiscoverConfig) -> dict[str, str]:
    """Digest of every source file, so that a changed file is read again."""
    return {
        name: key_of("source", files=[(p.name, file_digest(p)) for p in files])
        for source in config.data.sources
        for name, files in source.inputs(resolve).items()
    }


def network_of(folder: Path) -> NetworkContext:
    """Where the downloads of a run lie."""
    return network_context(RunFolder(folder).shared_downloads)


def download_known(
    config: DiscoverConfig, network: NetworkContext, progress: SourceProgress | None = None
) -> list[str]:
    """Bring the run's databases to their end; a digest of each.

    A finished download is taken as it is, and no database is asked, unless `data.refresh`.
    """
    from generative.datasets.ingest import harvests

    digests = []
    for harvest in harvests(config.data, config.elements, network).values():
        if config.data.refresh or not harvest.is_complete:
            refuse_to_compute(harvest.path)
        digests.append(harvest.download(config.data.refresh, progress))
    return digests


def known_file(
    config: DiscoverConfig, folder: Path, identity: PotentialIdentity, progress: SourceProgress | None = None
) -> FileRef:
    """All sources in the run's dataset, restricted to its chemical system: dataset/dataset.parquet."""
    from generative.datasets.ingest import ingest
    from generative.datasets.manifest import is_whole

    run, network = RunFolder(folder), network_of(folder)
    downloads = download_known(config, network, progress)
    settled = config.data.model_copy(update={"refresh": False})
    needs_potential = any(source.NEEDS_SCORER for source in config.data.sources)
    scored_by: tuple[Entry, ...] = (PotentialScorer, *potential_code(config.relax)) if needs_potential else ()
    key = key_of(
        "ingest",
        *(source.OPENED_BY.partition(":")[0] for source in config.data.sources),
        ingest,
        *scored_by,
        data=settled.model_dump(mode="json", exclude={"workers"}),
        elements=sorted(config.elements),
        sources=source_digest(config),
        downloads=downloads,
        potential=[identity.fingerprint, config.relax.model_dump(mode="json")] if needs_potential else None,
    )
    marker = run.dataset / "key"
    reused = marker.is_file() and marker.read_bytes() == key.encode() and is_whole(run.dataset)
    if not reused:
        refuse_to_compute(marker)
        marker.unlink(missing_ok=True)
        scorer = PotentialScorer(potential(config.relax, config.execution), config) if needs_potential else None
        ingest(settled, config.elements, run.dataset, resolve, scorer, progress, network)
        write_text(marker, key)
    return FileRef.of(run.dataset / "dataset.parquet", reused=reused)


def ingest_known(
    config: DiscoverConfig, folder: Path, identity: PotentialIdentity, progress: SourceProgress | None = None
) -> FileRef:
    """The run's dataset, and in its manifest where it is from and which potential relaxes; see known_file."""
    from generative.datasets.manifest import read_manifest

    ref = known_file(config, folder, identity, progress)
    run = RunFolder(folder)
    dataset = read_manifest(run.dataset).model_dump(mode="json")
    update_manifest(run, dataset=dataset, relaxed_by=identity.model_dump(mode="json"))
    return ref


def competing_phases(table: pa.Table, most: int) -> pa.Table:
    """The competing phases of a table: at most `most`, and all that can touch the hull by what their sources state.

    Returns: Rows of the table, most important first where some were left out; cut_of tells which these were. See
        generative.datasets.competing for the choice, and for what it reads.
    """
    from generative.datasets.competing import choose

    return _taken(table, choose(table, most))


def competing_phases_of(table: pa.Table, systems: Sequence[Sequence[str]], most: int) -> pa.Table:
    """The competing phases of several chemical systems, at most `most` for each; otherwise as competing_phases."""
    from generative.datasets.competing import choose_for_systems

    return _taken(table, choose_for_systems(table, systems, most))


def _taken(table: pa.Table, choice: Choice) -> pa.Table:
    return with_cut(table.take(pa.array(choice.rows, type=pa.int64())), choice.cut)


def with_cut(table: pa.Table, cut: Cut | None) -> pa.Table:
    """The table with what was left out of its phases, or of the hull they make, in its metadata."""
    if cut is None:
        return table
    return table.replace_schema_metadata({**(table.schema.metadata or {}), CUT: json.dumps(cut.as_dict()).encode()})


def cut_of(table: pa.Table) -> Cut | None:
    """What with_cut has put there; None where phases were taken without a choice."""
    from generative.datasets.cut import Cut

    stated = (table.schema.metadata or {}).get(CUT)
    return None if stated is None else Cut.from_dict(json.loads(stated))


def references_file(config: DiscoverConfig, folder: Path, dataset: FileRef) -> FileRef:
    """The competing phases of the run's dataset: references.parquet; see competing_phases."""
    most = config.hull.references_max
    key = key_of("references", competing_phases, dataset=dataset.sha256, most=most)
    return keyed(folder / "references.parquet", key, lambda: competing_phases(dataset.read(), most))


def choose_references(config: DiscoverConfig, folder: Path, dataset: FileRef) -> FileRef:
    """The competing phases of the run's dataset, and in its manifest what was left out; see competing_phases."""
    ref = references_file(config, folder, dataset)
    cut = cut_of(ref.read())
    update_manifest(RunFolder(folder), competing_phases=None if cut is None else cut.as_dict())
    return ref


@task(name="ingest", retries=0)
def ingest_task(config: DiscoverConfig, folder: Path, identity: PotentialIdentity) -> FileRef:
    """Read known crystals; see ingest_known."""
    from tasks.report.run.artifacts import Progress  # draws pictures too, so it loads on the worker

    with Progress(f"ingest {config.name}", "reading known crystals") as progress:
        ref = ingest_known(config, folder, identity, progress.labelled)
    get_run_logger().info("known crystals: %d rows%s", len(ref.read()), ", unchanged, skipped" if ref.reused else "")
    return ref


@task(name="references")
def references_task(config: DiscoverConfig, folder: Path, dataset: FileRef) -> FileRef:
    """Choose competing phases; see choose_references."""
    ref = choose_references(config, folder, dataset)
    table = ref.read()
    get_run_logger().info("competing phases: %d%s", len(table), ", unchanged, skipped" if ref.reused else "")
    if (cut := cut_of(table)) is not None and cut.note:
        get_run_logger().warning("%s", cut.note)
    return ref
