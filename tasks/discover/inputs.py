"""VASP inputs of the best candidates, with the lineage from each folder back to the dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefect import task
from prefect.logging import get_run_logger
from pydantic import BaseModel, ConfigDict

from configs.schema import DiscoverConfig
from generative.crystal.crystals import crystals_of
from tasks.discover.input_notes import shared_notes
from tasks.discover.run import RunFolder, read_manifest
from tasks.discover.sample import drawn_by
from tasks.files import FileRef
from tasks.loading import PotentialIdentity


class InputsOutcome(BaseModel):
    """What became of one candidate's inputs.

    Attributes:
        candidate_id: of the candidate.
        folder: where they are, relative to the run folder; None if they could not be written.
        reason: one sentence if not.
        notes: what the user should know of them, one sentence each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidate_id: str
    folder: str | None
    reason: str = ""
    notes: tuple[str, ...] = ()


def lineage_of(
    row: dict[str, Any], config: DiscoverConfig, run: RunFolder, identity: PotentialIdentity
) -> dict[str, Any]:
    """From a candidate back to what proposed it, known crystals, code and packages.

    A generated candidate: condition and seed, checkpoint, training data; a prototype: its structure type.
    """
    manifest = read_manifest(run)
    return {
        "candidate_id": row["id"],
        "run": config.name,
        "rank": row["rank"],
        "proposed_by": row["proposed_by"],
        **({"prototype": row["prototype_match"]} if row["condition"] is None else _draw(row, config)),
        "known_crystals": {
            "fingerprint_sha256": manifest["dataset"]["fingerprint_sha256"],
            "sources": manifest["dataset"]["sources"],
        },
        "relaxation": {
            "potential": identity.method,
            "fingerprint_sha256": identity.fingerprint,
            "settings": config.relax.model_dump(mode="json"),
        },
        "energies": {
            "e_above_hull_ev_per_atom": row["e_above_hull_ev_per_atom"],
            "formation_energy_ev_per_atom": row["formation_energy_ev_per_atom"],
            "level_of_theory": row["energy_method"],
            **_second_opinion(row),
        },
        "code_sha256": manifest["code_sha256"],
        "packages": manifest["packages"],
    }


def _second_opinion(row: dict[str, Any]) -> dict[str, Any]:
    if row.get("judge_method") is None:
        return {}
    names = ("judge_method", "judge_e_above_hull_ev_per_atom", "near_hull_probability", "probability_source")
    return {"second_opinion": {name: row[name] for name in names}}


def _draw(row: dict[str, Any], config: DiscoverConfig) -> dict[str, Any]:
    from generative.checkpoints import about, digest

    generator, place = drawn_by(config.sample, row["proposed_by"], row["index"])
    checkpoint = generator.settings.checkpoint
    return {
        "condition": json.loads(row["condition"]),
        "seed": config.seed,
        "index": row["index"],
        **({"place_in_plan": place} if config.sample.generators else {}),
        "sampler": generator.told_as.model_dump(mode="json"),
        "checkpoint": {"name": generator.told_as.checkpoint, "sha256": digest(checkpoint)},
        "training": about(checkpoint)["training"],
    }


def write_best(
    config: DiscoverConfig, folder: Path, identity: PotentialIdentity, candidates: FileRef
) -> list[InputsOutcome]:
    """Inputs of the `top_n` best candidates; one that cannot be written is recorded and costs the others nothing."""
    from dft.inputs.folder import InputsError, write_inputs
    from dft.jobs import record_inputs
    from dft.stores import open_job_store

    run, settings = RunFolder(folder), config.inputs
    table = candidates.read().slice(0, settings.top_n)
    outcomes: list[InputsOutcome] = []
    with open_job_store(config.store, folder) as store:
        for row, crystal in zip(table.to_pylist(), crystals_of(table, "relaxed_"), strict=True):
            if row["rank"] is None or crystal is None:
                break
            structure, name = crystal.to_structure(), row["id"]
            lineage = lineage_of(row, config, run, identity)
            target = folder / "dft" / name
            try:
                written = write_inputs(structure, settings.preset, target, lineage, name, settings)
            except (InputsError, FileExistsError) as error:
                outcomes.append(InputsOutcome(candidate_id=name, folder=None, reason=str(error)))
                continue
            record_inputs(
                store,
                candidate_id=name,
                preset=settings.preset,
                folder=target.relative_to(folder),
                files=written.files,
                lineage=lineage,
                structure=structure,
                flow_uuid=written.flow_uuid,
                notes=written.notes,
            )
            outcomes.append(InputsOutcome(candidate_id=name, folder=f"dft/{name}", notes=written.notes))
    return outcomes


@task(name="inputs")
def inputs_task(
    config: DiscoverConfig, folder: Path, identity: PotentialIdentity, candidates: FileRef
) -> list[InputsOutcome]:
    """Write inputs of the best candidates; see write_best."""
    from tasks.report.run.artifacts import Progress  # draws pictures too, so it loads on the worker

    with Progress(f"inputs-{config.name}", "writing VASP inputs"):
        outcomes = write_best(config, folder, identity, candidates)
    logger = get_run_logger()
    logger.info("VASP inputs (%s) of %d candidates", config.inputs.preset.value, sum(1 for o in outcomes if o.folder))
    for outcome in outcomes:
        if not outcome.folder:
            logger.warning("no inputs for %s: %s", outcome.candidate_id, outcome.reason)
    for note in shared_notes({outcome.candidate_id: outcome.notes for outcome in outcomes}):
        logger.warning(note)
    return outcomes
