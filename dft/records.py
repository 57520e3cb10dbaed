"""The result of one calculation, whatever engine made it: a frozen record that goes to JSON and back unchanged.

Two records may share a hull only if their `settings_digest` is the same and the `data` they have in common agree.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np
from pymatgen.core.structure import Structure

from dft.inputs.incar_tags import LEVEL_TAGS, changed, physics_tags
from dft.inputs.kpoints import KPointSampling, sampling_of_resolved
from dft.results import GPA_PER_EV_ANG3
from dft.structures import StructureError, read_structure
from storage.digests import json_digest

SCHEMA_VERSION = "1"

ENTHALPY_TOLERANCE_EV = 1e-6
"""Between the stated enthalpy and E + PV of the same record, per atom; rounding in files stays far below."""


class RecordError(ValueError):
    """A record that is damaged, contradicts itself, or was written by a later version."""


class MixedSettingsError(ValueError):
    """Records whose energies were not computed alike, and so cannot be compared."""


@dataclass(frozen=True, eq=False)
class DFTRecord:
    """What one calculation found. Energies are those of the whole cell.

    Attributes:
        key: of the job folder.
        engine: 'vasp', 'gpaw' or 'potential'.
        engine_version: the program's own words.
        settings: what was asked for and decides the numbers; the same for every crystal of a campaign.
        settings_digest: SHA-256 of the settings.
        candidate_id: whose crystal this is.
        purpose: 'relaxation', 'reference' or 'static'.
        structure: the final crystal; for 'static' the initial one.
        initial_structure: as handed in.
        energy_ev: energy of the final cell, extrapolated to zero smearing, without any PV term, eV.
        pressure_gpa: external pressure held, GPa.
        enthalpy_ev: energy plus external pressure times volume, eV.
        forces_ev_per_ang: on the atoms of the final crystal, (n, 3), eV/A.
        stress_gpa: (3, 3), GPa, positive under tension, so that a held pressure P shows as -P on the diagonal.
        n_ionic_steps: geometries computed, the first one included.
        n_electronic_steps: of all of them together; None for an engine without electrons.
        is_converged: whether forces and stress fell below the criterion of the settings.
        wall_time_s: of all attempts that contributed, seconds.
        warnings: what the reader should know, one sentence each.
        files: SHA-256 of the files the engine left, by name.
        corrections: what was changed on the way to get the calculation through, one sentence each.
        lineage: where the crystal came from; plain JSON.
        data: SHA-256 of what the engine computes with: the PAW data set or pseudopotential of each element by its
            symbol, or 'potential'.
        resolved: what the settings came to for this crystal: cut-off, k-point mesh, spin; plain JSON.
        initial_energy_ev: energy of the initial structure with the same settings, without PV, eV; None if not known.
        magmoms: magnetic moment of each atom, Bohr magnetons, (n,); None where the calculation had no spin.
        kpoints: how densely the zone of the final crystal was sampled; None for an engine without electrons, or where
            it is not known.
    """

    key: str
    engine: str
    engine_version: str
    settings: dict[str, Any]
    settings_digest: str
    candidate_id: str
    purpose: str
    structure: Structure
    initial_structure: Structure
    energy_ev: float
    pressure_gpa: float
    enthalpy_ev: float
    forces_ev_per_ang: np.ndarray
    stress_gpa: np.ndarray
    n_ionic_steps: int
    n_electronic_steps: int | None
    is_converged: bool
    wall_time_s: float
    warnings: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    corrections: tuple[str, ...] = ()
    lineage: dict[str, Any] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)
    initial_energy_ev: float | None = None
    magmoms: tuple[float, ...] | None = None
    kpoints: KPointSampling | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be true."""
        n_atoms = len(self.structure)
        if self.forces_ev_per_ang.shape != (n_atoms, 3) or self.stress_gpa.shape != (3, 3):
            raise RecordError(
                f"record {self.key}: forces have shape {self.forces_ev_per_ang.shape} and stress "
                f"{self.stress_gpa.shape} beside {n_atoms} atoms: expected ({n_atoms}, 3) and (3, 3)"
            )
        numbers = [self.energy_ev, self.enthalpy_ev, self.pressure_gpa, self.wall_time_s]
        numbers += [] if self.initial_energy_ev is None else [self.initial_energy_ev]
        if not (np.isfinite(numbers).all() and np.isfinite(self.forces_ev_per_ang).all()):
            raise RecordError(f"record {self.key}: energy, enthalpy or forces are not finite: expected numbers")
        if not np.isfinite(self.stress_gpa).all():
            raise RecordError(f"record {self.key}: the stress is not finite: expected numbers")
        expected_ev = enthalpy_ev(self.energy_ev, self.pressure_gpa, float(self.structure.volume))
        if not math.isclose(self.enthalpy_ev, expected_ev, rel_tol=0, abs_tol=ENTHALPY_TOLERANCE_EV * n_atoms):
            raise RecordError(
                f"record {self.key}: enthalpy {self.enthalpy_ev} eV is not energy plus PV, {expected_ev} eV: is one of "
                "them already the other?"
            )
        if self.settings_digest != json_digest(self.settings):
            raise RecordError(f"record {self.key}: settings_digest is not that of its settings: the record was changed")

    @property
    def energy_ev_per_atom(self) -> float:
        """Energy per atom, eV."""
        return self.energy_ev / len(self.structure)

    @property
    def enthalpy_ev_per_atom(self) -> float:
        """Enthalpy per atom, eV."""
        return self.enthalpy_ev / len(self.structure)

    @property
    def fmax_ev_per_ang(self) -> float:
        """Largest force on an atom, eV/A."""
        return float(np.linalg.norm(self.forces_ev_per_ang, axis=1).max())

    @property
    def method(self) -> str:
        """Label of the level of theory: records with different labels share no hull."""
        return f"{self.engine} {self.settings_digest[:12]}"

    def as_document(self) -> dict[str, Any]:
        """Plain JSON values, for files and job stores."""
        document: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, Structure):
                value = value.as_dict()
            elif isinstance(value, KPointSampling):
                value = value.as_document()
            elif isinstance(value, np.ndarray):
                value = value.tolist()
            document[one.name] = list(value) if isinstance(value, tuple) else value
        plain = json.loads(json.dumps(document, allow_nan=False))
        assert isinstance(plain, dict)
        return plain

    def to_json(self) -> str:
        """The record as JSON text."""
        return json.dumps(self.as_document(), indent=1, sort_keys=True)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """The record in plain JSON values; unknown keys are ignored, since stores add their own.

        Raises: RecordError: if a field is missing or wrong, or the document is of a later version.
        """
        if (found := document.get("schema_version")) != SCHEMA_VERSION:
            raise RecordError(
                f"schema_version is {found!r}: expected {SCHEMA_VERSION!r}; was it written by a later version?"
            )
        names = {one.name for one in fields(cls)}
        if missing := sorted(names - set(document) - {"kpoints"}):  # older records state k-points in `resolved` alone
            raise RecordError(f"the record lacks {', '.join(missing)}: is the file whole?")
        values: dict[str, Any] = {name: document.get(name) for name in names}
        try:
            for name in ("structure", "initial_structure"):
                values[name] = read_structure(values[name])
            for name in ("forces_ev_per_ang", "stress_gpa"):
                values[name] = np.array(values[name], dtype=float)
            for name in ("warnings", "corrections"):
                values[name] = tuple(str(sentence) for sentence in values[name])
            if values["magmoms"] is not None:
                values["magmoms"] = tuple(float(moment) for moment in values["magmoms"])
            values["kpoints"] = _kpoints(document, values["structure"])
            return cls(**values)
        except (KeyError, TypeError, AttributeError, IndexError, StructureError) as error:
            raise RecordError(
                f"the record cannot be read ({type(error).__name__}: {error}): is the file whole?"
            ) from error

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The record in JSON text.

        Raises: RecordError: if the text is no record.
        """
        try:
            document = json.loads(text)
        except ValueError as error:
            raise RecordError(f"the record is no JSON ({error}): is the file whole?") from error
        if not isinstance(document, dict):
            raise RecordError(f"the record is a {type(document).__name__}: expected a JSON object")
        return cls.from_document(document)


def _kpoints(document: dict[str, Any], final: Structure) -> KPointSampling | None:
    if "kpoints" not in document:
        return sampling_of_resolved(document["resolved"], final.lattice)
    stated = document["kpoints"]
    try:
        return None if stated is None else KPointSampling.from_document(stated)
    except ValueError as error:
        raise RecordError(f"the record's kpoints cannot be read ({error}): is the file whole?") from error


def enthalpy_ev(energy_ev: float, pressure_gpa: float, volume_ang3: float) -> float:
    """E + PV of a cell, eV."""
    return energy_ev + pressure_gpa / GPA_PER_EV_ANG3 * volume_ang3


def differences(first: DFTRecord, second: DFTRecord) -> tuple[str, ...]:
    """What keeps the energies of two records from being compared, one phrase each; empty if nothing does."""
    found = [] if first.engine == second.engine else [f"engine: {first.engine} / {second.engine}"]
    for name in sorted(set(first.settings) | set(second.settings)):
        ours, theirs = first.settings.get(name, "absent"), second.settings.get(name, "absent")
        if ours != theirs:
            found.append(f"{name}: {ours} / {theirs}")
    if level_tags(first) and level_tags(second):
        levels = changed(level_tags(first), level_tags(second))
        found += [f"{tag} in INCAR: {ours} / {theirs}" for tag, (ours, theirs) in levels.items()]
    for name in sorted(set(first.data) & set(second.data)):
        if first.data[name] != second.data[name]:
            found.append(f"data of {name}: {first.data[name][:12]} / {second.data[name][:12]}")
    return tuple(found)


def level_tags(record: DFTRecord) -> dict[str, Any]:
    """Tags of the INCAR that VASP ran with that make its level of theory; empty for the other engines."""
    tags = physics_tags(record.resolved.get("incar") or {})
    return {tag: value for tag, value in tags.items() if tag in LEVEL_TAGS}


def check_comparable(records: Iterable[DFTRecord]) -> None:
    """Refuse records of several engines, settings or data.

    Raises: MixedSettingsError: with the two records, their digests, and what differs.
    """
    of_data: dict[str, DFTRecord] = {}
    first: DFTRecord | None = None
    for record in records:
        first = first or record
        partners = [first, *(of_data.setdefault(name, record) for name in record.data)]
        for partner in partners:
            if apart := differences(partner, record):
                raise MixedSettingsError(
                    f"records {partner.key} ({partner.method}) and {record.key} ({record.method}) were not computed "
                    f"alike ({'; '.join(apart)}): their energies share no hull and no difference; compute all of them "
                    "with the same settings"
                )
