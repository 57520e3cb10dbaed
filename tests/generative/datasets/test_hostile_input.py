"""Whatever stands in a file, every record of it becomes a row or a row of the quarantine, and the others are read.

The truth is what was put in: the good records beside a hostile one, and how many there were.
"""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifWriter
from pymatgen.io.vasp.inputs import Poscar

from generative.crystal.crystals import Crystal
from generative.datasets.config import DataConfig, FilesSource
from generative.datasets.ingest import ingest
from generative.datasets.limits import MAX_NAME_CHARACTERS, MAX_REASON_CHARACTERS, MAX_RECORD_CHARACTERS
from generative.datasets.manifest import Dataset, DatasetError, read_dataset
from generative.datasets.records import row_of, table_of
from generative.datasets.sources import SourceError
from tests.fuzzing import Fuzz
from tests.generative.datasets.hostile import changed, cif_seeds, damaged, json_of, nested, odd_value, pick

pytestmark = pytest.mark.fuzz

CASES = Path(__file__).parents[2] / "data" / "cases"
SALT = Structure(Lattice.cubic(4.1), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
OXIDE = Structure(Lattice.tetragonal(4.6, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]])
SEEDS = [*cif_seeds(CASES / "cif"), str(CifWriter(SALT)), str(CifWriter(SALT, symprec=0.01)), str(CifWriter(OXIDE))]


def document(structure: Structure, number: int) -> dict[str, Any]:
    return {
        "material_id": f"m-{number}",
        "structure": json.loads(json.dumps(structure.as_dict())),
        "energy_per_atom": -3.5,
        "formation_energy_per_atom": -1.0,
        "e_above_hull": 0.01,
        "band_gap": 1.5,
        "symmetry": {"number": 221},
        "run_type": "GGA",
        "my number": 3.25,
        "theoretical": False,
    }


def entry(structure: Structure, number: int) -> dict[str, Any]:
    return {
        "@class": "ComputedStructureEntry",
        "entry_id": f"e-{number}",
        "structure": json.loads(json.dumps(structure.as_dict())),
        "composition": {str(e): n for e, n in structure.composition.items()},
        "energy": -7.0,
        "correction": -0.5,
        "energy_adjustments": [{"@class": "ManualEnergyAdjustment", "name": "mine", "value": -0.5}],
        "parameters": {"run_type": "GGA+U", "hubbards": {"Ti": 3.0}},
        "data": {"oxidation_states": {"Ti": 4, "O": -2}, "material_id": "mp-9"},
    }


def taken_in(path: Path, folder: Path) -> Dataset:
    ingest(DataConfig(sources=(FilesSource(path=str(path)),)), None, folder, Path)
    return read_dataset(folder)


def objection(dataset: Dataset) -> str:
    """What no dataset may hold or lack, whatever it was made from; empty if all is well."""
    (source,) = dataset.manifest.sources
    rejected = dataset.rejected.to_pylist()
    if source.n_read != source.n_kept + source.n_rejected + source.n_filtered or source.n_rejected != len(rejected):
        return f"counts do not add up: {source.n_read} {source.n_kept} {source.n_rejected}"
    for row in rejected:
        if not 10 < len(row["reason"]) <= MAX_REASON_CHARACTERS or "\n" in row["reason"]:
            return f"no sentence: {row['reason']!r}"
        if len(row["record"]) > MAX_RECORD_CHARACTERS or len(row["source_id"]) > MAX_NAME_CHARACTERS:
            return "a cell of the quarantine is too long"
        if "Traceback" in row["reason"]:
            return row["reason"]
    for column in ("energy_ev_per_atom", "formation_energy_ev_per_atom", "e_above_hull_ev_per_atom", "band_gap_ev"):
        if any(value is not None and not abs(value) <= 2e6 for value in dataset.table.column(column).to_pylist()):
            return f"an impossible {column}"
    for numbers in dataset.table.column("atomic_numbers").to_pylist():
        if not all(1 <= z <= 103 for z in numbers):
            return "an element that there is not"
    return ""


