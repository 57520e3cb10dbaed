"""Samples judged by the protocols of the field: files in; metrics, tables beside those of papers, and a report out."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from configs.evaluation import EvaluateConfig, JudgeConfig
from configs.paths import project_version, resolve
from generative.crystal.crystals import Crystal
from generative.datasets.config import FilesSource
from storage.atomic import write_text, writing
from storage.documents import write_document
from storage.progress import LabelledProgress as Progress
from tasks.discover.own_files import formula_of, read_crystals
from tasks.evaluate.protocols import Judgement, Known, short_digest
from tasks.evaluate.samples import ReadCrystals, read_reference, read_samples
from tasks.files import write_table
from tasks.report.evaluation.model import EvaluationInput, EvaluationReport

if TYPE_CHECKING:
    from tasks.report.evaluation.plots import PlotValues

PACKAGES = ("numpy", "scipy", "pymatgen", "matminer", "smact", "spglib", "torch", "matgl", "chgnet", "numba")
"""Packages that metrics depend on."""

SETTINGS_OF_MACHINE = {"samples", "reference", "train", "phases", "out", "cache", "execution"}
"""Settings that name places or the machine; the files' names and digests stand under `inputs`."""

MOST_REFUSALS = 12


def _silent(what: str, done: int, total: int) -> None:
    pass


def evaluate(config: EvaluateConfig, progress: Progress = _silent) -> EvaluationReport:
    """Judge samples and write evaluation.json, .md, .html, per_sample.parquet and the plots into `config.folder`.

    Args:
        config: files and protocols.
        progress: told of long work.

    Raises:
        EvaluationError: if there is no sample, or a protocol that was named needs what was not given.
        SourceError: if a file is missing or of an unknown kind.
    """
    judged = read_all(read_samples(config.samples), config, progress)
    report = judge(judged, judged.samples.name)
    write_evaluation(report, judged, config.folder)
    return report


def read_all(samples: ReadCrystals, config: JudgeConfig, progress: Progress = _silent) -> Judgement:
    """Samples with the files they are compared with."""
    reference = None if config.reference is None else read_reference(config.reference)
    known = None if config.train is None else read_known(config.train, config.phases)
    return Judgement(samples, reference, known, config, progress)


def read_known(path: str, phases: Sequence[str] = ()) -> Known:
    """The training set, checked and reduced as `ingest` does it, and further competing phases.

    Raises: OwnFileError: if not a single crystal could be read.
    """
    from generative.datasets.files import portable

    table, refused = read_crystals([path])
    digests = [_digest(each) for each in (path, *phases)]
    names = [f"{portable(each)} ({short_digest(d)})" for each, d in zip((path, *phases), digests, strict=True)]
    every = read_crystals([path, *phases])[0] if phases else table
    return Known(names[0], table, len(table) + len(refused), digests[0], every, " and ".join(names))


def _digest(path: str) -> str:
    from generative.datasets.files import Files

    return Files(FilesSource(path=path), resolve(path)).database_version() or ""


