"""From files that were read to metrics: each part of a protocol, what it needs, and why it is left out where it is.

A part is left out, with one sentence, where what it needs was not given; an explicit request that cannot be met is an
error instead. Everything shared by several parts (fingerprints, relaxation, pairing) is made once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from configs.evaluation import JudgeConfig
from generative.crystal.crystals import Crystal, crystals_of
from generative.metrics.metric import Evaluation, Metric, Setting
from storage.progress import LabelledProgress as Progress
from tasks.evaluate.relaxation import RelaxedSamples, relax_samples
from tasks.evaluate.samples import EvaluationError, Pairing, ReadCrystals, paired
from tasks.evaluate.standards import cutoffs_of, scaler_of

if TYPE_CHECKING:
    from generative.metrics.adaptive_cell import Activations
    from generative.metrics.generation import Energies, Prints
    from generative.metrics.magpie import Scaler
    from generative.metrics.reconstruction import Reconstruction
    from generative.screening.matching import ReferenceSet


class LeftOutError(Exception):
    """A part that cannot be computed from what was given; the message is the sentence for the report."""


@dataclass(frozen=True)
class Known:
    """The training set.

    Attributes:
        name: with its digest, as metrics state it.
        table: crystals, with the columns that choose competing phases where a dataset has them.
        n_records: records read, those that could not be a crystal included.
        digest: of what was read.
        phases: all competing phases: the training set and those of further files.
        phases_name: what they are.
    """

    name: str
    table: pa.Table
    n_records: int
    digest: str
    phases: pa.Table
    phases_name: str


@dataclass
class Judgement:
    """Samples, what they are compared with, and what has been made of them so far.

    Attributes:
        samples: as read.
        reference: true crystals, or None.
        known: training set, or None.
        config: what is measured.
        progress: told of long work.
        left_out: part -> why it was not computed.
        columns: per-sample columns, one value per sample.
        seconds: wall time by part, s.
    """

    samples: ReadCrystals
    reference: ReadCrystals | None
    known: Known | None
    config: JudgeConfig
    progress: Progress = lambda what, done, total: None
    left_out: dict[str, str] = field(default_factory=dict)
    columns: dict[str, list[Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def evaluations(self) -> tuple[Evaluation, ...]:
        """Every part that was asked for and can be computed, in order."""
        return tuple(self._evaluated())

    def _evaluated(self) -> Iterator[Evaluation]:
        for part in parts_of(self.config.protocols):
            started = time.perf_counter()
            try:
                evaluation = MAKERS[part](self)
            except LeftOutError as reason:
                if part in _demanded(self.config):
                    raise EvaluationError(f"{part}: {reason}") from None
                self.left_out[part] = str(reason)
                continue
            self.seconds[part] = time.perf_counter() - started
            yield evaluation

    @property
    def crystals(self) -> Sequence[Crystal | None]:
        """The samples' crystals."""
        return self.samples.crystals

    @cached_property
    def true_crystals(self) -> list[Crystal]:
        """The reference's crystals, those that cannot be read left out."""
        return [c for c in self.needed_reference.crystals if c is not None]

    @property
    def needed_reference(self) -> ReadCrystals:
        """The reference.

        Raises: LeftOutError: if there is none.
        """
        if self.reference is None:
            raise LeftOutError("it compares with true crystals, and none were given: add --reference")
        return self.reference

    @property
    def needed_known(self) -> Known:
        """The training set.

        Raises: LeftOutError: if there is none.
        """
        if self.known is None:
            raise LeftOutError("it compares with the training set, and none was given: add --train")
        return self.known

    @property
    def reference_name(self) -> str:
        """Name and digest of the reference."""
        return f"{self.needed_reference.name} ({short_digest(self.needed_reference.digest)})"

    @cached_property
    def known_set(self) -> ReferenceSet:
        """The training set for the matcher."""
        from generative.screening.matching import ReferenceSet

        table = self.needed_known.table
        pairs = zip(table.column("id").to_pylist(), crystals_of(table), strict=True)
        usable = [(name, crystal) for name, crystal in pairs if crystal is not None]
        return ReferenceSet([name for name, _ in usable], [crystal for _, crystal in usable])

    @cached_property
    def pairing(self) -> Pairing:
        """Which sample belongs to which true crystal.

        Raises: LeftOutError: if none were given, or they do not fit and need not; EvaluationError: if they must.
        """
        try:
            return paired(self.samples, self.needed_reference, self.config.targets)
        except EvaluationError as error:
            if self.config.targets != "auto":
                raise
            raise LeftOutError(str(error)) from None

    @cached_property
    def targets(self) -> list[Crystal]:
        """The true crystals that samples belong to.

        Raises: LeftOutError: if there are none.
        """
        found = [self.needed_reference.crystals[place] for place in self.pairing.targets]
        if not found:
            raise LeftOutError("no sample has a true crystal that can be read")
        return [crystal for crystal in found if crystal is not None]

    @cached_property
    def reconstruction(self) -> Reconstruction:
        """Samples matched with their targets."""
        from generative.metrics.reconstruction import Gate, evaluate

        predictions = [[self.crystals[place] for place in places] for places in self.pairing.samples]
        return evaluate(predictions, self.targets, Gate(self.config.gate), self.config.workers)

    @property
    def cache(self) -> Path | None:
        """Folder of fingerprints."""
        return None if self.config.cache is None else Path(self.config.cache)

    @cached_property
    def sample_prints(self) -> Prints:
        """Fingerprints of the samples."""
        return self._prints("fingerprints of samples", self.crystals)

    @cached_property
    def reference_prints(self) -> Prints:
        """Fingerprints of the reference."""
        return self._prints("fingerprints of reference", self.true_crystals)

    @cached_property
    def scaler(self) -> Scaler:
        """Standardisation of composition fingerprints.

        Raises: LeftOutError: if it is to be the reference's, and none of that has a fingerprint.
        """
        try:
            return scaler_of(self.config, lambda: self.reference_prints.composition.values, self.reference_name)
        except ValueError as error:
            raise LeftOutError(str(error)) from None

    def _prints(self, what: str, crystals: Sequence[Crystal | None]) -> Prints:
        from generative.metrics.generation import prints_of

        started = time.perf_counter()
        made = prints_of(crystals, self.config.workers, self.cache, lambda n, total: self.progress(what, n, total))
        self.seconds[what] = time.perf_counter() - started
        return made

    @cached_property
    def activations(self) -> Activations:
        """Features of samples and reference by the shipped network."""
        from generative.metrics.adaptive_cell import Activations
        from generative.metrics.network_features import load_network, network_features

        network, started = load_network(), time.perf_counter()
        sets = (self.crystals, self.true_crystals)
        samples, reference = (network_features(crystals, self.config.workers, network) for crystals in sets)
        self.seconds["network features"] = time.perf_counter() - started
        return Activations(samples.values, reference.values, network.name)

    @cached_property
    def energies(self) -> Energies | None:
        """Energies of samples and reference, if they are asked for."""
        from tasks.evaluate.energies import energies_of

        started = time.perf_counter()
        made = energies_of(self.config, self.crystals, self.true_crystals, self.cache)
        if made is not None:
            self.seconds["energies of samples and reference"] = time.perf_counter() - started
        return made

    @cached_property
    def relaxed(self) -> RelaxedSamples:
        """Samples relaxed, and placed on the hull of the competing phases if there are any."""
        known = self.known
        phases, name = (None, "") if known is None else (known.phases, known.phases_name)
        relaxed = relax_samples(self.samples, phases, name, self.config, self.progress)
        self.seconds |= relaxed.seconds
        return relaxed

    def keep(self, evaluation: Evaluation, places: Sequence[int] | None = None) -> Evaluation:
        """Take over the per-sample columns of an evaluation, of all samples or of those at `places`."""
        for name, values in evaluation.per_sample.items():
            column: list[Any] = [None] * len(self.samples)
            for place, value in zip(range(len(self.samples)) if places is None else places, values, strict=True):
                column[place] = value
            self.columns[f"{evaluation.protocol}: {name}"] = column
        return evaluation


