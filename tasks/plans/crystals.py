"""What `hullward sample` and `hullward modify` would do."""

from __future__ import annotations

from pathlib import Path

from configs.modification import ModifyConfig
from configs.schema import DiscoverConfig
from storage.wording import amount
from tasks.discover.propose import asked_of, check_proposer, given_crystals
from tasks.discover.sample import asked_in, check_generator, generators_of
from tasks.plans.discover import asked_text, counted
from tasks.plans.potentials import absent, planned_potential
from tasks.plans.rates import added, at_once, rates
from tasks.plans.record import Plan, Stage, Written


def plan_draw(config: DiscoverConfig, out: Path) -> Plan:
    """What drawing crystals without a run would do. Raises: as tasks.discover.sample.check_generator."""
    check_generator(config)
    requests = [(one.proposed_by, request) for one, request in asked_in(config)]
    measured, n = rates(), config.sample.n_candidates
    generators = generators_of(config.sample)
    share = sum(one.share for one in generators)
    drawn = added(*(measured.drawing_s(one, round(n * one.share / share)) for one in generators))
    return Plan(
        command="sample",
        name=str(out),
        facts=(
            ("crystals", f"{n} by {', '.join(one.settings.checkpoint for one in generators)}, seed {config.seed}"),
            ("asked for", asked_text(requests)),
        ),
        potentials=(),
        stages=(Stage("sample", amount(n, "crystal"), drawn),),
        rates=measured.told,
        memory_mb=None,
        writes=(Written.at(out, "the crystals"),),
        warnings=(),
        details={
            "n": n,
            "asked": [
                {"formula": formula, "n_atoms": atoms or None, "spacegroup": group, "n": times}
                for (formula, atoms, group), times in sorted(counted(requests).items(), key=str)
            ],
        },
    )


def plan_modification(config: ModifyConfig) -> Plan:
    """What a search for lower polymorphs would do.

    Raises: OwnFileError: if no crystal can be read; CheckpointError, ValueError: as check_proposer.
    """
    check_proposer(config)
    given, refused = given_crystals(config)
    sizes = [float(len(numbers)) for numbers in given.column("atomic_numbers").to_pylist() if numbers]
    n_given = len(sizes)
    n = n_given * config.n_candidates
    relaxer = planned_potential("relaxation", config.relax)
    measured = rates()
    chunks = -(-n // config.relax.chunk_size)
    candidates_s = measured.relaxation_s(
        relaxer.used, config.relax, [config.n_candidates * measured.passes * sum(sizes)], "candidate"
    )
    groups = sorted({change.spacegroup for change in asked_of(config) if change.spacegroup is not None})
    return Plan(
        command="modify",
        name=config.name,
        facts=(
            ("crystals", f"{n_given} of {', '.join(config.crystals)}"),
            ("polymorphs", f"{config.n_candidates} of each by {config.sample.checkpoint}, seed {config.seed}"),
            ("asked for", f"space groups left open or {', '.join(map(str, groups))}" if groups else "any space group"),
        ),
        potentials=(relaxer,),
        stages=(
            Stage("start", "potential loaded and checked", added(*map(measured.seconds_of, ("start", "potential")))),
            Stage("propose", f"{n} polymorphs", None),
            Stage("given", amount(n_given, "crystal"),
                  measured.relaxation_s(relaxer.used, config.relax, sizes, "phase")),
            Stage("relax", f"about {round(n * measured.passes)} polymorphs",
                  at_once(candidates_s, config.execution, chunks)),
        ),
        rates=measured.told,
        memory_mb=measured.memory_mb["base"],
        writes=(
            Written.at(config.folder / "modification.json", "what was found of each crystal"),
            Written.at(config.folder / "candidates.parquet", "every polymorph"),
            Written.at(config.folder / "cifs", "the lower ones"),
        ),
        warnings=(*absent((relaxer,)), *(f"left out: {sentence}" for sentence in refused[:5])),
        details={"folder": str(config.folder), "n_crystals": n_given, "n_polymorphs": n},
    )  # fmt: skip
