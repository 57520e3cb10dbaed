"""How the results of ConditionCDVAE+ are made again: Tables 1 to 3, crystals for an energy and for a formula.

The model and three others are trained on the same crystals. They reconstruct test crystals, generate, and are relaxed;
the two conditional variants are asked for energies and formulas, each beside the same model asked for nothing
(asked.py). Energies are judged by a CGCNN that no generator has seen, and by a potential.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.condition_reproduction import (
    FLOW,
    FOR_ENERGIES,
    FOR_FORMULAS,
    FOR_PROPERTIES,
    ConditionData,
    ConditionReproductionConfig,
)
from generative.crystal.crystals import Crystal
from generative.metrics.coverage import MP_20, TIGHT, coverage
from generative.metrics.generation import fingerprint_sets, prints_of
from generative.metrics.magpie import cdvae_scaler
from generative.metrics.metric import Metric
from generative.training.config import TrainConfig
from tasks.loading import potential_code
from tasks.papers.condition_cdvae import asked, drawing, properties
from tasks.papers.ground_states import relaxation_inputs, relaxed_first
from tasks.papers.protocols import (
    generation_metrics,
    reconstruction_metrics,
    regression_metrics,
)
from tasks.papers.results import Made, Measured, Progress, ResultKey, share_error
from tasks.papers.stages import Measurement, Paper

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback

    from tasks.papers.page import Report
    from tasks.papers.report import Collected

# --- Table 1 ----------------------------------------------------------------------------------------------------------


def reconstruct_inputs(config: ConditionReproductionConfig, key: ResultKey) -> dict[str, Any]:
    """What the metrics of a reconstruction depend on.

    Raises: NotReadyError: if the system is not trained.
    """
    return {**drawing.drawing_inputs(config, key), "n": config.dataset(key.dataset).n_reconstruct}


def reconstruct(config: ConditionReproductionConfig, key: ResultKey, progress: Progress) -> Made:
    """Encode and decode test crystals, and match each with what came."""
    drawn = drawing.reconstructed(config, key, progress)
    truths = drawing.targets(config, config.dataset(key.dataset)).crystals
    return Made(reconstruction_metrics(drawn.crystals, truths, config.workers), drawn.sampling)


# --- Table 2 ----------------------------------------------------------------------------------------------------------


def generate_inputs(config: ConditionReproductionConfig, key: ResultKey) -> dict[str, Any]:
    """What the metrics of generation depend on.

    Raises: NotReadyError: if the system is not trained.
    """
    entry = config.dataset(key.dataset)
    counts = {"n": entry.n_generate, "beside": entry.n_beside, "drawn": config.n_drawn}
    return {**drawing.drawing_inputs(config, key), **counts}


def generate(config: ConditionReproductionConfig, key: ResultKey, progress: Progress) -> Made:
    """Crystals of which nothing is asked, beside the test set."""
    drawn = drawing.generated(config, key, progress)
    progress(f"measuring {key.name}", 0, 1)
    return Made(_beside_test_set(config, key.dataset, drawn.crystals), drawn.sampling)


def _beside_test_set(
    config: ConditionReproductionConfig, dataset: str, crystals: Sequence[Crystal]
) -> tuple[Measured, ...]:
    """The published metrics, and coverage at tight cut-offs."""
    truths = drawing.beside(config, config.dataset(dataset))
    cache, workers = config.folder / dataset / "fingerprints", config.workers
    published = generation_metrics(
        crystals, truths, MP_20, dataset, None, config.n_drawn, config.seed, cache, True, workers
    )  # fmt: skip
    sides = fingerprint_sets(prints_of(crystals, workers, cache), prints_of(truths, workers, cache), cdvae_scaler())
    tight = coverage(*sides, TIGHT)
    shares = []
    for name, value, n in (
        ("COV-R, tight", tight.cov_recall, len(truths)),
        ("COV-P, tight", tight.cov_precision, len(crystals)),
    ):
        settings = {"structure": TIGHT.structure, "composition": TIGHT.composition}
        shares.append(share_error(Metric("cdvae generation", name, 100 * value, "%", n, tight.reason, settings)))
    return (*published, *shares)


def ceiling_inputs(config: ConditionReproductionConfig, key: ResultKey) -> dict[str, Any]:
    """What the metrics of real crystals depend on."""
    entry = config.dataset(key.dataset)
    return {
        "crystals": drawing.parts_of(config, entry).fingerprint,
        "n": [entry.n_generate, entry.n_reconstruct, entry.n_beside, config.n_drawn],
        "energies": entry.property_name,
        "within": [config.energies.targets, config.energies.within],
        "seed": config.seed,
    }


def ceiling(config: ConditionReproductionConfig, key: ResultKey, progress: Progress) -> Made:
    """Real crystals in the place of drawn ones: test crystals for reconstructed, training crystals for generated.

    Of the energies of all training crystals the metrics of those that are asked for stand here: what drawing at random
    from the data reaches.
    """
    entry = config.dataset(key.dataset)
    parts, own = drawing.parts_of(config, entry), drawing.targets(config, entry).crystals
    rows = drawing.rows_of(len(parts.train), entry.n_generate, config.seed)
    metrics = [
        *reconstruction_metrics(own, own, config.workers),
        *_beside_test_set(config, key.dataset, [parts.train.crystals[row] for row in rows]),
    ]
    curves: dict[str, list[list[float]]] = {}
    if entry.property_name is not None:
        known = [value for value in parts.train.energies if value is not None]
        curves = {asked.JUDGED: [[float(i), value] for i, value in enumerate(known)]}
        for target in config.energies.targets:
            found = asked.number_metrics(f"to{target:g}", known, entry.unit, target, config.energies.within)
            metrics += found
    return Made(tuple(metrics), {"n": len(rows)}, curves)


# --- Table 3 ----------------------------------------------------------------------------------------------------------


def relax_inputs(config: ConditionReproductionConfig, key: ResultKey) -> dict[str, Any]:
    """What the metrics of relaxed crystals depend on.

    Raises: NotReadyError: if the system is not trained.
    """
    n_generate = config.dataset(key.dataset).n_generate
    return {**drawing.drawing_inputs(config, key), **relaxation_inputs(config.relaxations, n_generate)}


def relax(config: ConditionReproductionConfig, key: ResultKey, progress: Progress) -> Made:
    """The first valid generated crystals relaxed: how many come to rest, in how many steps, how far down."""
    valid = asked.valid_ones(drawing.generated(config, replace(key, stage="generate"), progress))
    return relaxed_first(config, config.relaxations, valid, key, progress)


class ConditionCDVAEPaper(Paper[ConditionReproductionConfig]):
    """The model, plain and asked, beside three others."""

    trainings = ("train", "judge")
    measurements: Mapping[str, Measurement[ConditionReproductionConfig]] = {
        "ceiling": Measurement(ceiling_inputs, ceiling),
        "reconstruct": Measurement(reconstruct_inputs, reconstruct),
        "generate": Measurement(generate_inputs, generate),
        "relax": Measurement(relax_inputs, relax, lambda config: potential_code(config.relaxations.relax)),
        "energies": Measurement(asked.energies_inputs, asked.for_energy, asked.code_of_potential),
        "formulas": Measurement(asked.formulas_inputs, asked.for_formula),
        "labels": Measurement(properties.labels_inputs, properties.labels),
        "properties": Measurement(properties.properties_inputs, properties.for_properties),
        "readings": Measurement(properties.readings_inputs, properties.readings),
        "latents": Measurement(asked.latents_inputs, asked.latents),
    }

    def keys(self, stage: str) -> Iterator[ResultKey]:
        """See Paper.keys; where a data set states no numbers, none are asked for."""
        for entry in self.config.datasets:
            yield from self._keys_of(stage, entry)

    def _keys_of(self, stage: str, entry: ConditionData) -> Iterator[ResultKey]:
        """Results of a stage on one data set."""
        config, made, name = self.config, self.config.systems_on(entry), entry.name
        plain = [system for system in made if system not in (FOR_ENERGIES, FOR_FORMULAS, FOR_PROPERTIES)]
        told = entry.property_name is not None
        conditional = [system for system in made if system in (FOR_ENERGIES, FOR_FORMULAS) and told]
        of_properties = [system for system in made if system == FOR_PROPERTIES and entry.properties]
        if stage == "train":
            yield from (drawing.training_key(name, system) for system in (*plain, *conditional, *of_properties))
        elif stage == "judge":
            yield from (ResultKey(stage, name) for _ in conditional[:1])
            yield from (ResultKey(stage, name, "", one.name) for one in entry.properties if of_properties)
        elif stage == "ceiling":
            yield from (ResultKey(stage, name) for _ in (*plain, *conditional)[:1])
        elif stage in ("reconstruct", "generate"):
            out = FLOW if stage == "reconstruct" else ""
            yield from (ResultKey(stage, name, system) for system in plain if system != out)
        elif stage == "relax" and name == config.relaxations.dataset:
            yield from (ResultKey(stage, name, system) for system in plain if system in config.relaxations.systems)
        elif stage == "energies" and FOR_ENERGIES in conditional:
            yield from (asked.target_key(name, target) for target in (None, *config.energies.targets))
        elif stage == "formulas" and FOR_FORMULAS in conditional and config.formulas.formulas:
            yield from (asked.formula_key(name, formula) for formula in (None, *config.formulas.formulas))
        elif stage == "labels":
            yield from (ResultKey(stage, name) for _ in of_properties)
        elif stage == "properties" and of_properties:
            yield from properties.target_keys(entry)
        elif stage == "readings":
            of_numbers = [system for system in (*conditional, *of_properties) if system != FOR_FORMULAS]
            yield from properties.reading_keys(entry, of_numbers)
        elif stage == "latents":
            yield from (ResultKey(stage, name, system) for system in conditional)

    def trained_as(self, key: ResultKey) -> ResultKey | None:
        """See Paper.trained_as."""
        return drawing.training_key(key.dataset, key.system) if key.system else None

    def training(self, key: ResultKey) -> TrainConfig:
        """See Paper.training."""
        return drawing.settings_of(self.config, key)

    def training_inputs(self, key: ResultKey) -> str:
        """See Paper.training_inputs."""
        return drawing.training_inputs(self.config, key)

    def begin(self, key: ResultKey, settings: TrainConfig, folder: Path, callbacks: Sequence[Callback]) -> Path:
        """See Paper.begin; bonds are kept for all trainings of a data set."""
        from tasks.train.training import train_on

        parts = drawing.parts_of(self.config, self.config.dataset(key.dataset))
        return train_on(
            drawing.trained_on(parts, key), None, settings, folder, callbacks,
            cache=self.config.folder / key.dataset / "bonds", data_fingerprint_sha256=parts.fingerprint,
        )  # fmt: skip

    def tried(self, key: ResultKey, checkpoint: Path) -> tuple[Measured, ...]:
        """See Paper.tried: the network that judges, on the test crystals."""
        if key.system:
            return ()
        from tasks.loading import checkpoint as load

        entry = self.config.dataset(key.dataset)
        test = drawing.labelled(drawing.parts_of(self.config, entry).test, key.reverse)
        unit = entry.asked_property(key.reverse).unit if key.reverse else entry.unit
        predicted = load(str(checkpoint), self.config.execution).regressor.predict(test.crystals, ())
        return regression_metrics(predicted, np.array(test.energies, dtype=float), unit)

    def report(self, found: Collected[ConditionReproductionConfig]) -> Report:
        """See Paper.report."""
        from tasks.papers.condition_cdvae.tables import report_of

        return report_of(found)
