"""What the systems are asked for, and who answers: test crystals and known structures, by their group and their sites.

Every system is asked for the same crystals in the words that it heeds: the adaptive-cell model and `wyckoff` for the
space group and numbers of sites, the others for the group and the atoms of the primitive cell, which tells them more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.adaptive_cell_reproduction import LOWEST_GROUP, MODEL, AdaptiveCellReproductionConfig
from generative.crystal.crystals import Crystal, crystals_of
from generative.datasets.config import FilesSource
from tasks.files import key_of, write_table
from tasks.papers import trainings
from tasks.papers.results import NotReadyError, Progress, ResultKey, digest_of, locked
from tasks.papers.samples import Drawn, Plan, in_chunks
from tasks.papers.test_sets import digest_of_file
from tasks.rediscovery.targets import dataset_of, formulas_in, formulas_in_labels, learned_from
from tasks.source_code import code_digest
from tasks.train.baselines import WITH_CRYSTALS, make_baseline

if TYPE_CHECKING:
    import torch

    from generative.requests import Request

WYCKOFF = "package:hullward-wyckoff"
"""The checkpoint of the system `wyckoff`: trained on these training files and more, without the test crystals."""


@dataclass(frozen=True)
class Symmetric:
    """Crystals of groups with fixed angles.

    Attributes:
        ids: as their file states them.
        crystals: in primitive cells.
        formulas: reduced.
    """

    ids: tuple[str, ...]
    crystals: tuple[Crystal, ...]
    formulas: tuple[str, ...]

    def taken(self, rows: Sequence[int]) -> Symmetric:
        """Some of the rows, in this order."""
        columns = (self.ids, self.crystals, self.formulas)
        ids, crystals, formulas = (tuple(column[i] for i in rows) for column in columns)
        return Symmetric(ids, crystals, formulas)  # type: ignore[arg-type]  # zipping three types loses which is which

    def permuted(self, seed: int) -> list[int]:
        """All rows in random order: more begin with the same as fewer."""
        return [int(i) for i in np.random.default_rng(seed).permutation(len(self.ids))]

    @cached_property
    def digest(self) -> str:
        """Of ids and crystals."""
        return digest_of({"ids": self.ids, "crystals": [crystal.digest for crystal in self.crystals]})


@lru_cache(maxsize=8)
def _table(path: str, workers: int, folder: Path) -> pa.Table:
    """The crystals of a file whose group has fixed angles."""
    table = dataset_of(FilesSource(path=path), workers, folder)
    return table.filter(pc.greater_equal(table.column("spacegroup"), LOWEST_GROUP))


def table_of(config: AdaptiveCellReproductionConfig, *paths: str) -> pa.Table:
    """The crystals of files whose groups, by spglib at 0.01 A, have cells with fixed angles; read once."""
    return pa.concat_tables([_table(path, config.workers, config.folder) for path in paths])


def _symmetric(table: pa.Table) -> Symmetric:
    ids, formulas = (tuple(table.column(name).to_pylist()) for name in ("source_id", "formula"))
    return Symmetric(ids, tuple(c for c in crystals_of(table) if c is not None), formulas)


def test_crystals(config: AdaptiveCellReproductionConfig) -> Symmetric:
    """The test set: what generated crystals are compared with."""
    return _test_crystals(config.data.test, config.workers, config.folder)


@lru_cache(maxsize=2)
def _test_crystals(path: str, workers: int, folder: Path) -> Symmetric:
    return _symmetric(_table(path, workers, folder))


def test_features(config: AdaptiveCellReproductionConfig) -> np.ndarray:
    """Features of the test set by the shipped network, (n, f), computed once a process."""
    return _test_features(config.data.test, config.workers, config.folder)


@lru_cache(maxsize=2)
def _test_features(path: str, workers: int, folder: Path) -> np.ndarray:
    from generative.metrics.network_features import network_features

    return network_features(_test_crystals(path, workers, folder).crystals, workers).values


def training_table(config: AdaptiveCellReproductionConfig) -> pa.Table:
    """The training crystals, without those whose ids the test set holds."""
    table = table_of(config, *config.data.train)
    tested = table_of(config, config.data.test).column("source_id").combine_chunks()
    return table.filter(pc.invert(pc.is_in(table.column("source_id"), value_set=tested)))


def training_crystals(config: AdaptiveCellReproductionConfig) -> Symmetric:
    """As many of them as are generated, at random: the paper's check of its metrics."""
    return _training_crystals(config.model_dump_json())


