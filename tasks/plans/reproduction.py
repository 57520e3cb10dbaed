"""What `hullward reproduce` would do."""

from __future__ import annotations

from configs.reproduction import AnyReproduction
from storage.wording import amount
from tasks.files import NotYetThereError, only_looking
from tasks.papers.stages import paper_of
from tasks.plans.record import Plan, Stage, Written


def plan_reproduction(config: AnyReproduction) -> Plan:
    """What a reproduction of these settings would make, and which of its results lie there. Times are not told: they
    hang on the size of the networks and on the steps of each training, which docs of each paper have as measured.
    """
    paper = paper_of(config)
    wanted = {stage: list(paper.keys(stage)) for stage in paper.stages if stage in config.stages}
    try:
        with only_looking():
            found = paper.collect()
        done, missing = set(found.results) - set(found.foreign), found.missing
    except NotYetThereError:
        done, missing = set(), {}
    stages = [
        Stage(stage, amount(len(keys), "result"), None, len(keys), sum(key in done for key in keys))
        for stage, keys in wanted.items()
    ]
    reasons = dict.fromkeys(str(missing[key]) for keys in wanted.values() for key in keys if key in missing)
    return Plan(
        command="reproduce",
        name=config.name,
        facts=(
            ("paper", config.paper),
            ("systems", ", ".join(config.systems)),
            ("data", ", ".join(one.name for one in config.datasets)),
            ("results", f"{sum(map(len, wanted.values()))}, {sum(one.n_done for one in stages)} of them there"),
        ),
        potentials=(),
        stages=tuple(stages),
        rates="",
        memory_mb=None,
        writes=(
            Written.at(config.folder / "reproduction.html", "the tables, paper beside ours"),
            Written.at(config.folder / "reproduction.json", "every figure"),
            Written.at(config.folder, "results and checkpoints"),
        ),
        warnings=tuple(reasons),
        details={
            "folder": str(config.folder),
            "results": [{"name": key.name, "is_there": key in done} for keys in wanted.values() for key in keys],
        },
    )
