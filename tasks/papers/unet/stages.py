"""How the metrics of conditional generation and modification are made again: seven systems, and two without a network.

Crystals of a data set are pooled and divided by formula; test crystals, in the standard setting, are what the systems
are asked for, and where modifiers start from (Tables 1 and 2).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from configs.unet_reproduction import COPY, SAME, PolymorphData, UNetReproductionConfig
from generative.crystal.crystals import Crystal
from generative.crystal.standard_setting import in_standard_settings
from generative.datasets.polymorphs import PairRule, PairSet, formula_split, generation_targets
from generative.metrics.reconstruction_sets import airi_accuracy
from generative.metrics.shares import percentage
from generative.requests import Request
from generative.training.config import TrainConfig
from generative.training.data import TrainingError, TrainingSet, training_set
from tasks.papers import trainings
from tasks.papers.results import Made, Measured, NotReadyError, Progress, ResultKey, digest_of, share_error
from tasks.papers.samples import Plan, in_chunks
from tasks.papers.stages import Measurement, Paper
from tasks.papers.test_sets import ingested

if TYPE_CHECKING:
    import torch
    from lightning.pytorch.callbacks import Callback

    from generative.systems.baselines.substitution import PrototypeSubstitution
    from generative.systems.unet.structure_matrix_system import StructureMatrixSystem
    from tasks.papers.page import Report
    from tasks.papers.report import Collected

Task = Literal["generate", "modify"]

TRAINED_AS = {"unet-ddim": "unet-ddpm"}
"""Systems that have the weights of another one."""

PROTOCOL = "airi accuracy"
SYMPREC_ANG = 0.1
"""At which a generated crystal's space group is told, as elsewhere in Hullward."""


def task_of(word: str) -> Task:
    """Which task a system is trained for, or a stage tests."""
    return "modify" if "modify" in word else "generate"


