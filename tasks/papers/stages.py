"""How the tables of any paper are made again: what a paper says of itself, and its stages as Prefect tasks.

A paper is a folder of three files. `stages.py` holds a subclass of Paper: which results there are, how its systems are
trained and what is measured of them. `claims.py` holds the paper's own numbers and sentences, `tables.py` what readers
are shown. What papers have in common stands beside this file:

    trainings.py    a training that goes on where it was killed, and its budget
    test_sets.py    files of crystals made ready, once
    samples.py      crystals drawn in chunks that are kept, and relaxed ones
    protocols.py    the metrics of the field's protocols, each with its error
    results.py      one JSON document per result, made again where its inputs or its code have changed
    claims.py       a sentence put to the paper's numbers and to ours
    report.py       results collected, tables that every paper has
    page.py         the report as HTML, Markdown, JSON and artifacts
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, cast

from prefect import task
from prefect.logging import get_run_logger

from configs.paths import AssetError
from configs.reproduction import AnyReproduction
from generative.training.config import TrainConfig
from tasks.files import key_of
from tasks.papers.report import Collected
from tasks.papers.results import (
    Config,
    Made,
    Measured,
    NotReadyError,
    Progress,
    Result,
    ResultKey,
    digest_of,
    kept,
    locked,
    silent,
)
from tasks.papers.trainings import clear_unless, training_result
from tasks.source_code import Entry

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback

    from tasks.papers.page import Report

PAPERS = {
    "dp-cdvae": "tasks.papers.dp_cdvae.stages:DPCDVAE",
    "conditional-unet": "tasks.papers.unet.stages:ConditionalUNet",
    "adaptive-cell": "tasks.papers.adaptive_cell.stages:AdaptiveCellPaper",
    "condition-cdvae": "tasks.papers.condition_cdvae.stages:ConditionCDVAEPaper",
}
"""What a configuration names as its paper -> the class that makes it again, loaded when it is named."""


class Measurement(NamedTuple, Generic[Config]):
    """A stage that measures.

    Attributes:
        inputs: what its result depends on, beside the code; raises NotReadyError where it cannot be made.
        make: makes it. The code that this function can reach is part of the result's digest.
        unseen: further code that it depends on without importing it, such as what loads a potential by its name.
    """

    inputs: Callable[[Config, ResultKey], dict[str, Any]]
    make: Callable[[Config, ResultKey, Progress], Made]
    unseen: Callable[[Config], tuple[Entry, ...]] = lambda config: ()

    def code(self, config: Config) -> tuple[Entry, ...]:
        """What computes the result, as tasks.files.key_of takes it."""
        return self.make, *self.unseen(config)


class Paper(ABC, Generic[Config]):
    """A paper that is made again with these settings.

    Attributes:
        trainings: stages that train; they come first, in this order.
        measurements: the other stages by name, in the order in which they need each other.
    """

    trainings: ClassVar[tuple[str, ...]] = ("train",)
    measurements: Mapping[str, Measurement[Config]]

    def __init__(self, config: Config) -> None:
        self.config = config

    # --- what each paper says -----------------------------------------------------------------------------------------

    @abstractmethod
    def keys(self, stage: str) -> Iterator[ResultKey]:
        """Every result that a stage has to give, in order."""

    def without(self) -> Mapping[ResultKey, str]:
        """Results of the paper that these settings have no part in, and why."""
        return {}

    @abstractmethod
    def trained_as(self, key: ResultKey) -> ResultKey | None:
        """The training that gives the system of a result its weights; None where there is none."""

    @abstractmethod
    def training(self, key: ResultKey) -> TrainConfig:
        """The settings of a training."""

    @abstractmethod
    def training_inputs(self, key: ResultKey) -> str:
        """Digest of the settings and crystals of a training."""

    @abstractmethod
    def begin(self, key: ResultKey, settings: TrainConfig, folder: Path, callbacks: Sequence[Callback]) -> Path:
        """Train, or go on; gives the checkpoint."""

    def tried(self, key: ResultKey, checkpoint: Path) -> tuple[Measured, ...]:
        """What is measured of a finished training at once."""
        return ()

    @abstractmethod
    def report(self, found: Collected[Config]) -> Report:
        """All that readers are shown of these results."""

    # --- what follows for all -----------------------------------------------------------------------------------------

    @property
    def stages(self) -> tuple[str, ...]:
        """All, in the order in which they need each other."""
        return (*self.trainings, *self.measurements)

    def train(self, key: ResultKey, callbacks: Sequence[Callback] = (), try_out: bool = True) -> Result:
        """The result of a training, gone on with where an interrupted one of the same settings stopped.

        Args:
            key: which training.
            callbacks: such as a progress artifact.
            try_out: whether what is measured of it at once is measured.

        Raises: generative.training.loop.TrainingError: if the data do not suffice, or a loss stops being finite.
        """
        inputs, folder = self.training_inputs(key), key.folder(self.config)
        with locked(folder):
            found = Result.read(key.file(self.config))
            if found is not None and found.inputs == inputs and (folder / "model" / "model.json").is_file():
                return replace(found, reused=True)
            clear_unless(folder, inputs)
            settings = self.training(key)
            checkpoint = self.begin(key, settings, folder, callbacks)
            result = training_result(self.config, key, settings, inputs, checkpoint)
            if try_out:
                result = replace(result, metrics=(*result.metrics, *self.tried(key, checkpoint)))
            result.write(key.file(self.config))
            return result

    def measure(self, key: ResultKey, progress: Progress = silent) -> Result:
        """The result of any other stage.

        Raises: NotReadyError: if a system is not trained, or another thing that it needs is not there.
        """
        way = self.measurements[key.stage]
        inputs = way.inputs(self.config, key)
        return kept(self.config, key, way.code(self.config), inputs, lambda: way.make(self.config, key, progress))

    def expected(self, key: ResultKey) -> tuple[str, str]:
        """Digests of inputs, and of inputs with code, that a result has if it is made now.

        Raises: NotReadyError, AssetError: if it cannot be made; the message says why.
        """
        if key.stage in self.trainings:
            inputs = self.training_inputs(key)
            return inputs, inputs
        way = self.measurements[key.stage]
        stated = way.inputs(self.config, key)
        return digest_of(stated), key_of(key.stage, *way.code(self.config), inputs=stated)

    def collect(self, failures: Mapping[ResultKey, str] | None = None) -> Collected[Config]:
        """The results that lie there for these settings, and for each one that does not, why.

        Args: failures: what has just failed, and how.
        """
        results: dict[ResultKey, Result] = {}
        missing: dict[ResultKey, str] = {}
        foreign = []
        every = [key for stage in self.stages for key in self.keys(stage)]
        for key in every:
            try:
                inputs, digest = self.expected(key)
            except (NotReadyError, AssetError) as reason:
                missing[key] = str(reason)
                continue
            found = Result.read(key.file(self.config))
            if found is not None and found.inputs == inputs:
                results[key] = found
                foreign += [key] if found.digest != digest else []
                continue
            default = "the stage was not run" if found is None else "it was measured with other settings or files"
            missing[key] = (failures or {}).get(key, default)
        trained_as = {key: training for key in every if (training := self.trained_as(key)) is not None}
        missing |= self.without()
        return Collected(self.config, tuple(every), results, missing, trained_as, tuple(foreign))


def paper_of(config: Config) -> Paper[Config]:
    """The paper that the configuration names."""
    module, _, name = PAPERS[config.paper].partition(":")
    kind = cast(type[Paper[Config]], getattr(importlib.import_module(module), name))
    return kind(config)


@task(name="result", task_run_name="{key.name}")
def result_task(config: AnyReproduction, key: ResultKey) -> Result:
    """Train a system, or measure one."""
    from tasks.report.run.artifacts import Progress as Artifact  # draws pictures too, so it loads on the worker
    from tasks.train.progress import steps_told

    paper = paper_of(config)
    if key.stage in paper.trainings:
        settings = paper.training(key).model_copy(update={"name": key.name})
        with Artifact(f"training-{settings.name}", f"training {settings.name}", stays=True) as artifact:
            return _logged(paper.train(key, [steps_told(settings, artifact.update)]))
    with Artifact(f"reproduce-{config.name}-{key.name}", key.name) as artifact:
        return _logged(paper.measure(key, lambda what, n, total: artifact.update(n, total, what)))


@task(name="table")
def table_task(config: AnyReproduction, failures: dict[ResultKey, str], document: Path | None) -> Path:
    """Write and publish the tables; see page."""
    from tasks.papers.page import publish, write_report  # draws pictures

    paper = paper_of(config)
    found = paper.collect(failures)
    report = paper.report(found)
    page = write_report(report, document)
    publish(report)
    for key, why in found.missing.items():
        get_run_logger().warning("%s was not measured: %s", key.name, why)
    return page


def _logged(result: Result) -> Result:
    said = ", ".join(f"{m.metric.name} {m.metric.value:.4g}" for m in result.metrics[:2])
    state = "unchanged, skipped" if result.reused else "done"
    get_run_logger().info("%s: %s%s", result.key.name, state, f" ({said})" if said else "")
    return result
