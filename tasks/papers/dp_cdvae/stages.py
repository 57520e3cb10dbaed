"""How the tables of DP-CDVAE are made again: six systems that reconstruct, generate and are relaxed.

Every system, and an energy regressor, is trained on every data set at one budget (Tables 1 to 3 and S1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.reproduction import DatasetEntry, ReproductionConfig
from generative.crystal.crystals import Crystal
from generative.datasets.config import DataConfig, FilesSource, FilterConfig
from generative.metrics.coverage import CARBON_24, MP_20, PEROV_5, Cutoffs
from generative.metrics.generation import Energies
from generative.settings_errors import validated
from generative.systems.cdvae.config import CDVAESampler
from generative.training.config import TrainConfig
from tasks.evaluate.energies import Regressor, load_regressor, regressed_energies
from tasks.loading import potential_code
from tasks.papers import trainings
from tasks.papers.ground_states import relaxation_inputs, relaxed_first
from tasks.papers.protocols import (
    generation_metrics,
    reconstruction_metrics,
    regression_metrics,
)
from tasks.papers.results import Made, Measured, NotReadyError, Progress, ResultKey, digest_of
from tasks.papers.samples import Drawn, Plan, in_chunks, on_device
from tasks.papers.stages import Measurement, Paper
from tasks.papers.test_sets import CrystalSet, digest_of_file, made_ready

if TYPE_CHECKING:
    import torch
    from lightning.pytorch.callbacks import Callback

    from generative.crystal.bonds import Bonds
    from generative.systems.cdvae.system import CDVAE
    from tasks.papers.page import Report
    from tasks.papers.report import Collected

REGRESSOR = "dimenet-regressor"
CUTOFFS: dict[str, Cutoffs] = {"perov-5": PEROV_5, "carbon-24": CARBON_24, "mp-20": MP_20}


# --- training ---------------------------------------------------------------------------------------------------------


def training_key(dataset: str, system: str) -> ResultKey:
    """A system's training; that of the regressor where `system` is empty."""
    return ResultKey("train" if system else "regressor", dataset, system)


def training_of(config: ReproductionConfig, entry: DatasetEntry, system: str) -> TrainConfig:
    """The settings of one training.

    Args:
        config: holds what all have in common.
        entry: the data set.
        system: its name; empty for the regressor.
    """
    common = config.training if system else config.regressor
    sizes: dict[str, Any] = {"size": config.size, **common.system}
    if system:
        sizes["max_atoms"] = entry.max_atoms
    stated = common.model_dump() | {
        "name": "model",
        "kind": system or REGRESSOR,
        "seed": config.seed,
        "data": DataConfig(
            sources=(FilesSource(path=entry.train),),
            filters=FilterConfig(n_atoms_max=entry.max_atoms),
            workers=config.workers,
        ).model_dump(),
        "exclude": entry.test,
        "validation": entry.validation,
        "property": None if system else entry.property_name,
        "system": sizes,
        "device": config.execution.device,
        "torch_threads": config.execution.torch_threads,
    }
    if entry.validation is not None:  # then there is no part to be held out, and the settings refuse to name one
        stated = {name: value for name, value in stated.items() if name not in ("validation_fraction", "split")}
    if system:
        stated["max_steps"] = entry.max_steps or common.max_steps
        stated["batch_crystals"] = entry.batch_crystals or common.batch_crystals
    return TrainConfig.model_validate(stated)


def training_inputs(config: ReproductionConfig, entry: DatasetEntry, system: str) -> str:
    """Digest of the settings and files of a training."""
    settings = trainings.settings_of(training_of(config, entry, system), trainings.FILES)
    files = [digest_of_file(path) for path in (entry.train, entry.test, entry.validation) if path is not None]
    return digest_of({"settings": settings, "files": files, "n_atoms_max": entry.max_atoms})


def checkpoint_of(config: ReproductionConfig, dataset: str, system: str) -> tuple[str, str]:
    """The trained checkpoint and its digest; where only the result of its training is here, the digest that it states.

    Raises: NotReadyError: if it is not trained, or was trained with other settings.
    """
    what = f"{system or 'the energy regressor'} on {dataset}"
    inputs = training_inputs(config, config.dataset(dataset), system)
    return trainings.checkpoint_of(config, training_key(dataset, system), inputs, what)


# --- test crystals and their energies ---------------------------------------------------------------------------------


