"""Three databases, one table: the same real crystals come out alike, merge into one row each, and survive kill -9."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.structure import Structure

from configs.paths import resolve
from generative.crystal.crystals import crystals_of
from generative.datasets.config import DataConfig
from generative.datasets.databases.harvest import NetworkContext
from generative.datasets.ingest import ingest, plans
from generative.datasets.manifest import Dataset, read_dataset
from generative.datasets.table import DATASET_SCHEMA
from tests.servers.aflux import Aflux, real_entries
from tests.servers.faults import FaultProxy
from tests.servers.loopback import Loopback
from tests.servers.materials_project import KEY, MaterialsProjectServer, has_gga, is_deprecated, is_mislabelled
from tests.servers.optimade import OptimadeServer, alexandria_entry
from tests.servers.real import RealRecord, real_records

ROOT = Path(__file__).resolve().parents[4]
N = 1200
FAST = {"requests_per_second": 1000.0, "backoff_s": 0.01, "attempts": 2}


@dataclass(frozen=True)
class Servers:
    """Addresses of the three servers, by kind; `seen` of each counts its requests."""

    doors: dict[str, Loopback]

    def source(self, kind: str, **changes: Any) -> dict[str, Any]:
        endpoint = self.doors[kind].url + ("/API/aflux/" if kind == "aflow" else "")
        return {"kind": kind, "endpoint": endpoint, **FAST, **changes}


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with ExitStack() as stack:
        optimade = stack.enter_context(OptimadeServer([alexandria_entry(record) for record in real_records(N)]))
        yield Servers(
            {
                "materials-project": stack.enter_context(MaterialsProjectServer(N)),
                "aflow": stack.enter_context(Aflux(real_entries(N))),
                "optimade": stack.enter_context(FaultProxy(optimade.url)),
            }
        )


def secret(kind: str) -> SecretStr | None:
    return SecretStr(KEY) if kind == "materials-project" else None


def ingested(
    folder: Path, sources: list[dict[str, Any]], elements: Any = None, downloads: Path | None = None, **data: Any
) -> Dataset:
    config = DataConfig.model_validate({"sources": sources, **data})
    ingest(config, elements, folder, resolve, network=NetworkContext(downloads or folder / "downloads", secret))
    return read_dataset(folder)


@pytest.fixture(scope="module")
def datasets(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    folder = tmp_path_factory.mktemp("datasets")
    return {kind: ingested(folder / kind, [servers.source(kind)]) for kind in servers.doors}


def own_id(kind: str, row: dict[str, Any]) -> str:
    """The Materials Project's id of a row; AFLOW's server writes it into the address of an entry."""
    return str(json.loads(row["extra"])["aurl"]).rpartition("/")[2] if kind == "aflow" else str(row["source_id"])


@pytest.mark.parametrize("kind", ["materials-project", "aflow", "optimade"])
def test_a_thousand_real_crystals_of_each_database_become_rows_of_one_form(
    datasets: dict[str, Dataset], kind: str
) -> None:
    table, rejected, manifest = datasets[kind]
    assert table.schema.equals(DATASET_SCHEMA)
    truth = {record.material_id: record for record in real_records(N)}
    expected = set(truth)
    if kind == "materials-project":
        expected = {name for name in truth if not is_deprecated(name) and not is_mislabelled(name)}
    names = [own_id(kind, row) for row in table.to_pylist()]
    assert set(names) == expected
    assert len(table) == len(expected) >= 1000
    (source,) = manifest.sources
    assert source.n_read == source.n_kept + source.n_rejected == source.n_kept + len(rejected)
    assert source.harvest is not None
    assert source.harvest.n_records == source.n_read
    for name, row, crystal in zip(names, table.to_pylist(), crystals_of(table), strict=True):
        assert crystal is not None
        check_row(kind, truth[name], row)
        check_crystal(truth[name], crystal.to_structure())


def check_row(kind: str, record: RealRecord, row: dict[str, Any]) -> None:
    assert len(record.structure) % row["n_atoms"] == 0
    assert row["chemsys"] == record.chemsys
    assert row["band_gap_ev"] == record.band_gap_ev
    assert row["spacegroup"] == record.spacegroup
    assert row["method"] not in {"", "unknown"}
    if kind != "materials-project" or has_gga(record.material_id):
        assert row["formation_energy_ev_per_atom"] == pytest.approx(record.formation_energy_ev_per_atom, abs=1e-12)
    else:
        assert row["formation_energy_ev_per_atom"] is None


def check_crystal(record: RealRecord, structure: Structure) -> None:
    """The same cell up to a rotation, with the same distances among the atoms of each element."""
    if len(structure) < len(record.structure):  # some cells of the Materials Project are not primitive
        assert StructureMatcher(primitive_cell=True).fit(record.structure, structure)
        return
    assert structure.lattice.parameters == pytest.approx(record.structure.lattice.parameters, abs=1e-6)
    for symbol in record.elements:
        # AFLOW's entries stand element by element, so sites are compared within each element.
        ours, theirs = (
            np.sort([s.get_distance(i, j) for i in sites for j in sites])
            for s in (structure, record.structure)
            for sites in [[k for k, site in enumerate(s) if site.specie.symbol == symbol][:5]]
        )
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_three_tables_hold_the_same_crystals_and_energies(datasets: dict[str, Dataset]) -> None:
    by_kind = {
        kind: {own_id(kind, row): row for row in dataset.table.to_pylist()} for kind, dataset in datasets.items()
    }
    shared = set.intersection(*(set(rows) for rows in by_kind.values()))
    assert len(shared) >= 1000
    for name in shared:
        rows = [by_kind[kind][name] for kind in by_kind]
        assert len({(row["formula"], row["chemsys"], row["n_atoms"], row["spacegroup"]) for row in rows}) == 1
        energies = {row["formation_energy_ev_per_atom"] for row in rows} - {None}
        assert max(energies) - min(energies) < 1e-9
    assert len({row["method"] for rows in by_kind.values() for row in rows.values()}) == 4  # AFLOW's with and without U


@pytest.mark.parametrize("system", [("Al", "Ni"), ("Ga", "O", "Te"), ("Mg",)])
def test_a_chemical_system_asks_for_itself_and_all_below(
    servers: Servers, datasets: dict[str, Dataset], tmp_path: Path, system: tuple[str, ...]
) -> None:
    for kind, whole in datasets.items():
        table, rejected, manifest = ingested(tmp_path / kind, [servers.source(kind)], system)
        inside = [set(row["chemsys"].split("-")) <= set(system) for row in whole.table.to_pylist()]
        assert table.column("id").to_pylist() == whole.table.filter(inside).column("id").to_pylist()
        # The database does the choosing: nobody downloads all to keep a few.
        assert manifest.sources[0].n_read == len(table) + len(rejected) < 120


def test_sources_merge_into_one_row_per_crystal_with_all_ids_and_each_energy_by_its_method(
    servers: Servers, tmp_path: Path
) -> None:
    system = ("Al", "Co", "Ni", "O", "Ti")
    sources = [servers.source(kind) for kind in servers.doors]
    apart = ingested(tmp_path / "apart", sources, system, tmp_path / "downloads")
    merged = ingested(tmp_path / "merged", sources, system, tmp_path / "downloads", merge=True)
    rows = merged.table.to_pylist()
    assert len(rows) < len(apart.table)
    assert sum(source.n_merged for source in merged.manifest.sources) == len(apart.table) - len(rows)
    assert sum(merged.manifest.methods.values()) == len(rows)
    ids = [row["id"] for row in rows] + [name for row in rows for name in row["other_ids"] or ()]
    assert sorted(ids) == sorted(apart.table.column("id").to_pylist()), "no id is lost"
    stated = {row["id"]: row for row in apart.table.to_pylist()}
    for row in rows:
        for other in json.loads(row["other_energies"] or "[]"):
            truth = stated[other["id"]]
            assert other["method"] == truth["method"] != row["method"]
            assert other.get("formation_energy_ev_per_atom") == truth["formation_energy_ev_per_atom"]
        assert {k: v for k, v in row.items() if not k.startswith("other_")} == {
            k: v for k, v in stated[row["id"]].items() if not k.startswith("other_")
        }


def test_the_plan_of_each_database_counts_what_will_come(servers: Servers, tmp_path: Path) -> None:
    config = DataConfig.model_validate({"sources": [servers.source(kind) for kind in servers.doors]})
    found = plans(config, None, NetworkContext(tmp_path / "downloads", secret))
    n_current = sum(not is_deprecated(record.material_id) for record in real_records(N))
    assert {plan.kind: plan.expected for plan in found} == {"materials-project": n_current, "aflow": N, "optimade": N}
    assert not (tmp_path / "downloads").exists()


SCRIPT = """
import sys, json
from pathlib import Path
from pydantic import SecretStr
from configs.paths import resolve
from generative.datasets.config import DataConfig
from generative.datasets.ingest import ingest
from generative.datasets.databases.harvest import NetworkContext
source, folder, key = json.loads(sys.argv[1]), Path(sys.argv[2]), SecretStr(sys.stdin.read())
config = DataConfig.model_validate({"sources": [source]})
ingest(config, None, folder, resolve, network=NetworkContext(folder / "downloads", lambda kind: key))
"""


def started(source: dict[str, Any], folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps(source), str(folder)],
        env=environment,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(KEY.encode())
    process.stdin.close()
    return process


@pytest.mark.parametrize("kind", ["materials-project", "aflow", "optimade"])
def test_a_download_killed_at_three_random_points_ends_in_the_table_of_an_undisturbed_one(
    servers: Servers, datasets: dict[str, Dataset], tmp_path: Path, kind: str
) -> None:
    rng = random.Random(kind)
    source = servers.source(kind, page_size=40, requests_per_second=60.0)
    door = servers.doors[kind]
    per_page = 2 if kind == "materials-project" else 1
    n_asked: list[int] = []
    for _ in range(3):
        before = len(door.seen)
        process = started(source, tmp_path)
        wanted = before + per_page * rng.randint(3, 8)
        while len(door.seen) < wanted and process.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.03))
        assert process.poll() is None, "it must be killed while it works"
        process.send_signal(signal.SIGKILL)
        process.wait()
        n_asked.append(len(door.seen) - before)
        assert not (tmp_path / "manifest.json").exists()
    before = len(door.seen)
    process = started(source, tmp_path)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    assert process.wait(timeout=120) == 0, said
    n_asked.append(len(door.seen) - before)
    table, rejected, manifest = read_dataset(tmp_path)
    undisturbed = datasets[kind]
    assert table.equals(undisturbed.table)
    assert rejected.equals(undisturbed.rejected)
    assert manifest.fingerprint_sha256 == undisturbed.manifest.fingerprint_sha256
    n_pages = -(-N // 40)
    assert sum(n_asked) < per_page * (n_pages + 4 * 3) + 4 * 4, "at most a page or two is asked for again per kill"
