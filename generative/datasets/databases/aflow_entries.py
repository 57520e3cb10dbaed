"""An entry of AFLOW as `interpret` takes it. Offline.

The same value comes in several encodings, by the age of the server and of the entry: numbers as numbers or text, lists
as lists or comma-separated text ('Al,Cu,Mn'; positions '0,0,0;0.5,0.5,0.5'), single values as lists of one. All are
read. Lengths are in angstrom, angles in degrees, energies in eV; sites stand in the order species x composition, and
coordinates may lie outside [0, 1).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from pymatgen.core.lattice import Lattice

from generative.config import ELEMENTS
from generative.crystal.crystals import Crystal
from generative.datasets.checks import RecordError, wrapped
from generative.datasets.databases.database import Body, Record
from generative.datasets.limits import MAX_RECORD_ATOMS, MAX_VECTOR_ANG
from generative.datasets.origins import Origin
from generative.datasets.records import Form, RawRecord, number

METHOD = "PBE/PBE+U (AFLOW)"
"""Level of theory of AFLOW's standard, dft_type PAW_PBE; which rows have +U says their run type."""

VOLUME_TOLERANCE = 0.02
"""Largest relative difference between the stated and the lattice's volume: both are of the relaxed cell, and rounding
of `geometry` to 5 digits changes a volume by less than 0.01 %."""

_PROPERTIES = {
    "energy_ev_per_atom": "energy_atom",
    "formation_energy_ev_per_atom": "enthalpy_formation_atom",  # at zero pressure the enthalpy is the energy
    "band_gap_ev": "Egap",
    "spacegroup": "spacegroup_relax",
}
_STRUCTURE = ("geometry", "species", "composition", "positions_fractional")
_NOT_EXTRA = frozenset({"auid", "aflowlib_date", "natoms", "nspecies", *_STRUCTURE, *_PROPERTIES.values()})
_DFT_TYPE = re.compile(r"[A-Za-z0-9_:+.-]{1,40}")


def newest_date(value: Any) -> str | None:
    """The last of the dates of `aflowlib_date`, such as '20200424_06:50:35_GMT-5', as stated; None if there is none."""
    dates = [str(date) for date in _list(value) if date is not None]
    return dates[-1] if dates else None


def entry_record(record: Record) -> RawRecord:
    """The record for `interpret`; with form REFUSED and a sentence if its fields make no crystal."""
    body = record.body
    crystal: Crystal | None = None
    reason = ""
    try:
        crystal = _crystal(body)
    except RecordError as error:
        reason = str(error)
    dft_type = _dft_type(body.get("dft_type"))
    pressure_kbar = _float_or_none(body.get("pressure")) or 0.0
    extra = {name: value for name, value in body.items() if name not in _NOT_EXTRA and value is not None}
    if pressure_kbar == 0:
        extra.pop("pressure", None)
    return RawRecord(
        source_id=record.id,
        form=Form.REFUSED if crystal is None else Form.CRYSTAL,
        content=dict(body) if crystal is None else crystal,
        properties={column: (name, _single(body.get(name))) for column, name in _PROPERTIES.items()},
        elements=_stated_elements(body),
        method=_method(dft_type, _has_u(body), pressure_kbar),
        reason=reason,
        run_type=None if dft_type is None else dft_type + ("+U" if _has_u(body) else ""),
        last_modified=record.stamp,
        extra=extra,
        origin=_origin(_single(body.get("catalog"))),
    )


def _origin(catalog: Any) -> Origin | None:
    """The ICSD holds what has been reported; the other catalogs are decorated prototypes, computed."""
    if not isinstance(catalog, str) or not catalog.strip():
        return None
    return Origin.REPORTED if catalog.strip().upper().startswith("ICSD") else Origin.HYPOTHETICAL


def _crystal(body: Body) -> Crystal:
    for name in _STRUCTURE:
        if body.get(name) in (None, "", []):
            raise RecordError(
                f"{name} is {body.get(name)!r}: expected {', '.join(_STRUCTURE)}; the entry has no structure"
            )
    symbols = _symbols(body)
    frac = _positions(body["positions_fractional"])
    if len(frac) != len(symbols):
        raise RecordError(
            f"composition counts {len(symbols)} atoms and positions_fractional {len(frac)}: expected one number"
        )
    n_atoms = _float_or_none(body.get("natoms"))
    if n_atoms is not None and n_atoms != len(frac):
        raise RecordError(
            f"natoms is {n_atoms:g} and positions_fractional lists {len(frac)} atoms: expected one number"
        )
    lattice = _lattice(_floats(body["geometry"], "geometry", 6))
    stated_ang3 = _float_or_none(body.get("volume_cell"))
    if stated_ang3 is not None and not abs(stated_ang3 - lattice.volume) <= VOLUME_TOLERANCE * lattice.volume:
        raise RecordError(
            f"volume_cell is {stated_ang3:g} A^3 and the volume of geometry {lattice.volume:.6g} A^3: expected them to "
            f"agree within {VOLUME_TOLERANCE:.0%}"
        )
    numbers = np.array([ELEMENTS.index(symbol) + 1 for symbol in symbols], dtype=np.int16)
    return Crystal(np.array(lattice.matrix, dtype=float), wrapped(frac), numbers)