@lru_cache(maxsize=2)
def _training_crystals(words: str) -> Symmetric:
    config = AdaptiveCellReproductionConfig.model_validate_json(words)
    found = _symmetric(training_table(config))
    return found.taken(found.permuted(config.seed)[: config.data.n_generate])


def targets(config: AdaptiveCellReproductionConfig) -> Symmetric:
    """The test crystals whose group and sites are asked for, drawn with the seed."""
    return _targets(config.model_dump_json())


@lru_cache(maxsize=2)
def _targets(words: str) -> Symmetric:
    config = AdaptiveCellReproductionConfig.model_validate_json(words)
    return _first(test_crystals(config), config.seed, config.data.n_generate, lambda request: True)


def known_structures(config: AdaptiveCellReproductionConfig) -> Symmetric:
    """The known structures that are asked for, drawn with the seed among those of the settings' rule.

    Of formulas that no system has learned from, in any of its training files.

    Raises: NotReadyError: if there are none.
    """
    return _known_structures(config.model_dump_json())


@lru_cache(maxsize=2)
def _known_structures(words: str) -> Symmetric:
    config = AdaptiveCellReproductionConfig.model_validate_json(words)
    rule = config.known
    table, seen = table_of(config, rule.crystals), learned_formulas(config)
    rows = table.select(["formula", "n_elements", "e_above_hull_ev_per_atom"]).to_pylist()
    fit = [
        row["n_elements"] in rule.n_elements
        and row["e_above_hull_ev_per_atom"] is not None
        and row["e_above_hull_ev_per_atom"] <= rule.e_above_hull_max_ev_per_atom
        and row["formula"] not in seen
        for row in rows
    ]
    eligible = _symmetric(table.filter(pa.array(fit)))
    few = rule.n_sites_max
    found = _first(eligible, config.seed, rule.n_structures, lambda one: sum(n for _, n in one.sites) <= few)
    if not found.ids:
        raise NotReadyError(
            f"{rule.crystals} holds no structure of {rule.n_elements} elements and at most {rule.n_sites_max} sites, "
            f"{rule.e_above_hull_max_ev_per_atom:g} eV/atom above the hull at most, whose formula is new to all systems"
        )
    return found


def _first(among: Symmetric, seed: int, n: int, fit: Callable[[Request], bool]) -> Symmetric:
    """The first n in random order whose sites can be asked for, and fit."""
    from generative.systems.adaptive_cell.system import AdaptiveCell

    chosen: list[int] = []
    for row in among.permuted(seed):
        request = AdaptiveCell.request_like(among.crystals[row])
        if len(chosen) < n and (request.spacegroup or 0) >= LOWEST_GROUP and fit(request):
            chosen.append(row)
        if len(chosen) == n:
            break
    return among.taken(chosen)


def learned_formulas(config: AdaptiveCellReproductionConfig) -> set[str]:
    """Reduced formulas that some system which is asked for known structures has learned from."""
    crystals, labels = list(config.data.train), list[str]()
    checkpoints = [config.checkpoint] if config.checkpoint else []
    checkpoints += [WYCKOFF] if "wyckoff" in config.known.systems else []
    for checkpoint in checkpoints:
        named = learned_from(checkpoint)
        crystals, labels = [*crystals, *named[0]], [*labels, *named[1]]
    found = formulas_in_labels(dict.fromkeys(labels))
    for path in dict.fromkeys(crystals):
        found |= formulas_in(path, config.workers, config.folder)
    return found


# --- who answers ------------------------------------------------------------------------------------------------------


def training_key(config: AdaptiveCellReproductionConfig) -> ResultKey:
    """The training that gives the model its weights."""
    return ResultKey("train", config.data.name, MODEL)


def training_inputs(config: AdaptiveCellReproductionConfig) -> str:
    """Digest of the training's settings and files, or of the checkpoint that is taken over."""
    if config.checkpoint is not None:
        from generative.checkpoints import digest

        return digest_of({"checkpoint": digest(config.checkpoint)})
    files = [digest_of_file(path) for path in (*config.data.train, config.data.test)]
    settings = trainings.settings_of(config.training_of_model(), trainings.FILES)
    return digest_of({"settings": settings, "files": files})


