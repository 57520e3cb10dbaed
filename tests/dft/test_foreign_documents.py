"""Stored documents from elsewhere are data: a class that one names is refused by name, and never imported."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monty.json import MontyDecoder
from pymatgen.core.structure import Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry

from dft.campaign.campaign import CampaignError
from dft.campaign.campaign import Job as CampaignJob
from dft.config import InputsConfig, Preset
from dft.engines.config import PotentialEngineConfig
from dft.hull.reference_entries import EntriesError, read_entries
from dft.job_folder import JobFolderError, make_job_folder, read_job
from dft.jobs import relaxation_flow
from dft.records import DFTRecord, RecordError
from dft.stored_classes import ForeignClassError
from storage.documents import read_document, write_document
from tests.dft.made_records import record, rock_salt
from tests.dft.vasp_machine import Machine, error_of
from tests.foreign_payloads import Trap, places, with_value
from tests.fuzzing import Fuzz


def salt() -> Structure:
    crystal = rock_salt("Na", "Cl", 5.6)
    crystal.add_site_property("magmom", [0.0, 0.5])
    crystal.add_site_property("selective_dynamics", [[True, True, False]] * 2)
    return crystal


def in_a_crystal(document: dict[str, Any], rng: np.random.Generator, payload: dict[str, Any]) -> dict[str, Any]:
    """The dictionary of a crystal with the payload in a property of a site, which pymatgen decodes."""
    spoilt = copy.deepcopy(document)
    site = spoilt["sites"][int(rng.integers(len(spoilt["sites"])))]
    nested: Any = payload
    for _ in range(int(rng.integers(4))):
        nested = {"deeper": nested} if rng.random() < 0.5 else [1.0, nested]
    site["properties"][str(rng.choice(["magmom", "charge", "x"]))] = nested
    return spoilt


Reader = Callable[[np.random.Generator, dict[str, Any], Path], object]


def of_a_record(rng: np.random.Generator, payload: dict[str, Any], place: Path) -> object:
    document = record(salt(), -3.0).as_document()
    name = str(rng.choice(["structure", "initial_structure"]))
    return DFTRecord.from_json(json.dumps({**document, name: in_a_crystal(document[name], rng, payload)}))


def of_a_job(rng: np.random.Generator, payload: dict[str, Any], place: Path) -> object:
    folder = make_job_folder(place, salt(), PotentialEngineConfig(potential="CHGNet"), candidate_id="c")
    document = read_document(folder / "job.json", "")
    if rng.random() < 0.5:
        document["structure"] = in_a_crystal(document["structure"], rng, payload)
    else:
        document["lineage"] = {"training": [{"data": payload}]}
    write_document(folder / "job.json", document)  # with a checksum that fits: who changes a file on purpose has one
    try:
        return read_job(folder)
    finally:
        (folder / "job.json").unlink()


def of_a_campaign(rng: np.random.Generator, payload: dict[str, Any], place: Path) -> object:
    generated = in_a_crystal(json.loads(json.dumps(salt().as_dict())), rng, payload)
    return CampaignJob("k", "c", "relaxation", "NaCl", generated).generated_structure


def of_an_entry(rng: np.random.Generator, payload: dict[str, Any], place: Path) -> object:
    entry = ComputedStructureEntry(salt(), -6.0, parameters={"run_type": "GGA", "hubbards": {}}, data={"a": [1]})
    document = json.loads(json.dumps(entry.as_dict()))
    part = str(rng.choice(["structure", "parameters", "data"]))
    if part == "structure":
        document[part] = in_a_crystal(document[part], rng, payload)
    else:
        at = places(document[part])
        document[part] = with_value(document[part], at[int(rng.integers(len(at)))], payload)
    file = place / "entries.json"
    file.write_text(json.dumps([document]))
    return read_entries([file])


def of_a_flow(rng: np.random.Generator, payload: dict[str, Any], place: Path) -> object:
    config = InputsConfig.model_validate({"preset": Preset.CONDITIONAL_GENERATION})
    return relaxation_flow(salt(), Preset.CONDITIONAL_GENERATION, config, "c", {"a": [{"b": payload}]})


READERS: dict[str, tuple[Reader, type[Exception]]] = {
    "record": (of_a_record, RecordError),
    "job": (of_a_job, JobFolderError),
    "campaign": (of_a_campaign, CampaignError),
    "entry": (of_an_entry, EntriesError),
    "flow": (of_a_flow, ForeignClassError),
}


@pytest.mark.fuzz
def test_no_class_that_a_stored_document_names_is_built(fuzz: Fuzz, trap: Trap, tmp_path: Path) -> None:
    for rng in fuzz.cases(60):
        trap.reset()
        name = str(rng.choice(list(READERS)))
        reader, refusal = READERS[name]
        payload = trap.named(rng)
        try:
            reader(rng, payload, tmp_path)
            said = "read"
        except refusal as error:
            said = str(error)
        except Exception as error:
            said = f"{type(error).__name__} {error}"
        if trap.has_sprung or f" {payload['@module']}." not in said or "nothing of it was run" not in said:
            fuzz.failed(f"{name}, {payload}: {said}")
        else:
            fuzz.ended("refused by name")


def test_the_payloads_run_where_monty_decodes_them(trap: Trap, tmp_path: Path) -> None:
    """Else the test above could not fail."""
    rng = np.random.default_rng(0)
    payload = {"@module": trap.module(rng), "@class": "Trap"}
    Structure.from_dict(in_a_crystal(json.loads(json.dumps(salt().as_dict())), rng, payload))
    assert trap.has_sprung
    trap.reset()
    MontyDecoder().decode(json.dumps({"lineage": {"@module": trap.module(rng), "@class": "Trap"}}))
    assert trap.has_sprung


def test_a_crystal_keeps_the_moments_and_arrays_that_monty_stores() -> None:
    from pymatgen.electronic_structure.core import Magmom

    crystal = rock_salt("Fe", "O", 4.3)
    crystal.add_site_property("magmom", [Magmom([0, 0, 2.0]), Magmom([0, 0, -2.0])])
    made = record(rock_salt("Fe", "O", 4.3), -3.0)
    document = {**made.as_document(), "structure": json.loads(crystal.to_json())}
    read = DFTRecord.from_json(json.dumps(document))
    assert read.structure.site_properties["magmom"] == crystal.site_properties["magmom"]


def test_what_an_earlier_vasp_job_left_is_not_decoded_blindly(trap: Trap, tmp_path: Path) -> None:
    rng, place = np.random.default_rng(3), tmp_path / "machine"
    place.mkdir()
    machine = Machine(place)
    folder = machine.folder(Preset.MP_RELAX)
    assert machine.run(folder) == 0
    (folder / "record.json").unlink()
    (folder / "vasp" / "1.document.json").unlink()
    document = folder / "vasp" / "0.document.json"
    genuine = json.loads(document.read_text())
    genuine["documents"][0]["output"]["dir_name"] = {"@module": trap.module(rng), "@class": "Trap"}
    document.write_text(json.dumps(genuine))
    assert machine.run(folder) == 1
    error = error_of(folder)
    assert error["kind"] == "invalid job"
    assert f"0.document.json names the class {trap.modules[0]}.Trap at documents.0.output.dir_name" in error["reason"]
    flow = json.loads((folder / "flow.json").read_text())
    flow["jobs"][0]["function"] = {"@module": trap.module(rng), "@callable": "Trap"}
    (folder / "flow.json").write_text(json.dumps(flow))
    assert machine.run(folder) == 1
    assert error_of(folder)["kind"] == "settings refused"
    assert not trap.has_sprung