# --- crystals ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """Crystals to train on and to test with.

    Attributes:
        train: in Niggli cells, as a training takes them.
        test: in the standard setting.
        fingerprint: digest of the data set's crystals and of who is in which part.
    """

    train: TrainingSet
    test: TrainingSet
    fingerprint: str


def parts_of(config: UNetReproductionConfig, entry: PolymorphData, task: Task) -> Parts:
    """The two parts of a data set for a task.

    Raises: NotReadyError: if one of them is empty.
    """
    share = config.generation_share if task == "generate" else config.modification_share
    words = entry.model_dump_json(include={"files", "test", "property_name", "max_atoms"})
    return _parts(words, str(config.folder / entry.name), share, config.seed, config.workers)


@lru_cache(maxsize=6)
def _parts(words: str, folder: str, share: float, seed: int, workers: int) -> Parts:
    entry = json.loads(words)
    kept_in, name = Path(folder), entry["property_name"]
    table, digest = ingested(entry["files"], kept_in / "crystals", entry["max_atoms"], workers)
    if entry["test"] is None:
        pool = training_set(table, (), name)
        train, test = (pool.subset(rows) for rows in formula_split(pool.crystals, share, seed))
    else:
        tested, other = ingested([entry["test"]], kept_in / "test-crystals", entry["max_atoms"], workers)
        digest += other
        train = training_set(table, tested.column("source_id").to_pylist(), name)
        test = training_set(tested, (), name)
    if not len(train) or not len(test):
        hint = "" if entry["test"] else "; data of one formula need `test`"
        raise NotReadyError(f"{len(table)} crystals leave {len(train)} for training, {len(test)} for the test{hint}")
    word = json.dumps([digest, train.ids, test.ids]).encode()
    test.crystals = in_standard_settings(test.crystals, workers, kept_in / "settings")
    return Parts(train, test, hashlib.sha256(word).hexdigest())


@dataclass(frozen=True)
class Targets:
    """What systems are asked for, and where modifiers start from.

    Attributes:
        crystals: test crystals, in the standard setting.
        spacegroups: theirs, as the data state them.
        energies_ev_per_atom: theirs; for modifiers target less source.
        sources: crystals to start from, where the task is to modify.
    """

    crystals: list[Crystal]
    spacegroups: list[int | None]
    energies_ev_per_atom: Sequence[float | None]
    sources: list[Crystal]

    @cached_property
    def digest(self) -> str:
        """Of all of them."""
        words = [c.digest for c in (*self.crystals, *self.sources)]
        return hashlib.sha256(json.dumps([words, self.spacegroups, self.energies_ev_per_atom]).encode()).hexdigest()


def targets_of(config: UNetReproductionConfig, entry: PolymorphData, task: Task) -> Targets:
    """The test crystals of a task, the same for every system.

    Raises: NotReadyError: if the test part holds none.
    """
    test = parts_of(config, entry, task).test
    rng = np.random.default_rng((config.seed, 1 if task == "generate" else 2))
    if task == "generate":
        rows = generation_targets(test.crystals, test.energies, entry.per_formula, entry.n_generate, rng)
        pairs = [(row, row) for row in rows]
    else:
        try:
            pairs = PairSet.of(test, PairRule(n_lowest=entry.n_lowest)).test_pairs(entry.n_modify, rng)
        except TrainingError as error:
            raise NotReadyError(f"the test part: {error}") from error
    if not pairs:
        raise NotReadyError(f"none of {len(test)} test crystals has a known {entry.property_name}")
    found = Targets(
        [test.crystals[t] for _, t in pairs], [test.spacegroups[t] for _, t in pairs],
        [test.energies[t] for _, t in pairs], [],
    )  # fmt: skip
    if task == "generate":
        return found
    changes = [_known(test.energies[t]) - _known(test.energies[s]) for s, t in pairs]
    return replace(found, energies_ev_per_atom=changes, sources=[test.crystals[s] for s, _ in pairs])


def _known(energy: float | None) -> float:
    assert energy is not None, "a polymorph without an energy is in no group"
    return energy


# --- training ---------------------------------------------------------------------------------------------------------


def training_key(dataset: str, system: str) -> ResultKey:
    """The training that gives a system its weights."""
    return ResultKey("train", dataset, TRAINED_AS.get(system, system))


def training_of(config: UNetReproductionConfig, entry: PolymorphData, system: str) -> TrainConfig:
    """The settings of one training."""
    modifies = task_of(system) == "modify"
    sizes: dict[str, Any] = {"size": config.size, **config.training.system}
    if modifies:
        sizes["n_lowest"] = entry.n_lowest
    steps = entry.modification_steps if modifies else entry.generation_steps
    stated = config.training.model_dump() | {
        "name": "model",
        "kind": system,
        "seed": config.seed,
        "property": entry.property_name,
        "system": sizes,
        "max_steps": steps or config.training.max_steps,
        "split": "formula" if entry.test is None else "crystal",
        "device": config.execution.device,
        "torch_threads": config.execution.torch_threads,
    }
    stated["data"] = {**stated["data"], "workers": config.workers}
    return TrainConfig.model_validate(stated)


def training_inputs(config: UNetReproductionConfig, entry: PolymorphData, system: str) -> str:
    """Digest of the settings and crystals of a training."""
    settings = trainings.settings_of(training_of(config, entry, system), {"data"})
    return digest_of({"settings": settings, "crystals": parts_of(config, entry, task_of(system)).fingerprint})


# --- the metrics ------------------------------------------------------------------------------------------------------


def measure_inputs(config: UNetReproductionConfig, key: ResultKey) -> dict[str, Any]:
    """What the metrics of a system depend on.

    Raises: NotReadyError: if the system is not trained, or there is nothing to ask for.
    """
    entry, task = config.dataset(key.dataset), task_of(key.stage)
    inputs: dict[str, Any] = {
        "crystals": parts_of(config, entry, task).fingerprint,
        "targets": targets_of(config, entry, task).digest,
        "seed": config.seed,
    }
    if key.system in (COPY, SAME):
        return inputs
    sampler = {"sampler": config.sample.sampler, "chunk_size": config.sample.chunk_size, "walked_as": key.system}
    return {**inputs, "checkpoint": checkpoint_of(config, key)[1], **sampler}


def checkpoint_of(config: UNetReproductionConfig, key: ResultKey) -> tuple[str, str]:
    """The trained checkpoint and its digest.

    Raises: NotReadyError: if it is not trained, or was trained with other settings.
    """
    training = training_key(key.dataset, key.system)
    inputs = training_inputs(config, config.dataset(key.dataset), training.system)
    return trainings.checkpoint_of(config, training, inputs, f"{training.system} on {key.dataset}")


def measure(config: UNetReproductionConfig, key: ResultKey, progress: Progress) -> Made:
    """Ask a system for the test crystals, and count those that came."""
    targets = targets_of(config, config.dataset(key.dataset), task_of(key.stage))
    copies = _copies(config, key)
    known = [bool(copies.templates(request)) for request in _requests(targets)]
    if key.system in (COPY, SAME):
        drawn, budget = _without_network(config, key, targets, copies), {"n": len(targets.crystals)}
    else:
        drawn, budget = _drawn(config, key, targets, progress)
    return Made(metrics_of(drawn, targets, known), budget)


def metrics_of(
    drawn: Sequence[Crystal | None], targets: Targets, template_known: Sequence[bool]
) -> tuple[Measured, ...]:
    """The paper's match rate at three sets of tolerances, in parts, and how often the space group was the asked one.

    Args:
        drawn: one crystal per target, None where there is none.
        targets: what was asked.
        template_known: whether the training part holds a crystal of the target's space group and pattern of counts.
    """
    from dft.potentials.ground_state import symmetry

    found = airi_accuracy(drawn, targets.crystals)
    metrics = [share_error(replace(metric, name=f"match rate{metric.name[8:]}")) for metric in found.metrics]
    hits = [outcome is True for outcome in found.per_sample["fits_x1"]]
    small = [len(crystal.atomic_numbers) <= 8 for crystal in targets.crystals]
    for name, member in (
        ("match rate, prototype known", list(template_known)),
        ("match rate, prototype new", [not known for known in template_known]),
        ("match rate, at most 8 atoms", small),
        ("match rate, more than 8 atoms", [not one for one in small]),
    ):
        chosen = [hit for hit, one in zip(hits, member, strict=True) if one]
        metrics.append(share_error(percentage(PROTOCOL, name, sum(chosen), len(chosen), {}, of="targets")))
    numbers = [None if c is None else (symmetry(c.to_structure()) or (None,))[0] for c in drawn]
    asked = [(group, number) for group, number in zip(targets.spacegroups, numbers, strict=True) if group is not None]
    same = sum(group == number for group, number in asked)
    name = "asked space group"
    metrics.append(share_error(percentage(PROTOCOL, name, same, len(asked), {"symprec_ang": SYMPREC_ANG})))
    return tuple(metrics)


def _copies(config: UNetReproductionConfig, key: ResultKey) -> PrototypeSubstitution:
    """The baseline that copies the closest prototype among the training crystals."""
    from generative.systems.baselines.substitution import PrototypeSubstitution

    train = parts_of(config, config.dataset(key.dataset), task_of(key.stage)).train
    return PrototypeSubstitution.of(train.crystals, train.spacegroups, {"temperature": 0.0})


def _requests(targets: Targets) -> list[Request]:
    """Cell and space group of every target, and its formation energy where it is known."""
    told = zip(targets.crystals, targets.spacegroups, targets.energies_ev_per_atom, strict=True)
    return [Request.for_atoms(crystal.atomic_numbers, group, energy) for crystal, group, energy in told]


def _without_network(
    config: UNetReproductionConfig, key: ResultKey, targets: Targets, copies: PrototypeSubstitution
) -> list[Crystal | None]:
    """One crystal per target: the source as it is, or the closest prototype."""
    from generative.sampling import chunk_generator

    if key.system == SAME:
        return list(targets.sources)
    rng = chunk_generator(config.seed, "copy", 0)
    return [found.crystal for found in copies.draw(_requests(targets), rng)]


def _drawn(
    config: UNetReproductionConfig, key: ResultKey, targets: Targets, progress: Progress
) -> tuple[list[Crystal | None], dict[str, Any]]:
    """One crystal per target by a trained system, None where it is none; and what drawing took."""
    from generative.metrics.validity import unreadable
    from generative.systems.interface import Change, Generator, Modifier
    from generative.systems.unet.structure_matrix_system import StructureMatrixSystem

    sampler = dict(config.sample.sampler)
    if key.system == "unet-ddim":  # the weights of unet-ddpm, walked without noise
        sampler["deterministic"] = True
    requests = _requests(targets)
    # The energies of targets for modification are changes from their sources'.
    changes = [Change(*asked) for asked in zip(targets.spacegroups, targets.energies_ev_per_atom, strict=True)]

    def draw(system: StructureMatrixSystem, rows: slice, rng: torch.Generator) -> list[Crystal]:
        settings = system.sampler_settings(sampler)
        if key.stage == "modify":
            assert isinstance(system, Modifier)  # a modifier draws as a generator too, but from crystals of its own
            return system.modify(targets.sources[rows], changes[rows], rng, settings)
        assert isinstance(system, Generator)
        return system.sample(requests[rows], rng, settings)

    plan = Plan(
        checkpoint=checkpoint_of(config, key)[0],
        kind=StructureMatrixSystem,  # type: ignore[type-abstract]  # of which the checkpoint holds a concrete one
        ids=[str(number) for number in range(len(requests))],
        asked=[request.digest for request in requests],
        inputs=measure_inputs(config, key),
        computed_by=_drawn,
        draw=draw,
        network=lambda system: system.network,
    )
    drawn = in_chunks(config, key, plan, progress)
    return [None if unreadable(crystal) else crystal for crystal in drawn.crystals], drawn.sampling


class ConditionalUNet(Paper[UNetReproductionConfig]):
    """Four generators and three modifiers, beside copied prototypes and unchanged sources."""

    measurements: Mapping[str, Measurement[UNetReproductionConfig]] = {
        "generate": Measurement(measure_inputs, measure),
        "modify": Measurement(measure_inputs, measure),
    }

    def keys(self, stage: str) -> Iterator[ResultKey]:
        """See Paper.keys."""
        config = self.config
        systems = {
            "train": tuple(dict.fromkeys(TRAINED_AS.get(name, name) for name in config.generators + config.modifiers)),
            "generate": (*config.generators, COPY) if config.generators else (),
            "modify": (*config.modifiers, COPY, SAME) if config.modifiers else (),
        }
        yield from (ResultKey(stage, entry.name, system) for entry in config.datasets for system in systems[stage])

    def trained_as(self, key: ResultKey) -> ResultKey | None:
        """See Paper.trained_as."""
        return None if key.system in (COPY, SAME) else training_key(key.dataset, key.system)

    def training(self, key: ResultKey) -> TrainConfig:
        """See Paper.training."""
        return training_of(self.config, self.config.dataset(key.dataset), key.system)

    def training_inputs(self, key: ResultKey) -> str:
        """See Paper.training_inputs."""
        return training_inputs(self.config, self.config.dataset(key.dataset), key.system)

    def begin(self, key: ResultKey, settings: TrainConfig, folder: Path, callbacks: Sequence[Callback]) -> Path:
        """See Paper.begin; standard settings are kept for all trainings of a data set."""
        from tasks.train.training import train_on

        parts = parts_of(self.config, self.config.dataset(key.dataset), task_of(key.system))
        return train_on(
            parts.train, None, settings, folder, callbacks, cache=self.config.folder / key.dataset / "settings",
            data_fingerprint_sha256=parts.fingerprint,
        )  # fmt: skip

    def report(self, found: Collected[UNetReproductionConfig]) -> Report:
        """See Paper.report."""
        from tasks.papers.unet.tables import report_of

        return report_of(found)
