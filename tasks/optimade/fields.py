"""Our columns as fields of OPTIMADE: names, types, units and descriptions, for the export and for its server alike.

A field's description is that of its column (tasks/discover/candidates.py, generative/datasets/table.py), unless that
one needs its neighbours to be understood.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from generative.datasets.table import DATASET_SCHEMA
from tasks.discover.candidates import CANDIDATES, JUDGED, KEPT

PREFIX = "hullward"
"""Of our fields, as in `_hullward_rank`. Not registered with the OPTIMADE consortium."""

EV_PER_ATOM, ANG3_PER_ATOM = "eV/{atom}", "Ao3/{atom}"
"""Units in UCUM, which OPTIMADE asks for: Ao is the angstrom, and braces hold what is no unit."""


@dataclass(frozen=True)
class Field:
    """One of our fields.

    Attributes:
        name: with the prefix, such as '_hullward_rank'.
        column: the table's column it is read from; None if it is said of the table as a whole, or of the structure.
        type: OPTIMADE data type.
        unit: in UCUM; None for what has none.
        description: of the column.
    """

    name: str
    column: str | None
    type: str
    unit: str | None
    description: str

    def definition(self) -> dict[str, Any]:
        """As /info/structures shows it."""
        shown = {"description": self.description, "unit": self.unit, "sortable": True, "type": self.type}
        return {key: value for key, value in shown.items() if value is not None}


_CANDIDATE_UNITS: dict[str, tuple[str, str | None]] = {
    "rank": ("rank", None),
    "e_above_hull_ev_per_atom": ("e_above_hull", EV_PER_ATOM),
    "formation_energy_ev_per_atom": ("formation_energy", EV_PER_ATOM),
    "energy_ev_per_atom": ("energy", EV_PER_ATOM),
    "energy_method": ("energy_method", None),
    "decomposition": ("decomposition", None),
    "hull_note": ("hull_note", None),
    "lowest_phonon_thz": ("lowest_phonon", "THz"),
    "dynamically_stable": ("dynamically_stable", None),
    "phonon_note": ("phonon_note", None),
    "generated_spacegroup": ("generated_spacegroup", None),
    "generated_formation_energy_ev_per_atom": ("generated_formation_energy", EV_PER_ATOM),
    "spacegroup": ("spacegroup", None),
    "spacegroup_symbol": ("spacegroup_symbol", None),
    "relax_status": ("relax_status", None),
    "relax_reason": ("relax_reason", None),
    "relax_steps": ("relax_steps", None),
    "fmax_ev_per_ang": ("fmax", "eV/Ao"),
    "max_stress_gpa": ("max_stress", "GPa"),
    "generated_energy_ev_per_atom": ("generated_energy", EV_PER_ATOM),
    "delta_e_ev_per_atom": ("delta_e", EV_PER_ATOM),
    "delta_v_ang3_per_atom": ("delta_v", ANG3_PER_ATOM),
    "rms": ("rms", None),
    "min_distance_ang": ("generated_min_distance", "Ao"),
    "volume_ang3_per_atom": ("generated_volume", ANG3_PER_ATOM),
    "smact_valid": ("smact_valid", None),
    "known_match": ("known_match", None),
    "known_origin": ("known_origin", None),
    "prototype_match": ("prototype_match", None),
    "proposed_by": ("proposed_by", None),
    "duplicate_of": ("duplicate_of", None),
    "rejected_by": ("rejected_by", None),
    "reason": ("reason", None),
    "condition": ("condition", None),
    "index": ("index", None),
}
_KEPT_UNITS: dict[str, tuple[str, str | None]] = {
    "kept_spacegroup": ("kept_spacegroup", None),
    "kept_energy_ev_per_atom": ("kept_energy", EV_PER_ATOM),
    "released_energy_ev_per_atom": ("released_energy", EV_PER_ATOM),
    "released_spacegroup": ("released_spacegroup", None),
    "broken_by_ang": ("broken_by", "Ao"),
    "is_symmetric_minimum": ("is_symmetric_minimum", None),
    "is_released": ("is_released", None),
    "release_steps": ("release_steps", None),
    "release_note": ("release_note", None),
}
_JUDGED_UNITS: dict[str, tuple[str, str | None]] = {
    "first_rank": ("first_rank", None),
    "judge_method": ("judge_method", None),
    "judge_energy_ev_per_atom": ("judge_energy", EV_PER_ATOM),
    "judge_formation_energy_ev_per_atom": ("judge_formation_energy", EV_PER_ATOM),
    "judge_e_above_hull_ev_per_atom": ("judge_e_above_hull", EV_PER_ATOM),
    "judge_decomposition": ("judge_decomposition", None),
    "judge_hull_note": ("judge_hull_note", None),
    "judge_relax_status": ("judge_relax_status", None),
    "judge_relax_steps": ("judge_relax_steps", None),
    "same_crystal": ("same_crystal", None),
    "opinion_change_ev_per_atom": ("opinion_change", EV_PER_ATOM),
    "opinions_agree": ("opinions_agree", None),
    "near_hull_probability": ("near_hull_probability", None),
    "probability_source": ("probability_source", None),
    "committee_spread_ev_per_atom": ("committee_spread", EV_PER_ATOM),
    "judge_note": ("judge_note", None),
}
_DATASET_UNITS: dict[str, tuple[str, str | None]] = {
    "source": ("source", None),
    "source_id": ("source_id", None),
    "origin": ("origin", None),
    "other_ids": ("other_ids", None),
    "other_energies": ("other_energies", None),
    "method": ("energy_method", None),
    "run_type": ("run_type", None),
    "energy_ev_per_atom": ("energy", EV_PER_ATOM),
    "formation_energy_ev_per_atom": ("formation_energy", EV_PER_ATOM),
    "e_above_hull_ev_per_atom": ("e_above_hull", EV_PER_ATOM),
    "band_gap_ev": ("band_gap", "eV"),
    "spacegroup": ("spacegroup", None),
    "last_modified": ("source_last_modified", None),
    "extra": ("extra", None),
}
"""Column -> the field's name without the prefix, and its unit. Energies are called the same in both tables."""

