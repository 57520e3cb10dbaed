"""POSCAR and CONTCAR text to a crystal, as VASP itself defines the file.

Read here rather than by a library: pymatgen multiplies Cartesian positions by a negative scale (which is a volume),
takes one scale factor only, and takes words behind the positions for elements; ASE guesses elements from the comment.

What VASP reads, line by line (VASP wiki, page POSCAR):

  1    comment, possibly blank
  2    one scale factor of lattice and Cartesian positions alike; negative: minus the volume of the cell, A^3; or three
       positive factors, of the Cartesian x, y and z components of both
  3-5  lattice vectors as rows
  6    symbols of the species, several lines if there are many; VASP 4 has no such line, its elements stand nowhere
  7    atoms of each species, as many lines as of symbols
  8    optional, begins with S or s: selective dynamics
  9    begins with C, c, K or k: Cartesian; else fractional ("Direct")
  10-  one position per atom; what stands behind the three numbers (flags, symbols) is no part of the crystal
  then a blank line or "Lattice velocities ...", and velocities, which are not read
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from generative.config import ELEMENTS
from generative.crystal.crystals import Crystal
from generative.datasets.checks import RecordError, wrapped
from generative.datasets.limits import MAX_RECORD_ATOMS

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][+-]?\d+)?")
_COUNT = re.compile(r"[0-9]{1,18}")
_SYMBOL = re.compile(r"([A-Z][a-z]?)(?:[_/].*)?")  # Fe_pv of a POTCAR, Si/79d9987ad87 with its digest (VASP 6.4)
_REMARK = re.compile(r"[!#].*")
_FLAT = "the lattice vectors lie in a plane, their volume is 0 A^3: expected three that span a volume"
_ATOMIC_NUMBERS = {symbol: z for z, symbol in enumerate(ELEMENTS, start=1)} | {"D": 1, "T": 1}


def parse_poscar(text: str) -> Crystal:
    """The crystal of a POSCAR or CONTCAR with a line of element symbols (VASP 5 or later).

    Returns: Lattice and atoms in the file's order; a repeated symbol stays where it stands.

    Raises:
        RecordError: if the file is empty, cut off, malformed, or does not name its elements.
    """
    if not text.strip():
        raise RecordError("the file is empty: expected a POSCAR")
    lines = re.split(r"\r\n|\r|\n", text)
    factors = _scale_factors(_line(lines, 1, "the scale factor"))
    lattice = np.array([_vector(_line(lines, 2 + i, "a lattice vector"), f"line {3 + i}") for i in range(3)])
    scale = _per_component(factors, lattice)
    with np.errstate(over="ignore"):
        lattice = lattice * scale
    if not np.isfinite(lattice).all():
        raise RecordError("the lattice of the POSCAR times its scale factor is infinite: expected finite numbers")
    numbers, at = _species(lines)
    mode = _line(lines, at, "'Direct' or 'Cartesian'").strip()
    if mode[:1] in ("S", "s"):
        at += 1
        mode = _line(lines, at, "'Direct' or 'Cartesian'").strip()
    if not mode[:1].isalpha():
        raise RecordError(
            f"line {at + 1} of the POSCAR is {mode[:60]!r}: expected 'Direct' or 'Cartesian' before the positions"
        )
    positions = _positions(lines, at + 1, len(numbers))
    if mode[0] in "CcKk":
        with np.errstate(over="ignore", invalid="ignore"):
            positions = _fractional(positions * scale, lattice)
    return Crystal(lattice, wrapped(positions), np.array(numbers, dtype=np.int16))


def _line(lines: Sequence[str], at: int, what: str) -> str:
    if at >= len(lines):
        raise RecordError(
            f"the POSCAR ends after {len(lines)} lines: expected {what} on line {at + 1}; the file may be cut off"
        )
    return lines[at]


def _number(word: str, where: str) -> float:
    if not _NUMBER.fullmatch(word):
        raise RecordError(f"{where} of the POSCAR holds {word[:40]!r}: expected a finite number")
    value = float(word.replace("d", "e").replace("D", "e"))  # Fortran's double precision
    if not math.isfinite(value):
        raise RecordError(f"{where} of the POSCAR holds {word[:40]!r}: expected a finite number")
    return value


def _vector(line: str, where: str) -> list[float]:
    words = line.split()[:3]
    if len(words) < 3:
        raise RecordError(
            f"{where} of the POSCAR is {line.strip()[:60]!r}: expected three numbers; the file may be cut off"
        )
    return [_number(word, where) for word in words]


def _scale_factors(line: str) -> list[float]:
    """One number, or three positive ones; words behind them are remarks."""
    words = _REMARK.sub("", line).split()
    n_numbers = next((i for i, word in enumerate(words) if not _NUMBER.fullmatch(word)), len(words))
    if n_numbers not in (1, 3):
        raise RecordError(
            f"the scale factor, line 2 of the POSCAR, is {line.strip()[:60]!r}: expected one number, or three positive "
            "ones for x, y and z"
        )
    factors = [_number(word, "line 2") for word in words[:n_numbers]]
    if 0.0 in factors or (n_numbers == 3 and min(factors) < 0):
        raise RecordError(
            f"the scale factor, line 2 of the POSCAR, is {line.strip()[:60]!r}: expected a number other than 0, "
            "or three positive numbers"
        )
    return factors


def _per_component(factors: Sequence[float], lattice: np.ndarray) -> np.ndarray:
    """What multiplies the Cartesian x, y and z of lattice and positions, (3,)."""
    if len(factors) == 3:
        return np.array(factors)
    (factor,) = factors
    if factor > 0:
        return np.full(3, factor)
    with np.errstate(over="ignore", invalid="ignore"):
        volume_ang3 = abs(float(np.linalg.det(lattice)))
    if not 0 < volume_ang3 < math.inf:
        infinite = f"the lattice spans {volume_ang3:g} A^3: expected a finite volume"
        raise RecordError(_FLAT if volume_ang3 == 0 else infinite)
    return np.full(3, (-factor / volume_ang3) ** (1 / 3))


def _species(lines: Sequence[str]) -> tuple[list[int], int]:
    """Atomic number of every atom, and the place of the line behind the counts."""
    first = _REMARK.sub("", _line(lines, 5, "the symbols of the elements")).split()
    if not first or _NUMBER.fullmatch(first[0]):
        raise RecordError(
            f"the POSCAR names no elements: it has no line of element symbols, line 6 is {lines[5].strip()[:60]!r} "
            "(VASP 4 format); expected their symbols on line 6, since words elsewhere may mean anything"
        )
    symbols: list[str] = []
    at = 5
    while (words := _words(lines, at)) and not _COUNT.fullmatch(words[0]):
        symbols += words
        at += 1
    numbers = [_atomic_number(symbol) for symbol in symbols]
    counts: list[str] = []
    while len(counts) < len(numbers) and (words := _words(lines, at)) and _COUNT.fullmatch(words[0]):
        counts += words
        at += 1
    if len(counts) != len(numbers) or not all(map(_COUNT.fullmatch, counts)):
        raise RecordError(
            f"the POSCAR names {len(numbers)} elements ({' '.join(symbols)[:60]}) and {len(counts)} numbers of atoms "
            f"({' '.join(counts)[:60]}): expected one whole number for each"
        )
    n_atoms = sum(map(int, counts))
    if not 1 <= n_atoms <= MAX_RECORD_ATOMS:
        raise RecordError(f"the cell has {n_atoms} atoms: expected 1 to {MAX_RECORD_ATOMS}")
    return [z for z, count in zip(numbers, counts, strict=True) for _ in range(int(count))], at


def _words(lines: Sequence[str], at: int) -> list[str]:
    """Words of a line without a remark behind them; none if there is no such line."""
    return _REMARK.sub("", lines[at]).split() if at < len(lines) else []


def _atomic_number(symbol: str) -> int:
    found = _SYMBOL.fullmatch(symbol)
    if found is None or found[1] not in _ATOMIC_NUMBERS:
        raise RecordError(
            f"{symbol[:40]!r} is not a chemical element: expected symbols H to Lr on line 6 of the POSCAR"
        )
    return _ATOMIC_NUMBERS[found[1]]


def _positions(lines: Sequence[str], start: int, n_atoms: int) -> np.ndarray:
    """The first three numbers of n_atoms lines, (n_atoms, 3)."""
    found = []
    for i in range(n_atoms):
        at = start + i
        if at >= len(lines) or not lines[at].strip():
            raise RecordError(
                f"the POSCAR lists {i} of {n_atoms} positions: expected one line for each atom; the file may be cut off"
            )
        found.append(_vector(lines[at], f"line {at + 1}"))
    behind = lines[start + n_atoms].split()[:3] if start + n_atoms < len(lines) else []
    if len(behind) == 3 and all(_NUMBER.fullmatch(word) for word in behind):
        raise RecordError(
            f"the POSCAR lists more positions than its {n_atoms} atoms (line {start + n_atoms + 1}): expected one line "
            "for each atom, then a blank line"
        )
    return np.array(found, dtype=float)


def _fractional(cart_ang: np.ndarray, lattice_ang: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.solve(lattice_ang.T, cart_ang.T).T
    except np.linalg.LinAlgError:
        raise RecordError(_FLAT) from None