def checkpoint_of(config: AdaptiveCellReproductionConfig, system: str) -> tuple[str, str]:
    """The checkpoint of a system and its digest; a baseline's is made.

    Raises: NotReadyError: if the model is not trained.
    """
    from generative.checkpoints import digest

    if system == MODEL:
        return trainings.checkpoint_of(config, training_key(config), training_inputs(config), MODEL)
    if system == "wyckoff":
        return WYCKOFF, digest(WYCKOFF)
    key = key_of("baseline", make_baseline, files=[digest_of_file(p) for p in (*config.data.train, config.data.test)])
    folder = config.folder / config.data.name / system / f"made-{key[:16]}"
    with locked(folder):
        if not (folder / "checkpoint" / "model.json").is_file():
            table = training_table(config) if system in WITH_CRYSTALS else None
            crystals = None if table is None else str(write_table(table, folder / "templates.parquet").path)
            groups = None if table is None else table.column("spacegroup").to_pylist()
            make_baseline(system, crystals, folder / "checkpoint", spacegroups=groups)
    return str(folder / "checkpoint"), digest(str(folder / "checkpoint"))


def sampler_of(config: AdaptiveCellReproductionConfig, system: str) -> dict[str, Any]:
    """Settings of a system's sampler: those of `sample` are the model's."""
    return dict(config.sample.sampler) if system == MODEL else {}


def drawing_inputs(config: AdaptiveCellReproductionConfig, system: str) -> dict[str, Any]:
    """What a system's crystals depend on, beside what it is asked for.

    Raises: NotReadyError: if it is not trained.
    """
    from generative.checkpoints import generator_type

    checkpoint, digest = checkpoint_of(config, system)
    return {
        "checkpoint": digest,
        "code": code_digest(generator_type(checkpoint)),
        "sampler": sampler_of(config, system),
        "chunk_size": config.sample.chunk_size,
        "seed": config.seed,
    }


def drawn(
    config: AdaptiveCellReproductionConfig, key: ResultKey, asked: Symmetric, progress: Progress, n_samples: int = 1
) -> Drawn:
    """A system's answers: `n_samples` for each crystal in turn.

    Raises: NotReadyError: if it is not trained.
    """
    from generative.checkpoints import generator_type
    from generative.requests import Request, in_turn
    from generative.systems.adaptive_cell.system import AdaptiveCell
    from generative.systems.interface import Generator

    checkpoint = checkpoint_of(config, key.system)[0]
    heeds = generator_type(checkpoint).heeds
    likes = [AdaptiveCell.request_like(crystal) for crystal in asked.crystals]
    if "sites" not in heeds:
        pairs = zip(asked.crystals, likes, strict=True)
        likes = [Request.for_atoms(crystal.atomic_numbers, like.spacegroup) for crystal, like in pairs]
    requests = in_turn([like for like in likes for _ in range(n_samples)], heeds)

    def draw(system: Generator, rows: slice, rng: torch.Generator) -> list[Crystal]:
        return system.sample(requests[rows], rng, system.sampler_settings(sampler_of(config, key.system)))

    plan = Plan(
        checkpoint=checkpoint,
        kind=Generator,  # type: ignore[type-abstract]  # of which the checkpoint holds a concrete one
        ids=[f"{name}#{number}" for name in asked.ids for number in range(1, n_samples + 1)],
        asked=[request.digest for request in requests],
        inputs=drawing_inputs(config, key.system),
        computed_by=drawn,
        draw=draw,
        # The baselines have no network: no call of theirs is counted.
        network=lambda system: system.network if isinstance(system, AdaptiveCell) else system,
    )
    return in_chunks(config, key, plan, progress)


def sites_text(crystal: Crystal) -> tuple[str, int]:
    """Sites and group of a crystal as readers see them, such as ('Cu2 K Si', 62)."""
    from generative.systems.adaptive_cell.system import AdaptiveCell

    request = AdaptiveCell.request_like(crystal)
    return " ".join(f"{symbol}{n if n > 1 else ''}" for symbol, n in request.sites), request.spacegroup or 1
