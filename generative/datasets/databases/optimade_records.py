"""From an OPTIMADE structure, as JSON, to a crystal and the columns of the table; offline.

Conventions of the standard: lattice vectors are rows, angstrom; positions are Cartesian, angstrom; every site names a
species, and a species is what stands there, possibly several elements or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from generative.config import ELEMENTS
from generative.crystal.crystals import Crystal
from generative.datasets.checks import RecordError, wrapped
from generative.datasets.databases.database import Record
from generative.datasets.databases.optimade_providers import THEORETICAL, Provider
from generative.datasets.limits import MAX_RECORD_ATOMS
from generative.datasets.origins import stated_origin
from generative.datasets.records import Form, RawRecord, json_text

STRUCTURE_FIELDS = ("lattice_vectors", "cartesian_site_positions", "species", "species_at_sites")
"""Fields without which no entry is a crystal."""

_ATOMIC_NUMBERS = {symbol: z for z, symbol in enumerate(ELEMENTS, start=1)}

_CONCENTRATION_TOLERANCE = 1e-6
"""A full site whose concentration went through single precision is still full."""


def raw_record(record: Record, provider: Provider) -> RawRecord:
    """The entry as `interpret` takes it; REFUSED, with a sentence, if it is no ordered 3D crystal.

    Args:
        record: its body is the entry as the server sent it.
        provider: which of its fields fill which columns.
    """
    attributes = record.body.get("attributes")
    attributes = attributes if isinstance(attributes, Mapping) else {}
    elements, modified = _elements(attributes.get("elements")), attributes.get("last_modified")
    last_modified = None if modified is None else str(modified)
    extra = _extra(attributes, provider)
    theoretical = provider.fields.get(THEORETICAL)
    origin = None if theoretical is None else stated_origin({THEORETICAL: value_at(attributes, theoretical)})
    try:
        crystal = crystal_of(attributes)
    except RecordError as error:
        return RawRecord(
            record.id,
            Form.REFUSED,
            json_text(record.body),
            elements=elements,
            reason=str(error),
            last_modified=last_modified,
            extra=extra,
        )
    return RawRecord(
        record.id,
        Form.CRYSTAL,
        crystal,
        properties=_properties(attributes, provider, len(crystal.atomic_numbers)),
        elements=elements,
        last_modified=last_modified,
        extra=extra,
        origin=origin,
    )


def crystal_of(attributes: Mapping[str, Any]) -> Crystal:
    """The crystal that an entry's attributes describe; sites keep their order.

    Raises:
        RecordError: if it is disordered, not periodic in three directions, or a part of it is missing or malformed.
    """
    _require_periodic(attributes)
    _require_no_features(attributes.get("structure_features"))
    numbers = _atomic_numbers(attributes)
    if len(numbers) > MAX_RECORD_ATOMS:
        raise RecordError(f"the cell has {len(numbers)} atoms: expected 1 to {MAX_RECORD_ATOMS}")
    lattice_ang = _numbers(attributes, "lattice_vectors", (3, 3))
    cart_ang = _numbers(attributes, "cartesian_site_positions", (len(numbers), 3))
    n_sites = attributes.get("nsites")
    if n_sites is not None and n_sites != len(numbers):
        raise RecordError(f"nsites is {n_sites!r} beside {len(numbers)} sites: expected the same number")
    try:
        frac = np.linalg.solve(lattice_ang.T, cart_ang.T).T
    except np.linalg.LinAlgError:
        raise RecordError("lattice_vectors lie in a plane: expected three that span a volume") from None
    return Crystal(lattice_ang, wrapped(frac), numbers)


def value_at(attributes: Mapping[str, Any], path: str) -> Any:
    """The value of a field; dots lead into nested ones, and a name that itself has dots comes first. None if absent."""
    if path in attributes:
        return attributes[path]
    head, dot, rest = path.partition(".")
    inner = attributes.get(head)
    return value_at(inner, rest) if dot and isinstance(inner, Mapping) else None


def _require_periodic(attributes: Mapping[str, Any]) -> None:
    n_periodic, types = attributes.get("nperiodic_dimensions"), attributes.get("dimension_types")
    if n_periodic not in (None, 3):
        raise RecordError(f"nperiodic_dimensions is {n_periodic!r}: expected 3, a crystal periodic in all directions")
    if types not in (None, [1, 1, 1]):
        raise RecordError(f"dimension_types is {types!r}: expected [1, 1, 1], a crystal periodic in all directions")


def _require_no_features(features: Any) -> None:
    if features:
        listed = ", ".join(map(str, features)) if isinstance(features, list) else str(features)
        raise RecordError(f"structure_features is {listed[:120]}: expected none, an ordered crystal with all its atoms")


def _atomic_numbers(attributes: Mapping[str, Any]) -> np.ndarray:
    names, species = attributes.get("species_at_sites"), attributes.get("species")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise RecordError(f"species_at_sites is {str(names)[:80]}: expected the name of a species for every site")
    if not isinstance(species, list) or not all(isinstance(one, Mapping) for one in species):
        raise RecordError(f"species is {str(species)[:80]}: expected a list of species with name and chemical_symbols")
    known = {name: one for one in species if isinstance(name := one.get("name"), str)}
    numbers = {name: _atomic_number(name, known.get(name)) for name in dict.fromkeys(names)}
    return np.array([numbers[name] for name in names], dtype=np.int16)


def _atomic_number(name: str, species: Mapping[str, Any] | None) -> int:
    if species is None:
        raise RecordError(f"species_at_sites has {name!r}, which species does not describe")
    symbols, shares = species.get("chemical_symbols"), species.get("concentration")
    if not isinstance(symbols, list) or len(symbols) != 1:
        raise RecordError(f"species {name!r} has chemical_symbols {str(symbols)[:80]}: expected one element per site")
    if not isinstance(symbols[0], str) or symbols[0] not in _ATOMIC_NUMBERS:
        raise RecordError(f"species {name!r} is {symbols[0]!r}: expected a chemical element from H to Lr at every site")
    if shares is not None and not _is_full(shares):
        raise RecordError(f"species {name!r} has concentration {str(shares)[:80]}: expected [1], a fully occupied site")
    if species.get("attached"):
        raise RecordError(f"species {name!r} has attached atoms {str(species['attached'])[:80]}: expected none")
    return _ATOMIC_NUMBERS[symbols[0]]


def _is_full(shares: Any) -> bool:
    if not isinstance(shares, list) or len(shares) != 1 or not isinstance(shares[0], int | float):
        return False
    return abs(shares[0] - 1.0) <= _CONCENTRATION_TOLERANCE


def _numbers(attributes: Mapping[str, Any], name: str, shape: tuple[int, int]) -> np.ndarray:
    value = attributes.get(name)
    expected = f"expected {shape[0]} x {shape[1]} finite numbers in angstrom"
    try:
        numbers = np.array(value, dtype=float)  # null becomes nan
    except (TypeError, ValueError, OverflowError):
        raise RecordError(f"{name} is {str(value)[:80]}: {expected}") from None
    if numbers.shape != shape:
        raise RecordError(f"{name} is {str(value)[:80]} of shape {numbers.shape}: {expected}")
    finite = np.isfinite(numbers).all(axis=1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise RecordError(f"{name} has {numbers[row].tolist()} as number {row + 1}: {expected}")
    return numbers


def _elements(stated: Any) -> frozenset[str] | None:
    if isinstance(stated, list) and stated and all(isinstance(symbol, str) for symbol in stated):
        return frozenset(stated)
    return None


def _properties(attributes: Mapping[str, Any], provider: Provider, n_sites: int) -> dict[str, tuple[str, Any]]:
    properties = {}
    for column, path in provider.fields.items():
        if column == THEORETICAL:
            continue
        value = value_at(attributes, path)
        if path in provider.per_cell and isinstance(value, int | float):
            value = value / n_sites
        properties[column] = (path, value)
    return properties


def _extra(attributes: Mapping[str, Any], provider: Provider) -> dict[str, Any]:
    """The provider's own fields that say something and are not in a column as they stand."""
    in_columns = set(provider.fields.values()) - provider.per_cell
    return {
        name: value
        for name, value in attributes.items()
        if name.startswith("_") and name not in in_columns and value is not None
    }
