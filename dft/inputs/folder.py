"""VASP inputs of one candidate in one folder: ready for VASP itself, or to hand to jobflow as a serialised Flow.

A folder holds INCAR, KPOINTS, POSCAR; POTCAR, or POTCAR.spec with the element symbols where pseudopotentials are not
configured; POTCAR.functional, the family that POTCAR.spec cannot name; flow.json; candidate.cif, the crystal as it
came; and lineage.json, from the folder back to where the candidate came from. The same input gives the same bytes.
"""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atomate2.vasp.files import write_vasp_input_set
from pymatgen.core.structure import Structure
from pymatgen.io.vasp.inputs import Kpoints, PmgVaspPspDirError, Potcar

from dft.config import InputsConfig, Preset
from dft.inputs.incar_tags import physics_tags, shown
from dft.inputs.presets import departures, incar_of, maker, potcar_functional
from dft.inputs.slabs import slab_settings
from dft.inputs.user_settings import UserSettingsError, check_incar_updates, check_potcar_family
from dft.inputs.vacuum import VACUUM_ANG, find_vacuum
from dft.inputs.written_settings import first_text, written_digest, written_incar
from dft.jobs import flow_json, relaxation_flow
from dft.structures import StructureError, grouped, plain_structure
from storage.atomic import replace_folder, restore_folder, staging
from storage.digests import file_digest

__all__ = ["InputsError", "WrittenInputs", "maker", "write_inputs"]

LINEAGE_SCHEMA_VERSION = "1"

INPUT_FILES = (
    "INCAR",
    "KPOINTS",
    "POSCAR",
    "POTCAR",
    "POTCAR.spec",
    "POTCAR.functional",
    "flow.json",
    "lineage.json",
    "candidate.cif",
)
"""Every name this module writes: a folder that holds others is somebody's work and is not replaced."""

_WARNINGS_LOCK = threading.Lock()  # Python's warning filters belong to the whole process


class InputsError(ValueError):
    """A candidate for which no VASP inputs can be written; the others are not concerned."""


@dataclass(frozen=True)
class WrittenInputs:
    """A folder of VASP inputs.

    Attributes:
        folder: where they are.
        files: SHA-256 of each file, by name, sorted.
        has_potcar: whether POTCAR is there; else POTCAR.spec is.
        flow_uuid: id of the flow in flow.json.
        notes: what the user should know, one sentence each.
    """

    folder: Path
    files: dict[str, str]
    has_potcar: bool
    flow_uuid: str
    notes: tuple[str, ...]


def write_inputs(
    structure: Structure,
    preset: Preset,
    folder: Path,
    lineage: Mapping[str, Any],
    name: str,
    config: InputsConfig,
) -> WrittenInputs:
    """Write the VASP inputs of one candidate, all of them or nothing.

    The folder appears by one rename. One that holds the same inputs already is left as it is, and so are the results
    beside them; one that holds other inputs is replaced, unless there is anything besides them.

    Args:
        structure: the crystal to relax; only its lattice, species, positions and a `magmom` per site are used. Equal
            elements are written together, each atom with what is known of it.
        preset: VASP settings.
        folder: the candidate's own folder; its parents are made.
        lineage: plain JSON values, from the candidate back to its dataset; lineage.json holds them.
        name: the candidate's id.
        config: pseudopotential family.

    Returns: What was written.

    Raises:
        InputsError: if the crystal is disordered, empty or not finite, or an element has no pseudopotential in the
            preset, or the pseudopotential family or the lineage is not usable, or the user's settings of atomate2 or
            pymatgen would change what the preset computes.
        FileExistsError: if the folder holds other inputs together with files that are not inputs.
        DiskFullError: if there is no room.
    """
    try:
        plain = grouped(plain_structure(structure, name))
    except StructureError as error:
        raise InputsError(str(error)) from error
    check_elements(plain, preset, config, name)
    origin = _plain_lineage(lineage, name)
    restore_folder(folder)
    with staging(folder) as partial:
        try:
            notes = (*_unused(structure), *_write_vasp_files(plain, preset, config, partial))
        except UserSettingsError as error:
            raise InputsError(str(error)) from error
        flow = relaxation_flow(plain, preset, config, name, origin)
        (partial / "flow.json").write_text(flow_json(flow) + "\n", encoding="utf-8")
        (partial / "candidate.cif").write_text(plain.to(fmt="cif"), encoding="utf-8")
        (partial / "lineage.json").write_text(
            _lineage_text(origin, name, preset, config, flow.uuid, partial, notes), encoding="utf-8"
        )
        files = _digests(partial)
        _put_in_place(partial, folder, files)
    return WrittenInputs(folder, files, "POTCAR" in files, flow.uuid, notes)