def test_set(config: ReproductionConfig, entry: DatasetEntry) -> CrystalSet:
    """The test crystals of a data set.

    Raises: tasks.discover.own_files.OwnFileError: if not one can be read.
    """
    kept_as = config.folder / entry.name / "test.parquet"
    return made_ready(entry.test, kept_as, entry.max_atoms, entry.property_name)


def targets(config: ReproductionConfig, entry: DatasetEntry) -> CrystalSet:
    """The test crystals that are reconstructed: all, or `n_reconstruct` of them drawn with the seed, in their order.

    Raises: NotReadyError: if there are none.
    """
    found = test_set(config, entry)
    rows = found.drawn(entry.n_reconstruct, config.seed)
    if not rows:
        raise NotReadyError(f"{entry.test} holds no crystal of at most {entry.max_atoms} atoms to be reconstructed")
    return found.taken(sorted(rows))


def bonds_of(config: ReproductionConfig, entry: DatasetEntry, crystals: Sequence[Crystal]) -> list[Bonds | None]:
    """CrystalNN's bonds of these cells, kept between runs."""
    from generative.crystal.bonds import crystal_nn_bonds

    return crystal_nn_bonds(crystals, workers=config.workers, cache=config.folder / entry.name / "bonds")


def regressor_inputs(config: ReproductionConfig, entry: DatasetEntry) -> str:
    """Digest or name of the regressor; empty where it is not trained, which leaves energies undefined."""
    if entry.energy_regressor is not None:
        return load_regressor(entry.energy_regressor, config.execution).name
    try:
        return checkpoint_of(config, entry.name, "")[1]
    except NotReadyError:
        return ""


def _regressor(config: ReproductionConfig, entry: DatasetEntry) -> Regressor:
    from tasks.loading import checkpoint as load

    if entry.energy_regressor is not None:
        return load_regressor(entry.energy_regressor, config.execution)
    checkpoint, digest = checkpoint_of(config, entry.name, "")
    system = load(checkpoint, config.execution).regressor
    return Regressor(system, f"DimeNet++ regressor {digest[:12]} of {entry.property_name}")


def energies_of(
    config: ReproductionConfig,
    entry: DatasetEntry,
    key: ResultKey,
    crystals: Sequence[Crystal],
    truths: Sequence[Crystal],
) -> tuple[Energies | None, tuple[str, ...]]:
    """Energies of both sides by the data set's regressor; or None, and the sentence that says why there are none."""
    try:
        regressor = _regressor(config, entry)
    except NotReadyError as reason:
        return None, (f"No distance of energies: {reason}.",)
    bonds = bonds_of(config, entry, truths)
    return regressed_energies(regressor, crystals, truths, config.workers, key.folder(config) / "bonds", bonds), ()


# --- decoding ---------------------------------------------------------------------------------------------------------


def decoder(config: ReproductionConfig, reverse: str) -> CDVAESampler:
    """The settings of decoding, with the reverse step named; one without a choice keeps them."""
    named = {} if reverse == "langevin" else {"reverse": reverse}
    return validated(CDVAESampler, {**config.sample.sampler, **named}, "the CDVAE family", "sample.sampler")


def decoding_inputs(config: ReproductionConfig, key: ResultKey) -> dict[str, Any]:
    """What decoded crystals depend on, beside the code.

    Raises: NotReadyError: if the system is not trained.
    """
    return {
        "checkpoint": checkpoint_of(config, key.dataset, key.system)[1],
        "sampler": decoder(config, key.reverse).model_dump(mode="json"),
        "chunk_size": config.sample.chunk_size,
        "seed": config.seed,
    }


def _decoded(
    config: ReproductionConfig,
    key: ResultKey,
    ids: Sequence[str],
    asked: Sequence[str],
    computed_by: Callable[..., Drawn],
    decode: Callable[[CDVAE, slice, torch.Generator], list[Crystal]],
    progress: Progress,
) -> Drawn:
    from generative.systems.cdvae.system import CDVAE

    plan = Plan(
        checkpoint=checkpoint_of(config, key.dataset, key.system)[0],
        kind=CDVAE,
        ids=ids,
        asked=asked,
        inputs=decoding_inputs(config, key),
        computed_by=computed_by,
        draw=lambda system, rows, rng: decode(system, rows, on_device(rng, system.lattice_shift.device)),
        network=lambda system: system.denoiser,
    )
    return in_chunks(config, key, plan, progress)


