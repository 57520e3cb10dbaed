"""CIFs that were read wrongly, and generated ones of their kinds: the right crystal, or a refusal that says why."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import spglib

from generative.config import ELEMENTS
from generative.crystal.crystals import Crystal
from generative.datasets.checks import RecordError, spacegroup_of
from generative.datasets.cif.operations import listed_operations
from generative.datasets.cif.reading import read_cif
from generative.datasets.cif.sites import formula_counts
from generative.datasets.config import DataConfig, FilesSource
from generative.datasets.ingest import ingest
from generative.datasets.manifest import Dataset, read_dataset
from generative.datasets.records import formula_of
from tests.cifs import parse_cif

CASES = Path(__file__).parents[2] / "data" / "cases" / "cif"

# file, or file and block -> formula, atoms in the primitive cell, space group, A^3 per atom
KEPT = {
    "GeTe_rhomb_axes.cif": ("GeTe", 2, 160, 27.0),
    "GeTe_rhomb_axes_R_suffix.cif": ("GeTe", 2, 160, 27.0),
    "Si_origin2.cif": ("Si", 2, 227, 20.02),
    "hcp_0.333.cif": ("Mg", 2, 194, 23.24),
    "spinel_origin2_hm.cif": ("MgAl2O4", 14, 227, 9.43),
    "two_blocks_publ.cif": ("CsCl", 2, 221, 35.04),
    "two_blocks_same_name.cif:x": ("CsCl", 2, 221, 35.04),
    "two_blocks_same_name.cif:x-2": ("AlNi", 2, 221, 13.5),
}
REFUSED = {
    "implicit_H_portlandite.cif": "site O1 has 1 attached hydrogens that are not listed",
    "label_only_HO_NO.cif": "site HO1 may be Ho or H",
    "occ_question_disorder_group.cif": "site Cl1A is disordered: it is in disorder group 1 with occupancy",
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("dataset")
    ingest(DataConfig(sources=(FilesSource(path="cases"),)), None, out, lambda _: CASES)
    return read_dataset(out)


def test_every_case_is_the_right_crystal_or_refused_with_its_reason(dataset: Dataset) -> None:
    found: dict[str, tuple[object, ...]] = {}
    for row in dataset.table.to_pylist():
        volume = abs(np.linalg.det(np.array(row["lattice_ang"]).reshape(3, 3))) / row["n_atoms"]
        found[row["source_id"]] = (row["formula"], row["n_atoms"], row["spacegroup"], pytest.approx(volume, abs=0.01))
    assert found == KEPT
    reasons = {row["source_id"]: row["reason"] for row in dataset.rejected.to_pylist()}
    assert reasons.keys() == REFUSED.keys()
    for name, words in REFUSED.items():
        assert words in reasons[name]


def test_what_was_merged_to_read_a_crystal_stands_in_its_row(dataset: Dataset) -> None:
    notes = {row["source_id"]: json.loads(row["extra"] or "{}") for row in dataset.table.to_pylist()}
    (note,) = notes.pop("hcp_0.333.cif")["reading_notes"]
    assert note.startswith("images of site Mg1 up to 0.003 A apart were taken as one atom")
    assert not any(notes.values())


def case(name: str) -> str:
    return (CASES / name).read_text()


def cif(
    sites: list[str],
    *names: str,
    cell: tuple[float, ...] = (4.0, 4.0, 4.0, 90.0, 90.0, 90.0),
    columns: tuple[str, ...] = ("label", "fract_x", "fract_y", "fract_z"),
) -> str:
    keys = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    head = [f"_cell_{key} {value}" for key, value in zip(keys, cell, strict=True)]
    loop = ["loop_", *(f"_atom_site_{column}" for column in columns), *sites]
    return "\n".join(["data_x", *names, *head, *loop, ""])


def refusal(text: str) -> str:
    with pytest.raises(RecordError) as caught:
        parse_cif(text, 1000)
    return str(caught.value)


def formula(text: str) -> str:
    return formula_of(parse_cif(text, 1000).atomic_numbers)


def same(first: Crystal, second: Crystal, tolerance_ang: float) -> bool:
    delta = first.frac[:, None] - second.frac[None]
    distances_ang = np.linalg.norm((delta - np.round(delta)) @ first.lattice_ang, axis=-1)
    distances_ang[first.atomic_numbers[:, None] != second.atomic_numbers[None]] = np.inf
    return len(first.frac) == len(second.frac) and bool(distances_ang.min(axis=1).max() < tolerance_ang)


# Settings


@pytest.mark.parametrize("suffix", [" :2", ":2", " Z", "Z", " :z", " 2"])
def test_silicon_in_origin_2_is_itself_however_the_origin_is_written(suffix: str) -> None:
    crystal = parse_cif(case("Si_origin2.cif").replace(" :2", suffix), 1000)
    assert (len(crystal.frac), spacegroup_of(crystal)) == (8, 227)


def test_an_origin_that_is_not_named_is_found_by_the_stated_contents_or_refused() -> None:
    silent = case("Si_origin2.cif").replace(" :2", "")
    found = read_cif(silent, 1000)
    assert same(found.crystal, parse_cif(case("Si_origin2.cif"), 1000), 1e-6)
    assert "only 'F d -3 m :2' agrees" in found.notes[0]
    without = silent.replace("_cell_formula_units_Z 8", "")
    assert "not which of its settings ('F d -3 m :1', 'F d -3 m :2')" in refusal(without)
    assert "list the symmetry operations" in refusal(without)
    split = cif(["Cs1 0.26 0.13 0.4"], "_space_group_name_H-M_alt 'P b a n'", cell=(9.0, 10.0, 11.0, 90.0, 90.0, 90.0))
    assert "not which of its settings ('P b a n :1', 'P b a n :2')" in refusal(split)  # in one of them beside itself
    by_density = without + "_exptl_crystal_density_diffrn 2.329\n"
    assert len(parse_cif(by_density, 1000).frac) == 8


def test_a_wrong_origin_is_refused_for_its_number_of_atoms() -> None:
    reason = refusal(case("Si_origin2.cif").replace(":2", ":1"))
    assert "holds 16 atoms (Si16, 10.01 A^3 per atom)" in reason
    assert "_cell_formula_units_Z 8 gives 8 (20.02 A^3 per atom)" in reason


@pytest.mark.parametrize("code", ["H", "R"])
def test_rhombohedral_groups_take_the_axes_of_their_cell(code: str) -> None:
    hexagonal = (4.18, 4.18, 10.6, 90.0, 90.0, 120.0)
    rhombohedral = (4.31, 4.31, 4.31, 58.0, 58.0, 58.0)
    name = f"_space_group_name_H-M_alt 'R 3 m :{code}'"
    right, wrong = (hexagonal, rhombohedral) if code == "H" else (rhombohedral, hexagonal)
    sites = ["Ge1 0 0 0.237", "Te1 0 0 0.763"] if code == "H" else ["Ge1 0.237 0.237 0.237", "Te1 0.763 0.763 0.763"]
    crystal = parse_cif(cif(sites, name, cell=right), 1000)
    assert len(crystal.frac) == (6 if code == "H" else 2)
    assert same(crystal, parse_cif(cif(sites, name.replace(f" :{code}", ""), cell=right), 1000), 1e-9)
    assert "the cell does not have the symmetry" in refusal(cif(sites, name, cell=wrong))


SPELLINGS = [
    ("F m 3 m", "F m -3 m"),
    ("P a 3", "P a -3"),
    ("C m c a", "C m c e"),
    ("A b m 2", "A e m 2"),
    ("P n m a :cab", "P b n m"),
    ("P 21/n 21/m 21/a", "P n m a"),
    ("P 2(1) 3", "P 21 3"),
    ("P2_12_12_1", "P 21 21 21"),
    ("P 41 21 2", "P4_12_12"),
]


def test_other_spellings_of_a_symbol_name_the_same_setting() -> None:
    for old, new in SPELLINGS:
        sites, cell = ["Cs1 0.09 0.19 0.36"], (9.0, 9.0, 9.0, 90.0, 90.0, 90.0)
        old_one, new_one = (cif(sites, f"_symmetry_space_group_name_H-M '{name}'", cell=cell) for name in (old, new))
        assert same(parse_cif(old_one, 1000), parse_cif(new_one, 1000), 1e-9)


def test_statements_that_contradict_each_other_are_refused_by_name() -> None:
    sites = ["Cs1 0 0 0", "Cl1 0.5 0.5 0.5"]
    symbol, number = "_space_group_name_H-M_alt 'P m -3 m'", "_space_group_IT_number 225"
    assert "the symbol 'P m -3 m' and the number 225 contradict" in refusal(cif(sites, symbol, number))
    hall = "_space_group_name_Hall '-F 4 2 3'"
    assert "'P m -3 m' and the Hall symbol '-F 4 2 3' contradict" in refusal(cif(sites, symbol, hall))
    listed = "loop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'"
    assert "1 listed operations are of space group 1, but the symbol" in refusal(cif(sites, symbol, listed))
    assert "'C -1' is in no table" in refusal(
        cif(sites, "_space_group_name_H-M_alt 'C -1'", "_space_group_IT_number 2")
    )


def test_operations_that_lack_one_or_do_not_fit_the_cell_are_refused() -> None:
    rng = np.random.default_rng(7)
    for hall in rng.choice(np.arange(108, 531), 40, replace=False):
        found = spglib.get_symmetry_from_database(int(hall))
        assert found is not None
        texts = [
            ", ".join(
                "".join(f"{n:+d}{axis}" for n, axis in zip(row, "xyz", strict=True) if n).replace("1", "") + f"+{t:.4f}"
                for row, t in zip(rotation, shift, strict=True)
            )
            for rotation, shift in zip(found["rotations"], found["translations"] % 1, strict=True)
        ]
        assert len(listed_operations(texts)) == len(texts)
        del texts[int(rng.integers(1, len(texts)))]
        with pytest.raises(RecordError, match="form no group"):
            listed_operations(texts)
    triclinic = (4.0, 5.0, 6.0, 80.0, 95.0, 100.0)
    listed = "loop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'\n'-y, x, z'\n'-x, -y, z'\n'y, -x, z'"
    assert "not have the symmetry of the 4 listed operations" in refusal(cif(["Cs1 0 0 0"], listed, cell=triclinic))


# Contents


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("_cell_formula_units_Z 2", "the cell holds 2 atoms"),
        ("_cell_volume 83.0", "_cell_volume is 83, but lengths and angles enclose 64.00 A^3"),
        ("_exptl_crystal_density_diffrn 3.99", "give 4.368 g/cm^3, but _exptl_crystal_density_diffrn is 3.99"),
        ("_chemical_formula_sum 'Cs Cl2'", "the sites amount to 'Cs1 Cl1', but _chemical_formula_sum is 'Cs Cl2'"),
        ("_cell_length_a 4.1", "_cell_length_a stands twice"),
    ],
)
def test_contents_that_the_file_itself_denies_are_refused(line: str, words: str) -> None:
    sites = ["Cs1 0 0 0", "Cl1 0.5 0.5 0.5"]
    stated = ["_symmetry_Int_Tables_number 221", "_chemical_formula_sum 'Cl Cs'", "_cell_formula_units_Z 1"]
    stated += ["_cell_volume 64.0(3)", "_exptl_crystal_density_diffrn 4.37"]
    assert formula(cif(sites, *stated)) == "CsCl"
    name = line.split()[0]
    assert words in refusal(cif(sites, *(other for other in stated if not other.startswith(name)), line))


def test_a_list_cut_off_or_a_lost_operation_never_passes_beside_formula_and_z() -> None:
    """P 1 without its operations: 'Si' with Z = 8 is no cell of one atom, though pymatgen's 'Si8' is one of eight."""
    lost = (
        case("Si_origin2.cif").replace("_space_group_name_H-M_alt 'F d -3 m :2'", "").replace("_space_group_IT", "_x")
    )
    assert "holds 1 atoms (Si1, 160.19 A^3 per atom)" in refusal(lost)