_ALONE = {
    "energy_method": "level of theory of the energies: the potential",
    "spacegroup_symbol": "Hermann-Mauguin symbol of the relaxed crystal's space group",
    "generated_energy_ev_per_atom": "potential energy of the crystal as generated, eV/atom",
    "generated_spacegroup": "international number of the crystal as generated (spglib, 0.1 A)",
    "generated_formation_energy_ev_per_atom": "formation energy of the crystal as generated, by the potential, eV/atom",
    "known_origin": "origin of the database's crystal that it matches: reported | hypothetical | unstated, or null",
    "reason": "why it was turned away, one sentence; or null",
    "condition": "what was asked of the generator: composition of the cell, space group, formation energy (eV/atom)",
    "released_energy_ev_per_atom": "potential energy after it was nudged and relaxed freely, eV/atom",
    "released_spacegroup": "international number after it was nudged and relaxed freely (spglib, 0.1 A)",
    "broken_by_ang": "how far the crystal that was nudged and relaxed freely is from having the kept group, A",
    "is_symmetric_minimum": "whether it is a minimum of the kept group; false: a saddle point of it; null: not known",
    "is_released": "whether this crystal is the one that was nudged and relaxed freely, because that is lower",
    "same_crystal": "whether the crystal that the judge relaxed is still the relaxed one",
    "opinion_change_ev_per_atom": "energy above hull by the judge minus that by the first potential, eV/atom",
    "opinions_agree": "false: judge and first potential differ by more than their errors; null: errors not known",
    "probability_source": "what the probability of the judge was measured on, one sentence; or null",
    "judge_relax_status": "how the judge's relaxation ended: converged | step cap | isolated | exploded | failed",
    "other_energies": "what those ids state: list of id, method, energies; or null",
}
"""Descriptions of columns whose own refers to the column before, or to the form in which the table holds them."""

JSON_COLUMNS = {"condition": "dictionary", "other_energies": "list"}
"""Columns of JSON text that are given as what they hold, so that filters reach into them."""


def _type_of(column: pa.Field) -> str:
    if column.name in JSON_COLUMNS:
        return JSON_COLUMNS[column.name]
    checks = (
        (pa.types.is_string, "string"),
        (pa.types.is_integer, "integer"),
        (pa.types.is_floating, "float"),
        (pa.types.is_boolean, "boolean"),
        (pa.types.is_list, "list"),
    )
    return next(name for holds, name in checks if holds(column.type))


def _fields(columns: Iterable[pa.Field], units: dict[str, tuple[str, str | None]]) -> tuple[Field, ...]:
    by_name = {column.name: column for column in columns}
    return tuple(
        Field(
            f"_{PREFIX}_{name}",
            column,
            _type_of(by_name[column]),
            unit,
            _ALONE.get(column) or by_name[column].metadata[b"about"].decode(),
        )
        for column, (name, unit) in units.items()
    )


def _said(name: str, kind: str, description: str) -> Field:
    return Field(f"_{PREFIX}_{name}", None, kind, None, description)


STRUCTURE_KIND = _said("structure_kind", "string", "which crystal the structure is: relaxed | generated")
RUN = _said("run", "string", "name of the run that generated the candidate")
SEED = _said("seed", "integer", "seed of the run; with condition, index and checkpoint it names the draw")
CHECKPOINT = _said("checkpoint_sha256", "string", "digest of the generator's checkpoint")
KNOWN = _said("known_crystals_sha256", "string", "fingerprint of the known crystals that novelty and hull refer to")
CODE = _said("code_sha256", "string", "digest of the source code that made the run")
DATASET = _said("dataset_sha256", "string", "fingerprint of the dataset that holds the crystal")

CANDIDATE_FIELDS = (*_fields(CANDIDATES, _CANDIDATE_UNITS), STRUCTURE_KIND, RUN, SEED, CHECKPOINT, KNOWN, CODE)
KEPT_FIELDS = _fields(KEPT, _KEPT_UNITS)
"""Only of a run that kept space groups while it relaxed: its table has their columns."""
JUDGED_FIELDS = _fields(JUDGED, _JUDGED_UNITS)
"""Only of a run with a judge."""
DATASET_FIELDS = (*_fields(DATASET_SCHEMA, _DATASET_UNITS), DATASET)
