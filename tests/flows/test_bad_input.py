"""Malformed crystals given to a run: each ends as a row with a reason, and costs neither the run nor its neighbours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifWriter

from configs.schema import DiscoverConfig
from generative.crystal.crystals import Crystal, crystals_of, structure_columns
from generative.datasets.manifest import read_dataset
from tasks.discover.candidates import SAMPLED, Stage
from tasks.discover.known import choose_references, ingest_known
from tasks.discover.rank import rank_file
from tasks.discover.relax import relax_table, survivors
from tasks.discover.run import RunFolder
from tasks.discover.screen import screen_table, unique_table
from tasks.files import FileRef, write_table
from tasks.loading import PotentialIdentity, identify

NO_POTENTIAL = PotentialIdentity(name="none", method="none", fingerprint="0", notes=())
"""Files need no potential to be read."""

CORNER, CENTRE = [0.0, 0.0, 0.0], [0.5, 0.5, 0.5]
NICKEL_ALUMINIDE = Structure(Lattice.cubic(2.89), ["Al", "Ni"], [CORNER, CENTRE])
GOOD = str(CifWriter(NICKEL_ALUMINIDE))


def ten_thousand_atoms() -> str:
    grid = np.stack(np.meshgrid(range(22), range(22), range(22)), axis=-1).reshape(-1, 3)[:10_000] / 22
    return str(CifWriter(Structure(Lattice.cubic(66), ["Ni"] * 10_000, grid)))


def disordered() -> str:
    return str(CifWriter(Structure(Lattice.cubic(3.6), [{"Ni": 0.75, "Al": 0.25}], [CORNER])))


FLAT = "flat\n1.0\n2.9 0 0\n0 2.9 0\n2.9 2.9 0\nAl Ni\n1 1\ndirect\n0 0 0\n0.5 0.5 0.5\n"
LEFT_HANDED = "left-handed\n1.0\n0 2.9 0\n2.9 0 0\n0 0 2.9\nAl Ni\n1 1\ndirect\n0 0 0\n0.5 0.5 0.5\n"

MALFORMED: dict[str, tuple[str | bytes, str]] = {
    "nan.cif": (GOOD.replace("0.50000000", "nan", 1), "expected finite"),
    "zero_volume.vasp": (FLAT, "volume is 0 A^3"),
    "negative_volume.cif": (GOOD.replace("_b   2.89000000", "_b   -2.89000000"), "expected a positive"),
    "unknown_element.cif": (GOOD.replace("  Ni  Ni1", "  Qq  Qq1"), "element 'Qq'"),
    "overlapping.cif": (GOOD.replace("0.50000000", "0.02000000"), "A apart"),
    "disordered.cif": (disordered(), "disordered"),
    "truncated.cif": (GOOD[: GOOD.rindex("0.5000") + 4], "cut off"),
    "empty.cif": ("", "empty"),
    "wrong_encoding.cif": (GOOD.encode("utf-16"), "not UTF-8"),
    "ten_thousand_atoms.cif": (ten_thousand_atoms(), "10000 atoms"),
}
"""File name: content, and words of the reason."""


def settings(runs: Path, source: Path) -> DiscoverConfig:
    return DiscoverConfig.model_validate(
        {
            "name": "bad",
            "elements": ["Al", "Ni"],
            "data": {"sources": [{"kind": "files", "path": str(source)}]},
            "conditions": {"n_elements_min": 2, "n_elements_max": 2},
            "relax": {"potential": "CHGNet", "fallback": None, "max_steps": 3},
            "execution": {"runs_folder": str(runs), "torch_threads": 1, "device": "cpu"},
        }
    )


def write_malformed(folder: Path) -> None:
    folder.mkdir()
    for name, (content, _) in MALFORMED.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def test_malformed_files_end_in_the_quarantine_and_good_ones_beside_them_in_the_table(tmp_path: Path) -> None:
    source = tmp_path / "crystals"
    write_malformed(source)
    (source / "good.cif").write_text(GOOD)
    (source / "left_handed.vasp").write_text(LEFT_HANDED)  # the same crystal, and so kept, right-handed
    run = RunFolder(tmp_path / "runs" / "bad")
    run.path.mkdir(parents=True)
    known = ingest_known(settings(tmp_path / "runs", source), run.path, NO_POTENTIAL)
    assert known.read().column("source_id").to_pylist() == ["good.cif", "left_handed.vasp"]
    assert all(np.linalg.det(c.lattice_ang) > 0 for c in crystals_of(known.read()) if c is not None)
    reasons = {row["source_id"]: row["reason"] for row in read_dataset(run.dataset).rejected.to_pylist()}
    assert set(reasons) == set(MALFORMED)
    for name, (_, words) in MALFORMED.items():
        assert words in reasons[name]
    (counted,) = json.loads((run.path / "manifest.json").read_text())["dataset"]["sources"]
    assert (counted["n_read"], counted["n_kept"], counted["n_rejected"]) == (12, 2, 10)


def test_a_file_put_right_is_read_again_and_an_untouched_folder_is_not(tmp_path: Path) -> None:
    source = tmp_path / "crystals"
    write_malformed(source)
    run = RunFolder(tmp_path / "runs" / "bad")
    run.path.mkdir(parents=True)
    config = settings(tmp_path / "runs", source)
    first = ingest_known(config, run.path, NO_POTENTIAL)
    assert len(first.read()) == 0
    assert ingest_known(config, run.path, NO_POTENTIAL) == first.model_copy(update={"reused": True})
    (source / "truncated.cif").write_text(GOOD)
    second = ingest_known(config, run.path, NO_POTENTIAL)
    assert not second.reused
    assert second.read().column("source_id").to_pylist() == ["truncated.cif"]
    assert len(pq.read_table(run.dataset / "rejected.parquet")) == len(MALFORMED) - 1


def malformed_crystals() -> dict[str, Crystal]:
    """What of the above can be a row of candidates: numbers that a generator which diverged may give."""
    good = Crystal.from_structure(NICKEL_ALUMINIDE)
    numbers, cell, frac = good.atomic_numbers, good.lattice_ang, good.frac
    return {
        "good": good,
        "nan cell": Crystal(np.full((3, 3), np.nan), frac, numbers),
        "nan place": Crystal(cell, frac * np.nan, numbers),
        "endless cell": Crystal(cell * np.inf, frac, numbers),
        "flat": Crystal(cell * [[1.0], [1.0], [0.0]], frac, numbers),
        "left-handed": Crystal(cell * [[1.0], [1.0], [-1.0]], frac, numbers),
        "overlapping": Crystal(cell, frac * 0.0, numbers),
        "dense": Crystal(cell * 0.1, frac, numbers),
        "thin": Crystal(cell * 100.0, frac, numbers),
        "other": Crystal(cell * 1.1, frac, numbers[::-1].copy()),
        "foreign": Crystal(cell * 1.3, frac, np.array([13, 102], dtype=np.int16)),  # no potential knows nobelium
    }


def candidates(crystals: dict[str, Crystal]) -> pa.Table:
    n = len(crystals)
    columns = {
        "id": list(crystals),
        "proposed_by": ["generator"] * n,
        "index": list(range(n)),
        "formula": ["AlNi"] * n,
        "condition": ["{}"] * n,
        "n_atoms": [2] * n,
        **structure_columns(list(crystals.values())),
    }
    return pa.table([pa.array(columns[f.name], type=f.type) for f in SAMPLED], schema=pa.schema(SAMPLED))


def test_bad_numbers_fail_alone_in_a_relaxation(tmp_path: Path) -> None:
    config = settings(tmp_path, tmp_path)
    crystals = malformed_crystals()
    relaxed = {row["id"]: row for row in relax_table(candidates(crystals), config).to_pylist()}
    assert list(relaxed) == list(crystals)
    alone = {name: crystals[name] for name in ("good", "other")}
    for row in relax_table(candidates(alone), config).to_pylist():
        assert relaxed[row["id"]]["relax_status"] == row["relax_status"]
        assert relaxed[row["id"]]["energy_ev_per_atom"] == pytest.approx(row["energy_ev_per_atom"], abs=1e-5)
    for name in ("nan cell", "nan place", "endless cell", "flat", "overlapping", "foreign"):
        assert relaxed[name]["relax_status"] == "failed", name
        assert relaxed[name]["relax_reason"]
        assert relaxed[name]["energy_ev_per_atom"] is None
    assert "No" in relaxed["foreign"]["relax_reason"]


def test_candidates_with_bad_numbers_stay_in_the_table_with_the_stage_that_turned_them_away(tmp_path: Path) -> None:
    source, runs = tmp_path / "crystals", tmp_path / "runs"
    source.mkdir()
    for symbol, a_ang in (("Al", 4.05), ("Ni", 3.52)):
        Structure.from_spacegroup("Fm-3m", Lattice.cubic(a_ang), [symbol], [CORNER]).to(str(source / f"{symbol}.cif"))
    config = settings(runs, source)
    run = RunFolder(runs / "bad")
    run.path.mkdir(parents=True)
    identity = identify(config.relax, config.execution)
    known = ingest_known(config, run.path, identity)
    screened = unique_table(screen_table(candidates(malformed_crystals()), known.read(), config.screen), config.screen)
    parts = {
        "screened": screened,
        "relaxed": relax_table(survivors(screened), config),
        "competing": relax_table(choose_references(config, run.path, known).read(), config),
    }
    files = {}
    for name, table in parts.items():
        write_table(table, run.path / f"{name}.parquet")
        files[name] = FileRef.of(run.path / f"{name}.parquet")
    ranked = rank_file(config, run.path, identity, known, files["screened"], [files["relaxed"]], [files["competing"]])
    rows = {row["id"]: row for row in ranked.read().to_pylist()}
    assert set(rows) == set(malformed_crystals())
    turned_away = {name: row["rejected_by"] for name, row in rows.items()}
    for name in ("nan cell", "nan place", "endless cell", "flat", "left-handed", "overlapping", "dense", "thin"):
        assert turned_away[name] == Stage.VALIDITY.value, name
        assert rows[name]["reason"]
    assert turned_away["other"] == Stage.DUPLICATE.value  # the two sorts of atom have changed places
    assert turned_away["foreign"] == Stage.RELAXATION.value
    assert "No" in rows["foreign"]["reason"]
    assert rows["good"]["rank"] == 1
    assert rows["good"]["e_above_hull_ev_per_atom"] < 0  # NiAl lies far below the elements
