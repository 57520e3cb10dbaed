"""What is trained and measured in the reproduction of conditional generation and modification."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from configs.unet_reproduction import PolymorphData, UNetReproductionConfig
from generative.crystal.crystals import Crystal
from generative.metrics.reconstruction_sets import airi_accuracy
from generative.metrics.shares import percentage
from generative.requests import Request
from generative.training.config import TrainConfig
from storage.progress import LabelledProgress as Progress
from tasks.papers import trainings
from tasks.papers.results import Made, Measured, Place, Result, digest_of, kept, locked, share_error
from tasks.papers.unet.data import Targets, Task, kept_settings, parts_of, targets_of
from tasks.papers.unet.places import COPY, SAME, TRAINED_AS, train_place

if TYPE_CHECKING:
    from generative.systems.baselines.substitution import PrototypeSubstitution

PROTOCOL = "airi accuracy"
SYMPREC_ANG = 0.1
"""At which a generated crystal's space group is told, as elsewhere in Hullward."""


def task_of(word: str) -> Task:
    """Which task a system is trained for, or a stage tests."""
    return "modify" if "modify" in word else "generate"


# --- training ---------------------------------------------------------------------------------------------------------


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
    settings = training_of(config, entry, system).model_dump(mode="json", exclude=trainings.MACHINE | {"data"})
    return digest_of({"settings": settings, "crystals": parts_of(config, entry, task_of(system)).fingerprint})


def trained(config: UNetReproductionConfig, place: Place, callbacks: Sequence[Any] = ()) -> Result:
    """Train a system on a data set, going on where an interrupted training of the same settings stopped.

    Raises: generative.training.loop.TrainingError: if the data do not suffice, or a loss stops being finite.
    """
    from tasks.train.training import train_on

    entry, folder = config.dataset(place.dataset), place.folder(config)
    inputs = training_inputs(config, entry, place.system)
    with locked(folder):
        found = Result.read(place.file(config))
        if found is not None and found.inputs == inputs and (folder / "model" / "model.json").is_file():
            return replace(found, reused=True)
        trainings.clear_unless(folder, inputs)
        settings, parts = training_of(config, entry, place.system), parts_of(config, entry, task_of(place.system))
        checkpoint = train_on(
            parts.train, None, settings, folder, callbacks, cache=kept_settings(config, entry.name),
            data_fingerprint_sha256=parts.fingerprint,
        )  # fmt: skip
        result = trainings.training_result(config, place, settings, inputs, checkpoint)
        result.write(place.file(config))
        return result


# --- the figures ------------------------------------------------------------------------------------------------------


def measure_inputs(config: UNetReproductionConfig, place: Place) -> dict[str, Any]:
    """What the figures of a system depend on.

    Raises: NotReadyError: if the system is not trained, or there is nothing to ask for.
    """
    entry, task = config.dataset(place.dataset), task_of(place.stage)
    inputs: dict[str, Any] = {
        "crystals": parts_of(config, entry, task).fingerprint,
        "targets": targets_of(config, entry, task).digest,
        "seed": config.seed,
    }
    if place.system in (COPY, SAME):
        return inputs
    sampler = {"sampler": config.sample.sampler, "chunk_size": config.sample.chunk_size, "walked_as": place.system}
    return {**inputs, "checkpoint": _checkpoint(config, place)[1], **sampler}


def measured(config: UNetReproductionConfig, place: Place, progress: Progress) -> Result:
    """Ask a system for the test crystals, and count those that came.

    Raises: NotReadyError: if the system is not trained, or there is nothing to ask for.
    """

    def make() -> Made:
        entry = config.dataset(place.dataset)
        targets = targets_of(config, entry, task_of(place.stage))
        started = time.perf_counter()
        drawn = _drawn(config, place, targets, progress)
        seconds = time.perf_counter() - started
        known = _has_template(config, place, targets)
        budget = {"n": len(drawn), "seconds": round(seconds, 2), "device": str(config.execution.device)}
        return Made(figures_of(drawn, targets, known), budget)

    return kept(config, place, measured, measure_inputs(config, place), make)