def judge(judged: Judgement, name: str) -> EvaluationReport:
    """All metrics of what was read.

    Args:
        judged: samples, what they are compared with, settings; it takes over what is found of each sample.
        name: of the samples, for tables.
    """
    started = time.perf_counter()
    evaluations = judged.evaluations()
    config = judged.config
    stated = config.model_dump(mode="json", exclude=SETTINGS_OF_MACHINE)
    return EvaluationReport(
        name=name,
        dataset=config.dataset,
        task=config.task,
        gate=config.gate,
        inputs=_inputs(judged),
        evaluations=evaluations,
        left_out=dict(judged.left_out),
        notes=_notes(judged),
        refusals=refusals_of(judged.samples),
        settings=stated,
        versions=_versions(),
        seconds={**judged.seconds, "all": time.perf_counter() - started},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _inputs(judged: Judgement) -> tuple[EvaluationInput, ...]:
    read = [("samples", judged.samples), ("reference", judged.reference)]
    inputs = [EvaluationInput(role, r.name, r.digest, len(r), r.n_crystals) for role, r in read if r is not None]
    if (known := judged.known) is not None:
        name = known.name.rpartition(" (")[0]
        inputs.append(EvaluationInput("train", name, known.digest, known.n_records, len(known.table)))
    return tuple(inputs)


def _notes(judged: Judgement) -> tuple[str, ...]:
    """What a reader of the metrics must know."""
    notes = []
    if n := len(judged.samples.not_read):
        notes.append(f"{n:,} files of the samples' folder were not read, for example {judged.samples.not_read[0]}.")
    if judged.reference is not None and (n := len(judged.reference.reasons)):
        notes.append(f"{n:,} records of the reference are no crystals and were left out of it.")
    if "pairing" in vars(judged) and (n := judged.pairing.n_without_samples):
        notes.append(f"{n:,} true crystals have no sample; shares of targets leave them out.")
    if "relaxed" in vars(judged):
        relaxed = judged.relaxed
        notes.append(
            f"Energies are of {relaxed.relaxations.potential}, a machine-learned potential, not DFT; "
            f"{len(relaxed.places):,} of {len(judged.samples):,} samples were taken for relaxation."
        )
        n_isolated = int(np.sum(relaxed.relaxations.isolated or ()))
        if n_isolated:
            notes.append(
                f"{n_isolated:,} of them ended isolated, with an atom that has no neighbour within the potential's "
                "cut-off; they have no energy and are in no ground-state figure."
            )
        notes += [relaxed.cut] if relaxed.cut else []
        n_unplaced = int(np.isnan(relaxed.e_above_hull_ev_per_atom).sum())
        if relaxed.hull and n_unplaced:
            why = next((relaxed.reasons[place] for place in relaxed.places if place in relaxed.reasons), "")
            notes.append(f"{n_unplaced:,} of them have no energy above hull{f', for example: {why}' if why else ''}.")
    return tuple(notes)


def refusals_of(samples: ReadCrystals) -> tuple[dict[str, Any], ...]:
    """The commonest reasons why records are no crystals, numbers and names in them left out, with an example each."""
    counts: Counter[str] = Counter()
    examples: dict[str, int] = {}
    for index, reason in sorted(samples.reasons.items()):
        kind = re.sub(r"'[^']*'|[-+]?\d[\d.,e+-]*|\bnan\b|\binf\b", "…", reason)
        counts[kind] += 1
        examples.setdefault(kind, index)
    return tuple(
        {
            "records": n,
            "reason": kind,
            "id": samples.ids[examples[kind]],
            "example": samples.reasons[examples[kind]],
        }
        for kind, n in counts.most_common(MOST_REFUSALS)
    )


def _versions() -> dict[str, str]:
    found = {"hullward": project_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_evaluation(report: EvaluationReport, judged: Judgement, folder: Path) -> None:
    """Write all files of an evaluation; each appears whole or not at all."""
    from tasks.report.evaluation.markdown import evaluation_markdown
    from tasks.report.evaluation.page import evaluation_html
    from tasks.report.evaluation.plots import EvaluationPictures

    pictures = EvaluationPictures.of(plot_values(judged))
    for name, png in pictures.files().items():
        with writing(folder / name) as temporary:
            temporary.write_bytes(png)
    write_table(per_sample(judged), folder / "per_sample.parquet")
    write_text(folder / "evaluation.md", evaluation_markdown(report, list(pictures.files())))
    write_text(folder / "evaluation.html", evaluation_html(report, pictures))
    # Last: who finds it finds all the others.
    write_document(folder / "evaluation.json", report.as_dict())


def per_sample(judged: Judgement) -> pa.Table:
    """One row per record of the samples' file: id, what it is, why it is no crystal, and every verdict on it."""
    samples = judged.samples
    n = len(samples)
    columns: dict[str, Any] = {
        "index": pa.array(range(n), pa.int64()),
        "id": pa.array(samples.ids, pa.string()),
        "formula": pa.array([None if c is None else _formula(c) for c in samples.crystals], pa.string()),
        "is_crystal": pa.array([c is not None for c in samples.crystals], pa.bool_()),
        "reason": pa.array([samples.reasons.get(i) for i in range(n)], pa.string()),
    }
    for name, values in judged.columns.items():
        columns[name] = pa.array([_plain(value) for value in values])
    if "relaxed" in vars(judged):
        columns["relaxation: reason"] = pa.array([judged.relaxed.reasons.get(i) for i in range(n)], pa.string())
    about = {"schema_version": "1", "about": "Hullward evaluation: one row per record of the samples' file"}
    return pa.table(columns).replace_schema_metadata(about)


def _formula(crystal: Crystal) -> str | None:
    try:
        return formula_of(crystal)
    except ValueError:  # numbers that pymatgen builds no structure of; the verdicts say what is wrong
        return None


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plot_values(judged: Judgement) -> PlotValues:
    """What the plots show; energies only where they were computed."""
    from generative.metrics.distributions import Property, property_values
    from tasks.report.evaluation.plots import PlotValues

    labels = {Property.DENSITY: "density, g/cm^3", Property.N_ELEMENTS: "elements in a crystal"}
    reference = [] if judged.reference is None else judged.true_crystals
    samples = {label: property_values(kind, judged.crystals) for kind, label in labels.items()}
    truth = {label: property_values(kind, reference) for kind, label in labels.items()} if reference else {}
    energies = vars(judged).get("energies")
    if energies is not None:
        samples["energy, eV/atom"] = np.asarray(energies.samples, dtype=float)
        truth["energy, eV/atom"] = np.asarray(energies.reference, dtype=float)
    whole = frozenset({labels[Property.N_ELEMENTS]})
    if "relaxed" not in vars(judged):
        return PlotValues(samples, truth, whole)
    relaxed = judged.relaxed
    drop = np.asarray(relaxed.relaxations.initial_energy_ev_per_atom, dtype=float) - np.asarray(
        relaxed.relaxations.energy_ev_per_atom, dtype=float
    )
    return PlotValues(samples, truth, whole, relaxed.e_above_hull_ev_per_atom, drop)
