"""A campaign as tasks around plain functions."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from prefect import task
from prefect.logging import get_run_logger

from configs.campaign import CampaignConfig, elements_of_system
from generative.datasets.config import FilesSource
from tasks.campaign.finds import finds_file, no_finds, with_new_finds
from tasks.campaign.folder import record_shares
from tasks.campaign.learning import Learned, after_learning, learners
from tasks.campaign.results import Results, all_candidates, results_of, write_results
from tasks.campaign.standing import Standing
from tasks.campaign.system_rounds import (
    KnownSystem,
    ReadySystem,
    SystemRound,
    all_references,
    dataset_folders,
    known_system,
    ready_systems,
    work,
)
from tasks.campaign.systems import systems_of
from tasks.files import FileRef
from tasks.loading import PotentialIdentity, identify


def formulas_known(config: CampaignConfig) -> pa.Table:
    """Formula and chemical system of every crystal of the files that the campaign names."""
    from tasks.rediscovery.targets import dataset_of

    columns = ["chemsys", "formula"]
    fields = [pa.field(name, pa.string()) for name in columns]
    files = [source for source in config.data.sources if isinstance(source, FilesSource)]
    tables = [dataset_of(one, config.data.workers, config.folder.parent).select(columns) for one in files]
    return pa.concat_tables([pa.schema(fields).empty_table(), *(t.cast(pa.schema(fields)) for t in tables)])


@task(name="potential")
def potential_task(config: CampaignConfig) -> PotentialIdentity:
    """Load and check the potential, and say which one it is."""
    identity = identify(config.relax, config.execution)
    get_run_logger().info("energies by %s", identity.method)
    return identity


@task(name="systems")
def systems_task(config: CampaignConfig) -> list[str]:
    """Read the files of known crystals, once, and choose the chemical systems; see systems_of."""
    if able := {entry.label for entry in learners(config)}:
        others = [entry.label for entry in config.proposers if entry.label not in able]
        if others:
            get_run_logger().warning("%s cannot learn from finds, and will stay as they are", ", ".join(others))
    dataset_folders(config)
    names = ["-".join(system) for system in systems_of(config, formulas_known(config))]
    get_run_logger().info("%d chemical systems: %s%s", len(names), ", ".join(names[:20]), ", ..." * (len(names) > 20))
    return names


@task(name="system", task_run_name="system-{name}")
def system_task(name: str, config: CampaignConfig, identity: PotentialIdentity) -> KnownSystem:
    """What is known of a system; see known_system."""
    system = known_system(config, elements_of_system(name), identity)
    n, n_references = len(system.known.read_columns("id")), len(system.references.read_columns("id"))
    get_run_logger().info("%s: %d known crystals, %d competing phases", system.name, n, n_references)
    return system


@task(name="references")
def references_task(config: CampaignConfig, systems: list[KnownSystem]) -> FileRef:
    """The competing phases of all systems, each once; see all_references."""
    ref = all_references(systems, config.folder)
    get_run_logger().info("%d competing phases of all systems together", len(ref.read_columns("id")))
    return ref


@task(name="ready")
def ready_task(systems: list[KnownSystem], relaxed: list[FileRef]) -> list[ReadySystem]:
    """Every system with its relaxed competing phases; see ready_systems."""
    return ready_systems(systems, relaxed)


@task(name="round", task_run_name="round-{number}-{system.name}", retries=1, retry_delay_seconds=5)
def round_task(
    system: ReadySystem,
    shares: dict[str, int],
    config: CampaignConfig,
    earlier: list[SystemRound],
    number: int,
    finds: FileRef,
    identity: PotentialIdentity,
    learned: Sequence[Learned],
) -> SystemRound:
    """One round in a system; see work."""
    done = work(config, system, earlier, shares, number, finds, identity, learned)
    said = ", ".join(f"{name} {n} of {looked} looked at" for name, (looked, n) in done.counts.items())
    get_run_logger().info("round %d, %s: relaxed %s", number, system.name, said or "nothing")
    return done


@task(name="finds")
def finds_task(config: CampaignConfig, before: FileRef | None, done: Sequence[SystemRound], number: int) -> FileRef:
    """The finds with those of a round; without rounds none."""
    table = no_finds() if before is None else before.read()
    finds = with_new_finds(table, done, config)
    path = config.folder / "rounds" / f"{number:05d}-finds.parquet"
    ref = finds_file(finds, path, [one.ranked.sha256 for one in done])
    if before is not None:
        new = finds.slice(len(table)).select(["formula", "system"]).to_pylist()
        named = ", ".join(f"{row['formula']} in {row['system']}" for row in new[:10])
        get_run_logger().info("round %d: %d new crystals near the hull%s", number, len(new), f": {named}" * bool(new))
    return ref


@task(name="learning")
def learning_task(
    config: CampaignConfig, before: Sequence[Learned], finds: FileRef, number: int
) -> tuple[Learned, ...]:
    """What proposers have become when a round begins; see after_learning."""
    learned = after_learning(config, before, finds, number)
    for one in learned[len(before) :]:
        more = f", {len(one.left_out)} left out ({next(iter(one.left_out.values()))})" if one.left_out else ""
        get_run_logger().info("%s has learned from %d finds: %s%s", one.proposer, one.n_finds, one.checkpoint, more)
    return learned


@task(name="report")
def report_task(standing: Standing, identity: PotentialIdentity, *, is_end: bool) -> Results:
    """Write and publish how the campaign stands; see write_results."""
    if is_end:
        all_candidates(standing)
        record_shares(standing.config, [{one.system: one.shares for one in done} for done in standing.rounds])
    results = results_of(standing, formulas_known(standing.config), identity)
    page = write_results(results, standing)
    get_run_logger().info(
        "%d of %d relaxations, %d finds: %s", results.relaxations, results.budget, len(results.finds), page
    )
    return results
