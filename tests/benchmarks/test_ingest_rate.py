"""Rates of ingest: rows per second into the store, out of it into a table, and merging; peak memory. Times are printed,
never asserted.

HULLWARD_BENCH_ROWS sets the number of rows (default 50,000; a million takes 2 GB of disk).
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from generative.config import ELEMENTS
from generative.crystal.crystals import Crystal
from generative.datasets import ingest as ingest_module
from generative.datasets.config import (
    AflowSource,
    DataConfig,
    FilesSource,
    FilterConfig,
    MaterialsProjectSource,
    NetworkSource,
    OptimadeSource,
)
from generative.datasets.databases.access import Access
from generative.datasets.databases.aflow import Aflow
from generative.datasets.databases.database import Database, Page, Record
from generative.datasets.databases.harvest import Harvest
from generative.datasets.databases.materials_project import MaterialsProject
from generative.datasets.databases.optimade import Optimade
from generative.datasets.merging import find_copies, merged
from generative.datasets.records import interpret, row_of, table_of
from generative.screening.matching import Tolerances
from tests.servers.aflux import entry_of
from tests.servers.optimade import alexandria_entry
from tests.servers.real import RealRecord, real_records

pytestmark = pytest.mark.benchmark

REPOSITORY = Path(__file__).resolve().parents[2]
N_ROWS = int(os.environ.get("HULLWARD_BENCH_ROWS", "50000"))
PAGE_SIZE = 500
MEMORY_MAX_MB = 1024
KINDS = ("materials-project", "aflow", "optimade")
COMMON_ELEMENTS = [z for z in range(1, 84) if ELEMENTS[z - 1] not in ("He", "Ne", "Ar", "Kr", "Xe", "Tc", "Pm")]


def synthetic(kind: str, number: int) -> RealRecord:
    """An ordered crystal of 2 to 20 atoms of 1 to 4 elements, seeded by its number; no two atoms closer than 0.6 A."""
    rng = np.random.default_rng((KINDS.index(kind), number))
    per_formula = rng.integers(1, 5, size=rng.integers(1, 5))
    n_formulas = int(rng.choice([f for f in (1, 2, 4) if 2 <= f * per_formula.sum() <= 20] or [2]))
    zs = rng.choice(COMMON_ELEMENTS, len(per_formula), replace=False)
    symbols = [ELEMENTS[z - 1] for z in zs for _ in range(n_formulas * int(per_formula[zs == z][0]))]
    matrix = np.eye(3) + rng.uniform(-0.2, 0.2, (3, 3))
    volume_ang3 = len(symbols) * rng.uniform(11, 22)
    matrix *= (volume_ang3 / abs(np.linalg.det(matrix))) ** (1 / 3)
    grid = np.stack(np.unravel_index(rng.permutation(27)[: len(symbols)], (3, 3, 3)), axis=1) / 3
    frac = grid + rng.uniform(-0.03, 0.03, grid.shape)
    return RealRecord(
        material_id=f"mp-{number}",
        structure=Structure(Lattice(matrix), symbols, frac),
        formation_energy_ev_per_atom=float(rng.uniform(-3, 0.5)),
        e_above_hull_ev_per_atom=float(rng.exponential(0.1)),
        band_gap_ev=float(max(0.0, rng.normal(0, 2))),
        spacegroup=int(rng.integers(1, 231)),
        elements=tuple(sorted(set(symbols))),
    )


def materials_project_body(real: RealRecord) -> dict[str, Any]:
    date = "2025-03-11T10:20:30.123000"
    summary = {
        "material_id": real.material_id,
        "structure": real.structure.as_dict(),
        "last_updated": date,
        "symmetry": {"crystal_system": "Cubic", "symbol": "P1", "number": real.spacegroup, "version": "2.5.0"},
        "band_gap": real.band_gap_ev,
        "elements": list(real.elements),
        "origins": [{"name": name, "task_id": "mp-1", "last_updated": date} for name in ("structure", "energy")],
        "theoretical": True,
        "database_IDs": {},
    }
    thermo = {
        "thermo_id": f"{real.material_id}_GGA_GGA+U",
        "material_id": real.material_id,
        "thermo_type": "GGA_GGA+U",
        "energy_type": "GGA",
        "energy_per_atom": real.formation_energy_ev_per_atom - 4.0,
        "uncorrected_energy_per_atom": real.formation_energy_ev_per_atom - 3.95,
        "formation_energy_per_atom": real.formation_energy_ev_per_atom,
        "energy_above_hull": real.e_above_hull_ev_per_atom,
        "entry_types": ["GGA"],
        "last_updated": date,
    }
    return {"summary": summary, "thermo": thermo}


def body(kind: str, real: RealRecord) -> dict[str, Any]:
    if kind == "materials-project":
        return materials_project_body(real)
    if kind == "aflow":
        return entry_of(real)
    entry = alexandria_entry(real)
    return {"id": entry.pop("id"), "type": entry.pop("type"), "attributes": entry}


def database(kind: str) -> tuple[Database, Access]:
    """The real database, which is never asked: only its `raw_record` is used."""
    config: NetworkSource
    if kind == "materials-project":
        config = MaterialsProjectSource(thermo_type="GGA_GGA+U")
        access = Access(config, kind)
        return MaterialsProject(config, FilterConfig(), None, access, None), access
    if kind == "aflow":
        config = AflowSource()
        access = Access(config, kind)
        return Aflow(config, FilterConfig(), None, access), access
    config = OptimadeSource(provider="alexandria")
    access = Access(config, kind)
    return Optimade(config, FilterConfig(), None, access), access


def now_s() -> np.ndarray:
    """Time by the clock and processor time, (2,); others on the machine disturb the second less."""
    return np.array([time.perf_counter(), time.process_time()])


class Generated:
    """A database whose pages are made here instead of asked for; `generated_s` is the time that took, as `now_s`."""

    def __init__(self, kind: str, n_records: int) -> None:
        self._real, self.access = database(kind)
        self._n_records = n_records
        self.kind = kind
        self.generated_s = np.zeros(2)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def version(self) -> str | None:
        return "2026.11"

    def count(self) -> int | None:
        return self._n_records

    def page(self, cursor: str | None) -> Page:
        started_s = now_s()
        first = int(cursor or 0)
        last = min(first + PAGE_SIZE, self._n_records)
        # Ids of Alexandria and AFLOW are hashes: pages do not come in the order in which the store keeps them.
        order = [(i * 7919) % self._n_records for i in range(first, last)]
        records = tuple(Record(f"id-{i:08d}", "2025-03-11", body(self.kind, synthetic(self.kind, i))) for i in order)
        self.generated_s += now_s() - started_s
        return Page(records, None if last == self._n_records else str(last), self._n_records)


def harvests(folder: Path, n_rows: int) -> list[tuple[Generated, Harvest]]:
    made = []
    for kind in KINDS:
        generated = Generated(kind, n_rows // len(KINDS))
        made.append((generated, Harvest(generated, generated.access, folder, page_size=PAGE_SIZE)))
    return made


def peak_memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def end_to_end(folder: str, n_rows: int) -> None:
    """Download and ingest n_rows records in this process; prints one line of JSON."""
    place = Path(folder)
    imported_mb = peak_memory_mb()
    made = harvests(place / "downloads", n_rows)
    started_s = now_s()
    for _, harvest in made:
        harvest.download()
    stored_s = now_s() - started_s - sum(generated.generated_s for generated, _ in made)
    stored_mb = peak_memory_mb()
    ingest_module.sources_of = lambda *_, **__: (harvest for _, harvest in made)  # type: ignore[assignment]
    started_s = now_s()
    config = DataConfig(sources=(FilesSource(path="replaced"),))
    manifest = ingest_module.ingest(config, None, place / "dataset", Path)
    ingested_s = now_s() - started_s
    found = {
        "n_rows": manifest.n_rows,
        "n_rejected": sum(source.n_rejected for source in manifest.sources),
        "stored_s": stored_s.tolist(),
        "ingested_s": ingested_s.tolist(),
        "imported_mb": imported_mb,
        "stored_mb": stored_mb,
        "peak_mb": peak_memory_mb(),
        "store_mb": sum(path.stat().st_size for path in (place / "downloads").iterdir()) / 1e6,
        "dataset_mb": (place / "dataset" / "dataset.parquet").stat().st_size / 1e6,
    }
    print(json.dumps(found))


def rates(n: int, took_s: np.ndarray) -> str:
    return f"{n / took_s[0]:6.0f} ({n / took_s[1]:.0f})"


def test_rate_and_memory_from_pages_to_table(tmp_path: Path) -> None:
    n_rows = N_ROWS - N_ROWS % len(KINDS)
    code = f"from tests.benchmarks.test_ingest_rate import end_to_end; end_to_end({str(tmp_path)!r}, {n_rows})"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["n_rows"] + found["n_rejected"] == n_rows
    assert found["n_rows"] > 0.99 * n_rows
    stored_s, ingested_s = np.array(found["stored_s"]), np.array(found["ingested_s"])
    stored_kb, row_kb = found["store_mb"] / n_rows * 1e3, found["dataset_mb"] / n_rows * 1e3
    print(
        f"\n{n_rows} records of {len(KINDS)} databases, one process; per second by the clock (of processor time):\n"
        f"  pages into the store             {rates(n_rows, stored_s)}, {stored_kb:.2f} kB each\n"
        f"  store, crystals checked, table   {rates(n_rows, ingested_s)}, {row_kb:.2f} kB each\n"
        f"  end to end, without the network  {rates(n_rows, stored_s + ingested_s)}, a million in "
        f"{1e6 / n_rows * (stored_s + ingested_s)[0] / 60:.1f} min\n"
        f"  peak memory {found['peak_mb']:.0f} MB: imports {found['imported_mb']:.0f}, "
        f"after the download {found['stored_mb']:.0f}"
    )
    assert found["peak_mb"] < MEMORY_MAX_MB


def timed(run: Callable[[], Any]) -> tuple[np.ndarray, Any]:
    started_s = now_s()
    result = run()
    return now_s() - started_s, result


@pytest.mark.parametrize("kind", KINDS)
def test_rate_of_reading_crystals_out_of_records(kind: str) -> None:
    n_records = min(N_ROWS, 4000)
    asked, _ = database(kind)
    records = [Record(f"id-{i}", None, body(kind, synthetic(kind, i))) for i in range(n_records)]
    for batch in interpret(map(asked.raw_record, records[:50]), "s", "m", None):  # warms caches and imports
        assert len(batch.rows)
    raw_s, raw = timed(lambda: [asked.raw_record(record) for record in records])
    table_s, batches = timed(lambda: list(interpret(iter(raw), "s", "m", None)))
    assert sum(len(batch.rows) for batch in batches) > 0.99 * n_records
    print(
        f"\n{kind}, records per second by the clock (of processor time): raw_record {rates(n_records, raw_s)}, "
        f"interpret (form {raw[0].form}) {rates(n_records, table_s)}, both {rates(n_records, raw_s + table_s)}"
    )


def described_anew(structure: Structure, rng: np.random.Generator) -> Crystal:
    """The crystal with its atoms moved by 0.03 A, its volume by up to 3 %, another origin and order of atoms."""
    matrix = structure.lattice.matrix * rng.uniform(0.99, 1.01)
    cart_ang = structure.frac_coords @ matrix + rng.normal(scale=0.03, size=(len(structure), 3)) + rng.uniform(0, 3, 3)
    order = rng.permutation(len(structure))
    species = [structure.species[i] for i in order]
    return Crystal.from_structure(Structure(Lattice(matrix), species, cart_ang[order], coords_are_cartesian=True))


def rows_of(source: str, crystals: Sequence[Crystal]) -> Iterator[pa.Table]:
    rows = (row_of(c, source, str(i), "PBE", {"spacegroup": 1}) for i, c in enumerate(crystals))
    while part := list(islice(rows, 256)):
        yield table_of(part)


def test_rate_of_merging(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    real = real_records(min(N_ROWS, 5000) // 2)
    sources = {
        "first": [Crystal.from_structure(r.structure) for r in real],
        "second": [described_anew(r.structure, rng) for r in real],
    }
    path = tmp_path / "dataset.parquet"
    tables = [table for name, crystals in sources.items() for table in rows_of(name, crystals)]
    n_rows = sum(map(len, tables))
    with pq.ParquetWriter(path, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
    found_s, copies = timed(lambda: find_copies(path, Tolerances.of(0.2, 0.3, 5.0)))
    written_s, n_kept = timed(lambda: sum(len(table) for table in merged(path, copies)))
    assert n_kept + sum(copies.n_dropped.values()) == n_rows
    assert sum(copies.n_dropped.values()) > 0.9 * len(real)
    print(
        f"\nmerging {n_rows} real and disguised rows, per second by the clock (of processor time):\n"
        f"  finding the copies {rates(n_rows, found_s)} rows, {rates(copies.n_fits, found_s)} fits: "
        f"{sum(copies.n_dropped.values())} copies, {copies.n_fits} fits of {copies.n_pairs} pairs among "
        f"{copies.n_compared} rows\n"
        f"  writing            {rates(n_rows, written_s)} rows"
    )