def reconstructed(config: ReproductionConfig, key: ResultKey, progress: Progress) -> Drawn:
    """One crystal for each target, encoded and decoded.

    Raises: NotReadyError: if the system is not trained.
    """
    entry = config.dataset(key.dataset)
    truths, settings, size = targets(config, entry), decoder(config, key.reverse), config.sample.chunk_size
    bonds = bonds_of(config, entry, truths.crystals)

    def decode(system: CDVAE, rows: slice, rng: torch.Generator) -> list[Crystal]:
        return system.reconstruct(truths.crystals[rows], rng, settings, bonds[rows], size)

    digests = [crystal.digest for crystal in truths.crystals]
    return _decoded(config, key, truths.ids, digests, reconstructed, decode, progress)


def generated(config: ReproductionConfig, key: ResultKey, progress: Progress) -> Drawn:
    """Crystals decoded from the prior.

    Raises: NotReadyError: if the system is not trained.
    """
    settings, size = decoder(config, key.reverse), config.sample.chunk_size
    ids = tuple(str(number) for number in range(config.dataset(key.dataset).n_generate))

    def decode(system: CDVAE, rows: slice, rng: torch.Generator) -> list[Crystal]:
        return system.generate(len(ids[rows]), rng, settings, size)

    return _decoded(config, key, ids, ids, generated, decode, progress)


# --- Tables 1 and S1 --------------------------------------------------------------------------------------------------


def reconstruct_inputs(config: ReproductionConfig, key: ResultKey) -> dict[str, Any]:
    """What the metrics of a reconstruction depend on.

    Raises: NotReadyError: if the system is not trained.
    """
    entry = config.dataset(key.dataset)
    decoding = decoding_inputs(config, key)
    return {**decoding, "n": entry.n_reconstruct, "test": digest_of_file(entry.test), "max_atoms": entry.max_atoms}


def reconstruct(config: ReproductionConfig, key: ResultKey, progress: Progress) -> Made:
    """Encode and decode test crystals, and match each with what came (Table 1; with Eq. 6, Table S1)."""
    drawn = reconstructed(config, key, progress)
    truths = targets(config, config.dataset(key.dataset)).crystals
    return Made(reconstruction_metrics(drawn.crystals, truths, config.workers), drawn.sampling)


# --- Table 2 ----------------------------------------------------------------------------------------------------------


def generate_inputs(config: ReproductionConfig, key: ResultKey) -> dict[str, Any]:
    """What the metrics of generation depend on.

    Raises: NotReadyError: if the system is not trained.
    """
    entry = config.dataset(key.dataset)
    return {
        **decoding_inputs(config, key),
        "n": entry.n_generate,
        "n_drawn": config.n_drawn,
        "test": digest_of_file(entry.test),
        "max_atoms": entry.max_atoms,
        "regressor": regressor_inputs(config, entry),
    }


def _compared(
    config: ReproductionConfig, key: ResultKey, crystals: Sequence[Crystal], progress: Progress
) -> tuple[tuple[Measured, ...], tuple[str, ...]]:
    """Crystals beside the test set: metrics, and notes."""
    entry = config.dataset(key.dataset)
    truths = test_set(config, entry).crystals
    energies, notes = energies_of(config, entry, key, crystals, truths)
    progress(f"measuring {key.name}", 0, 1)
    metrics = generation_metrics(
        crystals, truths, CUTOFFS[entry.name], entry.test, energies, config.n_drawn, config.seed,
        config.folder / entry.name / "fingerprints", entry.name != "carbon-24", config.workers,
    )  # fmt: skip
    return metrics, notes


def generate(config: ReproductionConfig, key: ResultKey, progress: Progress) -> Made:
    """Decode crystals from the prior, and compare them with the test set (Table 2)."""
    drawn = generated(config, key, progress)
    metrics, notes = _compared(config, key, drawn.crystals, progress)
    return Made(metrics, drawn.sampling, notes=notes)


def ceiling_inputs(config: ReproductionConfig, key: ResultKey) -> dict[str, Any]:
    """What the metrics of real crystals depend on."""
    entry = config.dataset(key.dataset)
    return {
        "files": [digest_of_file(entry.train), digest_of_file(entry.test)],
        "n": [entry.n_generate, entry.n_reconstruct, config.n_drawn],
        "max_atoms": entry.max_atoms,
        "seed": config.seed,
        "regressor": regressor_inputs(config, entry),
    }


