"""What `hullward ingest` would do: sources and folder; of databases, what they would be asked."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from configs.ingest import IngestConfig
from configs.paths import AssetError, resolve
from generative.datasets.config import NetworkSource
from storage.wording import amount
from tasks.ingest.stages import plan_sources
from tasks.plans.potentials import absent, planned_potential
from tasks.plans.rates import rates
from tasks.plans.record import Plan, Stage, Written

if TYPE_CHECKING:
    from generative.datasets.databases.harvest import SourcePlan


def plan_ingest(config: IngestConfig) -> Plan:
    """What an ingest would do. Databases are asked how many records match, and for nothing else."""
    asked = plan_sources(config)
    others = [one for one in config.data.sources if not isinstance(one, NetworkSource)]
    needs = any(one.NEEDS_SCORER for one in others)
    potentials = (planned_potential("scoring", config.relax),) if needs else ()
    troubles = [one.trouble for one in asked if one.trouble]
    listed = []
    for one in others:
        files = 0
        try:
            files = sum(len(found) for found in one.inputs(resolve).values())
            if one.kind == "files" and not files:
                troubles.append(f"{one.model_dump()['path']}: no such file or folder")
        except AssetError as error:
            troubles.append(str(error))
        path = one.model_dump().get("path")
        listed.append((one.kind, f"{path}, {amount(files, 'file')}" if path else "made up and relaxed here"))
    measured = rates()
    return Plan(
        command="ingest",
        name=config.name,
        facts=(
            *((one.name, _asked_text(one)) for one in asked),
            *listed,
            ("system", "-".join(config.elements) if config.elements else "all"),
        ),
        potentials=potentials,
        stages=(Stage("read", f"{len(config.data.sources)} sources", None),),
        rates=measured.told if needs else "",
        memory_mb=None,
        writes=(
            Written.at(config.folder / "dataset.parquet", "the crystals"),
            Written.at(config.folder / "rejected.parquet", "records that are none, with the reason"),
            Written.at(config.folder / "report.html", "the dataset's page"),
            *([Written.at(config.downloads, "what databases send, shared by all")] if asked else []),
        ),
        warnings=(*troubles, *absent(potentials)),
        details={"folder": str(config.folder), "sources": [asdict(one) for one in asked]},
    )


def _asked_text(one: SourcePlan) -> str:
    n = "number of records not stated" if one.expected is None else f"{one.expected:,} records"
    here = f"{one.stored:,} here, {'complete' if one.complete else 'not complete'}"
    return f"{n}; {here}\nrelease {one.version or 'not stated'}, {one.endpoint}\n{one.query}"
