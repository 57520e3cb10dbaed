"""Entries of a database with uncorrected energies, from a file: what a hull of own DFT records is completed with.

JSON as pymatgen writes it: a list of ComputedStructureEntry or ComputedEntry dicts, a dict of them by id, or either
below 'entries'; gzipped or not. So is what the Materials Project's client gives (mp_api, get_entries_in_chemsys).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymatgen.core.composition import Composition
from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry

from dft.stored_classes import check_classes, in_task
from dft.structures import read_structure

CLASSES = ("ComputedStructureEntry", "ComputedEntry")

HOW_TO_GET = (
    "expected JSON of ComputedStructureEntry dicts, such as "
    "`json.dump([e.as_dict() for e in MPRester().get_entries_in_chemsys('Li-Cl-O')], file)` writes"
)


class EntriesError(ValueError):
    """A file that holds no entries of a database."""


@dataclass(frozen=True)
class ReferenceEntry:
    """An entry of a database.

    Attributes:
        entry: uncorrected, with its parameters and, where the database gives it, its crystal.
        stated_correction_ev_per_atom: correction that the database applied; None where it states none.
    """

    entry: ComputedEntry
    stated_correction_ev_per_atom: float | None = None

    @property
    def id(self) -> str:
        """The database's own."""
        return str(self.entry.entry_id)

    @property
    def run_type(self) -> str:
        """Kind of calculation, as the database names it; empty if it does not."""
        return str(self.entry.parameters.get("run_type") or "")

    @property
    def material(self) -> str:
        """What calculations of one material have in common: 'mp-149' of 'mp-149-GGA+U'."""
        stated = self.entry.data.get("material_id")
        return str(stated) if stated else self.id.removesuffix(f"-{self.run_type}")


def read_entries(paths: Iterable[Path]) -> tuple[list[ReferenceEntry], list[str]]:
    """The entries of files, and a sentence for each record that is none.

    An entry that is there twice, alike in energy, is taken once.

    Raises: EntriesError: if a file is no such JSON, or holds no entry that can be read.
    """
    found: dict[str, ReferenceEntry] = {}
    refused: list[str] = []
    for path in paths:
        for name, record in _records(Path(path)):
            try:
                one = _entry(record, name)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                refused.append(f"{Path(path).name}, entry {name}: {error or type(error).__name__}")
                continue
            there = found.setdefault(one.id, one)
            if there is not one and not _is_same(there, one):
                refused.append(f"{Path(path).name}, entry {name}: its id is that of another entry with another energy")
    if not found:
        raise EntriesError(f"no entry can be read ({refused[0] if refused else 'there is none'}): {HOW_TO_GET}")
    return list(found.values()), refused


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        whole = path.read_bytes()
        text = gzip.decompress(whole) if whole[:2] == b"\x1f\x8b" else whole
        document = json.loads(text)
    except IsADirectoryError as error:
        raise EntriesError(f"{path} is a folder: {HOW_TO_GET}") from error
    except (OSError, EOFError) as error:
        raise EntriesError(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        raise EntriesError(
            f"{path} is no JSON ({error}); a table of crystals names neither functional nor U nor pseudopotentials of "
            f"its energies: {HOW_TO_GET}"
        ) from error
    if isinstance(document, dict) and isinstance(document.get("entries"), list | dict):
        document = document["entries"]
    if isinstance(document, dict) and "composition" in document:
        document = [document]
    if isinstance(document, list):
        yield from ((str(position), record) for position, record in enumerate(document, 1))
    elif isinstance(document, dict):
        yield from document.items()
    else:
        raise EntriesError(f"{path} holds a {type(document).__name__}: {HOW_TO_GET}")


def _entry(record: Any, name: str) -> ReferenceEntry:
    """Raises: KeyError, TypeError, ValueError, AttributeError: if the record is no entry."""
    kind = str(record.get("@class", "ComputedEntry"))
    if kind not in CLASSES:
        raise ValueError(f"is a {kind}: expected {' or '.join(CLASSES)}")
    energy = float(record["energy"])
    composition = Composition(record["composition"]).element_composition
    if not composition or abs(energy) == float("inf") or energy != energy:
        raise ValueError(f"has energy {energy} and composition {record['composition']}: expected both")
    adjustments = record.get("energy_adjustments") or []
    stated = float(record.get("correction") or 0.0)
    is_stated = bool(adjustments) or bool(stated)
    for part in ("parameters", "data"):  # pymatgen decodes them whenever it copies an entry
        check_classes(record.get(part), f"its {part}", in_task)
    kept: dict[str, Any] = {
        "parameters": dict(record.get("parameters") or {}),
        "data": dict(record.get("data") or {}),
        "entry_id": str(record.get("entry_id") or name),
    }
    entry: ComputedEntry
    if record.get("structure"):
        structure = read_structure(record["structure"])
        if structure.composition.element_composition != composition:
            raise ValueError(f"has composition {composition.formula}, its crystal {structure.composition.formula}")
        if not structure.is_ordered:
            raise ValueError("has a disordered crystal")
        entry = ComputedStructureEntry(structure, energy, **kept)
    else:
        entry = ComputedEntry(composition, energy, **kept)
    return ReferenceEntry(entry, stated / float(composition.num_atoms) if is_stated else None)


def _is_same(first: ReferenceEntry, second: ReferenceEntry) -> bool:
    one, other = first.entry, second.entry
    return (
        one.composition == other.composition
        and abs(one.uncorrected_energy - other.uncorrected_energy) < 1e-6
        and first.run_type == second.run_type
    )
