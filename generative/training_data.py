"""From a dataset table to a training set: reduced cells, excluded ids, the known conditions of every crystal."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa
from pymatgen.core.structure import Structure

from generative.crystals import Crystal, crystals_of
from generative.training import TrainingSet


def reduced(crystal: Crystal) -> Crystal:
    """The same crystal in its Niggli-reduced cell: one setting per lattice, which the generator needs.

    A cell that pymatgen's reduction cannot finish (nearly degenerate vectors) is kept as it is.
    """
    structure: Structure = crystal.to_structure()
    try:
        structure = structure.get_reduced_structure(reduction_algo="niggli")
    except ValueError:
        return crystal
    return Crystal.from_structure(structure)


def training_set(table: pa.Table, exclude: Collection[str] = ()) -> TrainingSet:
    """The table's crystals but those whose source_id is in `exclude` (the ids of a test set)."""
    hidden = set(exclude)
    source_ids = table.column("source_id").to_pylist()
    rows = [i for i, name in enumerate(source_ids) if name not in hidden]
    kept = table.take(rows)
    crystals = [reduced(c) for c in crystals_of(kept) if c is not None]
    return TrainingSet(
        crystals,
        kept.column("spacegroup").to_pylist(),
        kept.column("formation_energy_ev_per_atom").to_pylist(),
        kept.column("id").to_pylist(),
    )
