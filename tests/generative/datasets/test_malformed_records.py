"""Malformed crystals as real files: each becomes one quarantined row with a reason, and costs no neighbour."""

from __future__ import annotations

import re

import numpy as np
import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifWriter
from pymatgen.io.vasp.inputs import Poscar

from generative.crystal.crystals import Crystal
from generative.datasets.checks import RecordError, checked, primitive
from generative.datasets.config import DataConfig, FilesSource
from generative.datasets.ingest import ingest
from generative.datasets.limits import MAX_RECORD_ATOMS, MIN_DISTANCE_ANG
from generative.datasets.manifest import Dataset, read_dataset

CSCL = Structure(Lattice.cubic(4.1), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
GOOD = str(CifWriter(CSCL))


def many_atoms() -> str:
    grid = np.stack(np.meshgrid(range(22), range(22), range(22)), axis=-1).reshape(-1, 3)[:10_000] / 22
    return str(CifWriter(Structure(Lattice.cubic(66), ["Cu"] * 10_000, grid)))


def disordered() -> str:
    return str(CifWriter(Structure(Lattice.cubic(3.8), [{"Cu": 0.75, "Au": 0.25}], [[0, 0, 0]])))


FLAT = "flat\n1.0\n4.1 0 0\n0 4.1 0\n4.1 4.1 0\nCs Cl\n1 1\ndirect\n0 0 0\n0.5 0.5 0.5\n"
NAMELESS = "some crystal\n1.0\n4.1 0 0\n0 4.1 0\n0 0 4.1\n1 1\ndirect\n0 0 0\n0.5 0.5 0.5\n"

CASES: dict[str, tuple[str | bytes, str]] = {
    "nan.cif": (GOOD.replace("0.50000000", "nan", 1), r"site Cl1 has coordinates \(nan, .*expected finite"),
    "nan_lattice.cif": (GOOD.replace("_a   4.10000000", "_a   nan"), "_cell_length_a is 'nan': expected a positive"),
    "zero_volume.vasp": (FLAT, r"volume is 0 A\^3 for 2 atoms: expected at least 0.5"),
    "negative_volume.cif": (GOOD.replace("_b   4.10000000", "_b   -4.10000000"), "is '-4.10000000': expected a pos"),
    "unknown_element.cif": (GOOD.replace("  Cl  Cl1", "  Qq  Qq1"), "site Qq1 is of element 'Qq': expected"),
    "overlapping.cif": (GOOD.replace("0.50000000", "0.02000000"), r"atoms 1 \(Cs\) and 2 \(Cl\) are 0.1420 A apart"),
    "disordered.cif": (disordered(), "disordered: its occupancy is 0.75"),
    "truncated.cif": (GOOD[: GOOD.index("  Cl  Cl1")], r"'Cs1', but _chemical_formula_sum is 'Cs1 Cl1'"),
    "truncated_line.cif": (GOOD[: GOOD.rindex("0.5000") + 4], "may be cut off"),
    "truncated_head.cif": (GOOD[:200], "lists no atom .*may be cut off"),
    "empty.cif": ("", "is empty: expected a CIF"),
    "wrong_encoding.cif": (GOOD.encode("utf-16"), "byte 0xff at position 0 is not UTF-8"),
    "wrong_encoding_latin.cif": (
        "# Müller\n".encode("latin-1") + GOOD.encode(),
        "byte 0xfc at position 3 is not UTF-8",
    ),
    "ten_thousand_atoms.cif": (many_atoms(), f"10000 atoms: expected 1 to {MAX_RECORD_ATOMS}"),
    "empty.vasp": ("", "empty: expected a POSCAR"),
    "no_symbols.vasp": (NAMELESS, "names no elements: it has no line of element symbols"),
    "unknown_element.vasp": (Poscar(CSCL).get_str().replace("Cs", "Qq"), "'Qq' is not a chemical element"),
    "truncated.vasp": (Poscar(CSCL).get_str()[:120], "may be cut off"),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("crystals")
    for name, (content, _) in CASES.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "good.cif").write_text(GOOD)
    (folder / "POSCAR_good").write_text(Poscar(CSCL).get_str())
    out = tmp_path_factory.mktemp("dataset")
    ingest(DataConfig(sources=(FilesSource(path="crystals"),)), None, out, lambda _: folder)
    return read_dataset(out)


@pytest.mark.parametrize("name", CASES)
def test_a_malformed_file_is_one_quarantined_row_that_says_why(dataset: Dataset, name: str) -> None:
    rows = [row for row in dataset.rejected.to_pylist() if row["source_id"] == name]
    assert len(rows) == 1
    assert re.search(CASES[name][1], rows[0]["reason"]), rows[0]["reason"]
    assert "\n" not in rows[0]["reason"]
    assert len(rows[0]["record"]) <= 4000
    assert bool(rows[0]["record"]) == bool(CASES[name][0])


def test_good_neighbours_are_kept_and_nothing_is_lost(dataset: Dataset) -> None:
    assert dataset.table.column("source_id").to_pylist() == ["POSCAR_good", "good.cif"]
    assert dataset.table.column("formula").to_pylist() == ["CsCl", "CsCl"]
    assert dataset.table.column("spacegroup").to_pylist() == [221, 221]
    (record,) = dataset.manifest.sources
    assert (record.n_read, record.n_kept, record.n_rejected) == (len(CASES) + 2, 2, len(CASES))


def test_a_left_handed_cell_is_kept_as_the_same_crystal_right_handed() -> None:
    rng = np.random.default_rng(0)
    lattice = rng.normal(size=(3, 3)) * 2 + 6 * np.eye(3)[[1, 0, 2]]
    assert np.linalg.det(lattice) < 0
    frac = np.array([[0.1, 0.2, 0.3], [0.6, 0.5, 0.9], [0.15, 0.75, 0.4]])
    crystal = checked(Crystal(lattice, frac, np.array([3, 8, 16], dtype=np.int16)))
    assert np.linalg.det(crystal.lattice_ang) == pytest.approx(-np.linalg.det(lattice))
    np.testing.assert_allclose(crystal.frac @ crystal.lattice_ang, frac @ lattice)


def test_the_overlap_bound_agrees_with_pymatgen_distances_over_images() -> None:
    rng = np.random.default_rng(1)
    verdicts = []
    for _ in range(80):
        lattice = rng.normal(size=(3, 3)) + np.diag(rng.uniform(1, 3, 3))
        frac = rng.random((3, 3))
        structure = Structure(Lattice(lattice), ["Li"] * 3, frac)
        # Brute force over many images: pymatgen's distance matrix takes only the nearest image of another atom.
        images = np.stack(np.meshgrid(*[range(-6, 7)] * 3), axis=-1).reshape(-1, 3)
        delta = (frac[:, None, None] - frac[None, :, None] + images) @ structure.lattice.matrix
        distances = np.linalg.norm(delta, axis=-1)
        shortest = distances[distances > 1e-9].min()
        if structure.volume / 3 < 0.5 or min(structure.lattice.d_hkl(plane) for plane in np.eye(3)) < 0.5:
            continue
        crystal = Crystal.from_structure(structure)
        verdicts.append(shortest < MIN_DISTANCE_ANG)
        if verdicts[-1]:
            with pytest.raises(RecordError, match=f"{shortest:.4f} A apart"):
                checked(crystal)
        else:
            checked(crystal)
    assert 3 < sum(verdicts) < len(verdicts) - 3


def test_a_supercell_is_stored_primitive_and_a_primitive_cell_untouched() -> None:
    rng = np.random.default_rng(2)
    cell = Structure(Lattice(np.eye(3) * 5 + rng.normal(size=(3, 3)) * 0.4), ["Ga", "As"], rng.random((2, 3)))
    crystal = checked(Crystal.from_structure(cell))
    assert primitive(crystal) is crystal
    doubled = checked(Crystal.from_structure(cell.make_supercell([[1, 1, 0], [0, 2, 0], [0, 1, 2]], in_place=False)))
    reduced = primitive(doubled)
    assert len(doubled.atomic_numbers) == 8
    assert len(reduced.atomic_numbers) == 2
    assert reduced.to_structure().volume == pytest.approx(cell.volume)
    assert reduced.to_structure().distance_matrix[0, 1] == pytest.approx(cell.distance_matrix[0, 1], abs=1e-6)
    disturbed = doubled.frac.copy()
    disturbed[0] += 0.02
    assert len(primitive(Crystal(doubled.lattice_ang, disturbed, doubled.atomic_numbers)).atomic_numbers) == 8