# Atoms


def test_hydrogens_that_have_no_site_are_never_lost() -> None:
    columns = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")
    oxide = ["Ca1 Ca 0 0 0", "O1 O 0.3 0.3 0.3", "O2 O 0.7 0.7 0.7"]
    assert "the hydrogens are not listed" in refusal(cif(oxide, "_chemical_formula_sum 'Ca H2 O2'", columns=columns))
    assert formula(cif(oxide, columns=columns)) == "CaO2"
    water = [site.replace("O1", "OW1") for site in oxide]
    assert "site OW1 is called a hydroxide's or water's oxygen" in refusal(cif(water, columns=columns))
    listed = [*oxide, "H1 H 0.45 0.3 0.3", "H2 H 0.55 0.7 0.7"]
    attached = [f"{site} {int(site.startswith('O'))}" for site in listed]
    all_columns = (*columns, "attached_hydrogens")
    assert formula(cif(attached, "_chemical_formula_sum 'Ca H2 O2'", columns=all_columns)) == "Ca(HO)2"
    assert "attached hydrogens" in refusal(cif(attached, columns=all_columns))


def test_labels_of_every_element_are_read_as_it_or_refused() -> None:
    rng = np.random.default_rng(11)
    n_refused = 0
    for symbol in ELEMENTS:
        for label in (f"{symbol}1", f"{symbol}{rng.integers(1, 30)}A", f"{symbol.upper()}{rng.integers(1, 30)}"):
            assert formula_of(parse_cif(cif([f"{label} {symbol} 0 0 0"], columns=TYPED), 1000).atomic_numbers)
            by_formula = cif([f"{label} 0 0 0"], f"_chemical_formula_sum {symbol}")
            assert ELEMENTS[parse_cif(by_formula, 1000).atomic_numbers[0] - 1] == symbol
            try:
                found = parse_cif(cif([f"{label} 0 0 0"]), 1000)
            except RecordError:
                n_refused += 1
                assert label.isupper()
                continue
            assert ELEMENTS[found.atomic_numbers[0] - 1] == symbol
    assert 15 <= n_refused <= 25