def ceiling(config: ReproductionConfig, key: ResultKey, progress: Progress) -> Made:
    """What crystals as real as can be get: test crystals against themselves, training crystals as if generated.

    Coverage grows with the number of samples, and the published gate refuses some true crystals: without these metrics
    a reader would blame the systems for both.
    """
    entry = config.dataset(key.dataset)
    own = targets(config, entry).crystals
    kept_as = config.folder / entry.name / "training.parquet"
    known = made_ready(entry.train, kept_as, entry.max_atoms, entry.property_name)
    drawn = known.taken(known.drawn(entry.n_generate, config.seed)).crystals
    metrics, notes = _compared(config, key, drawn, progress)
    return Made((*reconstruction_metrics(own, own, config.workers), *metrics), notes=notes)


# --- Table 3 ----------------------------------------------------------------------------------------------------------


def ground_state_inputs(config: ReproductionConfig, key: ResultKey) -> dict[str, Any]:
    """What the metrics of the ground-state test depend on.

    Raises: NotReadyError: if the system is not trained.
    """
    n_generate = config.dataset(key.dataset).n_generate
    return {**decoding_inputs(config, key), **relaxation_inputs(config.ground_state, n_generate)}


def relax(config: ReproductionConfig, key: ResultKey, progress: Progress) -> Made:
    """Relax generated crystals under pressure, and compare them with what they became (Table 3)."""
    drawn = generated(config, replace(key, stage="generate"), progress)
    return relaxed_first(config, config.ground_state, drawn, key, progress)


class DPCDVAE(Paper[ReproductionConfig]):
    """Six systems and an energy regressor on each data set."""

    trainings = ("train", "regressor")
    measurements: Mapping[str, Measurement[ReproductionConfig]] = {
        "ceiling": Measurement(ceiling_inputs, ceiling),
        "reconstruct": Measurement(reconstruct_inputs, reconstruct),
        "generate": Measurement(generate_inputs, generate),
        "ground-state": Measurement(
            ground_state_inputs, relax, lambda config: potential_code(config.ground_state.relax)
        ),
    }

    def keys(self, stage: str) -> Iterator[ResultKey]:
        """See Paper.keys."""
        config = self.config
        for entry in config.datasets:
            if stage in ("regressor", "ceiling"):
                yield ResultKey(stage, entry.name)
                continue
            for system in config.systems:
                if stage == "train":
                    yield training_key(entry.name, system)
                elif stage == "reconstruct":
                    yield from (ResultKey(stage, entry.name, system, way) for way in config.reverses_of(system))
                elif stage == "generate" or (entry.name, system) in config.ground_state.pairs:
                    yield ResultKey(stage, entry.name, system, config.reverse_of_samples(system))

    def without(self) -> Mapping[ResultKey, str]:
        """See Paper.without: the one data set of the ground-state test may not be chosen."""
        dataset = self.config.ground_state.dataset
        if dataset in {entry.name for entry in self.config.datasets}:
            return {}
        return {ResultKey("ground-state", dataset): "the data set is not among those chosen"}

    def trained_as(self, key: ResultKey) -> ResultKey | None:
        """See Paper.trained_as."""
        return training_key(key.dataset, key.system) if key.system else None

    def training(self, key: ResultKey) -> TrainConfig:
        """See Paper.training."""
        return training_of(self.config, self.config.dataset(key.dataset), key.system)

    def training_inputs(self, key: ResultKey) -> str:
        """See Paper.training_inputs."""
        return training_inputs(self.config, self.config.dataset(key.dataset), key.system)

    def begin(self, key: ResultKey, settings: TrainConfig, folder: Path, callbacks: Sequence[Callback]) -> Path:
        """See Paper.begin; bonds are kept for all trainings of a data set."""
        from tasks.train.training import train

        return train(settings, folder, callbacks, cache=self.config.folder / key.dataset / "bonds")

    def tried(self, key: ResultKey, checkpoint: Path) -> tuple[Measured, ...]:
        """See Paper.tried: the regressor, on the test crystals."""
        if key.system:
            return ()
        from tasks.loading import checkpoint as load

        entry = self.config.dataset(key.dataset)
        found = test_set(self.config, entry)
        regressor = load(str(checkpoint), self.config.execution).regressor
        predicted = regressor.predict(found.crystals, bonds_of(self.config, entry, found.crystals))
        return regression_metrics(predicted, found.values, "eV/atom")

    def report(self, found: Collected[ReproductionConfig]) -> Report:
        """See Paper.report."""
        from tasks.papers.dp_cdvae.tables import report_of

        return report_of(found)
