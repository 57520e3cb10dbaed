"""Checkpoints of the baselines: generators that learn nothing, made from a dataset or from nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from configs.paths import project_version, resolve
from tasks.discover.own_files import read_crystals

WITH_CRYSTALS = ("training-copies", "prototype-substitution")
WITHOUT_CRYSTALS = ("random-symmetric",)
BASELINES = (*WITH_CRYSTALS, *WITHOUT_CRYSTALS)
"""Names of the baselines, as checkpoints name them."""


class BaselineError(ValueError):
    """A baseline that cannot be made; the message says what to give instead."""


@dataclass(frozen=True)
class MadeBaseline:
    """What became of a dataset.

    Attributes:
        checkpoint: folder of the checkpoint.
        name: of the baseline.
        n_crystals: crystals stored in it; 0 where none are.
        n_left_out: records of the dataset that hold no crystal or could not be read.
        reasons: one sentence per record that could not be read.
        fingerprint_sha256: of the dataset; None where there is none.
    """

    checkpoint: Path
    name: str
    n_crystals: int
    n_left_out: int
    reasons: tuple[str, ...]
    fingerprint_sha256: str | None


def make_baseline(
    name: str,
    dataset: str | None,
    out: Path,
    settings: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    spacegroups: Sequence[int | None] | None = None,
) -> MadeBaseline:
    """Write the checkpoint of a baseline.

    Args:
        name: one of BASELINES.
        dataset: crystals: a dataset's folder, or any file or folder that `ingest` reads; None for 'random-symmetric'.
        out: the checkpoint folder that appears.
        settings: fields of the baseline's settings that differ from the defaults.
        progress: called with (crystals whose space group is known, all).
        spacegroups: of the dataset's crystals in order, where spglib has told them already; None asks it.

    Raises: BaselineError: if there is no such baseline or setting, or a dataset where none belongs, or none where one
        does.
    """
    from pydantic import ValidationError

    _refuse(name, dataset)
    try:
        if dataset is None:
            return _without_crystals(name, out, settings or {})
        return _with_crystals(name, dataset, out, settings or {}, progress, spacegroups)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BaselineError(f"{name}: {place} is {first['input']!r}: {first['msg']}") from None


def _refuse(name: str, dataset: str | None) -> None:
    if name not in BASELINES:
        raise BaselineError(f"{name!r} is no baseline: expected one of {', '.join(BASELINES)}")
    if name in WITH_CRYSTALS and dataset is None:
        raise BaselineError(f"{name} is made of known crystals: name a dataset, or a file that ingest reads")
    if name in WITHOUT_CRYSTALS and dataset is not None:
        raise BaselineError(f"{name} uses no data, but {dataset} was given: leave it out")


def read_known(dataset: str) -> tuple[pa.Table, list[str]]:
    """Crystals of a dataset's folder, or of anything that `ingest` reads, and a sentence per record that is bad."""
    from generative.datasets.manifest import MANIFEST_FILE, read_dataset

    folder = resolve(dataset)
    return (read_dataset(folder).table, []) if (folder / MANIFEST_FILE).is_file() else read_crystals([dataset])


def _fingerprint(table: pa.Table) -> str:
    """The dataset's own fingerprint; of a table with other columns, SHA-256 over its crystals."""
    from generative.crystal.crystals import crystals_of
    from generative.datasets.manifest import fingerprint_of
    from generative.datasets.table import DATASET_SCHEMA

    if set(DATASET_SCHEMA.names) <= set(table.column_names):
        return fingerprint_of(table.select(DATASET_SCHEMA.names))
    digests = "".join(crystal.digest for crystal in crystals_of(table) if crystal is not None)
    return hashlib.sha256(digests.encode()).hexdigest()


def _with_crystals(
    name: str,
    dataset: str,
    out: Path,
    settings: dict[str, Any],
    progress: Callable[[int, int], None] | None,
    spacegroups: Sequence[int | None] | None,
) -> MadeBaseline:
    from generative.checkpoints import save
    from generative.crystal.crystals import crystals_of
    from generative.datasets.checks import SYMPREC_ANG, spacegroup_of
    from generative.systems.baselines.stored import StoringBaseline
    from generative.systems.registry import system_type

    table, reasons = read_known(dataset)
    crystals = [crystal for crystal in crystals_of(table) if crystal is not None]
    if not crystals:
        raise BaselineError(f"{dataset} holds no crystal: expected at least one")
    groups = list(spacegroups or ())
    for n_done, crystal in enumerate(crystals if spacegroups is None else (), start=1):
        # Not the table's column: sources state groups at tolerances of their own.
        groups.append(spacegroup_of(crystal))
        if progress is not None:
            progress(n_done, len(crystals))
    kind = system_type(name)
    assert issubclass(kind, StoringBaseline)
    system = kind.of(crystals, groups, settings)
    fingerprint = _fingerprint(table)
    record = {
        "data_fingerprint_sha256": fingerprint,
        "crystals_stored": len(crystals),
        "spacegroups": f"spglib {version('spglib')}, {SYMPREC_ANG:g} A; {groups.count(None)} without one",
        **_made_by(),
    }
    save(out, system, record)
    n_left_out = len(reasons) + len(table) - len(crystals)
    return MadeBaseline(out, name, len(crystals), n_left_out, tuple(reasons), fingerprint)


def _without_crystals(name: str, out: Path, settings: dict[str, Any]) -> MadeBaseline:
    from generative.checkpoints import save
    from generative.systems.registry import system_type

    kind = system_type(name)
    save(out, kind(kind.config_type.model_validate(settings)), {"pyxtal": version("pyxtal"), **_made_by()})
    return MadeBaseline(out, name, 0, 0, (), None)


def _made_by() -> dict[str, str]:
    return {"made_by": "hullward baseline; nothing was trained", "hullward": project_version()}
