"""The table of candidates: which columns every stage adds. A rejected candidate stays, with `rejected_by` and `reason`.

No column holds a time or a machine, so equal settings and data give a byte-identical file.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import pyarrow as pa

from generative.crystal.crystals import STRUCTURE_FIELDS, field_of


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
    SOURCE = "source"
    HIGHER = "higher"


class Proposer(StrEnum):
    """What a candidate comes from. One of several generators of a run is a generator too: 'generator:NAME'."""

    GENERATOR = "generator"
    MODIFIER = "modifier"
    PROTOTYPE = "prototype"

    @classmethod
    def one_generator(cls, label: str) -> str:
        """As the column `proposed_by` calls one of several."""
        return f"{cls.GENERATOR.value}:{label}"


_RELAXED_STRUCTURE = [pa.field(f"relaxed_{f.name}", f.type, metadata=f.metadata) for f in STRUCTURE_FIELDS]

SAMPLED = [
    field_of("id", pa.string(), "hash of checkpoint, condition, sampler settings, seed and index"),
    field_of("proposed_by", pa.string(), "generator | prototype: a stable decorated prototype that no database holds"),
    field_of("index", pa.int64(), "place in the run's plan; null for a prototype"),
    field_of("formula", pa.string(), "reduced formula"),
    field_of("condition", pa.string(), "what was asked of the generator, JSON; null for a prototype"),
    field_of("n_atoms", pa.int16(), "atoms in the generated cell"),
    *STRUCTURE_FIELDS,
]
SCREENED = [
    *SAMPLED,
    field_of("min_distance_ang", pa.float64(), "shortest distance of the generated crystal, self-images included, A"),
    field_of("volume_ang3_per_atom", pa.float64(), "volume per atom of the generated crystal, A^3"),
    field_of("smact_valid", pa.bool_(), "charge balance by SMACT; information unless screen.smact_filter is on"),
    field_of("known_match", pa.string(), "id of the database's crystal it matches, or null"),
    field_of("known_origin", pa.string(), "reported | hypothetical | unstated: origin of that crystal, or null"),
    field_of(
        "prototype_match", pa.string(), "id of the decorated prototype it is like, or null; no reason to reject it"
    ),
    field_of("duplicate_of", pa.string(), "id of the earlier candidate it matches, or null"),
    field_of("rejected_by", pa.string(), "stage that turned it away, or null"),
    field_of("reason", pa.string(), "one sentence, or null"),
]
RELAXED = [
    field_of("id", pa.string(), "id of the candidate or competing phase"),
    field_of("formula", pa.string(), "reduced formula"),
    field_of("relax_status", pa.string(), "converged | step cap | isolated | exploded | failed"),
    field_of("relax_reason", pa.string(), "one sentence when not converged"),
    field_of("relax_steps", pa.int32(), "optimiser steps"),
    field_of("energy_ev_per_atom", pa.float64(), "potential energy of the relaxed crystal, eV/atom"),
    field_of("generated_energy_ev_per_atom", pa.float64(), "the same of the crystal as generated"),
    field_of("fmax_ev_per_ang", pa.float64(), "largest force at the end, eV/A"),
    field_of("max_stress_gpa", pa.float64(), "largest stress component at the end, GPa"),
    field_of("energy_method", pa.string(), "the potential: level of theory of the energies"),
    *_RELAXED_STRUCTURE,
]
KEPT = [
    field_of("kept_spacegroup", pa.int16(), "international number of the group in which it relaxed; null: freely"),
    field_of("kept_energy_ev_per_atom", pa.float64(), "potential energy at the end in that group, eV/atom"),
    field_of("released_energy_ev_per_atom", pa.float64(), "the same after it was nudged and relaxed freely"),
    field_of("released_spacegroup", pa.int16(), "international number at that end (spglib, 0.1 A)"),
    field_of("broken_by_ang", pa.float64(), "how far that end is from having the kept group, A"),
    field_of("is_symmetric_minimum", pa.bool_(), "false: a saddle point of the kept group; null: not known"),
    field_of("is_released", pa.bool_(), "whether the relaxed crystal is the released end"),
    field_of("release_steps", pa.int32(), "optimiser steps after the release"),
    field_of("release_note", pa.string(), "why it is not known whether it was a minimum, one sentence; or null"),
]
"""What a relaxation with `relax.symmetry` kept adds; a run without has no such columns."""
_RELAXATION = [f for f in RELAXED if f.name not in {"id", "formula"}]
COMPARED = [
    field_of("delta_e_ev_per_atom", pa.float64(), "relaxed minus generated energy, eV/atom"),
    field_of("delta_v_ang3_per_atom", pa.float64(), "relaxed minus generated volume, A^3/atom"),
    field_of(
        "rms",
        pa.float64(),
        "displacement generated to relaxed by StructureMatcher, units of (V/N)^(1/3); null if no match",
    ),
    field_of("generated_spacegroup", pa.int16(), "international number of the crystal as generated (spglib, 0.1 A)"),
    field_of("spacegroup", pa.int16(), "international number of the relaxed crystal (spglib)"),
    field_of("spacegroup_symbol", pa.string(), "its Hermann-Mauguin symbol"),
]
ON_HULL = [
    field_of(
        "formation_energy_ev_per_atom",
        pa.float64(),
        "from the elements, with the potential, eV/atom; an enthalpy under pressure",
    ),
    field_of(
        "generated_formation_energy_ev_per_atom",
        pa.float64(),
        "the same of the crystal as generated, to compare with what was asked",
    ),
    field_of(
        "e_above_hull_ev_per_atom",
        pa.float64(),
        "above (negative: below) the hull of competing phases, eV/atom; of enthalpies under pressure",
    ),
    field_of("decomposition", pa.string(), "competing phases it would decompose into"),
    field_of("hull_note", pa.string(), "why a hull value is missing or degraded"),
]
RANKED = [
    field_of("rank", pa.int32(), "1 is the lowest above the hull; null if rejected"),
    *SCREENED,
    *_RELAXATION,
    *COMPARED,
    *ON_HULL,
]
DYNAMICS = [
    field_of(
        "lowest_phonon_thz", pa.float64(), "lowest phonon frequency, THz, negative: imaginary; null: not computed"
    ),
    field_of("dynamically_stable", pa.bool_(), "whether no phonon is imaginary; null: not computed"),
    field_of("phonon_note", pa.string(), "why there are no phonons, or what weakens them, one sentence; or null"),
]
NEAR_HULL_EV_PER_ATOM = 0.1
"""The usual bound for 'worth a closer look': most synthesised metastable crystals lie below it (Sun et al. 2016)."""

JUDGED = [
    field_of("first_rank", pa.int32(), "rank before the judge, by the potential that relaxed all; null if rejected"),
    field_of("judge_method", pa.string(), "the judge: level of theory of its energies; null: not judged"),
    field_of("judge_energy_ev_per_atom", pa.float64(), "potential energy by the judge, eV/atom"),
    field_of("judge_formation_energy_ev_per_atom", pa.float64(), "from the elements, by the judge, eV/atom"),
    field_of(
        "judge_e_above_hull_ev_per_atom", pa.float64(), "above the hull of the judge's own energies, eV/atom; or null"
    ),
    field_of("judge_decomposition", pa.string(), "competing phases it would decompose into by the judge"),
    field_of("judge_hull_note", pa.string(), "what the judge's hull lacks: a wrong hull, not a wrong energy; or null"),
    field_of("judge_relax_status", pa.string(), "how the judge's relaxation ended: as relax_status"),
    field_of("judge_relax_steps", pa.int32(), "optimiser steps by the judge"),
    field_of("same_crystal", pa.bool_(), "whether the crystal that the judge relaxed is still this one"),
    field_of(
        "opinion_change_ev_per_atom", pa.float64(), "energy above hull by the judge minus that by the first, eV/atom"
    ),
    field_of(
        "opinions_agree", pa.bool_(), "false: they differ by more than both errors as measured; null: errors not known"
    ),
    field_of("near_hull_probability", pa.float64(), "probability that DFT puts it within 0.1 eV/atom of the hull"),
    field_of("probability_source", pa.string(), "what that probability was measured on, one sentence; or null"),
    field_of(
        "committee_spread_ev_per_atom",
        pa.float64(),
        "standard deviation of the energy above hull over judge and committee, eV/atom; null: no committee",
    ),
    field_of("judge_note", pa.string(), "why it was not judged, or what weakens the judgement, one sentence; or null"),
]
"""What a judge adds; a run without one has no such columns, and its rank is that of the first potential."""
CANDIDATES = [*RANKED, *DYNAMICS]

MODIFIED = [
    field_of("source_id", pa.string(), "id of the given crystal that it is a polymorph of"),
    field_of("asked", pa.string(), "space group and change of energy, JSON"),
]
"""What a modification knows of a candidate besides, from the proposal on."""

RANKED_POLYMORPHS = [
    field_of("rank", pa.int32(), "among the lower polymorphs of one crystal, 1 is the lowest; null if rejected"),
    *SCREENED,
    *MODIFIED,
    *_RELAXATION,
    *COMPARED,
    field_of(
        "source_energy_ev_per_atom", pa.float64(), "of the given crystal, relaxed with the same potential, eV/atom"
    ),
    field_of("energy_change_ev_per_atom", pa.float64(), "polymorph less given crystal, both relaxed, eV/atom"),
]
POLYMORPHS = [*RANKED_POLYMORPHS, *DYNAMICS]


CRYSTAL_COLUMNS = frozenset(prefix + field.name for prefix in ("", "relaxed_") for field in STRUCTURE_FIELDS)
"""Columns that hold the generated and the relaxed crystal."""


def plain(table: pa.Table) -> pa.Table:
    """All columns but those of crystals, which as Python numbers would take ten times their room."""
    return table.select([name for name in table.column_names if name not in CRYSTAL_COLUMNS])


def joined(tables: Sequence[pa.Table], fields: list[pa.Field]) -> pa.Table:
    """These columns of the tables, one after the other; of none, a table without rows."""
    names = [f.name for f in fields]
    return pa.concat_tables([pa.schema(fields).empty_table(), *(table.select(names) for table in tables)])


def table_of(rows: list[dict[str, Any]], fields: list[pa.Field]) -> pa.Table:
    """Rows as a table with exactly these columns; a key that is no column is a bug and raises KeyError."""
    names = {f.name for f in fields}
    for row in rows[:1]:
        if unknown := sorted(set(row) - names):
            raise KeyError(f"{unknown} are no columns of this table")
    return pa.table(
        {f.name: pa.array([row.get(f.name) for row in rows], type=f.type) for f in fields}, schema=pa.schema(fields)
    )
