"""The table of candidates: which columns every stage adds. A rejected candidate stays, with `rejected_by` and `reason`.

No column holds a time or a machine, so equal settings and data give a byte-identical file.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import pyarrow as pa

from generative.crystals import STRUCTURE_FIELDS


class Stage(StrEnum):
    """Where a candidate may be turned away, in order."""

    READING = "reading"
    VALIDITY = "validity"
    COMPOSITION = "composition"
    KNOWN = "known"
    DUPLICATE = "duplicate"
    RELAXATION = "relaxation"
    KNOWN_RELAXED = "known after relaxation"
    DUPLICATE_RELAXED = "duplicate after relaxation"


class Proposer(StrEnum):
    """What a candidate comes from."""

    GENERATOR = "generator"
    PROTOTYPE = "prototype"


def _field(name: str, kind: pa.DataType, about: str) -> pa.Field:
    return pa.field(name, kind, metadata={"about": about})


_RELAXED_STRUCTURE = [pa.field(f"relaxed_{f.name}", f.type, metadata=f.metadata) for f in STRUCTURE_FIELDS]

SAMPLED = [
    _field("id", pa.string(), "hash of checkpoint, condition, sampler settings, seed and index"),
    _field("proposed_by", pa.string(), "generator | prototype: a stable decorated prototype that no database holds"),
    _field("index", pa.int64(), "place in the run's plan; null for a prototype"),
    _field("formula", pa.string(), "reduced formula"),
    _field("condition", pa.string(), "what was asked of the generator, JSON; null for a prototype"),
    _field("n_atoms", pa.int16(), "atoms in the generated cell"),
    *STRUCTURE_FIELDS,
]
SCREENED = [
    *SAMPLED,
    _field("min_distance_ang", pa.float64(), "shortest distance of the generated crystal, self-images included, A"),
    _field("volume_ang3_per_atom", pa.float64(), "volume per atom of the generated crystal, A^3"),
    _field("smact_valid", pa.bool_(), "charge balance by SMACT; information unless screen.smact_filter is on"),
    _field("known_match", pa.string(), "id of the database's crystal it matches, or null"),
    _field("known_origin", pa.string(), "reported | hypothetical | unstated: origin of that crystal, or null"),
    _field("prototype_match", pa.string(), "id of the decorated prototype it is like, or null; no reason to reject it"),
    _field("duplicate_of", pa.string(), "id of the earlier candidate it matches, or null"),
    _field("rejected_by", pa.string(), "stage that turned it away, or null"),
    _field("reason", pa.string(), "one sentence, or null"),
]
RELAXED = [
    _field("id", pa.string(), "id of the candidate or competing phase"),
    _field("formula", pa.string(), "reduced formula"),
    _field("relax_status", pa.string(), "converged | step cap | isolated | exploded | failed"),
    _field("relax_reason", pa.string(), "one sentence when not converged"),
    _field("relax_steps", pa.int32(), "optimiser steps"),
    _field("energy_ev_per_atom", pa.float64(), "potential energy of the relaxed crystal, eV/atom"),
    _field("generated_energy_ev_per_atom", pa.float64(), "the same of the crystal as generated"),
    _field("fmax_ev_per_ang", pa.float64(), "largest force at the end, eV/A"),
    _field("max_stress_gpa", pa.float64(), "largest stress component at the end, GPa"),
    _field("energy_method", pa.string(), "the potential: level of theory of the energies"),
    *_RELAXED_STRUCTURE,
]
JUDGED = [
    _field("rank", pa.int32(), "1 is the lowest above the hull; null if rejected"),
    *SCREENED,
    *(f for f in RELAXED if f.name not in {"id", "formula"}),
    _field("delta_e_ev_per_atom", pa.float64(), "relaxed minus generated energy, eV/atom"),
    _field("delta_v_ang3_per_atom", pa.float64(), "relaxed minus generated volume, A^3/atom"),
    _field(
        "rms",
        pa.float64(),
        "displacement generated to relaxed by StructureMatcher, units of (V/N)^(1/3); null if no match",
    ),
    _field("generated_spacegroup", pa.int16(), "international number of the crystal as generated (spglib, 0.1 A)"),
    _field("spacegroup", pa.int16(), "international number of the relaxed crystal (spglib)"),
    _field("spacegroup_symbol", pa.string(), "its Hermann-Mauguin symbol"),
    _field(
        "formation_energy_ev_per_atom",
        pa.float64(),
        "from the elements, with the potential, eV/atom; an enthalpy under pressure",
    ),
    _field(
        "generated_formation_energy_ev_per_atom",
        pa.float64(),
        "the same of the crystal as generated, to compare with what was asked",
    ),
    _field(
        "e_above_hull_ev_per_atom",
        pa.float64(),
        "above (negative: below) the hull of competing phases, eV/atom; of enthalpies under pressure",
    ),
    _field("decomposition", pa.string(), "competing phases it would decompose into"),
    _field("hull_note", pa.string(), "why a hull value is missing or degraded"),
]
DYNAMICS = [
    _field("lowest_phonon_thz", pa.float64(), "lowest phonon frequency, THz, negative: imaginary; null: not computed"),
    _field("dynamically_stable", pa.bool_(), "whether no phonon is imaginary; null: not computed"),
    _field("phonon_note", pa.string(), "why there are no phonons, or what weakens them, one sentence; or null"),
]
CANDIDATES = [*JUDGED, *DYNAMICS]


def joined(tables: Sequence[pa.Table], fields: list[pa.Field]) -> pa.Table:
    """Tables of these columns, one after the other; of none, a table without rows."""
    return pa.concat_tables([pa.schema(fields).empty_table(), *tables])


def table_of(rows: list[dict[str, Any]], fields: list[pa.Field]) -> pa.Table:
    """Rows as a table with exactly these columns; a key that is no column is a bug and raises KeyError."""
    names = {f.name for f in fields}
    for row in rows[:1]:
        if unknown := sorted(set(row) - names):
            raise KeyError(f"{unknown} are no columns of this table")
    return pa.table(
        {f.name: pa.array([row.get(f.name) for row in rows], type=f.type) for f in fields}, schema=pa.schema(fields)
    )
