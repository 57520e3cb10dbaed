"""What `hullward campaign run` would do."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pyarrow as pa

from configs.campaign import CampaignConfig, elements_of_system
from configs.paths import resolve
from generative.datasets.config import FilesSource
from tasks.campaign.learning import learners
from tasks.campaign.results import PAGE
from tasks.campaign.stages import formulas_known
from tasks.campaign.system_rounds import dataset_folders, run_of
from tasks.campaign.systems import systems_of
from tasks.discover.known import competing_phases_of
from tasks.discover.sample import check_generator, generators_of
from tasks.files import NotYetThereError, only_looking
from tasks.ingest.downloads import network_context
from tasks.plans.discover import SHOWN, potentials_of
from tasks.plans.potentials import absent
from tasks.plans.rates import added, at_once, rates
from tasks.plans.record import Plan, Stage, UsedPotential, Written


def plan_campaign(config: CampaignConfig) -> Plan:
    """What a campaign of these settings would do.

    Raises: CampaignError: if no system is left; others as tasks.discover.sample.check_generator.
    """
    learners(config)
    systems, not_told = _systems(config)
    runs = [run_of(config, elements, _files_as_named(config)) for elements in systems]
    for run in runs:
        check_generator(run)
    potentials = potentials_of(runs[0]) if runs else ()
    n_known, n_phases, troubles = _known(config, systems)
    stages = _stages(config, systems, n_phases, potentials) if runs else []
    measured, budget = rates(), config.budget
    names = ["-".join(elements) for elements in systems]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    n_rounds = -(-budget.relaxations // budget.per_round)
    return Plan(
        command="campaign run",
        name=config.name,
        facts=(
            ("systems", f"{len(names)}: {', '.join(names[:SHOWN])}{more}" if names else not_told),
            ("proposers", ", ".join(one.settings.checkpoint for one in generators_of(runs[0].sample)) if runs else ""),
            ("budget", f"{budget.relaxations} relaxations in {n_rounds} rounds, shared by {config.allocation.policy}"),
            ("known", f"{n_known} crystals here"),
            ("hull", f"about {n_phases} competing phases of all systems together"),
        ),
        potentials=potentials,
        stages=tuple(stages),
        rates=measured.told,
        memory_mb=measured.memory_mb["base"],
        writes=(
            Written.at(config.folder / PAGE, "the report, with one of each system"),
            Written.at(config.folder / "candidates.parquet", "the candidates of all systems"),
            Written.at(config.folder / "systems", "a run's folder per system"),
            Written.at(config.folder.parent / ".datasets", "files of known crystals as read, for all campaigns"),
        ),
        warnings=(*absent(potentials), *([not_told] if not_told else []), *troubles),
        details={"folder": str(config.folder), "systems": names, "n_competing": n_phases, "n_known": n_known},
    )


def _systems(config: CampaignConfig) -> tuple[list[tuple[str, ...]], str]:
    """The chemical systems; those named alone, and why, where a rule needs crystals that have not been read yet."""
    if config.rule is None:
        return list(dict.fromkeys(elements_of_system(system) for system in config.systems)), ""
    try:
        with only_looking():
            return systems_of(config, formulas_known(config)), ""
    except NotYetThereError:
        named = [elements_of_system(system) for system in config.systems]
        return (
            named,
            "the systems of `rule` are known once the files of known crystals have been read; not counted here",
        )


def _files_as_named(config: CampaignConfig) -> dict[str, Path]:
    """Where the crystals of each file lie: the dataset read from it, or before that the file itself."""
    try:
        with only_looking():
            return dataset_folders(config)
    except NotYetThereError:
        return {one.model_dump_json(): Path(one.path) for one in config.data.sources if isinstance(one, FilesSource)}


def _known(config: CampaignConfig, systems: list[tuple[str, ...]]) -> tuple[int, int, list[str]]:
    """Known crystals of all systems together, competing phases among them with prototypes, and what is not here."""
    from generative.datasets.ingest import look_through
    from generative.datasets.table import DATASET_SCHEMA

    if not systems:
        return 0, 0, []
    every = sorted(set(chain.from_iterable(systems)))
    network = network_context(config.folder / "systems" / ".downloads")
    looked = list(look_through(config.data, every, resolve, network))
    table = pa.concat_tables([DATASET_SCHEMA.empty_table(), *(one.rows for one in looked if one.rows is not None)])
    phases = competing_phases_of(table, systems, config.hull.references_max)
    return len(table), len(phases) + sum(one.n_made for one in looked), [one.trouble for one in looked if one.trouble]


def _stages(
    config: CampaignConfig, systems: list[tuple[str, ...]], n_phases: int, potentials: tuple[UsedPotential, ...]
) -> list[Stage]:
    measured, n, execution = rates(), config.budget.relaxations, config.execution
    asked = run_of(config, systems[0], _files_as_named(config))
    drawn = [measured.drawing_s(one, round(n / measured.passes)) for one in generators_of(asked.sample)]
    drawing = None if (whole := added(*drawn)) is None else whole / len(drawn)
    atoms = 0.6 * config.conditions.atoms_max(len(systems[0]))
    phases = [n_phases * measured.atoms_of_a_phase]
    relaxer = potentials[0].used
    chunks = len(systems)
    found = [
        Stage("start", "potentials loaded and checked",
              measured.seconds_of("start") + len(potentials) * measured.seconds_of("potential")),
        Stage("competing", f"about {n_phases} phases",
              at_once(measured.relaxation_s(relaxer, config.relax, phases, "phase"), execution, chunks)),
        Stage("rounds", f"{n} relaxations",
              at_once(added(drawing, measured.relaxation_s(relaxer, config.relax, [n * atoms], "candidate"),
                            measured.seconds_of("screen", n), measured.seconds_of("rank", n)), execution, chunks)),
    ]  # fmt: skip
    if len(potentials) > 1:
        judged = min(config.judge.crystals_max, config.judge.n_best + n_phases) * len(systems)
        how = config.relax.model_copy(update={"max_steps": config.judge.steps_max})
        seconds = [
            measured.relaxation_s(one.used, how, [judged * measured.atoms_of_a_phase], "candidate")
            for one in potentials[1:]
        ]
        found.append(Stage("judge", f"at most {judged} crystals", added(*seconds)))
    ends_s = measured.seconds_of("report") + measured.seconds_of("inputs", config.inputs.top_n)
    found.append(Stage("ends", f"ranking, inputs and report of {len(systems)} systems", len(systems) * ends_s))
    return found