def check_elements(structure: Structure, preset: Preset, config: InputsConfig, name: str) -> None:
    """Refuse a crystal for which the preset names no pseudopotential, and a family that pymatgen does not know.

    Raises: InputsError: with the elements, or the families there are.
    """
    family = potcar_functional(preset, config)
    if family not in Potcar.FUNCTIONAL_CHOICES:
        raise InputsError(
            f"pseudopotential family {family!r} is unknown: expected one of "
            f"{', '.join(sorted(Potcar.FUNCTIONAL_CHOICES))} in inputs.potcar_functional"
        )
    known = maker(preset, config).input_set_generator.config_dict["POTCAR"]
    missing = sorted({element.symbol for element in structure.composition.element_composition} - set(known))
    if missing:
        raise InputsError(
            f"preset {preset.value} has no pseudopotential for {', '.join(missing)} in candidate {name} "
            f"({structure.composition.reduced_formula}): use another preset, or leave the element out of the campaign"
        )


def crystal_notes(
    structure: Structure, preset: Preset, config: InputsConfig, *, is_static: bool = False
) -> tuple[str, ...]:
    """What pymatgen warns of when it makes the preset's inputs of a crystal, and what is done about vacuum in its cell.

    Writes nothing. The crystal is one that `check_elements` has let through, equal elements together.
    """
    generator = maker(preset, config).input_set_generator
    with _WARNINGS_LOCK, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mesh = generator.get_input_set(structure, potcar_spec=True).kpoints
    return tuple(dict.fromkeys([*_said(caught), *([] if is_static else _vacuum_notes(structure, preset, mesh))]))


def _write_vasp_files(structure: Structure, preset: Preset, config: InputsConfig, folder: Path) -> tuple[str, ...]:
    """INCAR, KPOINTS, POSCAR, POTCAR or POTCAR.spec, POTCAR.functional; pymatgen's warnings and ours as notes."""
    family = potcar_functional(preset, config)
    notes: list[str] = []
    with _WARNINGS_LOCK, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        expected = incar_of(structure, preset, config, slab=slab_settings(structure, preset))
        notes += check_incar_updates(expected, preset.value)
        try:
            _write_set(structure, preset, config, folder, potcar_spec=False)
            check_potcar_family(Potcar.from_file(str(folder / "POTCAR")), family)
        except PmgVaspPspDirError:
            _write_set(structure, preset, config, folder, potcar_spec=True)
            notes.append("POTCAR.spec in place of POTCAR: PMG_VASP_PSP_DIR is not configured")
        except FileNotFoundError as error:
            _write_set(structure, preset, config, folder, potcar_spec=True)
            reason = str(error).split("\n")[0]
            notes.append(f"POTCAR.spec in place of POTCAR: pymatgen finds none under PMG_VASP_PSP_DIR ({reason})")
    (folder / "POTCAR.functional").write_text(f"{family}\n", encoding="utf-8")
    if apart := departures(preset, written_incar(folder), physics_tags(expected)):
        listed = ", ".join(f"{tag} = {shown(found)} (expected {shown(was)})" for tag, (was, found) in apart.items())
        raise InputsError(
            f"INCAR would have {listed}, which is not preset {preset.value}: expected the preset's tags and no others; "
            "the versions of atomate2 and pymatgen in requirements.lock write them"
        )
    mesh = Kpoints.from_str(first_text(folder, "KPOINTS") or "")
    return tuple(dict.fromkeys([*notes, *_said(caught), *_vacuum_notes(structure, preset, mesh)]))


def _said(caught: list[warnings.WarningMessage]) -> list[str]:
    """Warnings as sentences; not that noble gases have no electronegativity, on which nothing here depends."""
    said = [" ".join(str(warning.message).split()) for warning in caught if issubclass(warning.category, UserWarning)]
    return [sentence for sentence in said if not sentence.startswith("No Pauling electronegativity")]


