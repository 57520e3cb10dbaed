"""What a run would find done: its stages walked in their order, each asked for its files, and none computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from configs.schema import DiscoverConfig
from storage.checksums import DamagedFileError
from tasks.discover.judge import judge_chunk_file, judge_names, opinions_wanted
from tasks.discover.judge_choice import chosen_file
from tasks.discover.known import references_file
from tasks.discover.phonons import best, phonon_file
from tasks.discover.rank import rank_file
from tasks.discover.relax import relax_chunk_file, relax_chunks
from tasks.discover.run import RunFolder, read_manifest
from tasks.discover.sample import sample_chunk_file, sample_chunks
from tasks.discover.screen import screen_chunk_file, unique_file
from tasks.discover.second_opinion import second_opinion_file
from tasks.files import FileRef, NotYetThereError, only_looking
from tasks.loading import PotentialIdentity


class Found:
    """The parts of a stage by their numbers, None for those that are not there; empty where they are not known yet."""

    def __init__(self, parts: Sequence[FileRef | None] = ()) -> None:
        """So many parts."""
        self.parts = list(parts)

    @property
    def n_done(self) -> int:
        """How many are there."""
        return sum(ref is not None for ref in self.parts)

    @property
    def left(self) -> float:
        """What is left to do of 1."""
        return 1 - self.n_done / len(self.parts) if self.parts else 1.0

    @property
    def all(self) -> list[FileRef]:
        """Every part, if none is missing; else nothing."""
        found = [ref for ref in self.parts if ref is not None]
        return found if len(found) == len(self.parts) else []


def there(stage: Callable[[], FileRef]) -> FileRef | None:
    """What a stage would find done; None where it would compute."""
    with suppress(NotYetThereError, DamagedFileError), only_looking():
        return stage()
    return None


class Done:
    """What is done of a run, stage by stage.

    Attributes:
        sampled: chunks of candidates, as are the next two.
        screened: likewise.
        relaxed: likewise; their number is known when all have been screened.
        competing: chunks of competing phases.
        ranked: one table.
        judged: chunks of the judge and the committee.
        phonons: of the best, one by one.
    """

    def __init__(
        self, config: DiscoverConfig, folder: Path, identity: PotentialIdentity | None, dataset: FileRef | None
    ) -> None:
        """Look.

        Args:
            config: of the run.
            folder: of the run.
            identity: the potential that relaxed there before, if it is the one that would now.
            dataset: known crystals, if they are there.
        """
        n = len(sample_chunks(config))
        self.sampled, self.screened = Found([None] * n), Found([None] * n)
        self.relaxed, self.competing, self.ranked, self.judged, self.phonons = (Found() for _ in range(5))
        if identity is None or dataset is None:
            return
        self.sampled = Found([there(partial(sample_chunk_file, config, folder, dataset, i)) for i in range(n)])
        self.screened = Found(
            [ref and there(partial(screen_chunk_file, config, folder, ref, dataset)) for ref in self.sampled.parts]
        )
        if (phases := there(lambda: references_file(config, folder, dataset))) is not None:
            self.competing = _relaxed(config, folder, identity, phases, shared=True)
        if not (screened := self.screened.all):
            return
        if (unique := there(lambda: unique_file(config, folder, screened))) is None:
            return
        self.relaxed = _relaxed(config, folder, identity, unique, shared=False)
        relaxed, competing = self.relaxed.all, self.competing.all
        if relaxed and competing:
            ranked = there(lambda: rank_file(config, folder, identity, dataset, unique, relaxed, competing))
            self.ranked = Found([ranked])
            if ranked is not None:
                self._of_the_best(config, folder, identity, ranked, competing)

    def _of_the_best(
        self,
        config: DiscoverConfig,
        folder: Path,
        identity: PotentialIdentity,
        ranked: FileRef,
        competing: list[FileRef],
    ) -> None:
        final: FileRef | None = ranked
        if names := judge_names(config):
            said = read_manifest(RunFolder(folder)).get("judges", [])
            judges = [PotentialIdentity.model_validate(one) for one in said]
            if len(judges) != len(names) or any(a.stands_in_for(b) for a, b in zip(judges, names, strict=True)):
                return
            if (chosen := there(lambda: chosen_file(config, folder, ranked, competing))) is None:
                return
            wanted = opinions_wanted(config, judges, chosen)
            self.judged = Found([there(partial(judge_chunk_file, config, folder, one, chosen)) for one in wanted])
            if not (judged := self.judged.all):
                return
            opinions = [identity, *judges]
            final = there(lambda: second_opinion_file(config, folder, opinions, ranked, chosen, judged))
            identity = judges[0] if config.phonons.potential == "judge" else identity
        if final is not None:
            self.phonons = Found(
                [
                    there(partial(phonon_file, config, folder, identity, row["id"], crystal))
                    for row, crystal in best(final, config.phonons.n_best)
                ]
            )


def _relaxed(
    config: DiscoverConfig, folder: Path, identity: PotentialIdentity, source: FileRef, *, shared: bool
) -> Found:
    return Found(
        [
            there(partial(relax_chunk_file, config, folder, identity, source, n, shared))
            for n in relax_chunks(source, config)
        ]
    )
