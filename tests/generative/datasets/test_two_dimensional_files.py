"""Monolayers of C2DB from its files: vacuum kept, gap and work function as numbers that a condition can name."""

from __future__ import annotations

import csv
import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core.structure import Structure

from generative.crystal.crystals import crystals_of
from generative.datasets.config import DataConfig, FilesSource, FilterConfig
from generative.datasets.ingest import ingest
from generative.screening.slabs import slab
from generative.training.data import property_values
from storage.tables import read_table

ASSETS = Path(os.environ.get("HULLWARD_ASSETS", Path(__file__).resolve().parents[4] / "shared"))
FILE = ASSETS / "data" / "c2db_val.csv.gz"


@pytest.mark.skipif(not FILE.is_file(), reason="no c2db_val.csv.gz under HULLWARD_ASSETS/data")
def test_monolayers_of_c2db_keep_their_vacuum_their_gap_and_their_work_function(tmp_path: Path) -> None:
    data = DataConfig(
        sources=(FilesSource(path=str(FILE), method="PBE (C2DB)", limit=60),), filters=FilterConfig(dimensions=2)
    )
    manifest = ingest(data, None, tmp_path, Path)
    (source,) = manifest.sources
    assert source.n_read == 60
    assert source.n_kept == 60  # as of all 500 of its validation and test files
    table = read_table(tmp_path / "dataset.parquet", "ingest it again")
    with gzip.open(FILE, "rt") as file:
        stated = {row["material_id"]: row for row in csv.DictReader(file)}
    names = table.column("source_id").to_pylist()
    for name, key in (("band_gap_ev", "band_gap"), ("band_gap", "band_gap"), ("workfunction", "workfunction")):
        values = property_values(table, name)
        assert values == pytest.approx([float(stated[i][key]) for i in names])
    for one, name in zip(crystals_of(table)[:10], names, strict=False):
        assert one is not None
        found, given = slab(one), Structure.from_str(stated[name]["cif"], fmt="cif")
        assert found is not None
        height = float(given.volume / np.linalg.norm(np.cross(*given.lattice.matrix[:2])))
        assert found.vacuum.width_ang + found.thickness_ang == pytest.approx(height, abs=1e-4)
