"""POSCAR files as VASP defines them. Truth: positions in angstrom computed here in closed form before they are written;
pymatgen and ASE where their readers agree with VASP."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.io.vasp import read_vasp
from pymatgen.io.vasp.inputs import Poscar

from generative.config import ELEMENTS
from generative.crystal.crystals import Crystal
from generative.datasets.checks import RecordError
from generative.datasets.formats.poscar import parse_poscar
from generative.datasets.limits import MAX_RECORD_ATOMS

CASES = Path(__file__).parents[2] / "data" / "cases" / "poscar"
SYMBOLS = ("Fe", "O", "F", "Ti", "N", "Cl", "H", "Yb", "C", "S", "K")


def numbers_in(values: np.ndarray, rng: np.random.Generator) -> str:
    """The numbers as people and programs write them."""
    style = rng.choice(["  {:.16f}", " {:.15e}", "\t{:+.16f}"])
    return "".join(style.format(value) for value in values)


def written(rng: np.random.Generator) -> tuple[str, np.ndarray, np.ndarray, list[str], dict[str, Any]]:
    """A random POSCAR: text, lattice (A), positions (A) and symbols by VASP's definition, and what it makes use of."""
    raw = rng.normal(size=(3, 3)) + 3 * np.eye(3)[rng.permutation(3)]
    kind = rng.choice(["one", "volume", "three"])
    if kind == "one":
        words = rng.uniform(0.5, 4, 1)
        factor = np.full(3, words[0])
    elif kind == "volume":
        words = np.array([-rng.uniform(20, 200)])
        factor = np.full(3, np.cbrt(-words[0] / abs(np.linalg.det(raw))))
    else:
        words = factor = rng.uniform(0.5, 4, 3)
    lattice = np.stack([raw[:, 0] * factor[0], raw[:, 1] * factor[1], raw[:, 2] * factor[2]], axis=1)
    species = [str(s) for s in rng.choice(SYMBOLS, rng.integers(1, 5))]  # repeats are allowed, neighbours too
    counts = rng.integers(1, 4, len(species))
    symbols = [symbol for symbol, count in zip(species, counts, strict=True) for _ in range(count)]
    rows = rng.uniform(-1.5, 1.5, (len(symbols), 3))
    cartesian = bool(rng.random() < 0.5)
    positions = rows * factor if cartesian else rows @ lattice
    selective, suffix = bool(rng.random() < 0.4), rng.choice(["", "_pv", "_sv_GW", "/", "/79d9987ad87"])
    tail = rng.choice(["", " F F T", " Cl", " ! remark", " T T T N", " 0.5"]) if not selective else " T F T"
    mode = rng.choice(["Cartesian", "c", "K", "kart", "C"] if cartesian else ["Direct", "d", "D", "Fractional"])
    lines = [
        rng.choice(["", "Fe O 1 2", "comment"]),
        numbers_in(words, rng),
        *(numbers_in(row, rng) for row in raw),
        " ".join(s + suffix for s in species),
        " ".join(map(str, counts)),
        *(["Selective dynamics"] if selective else []),
        mode,
        *(numbers_in(row, rng) + tail for row in rows),
    ]
    has_velocities = bool(rng.random() < 0.4)
    if has_velocities:
        lines += ["", *(numbers_in(row, rng) for row in rng.normal(size=rows.shape))]
    end = rng.choice(["\n", "\r\n"])
    return str(end).join(map(str, lines)) + end, lattice, positions, symbols, {"kind": kind, "cartesian": cartesian}


def same_crystal(found: Crystal, lattice: np.ndarray, positions: np.ndarray, symbols: list[str]) -> None:
    assert [ELEMENTS[z - 1] for z in found.atomic_numbers] == symbols
    np.testing.assert_allclose(found.lattice_ang, lattice, rtol=1e-12, atol=1e-12)
    apart = found.frac @ found.lattice_ang - positions
    images = apart @ np.linalg.inv(lattice)
    np.testing.assert_allclose(images, np.round(images), atol=1e-9)
    assert ((found.frac >= 0) & (found.frac < 1)).all()


def test_any_scale_mode_and_order_of_atoms_gives_the_positions_of_vasps_definition() -> None:
    rng = np.random.default_rng(7)
    seen = set()
    for _ in range(300):
        text, lattice, positions, symbols, used = written(rng)
        same_crystal(parse_poscar(text), lattice, positions, symbols)
        seen.add((str(used["kind"]), used["cartesian"]))
    assert len(seen) == 6


def test_pymatgen_reads_the_same_where_it_agrees_with_vasp_and_ase_reads_three_factors_alike() -> None:
    rng = np.random.default_rng(8)
    n_pymatgen = n_ase = 0
    for _ in range(60):
        text, *_, used = written(rng)
        found = parse_poscar(text)
        if used["kind"] == "one" or (used["kind"] == "volume" and not used["cartesian"]):
            structure = Poscar.from_str(text.replace("\r\n", "\n"), read_velocities=False).structure
            same_crystal(found, structure.lattice.matrix, structure.cart_coords, [s.symbol for s in structure.species])
            n_pymatgen += 1
        if used["kind"] == "three" and "/" not in text and "_" not in text:
            atoms = read_vasp(io.StringIO(text.replace("\r\n", "\n")))
            same_crystal(found, atoms.cell.array, atoms.positions, atoms.get_chemical_symbols())
            n_ase += 1
    assert min(n_pymatgen, n_ase) >= 3


