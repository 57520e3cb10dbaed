"""Proposers that learn from what a campaign finds.

After every `learning.every_rounds` rounds a checkpoint is made of each proposer that can learn, and of all finds so
far, whichever systems and proposers they are from: relaxed crystals, new and near the hull by the potential that
relaxed them (the judge is asked at the end alone). From then on the proposer's candidates come from it, in all systems.

- It is made of the checkpoint that the settings name, never of one that has learned already, so no find counts twice
  and the result depends on no history: checkpoint, finds and settings are its key. Where nothing was found since, the
  key is the same, and the checkpoint that is there goes on.
- It is a generator of its own beside the one that it was made of (`sample.learned` of the system's run), with its own
  name, NAME-after-ROUND: so every candidate says which checkpoint drew it, its id names that checkpoint's digest, and
  manifest, lineage and report have it as any other. Only yields and shares count both as one proposer.
- It answers the plan from its beginning, in places of its own behind all others. A generator that ranks answers each
  request by its turn: were it to go on where the other stopped, whatever it now ranks first for compositions that were
  asked for before would never be drawn. What comes a second time is turned away before relaxation, as any repeat, and
  costs its drawing alone; so is what is like a find of the system as it has relaxed.

A proposer that cannot learn stays as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from configs.campaign import CampaignConfig, learned_name
from generative.config import GeneratorShare, LearnedGenerator
from generative.crystal.crystals import Crystal, crystals_of
from tasks.campaign.systems import CampaignError
from tasks.files import FileRef, key_of, refuse_to_compute

logger = logging.getLogger(__name__)


class Learned(BaseModel):
    """What a proposer has become.

    Attributes:
        proposer: its name.
        after_round: the last round whose finds it has learned from, from 0.
        checkpoint: the folder.
        sha256: of the checkpoint.
        key: what it was made from.
        n_finds: it has learned from.
        left_out: finds it cannot learn from, by their ids: why.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    proposer: str
    after_round: int
    checkpoint: str
    sha256: str
    key: str
    n_finds: int
    left_out: dict[str, str]

    @property
    def name(self) -> str:
        """Of the checkpoint."""
        return learned_name(self.proposer, self.after_round)

    @property
    def generator(self) -> LearnedGenerator:
        """As the settings of a system's run have it."""
        return LearnedGenerator(checkpoint=self.checkpoint, name=self.name, learned_from=self.proposer)


def learners(config: CampaignConfig) -> list[GeneratorShare]:
    """The proposers that will learn; none in a campaign that does not.

    Raises: CampaignError: if proposers are to learn, and none of them can.
        CheckpointError: if a checkpoint holds no generator.
    """
    from generative.checkpoints import generator_type
    from generative.systems.interface import Learner

    if config.learning.every_rounds is None:
        return []
    able = [entry for entry in config.proposers if issubclass(generator_type(entry.checkpoint), Learner)]
    if not able:
        names = ", ".join(entry.label for entry in config.proposers)
        raise CampaignError(
            f"learning.every_rounds is {config.learning.every_rounds}, but none of the proposers ({names}) can learn "
            "from finds: name one of kind wyckoff, or set it to null"
        )
    return able


def after_learning(
    config: CampaignConfig, before: Sequence[Learned], finds: FileRef, number: int
) -> tuple[Learned, ...]:
    """What proposers have become when a round begins, in the order in which they did.

    Args:
        config: of the campaign.
        before: the same of the round before.
        finds: of all rounds so far, columns tasks.campaign.finds.FINDS.
        number: of the round that is to begin.

    Raises: as learners.
    """
    every = config.learning.every_rounds
    if every is None or not number or number % every or not len(finds.read_columns("id")):
        return tuple(before)
    present = {one.proposer: one.key for one in before}
    made = [_learned(config, entry, finds, number - 1, present.get(entry.label)) for entry in learners(config)]
    return (*before, *(one for one in made if one is not None))


def _learned(
    config: CampaignConfig, entry: GeneratorShare, finds: FileRef, after_round: int, present: str | None
) -> Learned | None:
    """What a proposer becomes by all finds; None where it is that already, by the key of what it was made from."""
    from generative.checkpoints import digest, generator_type

    table = finds.read()
    crystals = {name: c for name, c in zip(table.column("id").to_pylist(), crystals_of(table, "relaxed_"), strict=True)}
    found = {name: crystal for name, crystal in crystals.items() if crystal is not None}
    key = key_of(
        "learned",
        _learned,
        generator_type(entry.checkpoint),
        checkpoint=digest(entry.checkpoint),
        finds=[(name, crystal.digest) for name, crystal in found.items()],
        votes=config.learning.votes,
    )
    if key == present:
        return None
    folder = config.folder / "learned" / learned_name(entry.label, after_round)
    said = _said_by(folder, key)
    if said is None:
        refuse_to_compute(folder)
        said = _make(folder, entry.checkpoint, found, config.learning.votes, key)
    return Learned(
        proposer=entry.label,
        after_round=after_round,
        checkpoint=str(folder),
        sha256=digest(str(folder)),
        key=key,
        n_finds=len(said["finds"]) - len(said["left_out"]),
        left_out=said["left_out"],
    )


def _said_by(folder: Path, key: str) -> dict[str, Any] | None:
    """What the checkpoint that lies there says of its making; None if damaged, of another key, or not there."""
    from generative.checkpoints import CheckpointError, load

    if not folder.is_dir():
        return None
    try:
        said: dict[str, Any] = load(str(folder)).training.get("learned", {})
    except CheckpointError as error:
        logger.warning("%s: it is made again", error)
        return None
    return said if said.get("key") == key else None


def _make(folder: Path, checkpoint: str, found: Mapping[str, Crystal], votes: float, key: str) -> dict[str, Any]:
    """Write the checkpoint; what it says of its making."""
    import torch

    from generative.checkpoints import load, save
    from generative.systems.interface import Learner

    base = load(checkpoint)
    assert isinstance(base.system, Learner)  # asked of those alone that can
    reasons = base.system.learn(list(found.values()), votes)
    left_out = {name: reason for name, reason in zip(found, reasons, strict=True) if reason}
    said = {"key": key, "finds": list(found), "left_out": left_out, "votes": votes}
    # In full precision, so that what has not been learned anew is as it was.
    save(
        folder,
        base.system,
        {"learned": said, "init_sha256": base.digest, "init_training": base.training},
        torch.float32,
    )
    return said
