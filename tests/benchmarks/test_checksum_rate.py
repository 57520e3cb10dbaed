"""What the checksum of a table costs beside writing and reading it, at a million rows."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.digests import file_digest
from tasks.files import KEY, unchanged, write_table

N_ROWS = 1_000_000


def median_s(call: Callable[[], object]) -> float:
    """Of five calls after one that warms the disk's cache."""
    times = []
    for i in range(6):
        start = time.perf_counter()
        call()
        if i:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def crystals(n: int) -> pa.Table:
    """Candidates with eight atoms each."""
    rng = np.random.default_rng(0)

    def lists(width: int, values: np.ndarray) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(np.arange(0, n * width + 1, width), pa.int32()), pa.array(values))

    return pa.table(
        {
            "id": pa.array([hashlib.sha256(str(i).encode()).hexdigest()[:16] for i in range(n)]),
            "lattice_ang": lists(9, rng.normal(5, 1, 9 * n)),
            "frac_coords": lists(24, rng.random(24 * n)),
            "atomic_numbers": lists(8, rng.integers(1, 95, 8 * n).astype(np.int16)),
            "energy_ev_per_atom": rng.normal(-5, 1, n),
        }
    )


@pytest.mark.benchmark
def test_checksum_of_a_million_rows(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    table, plain, ours = crystals(N_ROWS), tmp_path / "plain.parquet", tmp_path / "ours.parquet"

    def written_plainly() -> None:  # as before there were checksums: written, then read for the digest that travels
        pq.write_table(table.replace_schema_metadata({KEY: b"key"}), plain)
        file_digest(plain)

    def found_plainly() -> None:
        assert pq.read_schema(plain).metadata[KEY] == b"key"
        file_digest(plain)

    figures = {
        "written without, s": median_s(written_plainly),
        "written with, s": median_s(lambda: write_table(table, ours, "key")),
        "found unchanged without, s": median_s(found_plainly),
        "found unchanged with, s": median_s(lambda: unchanged(ours, "key")),
    }
    size = ours.stat().st_size / 1e6
    print(f"\n{N_ROWS:,} rows, {size:.0f} MB: " + ", ".join(f"{name} {value:.2f}" for name, value in figures.items()))
    for name, value in figures.items():
        record_property(name, value)
