"""Which crystals are hidden, and what is known without them.

A target is the stable crystal of a formula of the reference. Its formula is taken out of everything that is known and
out of everything that proposers are made of; where that cannot be done, since a checkpoint has learned from it already,
the formula is not looked for, by nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.paths import resolve
from configs.rediscovery import RediscoveryConfig
from generative.crystal.crystals import STRUCTURE_FIELDS, field_of
from generative.datasets.config import DataConfig, FilesSource
from generative.datasets.filters import without_formulas
from generative.datasets.formats.columns import is_row_number
from generative.datasets.table import DATASET_SCHEMA
from storage.digests import file_digest
from tasks.files import ROWS_PER_GROUP, FileRef, key_of, keyed, refuse_to_compute

TARGETS = [
    field_of("id", pa.string(), "id of the hidden crystal in the reference"),
    field_of("system", pa.string(), "its elements in alphabetic order joined by '-'"),
    field_of("formula", pa.string(), "reduced formula"),
    field_of("n_atoms", pa.int16(), "atoms in the primitive cell"),
    field_of("spacegroup", pa.int16(), "international number by spglib at symprec 0.01 A"),
    field_of("e_above_hull_ev_per_atom", pa.float64(), "energy above hull as the reference states it, eV/atom"),
    *STRUCTURE_FIELDS,
]


class RediscoveryError(ValueError):
    """A benchmark that cannot be made as asked; the message says which setting to change."""


def dataset_folder(source: FilesSource, workers: int, shared: Path) -> Path:
    """The dataset that a file or folder of crystals makes, read once for all that lie together.

    Args:
        source: the file.
        workers: processes that parse it.
        shared: folder of what is shared.
    """
    from generative.datasets.ingest import ingest
    from generative.datasets.manifest import is_whole

    (files,) = source.inputs(resolve).values()
    key = key_of("read", ingest, source=source.model_dump(mode="json"), files=[(f.name, file_digest(f)) for f in files])
    folder = shared / ".datasets" / key[:32]
    if not is_whole(folder):
        from tasks.report.run.artifacts import Progress  # draws pictures too, so it loads on the worker

        refuse_to_compute(folder)
        with Progress(f"read-{Path(source.path).name}", f"reading {source.path}") as progress:
            data = DataConfig(sources=(source,), workers=workers)
            ingest(data, None, folder, resolve, progress=progress.labelled)
    return folder


def dataset_of(source: FilesSource, workers: int, shared: Path) -> pa.Table:
    """The crystals of a file or folder; see dataset_folder."""
    from generative.datasets.manifest import read_dataset

    return read_dataset(dataset_folder(source, workers, shared)).table


def datasets_of(sources: Iterable[FilesSource], config: RediscoveryConfig) -> pa.Table:
    """The crystals of all these files, one after the other; of a file that two entries name, those of the first."""
    tables, names = [DATASET_SCHEMA.empty_table()], set[str]()
    for source in sources:
        table = dataset_of(source, config.workers, config.shared_folder)
        if not names & (found := set(pc.unique(table.column("source")).to_pylist())):
            tables.append(table.cast(DATASET_SCHEMA))
            names |= found
    return pa.concat_tables(tables)


def learned_from(checkpoint: str) -> tuple[list[str], list[str]]:
    """Files of crystals, and of crystals without coordinates, that a checkpoint's record says it was trained on.

    Raises: RediscoveryError: if the record names none.
    """
    from generative.checkpoints import about

    crystals: list[str] = []
    labels: list[str] = []
    record: Mapping[str, Any] | None = about(checkpoint).get("training")
    while record:
        settings = record.get("settings") or {}
        sources = (settings.get("data") or {}).get("sources") or ()
        crystals += [source["path"] for source in sources if "path" in source and source["path"] not in crystals]
        labels += [settings["labels"]] if settings.get("labels") else []
        record = record.get("init_training")
    if not crystals:
        raise RediscoveryError(
            f"the record of {checkpoint} names no file that it has learned from, so nothing can be hidden from it for "
            "certain: name them as `seen` of the proposer"
        )
    return crystals, labels


def formulas_of_checkpoints(config: RediscoveryConfig) -> set[str]:
    """Formulas that some checkpoint has learned from; see learned_from for what is raised."""
    crystals: dict[str, None] = {}
    formulas: set[str] = set()
    for entry in config.proposers:
        if entry.checkpoint is None:
            continue
        named, labels = (list(entry.seen), []) if entry.seen is not None else learned_from(entry.checkpoint)
        crystals |= dict.fromkeys(named)
        formulas |= formulas_in_labels(labels)
    for path in crystals:
        formulas |= formulas_in(path, config.workers, config.shared_folder)
    return formulas


def formulas_in(path: str, workers: int, shared: Path) -> set[str]:
    """Reduced formulas of the crystals of a file; arguments as of dataset_of."""
    return set(pc.unique(dataset_of(FilesSource(path=path), workers, shared).column("formula")).to_pylist())


def formulas_in_labels(paths: Iterable[str]) -> set[str]:
    """Reduced formulas of files of crystals without coordinates."""
    from generative.datasets.records import formula_of
    from generative.datasets.site_labels import read_site_labels

    labels = [label for path in paths for label in read_site_labels(resolve(path))[0]]
    return {formula_of([z for z, n in label.counts.items() for _ in range(n)]) for label in labels}


def choose_targets(reference: pa.Table, known: pa.Table, seen: Collection[str], config: RediscoveryConfig) -> pa.Table:
    """The hidden crystals of `n_systems` chemical systems drawn at random, or of all if there are no more.

    Of each system those that are stable, have all its elements, are not larger than is asked for, and of a formula
    that no checkpoint has learned from. A system needs a known crystal of each of its elements, else it has no hull.

    Args:
        reference: crystals with energies above hull.
        known: known crystals of the campaigns.
        seen: formulas that cannot be hidden.
        config: limits, number, seed.

    Returns: columns TARGETS, by system and formula.

    Raises: RediscoveryError: if there is no such system.
    """
    from pymatgen.core.composition import Composition

    elements = set(pc.unique(known.filter(pc.equal(known.column("n_elements"), 1)).column("chemsys")).to_pylist())
    names = [name for name in DATASET_SCHEMA.names if name in {f.name for f in TARGETS} | {"chemsys", "n_elements"}]
    lowest: dict[str, dict[str, Any]] = {}
    rows = reference.select(names).to_pylist()
    for row in sorted((r for r in rows if r["e_above_hull_ev_per_atom"] is not None), key=_height):
        lowest.setdefault(row["formula"], row)
    of_system: dict[str, list[dict[str, Any]]] = {}
    for formula, row in lowest.items():
        if (
            row["e_above_hull_ev_per_atom"] <= config.stable_ev_per_atom
            and row["n_elements"] in config.n_elements
            and row["n_atoms"] <= config.n_atoms_max
            and Composition(formula).num_atoms <= config.conditions.formula_atoms_max
            and formula not in seen
            and elements.issuperset(row["chemsys"].split("-"))
        ):
            of_system.setdefault(row["chemsys"], []).append(row | {"system": row["chemsys"]})
    if not of_system:
        raise RediscoveryError(
            f"of {len(lowest):,} formulas of {config.reference} none is stable, small enough, new to every checkpoint "
            "and made of elements that are known: change n_elements, n_atoms_max or stable_ev_per_atom, or add to known"
        )
    systems = sorted(of_system)
    order = np.random.default_rng(config.seed).permutation(len(systems))[: config.n_systems]
    chosen = sorted(systems[i] for i in order)
    found = [row for system in chosen for row in sorted(of_system[system], key=lambda row: str(row["formula"]))]
    return pa.table(
        {f.name: pa.array([row[f.name] for row in found], type=f.type) for f in TARGETS}, schema=pa.schema(TARGETS)
    )


def _height(row: Mapping[str, Any]) -> tuple[float, str]:
    return row["e_above_hull_ev_per_atom"], row["id"]


def hidden_formulas(targets: pa.Table) -> tuple[str, ...]:
    """The formulas that nothing known and nothing learned may hold, sorted."""
    return tuple(sorted(set(targets.column("formula").to_pylist())))


def without_hidden(table: pa.Table, targets: pa.Table) -> pa.Table:
    """A dataset without the formulas and ids of the targets, whichever source an id is stated by."""
    kept = without_formulas(table, hidden_formulas(targets))
    stated = [name.partition(":")[2] for name in targets.column("id").to_pylist()]
    own_ids = pa.array([name for name in stated if not is_row_number(name)], pa.string())
    return kept.filter(pc.invert(pc.is_in(kept.column("source_id"), value_set=own_ids)))


def hidden_files(config: RediscoveryConfig) -> tuple[FileRef, FileRef]:
    """targets.parquet, and known.parquet: all that is known without them."""
    reference = dataset_of(FilesSource(path=config.reference), config.workers, config.shared_folder)
    known = datasets_of(config.known, config)
    seen = formulas_of_checkpoints(config)
    limits = {"seed", "reference", "stable_ev_per_atom", "n_systems", "n_elements", "n_atoms_max"}
    key = key_of(
        "targets",
        choose_targets,
        reference=_fingerprint(reference),
        known=_fingerprint(known),
        seen=sorted(seen),
        formula_atoms_max=config.conditions.formula_atoms_max,
        limits=config.model_dump(mode="json", include=limits),
    )
    targets = keyed(config.folder / "targets.parquet", key, lambda: choose_targets(reference, known, seen, config))
    key = key_of("known", without_hidden, known=_fingerprint(known), targets=targets.sha256)
    return targets, keyed(
        config.folder / "known.parquet", key, lambda: without_hidden(known, targets.read()), ROWS_PER_GROUP
    )


def _fingerprint(table: pa.Table) -> str:
    from generative.datasets.manifest import fingerprint_of

    return fingerprint_of(table)


def systems_of(targets: pa.Table) -> list[tuple[str, ...]]:
    """Elements of each chemical system, in the order of the targets."""
    names: Sequence[str] = list(dict.fromkeys(targets.column("system").to_pylist()))
    return [tuple(name.split("-")) for name in names]
