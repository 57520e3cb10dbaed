"""What a dataset's report counts, against counts by another way: pandas over whole rows."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pymatgen.core.structure import Structure
from pymatgen.symmetry.groups import SpaceGroup

from generative.config import ELEMENTS
from generative.datasets.config import FilterConfig
from generative.datasets.manifest import DatasetWriter, Manifest
from generative.datasets.table import DATASET_SCHEMA, REJECTED_SCHEMA
from tasks.report.dataset.statistics import CRYSTAL_SYSTEMS, dataset_statistics, reason_class

SYSTEMS = ("Ta-W", "B-Ta-W", "O-Ti", "Ti", "Al-N-Ti")
METHODS = ("PBE", "R2SCAN")


def table(n: int, seed: int = 0) -> pa.Table:
    """Rows as they stand in a dataset, drawn at random; the crystals themselves are dummies that nobody reads."""
    rng = np.random.default_rng(seed)
    systems = rng.choice(SYSTEMS, n)
    columns = {
        "id": [f"s:{i}" for i in range(n)],
        "source": ["s"] * n,
        "source_id": [str(i) for i in range(n)],
        "formula": [f"{system.replace('-', '')}{rng.integers(1, 4)}" for system in systems],
        "chemsys": systems,
        "n_elements": [system.count("-") + 1 for system in systems],
        "n_atoms": rng.integers(1, 100, n),
        "spacegroup": [None if g == 0 else int(g) for g in rng.integers(0, 231, n)],
        "formation_energy_ev_per_atom": [None if x > 0.5 else float(x) for x in rng.normal(-1, 1, n)],
        "e_above_hull_ev_per_atom": [None if x < 0 else float(x) for x in rng.normal(0.2, 0.3, n)],
        "method": rng.choice(METHODS, n),
        "lattice_ang": [np.eye(3).ravel().tolist()] * n,
        "frac_coords": [[0.0, 0.0, 0.0]] * n,
        "atomic_numbers": [[73]] * n,
    }
    empty = {field.name: pa.nulls(n, field.type) for field in DATASET_SCHEMA if field.name not in columns}
    return pa.table(
        [
            empty[field.name] if field.name in empty else pa.array(list(columns[field.name]), field.type)
            for field in DATASET_SCHEMA
        ],
        schema=DATASET_SCHEMA,
    )


def write(folder: Path, rows: pa.Table, reasons: list[tuple[str, str]] | None = None) -> Manifest:
    rejected = [
        {"source": "s", "source_id": name, "reason": reason, "record": "{}"} for name, reason in (reasons or [])
    ]
    with DatasetWriter(folder) as writer:
        writer.add(rows, pa.Table.from_pylist(rejected, schema=REJECTED_SCHEMA))
        manifest = Manifest(
            sources=(),
            filters=FilterConfig(),
            created="2026-01-01T00:00:00+00:00",
            n_rows=writer.n_rows,
            fingerprint_sha256=writer.fingerprint.hexdigest(),
        )
        writer.finish(manifest)
    return manifest


def test_counts_are_those_of_the_rows(tmp_path: Path) -> None:
    write(tmp_path, table(3000))
    counted = dataset_statistics(tmp_path)
    frame = pd.read_parquet(tmp_path / "dataset.parquet")
    assert counted.n_rows == 3000
    assert counted.n_formulas == frame["formula"].nunique()
    assert counted.elements == dict(sorted(Counter(e for s in frame["chemsys"] for e in s.split("-")).items()))
    assert counted.n_elements == frame["n_elements"].value_counts().sort_index().to_dict()
    assert counted.n_atoms == frame["n_atoms"].value_counts().sort_index().to_dict()
    assert counted.spacegroups[None] == frame["spacegroup"].isna().sum()
    assert sum(counted.spacegroups.values()) == 3000
    assert sum(counted.crystal_systems.values()) == frame["spacegroup"].notna().sum()


def test_energies_stay_with_their_method(tmp_path: Path) -> None:
    write(tmp_path, table(500))
    counted = dataset_statistics(tmp_path)
    frame = pd.read_parquet(tmp_path / "dataset.parquet")
    for column, energies in (
        ("formation_energy_ev_per_atom", counted.formation_ev_per_atom),
        ("e_above_hull_ev_per_atom", counted.above_hull_ev_per_atom),
    ):
        assert set(energies) == set(METHODS)
        for method, values in energies.items():
            stated = frame.loc[frame["method"] == method, column].dropna().to_numpy()
            np.testing.assert_allclose(np.sort(values), np.sort(stated), rtol=1e-6)


def test_crystal_systems_end_where_pymatgen_ends_them() -> None:
    bounds = dict(CRYSTAL_SYSTEMS)
    for number in range(1, 231):
        named = next(name for name, last in bounds.items() if number <= last)
        assert named == SpaceGroup.from_int_number(number).crystal_system


def test_memory_follows_the_columns_and_not_the_crystals(tmp_path: Path) -> None:
    rows = table(2000)
    heavy = rows.set_column(
        rows.schema.get_field_index("frac_coords"),
        DATASET_SCHEMA.field("frac_coords"),
        pa.array([[0.5] * 3000] * 2000, DATASET_SCHEMA.field("frac_coords").type),
    )
    write(tmp_path, heavy)  # 48 MB of coordinates
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    dataset_statistics(tmp_path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20e6
    assert pa.total_allocated_bytes() - before < 20e6
    # What it asks of the file is named, so that a new column of crystals is never read by accident.
    assert "frac_coords" in pq.read_schema(tmp_path / "dataset.parquet").names


def test_like_reasons_count_together_with_an_example(tmp_path: Path) -> None:
    reasons = [(f"r{i}", f"two atoms are 0.{i} A apart: expected at least 0.5 A") for i in range(1, 5)]
    reasons += [("x", "id 'mp:mp-1' was already read: expected unique ids"), ("y", "no structure")]
    write(tmp_path, table(3), reasons)
    counted = dataset_statistics(tmp_path)
    assert counted.n_refused == 6
    first, *others = counted.refusals
    assert (first.count, first.example_id, first.example) == (4, *reasons[0])
    assert {refusal.count for refusal in others} == {1}
    assert reason_class("run_type is 'GGA': expected R2SCAN") == reason_class("run_type is 'GGA+U': expected R2SCAN")


def test_an_empty_dataset_is_counted_too(tmp_path: Path) -> None:
    write(tmp_path, table(0))
    counted = dataset_statistics(tmp_path)
    assert (counted.n_rows, counted.elements, counted.formation_ev_per_atom, counted.refusals) == (0, {}, {}, ())


def test_counts_of_the_shipped_table_agree_with_its_crystals() -> None:
    place = Path(__file__).resolve().parents[3] / "generative/datasets/shipped/al-n-ti"
    counted = dataset_statistics(place)
    rows = pq.read_table(place / "dataset.parquet").to_pylist()
    structures = [
        Structure(
            np.reshape(row["lattice_ang"], (3, 3)),
            [ELEMENTS[z - 1] for z in row["atomic_numbers"]],
            np.reshape(row["frac_coords"], (-1, 3)),
        )
        for row in rows
    ]
    assert counted.n_atoms == dict(sorted(Counter(len(s) for s in structures).items()))
    held = Counter(str(element) for s in structures for element in s.composition.elements)
    assert counted.elements == dict(sorted(held.items()))
