"""Small files that state far more than they are: each is refused by its limit, in a process that has little memory."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from generative.crystal.crystals import Crystal
from generative.datasets.checks import RecordError, checked, has_pure_translation, spacegroup_of
from generative.datasets.limits import MAX_VECTOR_ANG, MIN_PLANE_SPACING_ANG
from generative.datasets.records import RawRecord, interpret_batch

REPOSITORY = Path(__file__).parents[3]
MEMORY_BYTES = 3 << 30
SECONDS = 600  # far beyond what any takes; a hang ends here

TAKE_IN = f"""
import resource, sys, tempfile
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY_BYTES}, {MEMORY_BYTES}))
from pathlib import Path
from generative.datasets.config import DataConfig, FilesSource
from generative.datasets.ingest import ingest
from generative.datasets.manifest import read_dataset
for path in sys.argv[1:]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            ingest(DataConfig(sources=(FilesSource(path=path, json_mb_max=20),)), None, Path(folder), Path)
            dataset = read_dataset(Path(folder))
            said = [len(dataset.table), *(row["reason"] for row in dataset.rejected.to_pylist())][-1]
        except ValueError as error:
            said = error
    print(Path(path).name, said, flush=True)
"""

HEAD = "data_a\n" + "".join(f"_cell_length_{x} 4\n" for x in "abc")
HEAD += "".join(f"_cell_angle_{x} 90\n" for x in ("alpha", "beta", "gamma"))
SITES = "loop_\n_atom_site_label\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"


def poscar(lattice: str, count: str = "1 1") -> bytes:
    return f"x\n1\n{lattice}\nCu O\n{count}\nDirect\n0 0 0\n.5 .5 .5\n".encode()


def operations(name: str, n: int) -> str:
    return f"loop_\n{name}\n" + "".join(f"'x+{i}/{n},y,z'\n" for i in range(n))


def many_sites() -> str:
    rng = np.random.default_rng(0)
    return SITES + "".join(f"Cu{i} {x:.4f} {y:.4f} {z:.4f}\n" for i, (x, y, z) in enumerate(rng.random((1000, 3))))


def packed(head: bytes, unit: bytes) -> bytes:
    return gzip.compress(head + unit * ((70 << 20) // len(unit)), 9)


def same_rows(n_rows: int, text: str) -> pa.Table:
    return pa.table({"cif": pa.DictionaryArray.from_arrays(pa.array(np.zeros(n_rows, dtype=np.int32)), [text])})


def endless_list() -> pa.Table:
    zeros = pa.array(np.zeros(20_000_000))
    parts = {"lattice_ang": 9, "frac_coords": len(zeros), "atomic_numbers": 1}
    return pa.table({name: pa.ListArray.from_arrays([0, n], zeros[:n]) for name, n in parts.items()})


BOMBS: dict[str, tuple[Callable[[], bytes | str | pa.Table], str]] = {
    "blanks.csv.gz": (lambda: packed(b"material_id,cif\n", b" "), "unpack to over"),
    "lines.csv.gz": (lambda: packed(b"material_id,cif\n", b"\n"), "100000 blank lines follow each other"),
    "rows.csv.gz": (lambda: packed(b"material_id,cif\n", b"a," + b"b" * 5000 + b"\n"), "unpack to over"),
    "head.csv.gz": (lambda: packed(b"", b"a"), "unpack to over"),
    "blank.json.gz": (lambda: packed(b"", b" "), "more than 20 MB: .* raise json_mb_max"),
    "line.jsonl.gz": (lambda: packed(b"", b"1"), "unpack to over"),
    "number.xyz.gz": (lambda: packed(b"", b"9"), "a line has more than 65536 characters"),
    "lines.xyz.gz": (lambda: packed(b"", b"\n"), "100000 blank lines follow each other"),
    "a.cif.gz": (lambda: packed(b"", b"\n"), "unpack to over"),
    "a.vasp.gz": (lambda: packed(b"", b"1"), "unpack to over"),
    "a.mcif.gz": (lambda: packed(b"", b"#"), "unpack to over"),
    "claim.vasp": (lambda: poscar("4 0 0\n0 4 0\n0 0 4", "100000000 1"), "100000001 atoms: expected 1 to 1000"),
    "claims.vasp": (lambda: poscar("4 0 0\n0 4 0\n0 0 4", "9" * 5000 + " 1"), "is not a chemical element"),
    "far.vasp": (lambda: poscar("1e7 0 0\n0 1e7 0\n0 0 1e7"), r"1e\+07 A long: expected at most 1000 A"),
    "wide.vasp": (lambda: poscar("500 0 0\n0 500 0\n0 0 500"), r"expected at most 100000 A\^3 per atom"),
    "skew.vasp": (
        lambda: poscar("4 0 0\n900 4 0\n400 800 4"),
        "faces of the cell are .* expected at least 0.5 A; give",
    ),
    "claim.xyz": (lambda: '100000000\nLattice="4 0 0 0 4 0 0 0 4"\nCu 0 0 0\n', "100000000 atoms: expected 1 to 1000"),
    "braces.xyz": (lambda: f'1\nLattice="4 0 0 0 4 0 0 0 4" {"{" * 60_000}\nCu 0 0 0\n', ""),
    "quotes.xyz": (lambda: "1\n" + '"\\' * 30_000 + "\nCu 0 0 0\n", ""),
    "operations.cif": (
        lambda: HEAD + operations("_symmetry_equiv_pos_as_xyz", 20_000) + SITES + "Cu1 0 0 0\n",
        "20000 symmetry operations: expected at most 1000",
    ),
    "translations.cif": (
        lambda: HEAD + operations("_symmetry_equiv_pos_as_xyz", 900) + SITES + "Cu1 0 0 0\n",
        "840 pure translations: expected at most 108",
    ),
    "images.cif": (lambda: HEAD + "_symmetry_space_group_name_H-M 'F d -3 m'\n" + many_sites(), "atoms or more|images"),
    "quotes.cif": (lambda: HEAD + "'x " * 300_000, "full of quotation marks: expected lines of at most 2048"),
    "moments.mcif": (
        lambda: HEAD + operations("_space_group_symop_magn_operation.xyz", 900) + many_sites(),
        "900000 images: expected at most 20000",
    ),
    "array.json": (lambda: '[{"a":[' + "0," * 5_000_000 + "0]}]", "5000003 values: expected at most 2500000"),
    "lists.json": (lambda: "[" + "[]," * 3_000_000 + "[]]", "6000002 values: expected at most 2500000"),
    "deep.json": (lambda: "[" * 2_000_000, "not JSON"),
    "rows.parquet": (lambda: same_rows(20_000_000, "x"), "bytes of content: expected at most"),
    "texts.parquet": (lambda: same_rows(5000, "x" * 5_000_000), "unpack to over"),
    "page.parquet": (lambda: pa.table({"cif": [" " * 70_000_000]}), "bytes of content: expected at most"),
    "list.parquet": (endless_list, "bytes of content: expected at most"),
}


def written(folder: Path, name: str) -> Path:
    path, content = folder / name, BOMBS[name][0]()
    if isinstance(content, pa.Table):
        pq.write_table(content, path, compression="zstd")
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_small_file_that_states_too_much_is_refused_by_its_limit_in_little_memory(tmp_path: Path) -> None:
    paths = [str(written(tmp_path, name)) for name in BOMBS]
    done = subprocess.run(
        [sys.executable, "-c", TAKE_IN, *paths], cwd=REPOSITORY, capture_output=True, text=True, timeout=SECONDS
    )
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert list(said) == list(BOMBS), done.stderr[-1000:]
    assert [f"{name}: {said[name]}" for name in BOMBS if not re.search(BOMBS[name][1], said[name])] == []


ENERGIES = ("energy_per_atom", "formation_energy_per_atom", "e_above_hull", "band_gap")


@pytest.mark.parametrize("name", ENERGIES)
@pytest.mark.parametrize("value", [-1e308, 1e308, -3e6, 10**400, float("inf"), "1e309", "9" * 5000])
def test_energies_that_no_crystal_has_are_refused_from_any_source(name: str, value: object) -> None:
    from generative.datasets.formats.columns import properties_of
    from generative.datasets.records import Form

    crystal = Crystal(np.eye(3) * 4.0, np.zeros((1, 3)), np.array([29], dtype=np.int16))
    record = RawRecord("a", Form.CRYSTAL, crystal, properties_of({name: value}))
    rows, refusals, _ = interpret_batch([record], "s", "PBE", None)
    assert (len(rows), len(refusals)) == (0, 1)
    assert name in refusals[0][1]
    assert "expected" in refusals[0][1]


@pytest.mark.parametrize("z", [22.7, 0, -1, 104, 65_562, 1e308, float("nan"), None])
def test_an_atomic_number_that_no_element_has_is_refused_and_not_rounded(z: object, tmp_path: Path) -> None:
    from generative.datasets.formats.parquet_records import read_parquet

    row = {"id": ["a"], "lattice_ang": [[4.0, 0, 0, 0, 4, 0, 0, 0, 4]], "frac_coords": [[0.0, 0, 0]]}
    pq.write_table(pa.table({**row, "atomic_numbers": pa.array([[z]], pa.list_(pa.float64()))}), tmp_path / "a.parquet")
    (record,) = read_parquet(tmp_path / "a.parquet")
    assert re.search("atomic number .* expected whole numbers from 1|do not fit together", record.reason)


def test_cells_at_the_limits_are_taken_and_those_beyond_are_refused_with_the_remedy() -> None:
    def cell(*rows: tuple[float, float, float]) -> Crystal:
        return Crystal(np.array(rows), np.zeros((1, 3)), np.array([29], dtype=np.int16))

    edge = MAX_VECTOR_ANG
    checked(cell((edge, 0, 0), (0, 3, 0), (0, 0, 3)))
    with pytest.raises(RecordError, match="expected at most 1000 A; give the crystal in its reduced cell"):
        checked(cell((edge * 1.001, 0, 0), (0, 3, 0), (0, 0, 3)))
    checked(cell((46, 0, 0), (0, 46, 0), (0, 0, 46)))
    with pytest.raises(RecordError, match=r"at most 100000 A\^3 per atom"):
        checked(cell((47, 0, 0), (0, 47, 0), (0, 0, 47)))
    slope = np.sqrt((3 / MIN_PLANE_SPACING_ANG) ** 2 - 1) * 3
    checked(cell((3, 0, 0), (slope * 0.999, 3, 0), (0, 0, 3)))
    with pytest.raises(RecordError, match="expected at least 0.5 A; give the crystal in its reduced"):
        checked(cell((3, 0, 0), (slope * 1.001, 3, 0), (0, 0, 3)))


def test_a_translation_of_a_large_cell_is_found_or_denied_as_by_looking_at_all_pairs() -> None:
    rng = np.random.default_rng(0)
    verdicts = []
    for case in range(20):
        half = rng.random((40, 3)) * [0.5, 1, 1]
        frac = np.vstack([half, (half + [0.5, 0, 0]) % 1])
        frac[60] += (0, 0.0004, 0.0008, 0.002)[case % 4]
        crystal = Crystal(np.diag([14.0, 11, 12]), frac, np.tile(rng.choice([29, 79], 40), 2).astype(np.int16))
        delta = crystal.frac + [0.5, 0, 0] - crystal.frac[np.r_[40:80, 0:40]]
        expected = np.linalg.norm((delta - np.round(delta)) @ crystal.lattice_ang, axis=1).max() < 0.01
        assert has_pure_translation(crystal) == expected
        verdicts.append(expected)
    assert 4 < sum(verdicts) < 16


def test_the_space_group_of_a_large_cell_is_that_of_its_crystal_with_an_atom_displaced() -> None:
    grid = np.stack(np.meshgrid(*[range(7)] * 3, indexing="ij"), -1).reshape(-1, 3) / 7
    crystal = Crystal(np.eye(3) * 21.0, grid, np.full(343, 29, dtype=np.int16))
    assert spacegroup_of(crystal) == 221
    moved = grid.copy()
    moved[0] += [0.01, 0, 0]
    assert (
        spacegroup_of(Crystal(crystal.lattice_ang, moved, crystal.atomic_numbers)) == 99
    )  # P4mm, the axis moved along
    moved[0] += [0, 0.01, 0.01]
    assert spacegroup_of(Crystal(crystal.lattice_ang, moved, crystal.atomic_numbers)) == 160  # R3m, along the diagonal


def test_a_cif_of_more_words_than_memory_is_meant_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from generative.datasets.cif import text as cif_text

    text = HEAD + SITES + "Cu1 0 0 0\n"
    assert len(cif_text.blocks_of(text)) == 1
    monkeypatch.setattr(cif_text, "MAX_CIF_WORDS", 20)
    with pytest.raises(RecordError, match="more than 20 words: expected one crystal"):
        cif_text.blocks_of(text)


def test_every_limit_is_in_the_documentation() -> None:
    text = (REPOSITORY / "docs" / "ingest.md").read_text()
    for words in (
        "1,000 atoms",
        "1,000 A",
        "100,000 A^3",
        "0.5 A",
        "64 MB",
        "100 times",
        "json_mb_max",
        "1,000,000 ch",
    ):
        assert words in text, words


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_file_of_endless_column_names_is_refused_in_a_short_sentence(tmp_path: Path, name: str) -> None:
    from generative.datasets.config import FilesSource
    from generative.datasets.files import Files
    from generative.datasets.sources import SourceError

    path, column = tmp_path / name, "x" * 30_000
    if name == "a.csv":
        path.write_text(f"{column},{column}y\n1,2\n")
    else:
        pq.write_table(pa.table({column: [1]}), path)
    with pytest.raises(SourceError, match=f"{name}: has the columns") as caught:
        list(Files(FilesSource(path=str(path)), path).batches(None))
    assert len(str(caught.value)) < 1000