def _symbols(body: Body) -> list[str]:
    """One symbol per site."""
    species = [str(symbol) for symbol in _list(body["species"])]
    counts = _floats(body["composition"], "composition")
    if len(species) != len(counts):
        raise RecordError(f"species names {len(species)} elements and composition {len(counts)}: expected one number")
    for symbol, count in zip(species, counts, strict=True):
        if symbol not in ELEMENTS:
            raise RecordError(f"species contains {symbol[:40]!r}: expected symbols from H to Lr")
        if count != int(count) or not 1 <= count <= MAX_RECORD_ATOMS:
            raise RecordError(f"composition contains {count:g}: expected whole numbers from 1 to {MAX_RECORD_ATOMS}")
    if sum(counts) > MAX_RECORD_ATOMS:
        raise RecordError(f"composition counts {sum(counts):g} atoms: expected 1 to {MAX_RECORD_ATOMS}")
    return [symbol for symbol, count in zip(species, counts, strict=True) for _ in range(int(count))]


def _positions(value: Any) -> np.ndarray:
    """Fractional coordinates, (n, 3)."""
    rows = value.strip().strip(";").split(";") if isinstance(value, str) else _list(value)
    if len(rows) > MAX_RECORD_ATOMS:
        raise RecordError(f"positions_fractional lists {len(rows)} atoms: expected 1 to {MAX_RECORD_ATOMS}")
    return np.array([_floats(row, f"site {place} of positions_fractional", 3) for place, row in enumerate(rows, 1)])


def _lattice(parameters: Sequence[float]) -> Lattice:
    lengths_ang, angles_deg = parameters[:3], parameters[3:]
    if min(lengths_ang) <= 0:
        raise RecordError(f"geometry has a length of {min(lengths_ang):g} A: expected positive numbers")
    cos = [math.cos(math.radians(angle)) for angle in angles_deg]
    # The squared volume of the cell with unit edges; pymatgen itself bends angles that no cell has into a flat one.
    squared = 1 - sum(c * c for c in cos) + 2 * math.prod(cos)
    if not all(0 < angle < 180 for angle in angles_deg) or squared <= 1e-8:
        shown = ", ".join(f"{angle:g}" for angle in angles_deg)
        raise RecordError(f"geometry has the angles {shown} degrees: expected three that a cell can have")
    if max(lengths_ang) > MAX_VECTOR_ANG:
        raise RecordError(f"geometry has a length of {max(lengths_ang):g} A: expected at most {MAX_VECTOR_ANG:g}")
    return Lattice.from_parameters(*lengths_ang, *angles_deg)


def _method(dft_type: str | None, has_u: bool, pressure_kbar: float) -> str:
    """Rows of different methods share no hull: so a Hubbard U, other potentials than PAW, and pressure are in it."""
    if dft_type is None:
        label = "unknown"
    else:
        label = dft_type.removeprefix("PAW_") + ("" if dft_type.startswith("PAW_") else " without PAW")
    label += "+U" if has_u else ""
    return f"{label}{f' at {pressure_kbar:g} kbar' if pressure_kbar else ''} (AFLOW)"


def _dft_type(value: Any) -> str | None:
    """The one type of all species, such as 'PAW_PBE'; None if there is none or several."""
    types = {str(name) for name in _list(value)}
    found = types.pop() if len(types) == 1 else ""
    return found if _DFT_TYPE.fullmatch(found) else None


def _has_u(body: Body) -> bool:
    """Whether a Hubbard U was used: `ldau_type` 1 or 2, or, where only that is stated, the head of `ldau_TLUJ`."""
    for name in ("ldau_type", "ldau_TLUJ"):
        value = _single(body.get(name))
        stated = _float_or_none(str(value).split(";")[0]) if value is not None else None
        if stated is not None:
            return stated != 0
    return False


def _stated_elements(body: Body) -> frozenset[str] | None:
    symbols = frozenset(str(symbol) for symbol in _list(body.get("species")))
    return symbols if symbols and symbols <= frozenset(ELEMENTS) else None


def _list(value: Any) -> list[Any]:
    """The items of a list or of comma-separated text; a single value is a list of one, None an empty one."""
    if value is None:
        return []
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _single(value: Any) -> Any:
    """The value in a list of one; anything else as it is."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _floats(value: Any, name: str, n_expected: int | None = None) -> list[float]:
    try:
        numbers = [float(item) for item in _list(value)]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)) or (n_expected is not None and len(numbers) != n_expected):
        wanted = "finite numbers" if n_expected is None else f"{n_expected} finite numbers"
        raise RecordError(f"{name} is {str(value)[:80]!r}: expected {wanted}")
    return numbers


def _float_or_none(value: Any) -> float | None:
    """A number if there is one; what is none is not judged here."""
    try:
        return number(_single(value), "", "")
    except RecordError:
        return None
