"""What `hullward discover` would do: its own stages, asked what they would find done; its own plan of requests."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from configs.paths import resolve
from configs.schema import DiscoverConfig
from storage.wording import amount
from tasks.discover.judge import judge_names
from tasks.discover.known import competing_phases, known_file, network_of
from tasks.discover.run import RunFolder, read_manifest, refuse_other_run
from tasks.discover.sample import asked_in, check_generator, generators_of, known_hull
from tasks.files import FileRef
from tasks.loading import PotentialIdentity
from tasks.plans.done import Done, Found, there
from tasks.plans.potentials import absent, planned_potential
from tasks.plans.rates import added, at_once, rates
from tasks.plans.record import Plan, Stage, UsedPotential, Written

if TYPE_CHECKING:
    from generative.datasets.ingest import Looked
    from generative.requests import Request

SHOWN = 8
"""Formulas, and other lists, in the text; details have all."""


@dataclass(frozen=True)
class Known:
    """Known crystals of a run, as far as they are on this machine.

    Attributes:
        table: of all that can be read.
        sources: of it, source by source; empty where the run's dataset is there.
        n_made: prototypes that would be decorated, relaxed and scored.
        dataset: the run's own dataset, if it is there.
    """

    table: pa.Table
    sources: tuple[Looked, ...] = ()
    n_made: int = 0
    dataset: FileRef | None = None


def plan_run(config: DiscoverConfig) -> Plan:
    """What a discovery run of these settings would do.

    Raises: CheckpointError, PlanError, ValueError: as tasks.discover.sample.check_generator; OtherRunError: if another
        run lies in its folder.
    """
    check_generator(config)
    folder = Path(config.execution.runs_folder) / config.name
    refuse_other_run(RunFolder(folder), config)
    potentials = potentials_of(config)
    identity = _last_identity(folder, potentials[0])
    known = _known(config, folder, identity)
    requests, training = _requests(config, known)
    phases = competing_phases(known.table, config.hull.references_max)
    n_phases = min(len(phases) + known.n_made, max(len(phases), config.hull.references_max))
    stages = _stages(config, folder, identity, known, requests, n_phases, potentials)
    missing = missing_systems(config.elements, known)
    n = config.sample.n_candidates
    measured = rates()
    return Plan(
        command="discover",
        name=config.name,
        facts=(
            ("system", "-".join(config.elements)),
            ("candidates", _candidates_text(config)),
            ("asked for", asked_text(requests) if requests else "formulas of the known crystals, once they are here"),
            ("known", _known_text(known)),
            ("hull", _hull_text(n_phases, missing)),
        ),
        potentials=potentials,
        stages=tuple(stages),
        rates=measured.told,
        memory_mb=measured.memory_mb["base"] + n * measured.memory_mb["per_candidate"],
        writes=_writes(config, folder),
        warnings=tuple(_warnings(config, known, missing, potentials, training)),
        details=_details(config, folder, known, requests, n_phases, missing),
    )


def potentials_of(config: DiscoverConfig) -> tuple[UsedPotential, ...]:
    """The potential that relaxes, then the judge and its committee."""
    judges = [
        planned_potential("committee" if number else "judge", config.relaxed_by(name).relax)
        for number, name in enumerate(judge_names(config))
    ]
    return planned_potential("relaxation", config.relax), *judges


def _last_identity(folder: Path, planned: UsedPotential) -> PotentialIdentity | None:
    """The potential that relaxed in this folder, if it is the one that would now."""
    said = read_manifest(RunFolder(folder)).get("relaxed_by")
    identity = None if said is None else PotentialIdentity.model_validate(said)
    return None if identity is None or identity.stands_in_for(planned.used) else identity


def _known(config: DiscoverConfig, folder: Path, identity: PotentialIdentity | None) -> Known:
    from generative.datasets.ingest import look_through
    from generative.datasets.table import DATASET_SCHEMA

    if identity is not None and (ref := there(partial(known_file, config, folder, identity))) is not None:
        return Known(ref.read(), dataset=ref)
    looked = tuple(look_through(config.data, config.elements, resolve, network_of(folder)))
    tables = [one.rows for one in looked if one.rows is not None]
    return Known(pa.concat_tables([DATASET_SCHEMA.empty_table(), *tables]), looked, sum(one.n_made for one in looked))


def _requests(config: DiscoverConfig, known: Known) -> tuple[list[tuple[str, Request]], str]:
    """Who is asked for what; and why nothing is told, where that depends on crystals that are not here."""
    from generative.plans.formulas import PlanError

    policy = config.conditions.policy
    formulas = known.table.column("formula").to_pylist() if policy == "training" else ()
    hull = known_hull(config, known.table) if policy == "grid" else None
    try:
        return [(one.proposed_by, request) for one, request in asked_in(config, formulas, hull)], ""
    except PlanError as error:
        return [], str(error)


def missing_systems(elements: Sequence[str], known: Known) -> tuple[list[str], list[str]]:
    """Elements without a known crystal of their own, and chemical systems without a compound, prototypes aside."""
    here = set(known.table.column("chemsys").to_pylist())
    systems = ["-".join(sorted(part)) for n in range(2, len(elements) + 1) for part in combinations(elements, n)]
    return [e for e in sorted(elements) if e not in here], [name for name in systems if name not in here]


def _candidates_text(config: DiscoverConfig) -> str:
    several = generators_of(config.sample)
    drawn_by = ", ".join(f"{one.settings.checkpoint} (share {one.share:g})" for one in several)
    who = drawn_by if len(several) > 1 else several[0].settings.checkpoint
    return f"{config.sample.n_candidates} by {who}, seed {config.seed}"


def counted(requests: Sequence[tuple[str, Request]]) -> Counter[tuple[str, int, int | None]]:
    """How often each formula is asked for, by formula, atoms in the cell (0 where these are left open), space group."""
    every: Counter[tuple[str, int, int | None]] = Counter()
    for _, request in requests:
        if request.formula_counts:
            every[request.reduced_formula, request.n_atoms, request.spacegroup] += 1
        else:
            sites = "".join(f"{symbol}{n}" for symbol, n in request.sites)
            every[f"sites {sites}" if sites else "any composition", 0, request.spacegroup] += 1
    return every


def asked_text(requests: Sequence[tuple[str, Request]]) -> str:
    """The formulas that are asked for most, with their cells."""
    every = counted(requests)
    by_formula: defaultdict[str, Counter[int]] = defaultdict(Counter)
    groups = sorted({group for _, _, group in every if group is not None})
    for (formula, atoms, _), n in every.items():
        by_formula[formula][atoms] += n
    ordered = sorted(by_formula.items(), key=lambda item: (-item[1].total(), item[0]))
    lines = [amount(len(ordered), "formula") + (f" in space groups {', '.join(map(str, groups))}" if groups else "")]
    for formula, cells in ordered[:SHOWN]:
        sizes = ", ".join(str(atoms) for atoms in sorted(cells) if atoms)
        lines.append(f"{formula} {cells.total()} times" + (f", cells of {sizes} atoms" if sizes else ""))
    if len(ordered) > SHOWN:
        lines.append(f"and {len(ordered) - SHOWN} more")
    return "\n".join(lines)


def _known_text(known: Known) -> str:
    if known.dataset is not None:
        return f"{len(known.table)} crystals in the run's dataset"
    lines = [f"{len(known.table)} crystals here" + (f", {known.n_made} prototypes to be relaxed" * bool(known.n_made))]
    for one in known.sources:
        if one.trouble:
            lines.append(f"{one.kind}: not here")
        elif one.rows is not None:
            lines.append(f"{one.name}: {len(one.rows)} of {one.n_read:,}")
    return "\n".join(lines)


def _hull_text(n_phases: int, missing: tuple[list[str], list[str]]) -> str:
    elements, systems = missing
    lines = [f"about {n_phases} competing phases"]
    if elements:
        lines.append(f"no known crystal of {', '.join(elements)} alone")
    if systems:
        more = f" and {len(systems) - SHOWN} more" if len(systems) > SHOWN else ""
        lines.append(f"no known compound of {', '.join(systems[:SHOWN])}{more}")
    return "\n".join(lines)


def _stages(
    config: DiscoverConfig,
    folder: Path,
    identity: PotentialIdentity | None,
    known: Known,
    requests: Sequence[tuple[str, Request]],
    n_phases: int,
    potentials: Sequence[UsedPotential],
) -> list[Stage]:
    """The stages of the run with what is done of them, and the time of the rest."""
    measured, n, size = rates(), config.sample.n_candidates, config.relax.chunk_size
    done = Done(config, folder, identity, known.dataset)
    n_passing, relaxer = round(n * measured.passes), potentials[0].used
    atoms = sum(request.n_atoms for _, request in requests) / max(1, len(requests)) or measured.atoms_of_a_phase
    of_phase = measured.atoms_of_a_phase
    by_generator = Counter(name for name, _ in requests)
    drawing = [measured.drawing_s(one, by_generator[one.proposed_by] or n) for one in generators_of(config.sample)]
    relaxing, competing, scoring = (
        measured.relaxation_s(relaxer, config.relax, [n_atoms], kind)
        for n_atoms, kind in (
            (n_passing * atoms, "candidate"), (n_phases * of_phase, "phase"), (known.n_made * of_phase, "phase")
        )
    )  # fmt: skip
    reading = measured.seconds_of("record_read", sum(one.n_read for one in known.sources))
    once_s = measured.seconds_of("start") + len(potentials) * measured.seconds_of("potential")
    is_known = Found([known.dataset])

    def stage(name: str, work: str, seconds: float | None, found: Found, n_parts: int) -> Stage:
        n_parts = len(found.parts) or n_parts
        left = at_once(None if seconds is None else seconds * found.left, config.execution, n_parts)
        return Stage(name, work, left, n_parts, found.n_done)

    found = [
        Stage("start", "potentials loaded and checked", once_s),
        stage("ingest", "known crystals",
              added(reading, measured.seconds_of("prototype_made", known.n_made), scoring), is_known, 1),
        stage("sample", f"{n} candidates", added(*drawing), done.sampled, 1),
        stage("screen", f"{n} candidates", measured.seconds_of("screen", n), done.screened, 1),
        stage("relax", f"about {n_passing} candidates", relaxing, done.relaxed, -(-n_passing // size)),
        stage("competing", f"about {n_phases} phases", competing, done.competing, -(-n_phases // size)),
        stage("rank", f"about {n_passing} candidates", measured.seconds_of("rank", n_passing), done.ranked, 1),
    ]  # fmt: skip
    if len(potentials) > 1:
        judge, own = config.judge, min(config.judge.n_best, n_passing)
        phases = max(0, min(judge.crystals_max - own, n_phases))
        how, crystals = config.relaxed_by(judge.potential).relax, [own * atoms, phases * of_phase]
        seconds = added(*(measured.relaxation_s(one.used, how, crystals, "candidate") for one in potentials[1:]))
        work = f"{own} best and at most {phases} phases, {judge.steps_max} steps"
        found.append(stage("judge", work, seconds, done.judged, -(-(own + phases) // judge.chunk_size)))
    if n_best := config.phonons.n_best:
        found.append(stage("phonons", f"{n_best} best", measured.seconds_of("phonons", n_best), done.phonons, n_best))
    return [*found, *_endings(config, min(config.inputs.top_n, n_passing))]


def _endings(config: DiscoverConfig, n_inputs: int) -> list[Stage]:
    """What is always made again."""
    measured = rates()
    found = [
        Stage("inputs", f"of {n_inputs} best", measured.seconds_of("inputs", n_inputs)),
        Stage("report", "page, CIFs, tables", measured.seconds_of("report")),
    ]
    return [*found, Stage("dft", f"jobs of the best by {config.dft.engine.name}", None)] if config.dft.run else found


def _writes(config: DiscoverConfig, folder: Path) -> tuple[Written, ...]:
    run = RunFolder(folder)
    return (
        Written.at(folder / "report.html", "the report"),
        Written.at(run.candidates, "every candidate, ranked ones first"),
        Written.at(folder / "cifs", "ranked crystals"),
        Written.at(folder / "dft", f"VASP inputs of the best {config.inputs.top_n}"),
        Written.at(folder, "all else of the run"),
        Written.at(run.shared_references, "relaxed competing phases, for all runs"),
        *([Written.at(run.shared_opinions, "what judges say, for all runs")] if config.judge.potential else []),
    )


def _warnings(
    config: DiscoverConfig,
    known: Known,
    missing: tuple[list[str], list[str]],
    potentials: Sequence[UsedPotential],
    not_planned: str,
) -> list[str]:
    from storage.native_code import is_installed

    said = [*absent(potentials), *([not_planned] if not_planned else [])]
    said += [one.trouble for one in known.sources if one.trouble]
    if missing[0] and not known.n_made:
        said.append(
            f"without a crystal of {', '.join(missing[0])} alone, candidates with it have no place on the hull: add a "
            "source that holds it, such as {kind: prototypes, n_elements_max: 1}"
        )
    if not is_installed():
        said.append("numba is not installed, so matching and potentials are several times slower than told here")
    return said


def _details(
    config: DiscoverConfig,
    folder: Path,
    known: Known,
    requests: Sequence[tuple[str, Request]],
    n_phases: int,
    missing: tuple[list[str], list[str]],
) -> dict[str, Any]:
    asked = sorted(counted(requests).items(), key=lambda item: (-item[1], str(item[0])))
    systems = Counter(known.table.column("chemsys").to_pylist())
    return {
        "folder": str(folder),
        "elements": list(config.elements),
        "seed": config.seed,
        "n_candidates": config.sample.n_candidates,
        "generators": [
            {"proposed_by": one.proposed_by, "checkpoint": one.settings.checkpoint, "share": one.share}
            for one in generators_of(config.sample)
        ],
        "asked": [
            {"formula": formula, "n_atoms": atoms or None, "spacegroup": group, "n": n}
            for (formula, atoms, group), n in asked
        ],
        "known": {
            "n_crystals": len(known.table),
            "n_prototypes": known.n_made,
            "by_system": dict(sorted(systems.items())),
            "sources": [
                {"kind": one.kind, "name": one.name, "n": None if one.rows is None else len(one.rows),
                 "n_read": one.n_read, "n_made": one.n_made, "trouble": one.trouble}
                for one in known.sources
            ],
            "elements_missing": missing[0],
            "systems_missing": missing[1],
        },
        "n_competing": n_phases,
    }  # fmt: skip
