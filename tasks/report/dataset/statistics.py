"""What a dataset holds, counted from its columns a batch at a time: no crystal is ever read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from generative.datasets.table import batches_of
from storage.tables import reading

COLUMNS = [
    "source",
    "formula",
    "chemsys",
    "n_elements",
    "n_atoms",
    "spacegroup",
    "formation_energy_ev_per_atom",
    "e_above_hull_ev_per_atom",
    "method",
]
BATCH_ROWS = 65_536
CRYSTAL_SYSTEMS = (
    ("triclinic", 2),
    ("monoclinic", 15),
    ("orthorhombic", 74),
    ("tetragonal", 142),
    ("trigonal", 167),
    ("hexagonal", 194),
    ("cubic", 230),
)
"""Crystal systems with the last of their space-group numbers."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Refusals:
    """One class of reasons in the quarantine.

    Attributes:
        source: whose records.
        reason: first clause, numbers left out.
        count: records.
        example: a whole reason, as written.
        example_id: the record it was written for.
    """

    source: str
    reason: str
    count: int
    example: str
    example_id: str


@dataclass(frozen=True)
class DatasetStatistics:
    """Counts over the rows of a dataset.

    Attributes:
        n_rows: crystals.
        n_formulas: distinct reduced formulas.
        elements: symbol -> crystals that hold it.
        n_elements: distinct elements in a crystal -> crystals.
        n_atoms: atoms in the primitive cell -> crystals.
        spacegroups: international number -> crystals; None where none was found.
        formation_ev_per_atom: method -> formation energies, eV/atom, in no order.
        above_hull_ev_per_atom: method -> energies above the hull as the source states them, eV/atom, in no order.
        methods: method -> crystals, with or without an energy.
        refusals: classes of reasons of the quarantine, the commonest first.
        n_refused: records in the quarantine.
    """

    n_rows: int
    n_formulas: int
    elements: dict[str, int]
    n_elements: dict[int, int]
    n_atoms: dict[int, int]
    spacegroups: dict[int | None, int]
    formation_ev_per_atom: dict[str, Floats]
    above_hull_ev_per_atom: dict[str, Floats]
    methods: dict[str, int]
    refusals: tuple[Refusals, ...]
    n_refused: int

    @property
    def crystal_systems(self) -> dict[str, int]:
        """Crystal system -> crystals, triclinic first; crystals without a space group are left out."""
        counted = dict.fromkeys((name for name, _ in CRYSTAL_SYSTEMS), 0)
        for number, count in self.spacegroups.items():
            if number is not None:
                counted[next(name for name, last in CRYSTAL_SYSTEMS if number <= last)] += count
        return counted


@dataclass
class _Running:
    """Counts so far."""

    n_rows: int = 0
    counts: dict[str, Counter[object]] = field(default_factory=dict)
    energies: dict[str, dict[str, list[Floats]]] = field(default_factory=dict)

    def add(self, batch: pa.RecordBatch) -> None:
        self.n_rows += batch.num_rows
        for name in ("formula", "chemsys", "n_elements", "n_atoms", "spacegroup", "method"):
            counter = self.counts.setdefault(name, Counter())
            for entry in pc.value_counts(batch.column(name)):
                counter[entry["values"].as_py()] += entry["counts"].as_py()
        methods = batch.column("method")
        for name in ("formation_energy_ev_per_atom", "e_above_hull_ev_per_atom"):
            column = batch.column(name)
            for method in pc.unique(methods).to_pylist():
                values = column.filter(pc.equal(methods, method)).drop_null()
                if len(values):
                    numbers = values.to_numpy(zero_copy_only=False).astype(np.float32)
                    self.energies.setdefault(name, {}).setdefault(str(method), []).append(numbers)

    def joined(self, name: str) -> dict[str, Floats]:
        return {method: np.concatenate(parts) for method, parts in sorted(self.energies.get(name, {}).items())}


def dataset_statistics(folder: Path) -> DatasetStatistics:
    """Count what a finished dataset's folder holds.

    Memory: one batch of columns, two energies per crystal, and the distinct formulas and systems.

    Raises: DamagedFileError: if the folder holds no readable dataset.
    """
    running = _Running()
    with _opened(folder / "dataset.parquet") as file:
        for batch in batches_of(file, BATCH_ROWS, COLUMNS):
            running.add(batch)
    counts = {name: running.counts.get(name, Counter()) for name in ("chemsys", "n_elements", "n_atoms", "spacegroup")}
    elements: Counter[str] = Counter()
    for system, count in counts["chemsys"].items():
        elements.update(dict.fromkeys(str(system).split("-"), count))
    refusals = list(_refusals(folder / "rejected.parquet"))
    return DatasetStatistics(
        n_rows=running.n_rows,
        n_formulas=len(running.counts.get("formula", ())),
        elements=dict(sorted(elements.items())),
        n_elements=_whole(counts["n_elements"]),
        n_atoms=_whole(counts["n_atoms"]),
        spacegroups={None if n is None else int(str(n)): count for n, count in counts["spacegroup"].items()},
        formation_ev_per_atom=running.joined("formation_energy_ev_per_atom"),
        above_hull_ev_per_atom=running.joined("e_above_hull_ev_per_atom"),
        methods={str(name): count for name, count in running.counts.get("method", Counter()).most_common()},
        refusals=tuple(sorted(refusals, key=lambda r: (-r.count, r.source, r.reason))),
        n_refused=sum(r.count for r in refusals),
    )


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    with reading(path, "ingest the dataset again"), pq.ParquetFile(path) as file:
        yield file


def _whole(counter: Counter[object]) -> dict[int, int]:
    return dict(sorted((int(str(value)), count) for value, count in counter.items()))


def reason_class(reason: str) -> str:
    """The first clause of a reason, with numbers and quoted values left out, so that like reasons count together."""
    clause = re.split(r"[:;,]\s", reason)[0]
    unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "…", clause)
    return re.sub(r"-?\d\S*( A\^3| A| degrees)?", "…", unquoted)[:160] or "no reason given"


def _refusals(path: Path) -> Iterator[Refusals]:
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], tuple[str, str]] = {}
    with _opened(path) as file:
        for batch in batches_of(file, BATCH_ROWS, ["source", "source_id", "reason"]):
            for row in batch.to_pylist():
                kind = (row["source"], reason_class(row["reason"]))
                counts[kind] += 1
                examples.setdefault(kind, (row["reason"], row["source_id"]))
    for (source, reason), count in counts.items():
        yield Refusals(source, reason, count, *examples[source, reason])
