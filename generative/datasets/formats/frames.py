"""Extended XYZ files as raw records, one per frame; each frame is read by ASE, so that a bad one costs itself alone.

Units are ASE's: angstrom, and eV. `energy` is the total energy of the cell, so it is divided by the number of atoms;
`free_energy` and whatever else stands on the comment line follow generative/datasets/formats/columns.py. A frame
without a lattice, or not periodic in all three directions, is no crystal.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from generative.crystal.crystals import Crystal
from generative.datasets.checks import RecordError, atomic_numbers_of, wrapped
from generative.datasets.formats.columns import (
    ROW_NAME,
    level_fields,
    other_values,
    plain_fields,
    properties_of,
    repeated_names,
    source_id_of,
)
from generative.datasets.formats.opening import UNREADABLE, lines_of, made, opened, refused
from generative.datasets.formats.parsing import one_line
from generative.datasets.limits import MAX_LINE_CHARACTERS, MAX_RECORD_ATOMS
from generative.datasets.origins import stated_origin
from generative.datasets.records import Form, RawRecord

if TYPE_CHECKING:
    from ase import Atoms

_COUNT = re.compile(r"\s*[0-9]{1,18}\s*")
_KEY = re.compile(r"(?<![^\s=\"'])([^\s=\"']++)\s*+=")
_QUOTED = re.compile(r"(?<!\\)\"(?:\\.|[^\"\\])*+\"|(?<!\\)'(?:\\.|[^'\\])*+'|\{[^{}]*\}|\[[^\[\]]*\]")


def read_xyz(path: Path) -> Iterator[RawRecord]:
    """Records of an .xyz or .extxyz file (also .gz), one frame in memory at a time.

    A frame that cannot be read is one refused record; where no frame begins any more, the rest of the file is one.
    """
    n_frames = 0
    try:
        with opened(path) as raw:
            text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape")
            for n_frames, frame in enumerate(_frames(lines_of(text, MAX_LINE_CHARACTERS)), start=1):
                name = f"{ROW_NAME}{n_frames - 1}"
                yield made(partial(_record, frame, name), name, "".join(frame)[:4000])
    except UNREADABLE as error:
        reason = f"unreadable after {n_frames} frames ({type(error).__name__}: {error}): expected a complete file"
        yield refused(f"{path.name} after frame {n_frames}", reason, "")
        return
    if not n_frames:
        yield refused(path.name, "the file is empty: expected frames of extended XYZ", "")


def _frames(lines: Iterator[str]) -> Iterator[list[str]]:
    """The lines of each frame; of what begins with no number of atoms, the head of all that is left."""
    first = _next_line(lines)
    while first is not None:
        if not _COUNT.fullmatch(first):
            yield [first, *itertools.islice(lines, MAX_RECORD_ATOMS)]
            return
        if (n_atoms := int(first)) <= MAX_RECORD_ATOMS:
            frame = [first, *itertools.islice(lines, n_atoms + 1)]
        else:  # refused by its number alone
            frame = [first, *itertools.islice(lines, 1)]
            next(itertools.islice(lines, n_atoms, n_atoms), None)
        first = _next_line(lines)
        while first is not None and first.lstrip().startswith("VEC") and len(frame) < n_atoms + 5:  # of ADF
            frame.append(first)
            first = _next_line(lines)
        yield frame


def _next_line(lines: Iterator[str]) -> str | None:
    """The next line that is not blank."""
    return next((line for line in lines if line.strip()), None)


def _record(frame: list[str], fallback_id: str) -> RawRecord:
    text = "".join(frame)
    try:
        crystal, stated = _read(frame)
    except RecordError as error:
        return refused(fallback_id, str(error), text[:4000])
    plain = plain_fields(stated)
    source_id = source_id_of(plain, fallback_id)
    if "energy" in stated:
        plain["energy_ev_per_atom"] = stated["energy"] / len(crystal.atomic_numbers)
    try:
        properties, (run_type, correction) = properties_of(plain), level_fields(plain)
    except RecordError as error:
        return refused(source_id, str(error), text[:4000])
    return RawRecord(
        source_id,
        Form.CRYSTAL,
        crystal,
        properties,
        run_type=run_type,
        correction=correction,
        extra=other_values({name: value for name, value in stated.items() if name != "energy"}, texts=True),
        origin=stated_origin(plain),
    )


def _read(frame: list[str]) -> tuple[Crystal, dict[str, Any]]:
    """The crystal of a frame, and the scalars of its comment line.

    Raises:
        RecordError: if there is no crystal in it.
    """
    from ase.io.extxyz import read_xyz as frames_of

    if not _COUNT.fullmatch(frame[0]):
        raise RecordError(f"a frame begins with {frame[0].strip()[:60]!r}: expected its number of atoms")
    n_atoms = int(frame[0])
    if not 1 <= n_atoms <= MAX_RECORD_ATOMS:
        raise RecordError(f"the cell has {n_atoms} atoms: expected 1 to {MAX_RECORD_ATOMS}")
    if len(frame) < n_atoms + 2:
        raise RecordError(f"the frame lists {max(len(frame) - 2, 0)} of {n_atoms} atoms: the file may be cut off")
    if same := repeated_names(_KEY.findall(_QUOTED.sub("''", frame[1]))):
        raise RecordError(f"the comment line gives {same[0]!r} {len(same)} times: expected each key once")
    try:
        (atoms,) = frames_of(io.StringIO("".join(frame)), slice(None))
    except Exception as error:  # a foreign reader on foreign text: it raises whatever its next operation raises
        raise RecordError(
            f"not readable as extended XYZ ({type(error).__name__}: {one_line(error)}): expected "
            'Lattice="..." Properties=species:S:1:pos:R:3 and one line per atom'
        ) from None
    crystal = crystal_of_atoms(atoms)
    results = {} if atoms.calc is None else atoms.calc.results
    stated = {
        str(name): value.item() if isinstance(value, np.generic) else value
        for name, value in {**atoms.info, **results}.items()
        if isinstance(value, str | bool | int | float | np.generic)
    }
    if "energy" in results and not isinstance(stated.get("energy"), int | float):
        raise RecordError(f"energy is {str(results['energy'])[:80]!r}: expected the total energy of the cell, eV")
    return crystal, stated


def crystal_of_atoms(atoms: Atoms) -> Crystal:
    """The crystal of ASE's atoms, in the order of the atoms.

    Raises:
        RecordError: if they are not periodic in all three directions, or no crystal otherwise.
    """
    if not atoms.pbc.all() or not atoms.cell.array.any():
        has = "no lattice" if not atoms.cell.array.any() else f"pbc {' '.join('FT'[int(p)] for p in atoms.pbc)}"
        raise RecordError(f"the frame has {has}: expected a crystal, periodic in all three directions")
    try:
        frac = np.linalg.solve(atoms.cell.array.T, atoms.positions.T).T
    except np.linalg.LinAlgError:
        raise RecordError("the lattice vectors lie in a plane: expected three that span a volume") from None
    return Crystal(np.array(atoms.cell.array), wrapped(frac), atomic_numbers_of(atoms.numbers))