TYPED = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")


@pytest.mark.parametrize(
    "label", ["HO1", "NO1", "WAT1", "H2O1", "NH4", "OH1", "Ow1", "M1", "T1", "X2", "Va1", "Vac", "CO3"]
)
def test_labels_that_name_groups_or_sites_are_refused_where_nothing_else_tells_the_element(label: str) -> None:
    assert label in refusal(cif([f"{label} 0 0 0", "Li1 0.5 0.5 0.5"]))


def test_the_formula_or_the_type_decides_what_a_label_cannot() -> None:
    sites = ["LI1 0 0 0", "OH1 0.5 0.5 0.2", "HO1 0.5 0.5 0.36"]
    assert formula(cif(sites, "_chemical_formula_sum 'H Li O'")) == "LiHO"
    typed = ["LI1 Li 0 0 0", "OH1 O2- 0.5 0.5 0.2", "HO1 H1+ 0.5 0.5 0.36"]
    assert formula(cif(typed, columns=TYPED)) == "LiHO"
    assert formula(cif(["HO1 0 0 0", "N1 0.5 0.5 0.5"], "_chemical_formula_sum 'Ho N'")) == "HoN"
    assert "names none of the stated formula's elements" in refusal(cif(["Ho1 0 0 0"], "_chemical_formula_sum 'Na Cl'"))
    for kind in ("OH", "H2O", "Nb,Zr", "'0.8Nb + 0.2Zr'", "HO", "Va"):
        assert "site Q1" in refusal(cif([f"Q1 {kind} 0 0 0"], columns=TYPED))