def _vacuum_notes(structure: Structure, preset: Preset, mesh: Kpoints | None) -> list[str]:
    """That the cell of a slab is held, and where its mesh or an external pressure makes no sense."""
    slabs = find_vacuum(structure)
    if not slabs:
        return []
    widest = slabs[0]
    others = f" (and {len(slabs) - 1} more directions)" if len(slabs) > 1 else ""
    notes = [
        f"{widest.width_ang:.1f} A of vacuum {widest.where}{others}, more than {VACUUM_ANG:g} A: the cell is held "
        "(ISIF 2) and atoms alone are relaxed, since older versions of VASP cannot hold one axis; the lattice within "
        "the slab stays as it came"
    ]
    own = slab_settings(structure, preset)
    if own is not None and own.is_polar:
        notes.append(f"its faces differ: the dipole between its images is corrected (LDIPOL) {widest.where}")
    for axis in sorted({slab.axis for slab in slabs if slab.axis is not None}):
        if mesh is not None and len(mesh.kpts) == 1 and (divisions := int(mesh.kpts[0][axis])) > 1:
            notes.append(
                f"KPOINTS has {divisions} divisions along {'abc'[axis]}, across vacuum, where 1 is enough: the mesh is "
                f"that of preset {preset.value}"
            )
    if preset is Preset.DP_CDVAE_10GPA:
        notes.append("PSTRESS acts on the vacuum too: E + PV of a slab is no enthalpy of a crystal")
    return notes


def _unused(structure: Structure) -> list[str]:
    """What a crystal states that VASP could use and that is left out."""
    stated = structure.site_properties.get("selective_dynamics")
    is_fixed = any(not all(free) for free in stated or () if free is not None)
    return ["selective dynamics of the crystal are left out: all atoms are relaxed"] if is_fixed else []


def _write_set(structure: Structure, preset: Preset, config: InputsConfig, folder: Path, potcar_spec: bool) -> None:
    write_vasp_input_set(
        structure,
        maker(preset, config, slab=slab_settings(structure, preset)).input_set_generator,
        directory=folder,
        potcar_spec=potcar_spec,
        clean_prev=False,  # atomate2 would clean the current directory, not `directory`
    )


def _plain_lineage(lineage: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The lineage as JSON gives it back, keys sorted."""
    if taken := sorted({"schema_version", "inputs"} & set(lineage)):
        raise InputsError(
            f"lineage of candidate {name} has a key {taken[0]!r}, which lineage.json uses itself: give it another name"
        )
    try:
        plain = json.loads(json.dumps(dict(lineage), sort_keys=True, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputsError(
            f"lineage of candidate {name} is not plain JSON ({error}): expected finite numbers, text, lists and dicts"
        ) from error
    assert isinstance(plain, dict)
    return plain


def _lineage_text(
    lineage: dict[str, Any],
    name: str,
    preset: Preset,
    config: InputsConfig,
    flow_uuid: str,
    folder: Path,
    notes: tuple[str, ...],
) -> str:
    document = {
        **lineage,
        "schema_version": LINEAGE_SCHEMA_VERSION,
        "inputs": {
            "candidate_id": name,
            "preset": preset.value,
            "potcar_functional": potcar_functional(preset, config),
            "flow_uuid": flow_uuid,
            "notes": list(notes),
            "settings_sha256": written_digest(folder),
            "sha256": _digests(folder),
        },
    }
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: file_digest(path) for path in sorted(folder.iterdir()) if path.name in INPUT_FILES}


def _put_in_place(partial: Path, folder: Path, files: dict[str, str]) -> None:
    """Rename the finished folder to its name; what is already there is kept, replaced, or in the way."""
    if not folder.exists():
        os.replace(partial, folder)
        return
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in INPUT_FILES)
    there = _digests(folder)
    # lineage.json holds the digests of all others, which atomate2 compresses once it has run.
    if there == files or (foreign and there.get("lineage.json") == files["lineage.json"]):
        return
    if foreign:
        raise FileExistsError(
            f"{folder} holds other inputs and {len(foreign)} more file(s) such as {foreign[0]}: expected a folder with "
            "inputs alone; move it away to keep its calculation, then run again"
        )
    replace_folder(partial, folder)