def figures_of(
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
    figures = [share_error(replace(figure, name=f"match rate{figure.name[8:]}")) for figure in found.figures]
    hits = [outcome is True for outcome in found.per_sample["fits_x1"]]
    small = [len(crystal.atomic_numbers) <= 8 for crystal in targets.crystals]
    for name, member in (
        ("match rate, prototype known", list(template_known)),
        ("match rate, prototype new", [not known for known in template_known]),
        ("match rate, at most 8 atoms", small),
        ("match rate, more than 8 atoms", [not one for one in small]),
    ):
        chosen = [hit for hit, one in zip(hits, member, strict=True) if one]
        figures.append(share_error(percentage(PROTOCOL, name, sum(chosen), len(chosen), {}, of="targets")))
    numbers = [None if c is None else (symmetry(c.to_structure()) or (None,))[0] for c in drawn]
    asked = [(group, number) for group, number in zip(targets.spacegroups, numbers, strict=True) if group is not None]
    same = sum(group == number for group, number in asked)
    name = "asked space group"
    figures.append(share_error(percentage(PROTOCOL, name, same, len(asked), {"symprec_ang": SYMPREC_ANG})))
    return tuple(figures)


def _checkpoint(config: UNetReproductionConfig, place: Place) -> tuple[str, str]:
    training = train_place(place.dataset, place.system)
    inputs = training_inputs(config, config.dataset(place.dataset), training.system)
    what = f"{TRAINED_AS.get(place.system, place.system)} on {place.dataset}"
    return trainings.checkpoint_of(config, training, inputs, what)


def _copies(config: UNetReproductionConfig, place: Place) -> PrototypeSubstitution:
    """The baseline that copies the closest prototype among the training crystals."""
    from generative.systems.baselines.substitution import PrototypeSubstitution

    train = parts_of(config, config.dataset(place.dataset), task_of(place.stage)).train
    return PrototypeSubstitution.of(train.crystals, train.spacegroups, {"temperature": 0.0})


def _has_template(config: UNetReproductionConfig, place: Place, targets: Targets) -> list[bool]:
    copies = _copies(config, place)
    return [bool(copies.templates(request)) for request in _requests(targets)]


def _requests(targets: Targets) -> list[Request]:
    """Cell and space group of every target, and its formation energy where it is known."""
    told = zip(targets.crystals, targets.spacegroups, targets.energies_ev_per_atom, strict=True)
    return [Request.for_atoms(crystal.atomic_numbers, group, energy) for crystal, group, energy in told]


def _drawn(config: UNetReproductionConfig, place: Place, targets: Targets, progress: Progress) -> list[Crystal | None]:
    """One crystal per target."""
    from generative.metrics.validity import unreadable
    from generative.sampling import chunk_generator
    from generative.systems.interface import Change
    from tasks.loading import checkpoint as load

    if place.system == SAME:
        return list(targets.sources)
    requests = _requests(targets)
    if place.system == COPY:
        rng = chunk_generator(config.seed, "copy", 0)
        return [found.crystal for found in _copies(config, place).draw(requests, rng)]
    loaded, sampler = load(_checkpoint(config, place)[0], config.execution), dict(config.sample.sampler)
    if place.system == "unet-ddim":  # the weights of unet-ddpm, walked without noise
        sampler["deterministic"] = True
    settings, size = loaded.system.sampler_settings(sampler), config.sample.chunk_size
    drawn: list[Crystal | None] = []
    for chunk, first in enumerate(range(0, len(requests), size)):
        rows = slice(first, first + size)
        rng = chunk_generator(config.seed, place.stage, chunk)  # the same noise for every system
        if place.stage == "modify":
            # The energies of targets for modification are changes from their sources'.
            asked = zip(targets.spacegroups[rows], targets.energies_ev_per_atom[rows], strict=True)
            changes = [Change(group, change) for group, change in asked]
            found = loaded.modifier.modify(targets.sources[rows], changes, rng, settings)
        else:
            found = loaded.generator.sample(requests[rows], rng, settings)
        drawn += [None if unreadable(crystal) else crystal for crystal in found]
        progress(place.name, len(drawn), len(requests))
    return drawn
