"""Crystals of the reproduction of conditional generation and modification: pooled, divided by formula, made targets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from configs.paths import resolve
from configs.unet_reproduction import PolymorphData, UNetReproductionConfig
from generative.config import DataConfig, FilesSource, FilterConfig
from generative.crystal.crystals import Crystal
from generative.crystal.standard_setting import in_standard_settings
from generative.datasets.ingest import ingest
from generative.datasets.manifest import is_whole, read_dataset
from generative.datasets.polymorphs import PairRule, PairSet, formula_split, generation_targets
from generative.training.data import TrainingError, TrainingSet, training_set
from storage.atomic import write_text
from tasks.papers.results import NotReadyError, locked

Task = Literal["generate", "modify"]


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


def kept_settings(config: UNetReproductionConfig, dataset: str) -> Path:
    """Where standard settings are kept, for all trainings of a data set."""
    return config.folder / dataset / "settings"


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
    place, name = Path(folder), entry["property_name"]
    table, digest = _table(entry["files"], place / "crystals", entry["max_atoms"], workers)
    if entry["test"] is None:
        pool = training_set(table, (), name)
        train, test = (pool.subset(rows) for rows in formula_split(pool.crystals, share, seed))
    else:
        tested, other = _table([entry["test"]], place / "test-crystals", entry["max_atoms"], workers)
        digest += other
        train = training_set(table, tested.column("source_id").to_pylist(), name)
        test = training_set(tested, (), name)
    if not len(train) or not len(test):
        hint = "" if entry["test"] else "; data of one formula need `test`"
        raise NotReadyError(f"{len(table)} crystals leave {len(train)} for training, {len(test)} for the test{hint}")
    word = json.dumps([digest, train.ids, test.ids]).encode()
    test.crystals = in_standard_settings(test.crystals, workers, place / "settings")
    return Parts(train, test, hashlib.sha256(word).hexdigest())


def _table(files: Sequence[str], target: Path, max_atoms: int, workers: int) -> tuple[pa.Table, str]:
    """Checked crystals of files with their energies and space groups, and the table's digest; ingested once."""
    data = DataConfig(
        sources=tuple(FilesSource(path=path) for path in files),
        filters=FilterConfig(n_atoms_max=max_atoms),
        workers=workers,
    )
    asked = data.model_dump_json(exclude={"workers"})
    marker = target.with_suffix(".json")
    with locked(target.parent):
        if not marker.is_file() or marker.read_bytes() != asked.encode() or not is_whole(target):
            ingest(data, None, target, resolve)
            write_text(marker, asked)
    dataset = read_dataset(target)
    return dataset.table, dataset.manifest.fingerprint_sha256


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
