"""Files as chemists have them: repeated columns, row numbers, extended XYZ, magnetic CIFs, folders of everything.

Truth: ASE writes the frames, pymatgen the entries and their energies; the rest is counted by hand."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write as ase_write
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifWriter

from generative.crystal.crystals import crystals_of
from generative.datasets.config import DataConfig, FilesSource
from generative.datasets.ingest import ingest
from generative.datasets.manifest import Dataset, read_dataset
from generative.datasets.sources import SourceError

CASES = Path(__file__).parents[2] / "data" / "cases"
SALT = Structure(Lattice.cubic(4.1), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
CIF = str(CifWriter(SALT))


def read(out: Path, *paths: Path, method: str = "unknown") -> Dataset:
    by_name = {path.name: path for path in paths}
    config = DataConfig(sources=tuple(FilesSource(path=name, method=method) for name in by_name))
    ingest(config, None, out / "out", by_name.__getitem__)
    return read_dataset(out / "out")


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def csv_file(path: Path, header: list[str], *rows: list[object], delimiter: str = ",", head: str = "") -> Path:
    lines = [delimiter.join(header), *(delimiter.join(quoted(str(cell)) for cell in row) for row in rows)]
    path.write_text(head + "\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("name", "column"), [("two_cif_columns.csv", "'cif'"), ("dup_energy_columns.csv", "'formation_energy_per_atom'")]
)
def test_a_column_that_comes_twice_is_refused_by_name(tmp_path: Path, name: str, column: str) -> None:
    with pytest.raises(SourceError, match=rf"{name}: has the column {column} 2 times"):
        read(tmp_path, CASES / "csv" / name)


def test_any_column_that_comes_twice_in_any_spelling_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = ["material_id", "cif", "band_gap", "e_above_hull", "my number", "year"]
    changes = (str.upper, str.title, lambda n: f" {n} ", lambda n: n.replace("_", " "), lambda n: f"{n} (eV/atom)")
    for number in range(30):
        twice = names[rng.integers(len(names))]
        again = changes[rng.integers(len(changes))](twice)
        header = [*names, again]
        order = rng.permutation(len(header))
        row = ["a", CIF, 1.0, 0.1, 3, 1999, "b"]
        path = csv_file(tmp_path / f"{number}.csv", [header[i] for i in order], [row[i] for i in order])
        with pytest.raises(SourceError, match="expected each column once"):
            read(tmp_path, path)


def test_two_names_of_one_column_pass_where_they_agree_and_are_refused_where_not(tmp_path: Path) -> None:
    header = ["material_id", "cif", "e_above_hull", "energy_above_hull"]
    rows = [["same", CIF, "0.1", "0.10"], ["one", CIF, "", "0.2"], ["none", CIF, "nan", ""], ["two", CIF, "0.1", "0.3"]]
    found = read(tmp_path, csv_file(tmp_path / "x.csv", header, *rows))
    stated = dict(
        zip(*(found.table.column(c).to_pylist() for c in ("source_id", "e_above_hull_ev_per_atom")), strict=True)
    )
    assert stated == {"same": 0.1, "one": 0.2, "none": None}
    (refused,) = found.rejected.to_pylist()
    assert refused["source_id"] == "two"
    assert refused["reason"].startswith("e_above_hull is 0.1 and energy_above_hull is 0.3: both mean e_above_hull")


@pytest.mark.parametrize("index", ["", "index", "Unnamed: 0", "INDEX"])
def test_a_row_number_is_no_id_so_its_repeats_drop_nothing(tmp_path: Path, index: str) -> None:
    cells = [SALT.copy().scale_lattice(SALT.volume * (1 + number / 10)) for number in range(1, 6)]
    rows = [[number % 2, str(CifWriter(cell))] for number, cell in enumerate(cells)]
    found = read(tmp_path, csv_file(tmp_path / "x.csv", [index, "cif"], *rows))
    assert found.table.column("id").to_pylist() == [f"x:row-{i}" for i in range(5)]
    assert found.table.column("extra").to_pylist() == [None] * 5
    assert len(read(tmp_path, CASES / "csv" / "samples_index_repeats_no_id.csv").rejected) == 0


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_case_marks_units_and_delimiters_of_a_csv_make_no_difference(tmp_path: Path, delimiter: str) -> None:
    header = [
        "Material_ID",
        "CIF",
        "Energy Above Hull (eV/atom)",
        "Band_Gap [eV]",
        "Run_Type",
        "energy_above_hull (meV)",
    ]
    path = csv_file(tmp_path / "x.csv", header, ["a", CIF, -0.5, 1.5, "PBE", 7], delimiter=delimiter, head="\ufeff")
    (row,) = read(tmp_path, path).table.to_pylist()
    assert (row["source_id"], row["e_above_hull_ev_per_atom"], row["band_gap_ev"]) == ("a", -0.5, 1.5)
    assert (row["run_type"], row["method"]) == ("PBE", "GGA")
    assert json.loads(row["extra"]) == {"energy_above_hull (meV)": 7.0}  # another unit is another quantity


def test_a_decimal_comma_is_refused_rather_than_read_as_something_else(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "x.csv", ["cif", "band_gap"], [CIF, "1,5"], delimiter=";")
    (refused,) = read(tmp_path, path).rejected.to_pylist()
    assert refused["reason"] == "band_gap is '1,5': expected a number in eV or nothing"


def frames(rng: np.random.Generator, n: int) -> list[Atoms]:
    found = []
    for number in range(n):
        n_atoms = int(rng.integers(1, 6))
        cell = 6 * np.eye(3) + rng.normal(size=(3, 3))
        frac = (np.arange(n_atoms)[:, None] / n_atoms + 0.02 * rng.random((n_atoms, 3))) % 1
        atoms = Atoms(rng.integers(1, 90, n_atoms), cell=cell, pbc=True, scaled_positions=frac)
        atoms.info["material_id"] = f"m-{number}"
        energy = float(rng.normal(-5, 1) * n_atoms)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=rng.normal(size=(n_atoms, 3)))
        found.append(atoms)
    return found


def test_frames_that_ase_writes_come_back_equal_with_their_energy_per_atom(tmp_path: Path) -> None:
    written = frames(np.random.default_rng(1), 30)
    ase_write(str(tmp_path / "some.extxyz"), written)
    found = read(tmp_path, tmp_path / "some.extxyz")
    assert len(found.rejected) == 0
    rows = zip(written, crystals_of(found.table), found.table.to_pylist(), strict=True)
    for number, (atoms, crystal, row) in enumerate(rows):
        assert row["source_id"] == f"m-{number}"
        assert crystal is not None
        assert row["energy_ev_per_atom"] == pytest.approx(atoms.get_potential_energy() / len(atoms), abs=1e-6)
        kept = crystal.to_structure()
        assert kept.volume == pytest.approx(atoms.cell.volume, rel=1e-6)
        if len(kept) == len(atoms):  # not reduced to a smaller cell
            assert sorted(crystal.atomic_numbers.tolist()) == sorted(atoms.numbers.tolist())
            np.testing.assert_allclose(
                np.sort(kept.distance_matrix, axis=None),
                np.sort(atoms.get_all_distances(mic=True), axis=None),
                atol=1e-5,
            )


def test_a_bad_frame_costs_itself_alone_and_what_is_no_crystal_is_refused(tmp_path: Path) -> None:
    good = '1\nLattice="3 0 0 0 3 0 0 0 3" energy=-4.0 run_type=GGA+U\nCu 0 0 0\n'
    bad = {
        "2\nplain\nH 0 0 0\nH 0 0 0.7\n": "no lattice: expected a crystal",
        '1\nLattice="3 0 0 0 3 0 0 0 9" pbc="T T F"\nCu 0 0 0\n': "pbc T T F: expected a crystal",
        '1\nLattice="3 0 0 0 3 0 0 0 3"\nQq 0 0 0\n': "not readable as extended XYZ",
        '1\nLattice="3 0 0 0 3 0 0 0 3" energy=-1 energy=-2\nCu 0 0 0\n': "gives 'energy' 2 times",
        '1\nLattice="3 0 0 0 3 0 0 0 3" energy=-1 energy_per_atom=-2\nCu 0 0 0\n': "both mean energy_ev_per_atom",
        '1\nLattice="3 0 0 0 3 0 3 3 0"\nCu 0 0 0\n': "lie in a plane|volume",
        '1\nLattice="3 0 0 0 3 0 0 0 3" energy=low\nCu 0 0 0\n': "energy is 'low'",
        "5000\nx\n" + "H 0 0 0\n" * 5000: "5000 atoms: expected 1 to",
    }
    path = tmp_path / "mixed.xyz"
    path.write_text("".join(good + text + "\n" for text in bad) + good + "3\nx\nCu 0 0 0\n")
    found = read(tmp_path, path, method="my group")
    assert len(found.table) == len(bad) + 1
    assert set(found.table.column("energy_ev_per_atom").to_pylist()) == {-4.0}
    assert set(found.table.column("method").to_pylist()) == {"my group, GGA+U"}
    reasons = found.rejected.column("reason").to_pylist()
    assert len(reasons) == len(bad) + 1
    assert all(re.search(*pair) for pair in zip(bad.values(), reasons, strict=False)), reasons
    assert "lists 1 of 3 atoms" in reasons[-1]


def test_a_magnetic_cif_is_its_nuclear_crystal_with_the_moments_beside_it(tmp_path: Path) -> None:
    (row,) = read(tmp_path, CASES / "folder" / "two.mcif").table.to_pylist()
    # By hand: Mn at 0 and F at 1/4 in a body-centred cell of 96 A^3, whose centring the moments alone break.
    assert (row["formula"], row["n_atoms"]) == ("MnF", 2)
    assert abs(np.linalg.det(np.reshape(row["lattice_ang"], (3, 3)))) == pytest.approx(48.0)
    extra = json.loads(row["extra"])
    assert extra == {"magnetic_group_bns": "99.163", "magnetic_moments_bohr": {"Mn1": ["0", "0", "4.5"]}}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("_space_group_symop_magn_operation.xyz", "_other.xyz"), "magn_operation.xyz is missing"),
        (("Mn1 Mn 0 0 0 1", "Mn1 Mn 0 0 0 0.5"), "its occupancy is 0.5"),
        (("Mn1 Mn 0 0 0 1", "Mn1 Mn 0 0 0 ?"), r"its occupancy is \?"),
        (("F1 F 0.25", "F1 QQ 0.25"), "is of element 'QQ'"),
        (("data_mag\n", "data_mag\n_chemical_formula_sum 'Mn F2'\n"), "_chemical_formula_sum is"),
        (("data_mag\n", "data_mag\n_cell_volume 192\n"), "_cell_volume is 192"),
        (("data_mag\n", "data_a\nloop_\n_atom_site_fract_x\n0\ndata_mag\n"), "atoms of 2 crystals"),
    ],
)
def test_a_magnetic_cif_that_contradicts_itself_is_refused(
    tmp_path: Path, change: tuple[str, str], reason: str
) -> None:
    text = (CASES / "folder" / "two.mcif").read_text()
    assert change[0] in text
    (tmp_path / "x.mcif").write_text(text.replace(*change))
    (row,) = read(tmp_path, tmp_path / "x.mcif").rejected.to_pylist()
    assert re.search(reason, row["reason"]), row["reason"]


def test_every_file_of_a_folder_is_read_or_named(tmp_path: Path) -> None:
    found = read(tmp_path, CASES / "folder")
    ids = [
        "generated_crystals.extxyz:row-0",
        "generated_crystals.extxyz:row-1",
        "one.cif",
        "three.json:row-0",
        "two.mcif",
    ]
    assert found.table.column("source_id").to_pylist() == ids
    assert found.table.column("formula").to_pylist() == ["NaCl", "Si", "CsCl", "CsCl", "MnF"]
    assert found.manifest.sources[0].n_files_not_read == 0


def test_what_a_folder_holds_besides_is_named_with_its_reason_and_litter_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "below" / "__MACOSX").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    SALT.to(str(folder / "below" / "POSCAR_1"), fmt="poscar")
    csv_file(folder / "table.csv", ["material_id", "cif"], ["a", CIF])
    csv_file(folder / "labels.csv", ["name", "gap"], ["a", 1])
    csv_file(folder / "twice.csv", ["cif", "cif"], [CIF, CIF])
    (folder / "manifest.json").write_text('{"author": "me", "n": 3, "files": ["a"]}')
    (folder / "cut.json").write_text('[{"lattice": ')
    (folder / "lines.jsonl").write_text(
        json.dumps(SALT.as_dict()) + "\n" + json.dumps({"structure": SALT.as_dict()}) + "\n"
    )
    for litter in (".DS_Store", "Thumbs.db", "below/__MACOSX/x.cif", ".hidden/x.cif"):
        (folder / litter).write_text("x")
    for other in ("notes.txt", "OUTCAR", "run.traj"):
        (folder / other).write_text("x")
    first = read(tmp_path, folder)
    assert first.table.column("source_id").to_pylist() == [
        "below/POSCAR_1",
        "lines.jsonl:row-0",
        "lines.jsonl:row-1",
        "table.csv:a",
    ]
    assert [row["source_id"] for row in first.rejected.to_pylist()] == ["cut.json"]
    (source,) = first.manifest.sources
    named = dict(text.split(": ", 1) for text in source.files_not_read)
    assert sorted(named) == ["OUTCAR", "labels.csv", "manifest.json", "notes.txt", "run.traj", "twice.csv"]
    assert source.n_files_not_read == len(named)
    assert "expected one named 'cif'" in named["labels.csv"]
    assert "holds no crystal" in named["manifest.json"]
    assert "has the column 'cif' 2 times" in named["twice.csv"]
    (warning,) = source.warnings
    assert warning.startswith("6 files of the folder were not read: OUTCAR: not read")
    # A dataset of Hullward's own inside a folder is not mixed in: its crystals may be those of the files beside it.
    (tmp_path / "out").rename(folder / "dataset")
    again = read(tmp_path, folder)
    assert again.table.column("id").to_pylist() == first.table.column("id").to_pylist()
    assert any(
        name.startswith("dataset/dataset.parquet: not read, since") for name in again.manifest.sources[0].files_not_read
    )


def test_a_folder_of_nothing_that_is_read_says_what_it_found(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "OUTCAR").write_text("x")
    with pytest.raises(SourceError, match=r"a folder without any crystal \(1 files, OUTCAR: not read"):
        read(tmp_path, tmp_path / "mine")


def test_files_packed_with_gzip_are_read_as_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    texts: dict[str, Any] = {"a.cif": CIF, "POSCAR": SALT.to(fmt="poscar"), "b.json": json.dumps([SALT.as_dict()])}
    for name, text in texts.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "c.cif.gz").write_bytes(gzip.compress(CIF.encode())[:-20])
    found = read(tmp_path, folder)
    assert found.table.column("formula").to_pylist() == ["CsCl"] * 3
    (refused,) = found.rejected.to_pylist()
    assert refused["source_id"] == "c.cif.gz"