def tried(fuzz: Fuzz, what: str, path: Path, folder: Path, good: list[str], n_records: int | None) -> None:
    """Ingest a file and settle how the case ended.

    Args:
        fuzz: counts.
        what: went in, for the message.
        path: the file.
        folder: for the dataset.
        good: formulas of the records that must be there, whatever the others are.
        n_records: records in the file; None where damage leaves that open.
    """
    try:
        dataset = taken_in(path, folder)
    except (SourceError, DatasetError) as error:
        said = str(error)
        if n_records is not None or "\n" in said or len(said) > 2000 or path.name not in said:
            fuzz.failed(f"{what} -> {said[:300]}")
        else:
            fuzz.ended("file refused")
        return
    except BaseException as error:
        fuzz.failed(f"{what} -> {type(error).__name__}: {str(error)[:200]}")
        return
    fault = objection(dataset)
    formulas = dataset.table.column("formula").to_pylist()
    (source,) = dataset.manifest.sources
    if not fault and n_records is not None and source.n_read != n_records:
        fault = f"{source.n_read} of {n_records} records are accounted for"
    if not fault and any(formulas.count(one) < good.count(one) for one in good):
        reasons = [row["reason"] for row in dataset.rejected.to_pylist()]
        fault = f"a good neighbour is missing: {formulas}, {reasons}"
    if fault:
        fuzz.failed(f"{what} -> {fault[:400]}")
    else:
        fuzz.ended("quarantined" if source.n_rejected else "read")


@pytest.mark.parametrize("form", ["list", "by id", "lines", "packed lines", "table"])
def test_a_hostile_record_of_json_costs_no_neighbour(fuzz: Fuzz, tmp_path: Path, form: str) -> None:
    for case, rng in enumerate(fuzz.cases(24)):
        make = pick(rng, (document, entry))
        bad = changed(rng, make(OXIDE, 1))
        records: list[Any] = [document(SALT, 0), bad, document(SALT, 2)]
        if rng.random() < 0.1:
            records[1] = bad = odd_value(rng)
        if form == "list":
            name, content = "a.json", json_of(records).encode()
        elif form == "by id":
            name, content = "a.json", json_of({f"id {i}": record for i, record in enumerate(records)}).encode()
        elif form == "table":
            names = list(records[0])
            rows = [[record.get(n) if isinstance(record, dict) else record for n in names] for record in records]
            name, content = "a.json", json_of({"columns": names, "index": [0, 1, 2], "data": rows}).encode()
        else:
            name, content = "a.jsonl", "\n".join(map(json_of, records)).encode()
        if form == "packed lines":
            name, content = "a.jsonl.gz", gzip.compress(content, 1)
        (tmp_path / name).write_bytes(content)
        tried(fuzz, f"case {case}: {json_of(bad)[:300]}", tmp_path / name, tmp_path / "out", ["CsCl", "CsCl"], 3)


def test_nesting_digits_and_half_characters_cost_one_record_of_a_file(fuzz: Fuzz, tmp_path: Path) -> None:
    limit = sys.get_int_max_str_digits()
    for case, rng in enumerate(fuzz.cases(20)):
        bad = document(OXIDE, 1)
        key = pick(rng, list(bad))
        text = json.dumps({**bad, key: "HERE"})
        depth = int(rng.integers(50, 20_000))
        absurd = pick(
            rng,
            (
                "[" * depth + "]" * depth,
                '{"a":' * depth + "1" + "}" * depth,
                "9" * (limit + depth),
                f"-{'1' * (limit + depth)}",
                '"\\ud800"',
                '"\\udfff\\ud800x"',
                "1e400",
                "NaN",
            ),
        )
        lines = [json.dumps(document(SALT, 0)), text.replace('"HERE"', absurd), json.dumps(document(SALT, 2))]
        by_line = rng.random() < 0.5
        path = tmp_path / ("a.jsonl" if by_line else "a.json")
        path.write_text("\n".join(lines) if by_line else "[" + ",".join(lines) + "]")
        tried(fuzz, f"case {case}: {key} is {absurd[:40]}", path, tmp_path / "out", ["CsCl", "CsCl"], 3)


