"""The one table every source is brought into: a documented Parquet schema, one crystal per row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from generative.crystal.crystals import STRUCTURE_FIELDS, field_of

DATASET_SCHEMA = pa.schema(
    [
        field_of("id", pa.string(), "unique in the table: '<source>:<source_id>'"),
        field_of("source", pa.string(), "name of the source, such as 'mp_20_biternary_val' or 'prototypes'"),
        field_of("source_id", pa.string(), "the source's own id, such as 'mp-1234', or its row or file name"),
        field_of("origin", pa.string(), "reported | hypothetical | unstated (all in a database) | prototype (ours)"),
        field_of("formula", pa.string(), "reduced formula, electronegativity order (pymatgen), such as 'Ta2B'"),
        field_of("chemsys", pa.string(), "elements in alphabetic order joined by '-', such as 'B-Ta'"),
        field_of("n_elements", pa.int16(), "distinct elements"),
        field_of("n_atoms", pa.int16(), "atoms in the stored (primitive) cell"),
        field_of(
            "spacegroup", pa.int16(), "international number by spglib at symprec 0.01 A; null if spglib finds none"
        ),
        field_of("energy_ev_per_atom", pa.float64(), "total energy as the source states it, eV/atom; null if none"),
        field_of("formation_energy_ev_per_atom", pa.float64(), "formation energy from the elements, eV/atom; or null"),
        field_of(
            "e_above_hull_ev_per_atom", pa.float64(), "energy above hull as the source states it, eV/atom; or null"
        ),
        field_of("band_gap_ev", pa.float64(), "band gap, eV; or null"),
        field_of("method", pa.string(), "level of theory of the energies; rows of different methods share no hull"),
        field_of("run_type", pa.string(), "calculation behind the energies as the source states it, such as 'GGA+U'"),
        field_of("last_modified", pa.string(), "when the source last changed the record, as it states it; or null"),
        field_of("other_ids", pa.list_(pa.string()), "ids of the same crystal elsewhere, when sources were merged"),
        field_of("other_energies", pa.string(), "what those ids state: JSON list of id, method, energies; or null"),
        field_of("extra", pa.string(), "further fields of the record, by the source's names, JSON; or null"),
        *STRUCTURE_FIELDS,
    ],
    metadata={"schema_version": "3", "about": "Hullward dataset: one ordered crystal per row"},
)

REJECTED_SCHEMA = pa.schema(
    [
        field_of("source", pa.string(), "name of the source"),
        field_of("source_id", pa.string(), "id, row number or file name of the record"),
        field_of("reason", pa.string(), "one sentence: the value, what was expected"),
        field_of("record", pa.string(), "the record as it came, cut to 4,000 characters"),
    ],
    metadata={"schema_version": "3", "about": "Hullward quarantine: records that could not become a crystal"},
)


def batches_of(file: pq.ParquetFile, size: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file in order, at most `size` at once; holds one row group in memory."""
    # Over several row groups at once, pyarrow reads ahead of a slow consumer until the whole file is in memory.
    for row_group in range(file.num_row_groups):
        yield from file.iter_batches(size, row_groups=[row_group], columns=None if columns is None else list(columns))
