"""jobflow flows of a candidate's DFT, and the documents about them in the job store.

Flows hold atomate2's own jobs only, so a cluster needs atomate2 and VASP to run them, and nothing of this program.
Names marked as storage names are written into job stores and flow files: to move one is to orphan what is stored.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atomate2.vasp.flows.mp import MPGGADoubleRelaxMaker
from jobflow.core.flow import Flow
from jobflow.core.store import JobStore
from monty.json import MontyDecoder, MontyEncoder
from pymatgen.core.structure import Structure

from dft.config import InputsConfig, Preset
from dft.inputs.presets import maker
from dft.inputs.slabs import slab_settings
from dft.stored_classes import check_classes, nowhere
from dft.structures import grouped
from storage.digests import text_digest

FLOW_NAMESPACE = uuid.UUID("5b0f0b0e-6a55-5f5e-9d0a-2d9c1f0f7a11")  # storage name: never move
"""Under which the ids of flows and jobs are derived from what they hold."""

INPUTS_RECORD = "vasp inputs"  # storage name: never move
"""`name` of the documents made by record_inputs."""

_MP_COPIED_FILES = {"additional_vasp_files": ("CHGCAR",)}
"""What goes from the first relaxation into the second. atomate2's own MPGGADoubleRelaxMaker asks for WAVECAR too, which
pymatgen's MPRelaxSet has VASP not write (LWAVE False): the second relaxation would fail for want of it."""


def relaxation_flow(
    structure: Structure,
    preset: Preset,
    config: InputsConfig,
    candidate_id: str,
    lineage: Mapping[str, Any] | None = None,
    *,
    is_static: bool = False,
) -> Flow:
    """The relaxation of one candidate as a jobflow Flow, the same to the last byte for the same input.

    jobflow draws ids at random; here they follow from the flow's content, so that a rerun makes the same flow and a
    store holds its jobs once.

    Equal elements stand together in the jobs' crystal, whatever their order in `structure`. The cell of a slab is held,
    since its vacuum must stay (dft/inputs/slabs.py).

    Args:
        structure: the crystal to relax; ordered.
        preset: VASP settings. mp-relax relaxes twice in a row, as the Materials Project does; the others once.
        config: pseudopotential family.
        candidate_id: goes to the metadata of every job, with the preset.
        lineage: goes there too; plain JSON values.
        is_static: one run that moves nothing, in place of the relaxation.

    Returns: The flow; its output is the task document of the last relaxation.

    Raises: dft.stored_classes.ForeignClassError: if the lineage names a class.
    """
    # monty decodes it with the flow
    check_classes(dict(lineage or {}), f"lineage of candidate {candidate_id}", nowhere)
    name = f"{candidate_id} {preset.value}{' static' if is_static else ''}"
    structure = grouped(structure)
    slab = slab_settings(structure, preset, is_static=is_static)
    first: Any = maker(preset, config, is_static=is_static, slab=slab)
    if preset is Preset.MP_RELAX and not is_static:
        second: Any = maker(preset, config, slab=slab)
        second.copy_vasp_kwargs = _MP_COPIED_FILES
        flow = MPGGADoubleRelaxMaker(name, relax_maker1=first, relax_maker2=second).make(structure)
    else:
        job = first.make(structure)
        flow = Flow([job], output=job.output, name=name)
    metadata = {"candidate_id": candidate_id, "preset": preset.value, "lineage": dict(lineage or {})}
    flow.update_metadata(json.loads(json.dumps(metadata, sort_keys=True, allow_nan=False)))
    return _with_derived_ids(flow)


def flow_json(flow: Flow) -> str:
    """The flow as JSON text, which monty's MontyDecoder turns back into a Flow."""
    return json.dumps(flow, cls=MontyEncoder, indent=1)


def record_inputs(
    store: JobStore,
    *,
    candidate_id: str,
    preset: Preset,
    folder: Path,
    files: Mapping[str, str],
    lineage: Mapping[str, Any],
    structure: Structure,
    flow_uuid: str,
    notes: tuple[str, ...] = (),
) -> str:
    """Put one document about a candidate's written inputs into the store; a second call replaces the first.

    Args:
        store: connected.
        candidate_id: of the candidate.
        preset: VASP settings of the inputs.
        folder: where the inputs are.
        files: SHA-256 of each file, by name.
        lineage: from the candidate back to its dataset.
        structure: the crystal in the inputs.
        flow_uuid: id of the flow beside them.
        notes: remarks on the inputs.

    Returns: The document's uuid; `store.get_output` gives its content back.
    """
    document_uuid = str(uuid.uuid5(FLOW_NAMESPACE, f"{INPUTS_RECORD}/{candidate_id}/{preset.value}"))
    document = {
        "uuid": document_uuid,
        "index": 1,
        "name": INPUTS_RECORD,
        "metadata": {"candidate_id": candidate_id, "preset": preset.value},
        "hosts": [],
        "output": {
            "candidate_id": candidate_id,
            "preset": preset.value,
            "folder": str(folder),
            "files": dict(files),
            "lineage": dict(lineage),
            "structure": structure.as_dict(),
            "flow_uuid": flow_uuid,
            "notes": list(notes),
        },
    }
    store.update(document, key=["uuid", "index"])
    return document_uuid


def _with_derived_ids(flow: Flow) -> Flow:
    """The same flow with each random id replaced by one derived from the flow's content and the id's place in it."""
    text = json.dumps(flow, cls=MontyEncoder)
    ids = [flow.uuid, *flow.all_uuids]
    for index, random_id in enumerate(ids):
        text = text.replace(random_id, f"<id {index}>")
    digest = text_digest(text)
    for index in range(len(ids)):
        text = text.replace(f"<id {index}>", str(uuid.uuid5(FLOW_NAMESPACE, f"{digest}/{index}")))
    derived = MontyDecoder().decode(text)
    assert isinstance(derived, Flow)
    return derived