def test_a_hostile_row_of_csv_costs_no_neighbour(fuzz: Fuzz, tmp_path: Path) -> None:
    for case, rng in enumerate(fuzz.cases(40)):
        rows = [
            {"material_id": f"a{i}", "cif": str(CifWriter(SALT)), "band_gap": "1.0", "energy_per_atom": "-3", "x": "1"}
            for i in range(3)
        ]
        bad = changed(rng, rows[1])
        rows[1] = {name: str(bad.get(name, "")) for name in rows[0]} if rng.random() < 0.8 else rows[1]
        rows[1]["cif"] = damaged(rng, pick(rng, SEEDS).encode()).decode("utf-8", "surrogateescape")
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, list(rows[0]), quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
        path = tmp_path / pick(rng, ("a.csv", "a.csv.gz"))
        content = out.getvalue().encode("utf-8", "backslashreplace")
        path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
        tried(fuzz, f"case {case}: {str(rows[1])[:300]}", path, tmp_path / "out", ["CsCl", "CsCl"], 3)


@pytest.mark.parametrize("form", ["cif", "POSCAR", "mcif"])
def test_a_damaged_crystal_file_of_a_folder_is_read_or_quarantined_and_its_neighbours_are_read(
    fuzz: Fuzz, tmp_path: Path, form: str
) -> None:
    posters = [path.read_bytes() for path in sorted((CASES / "poscar").iterdir())] + [Poscar(OXIDE).get_str().encode()]
    magnetic = [path.read_bytes() for path in sorted((CASES / "folder").glob("*.mcif"))]
    for case, rng in enumerate(fuzz.cases(40 if form != "mcif" else 15)):
        folder = tmp_path / f"mine-{case}"
        folder.mkdir()
        (folder / "a.cif").write_text(str(CifWriter(SALT)))
        (folder / "z.vasp").write_text(Poscar(SALT).get_str())
        seed = pick(rng, {"cif": [text.encode() for text in SEEDS], "POSCAR": posters, "mcif": magnetic}[form])
        name = {"cif": "m.cif", "POSCAR": "m.vasp", "mcif": "m.mcif"}[form]
        content = damaged(rng, seed)
        packed = rng.random() < 0.2
        content = damaged(rng, gzip.compress(content, 1)) if packed and rng.random() < 0.5 else content
        (folder / (name + ".gz" * packed)).write_bytes(content)
        tried(fuzz, f"case {case}: {content[:300]!r}", folder, tmp_path / "out", ["CsCl", "CsCl"], None)


FILES: dict[str, Callable[[], bytes]] = {
    "a.json": lambda: json.dumps([document(OXIDE, 0), entry(SALT, 1)]).encode(),
    "a.jsonl": lambda: b"\n".join(json.dumps(document(OXIDE, i)).encode() for i in range(3)),
    "a.csv": lambda: (CASES / "csv" / "samples_index_repeats_no_id.csv").read_bytes(),
    "a.extxyz": lambda: (CASES / "folder" / "generated_crystals.extxyz").read_bytes(),
    "a.cif": lambda: "\n".join(SEEDS).encode(),
    "a.parquet": lambda: parquet_of([cif_row(i) for i in range(6)]),
    "b.parquet": lambda: own_parquet(),
}


def cif_row(number: int) -> dict[str, Any]:
    return {"material_id": f"a{number}", "cif": str(CifWriter(SALT)), "band_gap": 1.0}


def parquet_of(rows: list[dict[str, Any]], **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, **{"row_group_size": 3, **options})
    return out.getvalue()


def own_parquet() -> bytes:
    crystals = [Crystal.from_structure(SALT), Crystal.from_structure(OXIDE)]
    rows = [row_of(crystal, "s", str(i), "PBE", {"spacegroup": 1}) for i, crystal in enumerate(crystals)]
    out = io.BytesIO()
    pq.write_table(table_of(rows), out)
    return out.getvalue()


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_read_as_far_as_it_goes_or_refused_by_name(fuzz: Fuzz, tmp_path: Path, name: str) -> None:
    whole = FILES[name]()
    for case, rng in enumerate(fuzz.cases(20)):
        content = damaged(rng, whole)
        packed = rng.random() < 0.25 and not name.endswith("parquet")
        path = tmp_path / (name + ".gz" * packed)
        content = gzip.compress(content, 1) if packed else content
        path.write_bytes(damaged(rng, content) if packed and rng.random() < 0.5 else content)
        tried(fuzz, f"case {case} of {name}: {content[:200]!r}", path, tmp_path / "out", [], None)