def parts_of(protocols: Sequence[str]) -> tuple[str, ...]:
    """The evaluations of these protocols, each once, in the order in which they are read.

    S.U.N. relaxes its samples, so what relaxation changed comes along.
    """
    from generative.metrics.protocols import evaluations_of

    parts = evaluations_of(protocols)
    return (*parts, "ground state") if "sun" in parts and "ground state" not in parts else parts


def _demanded(config: JudgeConfig) -> frozenset[str]:
    """Parts without which a protocol that was named says nothing."""
    leading = {"airi": "airi accuracy", "adaptive-cell": "adaptive-cell", "sun": "sun"}
    return frozenset(leading[name] for name in config.protocols if name in leading)


def short_digest(digest: str) -> str:
    """A digest's first characters: enough to tell files apart."""
    kind, _, value = digest.partition(":")
    return f"{kind}:{value[:12]}" if value else digest[:12]


def _generation(judged: Judgement) -> Evaluation:
    from generative.metrics.generation import generation
    from generative.screening.composition import OxidationStates

    return judged.keep(
        generation(
            judged.crystals,
            judged.true_crystals,
            cutoffs_of(judged.config),
            reference_name=judged.reference_name,
            scaler=judged.scaler,
            states=OxidationStates(judged.config.oxidation_states),
            with_composition=judged.config.dataset != "carbon-24",
            energies=judged.energies,
            n_drawn=judged.config.n_drawn,
            seed=judged.config.seed,
            sample_prints=judged.sample_prints,
            reference_prints=judged.reference_prints,
        )
    )