@pytest.mark.parametrize(
    "rows",
    [
        ["? 1", "? 2"],
        ["1 1", "1 2"],
        [". 1", ". ."],
        ["1 -1", "1 ."],
        ["0.5 .", "1 ."],
    ],
)
def test_alternatives_are_disordered_whatever_their_occupancy_says(rows: list[str]) -> None:
    columns = ("label", "fract_x", "fract_y", "fract_z", "occupancy", "disorder_group")
    sites = [f"{label} {row}" for label, row in zip(("K1 0 0 0", "Cl1 0.5 0.5 0.5"), rows, strict=True)]
    assert "is disordered" in refusal(cif(sites, columns=columns))


def test_an_assembly_of_unknown_occupancy_is_disordered() -> None:
    columns = ("label", "fract_x", "fract_y", "fract_z", "occupancy", "disorder_assembly")
    assert "is in disorder assembly A" in refusal(cif(["K1 0 0 0 ? .", "Cl1 0.5 0.5 0.5 ? A"], columns=columns))


def test_unknown_occupancies_without_groups_are_whole_atoms() -> None:
    columns = ("label", "fract_x", "fract_y", "fract_z", "occupancy", "disorder_group")
    assert formula(cif(["K1 0 0 0 ? .", "Cl1 0.5 0.5 0.5 . ?"], columns=columns)) == "KCl"


