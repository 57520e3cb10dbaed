"""OPTIMADE JSON lines of candidates and of datasets, held against OPTIMADE's own models and pymatgen."""

from __future__ import annotations

import fcntl
import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from optimade.adapters.structures import Structure as AdaptedStructure
from optimade.models import EntryInfoResource, StructureResource
from optimade.models.utils import anonymize_formula, reduce_formula
from pymatgen.core.structure import Structure

from configs.paths import resolve
from generative.config import ELEMENTS
from generative.crystal.crystals import Crystal, crystals_of
from generative.datasets.config import DataConfig, FilesSource
from generative.datasets.ingest import ingest
from generative.datasets.manifest import DatasetError, read_manifest
from generative.datasets.optimade_form import structure_attributes
from generative.datasets.table import DATASET_SCHEMA
from tasks.discover.candidates import CANDIDATES, table_of
from tasks.optimade.export import ExportError, export, origin_of
from tasks.optimade.fields import CANDIDATE_FIELDS, DATASET_FIELDS, JUDGED_FIELDS, KEPT_FIELDS
from tests.servers.finished_run import candidate_rows, write_run
from tests.servers.real import real_records

N = 60
METALS = (*ELEMENTS[20:31], *ELEMENTS[38:50], *ELEMENTS[71:80])  # Sc to Ga, Y to Sn, Hf to Hg


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return candidate_rows(N)


