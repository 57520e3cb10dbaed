"""Table 3: a campaign in each chemical system by the stages of a run, and what it found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from configs.adaptive_cell_reproduction import AdaptiveCellReproductionConfig
from configs.schema import DiscoverConfig
from dft.config import JudgeConfig
from generative.config import ConditionsConfig, RunSampleConfig
from generative.metrics.metric import Metric, Setting
from storage.wording import amount
from tasks.discover.known import choose_references, ingest_known
from tasks.discover.phonons import best, candidates_file, phonon_file
from tasks.discover.rank import rank_file
from tasks.discover.relax import relax_chunk_file, relax_chunks
from tasks.discover.sample import check_generator, sample_chunk_file, sample_chunks
from tasks.discover.screen import screen_chunk_file, unique_file
from tasks.files import FileRef
from tasks.loading import PotentialIdentity, identify
from tasks.papers.adaptive_cell.asked import checkpoint_of, drawing_inputs, sampler_of
from tasks.papers.adaptive_cell.table_one import count
from tasks.papers.results import Made, Measured, Progress, ResultKey
from tasks.papers.test_sets import digest_of_file

PROTOCOL = "adaptive-cell new compounds"
KJ_PER_MOL = 96.48533212
"""One eV per atom in kJ per mol of atoms."""

PAPER_COMPOUNDS: Mapping[str, tuple[str, str]] = {
    "cu-si-k": ("Cu2KSi", "Pnma"), "fe-ta-sn": ("Fe2TaSn", "Fmmm"), "sb-ta-v": ("SbTa2V3", "P6_3/mmc"),
    "al-k-pd": ("Al3KPd6", "P6/mmm"),
}  # fmt: skip
"""Chemical system -> formula and group of the compound that the paper states of it."""


def run_of(config: AdaptiveCellReproductionConfig, key: ResultKey) -> DiscoverConfig:
    """The settings of the run that a campaign is: sites in the published groups, no second opinion.

    Raises: NotReadyError: if the system is not trained.
    """
    asked, elements = config.compounds, config.elements_of(key.dataset)
    n = len(elements)
    return DiscoverConfig(
        name=f"{key.dataset}-{key.system}",
        seed=config.seed,
        elements=elements,
        data=asked.data,
        conditions=ConditionsConfig(policy="sites", n_elements_min=n, n_elements_max=n),
        sample=RunSampleConfig(
            checkpoint=checkpoint_of(config, key.system)[0],
            sampler=sampler_of(config, key.system),
            n_candidates=asked.n_candidates,
            chunk_size=config.sample.chunk_size,
        ),
        relax=asked.relax,
        hull=asked.hull,
        judge=JudgeConfig(potential=None),
        phonons=asked.phonons,
        execution=config.execution,
    )


def compounds_inputs(config: AdaptiveCellReproductionConfig, key: ResultKey) -> dict[str, Any]:
    """What a campaign depends on.

    Raises: NotReadyError: if the system is not trained.
    """
    asked = config.compounds
    files = [digest_of_file(source.path) for source in asked.data.sources if source.kind == "files"]
    return {
        **drawing_inputs(config, key.system),
        "elements": config.elements_of(key.dataset),
        "sources": [source.model_dump(mode="json") for source in asked.data.sources],
        "files": files,
        "settings": asked.model_dump(mode="json", include={"n_candidates", "hull", "phonons"}),
        "relax": asked.relax.model_dump(mode="json", exclude={"chunk_size"}),
    }


def look(config: AdaptiveCellReproductionConfig, key: ResultKey, progress: Progress) -> Made:
    """A campaign: drawn, screened, relaxed, put on the hull; phonons of the best."""
    from dft.potentials.calibration import calibration_of

    run, folder = run_of(config, key), config.folder / "compounds" / f"{key.dataset}-{key.system}"
    folder.mkdir(parents=True, exist_ok=True)
    identity = identify(run.relax, run.execution)
    table = campaign(run, folder, identity, progress).read()
    known = calibration_of(identity.fingerprint)
    errors = (math.nan, math.nan) if known is None else (known.mae_formation_ev_per_atom, known.mae_ev_per_atom)
    rows = table.select([name for name in table.column_names if not _is_crystal(table, name)]).to_pylist()
    metrics = metrics_of(rows, paper_formula(key.dataset), errors)
    return Made(metrics, {"potential": identity.method, "n": len(rows), "best": _told(rows)})


def campaign(run: DiscoverConfig, folder: Path, identity: PotentialIdentity, progress: Progress) -> FileRef:
    """The candidates of a run without its flow, one stage after the other; every chunk is kept."""
    check_generator(run)
    known = ingest_known(run, folder, identity)
    references = choose_references(run, folder, known)

    def relaxed(source: FileRef, shared: bool) -> list[FileRef]:
        chunks = relax_chunks(source, run)
        return [
            relax_chunk_file(
                run, folder, identity, source, n, shared,
                lambda done, of, n=n: progress(f"{run.name}: relaxing, chunk {n + 1} of {len(chunks)}", done, of),  # type: ignore[misc]
            )
            for n in chunks
        ]  # fmt: skip

    competing = relaxed(references, shared=True)
    screened = []
    for number, chunk in enumerate(sample_chunks(run), start=1):
        screened.append(screen_chunk_file(run, folder, sample_chunk_file(run, folder, known, chunk), known))
        progress(f"{run.name}: drawing", number, len(sample_chunks(run)))
    unique = unique_file(run, folder, screened)
    done = relaxed(unique, shared=False)
    ranked = rank_file(run, folder, identity, known, unique, done, competing)
    vibrating = best(ranked, run.phonons.n_best)
    phonons = [phonon_file(run, folder, identity, row["id"], crystal) for row, crystal in vibrating]
    return candidates_file(folder, ranked, phonons, relaxed=[*done, *competing])


def paper_formula(dataset: str) -> str:
    """The paper's compound of a chemical system as our tables write it; empty where it states none."""
    from pymatgen.core.composition import Composition

    return Composition(PAPER_COMPOUNDS[dataset][0]).reduced_formula if dataset in PAPER_COMPOUNDS else ""


