"""How the results of the adaptive-cell score model are made again: Table 1, known structures, new compounds.

One model is trained, or taken over from a checkpoint. It and three systems that need no training here are asked for the
same crystals (asked.py), and what comes is compared with the test set (table_one.py), with the structures whose group
and sites were asked for (known.py), and with the hull of chemical systems (compounds.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.adaptive_cell_reproduction import COPIES, MODEL, AdaptiveCellReproductionConfig, name_of_chemistry
from generative.crystal.crystals import Crystal
from generative.training.config import TrainConfig
from tasks.loading import potential_code
from tasks.papers.adaptive_cell import asked
from tasks.papers.adaptive_cell.compounds import compounds_inputs, look
from tasks.papers.adaptive_cell.known import known_inputs, recover
from tasks.papers.adaptive_cell.table_one import as_asked, table_one
from tasks.papers.results import Made, Measured, Progress, ResultKey
from tasks.papers.stages import Measurement, Paper

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback

    from tasks.papers.page import Report
    from tasks.papers.report import Collected


def generate_inputs(config: AdaptiveCellReproductionConfig, key: ResultKey) -> dict[str, Any]:
    """What a row of Table 1 depends on.

    Raises: NotReadyError: if the system is not trained.
    """
    drawing = {"seed": config.seed} if key.system == COPIES else asked.drawing_inputs(config, key.system)
    crystals = asked.training_crystals(config) if key.system == COPIES else asked.targets(config)
    return {**drawing, "crystals": crystals.digest, "reference": asked.test_crystals(config).digest}


def generate(config: AdaptiveCellReproductionConfig, key: ResultKey, progress: Progress) -> Made:
    """Crystals for the groups and sites of test crystals, beside the whole test set."""

    def beside_test_set(samples: Sequence[Crystal]) -> tuple[Measured, ...]:
        cache = config.folder / config.data.name / "fingerprints"
        reference, features = asked.test_crystals(config).crystals, asked.test_features(config)
        return table_one(samples, reference, features, config.data.test, config.seed, cache, config.workers)

    if key.system == COPIES:
        samples = asked.training_crystals(config).crystals
        return Made(beside_test_set(samples), {"n": len(samples)})
    likes = asked.targets(config)
    drawn = asked.drawn(config, key, likes, progress)
    progress(f"measuring {key.name}", 0, 1)
    groups = [asked.sites_text(crystal)[1] for crystal in likes.crystals]
    shares = as_asked(drawn.crystals, likes.crystals, groups, config.workers)
    return Made((*beside_test_set(drawn.crystals), *shares), drawn.sampling)


class AdaptiveCellPaper(Paper[AdaptiveCellReproductionConfig]):
    """The model beside three systems, on the data set, on known structures, and in chemical systems."""

    measurements: Mapping[str, Measurement[AdaptiveCellReproductionConfig]] = {
        "generate": Measurement(generate_inputs, generate),
        "known": Measurement(known_inputs, recover, lambda config: potential_code(config.known.relax)),
        "compounds": Measurement(compounds_inputs, look, lambda config: potential_code(config.compounds.relax)),
    }

    def keys(self, stage: str) -> Iterator[ResultKey]:
        """See Paper.keys."""
        config, dataset = self.config, self.config.data.name
        if stage == "train":
            yield from (asked.training_key(config) for system in config.systems if system == MODEL)
        elif stage == "generate":
            yield from (ResultKey(stage, dataset, system) for system in (*config.systems, COPIES))
        elif stage == "known":
            asked_known = [system for system in config.systems if system in config.known.systems]
            yield from (ResultKey(stage, dataset, system) for system in asked_known)
        else:
            names = [name_of_chemistry(elements) for elements in config.compounds.chemistries]
            chosen = [system for system in config.systems if system in config.compounds.systems]
            yield from (ResultKey(stage, name, system) for name in names for system in chosen)

    def trained_as(self, key: ResultKey) -> ResultKey | None:
        """See Paper.trained_as."""
        return asked.training_key(self.config) if key.system == MODEL else None

    def training(self, key: ResultKey) -> TrainConfig:
        """See Paper.training; of a checkpoint that is taken over those that it states."""
        if self.config.checkpoint is None:
            return self.config.training_of_model()
        from generative.checkpoints import about

        stated = about(self.config.checkpoint)["training"]["settings"]
        # Where its crystals came from stands in the checkpoint that is copied, in a form of records' own.
        return TrainConfig.model_validate({name: value for name, value in stated.items() if name != "data"})

    def training_inputs(self, key: ResultKey) -> str:
        """See Paper.training_inputs."""
        return asked.training_inputs(self.config)

    def begin(self, key: ResultKey, settings: TrainConfig, folder: Path, callbacks: Sequence[Callback]) -> Path:
        """See Paper.begin; a checkpoint that is there is copied, so that the results keep what made them."""
        if self.config.checkpoint is not None:
            from generative.checkpoints import locate

            return Path(shutil.copytree(locate(self.config.checkpoint), folder / "model"))
        from tasks.train.training import train

        return train(settings, folder, callbacks, cache=self.config.folder / self.config.data.name / "descriptions")

    def report(self, found: Collected[AdaptiveCellReproductionConfig]) -> Report:
        """See Paper.report."""
        from tasks.papers.adaptive_cell.tables import report_of

        return report_of(found)