def test_a_hostile_row_of_parquet_costs_no_neighbour(fuzz: Fuzz, tmp_path: Path) -> None:
    own = table_of([row_of(Crystal.from_structure(SALT), "s", str(i), "PBE", {"spacegroup": 1}) for i in range(3)])
    for case, rng in enumerate(fuzz.cases(40)):
        rows = own.to_pylist()
        bad = rows[1]
        for _ in range(int(rng.integers(1, 3))):
            column = pick(rng, list(bad))
            if column in ("lattice_ang", "frac_coords", "atomic_numbers"):
                values: list[Any] = list(bad[column] or [0])
                kind = rng.integers(4)
                if kind == 0:
                    bad[column] = None
                elif kind == 1:
                    values[int(rng.integers(len(values)))] = None
                elif kind == 2:
                    values[int(rng.integers(len(values)))] = pick(
                        rng, (float("nan"), 1e308, -1e5, 22.7, 120.0, 65562.0)
                    )
                else:
                    values = values * int(pick(rng, (0, 2, 400)))
                bad[column] = values if kind else None
            elif isinstance(bad[column], int | float):
                bad[column] = pick(rng, (None, float("nan"), float("inf"), -1e308, 1e8, 22.7))
            else:
                bad[column] = pick(rng, (None, "", "\0", "x" * 100_000, "{", "[1]", "[" * 5000, '{"a": 1e999}'))
        kinds = {name: pa.list_(pa.float64()) for name in ("lattice_ang", "frac_coords", "atomic_numbers")}
        columns = {
            name: pa.array([row[name] for row in rows], kinds.get(name))
            if name in kinds
            else pa.array([None if row[name] is None else type_of(rows, name)(row[name]) for row in rows])
            for name in rows[0]
            if name != "other_ids"
        }
        path = tmp_path / "mine.parquet"
        pq.write_table(pa.table(columns), path)
        tried(fuzz, f"case {case}: {str(bad)[:300]}", path, tmp_path / "out", ["CsCl", "CsCl"], 3)


def type_of(rows: list[dict[str, Any]], name: str) -> type:
    numbers = all(isinstance(row[name], int | float | None) for row in rows)
    return float if numbers else str


def test_a_hostile_frame_of_extended_xyz_costs_no_neighbour(fuzz: Fuzz, tmp_path: Path) -> None:
    def frame(structure: Structure, number: int) -> str:
        cell = " ".join(f"{x:.6f}" for x in structure.lattice.matrix.ravel())
        head = f'Lattice="{cell}" Properties=species:S:1:pos:R:3 energy=-7.5 id=m{number} pbc="T T T"'
        atoms = "\n".join(
            f"{site.specie} {site.coords[0]:.6f} {site.coords[1]:.6f} {site.coords[2]:.6f}" for site in structure
        )
        return f"{len(structure)}\n{head}\n{atoms}\n"

    words = ("nan", "1e308", "-1e308", "9" * 5000, "1" * 17, '"', "{", "[[[", "=", "Qq", "22.7", "x" * 70_000, "\0", "")
    for case, rng in enumerate(fuzz.cases(40)):
        lines = frame(OXIDE, 1).splitlines()
        at = int(rng.integers(1, len(lines)))
        parts = lines[at].split(" ")
        parts[int(rng.integers(len(parts)))] = pick(rng, words)
        lines[at] = " ".join(parts)
        is_long = max(map(len, lines)) > 65_536  # then where the next frame begins is not known
        path = tmp_path / "a.extxyz"
        path.write_text(frame(SALT, 0) + "\n".join(lines) + "\n" + frame(SALT, 2))
        good = ["CsCl"] if is_long else ["CsCl", "CsCl"]
        what = f"case {case}: {' / '.join(lines)[:200]}"
        tried(fuzz, what, path, tmp_path / "out", good, None if is_long else 3)


def test_deeply_nested_records_are_read_in_worker_processes_too(tmp_path: Path) -> None:
    records = [document(SALT, i) for i in range(4)]
    records[2] = {**copy.deepcopy(records[2]), "structure": {"lattice": nested(700), "sites": [1]}}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(records))
    config = DataConfig(sources=(FilesSource(path=str(path)),), workers=2)
    manifest = ingest(config, None, tmp_path / "out", Path)
    assert (manifest.sources[0].n_kept, manifest.sources[0].n_rejected) == (3, 1)