def _is_crystal(table: pa.Table, name: str) -> bool:
    kind = table.schema.field(name).type
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def metrics_of(
    rows: Sequence[Mapping[str, Any]], formula: str, errors_ev_per_atom: tuple[float, float]
) -> tuple[Measured, ...]:
    """What a campaign found.

    Args:
        rows: of its candidates, best first, as the table of candidates has them.
        formula: of the compound that the paper states.
        errors_ev_per_atom: mean absolute errors of the potential's formation energies and distances above hull.
    """
    all_ranked = [row for row in rows if row["rank"] is not None]
    ranked = [row for row in all_ranked if row["e_above_hull_ev_per_atom"] is not None]
    # Those that became a known phase, or another candidate, among them.
    all_alike = [row for row in rows if row["formula"] == formula]
    alike = [row for row in all_alike if row["e_above_hull_ev_per_atom"] is not None]
    no_formula = _unplaced(all_alike) or f"no candidate has the formula {formula or 'of the paper'}"
    no_rank = _unplaced(all_ranked) or "no candidate was ranked"
    of_formula = min(alike, key=lambda row: float(row["e_above_hull_ev_per_atom"]), default=None)
    dynamics = [row for row in ranked if row["dynamically_stable"] is not None]
    stable = sum(bool(row["dynamically_stable"]) for row in dynamics)
    return (
        *_energies("", of_formula, no_formula, errors_ev_per_atom),
        *_energies(", best of all", ranked[0] if ranked else None, no_rank, errors_ev_per_atom),
        count(PROTOCOL, "candidates of the paper's formula", len(alike), len(rows)),
        count(PROTOCOL, "ranked candidates", len(ranked), len(rows)),
        count(PROTOCOL, "of the best without imaginary modes", stable, len(dynamics)),
    )


def _unplaced(rows: Sequence[Mapping[str, Any]]) -> str:
    """Why there is no energy among these candidates: none has a place on the hull; empty if there is no candidate."""
    if not rows:
        return ""
    return f"{amount(len(rows), 'candidate')} without a place on the hull, the first: {rows[0]['hull_note']}"


def _energies(
    which: str, row: Mapping[str, Any] | None, reason: str, errors_ev_per_atom: tuple[float, float]
) -> tuple[Measured, ...]:
    """Heat of formation and distance above the hull of a candidate, kJ per mol of atoms."""
    metrics = []
    columns = ("formation_energy_ev_per_atom", "e_above_hull_ev_per_atom")
    for name, column, error in zip(
        ("heat of formation", "energy above hull"), columns, errors_ev_per_atom, strict=True
    ):
        if row is None:
            metrics.append(Measured(Metric(PROTOCOL, name + which, math.nan, "kJ/mol", 0, reason)))
            continue
        settings: dict[str, Setting] = {
            "id": row["id"], "formula": row["formula"], "spacegroup": row["spacegroup_symbol"],
            "lowest_phonon_thz": row["lowest_phonon_thz"],
        }  # fmt: skip
        metric = Metric(PROTOCOL, name + which, KJ_PER_MOL * float(row[column]), "kJ/mol", 1, "", settings)
        metrics.append(Measured(metric, KJ_PER_MOL * error, "the potential's mean absolute error against DFT"))
    return tuple(metrics)


def _told(rows: Sequence[Mapping[str, Any]], n: int = 5) -> list[dict[str, Any]]:
    """The best ranks, for tables."""
    columns = (
        "rank", "id", "formula", "spacegroup_symbol", "formation_energy_ev_per_atom", "e_above_hull_ev_per_atom",
        "lowest_phonon_thz", "dynamically_stable",
    )  # fmt: skip
    return [{name: row[name] for name in columns} for row in rows if row["rank"] is not None and row["rank"] <= n]