@pytest.fixture
def run(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    return write_run(tmp_path / "trial", rows)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    cifs = folder / "cifs"
    cifs.mkdir()
    for record in real_records(60)[:8]:
        record.structure.to(str(cifs / f"{record.material_id}.cif"))
    ingest(DataConfig(sources=(FilesSource(path=str(cifs), method="PBE"),)), None, folder / "known", resolve)
    return folder / "known"


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def structures(file: Path) -> dict[str, dict[str, Any]]:
    return {line["id"]: line["attributes"] for line in lines(file)[2:]}


def test_every_line_is_what_optimades_own_models_call_a_structure(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out.jsonl", everything=True)
    header, info, *entries = lines(tmp_path / "out.jsonl")
    assert header["x-optimade"]["meta"]["api_version"]
    properties = EntryInfoResource.model_validate(info).properties
    assert len(entries) == N
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the models warn of fields that should stand together
        for entry in entries:
            StructureResource.model_validate(entry)
            assert set(entry["attributes"]) <= set(properties)


def test_pymatgen_gets_back_the_crystals_of_the_table_site_by_site(
    run: Path, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    export(run, tmp_path / "out.jsonl", everything=True)
    read = {line["id"]: AdaptedStructure(line).as_pymatgen for line in lines(tmp_path / "out.jsonl")[2:]}
    table = table_of(rows, CANDIDATES)
    for row, generated, relaxed in zip(rows, crystals_of(table), crystals_of(table, "relaxed_"), strict=True):
        expected = (relaxed or generated).to_structure()
        found: Structure = read[row["id"]]
        assert found.species == expected.species
        np.testing.assert_allclose(found.lattice.matrix, expected.lattice.matrix, atol=1e-12)
        np.testing.assert_allclose(found.cart_coords, expected.cart_coords, atol=1e-10)  # pymatgen inverts the lattice


def test_a_candidate_without_a_relaxed_crystal_is_exported_as_generated_and_says_so(
    run: Path, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    export(run, tmp_path / "out.jsonl", everything=True)
    kinds = {name: entry["_hullward_structure_kind"] for name, entry in structures(tmp_path / "out.jsonl").items()}
    expected = {row["id"]: "relaxed" if "relaxed_lattice_ang" in row else "generated" for row in rows}
    assert kinds == expected
    assert set(expected.values()) == {"relaxed", "generated"}


def test_only_ranked_candidates_are_exported_unless_all_are_asked_for(
    run: Path, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    exported = export(run, tmp_path / "ranked.jsonl")
    ranked = [row["id"] for row in rows if row.get("rank")]
    assert list(structures(tmp_path / "ranked.jsonl")) == ranked
    assert (exported.n_structures, exported.n_left_out) == (len(ranked), N - len(ranked))
    assert exported.n_left_out > 0
    export(run, tmp_path / "all.jsonl", everything=True)
    turned_away = structures(tmp_path / "all.jsonl").keys() - set(ranked)
    reasons = {structures(tmp_path / "all.jsonl")[name]["_hullward_rejected_by"] for name in turned_away}
    assert reasons == {"relaxation"}


def test_formulas_are_those_that_pymatgen_and_optimade_make_of_the_cell() -> None:
    made_up = [
        Structure(np.eye(3) * 9, symbols, [[i / 50, 0.3, 0.7 * i % 1] for i in range(len(symbols))])
        for symbols in (["H", "C", "O", "H", "Br"], ["O", "H", "H"], [*METALS[:26], "Ti"])  # the last goes to Z
    ]
    for structure in [*made_up, *(record.structure for record in real_records(300))]:
        composition = structure.composition
        found = structure_attributes(Crystal.from_structure(structure), composition.reduced_formula, None)
        counts = {str(element): int(n) for element, n in composition.get_el_amt_dict().items()}
        cell = "".join(f"{symbol}{n}" for symbol, n in counts.items())
        assert found["chemical_formula_reduced"] == reduce_formula(cell)
        assert found["chemical_formula_anonymous"] == anonymize_formula(cell)
        assert found["elements"] == sorted(counts)
        expected = [composition.get_atomic_fraction(symbol) for symbol in found["elements"]]
        assert found["elements_ratios"] == pytest.approx(expected)
        assert sum(found["elements_ratios"]) == pytest.approx(1, abs=1e-12)


def test_the_values_of_the_table_stand_in_our_fields(run: Path, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    export(run, tmp_path / "out.jsonl")
    found = structures(tmp_path / "out.jsonl")
    table = {row["id"]: row for row in pq.read_table(run / "candidates.parquet").to_pylist() if row["rank"]}
    assert set(found) == set(table)
    for name, row in table.items():
        assert found[name]["_hullward_rank"] == row["rank"]
        assert found[name]["_hullward_e_above_hull"] == row["e_above_hull_ev_per_atom"]
        assert found[name]["_hullward_energy_method"] == row["energy_method"]
        assert found[name]["_hullward_condition"] == json.loads(row["condition"])
        assert found[name]["_hullward_seed"] == 7
        assert found[name]["_hullward_run"] == "trial"
        assert found[name]["space_group_it_number"] == row["spacegroup"]


@pytest.mark.parametrize(("fields", "columns"), [(CANDIDATE_FIELDS, CANDIDATES), (DATASET_FIELDS, DATASET_SCHEMA)])
def test_every_column_but_the_crystal_itself_is_a_field_with_its_unit(fields: Any, columns: Any) -> None:
    standard = {"id", "formula", "n_atoms", "chemsys", "n_elements"}  # said in OPTIMADE's own properties
    left = {column.name for column in columns} - {field.column for field in fields} - standard
    assert {name.removeprefix("relaxed_") for name in left} == {"lattice_ang", "frac_coords", "atomic_numbers"}
    for field in fields:
        has_unit = any(word in (field.column or "") for word in ("_ev", "_ang", "_gpa", "_thz"))
        assert (field.unit is not None) == has_unit, field.name
        assert field.description


def test_the_documentation_lists_every_field_with_its_unit() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "optimade.md").read_text(encoding="utf-8")
    for field in (*CANDIDATE_FIELDS, *KEPT_FIELDS, *JUDGED_FIELDS, *DATASET_FIELDS):
        line = rf"^\| `{field.name}` \| {field.type} \| {re.escape(f'`{field.unit}`' if field.unit else '')} ?\| "
        assert re.search(line, page, re.M), field.name


def test_the_same_run_exported_twice_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    files = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    for file in files:
        export(run, file, everything=True)
    assert files[0].read_bytes() == files[1].read_bytes()
    modified = {entry["last_modified"] for entry in structures(files[0]).values()}
    assert len(modified) == 1


def test_an_entrys_immutable_id_changes_when_the_entry_does_and_only_then(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    changed = [dict(row) for row in rows]
    changed[3]["energy_ev_per_atom"] += 1e-6
    ids = []
    for place, one in (("before", rows), ("after", changed)):
        folder = write_run(tmp_path / place / "trial", one)
        os.utime(folder / "candidates.parquet", (0, 1e9 + len(ids)))  # the date is no part of it
        export(folder, tmp_path / f"{place}.jsonl")
        entries = structures(tmp_path / f"{place}.jsonl")
        ids.append({name: entry["immutable_id"] for name, entry in entries.items()})
    assert [name for name in ids[0] if ids[0][name] != ids[1][name]] == [rows[3]["id"]]


def test_a_dataset_is_exported_with_its_sources_and_the_date_of_its_manifest(dataset: Path, tmp_path: Path) -> None:
    exported = export(dataset, tmp_path / "out.jsonl")
    found = structures(tmp_path / "out.jsonl")
    table = pq.read_table(dataset / "dataset.parquet").to_pylist()
    manifest = read_manifest(dataset)
    assert exported.n_structures == len(found) == len(table)
    for row in table:
        entry = found[row["id"]]
        assert entry["_hullward_source_id"] == row["source_id"]
        assert entry["_hullward_energy_method"] == "PBE"
        assert entry["_hullward_dataset_sha256"] == manifest.fingerprint_sha256
        assert entry["last_modified"][:19] == manifest.created[:19]
        assert entry["nsites"] == row["n_atoms"]


def test_ids_and_energies_from_other_databases_are_lists(dataset: Path, tmp_path: Path) -> None:
    table = pq.read_table(dataset / "dataset.parquet")
    copies = [{"id": "optimade-oqmd:7", "method": "PBE", "energy_ev_per_atom": -3.0}]
    rows = [
        {**row, "other_ids": ["optimade-oqmd:7"], "other_energies": json.dumps(copies)} for row in table.to_pylist()
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=DATASET_SCHEMA), tmp_path / "merged.parquet")
    export(tmp_path / "merged.parquet", tmp_path / "out.jsonl")
    for entry in structures(tmp_path / "out.jsonl").values():
        assert entry["_hullward_other_ids"] == ["optimade-oqmd:7"]
        assert entry["_hullward_other_energies"] == copies


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spacegroup": 300}, "space_group_it_number"),
        ({"e_above_hull_ev_per_atom": float("nan")}, "not finite"),
        ({"id": "0000000000000000"}, "two rows"),
    ],
)
def test_a_row_that_cannot_be_exported_is_named_and_the_old_file_stays(
    change: dict[str, Any], words: str, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    bad = [dict(row) for row in rows if row["id"] != "0000000000000000"]
    bad = [next(dict(row) for row in rows if row["id"] == "0000000000000000"), *bad]
    bad[5] |= change
    folder, out = write_run(tmp_path / "trial", bad), tmp_path / "out.jsonl"
    out.write_text("before")
    with pytest.raises(ExportError, match=words) as caught:
        export(folder, out, everything=True)
    assert bad[5]["id"] in str(caught.value)
    assert out.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "trial"]


def test_a_run_in_progress_is_refused_until_its_lock_is_given_back(run: Path) -> None:
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ExportError, match="in progress"):
            origin_of(run)
    assert origin_of(run).title == "run trial"


def test_an_unfinished_run_is_refused(run: Path, rows: list[dict[str, Any]]) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    stale = {**manifest, "report": {"candidates": "0" * 64}}
    young = {name: value for name, value in manifest.items() if name != "report"}
    begun_anew = {**manifest, "settings": {"seed": 8}}
    for one in (stale, young, begun_anew):
        (run / "manifest.json").write_text(json.dumps(one))
        with pytest.raises(ExportError, match="no finished run"):
            origin_of(run)


def test_a_run_without_a_ranked_candidate_says_how_to_get_the_others(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    turned_away = [row for row in rows if row.get("rank") is None]
    folder = write_run(tmp_path / "trial", turned_away)
    with pytest.raises(ExportError, match=rf"all {len(turned_away)} were turned away: --all"):
        export(folder, tmp_path / "out.jsonl")
    assert export(folder, tmp_path / "out.jsonl", everything=True).n_structures == len(turned_away)
    with pytest.raises(ExportError, match="holds no crystal"):
        export(write_run(tmp_path / "none", []), tmp_path / "none.jsonl")


def test_what_is_neither_a_run_nor_a_dataset_is_named(tmp_path: Path, dataset: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("no table")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "other.parquet")
    for name, words in {
        "empty": "neither a run nor a dataset",
        "absent": "not there",
        "text.parquet": "not readable as Parquet",
        "other.parquet": "lacks columns",
    }.items():
        with pytest.raises(ExportError, match=words):
            origin_of(tmp_path / name)


def test_a_dataset_that_is_not_what_its_manifest_says_is_refused(dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in dataset.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    table = pq.read_table(copy / "dataset.parquet")
    pq.write_table(table.slice(1), copy / "dataset.parquet")
    with pytest.raises(DatasetError, match="manifest says"):
        export(copy, tmp_path / "out.jsonl")