def test_a_negative_scale_is_the_volume_and_scales_cartesian_positions_with_the_lattice() -> None:
    found = parse_poscar((CASES / "POSCAR_neg_scale_cart_offcentre").read_text()).to_structure()
    assert found.volume == pytest.approx(96.0)
    assert found[1].frac_coords.tolist() == pytest.approx([0, 0, 0.325])
    assert found.get_distance(0, 1) == pytest.approx(1.95)


def test_many_groups_of_atoms_may_take_several_lines() -> None:
    species = ["Fe", "Cr"] * 25
    counts = [1, 2] * 25
    rows = np.random.default_rng(0).random((75, 3))
    wrapped = [" ".join(species[i : i + 20]) for i in (0, 20, 40)]
    wrapped += [" ".join(map(str, counts[i : i + 20])) for i in (0, 20, 40)]
    text = "\n".join(["x", "1", "9 0 0", "0 9 0", "0 0 9", *wrapped, "Direct", *(numbers_in(r, _RNG) for r in rows)])
    found = parse_poscar(text)
    same_crystal(found, 9 * np.eye(3), 9 * rows, [s for s, n in zip(species, counts, strict=True) for _ in range(n)])


_RNG = np.random.default_rng(1)
GOOD = "NaCl\n1.0\n4 0 0\n0 4 0\n0 0 4\nNa Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("Na Cl\n", ""), r"no line of element symbols, line 6 is '1 1' \(VASP 4 format\)"),
        (("Na Cl\n1 1\n", "1 1 Na Cl\n"), "no line of element symbols"),
        (("Na Cl", "Na"), "names 1 elements .* and 2 numbers of atoms"),
        (("1 1\n", "1 x\n"), "expected one whole number for each"),
        (("Na Cl", "NA CL"), "'NA' is not a chemical element"),
        (("Na Cl", "Na H.75"), "'H.75' is not a chemical element"),
        (("\n1.0\n", "\n0.0\n"), "scale factor, line 2 of the POSCAR, is '0.0'"),
        (("\n1.0\n", "\n1.0 2.0\n"), "expected one number, or three positive"),
        (("\n1.0\n", "\n1.0 2.0 -1\n"), "or three positive numbers"),
        (("\n1.0\n", "\nnan\n"), "expected one number, or three"),
        (("0 4 0", "0 4"), "line 4 of the POSCAR is '0 4': expected three numbers"),
        (("0 4 0", "0 inf 0"), "holds 'inf': expected a finite number"),
        (("0 4 0", "0 1e999 0"), "holds '1e999': expected a finite number"),
        (("Direct\n", ""), "line 8 of the POSCAR is '0 0 0': expected 'Direct' or 'Cartesian'"),
        (("0.5 0.5 0.5\n", ""), "lists 1 of 2 positions"),
        (("0.5 0.5 0.5\n", "\n0.1 0.1 0.1\n0.1 0.1 0.1\n"), "lists 1 of 2 positions"),
        (("0.5 0.5 0.5\n", "0.5 0.5 0.5\n.1 .1 .1\n"), "lists more positions than its 2 atoms"),
        (("1 1\n", "1 1000000000\n"), f"1000000001 atoms: expected 1 to {MAX_RECORD_ATOMS}"),
        (("0.5 0.5 0.5", "0.5 0.5-0.5"), "holds '0.5-0.5'|expected three numbers"),
        (("\n1.0\n4 0 0", "\n-64\n0 4 0"), "lie in a plane"),
    ],
)
def test_a_file_that_vasp_would_read_otherwise_is_refused_for_its_reason(change: tuple[str, str], reason: str) -> None:
    same_crystal(parse_poscar(GOOD), 4 * np.eye(3), np.array([[0, 0, 0], [2, 2, 2]]), ["Na", "Cl"])
    assert change[0] in GOOD
    with pytest.raises(RecordError, match=reason):
        parse_poscar(GOOD.replace(*change))


def test_words_behind_the_positions_of_a_vasp_4_file_are_never_taken_for_elements() -> None:
    with pytest.raises(RecordError, match="no line of element symbols"):
        parse_poscar((CASES / "POSCAR_vasp4_trailing_wyckoff").read_text())


def test_a_file_cut_off_anywhere_is_refused_or_whole() -> None:
    rng = np.random.default_rng(3)
    text, lattice, positions, symbols, _ = written(rng)
    ends = [i for i, char in enumerate(text) if char == "\n"]
    n_refused = 0
    for end in ends[: 8 + len(symbols)]:
        try:
            found = parse_poscar(text[: end + 1])
        except RecordError:
            n_refused += 1
        else:
            same_crystal(found, lattice, positions, symbols)
    assert n_refused >= 7 + len(symbols) - 1
