"""The one table every source is brought into: a documented Parquet schema, one crystal per row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from generative.crystals import STRUCTURE_FIELDS


def _field(name: str, kind: pa.DataType, about: str) -> pa.Field:
    return pa.field(name, kind, metadata={"about": about})


DATASET_SCHEMA = pa.schema(
    [
        _field("id", pa.string(), "unique in the table: '<source>:<source_id>'"),
        _field("source", pa.string(), "name of the source, such as 'mp_20_biternary_val' or 'prototypes'"),
        _field("source_id", pa.string(), "the source's own id, such as 'mp-1234', or its row or file name"),
        _field("origin", pa.string(), "reported | hypothetical | unstated (all in a database) | prototype (ours)"),
        _field("formula", pa.string(), "reduced formula, electronegativity order (pymatgen), such as 'Ta2B'"),
        _field("chemsys", pa.string(), "elements in alphabetic order joined by '-', such as 'B-Ta'"),
        _field("n_elements", pa.int16(), "distinct elements"),
        _field("n_atoms", pa.int16(), "atoms in the stored (primitive) cell"),
        _field("spacegroup", pa.int16(), "international number by spglib at symprec 0.01 A; null if spglib finds none"),
        _field("energy_ev_per_atom", pa.float64(), "total energy as the source states it, eV/atom; null if none"),
        _field("formation_energy_ev_per_atom", pa.float64(), "formation energy from the elements, eV/atom; or null"),
        _field("e_above_hull_ev_per_atom", pa.float64(), "energy above hull as the source states it, eV/atom; or null"),
        _field("band_gap_ev", pa.float64(), "band gap, eV; or null"),
        _field("method", pa.string(), "level of theory of the energies; rows of different methods share no hull"),
        _field("run_type", pa.string(), "calculation behind the energies as the source states it, such as 'GGA+U'"),
        _field("last_modified", pa.string(), "when the source last changed the record, as it states it; or null"),
        _field("other_ids", pa.list_(pa.string()), "ids of the same crystal elsewhere, when sources were merged"),
        _field("other_energies", pa.string(), "what those ids state: JSON list of id, method, energies; or null"),
        _field("extra", pa.string(), "further fields of the record, by the source's names, JSON; or null"),
        *STRUCTURE_FIELDS,
    ],
    metadata={"schema_version": "3", "about": "Hullward dataset: one ordered crystal per row"},
)

REJECTED_SCHEMA = pa.schema(
    [
        _field("source", pa.string(), "name of the source"),
        _field("source_id", pa.string(), "id, row number or file name of the record"),
        _field("reason", pa.string(), "one sentence: the value, what was expected"),
        _field("record", pa.string(), "the record as it came, cut to 4,000 characters"),
    ],
    metadata={"schema_version": "3", "about": "Hullward quarantine: records that could not become a crystal"},
)


def batches_of(file: pq.ParquetFile, size: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file in order, at most `size` at once; holds one row group in memory."""
    # Over several row groups at once, pyarrow reads ahead of a slow consumer until the whole file is in memory.
    for row_group in range(file.num_row_groups):
        yield from file.iter_batches(size, row_groups=[row_group], columns=None if columns is None else list(columns))