def test_special_positions_written_with_three_decimals_are_those_of_the_exact_ones() -> None:
    """Sites on threefold axes of all trigonal and hexagonal groups, put beside themselves by three decimals."""
    rng = np.random.default_rng(3)
    n_noted = 0
    types = [found for hall in range(430, 489) if (found := spglib.get_spacegroup_type(hall)) is not None]
    for space_group in (one for one in types if one.choice != "R"):
        name = f"_space_group_name_Hall '{space_group.hall_symbol}'"
        cell = (a := float(rng.uniform(3, 9)), a, float(rng.uniform(12, 16)), 90.0, 90.0, 120.0)
        exact, rounded = (
            cif([f"Mg1 {1 / 3:.{n}f} {2 / 3:.{n}f} 0.04", "C1 0 0 0.29"], name, cell=cell) for n in (9, 3)
        )
        reading = read_cif(rounded, 1000)
        assert same(reading.crystal, parse_cif(exact, 1000), 0.01)
        n_noted += bool(reading.notes)
    assert n_noted > 30


def test_images_too_near_to_tell_apart_are_refused_with_the_remedy_or_counted() -> None:
    rough = case("hcp_0.333.cif").replace("0.333 0.667", "0.32 0.68")
    assert len(parse_cif(rough, 1000).frac) == 2
    reason = refusal(rough.replace("_cell_formula_units_Z 2", ""))
    assert "write special positions with six digits (1/3 as 0.333333)" in reason
    assert "sites Mg1 and Mg2 are one atom" in refusal(case("hcp_0.333.cif") + "Mg2 Mg 0.667 0.333 0.75\n")
    assert "share one position" in refusal(case("hcp_0.333.cif").replace("'Mg'", "?") + "Zn2 Zn 0.333 0.667 0.25\n")


# Text


def test_names_in_any_case_text_fields_and_symbols_without_quotes_are_read() -> None:
    text = case("two_blocks_publ.cif")
    loud = text.replace("_symmetry_Int_Tables_number", "_SYMMETRY_INT_TABLES_NUMBER").replace("loop_", "LOOP_")
    field = text.replace("data_I", "_publ_text\n;\ndata_false\n_atom_site_fract_x 0\n;\ndata_I")
    bare, dotted = text.replace("'P m -3 m'", "P m -3 m"), text.replace("_site_fract", "_site.fract")
    for other in (loud, field, bare, dotted, text.replace("\n", "\r\n"), text.replace("\n", "\r")):
        assert parse_cif(other, 1000).digest == parse_cif(text, 1000).digest


def test_no_text_brings_out_anything_but_a_crystal_or_a_refusal() -> None:
    rng = np.random.default_rng(5)
    words = ["?", "'", '"', "\n;\n", "loop_", "data_y", "_", "1e400", "nan", "x,y", "(3)", "#", "Xx1", "-", "1/0+x,y,z"]
    texts = [path.read_text() for path in sorted(CASES.glob("*.cif"))]
    n_read = 0
    for _ in range(400):
        parts = texts[rng.integers(len(texts))].split(" ")
        for _ in range(rng.integers(1, 3)):
            parts[rng.integers(len(parts))] = str(rng.choice(words))
        with contextlib.suppress(RecordError):
            n_read += len(parse_cif(" ".join(parts)[: rng.integers(200, 900)], 1000).frac) > 0
    assert 10 < n_read < 200
    letters = np.array(list("CaNOH()[]2.5+- *?_{}"))
    for _ in range(300):
        counts = formula_counts("".join(rng.choice(letters, rng.integers(1, 8))))
        assert counts is None or (all(symbol in ELEMENTS for symbol in counts) and min(counts.values()) > 0)
