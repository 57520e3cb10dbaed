"""Whether proposers that learn find more: `python -m tests.benchmarks.campaign_learning FOLDER N [FAMILY] [VOTES]`.

The benchmark of rediscovery as a campaign: in N of its chemical systems, drawn with seed 0, the stable crystals are
hidden, and the shipped symmetric generator has four relaxations in each system in each of four rounds; once as it is,
once learning after each round from what all systems have found. FAMILY takes only systems of one lanthanide or yttrium,
one transition metal and one other element, whose crystals are often alike. The first round, in which nothing is
learned yet, is the same. Needs HULLWARD_ASSETS. One line of JSON: recall of hidden crystals after 4, 8, 12 and 16
relaxations with standard errors by the bootstrap over systems, the paired difference, finds and seconds.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pymatgen.core.periodic_table import Element

from configs.campaign import CampaignConfig
from configs.rediscovery import RediscoveryConfig
from configs.schema import load
from tasks.campaign.finds import finds_file, no_finds, with_new_finds
from tasks.campaign.learning import Learned, after_learning
from tasks.campaign.system_rounds import ReadySystem, SystemRound, shared_phases, work
from tasks.files import FileRef, write_table
from tasks.loading import PotentialIdentity, identify
from tasks.rediscovery.campaign import HiddenSystem, hidden_system
from tasks.rediscovery.counting import candidates_of, hidden_forms
from tasks.rediscovery.recall import Recalls
from tasks.rediscovery.targets import datasets_of, hidden_files, systems_of, without_hidden

PER_ROUND, N_ROUNDS = 4, 4


def benchmark(folder: Path, n: int) -> RediscoveryConfig:
    """The shipped small one with the symmetric generator alone."""
    shipped = load(RediscoveryConfig, "rediscovery-small").model_dump()
    changes = {
        "n_systems": n,
        "proposers": [entry for entry in shipped["proposers"] if entry["name"] == "wyckoff"],
        "portfolio": {},
        "execution": {"runs_folder": str(folder), "torch_threads": 1},
    }
    return RediscoveryConfig.model_validate({**shipped, **changes})


def settings(config: RediscoveryConfig, folder: Path, systems: list[str], votes: float | None) -> CampaignConfig:
    """A campaign in these systems, asked for what the benchmark asks for; with votes one that learns."""
    return CampaignConfig.model_validate(
        {
            "name": "as-it-is" if votes is None else "learning",
            "systems": systems,
            "proposers": [{"checkpoint": config.proposers[0].checkpoint}],
            "conditions": {**config.conditions.model_dump(), "n_elements_min": 3, "n_elements_max": 3},
            "sample": {"n_candidates": config.sample.n_candidates, "chunk_size": 16},
            "screen": config.screen.model_dump(),
            "relax": config.relax.model_dump(),
            "hull": config.hull.model_dump(),
            "learning": {} if votes is None else {"every_rounds": 1, "votes": votes},
            "execution": {**config.execution.model_dump(), "runs_folder": str(folder)},
        }
    )


def in_family(system: str) -> bool:
    """One lanthanide or yttrium, one transition metal, one other element."""
    elements = [Element(symbol) for symbol in system.split("-")]
    rare = [e for e in elements if e.is_lanthanoid or e.symbol == "Y"]
    metals = [e for e in elements if e.is_transition_metal and e not in rare]
    return (len(elements), len(rare), len(metals)) == (3, 1, 1)


def hidden(config: RediscoveryConfig, family: bool) -> tuple[FileRef, FileRef]:
    """Hidden and known crystals, as hidden_files; with `family` of systems that are in it."""
    if not family:
        return hidden_files(config)
    every, _ = hidden_files(config.model_copy(update={"n_systems": 100_000, "name": "every"}))
    table = every.read()
    names = sorted({name for name in table.column("system").to_pylist() if in_family(name)})
    order = np.random.default_rng(config.seed).permutation(len(names))[: config.n_systems]
    targets = table.filter(pc.is_in(table.column("system"), pa.array([names[i] for i in order])))
    known = without_hidden(datasets_of(config.known, config), targets)
    return write_table(targets, config.folder / "targets.parquet"), write_table(known, config.folder / "known.parquet")


def ready(system: HiddenSystem, campaign: CampaignConfig) -> ReadySystem:
    """The system as a campaign has it."""
    folder = campaign.folder / "systems" / system.name.lower()
    competing = pa.concat_tables([ref.read() for ref in system.competing])
    return ReadySystem(
        elements=system.elements,
        folder=folder,
        known=system.known,
        references=system.known,
        competing=shared_phases(folder, competing),
    )


def worked_out(
    campaign: CampaignConfig, systems: list[ReadySystem], identity: PotentialIdentity
) -> tuple[dict[str, list[SystemRound]], pa.Table, tuple[Learned, ...]]:
    """The rounds of every system, the finds, and what was learned."""
    rounds: dict[str, list[SystemRound]] = {system.name: [] for system in systems}
    label, learned = campaign.proposers[0].label, tuple[Learned, ...]()
    finds = finds_file(no_finds(), campaign.folder / "rounds" / "00000-finds.parquet", [])
    for number in range(N_ROUNDS):
        learned = after_learning(campaign, learned, finds, number)
        for system in systems:
            own = rounds[system.name]
            own.append(work(campaign, system, own, {label: PER_ROUND}, number, finds, identity, learned))
        done = [rounds[system.name][-1] for system in systems]
        table = with_new_finds(finds.read(), done, campaign)
        path = campaign.folder / "rounds" / f"{number + 1:05d}-finds.parquet"
        finds = finds_file(table, path, [one.ranked.sha256 for one in done])
        print(f"{campaign.name}: round {number}, {len(table)} finds", file=sys.stderr, flush=True)
    return rounds, finds.read(), learned


def rows_of(name: str, system: HiddenSystem, rounds: list[SystemRound]) -> list[dict[str, Any]]:
    """After how many relaxations every hidden crystal of a system was found, by the usual and the strict tolerances."""
    # Places of what was learned lie behind those before, so their order is that of the relaxations.
    tried = [c for c in candidates_of(rounds[-1].ranked.read(), hidden_forms(system)) if c.relaxed is not None]
    return [
        {
            "system": system.name,
            "proposer": name,
            "id": crystal,
            "found_after": next((i for i, c in enumerate(tried, 1) if crystal in c.found), None),
            "found_after_strict": next((i for i, c in enumerate(tried, 1) if crystal in c.found_strict), None),
        }
        for crystal in system.targets.read().column("id").to_pylist()
    ]


def finds_difference(finds: dict[str, pa.Table], names: list[str]) -> dict[str, float]:
    """Finds of learning less those without, of all systems together, with the error by a bootstrap over systems."""
    counts = {
        arm: np.array([table.column("system").to_pylist().count(n) for n in names]) for arm, table in finds.items()
    }
    apart = counts["learning"] - counts["as-it-is"]
    drawn = np.random.default_rng(0).integers(len(names), size=(2000, len(names)))
    return {"value": int(apart.sum()), "standard_error": float(apart[drawn].sum(1).std(ddof=1))}


def main(folder: Path, n: int, family: bool, votes: float) -> None:
    """Measure and print."""
    config = benchmark(folder, n)
    identity = identify(config.relax, config.execution)
    targets, known = hidden(config, family)
    systems = [hidden_system(config, e, targets, known, identity) for e in systems_of(targets.read())]
    names, rows, finds, seconds = [system.name for system in systems], [], {}, {}
    for arm, of in (("as-it-is", None), ("learning", votes)):
        campaign, began = settings(config, folder, names, of), time.monotonic()
        if of is not None:
            for system in names:  # the first round is the same
                before = folder / "campaigns" / "as-it-is" / "systems" / system.lower()
                after = campaign.folder / "systems" / system.lower()
                for part in ("sample", "rounds/00000"):
                    shutil.copytree(before / part, after / part, dirs_exist_ok=True)
        rounds, finds[arm], learned = worked_out(campaign, [ready(system, campaign) for system in systems], identity)
        rows += [row for system in systems for row in rows_of(arm, system, rounds[system.name])]
        seconds[arm] = round(time.monotonic() - began)
    table = pa.Table.from_pylist(rows)
    said: dict[str, Any] = {"systems": len(names), "hidden": len(targets.read()), "votes": votes, "seconds": seconds}
    budgets = [PER_ROUND * (i + 1) for i in range(N_ROUNDS)]
    for column in ("found_after", "found_after_strict"):
        recalls = Recalls(table, list(finds), config.seed, column)
        said[column] = {arm: recalls.as_dict(arm, budgets) for arm in finds}
        said[column]["difference"] = [vars(recalls.difference("learning", "as-it-is", budget)) for budget in budgets]
    said["finds"] = {arm: len(found) for arm, found in finds.items()}
    said["finds_difference"] = finds_difference(finds, names)
    said["learned"] = [(one.name, one.n_finds, len(one.left_out)) for one in learned]
    print(json.dumps(said))


if __name__ == "__main__":
    words = sys.argv[1:]
    main(Path(words[0]), int(words[1]), "family" in words, next((float(w) for w in words[2:] if w != "family"), 1.0))
