"""What a judge says of chosen crystals, chunk by chunk: a few steps with a better and slower potential.

It begins at the crystals that `relax` left. What it says of a crystal is kept by the crystal's digest, so that runs
beside each other share their competing phases.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from prefect import task
from prefect.logging import get_run_logger

from configs.schema import DiscoverConfig
from generative.crystal.crystals import crystals_of
from tasks.discover.candidates import RELAXED, joined
from tasks.discover.relax import chunk_rows, relax_chunks, relax_table
from tasks.discover.run import RunFolder, update_manifest
from tasks.files import FileRef, key_of, keyed
from tasks.loading import PotentialIdentity, identify, potential_code
from tasks.source_code import Entry


@dataclass(frozen=True)
class Opinion:
    """What is asked of one potential at once.

    Attributes:
        judge: its place: 0 is the judge, then comes the committee.
        identity: which potential it is.
        chunk: number of the chunk of crystals.
    """

    judge: int
    identity: PotentialIdentity
    chunk: int


def judge_names(config: DiscoverConfig) -> list[str]:
    """The judge and the committee, as the settings name them; none without a judge."""
    return [] if config.judge.potential is None else [config.judge.potential, *config.judge.committee]


def opinions_wanted(config: DiscoverConfig, judges: list[PotentialIdentity], chosen: FileRef) -> list[Opinion]:
    """Every chunk of the chosen crystals by the judge, then by each of the committee."""
    chunks = relax_chunks(chosen, config.relaxed_by(config.judge.potential))
    return [Opinion(number, identity, chunk) for number, identity in enumerate(judges) for chunk in chunks]


def judge_chunk_file(
    config: DiscoverConfig,
    folder: Path,
    opinion: Opinion,
    chosen: FileRef,
    progress: Callable[[int, int], None] | None = None,
) -> FileRef:
    """Relax one chunk of the chosen crystals with a judge, but for those that a run beside this one has had relaxed.

    Args:
        config: of the run.
        folder: of the run.
        opinion: which potential, which chunk.
        chosen: the crystals, columns tasks.discover.judge_choice.CHOSEN.
        progress: called with (crystals done, crystals in all).

    Returns: Columns RELAXED; `generated_energy_ev_per_atom` is that of the crystal as `relax` left it.
    """
    by_judge = config.relaxed_by(judge_names(config)[opinion.judge])
    rows = chunk_rows(chosen, by_judge, opinion.chunk)
    names = rows.column("id").to_pylist()
    digests = [crystal.digest for crystal in crystals_of(rows) if crystal is not None]
    computed_by: tuple[Entry, ...] = (judge_chunk_file, *potential_code(by_judge.relax))
    how: dict[str, Any] = {"potential": opinion.identity.fingerprint, "relax": by_judge.relax.criteria()}
    key = key_of("judge", *computed_by, **how, crystals=[list(pair) for pair in zip(names, digests, strict=True)])

    def compute() -> pa.Table:
        from generative.kept_results import KeptResults

        recipe = key_of("judged crystal", *computed_by, **how)
        with KeptResults(RunFolder(folder).shared_opinions, "opinions", recipe) as kept:
            found = {d: json.loads(one.payload) for d, one in kept.read(digests).items() if one.payload is not None}
            if missing := [i for i, digest in enumerate(digests) if digest not in found]:
                done = relax_table(rows.take(pa.array(missing, pa.int64())), by_judge, progress)
                for i, row in zip(missing, joined([done], RELAXED).to_pylist(), strict=True):
                    found[digests[i]] = row
                    kept.write(digests[i], json.dumps(row).encode(), "")
        own = [{**found[digest], "id": name} for name, digest in zip(names, digests, strict=True)]
        return pa.Table.from_pylist(own, schema=pa.schema(RELAXED))

    return keyed(RunFolder(folder).chunk(f"judge/{opinion.judge}", opinion.chunk), key, compute)


@task(name="judge potential")
def identify_judges_task(config: DiscoverConfig, folder: Path) -> list[PotentialIdentity]:
    """Load and check the judge and the committee, before anything is computed; none without a judge."""
    from tasks.report.run.artifacts import Progress  # draws pictures too, so it loads on the worker

    with Progress(f"judges-{config.name}", "loading and checking the judge"):
        found = [identify(config.relaxed_by(name).relax, config.execution) for name in judge_names(config)]
    update_manifest(RunFolder(folder), judges=[identity.model_dump(mode="json") for identity in found])
    if found:
        get_run_logger().info("second opinions by %s", ", ".join(identity.method for identity in found))
    return found


@task(name="judge", task_run_name="judge-{opinion.chunk}", retries=1, retry_delay_seconds=5)
def judge_task(opinion: Opinion, config: DiscoverConfig, folder: Path, chosen: FileRef) -> FileRef:
    """Judge a chunk; see judge_chunk_file."""
    from tasks.report.run.artifacts import Progress  # draws pictures too, so it loads on the worker

    method = opinion.identity.method
    with Progress(f"judge-{config.name}-{opinion.judge}-{opinion.chunk}", f"{method}, chunk {opinion.chunk}") as said:
        ref = judge_chunk_file(config, folder, opinion, chosen, said.update)
    state = "; unchanged, skipped" if ref.reused else ""
    get_run_logger().info("%s, chunk %d: %d crystals%s", method, opinion.chunk, len(ref.read()), state)
    return ref
