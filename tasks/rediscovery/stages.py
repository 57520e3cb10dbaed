"""The benchmark of rediscovery as tasks around plain functions."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.logging import get_run_logger

from configs.rediscovery import ProposerEntry, RediscoveryConfig
from tasks.files import FileRef
from tasks.loading import PotentialIdentity, identify
from tasks.rediscovery.campaign import Campaign, HiddenSystem, hidden_system, run_campaign
from tasks.rediscovery.counting import CountedSystem, counted_files
from tasks.rediscovery.proposers import MadeProposer, make_proposer
from tasks.rediscovery.results import gathered, write_results
from tasks.rediscovery.targets import RediscoveryError, hidden_files, systems_of

__all__ = ["RediscoveryError", "campaign_task", "count_task", "hide_task", "potential_task", "proposer_task",
           "report_task", "system_task", "systems_of"]  # fmt: skip


@task(name="potential")
def potential_task(config: RediscoveryConfig) -> PotentialIdentity:
    """Load and check the potential, and say which one it is."""
    identity = identify(config.relax, config.execution)
    get_run_logger().info("energies by %s", identity.method)
    return identity


@task(name="hide")
def hide_task(config: RediscoveryConfig) -> tuple[FileRef, FileRef]:
    """Choose the hidden crystals, and take them out of what is known; see hidden_files."""
    targets, known = hidden_files(config)
    table = targets.read()
    n = len(systems_of(table))
    get_run_logger().info("%d hidden crystals in %d systems, %d known ones", len(table), n, len(known.read()))
    if n < config.n_systems:
        get_run_logger().warning("n_systems is %d, but only %d can be had", config.n_systems, n)
    return targets, known


@task(name="proposer", task_run_name="proposer-{entry.name}")
def proposer_task(config: RediscoveryConfig, entry: ProposerEntry, targets: FileRef) -> MadeProposer:
    """Make a proposer, unless it is there; see make_proposer."""
    made = make_proposer(config, entry, targets)
    spent = "" if made.seconds is None else f", made in {made.seconds:.0f} s"
    get_run_logger().info("%s: %s%s", entry.name, made.checkpoint, spent)
    return made


@task(name="system", task_run_name="system-{number}")
def system_task(
    number: int, config: RediscoveryConfig, targets: FileRef, known: FileRef, identity: PotentialIdentity
) -> HiddenSystem:
    """Make a system ready; see hidden_system."""
    system = hidden_system(config, systems_of(targets.read())[number], targets, known, identity)
    hidden = ", ".join(system.targets.read().column("formula").to_pylist())
    get_run_logger().info("%s: %d known crystals, hidden %s", system.name, len(system.known.read()), hidden)
    return system


@task(name="campaign", task_run_name="campaign-{proposer.entry.name}-{system.name}", retries=1, retry_delay_seconds=5)
def campaign_task(
    system: HiddenSystem, config: RediscoveryConfig, proposer: MadeProposer, identity: PotentialIdentity
) -> Campaign:
    """One proposer's campaign in one system; see run_campaign."""
    campaign = run_campaign(config, system, proposer, identity)
    n, drawn = len(campaign.ranked.read_columns("id")), campaign.drawn
    get_run_logger().info("%s, %s: %d of %d drawn relaxed", system.name, campaign.proposer, n, drawn)
    return campaign


@task(name="count", task_run_name="count-{system.name}")
def count_task(system: HiddenSystem, config: RediscoveryConfig, campaigns: list[Campaign]) -> CountedSystem:
    """What was found in a system; see counted_files."""
    return counted_files(system, campaigns, config)


@task(name="report")
def report_task(
    config: RediscoveryConfig,
    identity: PotentialIdentity,
    proposers: list[MadeProposer],
    campaigns: list[Campaign],
    counted: list[CountedSystem],
) -> Path:
    """Put all together, write and publish it; see write_results."""
    return write_results(gathered(config, identity, proposers, campaigns, counted))