def _reconstruction(judged: Judgement) -> Evaluation:
    places = [place for of_target in judged.pairing.samples for place in of_target]
    return _with_pairing(judged.keep(judged.reconstruction.as_evaluation(), places), judged)


def _reconstruction_parts(judged: Judgement) -> Evaluation:
    from generative.datasets.records import formula_of
    from generative.metrics.reconstruction_parts import by_formula, by_size, of_parts

    parts, settings = by_size(judged.targets), dict[str, Setting]()
    if judged.known is not None:
        trained = {formula_of(c.atomic_numbers) for c in crystals_of(judged.known.table) if c is not None}
        parts |= by_formula(judged.targets, trained)
        settings["known"] = judged.known.name
    return _with_pairing(of_parts(judged.reconstruction, parts, settings), judged)


def _with_pairing(evaluation: Evaluation, judged: Judgement) -> Evaluation:
    """Metrics that also say how samples found their targets, and of which reference."""
    pairing = judged.pairing
    added: dict[str, Setting] = {
        "reference": judged.reference_name,
        "compared_by": pairing.how,
        "n_targets_without_samples": pairing.n_without_samples,
        "n_targets_unreadable": pairing.n_unreadable,
        "n_samples_of_no_target": pairing.n_unnamed,
    }
    metrics: list[Metric] = [replace(f, settings={**f.settings, **added}) for f in evaluation.metrics]
    return replace(evaluation, metrics=tuple(metrics))


def _metre(judged: Judgement) -> Evaluation:
    from generative.metrics.reconstruction import Gate
    from generative.metrics.reconstruction_sets import metre

    return judged.keep(metre(judged.crystals, judged.true_crystals, Gate(judged.config.gate), judged.config.workers))


def _airi(judged: Judgement) -> Evaluation:
    from generative.metrics.reconstruction_sets import airi_accuracy

    first = [places[0] for places in judged.pairing.samples]
    evaluation = airi_accuracy([judged.crystals[place] for place in first], judged.targets)
    return _with_pairing(judged.keep(evaluation, first), judged)


def _adaptive_cell(judged: Judgement) -> Evaluation:
    from generative.metrics.adaptive_cell import adaptive_cell

    return judged.keep(
        adaptive_cell(
            judged.crystals,
            judged.true_crystals,
            reference_name=judged.reference_name,
            scaler=judged.scaler,
            seed=judged.config.seed,
            sample_prints=judged.sample_prints,
            reference_prints=judged.reference_prints,
            activations=judged.activations,
        )
    )


def _condition_novelty(judged: Judgement) -> Evaluation:
    from generative.metrics.novelty import condition_cdvae_novelty

    known = judged.needed_known
    return judged.keep(condition_cdvae_novelty(judged.crystals, judged.known_set, known.name, judged.config.workers))


def _uniqueness(judged: Judgement) -> Evaluation:
    from generative.metrics.novelty import uniqueness

    return judged.keep(uniqueness(judged.crystals))


def _novelty(judged: Judgement) -> Evaluation:
    from generative.metrics.novelty import novelty

    return judged.keep(novelty(judged.crystals, judged.known_set, judged.needed_known.name))


def _sun(judged: Judgement) -> Evaluation:
    from generative.metrics.sun import sun

    known, relaxed = judged.needed_known, judged.relaxed
    evaluation = sun(
        relaxed.relaxations.relaxed,
        judged.known_set,
        relaxed.e_above_hull_ev_per_atom,
        known_name=known.name,
        hull=relaxed.hull,
        potential=relaxed.relaxations.potential,
    )
    return judged.keep(evaluation, relaxed.places)


def _ground_state(judged: Judgement) -> Evaluation:
    from generative.metrics.ground_state import ground_state

    relaxed = judged.relaxed
    evaluation = ground_state(relaxed.relaxations, judged.config.workers)
    return judged.keep(evaluation, relaxed.places)


MAKERS: dict[str, Callable[[Judgement], Evaluation]] = {
    "cdvae generation": _generation,
    "cdvae reconstruction": _reconstruction,
    "reconstruction by part": _reconstruction_parts,
    "metre": _metre,
    "airi accuracy": _airi,
    "adaptive-cell": _adaptive_cell,
    "condition-cdvae novelty": _condition_novelty,
    "uniqueness": _uniqueness,
    "novelty": _novelty,
    "sun": _sun,
    "ground state": _ground_state,
}
"""Part -> what makes it."""
