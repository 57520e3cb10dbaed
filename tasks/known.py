"""Known crystals of a run: ingest, and which of them compete on the hull."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from prefect import task
from prefect.logging import get_run_logger

from configs.paths import resolve
from configs.schema import DiscoverConfig
from generative.config import FilesSource
from tasks.downloads import network_context
from tasks.files import FileRef, key_of, keyed, sha256_of, write_text
from tasks.loading import PotentialIdentity, potential
from tasks.run import RunFolder, update_manifest

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

    from dft.potentials import LoadedPotential
    from generative.datasets.network.harvest import NetworkContext
    from generative.datasets.prototypes import ScoredCrystal


class PotentialScorer:
    """Scores prototypes with a potential: relaxed crystal and energy, or the reason why not."""

    def __init__(self, loaded: LoadedPotential, config: DiscoverConfig) -> None:
        self._loaded, self._config = loaded, config

    @property
    def name(self) -> str:
        """Level of theory of the energies."""
        return str(self._loaded.method)

    def __call__(self, structures: list[Structure]) -> list[ScoredCrystal]:
        """Relaxed with the run's settings."""
        from dft.relaxation import relax
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
    digests = {}
    for source in config.data.sources:
        if isinstance(source, FilesSource):
            path = resolve(source.path)
            # A file that is not there is for ingest to say.
            files = sorted(p for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file())
            digests[source.path] = key_of("source", (), files=[(p.name, sha256_of(p)) for p in files])
    return digests


def download_known(config: DiscoverConfig, folder: Path) -> tuple[NetworkContext, list[str]]:
    """Bring the run's databases to their end; where downloads lie, and a digest of each.

    A finished download is taken as it is, and no database is asked, unless `data.refresh`.
    """
    from generative.datasets.ingest import harvests

    network = network_context(RunFolder(folder).shared_downloads)
    found = harvests(config.data, config.elements, network).values()
    return network, [harvest.download(config.data.refresh) for harvest in found]


def ingest_known(config: DiscoverConfig, folder: Path, identity: PotentialIdentity) -> FileRef:
    """Read all sources into the run's dataset, restricted to its chemical system."""
    from generative.datasets.ingest import ingest

    run = RunFolder(folder)
    network, downloads = download_known(config, folder)
    settled = config.data.model_copy(update={"refresh": False})
    needs_potential = any(source.kind == "prototypes" for source in config.data.sources)
    key = key_of(
        "ingest",
        ("generative", "dft") if needs_potential else ("generative",),
        data=settled.model_dump(mode="json", exclude={"workers"}),
        elements=sorted(config.elements),
        sources=source_digest(config),
        downloads=downloads,
        potential=[identity.fingerprint, config.relax.model_dump(mode="json")] if needs_potential else None,
    )
    marker = run.dataset / "key"
    reused = marker.is_file() and marker.read_text() == key
    if not reused:
        marker.unlink(missing_ok=True)
        scorer = PotentialScorer(potential(config.relax, config.execution), config) if needs_potential else None
        ingest(settled, config.elements, run.dataset, resolve, scorer, network=network)
        write_text(marker, key)
    manifest = json.loads((run.dataset / "manifest.json").read_text(encoding="utf-8"))
    update_manifest(run, dataset=manifest)
    return FileRef.of(run.dataset / "dataset.parquet", reused=reused)


def competing_phases(table: pa.Table, most: int) -> pa.Table:
    """The competing phases: for every formula those of lowest stated energy first, at most `most` in all.

    Round by round (the lowest of each formula, then the next lowest), so that a cut never empties a formula. Energies
    of different methods cannot be compared, so each method has its own order within a formula.
    """
    taken: dict[tuple[str, str], int] = {}
    order = []
    energies = pc.coalesce(
        table.column("e_above_hull_ev_per_atom"), table.column("formation_energy_ev_per_atom"), pa.scalar(1e9)
    ).to_pylist()
    formulas, ids = table.column("formula").to_pylist(), table.column("id").to_pylist()
    methods = table.column("method").to_pylist()
    for row in sorted(range(len(table)), key=lambda i: (formulas[i], energies[i], ids[i])):
        kind = formulas[row], methods[row]
        order.append((taken.get(kind, 0), formulas[row], row))
        taken[kind] = taken.get(kind, 0) + 1
    return table.take(pa.array([row for _, _, row in sorted(order)[:most]], type=pa.int64()))


def choose_references(config: DiscoverConfig, folder: Path, dataset: FileRef) -> FileRef:
    """The competing phases of the run's dataset; see competing_phases."""
    most = config.hull.references_max
    key = key_of("references", ("tasks/known.py",), dataset=dataset.sha256, most=most)
    return keyed(folder / "references.parquet", key, lambda: competing_phases(dataset.read(), most))


@task(name="ingest", retries=0)
def ingest_task(config: DiscoverConfig, folder: Path, identity: PotentialIdentity) -> FileRef:
    """Read known crystals; see ingest_known."""
    ref = ingest_known(config, folder, identity)
    get_run_logger().info("known crystals: %d rows%s", len(ref.read()), ", unchanged, skipped" if ref.reused else "")
    return ref


@task(name="references")
def references_task(config: DiscoverConfig, folder: Path, dataset: FileRef) -> FileRef:
    """Choose competing phases; see choose_references."""
    ref = choose_references(config, folder, dataset)
    get_run_logger().info("competing phases: %d%s", len(ref.read()), ", unchanged, skipped" if ref.reused else "")
    return ref
